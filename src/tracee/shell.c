/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shells: processes that the restore side builds.
 *
 * A shell is taken over from whoever seized it, filled by batches, multiplied by clone3 calls made
 * inside it, and at last given its final state: the area goes first, by a call at an instruction
 * that is in its memory anyway, then every thread gets its registers, vector registers and mask.
 * From then on letting go is one request a thread.
 *
 * Clones come up attached (PTRACE_O_TRACECLONE and TRACEFORK) and stop before their first
 * instruction. They hold the registers that their maker had inside the stub and must never run with
 * them: they count as being in the stub.
 *
 * Failure: a shell dies with its tracer and at release. Nothing of it needs undoing.
 */
#include "internal.h"

#include <errno.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OPTIONS_KEPT  (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK)
#define OPTIONS_SHELL (OPTIONS_KEPT | PTRACE_O_EXITKILL)

/* Lets it go on until it stops where signals are looked at: registers set elsewhere would be
 * overwritten. */
static int settle_stop(struct tracee_thread *thread, int64_t deadline, struct error *error)
{
	int status, r;

	for (;;) {
		ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
		r = ptrace_do(PTRACE_CONT, thread->tid, 0, 0);
		if (r < 0)
			return ptrace_fail(error, r, thread->tid, "let it run");
		r = wait_stop(thread->tid, deadline, &status);
		if (r < 0)
			return ptrace_fail(error, r, thread->tid, "wait for it");
		if (status >> 8 == EVENT_STOP)
			break;
	}
	thread->stopped = true;
	return 0;
}

int tracee_process_adopt(pid_t pid, uint64_t area_address, const struct tracee_options *options,
			 int64_t deadline, struct tracee_process **ret, struct error *error)
{
	struct tracee_process *process = NULL;
	struct tracee_thread *thread;
	int r;

	r = process_new(pid, options, &process, error);
	if (r < 0)
		return r;
	process->exit_kill = process->whole = true;
	process->own->wanted_address = area_address;
	/* Filters that a shell gets shall not judge what it still has to do. Its clones have the same options. */
	r = ptrace_do(PTRACE_SETOPTIONS, pid, 0, OPTIONS_SHELL | PTRACE_O_SUSPEND_SECCOMP);
	if (r == -EPERM || r == -EINVAL)
		r = ptrace_do(PTRACE_SETOPTIONS, pid, 0, OPTIONS_SHELL);
	if (r < 0)
		r = ptrace_fail(error, r, pid, "set its trace options");
	if (r == 0)
		r = thread_new(process, pid, &thread, error);
	if (r == 0)
		r = settle_stop(thread, deadline, error);
	if (r == 0)
		r = process_open(process, error);
	if (r == 0)
		r = thread_read(thread, error);
	if (r < 0) {
		process_free(process);
		return r;
	}
	*ret = process;
	return 0;
}

/* ---- clones */

/* Runs clone3 in the thread; the new task is stopped and seen as `ret` from here. */
static int run_clone(struct tracee_thread *by, struct clone_args *args, pid_t tid, int64_t deadline,
		     pid_t *ret, struct error *error)
{
	struct tracee_private_process *own = by->process->own;
	struct tracee_batch *batch = tracee_batch_new();
	uint64_t token;
	int status, r;

	if (!batch)
		return error_set(error, -ENOMEM, "out of memory");
	if (tid) {
		args->set_tid = tracee_batch_data(batch, &tid, sizeof(tid));
		args->set_tid_size = 1;
	}
	token = tracee_batch_data(batch, args, sizeof(*args));
	if (tid)
		tracee_batch_point(batch, token + offsetof(struct clone_args, set_tid),
				   args->set_tid);
	tracee_batch_call(batch, SYS_clone3, token, sizeof(*args));
	array_clear(&own->newborn);
	r = tracee_batch_run(by, batch, deadline, error);
	tracee_batch_free(batch);
	if (r == -EEXIST && tid)
		error_wrap(error, r, "PID %d is in use", tid);
	if (r < 0)
		return r;
	if (own->newborn.count != 1)
		return error_set(error, -EPROTO, "PID %d: its clone was not reported",
				 by->process->pid);
	*ret = own->newborn.items[0];
	array_clear(&own->newborn);
	r = wait_stop(*ret, deadline, &status);
	return r < 0 ? ptrace_fail(error, r, *ret, "wait for the clone") : 0;
}

