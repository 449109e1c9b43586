/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads of a stopped process.
 *
 * What the kernel tells from outside (registers, vector state, mask, pending signals, robust list, rseq, scheduling,
 * credentials) is asked from outside. What only the thread itself can ask (alternate stack, clear_child_tid, death
 * signal, timer slack, securebits) is one batch a thread, and all threads run theirs at the same time. The first thread's
 * batch also has the questions about the process: signal actions, timers, limits, break, and the like.
 *
 * Happy path: ask, run, answer; one IMAGE_CORE and one IMAGE_THREAD_EXTRA record a thread. Failures: a thread that is
 * killed meanwhile (-ESRCH), memory.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#ifndef PR_GET_TIMERSLACK
#define PR_GET_TIMERSLACK 30
#endif
#ifndef ARCH_GET_XCOMP_PERM
#define ARCH_GET_XCOMP_PERM 0x1022
#endif
#define MEMBARRIER_GET_REGISTRATIONS (1 << 9) /* 6.3 */
#define IOPRIO_WHO_PROCESS 1
#define OWN_GROUPS         32
#define AFFINITY_MAX       1024 /* bytes: 8192 CPUs */
#define SMALL_FILE_MAX     256
#define SIGNAL_STATE_ALIVE   1
#define SIGNAL_STATE_STOPPED 3

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

/* What a thread says of its own credentials. Compared byte by byte. */
struct own_creds {
	uint32_t uid[3];
	uint32_t gid[3];
	struct __user_cap_data_struct capabilities[2];
	uint32_t groups[OWN_GROUPS]; /* the first ones */
};

/* What threads are compared with. */
struct leader_creds {
	struct own_creds creds;
	struct dump_status status; /* owned */
};

/* Questions to one thread. */
struct thread_query {
	struct tracee_batch *batch; /* owned */
	struct leader_creds *leader; /* borrowed, shared by all threads */
	uint64_t creds;             /* token of its struct own_creds */
	uint64_t alt_stack;         /* tokens */
	uint64_t clear_tid;
	uint64_t death_signal;
	uint64_t name;
	int timer_slack; /* indices of calls */
	int securebits;
	int no_new_privs;
	int seccomp;
	struct dump_setting_query settings;
};

/* Questions to the process, in the batch of its first thread. */
struct process_query {
	struct dump_signal_query signals;
	struct dump_timer_query timers; /* owned */
	struct dump_process_setting_query settings;
	uint64_t limits;                /* token of the room for all limits */
	uint64_t permissions;
	uint64_t subreaper;
	int brk; /* indices of calls */
	int dumpable;
	int personality;
	int membarrier;
	int permissions_call;
	int descriptor_flags; /* index of the first of DUMP_FLAGS_AHEAD calls */
};

static void creds_ask(struct thread_query *query)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct tracee_batch *batch = query->batch;
	uint64_t creds = tracee_batch_space(batch, sizeof(struct own_creds));
	uint64_t uid = creds + offsetof(struct own_creds, uid), gid = creds + offsetof(struct own_creds, gid);

	query->creds = creds;
	tracee_batch_call(batch, SYS_getresuid, uid, uid + 4, uid + 8);
	tracee_batch_call(batch, SYS_getresgid, gid, gid + 4, gid + 8);
	tracee_batch_call(batch, SYS_capget, tracee_batch_data(batch, &header, sizeof(header)),
			  creds + offsetof(struct own_creds, capabilities));
	/* Fails when there are more, in all threads alike. */
	tracee_batch_try(batch, SYS_getgroups, OWN_GROUPS, creds + offsetof(struct own_creds, groups));
	query->no_new_privs = tracee_batch_call(batch, SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	query->securebits = tracee_batch_call(batch, SYS_prctl, PR_GET_SECUREBITS);
}

static void thread_ask(struct thread_query *query)
{
	struct tracee_batch *batch = query->batch;

	query->alt_stack = tracee_batch_space(batch, sizeof(stack_t));
	query->clear_tid = tracee_batch_space(batch, sizeof(uint64_t));
	query->death_signal = tracee_batch_space(batch, sizeof(int));
	query->name = tracee_batch_space(batch, 16);
	tracee_batch_call(batch, SYS_sigaltstack, 0, query->alt_stack);
	tracee_batch_call(batch, SYS_prctl, PR_GET_TID_ADDRESS, query->clear_tid);
	tracee_batch_call(batch, SYS_prctl, PR_GET_PDEATHSIG, query->death_signal);
	tracee_batch_call(batch, SYS_prctl, PR_GET_NAME, query->name);
	query->timer_slack = tracee_batch_call(batch, SYS_prctl, PR_GET_TIMERSLACK);
	query->seccomp = tracee_batch_call(batch, SYS_prctl, PR_GET_SECCOMP);
	dump_setting_ask(batch, &query->settings);
	creds_ask(query);
}

