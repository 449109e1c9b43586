/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads of a process: one batch a thread for what only it can set (robust list, clear_child_tid, rseq, alternate stack,
 * name, credentials, pending signals), all at the same time; scheduling from outside; registers, vector registers and mask
 * for when the process is let go.
 *
 * The batch touches one page of the thread's own memory: registering rseq writes into its struct rseq. That page has to be
 * there, or be served while this runs.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

#ifndef SYS_rseq
#define SYS_rseq 334
#endif
#define IOPRIO_WHO_PROCESS 1
#define TIMER_SLACK_USUAL  50000
#define AFFINITY_MAX       1024

/* struct sched_attr of the kernel, first version (sched_setattr(2)). */
struct sched_attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

/* One thread being set up. */
struct thread_work {
	struct tracee_thread *thread; /* borrowed */
	struct tracee_batch *batch;   /* owned */
	Core *core;                   /* owned */
	ThreadExtra *extra;           /* owned */
};

static void work_free(struct thread_work *works, size_t count)
{
	for (size_t i = 0; works && i < count; i++) {
		tracee_batch_free(works[i].batch);
		if (works[i].core)
			protobuf_c_message_free_unpacked(&works[i].core->base, NULL);
		if (works[i].extra)
			protobuf_c_message_free_unpacked(&works[i].extra->base, NULL);
	}
	free(works);
}

static void add_alt_stack(struct tracee_batch *batch, const AltStack *stack)
{
	stack_t setting = { .ss_sp = NULL };

	if (!stack || stack->ss_flags & SS_DISABLE || stack->ss_size == 0)
		return;
	setting.ss_sp = (void *)(uintptr_t)stack->ss_sp;
	setting.ss_size = stack->ss_size;
	setting.ss_flags = (int)stack->ss_flags;
	tracee_batch_call(batch, SYS_sigaltstack, tracee_batch_data(batch, &setting, sizeof(setting)), 0);
}

static int thread_batch(struct restore_process *process, const struct thread_work *work,
			const struct restore_own_creds *own, const ProcessTimers *timers)
{
	struct tracee_batch *batch = work->batch;
	const CoreThread *core = work->core->thread_core;

	tracee_batch_call(batch, SYS_set_tid_address, work->core->thread_info->clear_tid_addr);
	if (core->futex_rla)
		tracee_batch_call(batch, SYS_set_robust_list, core->futex_rla, core->futex_rla_len);
	if (core->rseq_entry)
		tracee_batch_call(batch, SYS_rseq, core->rseq_entry->rseq_abi_pointer,
				  core->rseq_entry->rseq_abi_size, 0, core->rseq_entry->signature);
	add_alt_stack(batch, core->sas);
	if (core->comm)
		tracee_batch_call(batch, SYS_prctl, PR_SET_NAME, tracee_batch_string(batch, core->comm));
	if (work->extra->timer_slack != TIMER_SLACK_USUAL)
		tracee_batch_call(batch, SYS_prctl, PR_SET_TIMERSLACK, work->extra->timer_slack);
	restore_setting_thread(batch, work->extra);
	restore_creds(batch, own, core->creds, work->extra);
	if (core->pdeath_sig)
		tracee_batch_call(batch, SYS_prctl, PR_SET_PDEATHSIG, core->pdeath_sig);
	return restore_signal_pending(process, batch, work->thread->tid, core->signals_p, timers);
}

static int thread_affinity(const struct thread_work *work, struct error *error)
{
	uint8_t now[AFFINITY_MAX];
	long size;

	if (work->extra->affinity_all)
		return 0;
	size = syscall(SYS_sched_getaffinity, work->thread->tid, sizeof(now), now);
	if (size > 0 && (size_t)size == work->extra->affinity.len &&
	    memcmp(now, work->extra->affinity.data, (size_t)size) == 0)
		return 0;
	if (syscall(SYS_sched_setaffinity, work->thread->tid, work->extra->affinity.len, work->extra->affinity.data) < 0)
		return error_set_errno(error, -errno, "cannot bind thread %d to the CPUs that it had",
				       work->thread->tid);
	return 0;
}

