/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signal actions, and pending signals: a process may queue any siginfo to itself (rt_sigqueueinfo(2)), also one that only
 * the kernel makes; so each thread queues its own, and the leader those of the process. All of them are blocked while a
 * batch runs, so they stay pending.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

#include "parts.h"

struct kernel_sigaction {
	uint64_t handler;
	uint64_t flags;
	uint64_t restorer;
	uint64_t mask;
};

void restore_signal_actions(struct tracee_batch *batch, const CoreProcess *message)
{
	size_t next = 0;

	for (int signal = 1; signal <= 64 && next < message->n_sigactions; signal++) {
		const SignalAction *action = message->sigactions[next];
		struct kernel_sigaction kernel = { 0 };

		if (signal == SIGKILL || signal == SIGSTOP)
			continue;
		next++;
		kernel.handler = action->sigaction;
		kernel.flags = action->flags;
		kernel.restorer = action->restorer;
		kernel.mask = action->mask;
		/* A shell begins with all actions at their default. */
		if (kernel.handler || kernel.flags || kernel.mask)
			tracee_batch_call(batch, SYS_rt_sigaction, signal,
					  tracee_batch_data(batch, &kernel, sizeof(kernel)), 0, sizeof(kernel.mask));
	}
}

/*
 * A signal of a timer: the timer is made to run out again instead. Queued by us it would not be the timer's own, of which
 * there is one at most, and the timer would add that to it.
 */
static const PosixTimer *timer_of(const siginfo_t *info, const ProcessTimers *timers)
{
	for (size_t i = 0; timers && info->si_code == SI_TIMER && i < timers->n_posix; i++)
		if (timers->posix[i]->it_id == (uint32_t)info->si_timerid && restore_timer_is_steady(timers->posix[i]))
			return timers->posix[i];
	return NULL;
}

int restore_signal_pending(struct restore_process *process, struct tracee_batch *batch, pid_t tid,
			   const PendingSignals *signals, const ProcessTimers *timers)
{
	for (size_t i = 0; signals && i < signals->n_signals; i++) {
		const ProtobufCBinaryData *bytes = &signals->signals[i]->siginfo;
		const siginfo_t *info = (const siginfo_t *)bytes->data;
		const PosixTimer *timer;
		uint64_t place;

		if (bytes->len < sizeof(*info))
			continue;
		timer = timer_of(info, timers);
		if (timer && array_append(&process->timers_due, timer->it_id) < 0)
			return -ENOMEM;
		if (timer)
			continue;
		place = tracee_batch_data(batch, bytes->data, sizeof(*info));
		if (tid)
			tracee_batch_call(batch, SYS_rt_tgsigqueueinfo, process->pid, tid, info->si_signo, place);
		else
			tracee_batch_call(batch, SYS_rt_sigqueueinfo, process->pid, info->si_signo, place);
	}
	return 0;
}
