/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of restore: the layout of an address space as it is, and the steps from one layout to another (mm-plan.c). */
#pragma once

#include "restore/parts.h"

/* A run of equal memory, as in mm.proto; kind 0 is what the shell came with and nobody wants. */
struct restore_segment {
	uint64_t start;
	uint64_t end;
	uint64_t pgoff;  /* byte offset in file or object */
	uint64_t madv;   /* bit n: advice n is in force */
	uint32_t prot;   /* PROT_* */
	uint32_t flags;  /* MAP_* */
	uint32_t status; /* MAPPING_* */
	uint32_t shmid;  /* file id or shared memory id */
	uint32_t fdflags;
};

struct restore_segments {
	struct restore_segment *items; /* by address, not overlapping; owned */
	size_t count;
	size_t capacity;
};

struct restore_mm {
	struct restore_segments now;     /* all but vDSO and vvar */
	struct restore_segments special; /* vDSO and vvar */
};

enum restore_step_kind {
	RESTORE_STEP_UNMAP,
	RESTORE_STEP_MAP,
	RESTORE_STEP_PROTECT,
	RESTORE_STEP_ADVISE,
};

struct restore_step {
	enum restore_step_kind kind;
	uint64_t start;
	uint64_t end;
	const struct restore_segment *wanted; /* borrowed; NULL: unmap only */
	uint64_t advice_now;                  /* RESTORE_STEP_ADVISE: what is in force */
};

struct restore_plan {
	ARRAY(struct restore_step) steps; /* to be done kind by kind, in the order of the enum */
};

/* The steps that make `wanted` of `now`. What is alike stays, with its pages. */
int restore_plan_make(const struct restore_segments *now, const struct restore_segments *wanted,
		      struct restore_plan *plan);

/* Start of a free range of `size` bytes outside both layouts and away from them; 0: none. */
uint64_t restore_plan_gap(const struct restore_segments *const *lists, size_t count, uint64_t size);
