/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * void regs_hold(struct regs *regs): see threads-regs.h. rdi points to the struct all the time, and
 * as the struct begins with a timespec it is the argument of nanosleep too. rsp is the only other
 * register that holds nothing of ours.
 */
#include "threads-regs.h"

	.text
	.globl regs_hold
	.type regs_hold, @function
regs_hold:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15

	fninit
	fldcw REGS_CONTROL(%rdi)
	.set i, 7
	.rept 8
	fldt REGS_X87_IN + 16 * i(%rdi)
	.set i, i - 1
	.endr
	ldmxcsr REGS_MXCSR(%rdi)

	cmpl $REGS_AVX, REGS_LEVEL(%rdi)
	jb 1f
	je 2f
	kmovq REGS_MASK_IN + 0(%rdi), %k0
	kmovq REGS_MASK_IN + 8(%rdi), %k1
	kmovq REGS_MASK_IN + 16(%rdi), %k2
	kmovq REGS_MASK_IN + 24(%rdi), %k3
	kmovq REGS_MASK_IN + 32(%rdi), %k4
	kmovq REGS_MASK_IN + 40(%rdi), %k5
	kmovq REGS_MASK_IN + 48(%rdi), %k6
	kmovq REGS_MASK_IN + 56(%rdi), %k7
	vmovdqu64 REGS_VECTOR_IN + 0(%rdi), %zmm0
	vmovdqu64 REGS_VECTOR_IN + 64(%rdi), %zmm1
	vmovdqu64 REGS_VECTOR_IN + 128(%rdi), %zmm2
	vmovdqu64 REGS_VECTOR_IN + 192(%rdi), %zmm3
	vmovdqu64 REGS_VECTOR_IN + 256(%rdi), %zmm4
	vmovdqu64 REGS_VECTOR_IN + 320(%rdi), %zmm5
	vmovdqu64 REGS_VECTOR_IN + 384(%rdi), %zmm6
	vmovdqu64 REGS_VECTOR_IN + 448(%rdi), %zmm7
	vmovdqu64 REGS_VECTOR_IN + 512(%rdi), %zmm8
	vmovdqu64 REGS_VECTOR_IN + 576(%rdi), %zmm9
	vmovdqu64 REGS_VECTOR_IN + 640(%rdi), %zmm10
	vmovdqu64 REGS_VECTOR_IN + 704(%rdi), %zmm11
	vmovdqu64 REGS_VECTOR_IN + 768(%rdi), %zmm12
	vmovdqu64 REGS_VECTOR_IN + 832(%rdi), %zmm13
	vmovdqu64 REGS_VECTOR_IN + 896(%rdi), %zmm14
	vmovdqu64 REGS_VECTOR_IN + 960(%rdi), %zmm15
	vmovdqu64 REGS_VECTOR_IN + 1024(%rdi), %zmm16
	vmovdqu64 REGS_VECTOR_IN + 1088(%rdi), %zmm17
	vmovdqu64 REGS_VECTOR_IN + 1152(%rdi), %zmm18
	vmovdqu64 REGS_VECTOR_IN + 1216(%rdi), %zmm19
	vmovdqu64 REGS_VECTOR_IN + 1280(%rdi), %zmm20
	vmovdqu64 REGS_VECTOR_IN + 1344(%rdi), %zmm21
	vmovdqu64 REGS_VECTOR_IN + 1408(%rdi), %zmm22
	vmovdqu64 REGS_VECTOR_IN + 1472(%rdi), %zmm23
	vmovdqu64 REGS_VECTOR_IN + 1536(%rdi), %zmm24
	vmovdqu64 REGS_VECTOR_IN + 1600(%rdi), %zmm25
	vmovdqu64 REGS_VECTOR_IN + 1664(%rdi), %zmm26
	vmovdqu64 REGS_VECTOR_IN + 1728(%rdi), %zmm27
	vmovdqu64 REGS_VECTOR_IN + 1792(%rdi), %zmm28
	vmovdqu64 REGS_VECTOR_IN + 1856(%rdi), %zmm29
	vmovdqu64 REGS_VECTOR_IN + 1920(%rdi), %zmm30
	vmovdqu64 REGS_VECTOR_IN + 1984(%rdi), %zmm31
	jmp 3f