/* A new thread with the state of `by` for its start, and what the kernel knows of it noted. */
static int add_clone(struct tracee_process *process, const struct tracee_thread *by, pid_t tid,
		     struct tracee_thread **ret, struct error *error)
{
	struct tracee_thread *thread;
	int r = thread_new(process, tid, &thread, error);

	if (r < 0)
		return r;
	thread->regs = by->regs;
	thread->sigmask = by->sigmask;
	thread->stopped = true;
	thread->own->in_stub = thread->own->masked = true;
	thread->own->mask = by->own->mask;
	if (by->own->xstate_known) {
		thread->own->xstate = malloc(TRACEE_XSTATE_MAX);
		if (!thread->own->xstate)
			return error_set(error, -ENOMEM, "out of memory");
		memcpy(thread->own->xstate, by->own->xstate, by->own->xstate_size);
		thread->own->xstate_size = by->own->xstate_size;
		thread->own->xstate_known = true;
		thread->own->xstate_changed = by->own->xstate_changed;
	}
	*ret = thread;
	return 0;
}

int tracee_thread_clone(struct tracee_thread *by, pid_t tid, int64_t deadline,
			struct tracee_thread **ret, struct error *error)
{
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			 CLONE_SYSVSEM,
	};
	int r;

	if (!by->process->exit_kill)
		return error_set(error, -EINVAL, "PID %d is not a shell", by->process->pid);
	r = run_clone(by, &args, tid, deadline, &tid, error);
	if (r < 0)
		return r;
	return add_clone(by->process, by, tid, ret, error);
}

/* A clone that could not be taken over is nobody's: ended here, as its maker's end would not end it. */
static void end_clone(pid_t pid)
{
	int64_t deadline = clock_deadline(GRACE_NS);
	int status;

	if (kill(pid, SIGKILL) < 0)
		return;
	while (wait_stop(pid, deadline, &status) == 0 && clock_now_ns() < deadline)
		sched_yield();
}

int tracee_process_clone(struct tracee_thread *by, pid_t pid, uint64_t flags, int exit_signal,
			 int64_t deadline, struct tracee_process **ret, struct error *error)
{
	struct clone_args args = { .flags = flags, .exit_signal = (uint64_t)exit_signal };
	struct tracee_process *process = NULL, *maker = by->process;
	struct tracee_thread *thread;
	int r;

	if (!maker->exit_kill || (flags & (CLONE_THREAD | CLONE_VFORK | CLONE_UNTRACED)))
		return error_set(error, -EINVAL, "PID %d: no process can be cloned like that",
				 maker->pid);
	r = run_clone(by, &args, pid, deadline, &pid, error);
	if (r < 0)
		return r;
	r = process_new(pid, NULL, &process, error);
	if (r == 0)
		r = add_clone(process, by, pid, &thread, error);
	if (r == 0)
		r = process_open(process, error);
	if (r < 0) {
		end_clone(pid);
		process_free(process);
		return r;
	}
	process->exit_kill = process->whole = true;
	process->parent = maker;
	if (flags & CLONE_VM) { /* what is mapped there is the maker's to move and unmap */
		process->own->is_guest = true;
		*ret = process;
		return 0;
	}
	process->area_address = maker->area_address;
	process->area_size = maker->area_size;
	process->own->wanted_address = maker->own->wanted_address;
	process->own->gadgets = maker->own->gadgets;
	process->own->slot_size = maker->own->slot_size;
	process->own->slots = maker->own->slots;
	process->own->slots_open = true;
	process->own->xstate_size = maker->own->xstate_size;
	*ret = process;
	return 0;
}

/* Injected, since the stub's end is not reached. */
int tracee_thread_end(struct tracee_thread *thread, int64_t deadline, struct error *error)
{
	const uint64_t args[6] = { 0 };
	struct tracee_process *process = thread->process;
	int64_t result;
	int r;

	if (!process->exit_kill || thread->tid == process->pid)
		return error_set(error, -EINVAL, "PID %d: thread %d cannot be ended", process->pid,
				 thread->tid);
	r = inject_call(thread, deadline, &result, NULL, SYS_exit, args);
	if (r != -ESRCH)
		return error_set(error, r < 0 ? r : -EPROTO, "PID %d: thread %d does not end",
				 process->pid, thread->tid);
	process_remove_thread(process, thread);
	return 0;
}

