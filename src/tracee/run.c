/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running batches.
 *
 * A run of many: every thread gets its batch and its signal frame written into its slot and is set
 * going; then each is waited for, and its results are read. After a run the thread stays parked at
 * the end of the stub, with its signals blocked, until it is released or unparked; the next batch
 * starts from there.
 *
 * How a batch ends. The stub sends itself a signal that the process does not handle; the tracer
 * sees it on its way, knows it by the place where the thread is, and swallows it. The mask lets
 * only that signal through. If a genuine one comes first (same number, other place), it is put
 * back: with the signal blocked, the kernel queues it again; the rest of the batch then runs under
 * PTRACE_SYSCALL, where the tracer sees the end by the instruction pointer at a system call. The
 * same is done from the start where the process handles all candidates.
 *
 * Deadline: the thread is interrupted and sent to the end of the stub; what it had not done is not
 * done.
 */
#include "batch.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "stub.h"

#define FLAG_TRAP UINT64_C(0x100)
#define FLAG_DOWN UINT64_C(0x400)

static int read_caught(struct tracee_process *process, struct error *error)
{
	char value[32];
	int r;

	if (process->own->signals_known)
		return 0;
	r = procfs_read_status(process->threads.items[0]->tid, "SigCgt", value, sizeof(value),
			       error);
	if (r < 0)
		return r;
	process->own->caught = strtoull(value, NULL, 16);
	process->own->signals_known = true;
	return 0;
}

/*
 * Ignored by default, and not handled here: preferably one that the thread does not block either,
 * since a blocked one may be waited for. SIGCONT wakes a stopped process. 0: there is none.
 */
static int choose_signal(const struct tracee_thread *thread)
{
	static const int candidates[] = { SIGURG, SIGWINCH, SIGCHLD, SIGCONT };
	int second = 0;

	for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++) {
		int sig = candidates[i];

		if ((thread->process->own->caught & MASK_OF(sig)) ||
		    (sig == SIGCONT && thread->group_stopped))
			continue;
		if (!(thread->sigmask & MASK_OF(sig)))
			return sig;
		if (!second)
			second = sig;
	}
	return second;
}

static uint64_t stub_done_address(const struct tracee_process *process)
{
	return process->area_address + tracee_stub_done;
}

/* ---- start */

