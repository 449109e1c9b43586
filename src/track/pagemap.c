/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /proc/PID/pagemap, and what kind of memory a line of /proc/PID/maps stands for.
 *
 * A page that is not present and not empty is a swap entry to the kernel, and pagemap says "swapped" of all of them:
 * of pages in swap, of pages that are being migrated, and of markers, which hold no page: guard pages, and places that
 * userfaultfd protects. The type number in the low five bits of the entry tells them apart: markers have the last one.
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "private.h"

#include "util/fdio.h"

#define SWAP_TYPE_BITS   5
#define SWAP_TYPE_MASK   ((UINT64_C(1) << SWAP_TYPE_BITS) - 1)
#define SWAP_TYPE_MARKER UINT64_C(31)
#define SWAP_OFFSET_MASK (((UINT64_C(1) << 55) - 1) & ~SWAP_TYPE_MASK)

/* What a marker may be, bits of its offset. */
#define MARKER_PROTECTED UINT64_C(1)
#define MARKER_POISONED  UINT64_C(2)
#define MARKER_GUARD     UINT64_C(4)

static uint32_t marker_flags(uint64_t marker)
{
	if (marker & MARKER_GUARD)
		return TRACK_GUARD;
	/* A poisoned page has no content that could be moved: whoever reads it must get to know that. */
	if (marker & MARKER_POISONED)
		return TRACK_SWAPPED | TRACK_POISONED;
	return marker & ~MARKER_PROTECTED ? TRACK_SWAPPED : 0;
}

uint32_t track_pagemap_flags(uint64_t entry)
{
	uint32_t file = entry & TRACK_PAGEMAP_FILE ? TRACK_FILE : 0;

	if (entry & TRACK_PAGEMAP_PRESENT)
		return TRACK_PRESENT | file;
	if (entry & TRACK_PAGEMAP_GUARD)
		return TRACK_GUARD;
	if (!(entry & TRACK_PAGEMAP_SWAPPED))
		return 0;
	if ((entry & SWAP_TYPE_MASK) == SWAP_TYPE_MARKER)
		return marker_flags((entry & SWAP_OFFSET_MASK) >> SWAP_TYPE_BITS);
	return TRACK_SWAPPED | file;
}

int track_pagemap_read(const struct track *track, uint64_t address, uint64_t *entries, size_t count, size_t *ret_count,
		       struct error *error)
{
	ssize_t size;

	size = fdio_pread(track->pagemap_fd, entries, count * sizeof(*entries),
			  address / TRACK_PAGE * sizeof(*entries));
	if (size < 0)
		return error_set_errno(error, (int)size, "/proc/%d/pagemap: read", track->pid);
	if ((size_t)size < sizeof(*entries))
		return error_set(error, -ESRCH, "/proc/%d/pagemap: the address space is gone", track->pid);
	*ret_count = (size_t)size / sizeof(*entries);
	return 0;
}

static bool name_is_kernels(const char *name)
{
	return !strncmp(name, "[vvar", 5) || !strcmp(name, "[vdso]") || !strcmp(name, "[vsyscall]") ||
	       !strcmp(name, "[uprobes]");
}

/* Is the file behind a shared mapping memory (tmpfs, memfd, shared anonymous, huge pages)? */
static bool file_is_memory(pid_t pid, const struct procfs_map *map)
{
	char path[80];
	struct statfs fs;
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", procfs_live_thread(pid), (unsigned long)map->start,
		 (unsigned long)map->end);
	/* Where the answer is not to be had (no right, gone already), tracking too much is the safe side. */
	if (stat(path, &st) < 0 || statfs(path, &fs) < 0)
		return true;
	return S_ISREG(st.st_mode) && (fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC);
}

enum track_content track_map_content(pid_t pid, const struct procfs_map *map)
{
	if (map->name && map->inode == 0 && name_is_kernels(map->name))
		return TRACK_CONTENT_FOREIGN;
	if (!map->shared)
		return TRACK_CONTENT_OWN;
	return file_is_memory(pid, map) ? TRACK_CONTENT_OWN : TRACK_CONTENT_FOREIGN;
}