/*
 * It leaves by itself, untraced: the zombie of a traced leader would stay with its tracer. Until it is seen to have ended, all
 * its signals are blocked, and what it executes is one call from which it does not come back.
 */
int tracee_process_end_leader(struct tracee_process *process, int64_t deadline, struct error *error)
{
	static const struct timespec pause = { .tv_nsec = 50000 };
	struct tracee_thread *leader = process->threads.count ? process->threads.items[0] : NULL;
	struct user_regs_struct regs;
	struct procfs_stat stat;
	int r;

	if (!process->exit_kill || process->threads.count < 2 || leader->tid != process->pid)
		return error_set(error, -EINVAL, "PID %d is no shell with a leader and other threads", process->pid);
	r = gadgets_find(process, error);
	if (r == 0)
		r = thread_set_kernel_mask(leader, MASK_ALL, error);
	if (r < 0)
		return r;
	regs = leader->regs;
	regs.rip = process->own->gadgets.syscall;
	regs.rax = SYS_exit;
	regs.rdi = 0;
	regs.orig_rax = UINT64_MAX;
	r = thread_set_kernel_regs(leader, &regs, error);
	if (r == 0 && (r = ptrace_do(PTRACE_DETACH, leader->tid, 0, 0)) < 0)
		ptrace_fail(error, r, leader->tid, "let it end");
	if (r < 0)
		return r;
	process->leader_dead = true;
	process_remove_thread(process, leader);
	while (procfs_read_stat(process->pid, &stat, NULL) == 0 && stat.state != 'Z') {
		if (clock_now_ns() > deadline)
			return error_set(error, -ETIMEDOUT, "PID %d: its main thread does not end", process->pid);
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* The signal is delivered before it executes anything; what is blocked or handled is so by nobody but the engine. */
static int die_by(struct tracee_process *process, int signal, int64_t deadline, struct error *error)
{
	struct tracee_thread *thread = process->threads.items[0];
	int status, r;

	r = thread_unpark(thread, error);
	if (r == 0)
		r = thread_set_kernel_mask(thread, 0, error);
	if (r == 0 && syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0) < 0)
		r = ptrace_fail(error, -errno, process->pid, "send it a signal");
	for (uint64_t deliver = 0; r == 0; deliver = (uint64_t)signal) {
		if (signal != SIGKILL)
			r = ptrace_do(PTRACE_CONT, thread->tid, 0, deliver);
		if (r == 0)
			r = wait_stop(thread->tid, deadline, &status);
		if (r == 0 && deliver)
			return error_set(error, -EINVAL, "PID %d does not end by signal %d", process->pid, signal);
	}
	return r;
}

int tracee_process_die(struct tracee_process *process, int status, int64_t deadline, struct error *error)
{
	struct tracee_thread *thread = process->threads.items[0];
	const uint64_t code[6] = { (uint64_t)WEXITSTATUS(status) }, never[6] = { PR_SET_DUMPABLE };
	int64_t result;
	int r;

	if (!process->exit_kill || process->threads.count != 1)
		return error_set(error, -EINVAL, "PID %d is no shell of one thread", process->pid);
	tracee_process_code_moved(process);
	r = process->own->is_guest ? area_unmap(process, deadline, error) : 0;
	if (r < 0)
		return r;
	/* Or it would write a core. */
	r = inject_call(thread, deadline, &result, error, SYS_prctl, never);
	if (r < 0)
		return r;
	r = WIFSIGNALED(status) ? die_by(process, WTERMSIG(status), deadline, error)
				: inject_call(thread, deadline, &result, NULL, SYS_exit_group, code);
	if (r != -ESRCH)
		return error_set(error, r < 0 ? r : -EPROTO, "PID %d does not end with status %#x",
				 process->pid, (unsigned)status);
	error_clear(error);
	tracee_process_forget(process);
	return 0;
}

/* ---- stopping a shell */

/*
 * Lets a thread go as far as its next stop, which comes before it executes anything: by the signal that is pending, or the
 * group's; by an interrupt if there is neither, as the signal that is delivered is thrown away.
 */
static int to_next_stop(struct tracee_thread *thread, bool interrupt, int deliver, int64_t deadline, int *ret_status,
			struct error *error)
{
	int r;

	if (interrupt)
		ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
	r = ptrace_do(PTRACE_CONT, thread->tid, 0, (uint64_t)deliver);
	if (r == 0) {
		thread->stopped = false;
		r = wait_stop(thread->tid, deadline, ret_status);
	}
	if (r < 0)
		return ptrace_fail(error, r, thread->tid, "stop it");
	thread->stopped = true;
	return 0;
}

int tracee_process_stop_group(struct tracee_process *process, int signal, int64_t deadline, struct error *error)
{
	struct tracee_thread *leader = process->threads.items[0];
	int status, r;

	if (!process->exit_kill)
		return error_set(error, -EINVAL, "PID %d is not a shell", process->pid);
	r = thread_unpark(leader, error);
	if (r == 0)
		r = thread_set_kernel_mask(leader, 0, error);
	if (r == 0 && syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0) < 0)
		r = ptrace_fail(error, -errno, process->pid, "send it a signal");
	if (r == 0)
		r = to_next_stop(leader, false, 0, deadline, &status, error);
	/* An interrupt that has not been met yet comes first. */
	if (r == 0 && status >> 8 == EVENT_STOP)
		r = to_next_stop(leader, false, 0, deadline, &status, error);
	if (r == 0 && status == signal)
		r = to_next_stop(leader, true, signal, deadline, &status, error);
	for (size_t i = 1; r == 0 && (status & 0xff) != SIGTRAP && i < process->threads.count; i++)
		r = to_next_stop(process->threads.items[i], true, 0, deadline, &status, error);
	leader->own->masked = true; /* it has another mask than its own */
	if (r == 0 && (status & 0xff) == SIGTRAP)
		return error_set(error, -EAGAIN, "PID %d is not stopped by signal %d", process->pid, signal);
	array_for_each (thread, &process->threads)
		(*thread)->group_stopped = r == 0;
	return r;
}