static int process_ask(struct dump_context *ctx, const struct dump_process *process, struct tracee_batch *batch,
		       struct process_query *query, struct error *error)
{
	query->limits = tracee_batch_space(batch, RLIM_NLIMITS * sizeof(struct rlimit));
	query->permissions = tracee_batch_space(batch, sizeof(uint64_t));
	query->subreaper = tracee_batch_space(batch, sizeof(int));
	for (unsigned resource = 0; resource < RLIM_NLIMITS; resource++)
		tracee_batch_call(batch, SYS_prlimit64, 0, resource, 0,
				  query->limits + resource * sizeof(struct rlimit));
	tracee_batch_call(batch, SYS_prctl, PR_GET_CHILD_SUBREAPER, query->subreaper);
	query->brk = tracee_batch_call(batch, SYS_brk, 0);
	query->dumpable = tracee_batch_call(batch, SYS_prctl, PR_GET_DUMPABLE);
	dump_setting_process_ask(batch, &query->settings);
	query->personality = tracee_batch_call(batch, SYS_personality, 0xffffffff);
	query->membarrier = tracee_batch_try(batch, SYS_membarrier, MEMBARRIER_GET_REGISTRATIONS);
	query->permissions_call = tracee_batch_try(batch, SYS_arch_prctl, ARCH_GET_XCOMP_PERM, query->permissions);
	/* Most processes have no other descriptors; those that have are asked once more (file-facts.c). */
	query->descriptor_flags = tracee_batch_try(batch, SYS_fcntl, 0, F_GETFD);
	for (int number = 1; number < DUMP_FLAGS_AHEAD; number++)
		tracee_batch_try(batch, SYS_fcntl, number, F_GETFD);
	dump_signal_ask(batch, &query->signals);
	return dump_timer_ask(ctx, process, batch, &query->timers, error);
}

static void registers_message(const struct user_regs_struct *regs, X86Registers *message)
{
	*message = (X86Registers)X86_REGISTERS__INIT;
	message->r15 = regs->r15;
	message->r14 = regs->r14;
	message->r13 = regs->r13;
	message->r12 = regs->r12;
	message->bp = regs->rbp;
	message->bx = regs->rbx;
	message->r11 = regs->r11;
	message->r10 = regs->r10;
	message->r9 = regs->r9;
	message->r8 = regs->r8;
	message->ax = regs->rax;
	message->cx = regs->rcx;
	message->dx = regs->rdx;
	message->si = regs->rsi;
	message->di = regs->rdi;
	message->orig_ax = regs->orig_rax;
	message->ip = regs->rip;
	message->cs = regs->cs;
	message->flags = regs->eflags;
	message->sp = regs->rsp;
	message->ss = regs->ss;
	message->fs_base = regs->fs_base;
	message->gs_base = regs->gs_base;
	message->ds = regs->ds;
	message->es = regs->es;
	message->fs = regs->fs;
	message->gs = regs->gs;
}

static int thread_scheduling(const struct dump_host *host, struct tracee_thread *thread,
			     struct dump_arena *arena, CoreThread *core, ThreadExtra *extra, struct error *error)
{
	struct sched_attributes attributes = { .size = sizeof(attributes) };
	long size;

	if (syscall(SYS_sched_getattr, thread->tid, &attributes, sizeof(attributes), 0) < 0)
		return error_set_errno(error, -errno, "cannot read the scheduling policy of thread %d", thread->tid);
	core->has_sched_nice = true;
	/* sched_getattr() tells it of ordinary policies only; a real-time thread keeps one for later. */
	core->sched_nice = attributes.policy == SCHED_OTHER || attributes.policy == SCHED_BATCH
				   ? attributes.nice
				   : getpriority(PRIO_PROCESS, (id_t)thread->tid);
	core->has_sched_policy = true;
	core->sched_policy = attributes.policy;
	core->has_sched_prio = true;
	core->sched_prio = attributes.priority;
	extra->sched_flags = attributes.flags;
	extra->sched_runtime = attributes.runtime;
	extra->sched_deadline = attributes.deadline;
	extra->sched_period = attributes.period;

