/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signal descriptors: two with masks of their own. Signals sent before the move are read after it,
 * with their values; so are new ones; and each descriptor gives only what is in its mask.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

struct state {
	int first;  /* SIGRTMIN + 1 and SIGUSR1 */
	int second; /* SIGRTMIN + 2 and SIGHUP, close-on-exec */
};

static void fill(void)
{
	for (int i = 1; i <= 3; i++)
		MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 10 + i}) == 0);
	MUST(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 99}) == 0);
}

static bool take(struct victim *v, int fd, int number, int value)
{
	struct signalfd_siginfo info;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	CHECK(v, poll(&pfd, 1, 2000) == 1, "signal %d: nothing to read", number);
	CHECK(v, read(fd, &info, sizeof(info)) == sizeof(info), "signal %d: %m", number);
	CHECK(v, (int)info.ssi_signo == number, "signal %u, not %d", info.ssi_signo, number);
	CHECK(v, value == 0 || info.ssi_int == value, "signal %d: value %d, not %d", number,
	      info.ssi_int, value);
	CHECK(v, (pid_t)info.ssi_pid == getpid(), "signal %d: sender %u", number, info.ssi_pid);
	return true;
}

static bool empty(struct victim *v, int fd, const char *what)
{
	struct signalfd_siginfo info;

	CHECK(v, read(fd, &info, sizeof(info)) < 0 && errno == EAGAIN, "%s: signal %u too many",
	      what, info.ssi_signo);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	for (int i = 1; i <= 3; i++)
		if (!take(v, s->first, SIGRTMIN + 1, 10 + i))
			return false;
	if (!empty(v, s->first, "first") || !take(v, s->second, SIGRTMIN + 2, 99) ||
	    !empty(v, s->second, "second"))
		return false;
	CHECK(v, kill(getpid(), SIGHUP) == 0 && kill(getpid(), SIGUSR1) == 0, "kill: %m");
	if (!take(v, s->first, SIGUSR1, 0) || !empty(v, s->first, "first") ||
	    !take(v, s->second, SIGHUP, 0) || !empty(v, s->second, "second"))
		return false;
	CHECK(v,
	      fcntl(s->first, F_GETFD) == 0 && fcntl(s->second, F_GETFD) == FD_CLOEXEC &&
		      fcntl(s->first, F_GETFL) & O_NONBLOCK,
	      "flags differ");
	fill();
	return true;
}

int main(int argc, char **argv)
{
	struct state s;
	struct victim v;
	sigset_t first, second, both;

	victim_start(&v, argc, argv);
	sigemptyset(&first);
	sigaddset(&first, SIGRTMIN + 1);
	sigaddset(&first, SIGUSR1);
	sigemptyset(&second);
	sigaddset(&second, SIGRTMIN + 2);
	sigaddset(&second, SIGHUP);
	sigorset(&both, &first, &second);
	MUST(sigprocmask(SIG_BLOCK, &both, NULL) == 0);
	s.first = signalfd(-1, &first, SFD_NONBLOCK);
	s.second = signalfd(-1, &second, SFD_NONBLOCK | SFD_CLOEXEC);
	MUST(s.first >= 0 && s.second >= 0);
	fill();
	victim_run(&v, verify, &s);
}
