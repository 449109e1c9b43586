/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the trackers share with track.c; nothing outside this folder includes it. */
#pragma once

#include "track.h"

/* What a tracker does; the contracts are those of the public calls of the same names. */
struct track_operations {
	int (*update)(struct track *track, const struct procfs_maps *maps, unsigned int flags, struct error *error);
	int (*scan)(struct track *track, uint64_t start, uint64_t end, unsigned int flags, struct track_runs *runs,
		    struct error *error);
	int (*present)(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error);
	int (*absent)(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error);
	void (*stop)(struct track *track); /* gives back what the tracker owns, not the common part */
	bool (*wants_stop)(struct track *track, const struct procfs_maps *maps);
};

/* The common part: first member of each tracker's own struct. */
struct track {
	const struct track_operations *operations; /* static */
	enum track_kind kind;                      /* what it was opened as */
	pid_t pid;                                 /* for messages and for paths below /proc */
	int pagemap_fd;                            /* owned: /proc/PID/pagemap; stays with the address space over an execve */
	int failed;                                /* negative errno once reports may have been lost; 0 until then */
	struct track_ranges untracked;             /* owned: what the last update could not track */
};

/* Both take over `userfaultfd` and allocate; the common part is filled in by track_open(). */
int track_pagemap_scan_new(int userfaultfd, struct track **ret, struct error *error);
int track_soft_dirty_new(struct track **ret, struct error *error);

/* First use, when the common part is complete. */
int track_pagemap_scan_prepare(struct track *track, struct error *error);
int track_soft_dirty_prepare(struct track *track, struct error *error);

/* What is in a mapping, as far as tracking goes. */
enum track_content {
	TRACK_CONTENT_OWN,     /* memory of the process: anonymous, private file, shared memory */
	TRACK_CONTENT_FOREIGN, /* a file on disk, a device, or the kernel's own pages: nothing to track */
};

enum track_content track_map_content(pid_t pid, const struct procfs_map *map);

/* The range of `ranges` (by address) that holds `address`, or else the next one behind it; NULL: none. */
const struct track_range *track_ranges_find(const struct track_ranges *ranges, uint64_t address);

/* Appends, or makes the last run longer if it ends at `start` and was appended at or after index `first`. */
int track_runs_add(struct track_runs *runs, size_t first, uint64_t start, uint64_t pages, uint32_t flags);

/* Bits of an entry of /proc/PID/pagemap that are used here (Documentation/admin-guide/mm/pagemap.rst). */
#define TRACK_PAGEMAP_PRESENT    (UINT64_C(1) << 63)
#define TRACK_PAGEMAP_SWAPPED    (UINT64_C(1) << 62)
#define TRACK_PAGEMAP_FILE       (UINT64_C(1) << 61)
#define TRACK_PAGEMAP_GUARD      (UINT64_C(1) << 58)
#define TRACK_PAGEMAP_SOFT_DIRTY (UINT64_C(1) << 55)
#define TRACK_PAGEMAP_FRAME      ((UINT64_C(1) << 55) - 1)

/* TRACK_PRESENT, SWAPPED, FILE and GUARD of an entry; 0: no content. */
uint32_t track_pagemap_flags(uint64_t entry);

/* Reads up to `count` entries from `address` on; at least one, less where the address space ends. */
int track_pagemap_read(const struct track *track, uint64_t address, uint64_t *entries, size_t count, size_t *ret_count,
		       struct error *error);