2:
	vmovdqu REGS_VECTOR_IN + 0(%rdi), %ymm0
	vmovdqu REGS_VECTOR_IN + 64(%rdi), %ymm1
	vmovdqu REGS_VECTOR_IN + 128(%rdi), %ymm2
	vmovdqu REGS_VECTOR_IN + 192(%rdi), %ymm3
	vmovdqu REGS_VECTOR_IN + 256(%rdi), %ymm4
	vmovdqu REGS_VECTOR_IN + 320(%rdi), %ymm5
	vmovdqu REGS_VECTOR_IN + 384(%rdi), %ymm6
	vmovdqu REGS_VECTOR_IN + 448(%rdi), %ymm7
	vmovdqu REGS_VECTOR_IN + 512(%rdi), %ymm8
	vmovdqu REGS_VECTOR_IN + 576(%rdi), %ymm9
	vmovdqu REGS_VECTOR_IN + 640(%rdi), %ymm10
	vmovdqu REGS_VECTOR_IN + 704(%rdi), %ymm11
	vmovdqu REGS_VECTOR_IN + 768(%rdi), %ymm12
	vmovdqu REGS_VECTOR_IN + 832(%rdi), %ymm13
	vmovdqu REGS_VECTOR_IN + 896(%rdi), %ymm14
	vmovdqu REGS_VECTOR_IN + 960(%rdi), %ymm15
	jmp 3f
1:
	movdqu REGS_VECTOR_IN + 0(%rdi), %xmm0
	movdqu REGS_VECTOR_IN + 64(%rdi), %xmm1
	movdqu REGS_VECTOR_IN + 128(%rdi), %xmm2
	movdqu REGS_VECTOR_IN + 192(%rdi), %xmm3
	movdqu REGS_VECTOR_IN + 256(%rdi), %xmm4
	movdqu REGS_VECTOR_IN + 320(%rdi), %xmm5
	movdqu REGS_VECTOR_IN + 384(%rdi), %xmm6
	movdqu REGS_VECTOR_IN + 448(%rdi), %xmm7
	movdqu REGS_VECTOR_IN + 512(%rdi), %xmm8
	movdqu REGS_VECTOR_IN + 576(%rdi), %xmm9
	movdqu REGS_VECTOR_IN + 640(%rdi), %xmm10
	movdqu REGS_VECTOR_IN + 704(%rdi), %xmm11
	movdqu REGS_VECTOR_IN + 768(%rdi), %xmm12
	movdqu REGS_VECTOR_IN + 832(%rdi), %xmm13
	movdqu REGS_VECTOR_IN + 896(%rdi), %xmm14
	movdqu REGS_VECTOR_IN + 960(%rdi), %xmm15
3:
	mov REGS_GENERAL_IN + 0(%rdi), %rax
	mov REGS_GENERAL_IN + 8(%rdi), %rbx
	mov REGS_GENERAL_IN + 16(%rdi), %rcx
	mov REGS_GENERAL_IN + 24(%rdi), %rdx
	mov REGS_GENERAL_IN + 32(%rdi), %rsi
	mov REGS_GENERAL_IN + 40(%rdi), %rbp
	mov REGS_GENERAL_IN + 48(%rdi), %r8
	mov REGS_GENERAL_IN + 56(%rdi), %r9
	mov REGS_GENERAL_IN + 64(%rdi), %r10
	mov REGS_GENERAL_IN + 72(%rdi), %r11
	mov REGS_GENERAL_IN + 80(%rdi), %r12
	mov REGS_GENERAL_IN + 88(%rdi), %r13
	mov REGS_GENERAL_IN + 96(%rdi), %r14
	mov REGS_GENERAL_IN + 104(%rdi), %r15

	cmpl $0, REGS_SLEEPING(%rdi)
	jne 5f
4:	cmpl $0, REGS_LEAVE(%rdi)
	je 4b
	jmp 7f

5:	mov $35, %eax /* nanosleep */
	xor %esi, %esi
	syscall
	test %rax, %rax
	jz 6f
	incq REGS_BAD(%rdi)
	mov %rax, REGS_LAST_BAD(%rdi)
