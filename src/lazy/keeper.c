/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: a process that holds userfaultfds, so that the end of a pageserver is not their last close.
 *
 * It reads a userfaultfd only when the server asks it to (events.c): without one, processes wait until a new pageserver
 * connects and fetches. It ends when it is told that all is done, when the memory of all processes is gone, and at
 * SIGTERM, before which it ends the processes.
 *
 * It is the page server's own program, executed anew under another name, so nothing of the server's memory is in it: no
 * key, no buffer. Its two sockets come with fixed numbers. It becomes a child of init at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "private.h"

#define PROBE_MS 1000
#define NULL_FDS 3 /* the standard streams */

struct keeper {
	struct lazy *lazy; /* what is held */
	int listen_fd;
	int link_fd; /* -1: nobody serves */
	int signal_fd;
	const char *path; /* of the socket */
	bool used;        /* something has been held */
};

/* Standard streams become /dev/null, everything else but the two sockets is closed. */
static int close_others(void)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; i < NULL_FDS; i++)
		if (null_fd < 0 || dup2(null_fd, i) < 0)
			return -errno;
	return syscall(SYS_close_range, (unsigned)LAZY_KEEPER_FD_END, ~0u, 0) < 0 ? -errno : 0;
}

static int prepare_signals(void)
{
	sigset_t set;

	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void __attribute__((noreturn)) end(struct keeper *keeper)
{
	unlink(keeper->path);
	_exit(0);
}

static bool anything_missing(const struct keeper *keeper)
{
	array_for_each(space, &keeper->lazy->spaces)
		if (lazy_userfault_alive((*space)->uffd))
			return true;
	return false;
}

static void accept_link(struct keeper *keeper)
{
	int fd = accept4(keeper->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (fd < 0)
		return;
	if (keeper->link_fd >= 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
	    (peer.uid != geteuid() && peer.uid != 0)) {
		close(fd);
		return;
	}
	keeper->link_fd = fd;
}

/* The link to the server that serves now. */
static void read_link(struct keeper *keeper)
{
	int r = lazy_link_receive(keeper->lazy, keeper->link_fd);

	if (r == LAZY_LINK_SPACE)
		keeper->used = true;
	if (r == LAZY_LINK_DONE)
		end(keeper);
	if (r == LAZY_LINK_FETCH) {
		keeper->lazy->keeper_fd = keeper->link_fd;
		lazy_link_everything(keeper->lazy);
		if (keeper->lazy->keeper_fd < 0)
			keeper->link_fd = -1;
		keeper->lazy->keeper_fd = -1;
	}
	if (r <= 0) {
		close(keeper->link_fd);
		keeper->link_fd = -1;
		if (!keeper->used || (!lazy_link_settle(keeper->lazy) && lazy_kill(keeper->lazy)))
			end(keeper);
	}
}

/* SIGTERM. If it cannot be done safely it stays. */
static void told_to_end(struct keeper *keeper)
{
	struct signalfd_siginfo info;

	if (read(keeper->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	/* Only a server that is gone leaves anything to be applied. */
	if (keeper->link_fd < 0)
		lazy_events_replay(keeper->lazy, NULL);
	if (lazy_kill(keeper->lazy))
		end(keeper);
}

static void __attribute__((noreturn)) hold(struct keeper *keeper)
{
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = keeper->signal_fd, .events = POLLIN },
			{ .fd = keeper->listen_fd, .events = POLLIN },
			{ .fd = keeper->link_fd, .events = POLLIN },
		};
		int n = poll(fds, 3, keeper->link_fd < 0 ? PROBE_MS : -1);

		if (n < 0)
			continue;
		if (fds[0].revents)
			told_to_end(keeper);
		/* What a server that is gone has left unread comes before its successor. */
		while (fds[2].revents && keeper->link_fd >= 0) {
			read_link(keeper);
			if (!(fds[2].revents & POLLHUP))
				break;
		}
		if (fds[1].revents)
			accept_link(keeper);
		if (n == 0 && !anything_missing(keeper))
			end(keeper);
	}
}

void lazy_keeper_enter(int argc, char **argv)
{
	struct keeper keeper = { .listen_fd = LAZY_KEEPER_LISTEN_FD, .link_fd = LAZY_KEEPER_LINK_FD };
	pid_t pid;

	if (argc != 2 || strcmp(argv[0], LAZY_KEEPER_NAME) != 0)
		return;
	pid = fork();
	if (pid != 0)
		_exit(pid < 0 ? 1 : 0);
	keeper.path = argv[1];
	pid = getpid();
	setsid();
	prctl(PR_SET_NAME, LAZY_KEEPER_NAME); /* as far as it fits into 15 bytes */
	prctl(PR_SET_DUMPABLE, 0);
	if (chdir("/") < 0 || close_others() < 0)
		_exit(1);
	keeper.signal_fd = prepare_signals();
	if (keeper.signal_fd < 0 || lazy_make(NULL, &keeper.lazy, NULL) < 0 ||
	    send(keeper.link_fd, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid))
		_exit(1);
	hold(&keeper);
}
