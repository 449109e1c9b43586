/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One stopped thread: what the kernel knows of it, and the way back to it.
 *
 * The order of the way back matters, since the tracer may be killed between any two requests. While
 * a thread is in the stub, everything leads to the signal frame in its slot, which sets mask and
 * registers at once. So the mask is set first (still in the stub: harmless), the registers last
 * (from then on it is itself again).
 */
#include "internal.h"

#include <errno.h>
#include <linux/elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Results by which the kernel marks an interrupted system call; never seen by programs
 * (linux/errno.h of the kernel). */
#define ERESTARTSYS	      512
#define ERESTARTNOINTR	      513
#define ERESTARTNOHAND	      514
#define ERESTART_RESTARTBLOCK 516

/* What PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG fills in (6.4). */
#define PTRACE_GET_DISPATCH 0x4211
struct dispatch_configuration {
	uint64_t mode; /* 0: off */
	uint64_t selector;
	uint64_t offset;
	uint64_t length;
};

/* What PTRACE_GET_RSEQ_CONFIGURATION fills in. */
struct rseq_configuration {
	uint64_t address;
	uint32_t size;
	uint32_t signature;
	uint32_t flags;
	uint32_t pad;
};

/* struct rseq_cs of rseq(2): a critical section. */
struct rseq_section {
	uint32_t version;
	uint32_t flags;
	uint64_t start;
	uint64_t length;
	uint64_t abort;
};

#define RSEQ_SECTION_POINTER 8 /* offset of the pointer to the current section in struct rseq */
#define SYSCALL_SIZE	     2 /* of the instruction */

int thread_new(struct tracee_process *process, pid_t tid, struct tracee_thread **ret,
	       struct error *error)
{
	struct tracee_thread *thread = calloc(1, sizeof(*thread));
	struct tracee_private_thread *own = calloc(1, sizeof(*own));

	if (!thread || !own || array_append(&process->threads, thread) < 0) {
		free(thread);
		free(own);
		return error_set(error, -ENOMEM, "out of memory");
	}
	own->slot = -1;
	thread->tid = tid;
	thread->process = process;
	thread->own = own;
	*ret = thread;
	return 0;
}

void thread_free(struct tracee_thread *thread)
{
	if (!thread)
		return;
	free(thread->own->xstate);
	free(thread->own);
	free(thread);
}

/*
 * A thread inside a restartable sequence must not be used from there: the kernel would see an
 * instruction pointer outside it and take it for finished. It is sent to its abort handler, as the
 * kernel does on preemption.
 */
static void leave_rseq(struct tracee_thread *thread)
{
	const struct tracee_process *process = thread->process;
	struct rseq_section section;
	uint64_t address = 0, none = 0;

	if (!thread->rseq.address || tracee_regs_in_syscall(&thread->regs) ||
	    tracee_process_read(process, thread->rseq.address + RSEQ_SECTION_POINTER, &address,
				sizeof(address), NULL) < 0 ||
	    !address ||
	    tracee_process_read(process, address, &section, sizeof(section), NULL) < 0 ||
	    thread->regs.rip - section.start >= section.length)
		return;
	thread->regs.rip = section.abort;
	if (thread_set_kernel_regs(thread, &thread->regs, NULL) == 0)
		tracee_process_write(process, thread->rseq.address + RSEQ_SECTION_POINTER, &none,
				     sizeof(none), NULL);
}

/*
 * Calls that the kernel does not restart after a stop (signal(7)): they answer EINTR although no handler ran. EINTR means
 * that nothing was done, so they can be made again; with ERESTARTNOHAND that is what happens, unless a handler runs after
 * all. A relative timeout starts anew.
 */
static bool is_ended_by_stop(uint64_t nr)
{
	static const uint16_t calls[] = {
		SYS_read,      SYS_write,      SYS_readv,    SYS_writev,    SYS_accept,		SYS_accept4,
		SYS_sendto,    SYS_recvfrom,   SYS_sendmsg,  SYS_recvmsg,   SYS_sendmmsg,	SYS_recvmmsg,
		SYS_semop,     SYS_semtimedop, SYS_msgsnd,   SYS_msgrcv,    SYS_rt_sigtimedwait, SYS_io_getevents,
		SYS_epoll_wait, SYS_epoll_pwait, 441 /* epoll_pwait2 */, 333 /* io_pgetevents */,
	};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i] == nr)
			return true;
	return false;
}