6:	cmpl $0, REGS_LEAVE(%rdi)
	je 5b
7:
	mov %rax, REGS_GENERAL_OUT + 0(%rdi)
	mov %rbx, REGS_GENERAL_OUT + 8(%rdi)
	mov %rcx, REGS_GENERAL_OUT + 16(%rdi)
	mov %rdx, REGS_GENERAL_OUT + 24(%rdi)
	mov %rsi, REGS_GENERAL_OUT + 32(%rdi)
	mov %rbp, REGS_GENERAL_OUT + 40(%rdi)
	mov %r8, REGS_GENERAL_OUT + 48(%rdi)
	mov %r9, REGS_GENERAL_OUT + 56(%rdi)
	mov %r10, REGS_GENERAL_OUT + 64(%rdi)
	mov %r11, REGS_GENERAL_OUT + 72(%rdi)
	mov %r12, REGS_GENERAL_OUT + 80(%rdi)
	mov %r13, REGS_GENERAL_OUT + 88(%rdi)
	mov %r14, REGS_GENERAL_OUT + 96(%rdi)
	mov %r15, REGS_GENERAL_OUT + 104(%rdi)
	cmpl $REGS_AVX, REGS_LEVEL(%rdi)
	jb 1f
	je 2f
	kmovq %k0, REGS_MASK_OUT + 0(%rdi)
	kmovq %k1, REGS_MASK_OUT + 8(%rdi)
	kmovq %k2, REGS_MASK_OUT + 16(%rdi)
	kmovq %k3, REGS_MASK_OUT + 24(%rdi)
	kmovq %k4, REGS_MASK_OUT + 32(%rdi)
	kmovq %k5, REGS_MASK_OUT + 40(%rdi)
	kmovq %k6, REGS_MASK_OUT + 48(%rdi)
	kmovq %k7, REGS_MASK_OUT + 56(%rdi)
	vmovdqu64 %zmm0, REGS_VECTOR_OUT + 0(%rdi)
	vmovdqu64 %zmm1, REGS_VECTOR_OUT + 64(%rdi)
	vmovdqu64 %zmm2, REGS_VECTOR_OUT + 128(%rdi)
	vmovdqu64 %zmm3, REGS_VECTOR_OUT + 192(%rdi)
	vmovdqu64 %zmm4, REGS_VECTOR_OUT + 256(%rdi)
	vmovdqu64 %zmm5, REGS_VECTOR_OUT + 320(%rdi)
	vmovdqu64 %zmm6, REGS_VECTOR_OUT + 384(%rdi)
	vmovdqu64 %zmm7, REGS_VECTOR_OUT + 448(%rdi)
	vmovdqu64 %zmm8, REGS_VECTOR_OUT + 512(%rdi)
	vmovdqu64 %zmm9, REGS_VECTOR_OUT + 576(%rdi)
	vmovdqu64 %zmm10, REGS_VECTOR_OUT + 640(%rdi)
	vmovdqu64 %zmm11, REGS_VECTOR_OUT + 704(%rdi)
	vmovdqu64 %zmm12, REGS_VECTOR_OUT + 768(%rdi)
	vmovdqu64 %zmm13, REGS_VECTOR_OUT + 832(%rdi)
	vmovdqu64 %zmm14, REGS_VECTOR_OUT + 896(%rdi)
	vmovdqu64 %zmm15, REGS_VECTOR_OUT + 960(%rdi)
	vmovdqu64 %zmm16, REGS_VECTOR_OUT + 1024(%rdi)
	vmovdqu64 %zmm17, REGS_VECTOR_OUT + 1088(%rdi)
	vmovdqu64 %zmm18, REGS_VECTOR_OUT + 1152(%rdi)
	vmovdqu64 %zmm19, REGS_VECTOR_OUT + 1216(%rdi)
	vmovdqu64 %zmm20, REGS_VECTOR_OUT + 1280(%rdi)
	vmovdqu64 %zmm21, REGS_VECTOR_OUT + 1344(%rdi)
	vmovdqu64 %zmm22, REGS_VECTOR_OUT + 1408(%rdi)
	vmovdqu64 %zmm23, REGS_VECTOR_OUT + 1472(%rdi)
	vmovdqu64 %zmm24, REGS_VECTOR_OUT + 1536(%rdi)
	vmovdqu64 %zmm25, REGS_VECTOR_OUT + 1600(%rdi)
	vmovdqu64 %zmm26, REGS_VECTOR_OUT + 1664(%rdi)
	vmovdqu64 %zmm27, REGS_VECTOR_OUT + 1728(%rdi)
	vmovdqu64 %zmm28, REGS_VECTOR_OUT + 1792(%rdi)
	vmovdqu64 %zmm29, REGS_VECTOR_OUT + 1856(%rdi)
	vmovdqu64 %zmm30, REGS_VECTOR_OUT + 1920(%rdi)
	vmovdqu64 %zmm31, REGS_VECTOR_OUT + 1984(%rdi)
	vzeroupper
	jmp 3f
