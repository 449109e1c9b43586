/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a list of system calls in a thread of another process; knows nothing else. Copied into the remote area, so it is
 * position-independent and touches only its slot (rbx). It uses no stack and no vector registers.
 *
 * With a tracer it ends at .Ldone: the thread has just sent itself a signal, which the tracer swallows, and
 * the tracer sets the registers. Without one, the signal is ignored, the undo list is run and the signal frame in the
 * slot puts back registers and mask: the thread goes on as if nothing had happened.
 */
#include <asm/unistd_64.h>

#include "stub.h"

	.section .rodata.tracee_stub, "a"
	.balign 16
	.globl tracee_stub, tracee_stub_size, tracee_stub_done
	.hidden tracee_stub, tracee_stub_size, tracee_stub_done

/* rbx: slot, rbp: 1 in the undo list, r12: call, r13: calls left, r14: flags of the call */
tracee_stub:
.Lbegin:
	cmpq	$0, SLOT_BEGUN(%rbx)
	jne	1f
	movq	$1, SLOT_BEGUN(%rbx)
1:	movq	SLOT_CALLS(%rbx), %r12
	movq	SLOT_COUNT(%rbx), %r13
	xorl	%ebp, %ebp
.Lnext:
	testq	%r13, %r13
	jz	.Llist_end
	movq	CALL_FLAGS(%r12), %r14
	movq	CALL_ARGS(%r12), %rdi
	testb	$1, %r14b
	jz	1f
	movq	(%rdi), %rdi
1:	movq	CALL_ARGS+8(%r12), %rsi
	testb	$2, %r14b
	jz	1f
	movq	(%rsi), %rsi
1:	movq	CALL_ARGS+16(%r12), %rdx
	testb	$4, %r14b
	jz	1f
	movq	(%rdx), %rdx
1:	movq	CALL_ARGS+24(%r12), %r10
	testb	$8, %r14b
	jz	1f
	movq	(%r10), %r10
1:	movq	CALL_ARGS+32(%r12), %r8
	testb	$16, %r14b
	jz	1f
	movq	(%r8), %r8
1:	movq	CALL_ARGS+40(%r12), %r9
	testb	$32, %r14b
	jz	1f
	movq	(%r9), %r9
1:	movq	CALL_NR(%r12), %rax
	syscall
	movq	%rax, CALL_RESULT(%r12)
	incq	SLOT_DONE(%rbx)
	cmpq	$-4095, %rax
	jb	1f
	testl	$CALL_MAY_FAIL, %r14d
	jz	.Llist_end
1:	addq	$CALL_SIZE, %r12
	decq	%r13
	jmp	.Lnext

.Llist_end:
	testl	%ebp, %ebp
	jnz	.Lleave
	/* PID and TID as its own PID namespace numbers them */
	movl	$__NR_getpid, %eax
	syscall
	movq	%rax, %r14
	movl	$__NR_gettid, %eax
	syscall
	movq	%r14, %rdi
	movq	%rax, %rsi
	movq	SLOT_SIGNAL(%rbx), %rdx
	movl	$__NR_tgkill, %eax
	syscall
.Ldone:
	/* a new list was put here and not begun: it has taken the place of an undo list */
	cmpq	$0, SLOT_BEGUN(%rbx)
	je	.Lbegin
	movq	SLOT_CALLS(%rbx), %r12
	imulq	$CALL_SIZE, SLOT_COUNT(%rbx), %rax
	addq	%rax, %r12
	movq	SLOT_UNDO(%rbx), %r13
	movl	$1, %ebp
	jmp	.Lnext

.Lleave:
	/* the kernel expects the frame as a handler's return instruction leaves it: return address popped */
	movq	SLOT_FRAME(%rbx), %rsp
	addq	$8, %rsp
	movl	$__NR_rt_sigreturn, %eax
	syscall
	ud2
.Lend:

	.balign 8
/* bytes of code; offset of the place where a batch ends */
tracee_stub_size:
	.quad	.Lend - .Lbegin
tracee_stub_done:
	.quad	.Ldone - .Lbegin

	.section .note.GNU-stack, "", @progbits