/*
 * Calls that go on by restart_syscall(2) with the time that is left (kernel/time/hrtimer.c, fs/select.c, futex/waitwake.c).
 */
static bool has_restart_block(int64_t nr)
{
	return nr == SYS_nanosleep || nr == SYS_clock_nanosleep || nr == SYS_poll || nr == SYS_futex;
}

#define CODE_BEFORE 32 /* bytes in front of a syscall instruction where its number is looked for */

/* The number that was loaded for the syscall instruction at `address`: "mov $nr, %eax", then maybe loads of arguments. */
static int64_t find_loaded_number(const struct tracee_thread *thread, uint64_t address)
{
	uint8_t code[CODE_BEFORE];
	size_t size = sizeof(code);
	uint32_t nr;

	/* the page in front may be none of the program's */
	if (address % PAGE_BYTES < size && address % PAGE_BYTES >= 5)
		size = address % PAGE_BYTES;
	if (tracee_process_read(thread->process, address - size, code, size, NULL) < 0)
		return -1;
	for (size_t i = size - 5; i != SIZE_MAX; i--) {
		if (code[i] != 0xb8)
			continue;
		memcpy(&nr, code + i + 1, sizeof(nr));
		if (has_restart_block(nr))
			return nr;
	}
	return -1;
}

/*
 * A call that was interrupted before is in restart_syscall(2), or about to make it: stopped again between the kernel's
 * change of its registers and the instruction. That call means nothing in another process, nor after rt_sigreturn, which
 * makes the kernel forget what was interrupted. Both are turned into the state before: interrupted for the first time, with
 * the number of the call that it stands for. The kernel, which does not look at orig_rax here, goes on from there as before.
 */
static void name_restarted_call(struct tracee_thread *thread)
{
	struct user_regs_struct *regs = &thread->regs;
	bool is_interrupted = (int64_t)regs->rax == -ERESTART_RESTARTBLOCK && regs->orig_rax == SYS_restart_syscall;
	uint64_t address = is_interrupted ? regs->rip - SYSCALL_SIZE : regs->rip;
	int64_t nr = (int64_t)regs->orig_rax;
	uint8_t code[SYSCALL_SIZE];

	if (!is_interrupted && regs->rax != SYS_restart_syscall)
		return;
	if (tracee_process_read(thread->process, address, code, sizeof(code), NULL) < 0 || code[0] != 0x0f ||
	    code[1] != 0x05)
		return;
	if (!has_restart_block(nr))
		nr = find_loaded_number(thread, address);
	if (nr < 0)
		nr = hints_find_call(thread->process->own->hints, thread->tid, regs);
	if (nr < 0)
		return;
	regs->rax = (uint64_t)-ERESTART_RESTARTBLOCK;
	regs->orig_rax = (uint64_t)nr;
	regs->rip = address + SYSCALL_SIZE;
	thread_set_kernel_regs(thread, regs, NULL);
}

/* The function syscall(3), for one, gets the number as an argument: at the next stop nothing else will tell it. */
static void note_call(const struct tracee_thread *thread)
{
	const struct user_regs_struct *regs = &thread->regs;

	if ((int64_t)regs->rax == -ERESTART_RESTARTBLOCK && has_restart_block((int64_t)regs->orig_rax) &&
	    thread->process->own->hints && find_loaded_number(thread, regs->rip - SYSCALL_SIZE) < 0)
		hints_note_call(thread->process->own->hints, thread->tid, regs);
}

static void resume_call(struct tracee_thread *thread)
{
	name_restarted_call(thread);
	note_call(thread);
	if ((int64_t)thread->regs.rax != -EINTR || (int64_t)thread->regs.orig_rax < 0 ||
	    !is_ended_by_stop(thread->regs.orig_rax))
		return;
	thread->regs.rax = (uint64_t)-ERESTARTNOHAND;
	thread_set_kernel_regs(thread, &thread->regs, NULL);
}

