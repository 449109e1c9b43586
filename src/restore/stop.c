/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that were stopped by a signal are so before anything runs: while a shell has the usual signal actions, and
 * before the signals that its parent's shell has got from building are taken out. If the parent has waited for that on the
 * source, its shell does so here. A tracee that is stopped so can still be made to run batches.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "parts.h"

/* By the same signal if that is possible: a process group that has lost its parents is only stopped by SIGSTOP. */
static int stop_by(struct restore_tree *tree, struct restore_process *process, int signal, struct error *error)
{
	struct error why = ERROR_INIT;
	int r = tracee_process_stop_group(process->tracee, signal, tree->deadline, &why);

	if (r == -EAGAIN && signal != SIGSTOP)
		return tracee_process_stop_group(process->tracee, SIGSTOP, tree->deadline, error);
	return r < 0 ? error_set(error, r, "%s", error_text(&why, r)) : 0;
}

int restore_stop(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ ProcessExtra *extra = NULL;
	int64_t result;
	int r;

	r = restore_get(tree->images, IMAGE_PROCESS_EXTRA, (uint32_t)process->pid, process_extra, &extra, error);
	if (r < 0 || extra->stop_signal == 0)
		return r;
	if (extra->stop_signal != SIGSTOP && extra->stop_signal != SIGTSTP && extra->stop_signal != SIGTTIN &&
	    extra->stop_signal != SIGTTOU)
		return error_set(error, -EPROTO, "PID %d cannot be stopped by signal %u", process->pid, extra->stop_signal);
	r = stop_by(tree, process, (int)extra->stop_signal, error);
	if (r < 0 || !extra->stop_seen || !process->parent)
		return r;
	r = tracee_thread_call(process->parent->tracee->threads.items[0], tree->deadline, &result, error, SYS_wait4,
			       (uint64_t)process->pid, 0, WUNTRACED | WNOHANG | __WALL, 0, 0, 0);
	if (r == 0 && result != process->pid)
		r = error_set(error, -EPROTO, "PID %d does not see that PID %d is stopped", process->parent->pid, process->pid);
	return r;
}
