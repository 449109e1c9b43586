/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting for single tracees. waitid(2) has no timeout and signals are not ours to use, so this
 * polls: stops come within some microseconds as a rule, so it spins first, giving way to the
 * tracee, and sleeps when it takes longer.
 *
 * Stops are looked at with WNOWAIT. A consumed stop would have its signal forgotten by the kernel:
 * a tracer killed at that moment would take the signal along.
 */
#include "internal.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SPINS	      300
#define SLEEP_FIRST   (20 * 1000L)
#define SLEEP_LONGEST (1000 * 1000L)

/* The zombie is taken away unless it is a child of this program: then its exit status is its
 * parent's business. */
static void reap(pid_t tid)
{
	struct procfs_stat stat;
	char tgid[16];
	siginfo_t info;

	if (procfs_read_stat(tid, &stat, NULL) == 0 && stat.ppid == getpid() &&
	    procfs_read_status(tid, "Tgid", tgid, sizeof(tgid), NULL) == 0 && atoi(tgid) == tid)
		return;
	waitid(P_PID, (id_t)tid, &info, WEXITED | __WALL | WNOHANG);
}

int wait_stop(pid_t tid, int64_t deadline, int *ret_status)
{
	struct timespec pause = { .tv_sec = 0, .tv_nsec = SLEEP_FIRST };

	for (unsigned tries = 0;; tries++) {
		siginfo_t info;

		info.si_pid = 0;
		if (waitid(P_PID, (id_t)tid, &info,
			   WSTOPPED | WEXITED | __WALL | WNOHANG | WNOWAIT) < 0) {
			if (errno == EINTR)
				continue;
			return errno == ECHILD ? -ESRCH : -errno;
		}
		if (info.si_pid == tid &&
		    (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED)) {
			*ret_status = info.si_status;
			return 0;
		}
		if (info.si_pid == tid) {
			reap(tid);
			return -ESRCH;
		}
		if (tries < SPINS) {
			sched_yield();
			continue;
		}
		if (clock_now_ns() >= deadline)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < SLEEP_LONGEST)
			pause.tv_nsec += pause.tv_nsec / 2;
	}
}

int ptrace_do(int request, pid_t tid, uint64_t address, uint64_t data)
{
	return ptrace((enum __ptrace_request)request, tid, (void *)address, (void *)data) < 0
		       ? -errno
		       : 0;
}

int ptrace_fail(struct error *error, int code, pid_t tid, const char *what)
{
	if (code == -ESRCH)
		return error_set(error, code, "PID %d ended", tid);
	return error_set_errno(error, code, "PID %d: cannot %s", tid, what);
}
