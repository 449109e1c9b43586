/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that a signal has stopped. Which one it was is only known until the parent has waited for it (WUNTRACED): the
 * parent is made to ask, without taking the answer. Afterwards nobody can tell one stop from another. What the parent of
 * the root has seen is not its tree's business.
 *
 * Not found: that a process was continued and the parent has not waited for that (WCONTINUED).
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "parts.h"

int dump_stop(struct dump_context *ctx, const struct dump_process *process, ProcessExtra *extra, struct error *error)
{
	const struct dump_process *parent = process->pid == ctx->root ? NULL : dump_context_find(ctx, process->stat.ppid);
	struct tracee_batch *batch;
	const siginfo_t *info;
	uint64_t token;
	int r;

	extra->stop_signal = SIGSTOP;
	if (!parent || !parent->tracee)
		return 0;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot ask PID %d", parent->pid);
	token = tracee_batch_space(batch, sizeof(*info));
	tracee_batch_try(batch, SYS_waitid, P_PID, process->pid, token, WSTOPPED | WNOHANG | WNOWAIT | __WALL, 0);
	r = tracee_batch_run(parent->tracee->threads.items[0], batch, ctx->deadline, error);
	if (r == 0) {
		info = tracee_batch_output(batch, token);
		extra->has_stop_seen = extra->stop_seen = info->si_pid != process->pid;
		if (info->si_pid == process->pid)
			extra->stop_signal = (uint32_t)info->si_status;
	}
	tracee_batch_free(batch);
	return r;
}
