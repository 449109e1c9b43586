/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Seccomp filters of a stopped thread, and out of the way of what it is made to do for us.
 *
 * A filter would refuse our calls, or end the process for them. So it is suspended (PTRACE_O_SUSPEND_SECCOMP) from the
 * moment when the thread stands still: not from the seizing on, as until the stop it still runs its own code. It is in
 * force again when the thread is let go, or when the tracer ends, whatever ends it.
 *
 * What is left open: when the tracer is killed in the middle of a batch, the thread goes back to its own work by calls that
 * its filter judges again. rt_sigreturn(2) is one that every program with signals needs; the rest of the batch is not, and a
 * filter that ends the process rather than the call does so then. It is a matter of some 50 us a batch.
 */
#include "internal.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

bool tracee_seccomp_may_suspend(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { { 0 } };

	return prctl(PR_GET_SECCOMP) == 0 && syscall(SYS_capget, &header, sets) == 0 &&
	       sets[0].effective >> CAP_SYS_ADMIN & 1;
}

int seccomp_suspend(pid_t tid, uint64_t options, struct error *error)
{
	char value[32];
	int r = ptrace_do(PTRACE_SETOPTIONS, tid, 0, options | PTRACE_O_SUSPEND_SECCOMP);

	if (r == 0 || r == -ESRCH)
		return 0;
	/* Only a thread that has a filter needs it. */
	if (procfs_read_status(tid, "Seccomp", value, sizeof(value), NULL) < 0 || atoi(value) == 0)
		return 0;
	return error_set_errno(error, r, "PID %d has a seccomp filter, which this program may not suspend", tid);
}

int tracee_thread_get_filter(struct tracee_thread *thread, uint32_t index, struct sock_filter *filter,
			     size_t *ret_count, uint32_t *ret_flags, struct error *error)
{
	struct seccomp_metadata metadata = { .filter_off = index };
	long count = ptrace(PTRACE_SECCOMP_GET_FILTER, thread->tid, (void *)(uintptr_t)index, filter);

	if (count < 0 && errno == ENOENT)
		return -ENOENT;
	if (count < 0)
		return ptrace_fail(error, -errno, thread->tid, "read its seccomp filter");
	if (ptrace(PTRACE_SECCOMP_GET_METADATA, thread->tid, (void *)sizeof(metadata), &metadata) < 0)
		return ptrace_fail(error, -errno, thread->tid, "read the flags of its seccomp filter");
	*ret_count = (size_t)count;
	*ret_flags = (uint32_t)metadata.flags;
	return 0;
}