	extra->affinity.data = dump_arena_take(arena, AFFINITY_MAX);
	if (!extra->affinity.data)
		return error_set_errno(error, -ENOMEM, "cannot keep the affinity of thread %d", thread->tid);
	size = syscall(SYS_sched_getaffinity, thread->tid, AFFINITY_MAX, extra->affinity.data);
	if (size < 0)
		return error_set_errno(error, -errno, "cannot read the CPU affinity of thread %d", thread->tid);
	extra->affinity.len = (size_t)size;
	extra->affinity_all = dump_affinity_is_all(host, extra->affinity.data, (size_t)size);
	size = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread->tid);
	extra->io_priority = size > 0 ? (uint32_t)size : 0;
	return 0;
}

/*
 * /proc/PID/task/TID/status has all credentials, and takes some 20 us to read. It is read for the first thread, and for
 * those that differ from it in what they say themselves.
 */
static int thread_creds(const struct dump_process *process, const struct tracee_thread *thread,
			 const struct thread_query *query,
			struct dump_status *leader, struct dump_arena *arena, Creds *creds, ThreadExtra *extra,
			struct error *error)
{
	uint32_t securebits = (uint32_t)tracee_batch_result(query->batch, query->securebits);
	const struct own_creds *own = tracee_batch_output(query->batch, query->creds);
	struct dump_status status = { 0 };
	int r;

	if (thread->tid == process->tracee->threads.items[0]->tid) {
		r = dump_status_read(process->pid, thread->tid, leader, error);
		if (r == 0)
			r = dump_creds(leader, securebits, arena, creds, extra);
		query->leader->creds = *own;
	} else if (memcmp(own, &query->leader->creds, sizeof(*own)) == 0 &&
		   (tracee_batch_result(query->batch, query->no_new_privs) == 1) == leader->no_new_privs) {
		r = dump_creds(leader, securebits, arena, creds, extra);
	} else {
		r = dump_status_read(process->pid, thread->tid, &status, error);
		if (r == 0)
			r = dump_creds(&status, securebits, arena, creds, extra);
		dump_status_deinit(&status);
	}
	return r < 0 ? error_set_errno(error, r, "cannot read the credentials of thread %d", thread->tid) : 0;
}

static int thread_answer(struct dump_context *ctx, struct dump_process *process, struct tracee_thread *thread,
			 const struct thread_query *query, struct dump_arena *arena, Core *message,
			 ThreadExtra *extra, struct error *error)
{
	CoreThread *core = message->thread_core;
	X86Thread *machine = message->thread_info;
	struct user_regs_struct regs = thread->regs;
	const stack_t *alt_stack = tracee_batch_output(query->batch, query->alt_stack);
	uint64_t robust, robust_size;
	int r;

	tracee_regs_prepare_restart(&regs);
	registers_message(&regs, machine->gpregs);
	memcpy(&machine->clear_tid_addr, tracee_batch_output(query->batch, query->clear_tid), sizeof(uint64_t));

	core->comm = dump_arena_string(arena, tracee_batch_output(query->batch, query->name));
	if (!core->comm)
		return error_set_errno(error, -ENOMEM, "cannot keep the name of thread %d", thread->tid);
	core->has_blk_sigset = true;
	core->blk_sigset = thread->sigmask;
	core->sas->ss_sp = (uintptr_t)alt_stack->ss_sp;
	core->sas->ss_size = alt_stack->ss_size;
	core->sas->ss_flags = (uint32_t)alt_stack->ss_flags & ~(uint32_t)SS_ONSTACK;
	core->has_pdeath_sig = true;
	memcpy(&core->pdeath_sig, tracee_batch_output(query->batch, query->death_signal), sizeof(int));
	r = tracee_thread_get_robust_list(thread, &robust, &robust_size, error);
	if (r < 0)
		return r;
	core->futex_rla = robust;
	core->futex_rla_len = (uint32_t)robust_size;
	if (thread->rseq.address) {
		core->rseq_entry->rseq_abi_pointer = thread->rseq.address;
		core->rseq_entry->rseq_abi_size = thread->rseq.size;
		core->rseq_entry->signature = thread->rseq.signature;
	} else {
		core->rseq_entry = NULL;
	}
	extra->timer_slack = (uint64_t)tracee_batch_result(query->batch, query->timer_slack);

	r = thread_creds(process, thread, query, &query->leader->status, arena, core->creds, extra, error);
	if (r == 0)
		r = dump_seccomp_thread(ctx, thread, tracee_batch_result(query->batch, query->seccomp), core, error);
	if (r == 0 && dump_setting_answer(query->batch, &query->settings, arena, extra) < 0)
		r = error_set_errno(error, -ENOMEM, "cannot keep the settings of thread %d", thread->tid);
	if (r == 0)
		r = thread_scheduling(ctx->host, thread, arena, core, extra, error);
	if (r == 0)
		r = dump_signal_pending(thread, false, arena, &core->signals_p, error);
	if (r == 0)
		r = dump_xstate(&ctx->host->xsave, thread, arena, machine->fpregs, extra, error);
	return r;
}