/* sched_getattr(2) does not tell the nice value of a real-time thread, which it keeps for when it becomes an ordinary one. */
static int thread_nice(const struct thread_work *work, const struct sched_attributes *now, struct error *error)
{
	pid_t tid = work->thread->tid;
	int nice = work->core->thread_core->sched_nice;
	bool is_known = now->policy == SCHED_OTHER || now->policy == SCHED_BATCH;

	if ((is_known ? now->nice : getpriority(PRIO_PROCESS, (id_t)tid)) == nice ||
	    setpriority(PRIO_PROCESS, (id_t)tid, nice) == 0)
		return 0;
	return error_set_errno(error, -errno, "cannot give thread %d its nice value %d", tid, nice);
}

static int thread_policy(const struct thread_work *work, struct sched_attributes *now, struct error *error)
{
	const CoreThread *core = work->core->thread_core;
	const ThreadExtra *extra = work->extra;
	struct sched_attributes wanted = *now;
	pid_t tid = work->thread->tid;

	wanted.policy = core->sched_policy;
	wanted.flags = extra->sched_flags;
	wanted.priority = core->sched_prio;
	wanted.deadline = extra->sched_deadline;
	wanted.period = extra->sched_period;
	/* Of an ordinary thread this is its time slice, which is the kernel's choice unless it was set. */
	wanted.runtime = extra->sched_runtime;
	if (core->sched_policy == SCHED_OTHER || core->sched_policy == SCHED_BATCH)
		wanted.nice = now->nice = core->sched_nice;
	if (memcmp(now, &wanted, sizeof(wanted)) == 0)
		return 0;
	if (wanted.runtime == now->runtime && wanted.policy != SCHED_DEADLINE)
		wanted.runtime = 0;
	if (syscall(SYS_sched_setattr, tid, &wanted, 0) < 0)
		return error_set_errno(error, -errno, "cannot give thread %d its scheduling policy %u", tid,
				       core->sched_policy);
	return 0;
}

static int thread_scheduling(const struct thread_work *work, struct error *error)
{
	struct sched_attributes now = { .size = sizeof(now) };
	pid_t tid = work->thread->tid;
	int r;

	r = thread_affinity(work, error);
	if (r < 0)
		return r;
	if (syscall(SYS_sched_getattr, tid, &now, sizeof(now), 0) < 0)
		return error_set_errno(error, -errno, "cannot read the scheduling policy of thread %d", tid);
	r = thread_nice(work, &now, error);
	if (r == 0)
		r = thread_policy(work, &now, error);
	if (r == 0 && work->extra->io_priority &&
	    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, work->extra->io_priority) < 0)
		r = error_set_errno(error, -errno, "cannot give thread %d its I/O priority", tid);
	return r;
}

static void registers_get(const X86Registers *from, struct user_regs_struct *to)
{
	*to = (struct user_regs_struct){
		.r15 = from->r15,
		.r14 = from->r14,
		.r13 = from->r13,
		.r12 = from->r12,
		.rbp = from->bp,
		.rbx = from->bx,
		.r11 = from->r11,
		.r10 = from->r10,
		.r9 = from->r9,
		.r8 = from->r8,
		.rax = from->ax,
		.rcx = from->cx,
		.rdx = from->dx,
		.rsi = from->si,
		.rdi = from->di,
		.orig_rax = from->orig_ax,
		.rip = from->ip,
		.cs = from->cs,
		.eflags = from->flags,
		.rsp = from->sp,
		.ss = from->ss,
		.fs_base = from->fs_base,
		.gs_base = from->gs_base,
		.ds = from->ds,
		.es = from->es,
		.fs = from->fs,
		.gs = from->gs,
	};
}

static int thread_registers(const struct restore_host *host, const struct thread_work *work, struct error *error)
{
	struct user_regs_struct regs;

	registers_get(work->core->thread_info->gpregs, &regs);
	tracee_thread_set_regs(work->thread, &regs);
	tracee_thread_set_sigmask(work->thread, work->core->thread_core->blk_sigset);
	return restore_xstate(&host->xsave, work->thread, work->extra, error);
}

static bool is_complete(const Core *core)
{
	return core->thread_core && core->thread_core->creds && core->thread_info;
}

int restore_thread_add(struct restore_tree *tree, struct restore_process *process, const Core *core, struct tracee_batch *batch,
		       struct error *error)
{
	struct tracee_thread *thread = process->tracee->threads.items[0];
	_cleanup_message_ ThreadExtra *extra = NULL;
	struct thread_work work = { .thread = thread, .batch = batch, .core = (Core *)core };
	int r = restore_get(tree->images, IMAGE_THREAD_EXTRA, (uint32_t)thread->tid, thread_extra, &extra, error);