2:
	vmovdqu %ymm0, REGS_VECTOR_OUT + 0(%rdi)
	vmovdqu %ymm1, REGS_VECTOR_OUT + 64(%rdi)
	vmovdqu %ymm2, REGS_VECTOR_OUT + 128(%rdi)
	vmovdqu %ymm3, REGS_VECTOR_OUT + 192(%rdi)
	vmovdqu %ymm4, REGS_VECTOR_OUT + 256(%rdi)
	vmovdqu %ymm5, REGS_VECTOR_OUT + 320(%rdi)
	vmovdqu %ymm6, REGS_VECTOR_OUT + 384(%rdi)
	vmovdqu %ymm7, REGS_VECTOR_OUT + 448(%rdi)
	vmovdqu %ymm8, REGS_VECTOR_OUT + 512(%rdi)
	vmovdqu %ymm9, REGS_VECTOR_OUT + 576(%rdi)
	vmovdqu %ymm10, REGS_VECTOR_OUT + 640(%rdi)
	vmovdqu %ymm11, REGS_VECTOR_OUT + 704(%rdi)
	vmovdqu %ymm12, REGS_VECTOR_OUT + 768(%rdi)
	vmovdqu %ymm13, REGS_VECTOR_OUT + 832(%rdi)
	vmovdqu %ymm14, REGS_VECTOR_OUT + 896(%rdi)
	vmovdqu %ymm15, REGS_VECTOR_OUT + 960(%rdi)
	vzeroupper
	jmp 3f
1:
	movdqu %xmm0, REGS_VECTOR_OUT + 0(%rdi)
	movdqu %xmm1, REGS_VECTOR_OUT + 64(%rdi)
	movdqu %xmm2, REGS_VECTOR_OUT + 128(%rdi)
	movdqu %xmm3, REGS_VECTOR_OUT + 192(%rdi)
	movdqu %xmm4, REGS_VECTOR_OUT + 256(%rdi)
	movdqu %xmm5, REGS_VECTOR_OUT + 320(%rdi)
	movdqu %xmm6, REGS_VECTOR_OUT + 384(%rdi)
	movdqu %xmm7, REGS_VECTOR_OUT + 448(%rdi)
	movdqu %xmm8, REGS_VECTOR_OUT + 512(%rdi)
	movdqu %xmm9, REGS_VECTOR_OUT + 576(%rdi)
	movdqu %xmm10, REGS_VECTOR_OUT + 640(%rdi)
	movdqu %xmm11, REGS_VECTOR_OUT + 704(%rdi)
	movdqu %xmm12, REGS_VECTOR_OUT + 768(%rdi)
	movdqu %xmm13, REGS_VECTOR_OUT + 832(%rdi)
	movdqu %xmm14, REGS_VECTOR_OUT + 896(%rdi)
	movdqu %xmm15, REGS_VECTOR_OUT + 960(%rdi)
3:
	stmxcsr REGS_MXCSR + 4(%rdi)
	fnstcw REGS_CONTROL + 2(%rdi)
	.set i, 0
	.rept 8
	fstpt REGS_X87_OUT + 16 * i(%rdi)
	.set i, i + 1
	.endr

	fninit
	push $0x1f80
	ldmxcsr (%rsp)
	add $8, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
	.size regs_hold, . - regs_hold
	.section .note.GNU-stack, "", @progbits