/* ---- the end of building */

/* The threads of a shell get what is theirs, for good. */
static int settle_threads(struct tracee_process *process, struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < process->threads.count; i++) {
		struct tracee_thread *thread = process->threads.items[i];

		thread->own->mask_changed = thread->own->regs_changed = true;
		r = thread_unpark(thread, error);
	}
	return r;
}

int tracee_process_finish_many(struct tracee_process *const *processes, size_t count, int64_t deadline, struct error *error)
{
	struct inject_many *calls = calloc(count + 1, sizeof(*calls));
	size_t areas = 0;
	int r = calls ? 0 : error_set(error, -ENOMEM, "out of memory");

	for (size_t i = 0; r == 0 && i < count; i++) {
		const struct tracee_process *process = processes[i];

		if (process->area_size)
			calls[areas++] = (struct inject_many){ .thread = process->threads.items[0], .nr = SYS_munmap,
							       .args = { process->area_address, process->area_size } };
	}
	if (r == 0)
		r = inject_call_many(calls, areas, deadline, error);
	for (size_t i = 0; r == 0 && i < areas; i++)
		r = area_unmapped(calls[i].thread->process, calls[i].result, error);
	free(calls);
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = settle_threads(processes[i], error);
		processes[i]->own->finished = r == 0;
	}
	return r;
}

int tracee_process_finish(struct tracee_process *process, int64_t deadline, struct error *error)
{
	return tracee_process_finish_many(&process, 1, deadline, error);
}

int tracee_process_keep(struct tracee_process *process, struct error *error)
{
	if (!process->own->finished)
		return error_set(error, -EINVAL, "PID %d is not finished", process->pid);
	array_for_each (thread, &process->threads) {
		int r = ptrace_do(PTRACE_SETOPTIONS, (*thread)->tid, 0, OPTIONS_KEPT);

		if (r < 0)
			return ptrace_fail(error, r, (*thread)->tid, "set its trace options");
	}
	process->own->kept = true;
	return 0;
}

void tracee_process_detach(struct tracee_process *process)
{
	process_detach(process);
	process_free(process);
}
