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
	bool is_patchwork; /* one mapping on the source, and perhaps more than one here, until mm-join.c has looked */
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

/* The steps that make `wanted` of `now`. What is alike stays, with its pages. Notes what of `wanted` is patchwork. */
int restore_plan_make(const struct restore_segments *now, struct restore_segments *wanted, struct restore_plan *plan);

/* A file or shared memory object borrowed by the running batch. */
struct restore_mm_loan {
	uint32_t shmid;
	uint32_t status;
	uint32_t fdflags;
	int fd;    /* ours, owned */
	int index; /* of its pidfd_getfd in the batch */
};

/* Batches being filled and run. */
struct restore_mm_run {
	struct restore_tree *tree;
	struct restore_process *process;
	const struct restore_mm *wanted; /* borrowed */
	struct tracee_batch *batch; /* owned */
	int pidfd_index;            /* in the batch; -1: not asked for yet */
	ARRAY(struct restore_mm_loan) loans;
};

/* mm.c: runs what is in the batch; a call that maps a step's range as wanted; those that advise it. */
int restore_mm_run_flush(struct restore_mm_run *run, struct error *error);
int restore_mm_step_map(struct restore_mm_run *run, const struct restore_step *step, struct error *error);
void restore_mm_step_advise(struct restore_mm_run *run, const struct restore_step *step);

/*
 * mm-join.c: after the steps of a plan, makes one mapping of what is one on the source: where a boundary stands inside of a
 * mapping, mremap(2) over it fails. Pages stay what they are. Nearly always there is nothing to do, which costs nothing.
 */
int restore_mm_join(struct restore_mm_run *run, struct error *error);

/* Start of a free range of `size` bytes outside both layouts and away from them; 0: none. */
uint64_t restore_plan_gap(const struct restore_segments *const *lists, size_t count, uint64_t size);
