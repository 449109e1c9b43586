/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * void amx_hold(struct tiles *tiles): loads the tiles, waits until tiles->leave, stores them.
 * Offsets as in amx.c.
 */
	.text
	.globl amx_hold
	.type amx_hold, @function
amx_hold:
	ldtilecfg 64(%rdi)
	mov $64, %edx
	lea 256(%rdi), %rsi
	tileloadd 0x0000(%rsi,%rdx,1), %tmm0
	tileloadd 0x0400(%rsi,%rdx,1), %tmm1
	tileloadd 0x0800(%rsi,%rdx,1), %tmm2
	tileloadd 0x0c00(%rsi,%rdx,1), %tmm3
	tileloadd 0x1000(%rsi,%rdx,1), %tmm4
	tileloadd 0x1400(%rsi,%rdx,1), %tmm5
	tileloadd 0x1800(%rsi,%rdx,1), %tmm6
	tileloadd 0x1c00(%rsi,%rdx,1), %tmm7
	cmpl $0, 20(%rdi)
	jne 2f
1:	cmpl $0, 16(%rdi)
	je 1b
	jmp 3f
2:	mov $35, %eax /* nanosleep */
	xor %esi, %esi
	syscall
	cmpl $0, 16(%rdi)
	je 2b
3:	sttilecfg 128(%rdi)
	lea 8448(%rdi), %rsi
	tilestored %tmm0, 0x0000(%rsi,%rdx,1)
	tilestored %tmm1, 0x0400(%rsi,%rdx,1)
	tilestored %tmm2, 0x0800(%rsi,%rdx,1)
	tilestored %tmm3, 0x0c00(%rsi,%rdx,1)
	tilestored %tmm4, 0x1000(%rsi,%rdx,1)
	tilestored %tmm5, 0x1400(%rsi,%rdx,1)
	tilestored %tmm6, 0x1800(%rsi,%rdx,1)
	tilestored %tmm7, 0x1c00(%rsi,%rdx,1)
	tilerelease
	ret
	.size amx_hold, . - amx_hold
	.section .note.GNU-stack, "", @progbits