static int limits_answer(const struct tracee_batch *batch, const struct process_query *query, struct dump_arena *arena,
			 CoreProcess *message)
{
	const struct rlimit *limits = tracee_batch_output(batch, query->limits);
	ResourceLimits *list = dump_arena_take(arena, sizeof(*list));
	ResourceLimit *entries = dump_arena_take(arena, RLIM_NLIMITS * sizeof(*entries));
	ResourceLimit **pointers = dump_arena_take(arena, RLIM_NLIMITS * sizeof(*pointers));

	if (!list || !entries || !pointers)
		return -ENOMEM;
	*list = (ResourceLimits)RESOURCE_LIMITS__INIT;
	for (size_t i = 0; i < RLIM_NLIMITS; i++) {
		entries[i] = (ResourceLimit)RESOURCE_LIMIT__INIT;
		entries[i].cur = limits[i].rlim_cur;
		entries[i].max = limits[i].rlim_max;
		pointers[i] = &entries[i];
	}
	list->rlimits = pointers;
	list->n_rlimits = RLIM_NLIMITS;
	message->rlimits = list;
	return 0;
}

static int process_answer(struct dump_context *ctx, struct dump_process *process, const struct tracee_batch *batch,
			  const struct process_query *query, struct dump_arena *arena, CoreProcess *message,
			  struct dump_process_facts *facts, struct error *error)
{
	struct tracee_thread *leader = process->tracee->threads.items[0];
	const struct dump_look *look;
	int r = dump_look_get(process, &look, error);

	if (r < 0)
		return r;
	message->task_state = leader->group_stopped ? SIGNAL_STATE_STOPPED : SIGNAL_STATE_ALIVE;
	message->personality = (uint32_t)tracee_batch_result(batch, query->personality);
	message->flags = process->stat.flags;
	message->blk_sigset = leader->sigmask;
	message->comm = process->stat.comm;
	message->has_oom_score_adj = true;
	message->oom_score_adj = look->oom_score_adj;
	message->has_child_subreaper = true;
	message->child_subreaper = *(const int *)tracee_batch_output(batch, query->subreaper) != 0;
	process->asked_flags = true;
	process->close_on_exec = 0;
	for (int number = 0; number < DUMP_FLAGS_AHEAD; number++)
		if (tracee_batch_result(batch, query->descriptor_flags + number) == FD_CLOEXEC)
			process->close_on_exec |= UINT32_C(1) << number;
	facts->brk = (uint64_t)tracee_batch_result(batch, query->brk);
	facts->dumpable = (int)tracee_batch_result(batch, query->dumpable);
	facts->thp_disabled = tracee_batch_result(batch, query->settings.huge_pages) > 0;
	message->loginuid = look->loginuid;
	message->has_loginuid = look->has_loginuid;

	r = dump_signal_answer(batch, &query->signals, arena, message);
	if (r == 0)
		r = dump_timer_answer(batch, &query->timers, arena, message);
	if (r == 0)
		r = limits_answer(batch, query, arena, message);
	if (r < 0)
		return error_set_errno(error, r, "cannot keep the state of PID %d", process->pid);
	return dump_signal_pending(leader, true, arena, &message->signals_s, error);
}

