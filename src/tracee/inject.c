/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One system call in a thread, without any code of ours in the process: how the remote area comes
 * and goes.
 *
 * The thread is given the registers of the call and the address of a "syscall" instruction that is
 * there anyway. If the tracer died then, the thread would go on behind that instruction, with
 * foreign registers. So in a source process the call is dressed up as a signal handler: below the
 * red zone of a stack goes a signal frame that holds the thread's true state, exactly where the
 * kernel would put one; the stack pointer points at it, and the "syscall" is one that a return
 * instruction follows. The return address in the frame is the code with which every C library ends
 * its handlers, "mov $15, %eax; syscall" (rt_sigreturn). From the moment the registers are set, the
 * thread finds its way back on its own.
 *
 *   happy path: save stack bytes, write frame, set registers, block signals; run to the system
 * call's entry; interrupt; it executes the call and stops at its end, still on the handler's
 * registers; mask, registers, stack bytes back.
 *
 * Where to put the frame: below the red zone if the stack pointer is in [stack]; else at the low
 * end of [stack] where no page has ever been touched (a Go program runs on small stacks of its
 * own); else below the red zone wherever it is.
 *
 * Failure modes: no such instructions or no such place (a static program without signals): the call
 * is made all the same, unprotected for some 10 us. Shells, which die with their tracer, are always
 * handled like that.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fdio.h"

#define RED_ZONE  128
#define FLAG_TRAP UINT64_C(0x100) /* single stepping */
#define FLAG_DOWN UINT64_C(0x400) /* string instructions run downwards */

/* ---- where the frame goes */

/* True if no page of the range has ever been touched: nothing in pagemap(5). */
static bool is_untouched(const struct tracee_process *process, uint64_t start, uint64_t size)
{
	_cleanup_fd_ int fd = -1;
	uint64_t entries[8];
	char path[64];
	size_t pages = (size_t)(size / PAGE_BYTES);

	snprintf(path, sizeof(path), "/proc/%d/pagemap", process->threads.items[0]->tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pages > 8 ||
	    fdio_pread(fd, entries, pages * 8, start / PAGE_BYTES * 8) != (ssize_t)(pages * 8))
		return false;
	for (size_t i = 0; i < pages; i++) {
		if (entries[i] >> 61)
			return false;
	}
	return true;
}

