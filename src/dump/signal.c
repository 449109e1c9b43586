/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signal actions are asked of the process itself by rt_sigaction(2) without a new action; pending signals are peeked at
 * with PTRACE_PEEKSIGINFO, which takes nothing out of the queues. SIGKILL and SIGSTOP have no action to ask for.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "parts.h"

/* struct sigaction as the kernel has it on x86-64. */
struct kernel_sigaction {
	uint64_t handler;
	uint64_t flags;
	uint64_t restorer;
	uint64_t mask;
};

#define SIGNAL_COUNT 64
#define SIGNAL_SET_SIZE 8

static bool signal_has_action(int signal)
{
	return signal != SIGKILL && signal != SIGSTOP;
}

void dump_signal_ask(struct tracee_batch *batch, struct dump_signal_query *query)
{
	query->actions = tracee_batch_space(batch, SIGNAL_COUNT * sizeof(struct kernel_sigaction));
	for (int signal = 1; signal <= SIGNAL_COUNT; signal++)
		if (signal_has_action(signal))
			tracee_batch_call(batch, SYS_rt_sigaction, signal, 0,
					  query->actions + (unsigned)(signal - 1) * sizeof(struct kernel_sigaction),
					  SIGNAL_SET_SIZE);
}

int dump_signal_answer(const struct tracee_batch *batch, const struct dump_signal_query *query,
		       struct dump_arena *arena, CoreProcess *message)
{
	const struct kernel_sigaction *actions = tracee_batch_output(batch, query->actions);
	SignalAction *entries = dump_arena_take(arena, SIGNAL_COUNT * sizeof(*entries));
	SignalAction **list = dump_arena_take(arena, SIGNAL_COUNT * sizeof(*list));
	size_t count = 0;

	if (!entries || !list)
		return -ENOMEM;
	for (int signal = 1; signal <= SIGNAL_COUNT; signal++) {
		const struct kernel_sigaction *action = &actions[signal - 1];

		if (!signal_has_action(signal))
			continue;
		list[count] = &entries[count];
		entries[count] = (SignalAction)SIGNAL_ACTION__INIT;
		entries[count].sigaction = action->handler;
		entries[count].flags = action->flags;
		entries[count].restorer = action->restorer;
		entries[count++].mask = action->mask;
	}
	message->sigactions = list;
	message->n_sigactions = count;
	return 0;
}

int dump_signal_pending(struct tracee_thread *thread, bool shared, struct dump_arena *arena, PendingSignals **ret,
			struct error *error)
{
	struct tracee_siginfos infos = { 0 };
	PendingSignals *message;
	PendingSignal *entries, **list;
	siginfo_t *copies;
	int r;

	r = tracee_thread_peek_signals(thread, shared, &infos, error);
	if (r < 0)
		return r;
	message = dump_arena_take(arena, sizeof(*message));
	entries = dump_arena_take(arena, infos.count * sizeof(*entries));
	list = dump_arena_take(arena, infos.count * sizeof(PendingSignal *));
	copies = dump_arena_take(arena, infos.count * sizeof(*copies));
	if (!message || !entries || !list || !copies) {
		array_deinit(&infos);
		return error_set_errno(error, -ENOMEM, "cannot keep the pending signals of thread %d", thread->tid);
	}
	*message = (PendingSignals)PENDING_SIGNALS__INIT;
	for (size_t i = 0; i < infos.count; i++) {
		copies[i] = infos.items[i];
		entries[i] = (PendingSignal)PENDING_SIGNAL__INIT;
		entries[i].siginfo.data = (uint8_t *)&copies[i];
		entries[i].siginfo.len = sizeof(copies[i]);
		list[i] = &entries[i];
	}
	message->signals = list;
	message->n_signals = infos.count;
	array_deinit(&infos);
	*ret = message;
	return 0;
}