int tracee_batch_make_room(struct tracee_thread *const *threads, struct tracee_batch *const *batches,
			   size_t count, int64_t deadline, struct error *error)
{
	for (size_t i = 0; i < count;) {
		struct tracee_process *process = threads[i]->process;
		size_t new_slots = 0, largest = 0;
		int r;

		if (process->own->finished)
			return error_set(error, -EINVAL, "PID %d is finished: no more batches",
					 process->pid);
		for (; i < count && threads[i]->process == process; i++) {
			size_t size = batch_image_size(batches[i]);

			new_slots += threads[i]->own->slot < 0;
			largest = size > largest ? size : largest;
		}
		r = area_ensure(threads[i - 1], process->own->slots_used + new_slots, largest,
				deadline, error);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Two pieces, one behind the other. Through /proc/PID/mem as long as the process itself may not
 * write there, then by a call that looks pages up once.
 */
static int write_part(struct tracee_process *process, uint64_t address, const void *first,
		      size_t first_size, const void *second, size_t second_size,
		      struct error *error)
{
	struct iovec local[2] = { { (void *)first, first_size }, { (void *)second, second_size } };
	struct iovec remote = { (void *)address, first_size + second_size };
	int r;

	if (process->own->slots_open && process_vm_writev(process->threads.items[0]->tid, local, 2,
							  &remote, 1, 0) == (ssize_t)remote.iov_len)
		return 0;
	r = tracee_process_write(process, address, first, first_size, error);
	if (r == 0 && second_size)
		r = tracee_process_write(process, address + first_size, second, second_size, error);
	return r;
}

/*
 * Writes header, calls and bytes, and the frame if what is there does not lead to the present state
 * of the thread. A frame of usual size and the batch lie next to each other and are written as one.
 */
static int write_slot(struct tracee_thread *thread, struct tracee_batch *batch, uint8_t *frame,
		      struct error *error)
{
	struct tracee_process *process = thread->process;
	struct tracee_private_thread *own = thread->own;
	uint64_t slot, frame_address, batch_address;
	size_t frame_size = 0;
	int r;

	if (own->slot < 0) {
		if (process->own->slots_used >= process->own->slots)
			return error_set(error, -EINVAL, "PID %d: its threads do not come in a row",
					 process->pid);
		own->slot = (int)process->own->slots_used++;
		own->frame_stale = true;
		own->frame_address = 0;
	}
	slot = area_slot_address(process, own->slot);
	batch_address = area_batch_address(process, own->slot);
	r = batch_lay_out(batch, batch_address, error);
	if (r < 0)
		return r;
	if (own->frame_stale && !process->exit_kill) {
		r = frame_build(thread, slot, 0, frame, &frame_size, error);
		frame_address = slot;
		if (r == 0 && frame_size > SLOT_BATCH) {
			frame_address = slot + process->own->slot_size - FRAME_MAX;
			r = frame_build(thread, frame_address, 0, frame, &frame_size, error);
			if (r == 0)
				r = write_part(process, frame_address, frame, frame_size, NULL, 0,
					       error);
			frame_size = 0;
		}
		if (r < 0)
			return r;
		own->frame_address = frame_address;
	}
	batch_header(batch)->signal = (uint64_t)own->end_signal;
	batch_header(batch)->frame = own->frame_address;
	batch_header(batch)->begun = !process->own->slots_open;
	if (frame_size)
		r = write_part(process, slot, frame, SLOT_BATCH, batch->image.data,
			       batch->image.size, error);
	else
		r = write_part(process, batch_address, batch->image.data, batch->image.size, NULL,
			       0, error);
	if (r == 0)
		own->frame_stale = false;
	return r;
}

static int resume(struct tracee_thread *thread, int signal)
{
	return ptrace_do(thread->own->end_signal ? PTRACE_CONT : PTRACE_SYSCALL, thread->tid, 0,
			 (uint64_t)signal);
}

static int start(struct tracee_thread *thread, struct tracee_batch *batch, uint8_t *frame,
		 struct error *error)
{
	struct user_regs_struct regs = thread->regs;
	uint64_t mask;
	int r;

	if (!thread->stopped)
		return error_set(error, -EINVAL, "PID %d: thread %d is not stopped",
				 thread->process->pid, thread->tid);
	r = read_caught(thread->process, error);
	if (r < 0)
		return r;
	thread->own->end_signal = choose_signal(thread);
	r = write_slot(thread, batch, frame, error);
	if (r < 0)
		return r;
	regs.rip = thread->process->area_address;
	regs.rbx = area_batch_address(thread->process, thread->own->slot);
	regs.orig_rax = UINT64_MAX;
	regs.eflags &= ~(FLAG_TRAP | FLAG_DOWN);
	r = thread_set_kernel_regs(thread, &regs, error);
	if (r < 0)
		return r;
	thread->own->in_stub = true;
	mask = thread->own->end_signal ? ~MASK_OF(thread->own->end_signal) : MASK_ALL;
	if (!thread->own->masked || thread->own->mask != mask)
		r = thread_set_kernel_mask(thread, mask, error);
	if (r < 0)
		return r;
	thread->own->masked = true;
	thread->own->mask = mask;
	r = resume(thread, 0);
	if (r < 0)
		return ptrace_fail(error, r, thread->tid, "let it run");
	thread->stopped = false;
	return 0;
}

/* ---- end */

static bool is_at_end(const struct tracee_thread *thread)
{
	long rip;

	errno = 0;
	rip = ptrace(PTRACE_PEEKUSER, thread->tid, offsetof(struct user_regs_struct, rip), NULL);
	return errno == 0 && (uint64_t)rip == stub_done_address(thread->process);
}

/* A genuine signal of our number: queued again, from now on blocked, and system calls are watched
 * instead. */
static int put_back(struct tracee_thread *thread, struct error *error)
{
	uint64_t none = 0, header = area_batch_address(thread->process, thread->own->slot);
	int signal = thread->own->end_signal, r;

	r = tracee_process_write(thread->process, header + SLOT_SIGNAL, &none, sizeof(none), error);
	if (r == 0)
		r = thread_set_kernel_mask(thread, MASK_ALL, error);
	if (r < 0)
		return r;
	thread->own->mask = MASK_ALL;
	thread->own->end_signal = 0;
	r = resume(thread, signal);
	return r < 0 ? ptrace_fail(error, r, thread->tid, "let it run") : 0;
}

static void note_newborn(struct tracee_thread *thread)
{
	unsigned long message = 0;

	if (ptrace_do(PTRACE_GETEVENTMSG, thread->tid, 0, (uintptr_t)&message) == 0 && message > 0)
		(void)array_append(&thread->process->own->newborn, (pid_t)message);
}

/* The thread is somewhere in the stub and must not go on with it: on to the end, where the way back
 * starts. */
static int cut_short(struct tracee_thread *thread, struct error *error)
{
	uint64_t begun = 1, header = area_batch_address(thread->process, thread->own->slot);
	struct user_regs_struct regs;
	int r = thread_get_kernel_regs(thread, &regs, error);

	if (r == 0)
		r = tracee_process_write(thread->process, header + SLOT_BEGUN, &begun,
					 sizeof(begun), error);
	if (r < 0)
		return r;
	regs.rip = stub_done_address(thread->process);
	regs.orig_rax = UINT64_MAX;
	return thread_set_kernel_regs(thread, &regs, error);
}

enum outcome {
	GOES_ON,
	AT_END,
	INTERRUPTED,
};

/* Handles one stop; resumes the thread unless it is at its end. Returns an enum outcome or an
 * error. */
static int handle_stop(struct tracee_thread *thread, int status, bool interrupted,
		       struct error *error)
{
	int event = status >> 8, sig = status & 0xff, r;

	if (event == EVENT_STOP) {
		/* at the end with its signal still to come: it comes next */
		if (is_at_end(thread)) {
			if (!thread->own->end_signal)
				return AT_END;
		} else if (interrupted) {
			return INTERRUPTED;
		}
		sig = 0;
	} else if (event) {
		if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK ||
		    event == PTRACE_EVENT_VFORK)
			note_newborn(thread);
		sig = 0;
	} else if (sig == (SIGTRAP | 0x80)) {
		/* ends where signals are looked at: at the next interrupt */
		if (is_at_end(thread))
			ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
		sig = 0;
	} else if (sig == thread->own->end_signal && sig) {
		if (is_at_end(thread))
			return AT_END;
		return put_back(thread, error);
	} else if (sig == SIGSEGV || sig == SIGBUS || sig == SIGILL || sig == SIGSYS ||
		   sig == SIGTRAP || sig == SIGFPE) {
		return error_set(error, -EFAULT,
				 "PID %d: got signal %d while running system calls for us",
				 thread->tid, sig);
	}
	/* any stop takes a pending interrupt away */
	if (interrupted)
		ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
	r = resume(thread, sig);
	return r < 0 ? ptrace_fail(error, r, thread->tid, "let it run") : GOES_ON;
}

static int wait_end(struct tracee_thread *thread, int64_t deadline, struct error *error)
{
	bool interrupted = false;
	int status, r;

	for (;;) {
		r = wait_stop(thread->tid, deadline, &status);
		if (r == -ETIMEDOUT && !interrupted) {
			interrupted = true;
			deadline = clock_deadline(GRACE_NS);
			ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
			continue;
		}
		if (r == -ETIMEDOUT)
			return error_set(error, r, "PID %d: thread %d is stuck in the kernel",
					 thread->process->pid, thread->tid);
		if (r < 0)
			return ptrace_fail(error, r, thread->tid, "wait for it");
		r = handle_stop(thread, status, interrupted, error);
		if (r == GOES_ON)
			continue;
		thread->stopped = true;
		if (r != AT_END)
			cut_short(thread, NULL);
		return r == INTERRUPTED ? -ETIMEDOUT : r < 0 ? r : 0;
	}
}

/* Results, and the error of the call that ended the list early. */
static int collect(struct tracee_thread *thread, struct tracee_batch *batch, int waited,
		   struct error *error)
{
	struct tracee_process *process = thread->process;
	const struct slot_call *call;
	const struct slot_header *header = batch_header(batch);
	const char *name;
	char number[32];
	int r;

	r = tracee_process_read(process, area_batch_address(process, thread->own->slot),
				batch->image.data, batch_result_size(batch), error);
	if (r < 0)
		return waited < 0 ? waited : r;
	if (waited < 0 && header->done < header->count)
		call = batch_calls(batch) + header->done;
	else if (header->done > 0 && header->done <= header->count)
		call = batch_calls(batch) + header->done - 1;
	else
		return waited;
	name = syscall_name((long)call->nr);
	if (!name) {
		snprintf(number, sizeof(number), "system call %lld", (long long)call->nr);
		name = number;
	}
	if (waited == -ETIMEDOUT)
		return error_set(error, waited, "PID %d: %s did not return in time", process->pid,
				 name);
	if (waited < 0 || call->flags & CALL_MAY_FAIL || (uint64_t)call->result < (uint64_t)-4095)
		return waited;
	return error_set_errno(error, (int)call->result, "PID %d: %s", process->pid, name);
}

int tracee_batch_run_many(struct tracee_thread *const *threads, struct tracee_batch *const *batches,
			  size_t count, int64_t deadline, struct error *error)
{
	struct error local = ERROR_INIT;
	uint8_t *frame = calloc(1, FRAME_MAX);
	bool *started = calloc(count ? count : 1, sizeof(*started));
	int r = 0;

	/* the first failure fills it; what the others add must not hide it, which error_set() sees
	 * to */
	if (!error)
		error = &local;
	if (!frame || !started)
		r = error_set(error, -ENOMEM, "out of memory");
	if (r == 0)
		r = tracee_batch_make_room(threads, batches, count, deadline, error);
	if (r == 0) {
		for (size_t i = 0; i < count; i++) {
			int one = start(threads[i], batches[i], frame, error);

			started[i] = one == 0;
			r = r < 0 ? r : one;
		}
		for (size_t i = 0; i < count; i++) {
			int one = started[i] ? wait_end(threads[i], deadline, error) : 0;

			if (started[i] && one != -ESRCH)
				one = collect(threads[i], batches[i], one, error);
			r = r < 0 ? r : one;
		}
	}
	free(frame);
	free(started);
	return r;
}

int tracee_batch_run(struct tracee_thread *thread, struct tracee_batch *batch, int64_t deadline,
		     struct error *error)
{
	return tracee_batch_run_many(&thread, &batch, 1, deadline, error);
}

int tracee_thread_call(struct tracee_thread *thread, int64_t deadline, int64_t *ret_result,
		       struct error *error, long nr, uint64_t a0, uint64_t a1, uint64_t a2,
		       uint64_t a3, uint64_t a4, uint64_t a5)
{
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "out of memory");
	tracee_batch_call6(batch, TRACEE_MAY_FAIL, nr, a0, a1, a2, a3, a4, a5);
	r = tracee_batch_run(thread, batch, deadline, error);
	if (r == 0)
		*ret_result = tracee_batch_result(batch, 0);
	tracee_batch_free(batch);
	return r;
}
