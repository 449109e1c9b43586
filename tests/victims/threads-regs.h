/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Registers to be loaded, held and stored again by regs_hold(), which is written in assembler
 * because nothing else may touch a register meanwhile. The offsets below are asserted to be those
 * of the struct.
 */
#pragma once

#define REGS_SSE 0
#define REGS_AVX 1
#define REGS_AVX512 2
#define REGS_GENERAL 14 /* rax rbx rcx rdx rsi rbp r8..r15; rdi points to the struct */

#define REGS_LEAVE 16
#define REGS_SLEEPING 20
#define REGS_LEVEL 24
#define REGS_BAD 32
#define REGS_LAST_BAD 40
#define REGS_MXCSR 48
#define REGS_CONTROL 56
#define REGS_GENERAL_IN 64
#define REGS_GENERAL_OUT 192
#define REGS_X87_IN 320
#define REGS_X87_OUT 448
#define REGS_MASK_IN 576
#define REGS_MASK_OUT 640
#define REGS_VECTOR_IN 704
#define REGS_VECTOR_OUT 2752

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct regs {
	uint64_t pause_sec; /* timespec of one nanosleep, at the very begin: rdi is its argument */
	uint64_t pause_nsec;
	uint32_t leave;	   /* set by another thread to end the wait */
	uint32_t sleeping; /* wait in nanosleep instead of spinning */
	uint32_t level;	   /* REGS_SSE.. */
	uint32_t unused;
	uint64_t bad;	  /* nanosleeps that returned other than 0 */
	int64_t last_bad; /* what the last of them returned */
	uint32_t mxcsr, mxcsr_out;
	uint16_t x87_control, x87_control_out;
	uint32_t unused2;
	uint64_t general[16];	  /* loaded; REGS_GENERAL of them */
	uint64_t general_out[16]; /* stored at the end */
	unsigned char x87[8][16]; /* ten bytes used of each */
	unsigned char x87_out[8][16];
	uint64_t mask[8]; /* k0..k7 */
	uint64_t mask_out[8];
	unsigned char vector[32][64]; /* zmm0..zmm31, or their lower parts */
	unsigned char vector_out[32][64];
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct regs, leave) == REGS_LEAVE, "layout");
_Static_assert(offsetof(struct regs, sleeping) == REGS_SLEEPING, "layout");
_Static_assert(offsetof(struct regs, level) == REGS_LEVEL, "layout");
_Static_assert(offsetof(struct regs, bad) == REGS_BAD, "layout");
_Static_assert(offsetof(struct regs, last_bad) == REGS_LAST_BAD, "layout");
_Static_assert(offsetof(struct regs, mxcsr) == REGS_MXCSR, "layout");
_Static_assert(offsetof(struct regs, x87_control) == REGS_CONTROL, "layout");
_Static_assert(offsetof(struct regs, general) == REGS_GENERAL_IN, "layout");
_Static_assert(offsetof(struct regs, general_out) == REGS_GENERAL_OUT, "layout");
_Static_assert(offsetof(struct regs, x87) == REGS_X87_IN, "layout");
_Static_assert(offsetof(struct regs, x87_out) == REGS_X87_OUT, "layout");
_Static_assert(offsetof(struct regs, mask) == REGS_MASK_IN, "layout");
_Static_assert(offsetof(struct regs, mask_out) == REGS_MASK_OUT, "layout");
_Static_assert(offsetof(struct regs, vector) == REGS_VECTOR_IN, "layout");
_Static_assert(offsetof(struct regs, vector_out) == REGS_VECTOR_OUT, "layout");

/* Loads, waits until leave is set, stores. Puts back what the calling convention wants kept. */
void regs_hold(struct regs *regs);

/* A system call returns in rax, and takes rcx and r11 for itself; rsi is its second argument. */
static inline bool regs_syscall_changes(unsigned int i)
{
	return i == 0 || i == 2 || i == 4 || i == 9;
}

#endif