static int process_extra(struct dump_context *ctx, struct dump_process *process,
			 const struct tracee_batch *batch, const struct process_query *query,
			 const struct dump_status *status, struct error *error)
{
	ProcessExtra extra = PROCESS_EXTRA__INIT;
	int64_t registrations = tracee_batch_result(batch, query->membarrier);
	const struct dump_look *look;
	int r = dump_look_get(process, &look, error);

	if (r < 0)
		return r;
	if (tracee_batch_result(batch, query->permissions_call) == 0)
		memcpy(&extra.xcomp_permissions, tracee_batch_output(batch, query->permissions), sizeof(uint64_t));
	extra.coredump_filter = look->coredump_filter;
	if (process->tracee->threads.items[0]->group_stopped) {
		r = dump_stop(ctx, process, &extra, error);
		if (r < 0)
			return r;
	}
	extra.has_main_thread_ended = extra.main_thread_ended = process->tracee->leader_dead;
	extra.membarrier = registrations > 0 ? (uint32_t)registrations : 0;
	extra.has_seccomp = extra.seccomp = process->seccomp;
	dump_setting_process_answer(batch, &query->settings, &extra);
	r = dump_setting_locks(ctx, process, status, &extra, error);
	return r < 0 ? r : image_set_add(ctx->images, IMAGE_PROCESS_EXTRA, (uint32_t)process->pid, &extra.base, error);
}

/* A message with all that a thread's record needs, empty. */
static Core *core_new(struct dump_arena *arena, bool leader)
{
	struct {
		Core core;
		X86Thread machine;
		X86Registers registers;
		X86Fpu fpu;
		CoreThread thread;
		AltStack alt_stack;
		Creds creds;
		RseqRegistration rseq;
		CoreProcess process;
	} *block = dump_arena_take(arena, sizeof(*block));

	if (!block)
		return NULL;
	block->core = (Core)CORE__INIT;
	block->core.mtype = CORE__MACHINE__X86_64;
	block->core.thread_info = &block->machine;
	block->machine = (X86Thread)X86_THREAD__INIT;
	block->machine.gpregs = &block->registers;
	block->machine.fpregs = &block->fpu;
	block->fpu = (X86Fpu)X86_FPU__INIT;
	block->core.thread_core = &block->thread;
	block->thread = (CoreThread)CORE_THREAD__INIT;
	block->thread.sas = &block->alt_stack;
	block->alt_stack = (AltStack)ALT_STACK__INIT;
	block->thread.creds = &block->creds;
	block->creds = (Creds)CREDS__INIT;
	block->thread.rseq_entry = &block->rseq;
	block->rseq = (RseqRegistration)RSEQ_REGISTRATION__INIT;
	if (leader) {
		block->core.tc = &block->process;
		block->process = (CoreProcess)CORE_PROCESS__INIT;
	}
	return &block->core;
}

/* As the first one that lives, with the state of the process, which goes out of `core`. */
static int leader_record(struct dump_context *ctx, const struct dump_process *process, Core *core, const ThreadExtra *extra,
			 struct error *error)
{
	int r = image_set_add(ctx->images, IMAGE_CORE, (uint32_t)process->pid, &core->base, error);

	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_THREAD_EXTRA, (uint32_t)process->pid, &extra->base, error);
	core->tc = NULL;
	return r;
}

static int thread_record(struct dump_context *ctx, struct dump_process *process, size_t index,
			 const struct thread_query *query, const struct process_query *whole,
			 struct dump_arena *arena, struct dump_process_facts *facts, struct error *error)
{
	struct tracee_thread *thread = process->tracee->threads.items[index];
	ThreadExtra extra = THREAD_EXTRA__INIT;
	Core *core = core_new(arena, index == 0);
	bool for_leader = index == 0 && thread->tid != process->pid;
	int r;

	if (!core)
		return error_set_errno(error, -ENOMEM, "cannot keep the state of thread %d", thread->tid);
	extra.pid = (uint32_t)process->pid;
	r = thread_answer(ctx, process, thread, query, arena, core, &extra, error);
	if (r == 0 && index == 0)
		r = process_answer(ctx, process, query->batch, whole, arena, core->tc, facts, error);
	/* A main thread that has ended has a record of its own, since that is the process's. */
	if (r == 0 && for_leader)
		r = leader_record(ctx, process, core, &extra, error);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_CORE, (uint32_t)thread->tid, &core->base, error);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_THREAD_EXTRA, (uint32_t)thread->tid, &extra.base, error);
	return r;
}

struct dump_asked {
	struct dump_process *process;   /* borrowed */
	struct thread_query *queries;   /* owned, one a thread */
	size_t count;                   /* of threads */
	struct process_query whole;     /* owned */
	struct leader_creds leader;     /* owned */
};

