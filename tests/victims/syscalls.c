/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads blocked in system calls. None may see EINTR or end early because of a move.
 *
 * Timed calls (nanosleep, clock_nanosleep, poll, select, futex, epoll_wait, sigtimedwait) run in an
 * endless loop, each round STEP_MS long, and check what they returned and how long they took. A
 * round that is late is no fault, as a pause makes it so. Kicked calls (read, write, poll,
 * epoll_wait, futex, sigwaitinfo, sigsuspend, accept, waitpid) block without a limit until a check
 * lets them end. A check wants another good round of each.
 *
 * The kernel itself answers EINTR to epoll_wait and sigtimedwait when a tracer stops the thread:
 * whoever stops threads has to start them again. With the argument "kernel-eintr" those two may see
 * EINTR.
 */
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define STEP_MS 400
#define KICK_SIGNAL (SIGRTMIN + 3)    /* ends sigwaitinfo */
#define SUSPEND_SIGNAL (SIGRTMIN + 4) /* ends sigsuspend, by a handler */
#define SILENT_SIGNAL (SIGRTMIN + 5)  /* never sent; sigtimedwait waits for it */

struct call {
	const char *name;
	bool (*round)(struct call *c); /* blocks once; false after fault() */
	void (*kick)(struct call *c);  /* makes round() end; NULL for timed calls */
	bool kernel_eintr; /* EINTR is what the kernel does, and allowed by the argument */
	int in, out;	   /* descriptors, as round() and kick() use them */
	pid_t tid;	   /* of the thread */
	pid_t child;	   /* for waitpid */
	atomic_uint word;  /* for futex */
	pthread_t thread;
	atomic_uint rounds; /* good ones */
	atomic_bool wrong;  /* reason is filled in */
	char reason[200];
};

static bool fault(struct call *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fault(struct call *c, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(c->reason, sizeof(c->reason), format, list);
	va_end(list);
	atomic_store(&c->wrong, true);
	return false;
}

/* After a timed call: was it long enough? */
static bool not_early(struct call *c, int64_t start)
{
	int64_t took = victim_now_ns(CLOCK_MONOTONIC) - start;

	if (took < STEP_MS * INT64_C(1000000) - 2000000)
		return fault(c, "ended after %lld us, not %d ms", (long long)took / 1000, STEP_MS);
	return true;
}

static bool expect(struct call *c, long got, long wanted, const char *what)
{
	if (got == wanted)
		return true;
	return fault(c, "%s returned %ld (%s), not %ld", what, got,
		     got < 0 ? strerror(errno) : "no error", wanted);
}

static bool round_nanosleep(struct call *c)
{
	struct timespec pause = {.tv_nsec = STEP_MS * 1000000L}, left = {0};
	int64_t start = victim_now_ns(CLOCK_MONOTONIC);

	return expect(c, nanosleep(&pause, &left), 0, "nanosleep") && not_early(c, start);
}

static bool round_clock_nanosleep(struct call *c)
{
	int64_t start = victim_now_ns(CLOCK_MONOTONIC), end = start + STEP_MS * INT64_C(1000000);
	struct timespec until = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};

	return expect(c, clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0,
		      "clock_nanosleep") &&
	       not_early(c, start);
}

static bool round_poll(struct call *c)
{
	struct pollfd pfd = {.fd = c->in, .events = POLLIN};
	int64_t start = victim_now_ns(CLOCK_MONOTONIC);

	return expect(c, poll(&pfd, 1, STEP_MS), 0, "poll") && not_early(c, start);
}

static bool round_select(struct call *c)
{
	struct timeval limit = {.tv_usec = STEP_MS * 1000};
	int64_t start = victim_now_ns(CLOCK_MONOTONIC);
	fd_set set;

	FD_ZERO(&set);
	FD_SET(c->in, &set);
	return expect(c, select(c->in + 1, &set, NULL, NULL, &limit), 0, "select") &&
	       not_early(c, start);
}

static bool round_futex_timed(struct call *c)
{
	struct timespec limit = {.tv_nsec = STEP_MS * 1000000L};
	int64_t start = victim_now_ns(CLOCK_MONOTONIC);
	long got = syscall(SYS_futex, &c->word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0);

	if (got != -1 || errno != ETIMEDOUT)
		return fault(c, "futex returned %ld (%s), not ETIMEDOUT", got, strerror(errno));
	return not_early(c, start);
}

static bool round_epoll_timed(struct call *c)
{
	int64_t start = victim_now_ns(CLOCK_MONOTONIC);
	struct epoll_event event;
	int got = epoll_wait(c->in, &event, 1, STEP_MS);

	if (got < 0 && errno == EINTR && c->kernel_eintr)
		return true;
	return expect(c, got, 0, "epoll_wait") && not_early(c, start);
}

