/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was behind each address when the target was last told, to find what has become something else since.
 *
 * A target that learns of another mapping at an old address drops the old one with all its content. Pages of the new one
 * that a scan took for the old one's, as it came up between the look at the mappings and the scan, went with that: they
 * are protected, and thus not found again as written.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "mm.pb-c.h"
#include "util/array.h"

/* Pages of the process at [start, end), and what is behind them. */
struct backing {
	uint64_t start;
	uint64_t end;
	uint64_t offset; /* in the file, as if the mapping began at address 0; 0 without a file */
	uint64_t file;   /* id of the file or object */
	uint32_t status; /* MAPPING_* */
	uint32_t flags;  /* MAP_* */
	uint32_t open;   /* open(2) flags of the file */
};

struct backings {
	ARRAY(struct backing) list; /* by address; only mappings with pages of the process */
};

/* Makes `backings` say what `mm` says. 0 or -ENOMEM. */
int backings_set(struct backings *backings, const AddressSpace *mm);
void backings_deinit(struct backings *backings);

/*
 * The first range at or behind `from` that both have and that is not the same in both. False: there is none. `ret` is what
 * is there in `now`, cut to the range.
 */
bool backings_next_change(const struct backings *before, const struct backings *now, uint64_t from, struct backing *ret);