/* Address for `size` bytes, or 0. */
static uint64_t find_scratch(const struct tracee_thread *thread, size_t size)
{
	const struct gadgets *gadgets = &thread->process->own->gadgets;
	uint64_t below = (thread->regs.rsp - RED_ZONE - size) & ~UINT64_C(63);
	uint64_t pages = (size + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	bool on_stack = thread->regs.rsp > gadgets->stack_start &&
			thread->regs.rsp <= gadgets->stack_end;

	if (on_stack && below >= gadgets->stack_start)
		return below;
	if (gadgets->stack_start && gadgets->stack_end - gadgets->stack_start > 2 * pages &&
	    !on_stack && is_untouched(thread->process, gadgets->stack_start, pages))
		return gadgets->stack_start;
	return on_stack ? 0 : below;
}

/* ---- the call */

struct injection {
	bool is_protected; /* `scratch` holds a frame that leads back */
	uint64_t scratch;  /* where the frame is */
	size_t size;	   /* of the frame */
	uint8_t *frame;	   /* owned: the frame */
	uint8_t *saved;	   /* owned: what was there before */
	uint64_t address;  /* of the syscall instruction */
};

/* Puts the frame in place. Not finding a place, or memory, is no error: the call is made unprotected. */
static int prepare(struct tracee_thread *thread, struct injection *injection, struct error *error)
{
	const struct gadgets *gadgets = &thread->process->own->gadgets;
	int r;

	injection->address = gadgets->syscall;
	if (thread->process->exit_kill || !gadgets_complete(gadgets))
		return 0;
	injection->frame = calloc(1, FRAME_MAX);
	injection->saved = malloc(FRAME_MAX);
	if (!injection->frame || !injection->saved)
		return 0; /* what takes our memory out of the process again must not fail for want of some here */
	/* built twice: the size is known only then */
	r = frame_build(thread, 0, gadgets->sigreturn, injection->frame, &injection->size, error);
	if (r < 0)
		return r;
	injection->scratch = find_scratch(thread, injection->size);
	if (!injection->scratch)
		return 0;
	r = frame_build(thread, injection->scratch, gadgets->sigreturn, injection->frame,
			&injection->size, error);
	if (r < 0)
		return r;
	if (tracee_process_read(thread->process, injection->scratch, injection->saved,
				injection->size, NULL) < 0 ||
	    tracee_process_write(thread->process, injection->scratch, injection->frame,
				 injection->size, NULL) < 0)
		return 0;
	injection->is_protected = true;
	injection->address = gadgets->syscall_ret;
	return 0;
}

static void clean_up(struct tracee_thread *thread, struct injection *injection)
{
	if (injection->is_protected)
		tracee_process_write(thread->process, injection->scratch, injection->saved,
				     injection->size, NULL);
	free(injection->frame);
	free(injection->saved);
}

/* How far a thread is with its call. */
struct progress {
	int resume;      /* how to let it go on: PTRACE_SYSCALL as far as the entry, then PTRACE_CONT */
	uint64_t signal; /* to hand on */
	bool done;       /* it has executed the call and stands behind it */
};

static int let_go_on(struct tracee_thread *thread, const struct progress *progress, struct error *error)
{
	int r;

	/* behind the entry it is executed in any case, and stops where signals are looked at */
	if (progress->resume == PTRACE_CONT)
		ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
	r = ptrace_do(progress->resume, thread->tid, 0, progress->signal);
	return r < 0 ? ptrace_fail(error, r, thread->tid, "let it run") : 0;
}

/* Waits for the next stop. `address` is that of the syscall instruction. */
static int take_stop(struct tracee_thread *thread, uint64_t address, struct progress *progress, int64_t deadline,
		     struct error *error)
{
	struct user_regs_struct now;
	int status, r = wait_stop(thread->tid, deadline, &status);

	if (r == -ETIMEDOUT)
		return error_set(error, r, "PID %d: thread %d did not finish a system call in time", thread->process->pid,
				 thread->tid);
	if (r < 0)
		return ptrace_fail(error, r, thread->tid, "wait for it");
	progress->signal = 0;
	if (status == (SIGTRAP | 0x80)) {
		progress->resume = PTRACE_CONT;
	} else if (status >> 8 == EVENT_STOP) {
		r = thread_get_kernel_regs(thread, &now, error);
		progress->done = r == 0 && now.rip != address;
	} else if (status >> 8 == 0) {
		/* all that can be blocked is blocked: SIGSTOP, which is handed on, or a fault of ours */
		if (status == SIGSEGV || status == SIGILL || status == SIGTRAP || status == SIGSYS || status == SIGBUS)
			return error_set(error, -EFAULT, "PID %d: got signal %d in a system call of ours", thread->tid, status);
		progress->signal = (uint64_t)status;
	}
	return r;
}

/* Gives the thread the registers and the mask with which the call is made. */
static int set_up(struct tracee_thread *thread, const struct injection *injection, long nr, const uint64_t args[6],
		  struct error *error)
{
	struct user_regs_struct regs = thread->regs;
	int r;

	if (injection->is_protected)
		regs.rsp = injection->scratch;
	regs.rip = injection->address;
	regs.rax = (uint64_t)nr;
	regs.orig_rax = UINT64_MAX;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	regs.eflags &= ~(FLAG_TRAP | FLAG_DOWN);
	r = thread_set_kernel_regs(thread, &regs, error);
	if (r < 0)
		return r;
	thread->own->in_stub = true;
	r = thread_set_kernel_mask(thread, MASK_ALL, error);
	if (r < 0)
		return r;
	thread->own->masked = true;
	thread->own->mask = MASK_ALL;
	thread->stopped = false;
	return 0;
}

static int get_result(struct tracee_thread *thread, int64_t *ret_result, struct error *error)
{
	struct user_regs_struct regs;
	int r;

	thread->stopped = true;
	r = thread_get_kernel_regs(thread, &regs, error);
	if (r == 0)
		*ret_result = (int64_t)regs.rax;
	return r;
}

static int run(struct tracee_thread *thread, const struct injection *injection, long nr,
	       const uint64_t args[6], int64_t deadline, int64_t *ret_result, struct error *error)
{
	struct progress progress = { .resume = PTRACE_SYSCALL };
	int r = set_up(thread, injection, nr, args, error);

	while (r == 0 && !progress.done) {
		r = let_go_on(thread, &progress, error);
		if (r == 0)
			r = take_stop(thread, injection->address, &progress, deadline, error);
	}
	return r < 0 ? r : get_result(thread, ret_result, error);
}

/* The return address tells: no function that is called has that one, only a signal handler. */
bool inject_is_under_way(struct tracee_thread *thread)
{
	const struct gadgets *gadgets = &thread->process->own->gadgets;
	uint64_t rip = thread->regs.rip, restorer = 0;

	if (gadgets_find(thread->process, NULL) < 0 || !gadgets_complete(gadgets))
		return false;
	if (rip - gadgets->sigreturn < SIGRETURN_MAX)
		return true;
	return (rip == gadgets->syscall_ret || rip == gadgets->syscall_ret + 2) &&
	       tracee_process_read(thread->process, thread->regs.rsp, &restorer, sizeof(restorer),
				   NULL) == 0 &&
	       restorer == gadgets->sigreturn;
}

int inject_call(struct tracee_thread *thread, int64_t deadline, int64_t *ret_result,
		struct error *error, long nr, const uint64_t args[6])
{
	struct injection injection = { .is_protected = false };
	int64_t result = 0;
	int r, back;

	r = gadgets_find(thread->process, error);
	if (r == 0)
		r = thread_unpark(thread, error);
	if (r == 0)
		r = prepare(thread, &injection, error);
	if (r == 0)
		r = run(thread, &injection, nr, args, deadline, &result, error);
	back = thread->stopped ? thread_unpark(thread, r < 0 ? NULL : error) : 0;
	clean_up(thread, &injection);
	if (r < 0 || back < 0)
		return r < 0 ? r : back;
	*ret_result = result;
	return 0;
}

int inject_call_many(struct inject_many *calls, size_t count, int64_t deadline, struct error *error)
{
	struct progress *progress = calloc(count + 1, sizeof(*progress));
	size_t left = count;
	int r = progress ? 0 : error_set(error, -ENOMEM, "out of memory");

	for (size_t i = 0; r == 0 && i < count; i++) {
		struct injection injection = { .is_protected = false };

		progress[i].resume = PTRACE_SYSCALL;
		r = gadgets_find(calls[i].thread->process, error);
		injection.address = calls[i].thread->process->own->gadgets.syscall;
		if (r == 0)
			r = set_up(calls[i].thread, &injection, calls[i].nr, calls[i].args, error);
	}
	while (r == 0 && left) {
		for (size_t i = 0; r == 0 && i < count; i++)
			if (!progress[i].done)
				r = let_go_on(calls[i].thread, &progress[i], error);
		for (size_t i = 0; r == 0 && i < count; i++) {
			struct tracee_thread *thread = calls[i].thread;

			if (progress[i].done)
				continue;
			r = take_stop(thread, thread->process->own->gadgets.syscall, &progress[i], deadline, error);
			if (r == 0 && progress[i].done) {
				left--;
				r = get_result(thread, &calls[i].result, error);
			}
		}
	}
	free(progress);
	return r;
}
