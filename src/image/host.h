/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a processor and a kernel offer to programs, so that source and target can be compared. Reads CPUID, XCR0 and the
 * vDSO of the calling process; does not block.
 */
#pragma once

#include "image/blockers.h"
#include "inventory.pb-c.h"
#include "util/error.h"

#define IMAGE_HOST_WORDS 10

/* Facts of this machine in a form that can be packed. Holds pointers into itself: do not copy. */
struct image_host {
	HostFacts message;
	CpuidWord words[IMAGE_HOST_WORDS];
	CpuidWord *word_list[IMAGE_HOST_WORDS];
	char kernel[128]; /* uname release */
	char name[128];   /* uname nodename */
};

int image_host_read(struct image_host *ret, struct error *error);

/* Adds a blocker for each thing that `source` has and `target` lacks. */
void image_host_compare(const HostFacts *source, const HostFacts *target, struct image_blockers *blockers);

/*
 * Places of the components of the xsave area in the standard format; size 0: this processor has none of that number. To be
 * read once and kept: in a virtual machine each CPUID costs tens of microseconds.
 */
struct image_xsave_layout {
	uint32_t offset[64];
	uint32_t size[64];
};
void image_xsave_layout_read(struct image_xsave_layout *ret);
