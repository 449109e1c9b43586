/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * locks DIR [PLACE]: locks in PLACE, or else in DIR. On a file system that two hosts share, the target has the locks only when
 * the source has ended its copy, and who waits for one may come first: PLACE is for a directory that they do not share. The
 * lock on a directory is in DIR, though.
 *
 * Locks of each kind on a file: flock (shared and exclusive, on a directory, too), POSIX ranges, ranges of the open file; one
 * flock through an open file that a child shares; and two children that wait for a lock, one for a flock, one for a range.
 * Who else asks must be kept out by each, the child that shares the open file must not be, and who waits must get the lock
 * when it is let go. Signals of the tree's descriptors go to a thread, a process and a group.
 */
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { ASK_OTHERS = 1, ASK_SHARED };

struct state {
	char place[VICTIM_PATH_MAX];
	int whole;	 /* flock, exclusive */
	int shared;	 /* flock, shared */
	int directory;	 /* flock, exclusive, on DIR/d */
	int ranges;	 /* POSIX: write lock 100-199, read lock from 1000 to the end */
	int open_file;	 /* OFD: write lock 300-309 */
	int inherited;	 /* flock, exclusive; the child has the same open file */
	int pair[2];	 /* pipe whose read end signals the process by SIGUSR1 */
	int to_thread[2]; /* likewise a thread, by SIGUSR2 */
	int to_group[2]; /* likewise the group, by SIGIO */
	pid_t thread;
	pid_t waiters[2]; /* wait for `whole` and for the range 100-199 */
	struct victim_peer child;
};

static volatile sig_atomic_t process_signals, group_signals;
static pid_t signalled_thread;