void dump_threads_forget(struct dump_asked *asked)
{
	if (!asked)
		return;
	for (size_t i = 0; asked->queries && i < asked->count; i++)
		tracee_batch_free(asked->queries[i].batch);
	free(asked->queries);
	dump_timer_query_deinit(&asked->whole.timers);
	dump_status_deinit(&asked->leader.status);
	free(asked);
}

int dump_threads_ask(struct dump_context *ctx, struct dump_process *process, struct dump_asked **ret,
		     struct error *error)
{
	struct dump_asked *asked = calloc(1, sizeof(*asked));
	int r = 0;

	if (asked) {
		asked->process = process;
		asked->count = process->tracee->threads.count;
		asked->queries = calloc(asked->count, sizeof(*asked->queries));
	}
	for (size_t i = 0; asked && asked->queries && i < asked->count && r == 0; i++) {
		asked->queries[i].leader = &asked->leader;
		asked->queries[i].batch = tracee_batch_new();
		if (asked->queries[i].batch)
			thread_ask(&asked->queries[i]);
		else
			r = -ENOMEM;
	}
	if (!asked || !asked->queries || r < 0)
		r = error_set_errno(error, -ENOMEM, "cannot ask the threads of PID %d", process->pid);
	else
		r = process_ask(ctx, process, asked->queries[0].batch, &asked->whole, error);
	if (r < 0) {
		dump_threads_forget(asked);
		return r;
	}
	*ret = asked;
	return 0;
}

/* All threads, each with its batch. */
struct asked_threads {
	struct tracee_thread **threads; /* owned; those in there are borrowed */
	struct tracee_batch **batches;  /* likewise */
	size_t count;
};

static void asked_threads_deinit(struct asked_threads *all)
{
	free(all->threads);
	free(all->batches);
}

static int asked_threads_list(struct dump_asked *const *asked, size_t count, struct asked_threads *ret, struct error *error)
{
	size_t total = 0;

	for (size_t i = 0; i < count; i++)
		total += asked[i]->count;
	ret->threads = calloc(total + 1, sizeof(struct tracee_thread *));
	ret->batches = calloc(total + 1, sizeof(struct tracee_batch *));
	if (!ret->threads || !ret->batches)
		return error_set_errno(error, -ENOMEM, "cannot ask %zu threads", total);
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < asked[i]->count; k++, ret->count++) {
			ret->threads[ret->count] = asked[i]->process->tracee->threads.items[k];
			ret->batches[ret->count] = asked[i]->queries[k].batch;
		}
	return 0;
}

int dump_threads_make_room(struct dump_context *ctx, struct dump_asked *const *asked, size_t count, struct error *error)
{
	_cleanup_(asked_threads_deinit) struct asked_threads all = { 0 };
	int r = asked_threads_list(asked, count, &all, error);

	return r < 0 ? r : tracee_batch_make_room(all.threads, all.batches, all.count, ctx->deadline, error);
}

int dump_threads_run(struct dump_context *ctx, struct dump_asked *const *asked, size_t count, struct error *error)
{
	_cleanup_(asked_threads_deinit) struct asked_threads all = { 0 };
	int r = asked_threads_list(asked, count, &all, error);

	return r < 0 ? r : tracee_batch_run_many(all.threads, all.batches, all.count, ctx->deadline, error);
}

int dump_threads_answer(struct dump_context *ctx, const struct dump_asked *asked, struct dump_process_facts *ret_facts,
			struct error *error)
{
	_cleanup_(dump_arena_deinit) struct dump_arena arena = { 0 };
	struct dump_process *process = asked->process;
	struct dump_process_facts facts = { 0 };
	int r = 0;

	process->seccomp = false;
	for (size_t i = 0; i < asked->count; i++)
		process->seccomp |= tracee_batch_result(asked->queries[i].batch, asked->queries[i].seccomp) > 0;
	for (size_t i = 0; r == 0 && i < asked->count; i++, dump_arena_reset(&arena))
		r = thread_record(ctx, process, i, &asked->queries[i], &asked->whole, &arena, &facts, error);
	if (r == 0)
		r = process_extra(ctx, process, asked->queries[0].batch, &asked->whole, &asked->leader.status, error);
	if (r == 0)
		*ret_facts = facts;
	return r;
}
