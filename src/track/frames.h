/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each page of an address space was when it was last noted: its frame or place in swap, from /proc/PID/pagemap.
 * 8 bytes for each page that has been there, kept in pieces of 2 MiB. Nothing here blocks; 0 or -ENOMEM.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "util/array.h"
#include "util/procfs.h"

struct frames_piece;

struct frames {
	ARRAY(struct frames_piece *) pieces; /* owned: by address */
	size_t near;                         /* index of the piece that was used last */
};

/* Is there, at that address, what was there when it was noted? Never so before the first note. */
bool frames_same(struct frames *frames, uint64_t address, uint64_t entry);
int frames_note(struct frames *frames, uint64_t address, uint64_t entry);
/* Forgets what lies outside all mappings. */
void frames_prune(struct frames *frames, const struct procfs_maps *maps);
void frames_deinit(struct frames *frames);
