/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vfork(2): a thread waits in the kernel, and can be stopped by nobody, until its child begins another program or ends. That
 * takes microseconds as a rule, so it is waited for; a child that does neither is in the way of the freeze.
 *
 * The child has its parent's memory, by which it is found (sharing.c): whatever is shared longer than that is no vfork.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define LOOK_AGAIN_NS 1000000
#define LOOKS_MOST    5 /* at threads that run: one that waits in the kernel does so for a moment when it changes its cgroup */
#define CHECK_NS      (100 * CLOCK_MS) /* for one preflight, of which there are several while something is in the way */

/* Flags of clone3(2) are in the memory of the caller. */
static bool reads_vfork(pid_t tid, uint64_t address)
{
	struct clone_args args = { 0 };
	struct iovec local = { &args, sizeof(args.flags) }, remote = { (void *)(uintptr_t)address, sizeof(args.flags) };

	return process_vm_readv(tid, &local, 1, &remote, 1, 0) == sizeof(args.flags) && args.flags & CLONE_VFORK;
}

enum answer {
	ELSEWHERE,
	RUNS,
	WAITS,
};

/* /proc/PID/task/TID/syscall: the number and arguments of the call that a thread sleeps in. */
static enum answer look_at(pid_t pid, pid_t tid)
{
	char path[64], text[256];
	_cleanup_fd_ int fd = -1;
	unsigned long long first;
	ssize_t got;
	long nr;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : fdio_pread(fd, text, sizeof(text) - 1, 0);
	if (got < 7)
		return ELSEWHERE;
	text[got] = '\0';
	if (memcmp(text, "running", 7) == 0)
		return RUNS;
	if (sscanf(text, "%ld %llx", &nr, &first) != 2)
		return ELSEWHERE;
	return nr == SYS_vfork || (nr == SYS_clone && first & CLONE_VFORK) || (nr == SYS_clone3 && reads_vfork(tid, first)) ?
		       WAITS : ELSEWHERE;
}

/* What is most in the way of all its threads. */
static enum answer look_at_all(pid_t pid)
{
	struct procfs_pids threads = { 0 };
	enum answer most = ELSEWHERE;

	if (procfs_read_threads(pid, &threads, NULL) == 0)
		array_for_each(tid, &threads) {
			enum answer one = look_at(pid, *tid);

			most = one > most ? one : most;
		}
	array_deinit(&threads);
	return most;
}

static enum answer look_at_parents(const struct dump_context *ctx, pid_t *ret_pid)
{
	enum answer most = ELSEWHERE;

	array_for_each(process, &ctx->processes) {
		const struct dump_process *parent = dump_context_find(ctx, (*process)->stat.ppid);
		enum answer one = parent && parent->vm_id == (*process)->vm_id ? look_at_all(parent->pid) : ELSEWHERE;

		if (one <= most)
			continue;
		most = one;
		*ret_pid = parent->pid;
	}
	return most;
}

pid_t dump_vfork_settle(const struct dump_context *ctx, int64_t deadline)
{
	static const struct timespec pause = { .tv_nsec = LOOK_AGAIN_NS };
	pid_t pid = 0;

	for (unsigned looks = 1; ctx->shares_memory; looks++) {
		enum answer answer = look_at_parents(ctx, &pid);

		if (answer == ELSEWHERE || (answer == RUNS && looks >= LOOKS_MOST))
			return 0;
		if (answer == WAITS && clock_now_ns() >= deadline)
			return pid;
		nanosleep(&pause, NULL);
	}
	return 0;
}

void dump_vfork_check(struct dump_context *ctx)
{
	pid_t pid = dump_vfork_settle(ctx, clock_deadline(CHECK_NS));

	if (pid)
		dump_refuse(ctx, pid, "process", IMAGE_KIND_VFORK, "PID %d", pid);
}