static bool round_sigtimedwait(struct call *c)
{
	struct timespec limit = {.tv_nsec = STEP_MS * 1000000L};
	int64_t start = victim_now_ns(CLOCK_MONOTONIC);
	sigset_t set;
	int got;

	sigemptyset(&set);
	sigaddset(&set, SILENT_SIGNAL);
	got = sigtimedwait(&set, NULL, &limit);
	if (got < 0 && errno == EINTR && c->kernel_eintr)
		return true;
	if (got != -1 || errno != EAGAIN)
		return fault(c, "sigtimedwait returned %d (%s), not EAGAIN", got, strerror(errno));
	return not_early(c, start);
}

static void kick_write(struct call *c)
{
	MUST(write(c->out, "k", 1) == 1);
}

static bool round_read(struct call *c)
{
	char byte = 0;

	return expect(c, read(c->in, &byte, 1), 1, "read") && expect(c, byte, 'k', "the byte read");
}

static bool round_poll_forever(struct call *c)
{
	struct pollfd pfd = {.fd = c->in, .events = POLLIN};

	return expect(c, poll(&pfd, 1, -1), 1, "poll") && round_read(c);
}

static bool round_epoll_forever(struct call *c)
{
	struct epoll_event event;
	int got;
	char byte;

	do
		got = epoll_wait(c->out, &event, 1, -1);
	while (got < 0 && errno == EINTR && c->kernel_eintr);
	return expect(c, got, 1, "epoll_wait") && expect(c, read(c->in, &byte, 1), 1, "read");
}

static void kick_epoll(struct call *c)
{
	MUST(write(c->child, "k", 1) == 1);
}

/* The pipe is full; one read makes room for what waits to be written. */
static bool round_write(struct call *c)
{
	static const char block[4096];

	return expect(c, write(c->out, block, sizeof(block)), sizeof(block), "write");
}

static void kick_read(struct call *c)
{
	char block[4096];

	MUST(read(c->in, block, sizeof(block)) == (ssize_t)sizeof(block));
}

static bool round_futex(struct call *c)
{
	unsigned int old = atomic_load(&c->word);

	while (atomic_load(&c->word) == old) {
		long got = syscall(SYS_futex, &c->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);

		if (got < 0 && errno != EAGAIN)
			return fault(c, "futex: %s", strerror(errno));
		if (got == 0 && atomic_load(&c->word) == old)
			return fault(c, "futex was woken by nobody");
	}
	return true;
}