/* It would be asked to handle our calls, too. */
static int refuse_dispatch(const struct tracee_thread *thread, struct error *error)
{
	struct dispatch_configuration dispatch = { 0 };

	if (ptrace_do(PTRACE_GET_DISPATCH, thread->tid, sizeof(dispatch), (uintptr_t)&dispatch) < 0 || !dispatch.mode)
		return 0;
	return error_set(error, -EOPNOTSUPP,
			 "PID %d handles system calls itself (PR_SET_SYSCALL_USER_DISPATCH), and cannot be moved", thread->tid);
}

int thread_read(struct tracee_thread *thread, struct error *error)
{
	struct rseq_configuration rseq = { 0 };
	int r;

	r = thread_get_kernel_regs(thread, &thread->regs, error);
	if (r < 0)
		return r;
	if (thread->regs.cs != USER_CS)
		return error_set(error, -EOPNOTSUPP,
				 "PID %d runs 32-bit code, which cannot be moved", thread->tid);
	r = refuse_dispatch(thread, error);
	if (r < 0)
		return r;
	r = ptrace_do(PTRACE_GETSIGMASK, thread->tid, sizeof(thread->sigmask),
		      (uintptr_t)&thread->sigmask);
	if (r < 0)
		return ptrace_fail(error, r, thread->tid, "read the signal mask");
	if (ptrace_do(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(rseq), (uintptr_t)&rseq) ==
	    0)
		thread->rseq = (struct tracee_rseq){ rseq.address, rseq.size, rseq.signature,
						     rseq.flags };
	leave_rseq(thread);
	resume_call(thread);
	return 0;
}

int thread_get_kernel_regs(struct tracee_thread *thread, struct user_regs_struct *ret,
			   struct error *error)
{
	int r = ptrace_do(PTRACE_GETREGS, thread->tid, 0, (uintptr_t)ret);

	return r < 0 ? ptrace_fail(error, r, thread->tid, "read the registers") : 0;
}

int thread_set_kernel_regs(struct tracee_thread *thread, const struct user_regs_struct *regs,
			   struct error *error)
{
	int r = ptrace_do(PTRACE_SETREGS, thread->tid, 0, (uintptr_t)regs);

	return r < 0 ? ptrace_fail(error, r, thread->tid, "set the registers") : 0;
}

int thread_set_kernel_mask(struct tracee_thread *thread, uint64_t mask, struct error *error)
{
	int r = ptrace_do(PTRACE_SETSIGMASK, thread->tid, sizeof(mask), (uintptr_t)&mask);

	return r < 0 ? ptrace_fail(error, r, thread->tid, "set the signal mask") : 0;
}

static int set_kernel_xstate(struct tracee_thread *thread, struct error *error)
{
	struct iovec iov = { .iov_base = thread->own->xstate, .iov_len = thread->own->xstate_size };
	int r = ptrace_do(PTRACE_SETREGSET, thread->tid, NT_X86_XSTATE, (uintptr_t)&iov);

	return r < 0 ? ptrace_fail(error, r, thread->tid, "set the vector registers") : 0;
}

int thread_unpark(struct tracee_thread *thread, struct error *error)
{
	struct tracee_private_thread *own = thread->own;
	int r;

	if (own->xstate_changed) {
		r = set_kernel_xstate(thread, error);
		if (r < 0)
			return r;
		own->xstate_changed = false;
	}
	if (own->masked || own->mask_changed) {
		r = thread_set_kernel_mask(thread, thread->sigmask, error);
		if (r < 0)
			return r;
		own->masked = own->mask_changed = false;
	}
	if (own->in_stub || own->regs_changed) {
		r = thread_set_kernel_regs(thread, &thread->regs, error);
		if (r < 0)
			return r;
		own->in_stub = own->regs_changed = false;
	}
	return 0;
}

void tracee_thread_set_regs(struct tracee_thread *thread, const struct user_regs_struct *regs)
{
	thread->regs = *regs;
	thread->own->regs_changed = thread->own->frame_stale = true;
}

void tracee_thread_set_sigmask(struct tracee_thread *thread, uint64_t sigmask)
{
	thread->sigmask = sigmask;
	thread->own->mask_changed = thread->own->frame_stale = true;
}