static void on_signal(int number, siginfo_t *info, void *context)
{
	if (number == SIGUSR1)
		process_signals++;
	else if (number == SIGIO)
		group_signals++;
	else
		__atomic_store_n(&signalled_thread, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
}

static bool range_is_taken(int fd, short type, off_t start, off_t length)
{
	struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

	return fcntl(fd, F_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

/* Asked in the child, which holds none of the locks itself. */
static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	char path[64];
	int fd;

	if (request == ASK_SHARED) {
		if (flock(s->inherited, LOCK_EX | LOCK_NB) < 0)
			snprintf(text, size, "the child that shares the open file is kept out: %m");
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->ranges);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || !range_is_taken(fd, F_RDLCK, 150, 1) || range_is_taken(fd, F_WRLCK, 200, 50))
		snprintf(text, size, "the POSIX write lock is not 100-199");
	else if (range_is_taken(fd, F_RDLCK, 1000, 5) || !range_is_taken(fd, F_WRLCK, 1000000, 5))
		snprintf(text, size, "the POSIX read lock is not from 1000 on");
	else if (!range_is_taken(fd, F_RDLCK, 309, 1) || range_is_taken(fd, F_WRLCK, 310, 10))
		snprintf(text, size, "the lock of the open file is not 300-309");
	close(fd);
}

static int file_open(const struct state *s, const char *name, int flags)
{
	char path[VICTIM_PATH_MAX + 16], other[VICTIM_PATH_MAX + 16];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", s->place, name);
	fd = open(path, flags | O_CLOEXEC, 0644);
	/* A second name, as a file in memory that has one name moves along, and the target is to have it before. */
	snprintf(other, sizeof(other), "%s/%s-2", s->place, name);
	if (flags & O_CREAT)
		MUST(fd >= 0 && link(path, other) == 0);
	return fd;
}

static bool flock_is_taken(int fd, int operation)
{
	bool taken = flock(fd, operation | LOCK_NB) < 0 && errno == EWOULDBLOCK;

	close(fd);
	return taken;
}

static void lock_range(int fd, int command, short type, off_t start, off_t length)
{
	struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

	MUST(fcntl(fd, command, &range) == 0);
}

/* A child that waits for a lock and ends when it has it. */
static pid_t waiter(const struct state *s, bool whole)
{
	pid_t child = fork();
	int fd;

	MUST(child >= 0);
	if (child > 0)
		return child;
	fd = file_open(s, whole ? "whole" : "ranges", O_RDWR);
	MUST(fd >= 0);
	if (whole)
		MUST(flock(fd, LOCK_EX) == 0);
	else
		lock_range(fd, F_SETLKW, F_WRLCK, 100, 100);
	_exit(0);
}

static bool is_waiting(pid_t pid)
{
	char path[64], text[512];

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	return victim_slurp(path, text, sizeof(text)) > 0 &&
	       (atol(text) == SYS_flock || atol(text) == SYS_fcntl);
}

static void start_waiters(struct state *s)
{
	for (int i = 0; i < 2; i++) {
		s->waiters[i] = waiter(s, i == 0);
		MUST(WAIT_FOR(is_waiting(s->waiters[i]), 5000));
	}
}

static void *sleeper(void *context)
{
	struct state *s = context;
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGIO);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	__atomic_store_n(&s->thread, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

static void signal_setup(const int ends[2], int number, int type, pid_t pid)
{
	struct f_owner_ex owner = {.type = type, .pid = pid};

	MUST(fcntl(ends[0], F_SETSIG, number) == 0 && fcntl(ends[0], F_SETOWN_EX, &owner) == 0);
	MUST(fcntl(ends[0], F_SETFL, fcntl(ends[0], F_GETFL) | O_ASYNC) == 0);
}

static void setup(struct victim *v, struct state *s)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
	pthread_t thread;

	/* First, for children are in the group that gets signals, too. */
	MUST(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGUSR2, &action, NULL) == 0 &&
	     sigaction(SIGIO, &action, NULL) == 0);
	s->whole = file_open(s, "whole", O_RDWR | O_CREAT);
	s->shared = file_open(s, "shared", O_RDONLY | O_CREAT);
	s->ranges = file_open(s, "ranges", O_RDWR | O_CREAT);
	s->open_file = file_open(s, "ranges", O_RDWR);
	s->inherited = file_open(s, "inherited", O_RDWR | O_CREAT);
	MUST(mkdir(victim_path(v, "d"), 0755) == 0);
	s->directory = open(victim_path(v, "d"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MUST(s->whole >= 0 && s->shared >= 0 && s->ranges >= 0 && s->open_file >= 0 && s->inherited >= 0 &&
	     s->directory >= 0);
	victim_peer_fork(&s->child, child_serve, s);
	MUST(flock(s->whole, LOCK_EX) == 0 && flock(s->shared, LOCK_SH) == 0 && flock(s->directory, LOCK_EX) == 0 &&
	     flock(s->inherited, LOCK_EX) == 0);
	lock_range(s->ranges, F_SETLK, F_WRLCK, 100, 100);
	lock_range(s->ranges, F_SETLK, F_RDLCK, 1000, 0);
	lock_range(s->open_file, F_OFD_SETLK, F_WRLCK, 300, 10);
	start_waiters(s);
	MUST(pipe(s->pair) == 0 && pipe(s->to_thread) == 0 && pipe(s->to_group) == 0);
	MUST(pthread_create(&thread, NULL, sleeper, s) == 0);
	MUST(WAIT_FOR(__atomic_load_n(&s->thread, __ATOMIC_ACQUIRE) != 0, 5000));
	signal_setup(s->pair, SIGUSR1, F_OWNER_PID, getpid());
	signal_setup(s->to_thread, SIGUSR2, F_OWNER_TID, s->thread);
	signal_setup(s->to_group, SIGIO, F_OWNER_PGRP, getpgrp());
}

static bool ended_well(pid_t pid)
{
	int status = -1;

	return waitpid(pid, &status, WNOHANG) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool waiters_check(struct victim *v, struct state *s)
{
	for (int i = 0; i < 2; i++)
		CHECK(v, WAIT_FOR(is_waiting(s->waiters[i]), 5000), "waiter %d does not wait", i);
	CHECK(v, flock(s->whole, LOCK_UN) == 0, "LOCK_UN: %m");
	CHECK(v, WAIT_FOR(ended_well(s->waiters[0]), 5000), "who waits for the flock does not get it");
	lock_range(s->ranges, F_SETLK, F_UNLCK, 100, 100);
	CHECK(v, WAIT_FOR(ended_well(s->waiters[1]), 5000), "who waits for the range does not get it");
	CHECK(v, flock(s->whole, LOCK_EX) == 0, "LOCK_EX: %m");
	lock_range(s->ranges, F_SETLK, F_WRLCK, 100, 100);
	start_waiters(s);
	return true;
}

static bool signals_check(struct victim *v, struct state *s)
{
	char byte;

	process_signals = group_signals = 0;
	__atomic_store_n(&signalled_thread, 0, __ATOMIC_RELEASE);
	CHECK(v, write(s->pair[1], "x", 1) == 1 && write(s->to_thread[1], "x", 1) == 1 && write(s->to_group[1], "x", 1) == 1,
	      "pipe: %m");
	CHECK(v, WAIT_FOR(process_signals > 0, 5000), "no signal to the process");
	CHECK(v, WAIT_FOR(group_signals > 0, 5000), "no signal to the group");
	CHECK(v, WAIT_FOR(__atomic_load_n(&signalled_thread, __ATOMIC_ACQUIRE) == s->thread, 5000),
	      "the signal for thread %d went to %d", s->thread, signalled_thread);
	CHECK(v, read(s->pair[0], &byte, 1) == 1 && read(s->to_thread[0], &byte, 1) == 1 && read(s->to_group[0], &byte, 1) == 1,
	      "pipe: %m");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	CHECK(v, flock_is_taken(file_open(s, "whole", O_RDONLY), LOCK_SH), "the exclusive flock is gone");
	CHECK(v, flock_is_taken(file_open(s, "shared", O_RDONLY), LOCK_EX) &&
		      !flock_is_taken(file_open(s, "shared", O_RDONLY), LOCK_SH),
	      "the shared flock is gone, or exclusive");
	CHECK(v, flock_is_taken(file_open(s, "inherited", O_RDONLY), LOCK_SH), "the flock that a child shares is gone");
	CHECK(v, WAIT_FOR(flock_is_taken(open(victim_path(v, "d"), O_RDONLY | O_CLOEXEC), LOCK_SH), 5000),
	      "the flock of a directory is gone");
	if (!victim_peer_ask(v, &s->child, ASK_OTHERS) || !victim_peer_ask(v, &s->child, ASK_SHARED))
		return false;
	return waiters_check(v, s) && signals_check(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	snprintf(s.place, sizeof(s.place), "%s", v.argc > 0 ? v.argv[0] : v.dir);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