static void kick_futex(struct call *c)
{
	atomic_fetch_add(&c->word, 1);
	syscall(SYS_futex, &c->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool round_sigwaitinfo(struct call *c)
{
	siginfo_t info;
	sigset_t set;
	int got;

	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	do
		got = sigwaitinfo(&set, &info);
	while (got < 0 && errno == EINTR && c->kernel_eintr);
	return expect(c, got, KICK_SIGNAL, "sigwaitinfo") &&
	       expect(c, info.si_value.sival_int, 4711, "the signal's value");
}

static void kick_sigwaitinfo(struct call *c)
{
	MUST(pthread_sigqueue(c->thread, KICK_SIGNAL, (union sigval){.sival_int = 4711}) == 0);
}

static __thread volatile sig_atomic_t handled;

static void on_suspend_signal(int number)
{
	(void)number;
	handled = 1;
}

static bool round_sigsuspend(struct call *c)
{
	sigset_t set;

	pthread_sigmask(SIG_SETMASK, NULL, &set);
	sigdelset(&set, SUSPEND_SIGNAL);
	handled = 0;
	sigsuspend(&set);
	return expect(c, handled, 1, "sigsuspend without its signal: handled");
}

static void kick_sigsuspend(struct call *c)
{
	MUST(pthread_kill(c->thread, SUSPEND_SIGNAL) == 0);
}

static bool round_accept(struct call *c)
{
	int fd = accept4(c->in, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return fault(c, "accept: %s", strerror(errno));
	close(fd);
	return true;
}

static void kick_accept(struct call *c)
{
	struct sockaddr_un name;
	socklen_t size = sizeof(name);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(getsockname(c->in, (struct sockaddr *)&name, &size) == 0);
	MUST(connect(fd, (struct sockaddr *)&name, size) == 0);
	close(fd);
}

static bool round_waitpid(struct call *c)
{
	int status;
	pid_t child = fork(), got;

	if (child == 0) {
		char byte;

		_exit(read(c->in, &byte, 1) == 1 ? 33 : 34);
	}
	c->child = child;
	got = waitpid(child, &status, 0);
	return expect(c, got, child, "waitpid") &&
	       expect(c, WIFEXITED(status) ? WEXITSTATUS(status) : -1, 33,
		      "the child's exit status");
}

static void *run(void *context)
{
	struct call *c = context;

	c->tid = (pid_t)syscall(SYS_gettid);
	while (c->round(c))
		atomic_fetch_add(&c->rounds, 1);
	return NULL;
}

static struct call calls[] = {
	{.name = "nanosleep", .round = round_nanosleep},
	{.name = "clock_nanosleep", .round = round_clock_nanosleep},
	{.name = "poll with a timeout", .round = round_poll},
	{.name = "select with a timeout", .round = round_select},
	{.name = "futex with a timeout", .round = round_futex_timed},
	{.name = "epoll_wait with a timeout", .round = round_epoll_timed, .kernel_eintr = true},
	{.name = "sigtimedwait", .round = round_sigtimedwait, .kernel_eintr = true},
	{.name = "read", .round = round_read, .kick = kick_write},
	{.name = "write", .round = round_write, .kick = kick_read},
	{.name = "poll", .round = round_poll_forever, .kick = kick_write},
	{.name = "epoll_wait",
	 .round = round_epoll_forever,
	 .kick = kick_epoll,
	 .kernel_eintr = true},
	{.name = "futex", .round = round_futex, .kick = kick_futex},
	{.name = "sigwaitinfo",
	 .round = round_sigwaitinfo,
	 .kick = kick_sigwaitinfo,
	 .kernel_eintr = true},
	{.name = "sigsuspend", .round = round_sigsuspend, .kick = kick_sigsuspend},
	{.name = "accept", .round = round_accept, .kick = kick_accept},
	{.name = "waitpid", .round = round_waitpid, .kick = kick_write},
};

#define CALLS (sizeof(calls) / sizeof(calls[0]))

static void call_setup(struct call *c, const struct victim *v)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct epoll_event event = {.events = EPOLLIN};
	char block[4096] = "";
	int ends[2];

	c->kernel_eintr = c->kernel_eintr && victim_arg_is(v, "kernel-eintr");
	MUST(pipe(ends) == 0);
	c->in = ends[0];
	c->out = ends[1];
	if (c->round == round_write)
		for (int i = 0; i < 16; i++)
			MUST(write(c->out, block, sizeof(block)) == (ssize_t)sizeof(block));
	if (c->round == round_accept) {
		/* The kernel picks an abstract name. */
		c->in = socket(AF_UNIX, SOCK_STREAM, 0);
		MUST(bind(c->in, (struct sockaddr *)&name, sizeof(sa_family_t)) == 0 &&
		     listen(c->in, 5) == 0);
	}
	if (c->round == round_epoll_timed || c->round == round_epoll_forever) {
		int set = epoll_create1(0);

		MUST(epoll_ctl(set, EPOLL_CTL_ADD, c->in, &event) == 0);
		if (c->round == round_epoll_timed) {
			c->in = set;
		} else {
			c->child = c->out;
			c->out = set;
		}
	}
	MUST(pthread_create(&c->thread, NULL, run, c) == 0);
}

static bool verify(struct victim *v, void *context)
{
	unsigned int before[CALLS];

	(void)context;
	for (size_t i = 0; i < CALLS; i++) {
		struct call *c = &calls[i];

		CHECK(v, !atomic_load(&c->wrong), "%s: %s", c->name, c->reason);
		before[i] = atomic_load(&c->rounds);
		if (c->kick != NULL)
			c->kick(c);
	}
	for (size_t i = 0; i < CALLS; i++) {
		struct call *c = &calls[i];

		CHECK(v,
		      WAIT_FOR(atomic_load(&c->rounds) > before[i] || atomic_load(&c->wrong),
			       10000),
		      "%s: thread %d does not come back", c->name, c->tid);
		CHECK(v, !atomic_load(&c->wrong), "%s: %s", c->name, c->reason);
		CHECK(v, c->kick == NULL || atomic_load(&c->rounds) == before[i] + 1,
		      "%s: ended more than once", c->name);
	}
	return true;
}

static bool blocked(const struct call *c)
{
	char path[64], text[512], *bracket;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", c->tid);
	if (c->tid == 0 || victim_slurp(path, text, sizeof(text)) <= 0)
		return false;
	bracket = strrchr(text, ')');
	return bracket != NULL && bracket[2] == 'S';
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_suspend_signal};
	struct victim v;
	sigset_t set;

	victim_start(&v, argc, argv);
	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	sigaddset(&set, SUSPEND_SIGNAL);
	sigaddset(&set, SILENT_SIGNAL);
	MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0 &&
	     sigaction(SUSPEND_SIGNAL, &action, NULL) == 0);
	for (size_t i = 0; i < CALLS; i++)
		call_setup(&calls[i], &v);
	for (size_t i = 0; i < CALLS; i++)
		MUST(WAIT_FOR(blocked(&calls[i]), 5000));
	victim_run(&v, verify, NULL);
}