int thread_load_xstate(struct tracee_thread *thread, struct error *error)
{
	struct tracee_private_thread *own = thread->own;
	struct iovec iov;
	int r;

	if (own->xstate_known)
		return 0;
	if (!own->xstate)
		own->xstate = malloc(TRACEE_XSTATE_MAX);
	if (!own->xstate)
		return error_set(error, -ENOMEM, "out of memory");
	iov = (struct iovec){ .iov_base = own->xstate, .iov_len = TRACEE_XSTATE_MAX };
	r = ptrace_do(PTRACE_GETREGSET, thread->tid, NT_X86_XSTATE, (uintptr_t)&iov);
	if (r < 0)
		return ptrace_fail(error, r, thread->tid, "read the vector registers");
	own->xstate_size = thread->process->own->xstate_size = iov.iov_len;
	own->xstate_known = true;
	return 0;
}

int tracee_thread_get_xstate(struct tracee_thread *thread, void *data, size_t size,
			     size_t *ret_size, struct error *error)
{
	int r = thread_load_xstate(thread, error);

	if (r < 0)
		return r;
	if (size < thread->own->xstate_size)
		return error_set(error, -ENOBUFS,
				 "PID %d: %zu bytes of vector registers do not fit in %zu",
				 thread->tid, thread->own->xstate_size, size);
	memcpy(data, thread->own->xstate, thread->own->xstate_size);
	*ret_size = thread->own->xstate_size;
	return 0;
}

/* For an area that is written as a whole. */
static int make_xstate_room(struct tracee_thread *thread, struct error *error)
{
	struct tracee_private_thread *own = thread->own;

	if (!thread->process->own->xstate_size)
		return thread_load_xstate(thread, error);
	if (!own->xstate)
		own->xstate = malloc(TRACEE_XSTATE_MAX);
	if (!own->xstate)
		return error_set(error, -ENOMEM, "out of memory");
	own->xstate_size = thread->process->own->xstate_size;
	return 0;
}

int tracee_thread_set_xstate(struct tracee_thread *thread, const void *data, size_t size,
			     struct error *error)
{
	struct tracee_private_thread *own = thread->own;
	int r = make_xstate_room(thread, error);

	if (r < 0)
		return r;
	if (size > own->xstate_size)
		return error_set(error, -E2BIG,
				 "PID %d: this processor holds %zu bytes of vector registers, %zu "
				 "are wanted",
				 thread->tid, own->xstate_size, size);
	memcpy(own->xstate, data, size);
	memset(own->xstate + size, 0, own->xstate_size - size);
	own->xstate_known = own->xstate_changed = own->frame_stale = true;
	return 0;
}

int tracee_thread_peek_signals(struct tracee_thread *thread, bool shared,
			       struct tracee_siginfos *infos, struct error *error)
{
	struct {
		uint64_t offset; /* struct __ptrace_peeksiginfo_args */
		uint32_t flags;
		int32_t count;
	} args = { .offset = 0, .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0, .count = 32 };

	for (;;) {
		long n;

		if (array_reserve(infos, (size_t)args.count) < 0)
			return error_set(error, -ENOMEM, "out of memory");
		n = ptrace(PTRACE_PEEKSIGINFO, thread->tid, &args, infos->items + infos->count);
		if (n < 0)
			return ptrace_fail(error, -errno, thread->tid, "read the pending signals");
		if (n == 0)
			return 0;
		infos->count += (size_t)n;
		args.offset += (uint64_t)n;
	}
}

int tracee_thread_get_robust_list(struct tracee_thread *thread, uint64_t *ret_head,
				  uint64_t *ret_size, struct error *error)
{
	uint64_t head = 0, size = 0;

	if (syscall(SYS_get_robust_list, thread->tid, &head, &size) < 0)
		return ptrace_fail(error, -errno, thread->tid, "read the robust list");
	*ret_head = head;
	*ret_size = size;
	return 0;
}

bool tracee_regs_in_syscall(const struct user_regs_struct *regs)
{
	return (int64_t)regs->orig_rax >= 0;
}

long tracee_regs_prepare_restart(struct user_regs_struct *regs)
{
	if (!tracee_regs_in_syscall(regs))
		return -1;
	switch (-(int64_t)regs->rax) {
	case ERESTART_RESTARTBLOCK:
		regs->rax = (uint64_t)-ERESTARTNOHAND;
		return (long)regs->orig_rax;
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND: return (long)regs->orig_rax;
	default: return -1;
	}
}