	work.extra = extra;
	if (r == 0 && !is_complete(core))
		r = error_set(error, -EPROTO, "the core record of thread %d is incomplete", thread->tid);
	if (r == 0)
		r = thread_scheduling(&work, error);
	if (r == 0 && thread_batch(process, &work, &tree->host->creds, NULL) < 0)
		r = error_set_errno(error, -ENOMEM, "cannot set up thread %d", thread->tid);
	return r < 0 ? r : thread_registers(tree->host, &work, error);
}

static int work_begin(struct restore_tree *tree, struct thread_work *work, struct tracee_thread *thread,
		      struct error *error)
{
	uint32_t id = (uint32_t)thread->tid;
	int r;

	work->thread = thread;
	work->batch = tracee_batch_new();
	if (!work->batch)
		return error_set_errno(error, -ENOMEM, "cannot set up thread %u", id);
	r = restore_get(tree->images, IMAGE_CORE, id, core, &work->core, error);
	if (r == 0)
		r = restore_get(tree->images, IMAGE_THREAD_EXTRA, id, thread_extra, &work->extra, error);
	if (r == 0 && !is_complete(work->core))
		r = error_set(error, -EPROTO, "the core record of thread %u is incomplete", id);
	return r;
}

static int works_run(struct restore_tree *tree, struct tracee_process *tracee, struct thread_work *works,
		     struct error *error)
{
	size_t count = tracee->threads.count;
	struct tracee_batch **batches = calloc(count, sizeof(*batches));
	int r;

	if (!batches)
		return error_set_errno(error, -ENOMEM, "cannot set up the threads of PID %d", tracee->pid);
	for (size_t i = 0; i < count; i++)
		batches[i] = works[i].batch;
	r = tracee_batch_run_many(tracee->threads.items, batches, count, tree->deadline, error);
	free(batches);
	return r;
}

static int works_seccomp(struct restore_tree *tree, const struct thread_work *works, size_t count, struct error *error)
{
	struct restore_seccomp_thread *threads;
	bool any = false;
	int r;

	for (size_t i = 0; i < count; i++)
		any = any || works[i].core->thread_core->seccomp_mode != SECCOMP_MODE__SECCOMP_NONE;
	if (!any)
		return 0;
	threads = calloc(count, sizeof(*threads));
	if (!threads)
		return error_set_errno(error, -ENOMEM, "cannot set up the threads of PID %d", works[0].thread->process->pid);
	for (size_t i = 0; i < count; i++)
		threads[i] = (struct restore_seccomp_thread){ works[i].thread, works[i].core->thread_core };
	r = restore_seccomp_apply(tree, threads, count, error);
	free(threads);
	return r;
}

int restore_leader_end(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ ProcessExtra *extra = NULL;
	int r = restore_get(tree->images, IMAGE_PROCESS_EXTRA, (uint32_t)process->pid, process_extra, &extra, error);

	return r < 0 || !extra->main_thread_ended ? r : tracee_process_end_leader(process->tracee, tree->deadline, error);
}

int restore_threads_apply(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	struct tracee_process *tracee = process->tracee;
	size_t count = tracee->threads.count;
	struct thread_work *works = calloc(count, sizeof(*works));
	_cleanup_message_ Core *leader = NULL;
	const ProcessTimers *timers = NULL;
	int r = works ? 0 : error_set_errno(error, -ENOMEM, "cannot set up the threads of PID %d", process->pid);

	for (size_t i = 0; r == 0 && i < count; i++) {
		r = work_begin(tree, &works[i], tracee->threads.items[i], error);
		if (r == 0)
			r = restore_thread_place(tree, tracee->threads.items[i], error);
	}
	if (r == 0)
		r = works_seccomp(tree, works, count, error);
	if (r == 0)
		r = restore_get(tree->images, IMAGE_CORE, (uint32_t)process->pid, core, &leader, error);
	if (r == 0 && leader->tc)
		timers = leader->tc->timers;
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = thread_scheduling(&works[i], error);
		if (r == 0 && thread_batch(process, &works[i], &tree->host->creds, timers) < 0)
			r = error_set_errno(error, -ENOMEM, "cannot set up thread %d", works[i].thread->tid);
	}
	if (r == 0)
		r = works_run(tree, tracee, works, error);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = thread_registers(tree->host, &works[i], error);
	work_free(works, count);
	return r;
}
