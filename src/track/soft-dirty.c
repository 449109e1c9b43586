/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Written pages by soft-dirty bits: for kernels older than 6.7 that have CONFIG_MEM_SOFT_DIRTY (seen on Linux 6.1).
 *
 * Model. Writing 4 to /proc/PID/clear_refs clears bit 55 of all pagemap entries of an address space, and the
 * first write to a page sets it again. New mappings have it set throughout. There is no step that reads and clears: a
 * write between reading the bits and clearing them would be lost. So the bits are cleared only while nothing can
 * write:
 *
 *   start                          clears; what was written before does not matter, as the first round reports all
 *   update with TRACK_STOPPED      reads all bits into `pending`, then clears
 *   update without                 clears nothing: bits add up
 *   scan                           reports pending pages and those whose bit is set; TRACK_PROTECT takes what it
 *                                  reported out of `pending`, and of the first round
 *
 * The bit is not enough. A page that is dropped (MADV_DONTNEED) and then read is the kernel's page of zeros, or the file's
 * page, without the bit; and mremap() that moves whole page tables gives pages another address without setting it. So the
 * frame of each page is noted when it is reported, and a page in another frame counts as written, too (frames.h).
 *
 * Without stops that is right and wasteful: a page once written is reported in each round until the next
 * TRACK_STOPPED. The caller learns by track_wants_stop() that a short stop now and then pays.
 *
 * Pages are looked at one by one in pagemap (8 bytes each); a sparse mapping of 64 GiB costs some 100 ms. The zero page
 * and huge pages are not told apart from others.
 *
 * Failure modes: a kernel without the option takes the 4 and reports nothing: track_probe() finds that out. Without
 * CAP_SYS_ADMIN frames are hidden: -EPERM. Bits that cannot be saved are not cleared.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "frames.h"
#include "private.h"

#include "util/cleanup.h"
#include "util/fdio.h"

#define ENTRIES_CHUNK 4096

struct soft_dirty {
	struct track base;              /* first */
	int clear_fd;                   /* owned: /proc/PID/clear_refs */
	unsigned int updates;           /* updates so far; 1: the first round, in which everything counts as written */
	struct track_ranges pending;    /* owned: written before the bits were cleared, not reported yet; by address */
	struct frames frames;           /* owned: what was reported last, for each page */
	struct track_ranges foreign;    /* owned: mappings without memory of the process's own; by address */
	uint64_t entries[ENTRIES_CHUNK]; /* what was last read from pagemap */
};

static struct soft_dirty *to_dirty(struct track *track)
{
	return (struct soft_dirty *)track;
}

static int clear_bits(struct soft_dirty *dirty, struct error *error)
{
	int r = fdio_pwrite(dirty->clear_fd, "4", 1, 0);

	return r < 0 ? error_set_errno(error, r, "/proc/%d/clear_refs: write", dirty->base.pid) : 0;
}

static bool in_ranges(const struct track_ranges *ranges, uint64_t address)
{
	const struct track_range *range = track_ranges_find(ranges, address);

	return range && range->start <= address;
}

static int add_page(struct track_ranges *ranges, uint64_t address)
{
	struct track_range range = { .start = address, .end = address + TRACK_PAGE };

	if (ranges->count > 0 && ranges->items[ranges->count - 1].end == address) {
		ranges->items[ranges->count - 1].end += TRACK_PAGE;
		return 0;
	}
	return array_append(ranges, range);
}

/* Takes a range out of the list. */
static int cut_range(struct track_ranges *ranges, uint64_t start, uint64_t end)
{
	struct track_ranges kept = { 0 };
	int r = array_reserve(&kept, ranges->count + 1);

	if (r < 0)
		return r;
	array_for_each(range, ranges) {
		struct track_range before = { .start = range->start, .end = range->end < start ? range->end : start };
		struct track_range after = { .start = range->start > end ? range->start : end, .end = range->end };

		if (before.start < before.end)
			kept.items[kept.count++] = before;
		if (after.start < after.end)
			kept.items[kept.count++] = after;
	}
	array_deinit(ranges);
	*ranges = kept;
	return 0;
}

/* What a look at the pages calls for each chunk: `count` entries from `address` on. */
typedef int (*look_fn)(struct soft_dirty *dirty, uint64_t address, size_t count, void *data);

static int look(struct soft_dirty *dirty, uint64_t start, uint64_t end, look_fn fn, void *data, struct error *error)
{
	size_t count;
	int r;

	while (start < end) {
		count = (end - start) / TRACK_PAGE;
		r = track_pagemap_read(&dirty->base, start, dirty->entries,
				       count > ENTRIES_CHUNK ? ENTRIES_CHUNK : count, &count, error);
		if (r < 0)
			return r;
		r = fn(dirty, start, count, data);
		if (r < 0)
			return error_set(error, r, "no memory for a list of pages");
		start += count * TRACK_PAGE;
	}
	return 0;
}

/* ---- update ---- */

static int collect_pending(struct soft_dirty *dirty, uint64_t address, size_t count, void *data)
{
	struct track_ranges *pending = data;
	size_t i;
	int r;

	for (i = 0; i < count; i++) {
		uint64_t page = address + i * TRACK_PAGE;

		if (!(dirty->entries[i] & TRACK_PAGEMAP_SOFT_DIRTY) && !in_ranges(&dirty->pending, page))
			continue;
		r = add_page(pending, page);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Nothing can write now: keeps what the bits say in `pending`, and clears them. */
static int save_and_clear(struct soft_dirty *dirty, const struct procfs_maps *maps, struct error *error)
{
	struct track_ranges pending = { 0 };
	int r = 0;

	array_for_each(map, maps) {
		if (in_ranges(&dirty->foreign, map->start))
			continue;
		r = look(dirty, map->start, map->end, collect_pending, &pending, error);
		if (r < 0)
			break;
	}
	if (r >= 0)
		r = clear_bits(dirty, error);
	if (r < 0) {
		array_deinit(&pending);
		return r;
	}
	array_deinit(&dirty->pending);
	dirty->pending = pending;
	return 0;
}

static int list_foreign(struct soft_dirty *dirty, const struct procfs_maps *maps)
{
	int r;

	array_clear(&dirty->foreign);
	array_for_each(map, maps) {
		struct track_range range = { .start = map->start, .end = map->end };

		if (track_map_content(dirty->base.pid, map) == TRACK_CONTENT_OWN)
			continue;
		r = array_append(&dirty->foreign, range);
		if (r < 0)
			return r;
	}
	return 0;
}

static int update(struct track *track, const struct procfs_maps *maps, unsigned int flags, struct error *error)
{
	struct soft_dirty *dirty = to_dirty(track);
	uint64_t entry;
	size_t count;
	int r;

	r = track_pagemap_read(track, maps->count ? maps->items[0].start : 0, &entry, 1, &count, error);
	if (r < 0)
		return r;
	if (list_foreign(dirty, maps) < 0)
		return error_set(error, -ENOMEM, "no memory for a list of mappings");
	frames_prune(&dirty->frames, maps);
	/* In the first round everything is reported, so the bits that are cleared now need not be saved. */
	if (flags & TRACK_STOPPED)
		r = dirty->updates == 0 ? clear_bits(dirty, error) : save_and_clear(dirty, maps, error);
	if (r >= 0 && dirty->updates < 2)
		dirty->updates++;
	return r;
}

/* ---- scan ---- */

struct report {
	struct track_runs *runs; /* where to */
	size_t first;            /* runs before this index are not ours */
	unsigned int flags;      /* of track_scan() */
	bool written;            /* tell what was written, and unless TRACK_ALL only that */
	bool absent;             /* tell only where there is nothing */
};

static bool page_is_written(struct soft_dirty *dirty, uint64_t entry, uint64_t page)
{
	return dirty->updates < 2 || (entry & TRACK_PAGEMAP_SOFT_DIRTY) || in_ranges(&dirty->pending, page) ||
	       !frames_same(&dirty->frames, page, entry);
}

static int report_pages(struct soft_dirty *dirty, uint64_t address, size_t count, void *data)
{
	struct report *report = data;
	uint32_t flags;
	size_t i;
	int r;

	for (i = 0; i < count; i++) {
		uint64_t page = address + i * TRACK_PAGE;

		flags = track_pagemap_flags(dirty->entries[i]);
		if (!flags != report->absent)
			continue;
		if (report->written && page_is_written(dirty, dirty->entries[i], page))
			flags |= TRACK_WRITTEN;
		else if (report->written && !(report->flags & TRACK_ALL))
			continue;
		r = track_runs_add(report->runs, report->first, page, 1, flags);
		if (r >= 0 && report->flags & TRACK_PROTECT)
			r = frames_note(&dirty->frames, page, dirty->entries[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int scan_range(struct track *track, uint64_t start, uint64_t end, unsigned int flags, struct track_runs *runs,
		      struct error *error)
{
	struct soft_dirty *dirty = to_dirty(track);
	struct report report = { .runs = runs, .first = runs->count, .flags = flags, .written = true };
	int r;

	r = look(dirty, start, end, report_pages, &report, error);
	if (r >= 0 && (flags & TRACK_PROTECT))
		r = cut_range(&dirty->pending, start, end);
	return r;
}

static int present(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error)
{
	struct report report = { .runs = runs, .first = runs->count };

	return look(to_dirty(track), start, end, report_pages, &report, error);
}

static int absent(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error)
{
	struct report report = { .runs = runs, .first = runs->count, .absent = true };

	return look(to_dirty(track), start, end, report_pages, &report, error);
}

/* ---- start and stop ---- */

static void stop(struct track *track)
{
	struct soft_dirty *dirty = to_dirty(track);

	array_deinit(&dirty->pending);
	array_deinit(&dirty->foreign);
	frames_deinit(&dirty->frames);
	if (dirty->clear_fd >= 0)
		close(dirty->clear_fd);
}

static bool wants_stop(struct track *track, const struct procfs_maps *maps)
{
	(void)track, (void)maps;
	return true;
}

static const struct track_operations operations = {
	.update = update,
	.scan = scan_range,
	.present = present,
	.absent = absent,
	.stop = stop,
	.wants_stop = wants_stop,
};

int track_soft_dirty_new(struct track **ret, struct error *error)
{
	struct soft_dirty *dirty = calloc(1, sizeof(*dirty));

	if (!dirty)
		return error_set(error, -ENOMEM, "no memory for a tracker");
	dirty->base.operations = &operations;
	dirty->clear_fd = -1;
	*ret = &dirty->base;
	return 0;
}

/* Asks about a page of our own, which is there as we are writing to it. */
static int check_frames(struct error *error)
{
	_cleanup_fd_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	volatile uint64_t here = 1;
	uint64_t entry = 0;

	if (fd < 0 || fdio_pread(fd, &entry, sizeof(entry), (uintptr_t)&here / TRACK_PAGE * sizeof(entry)) != sizeof(entry))
		return error_set_errno(error, -errno, "/proc/self/pagemap");
	if (!(entry & TRACK_PAGEMAP_FRAME))
		return error_set(error, -EPERM, "/proc/PID/pagemap tells no frames without CAP_SYS_ADMIN");
	return 0;
}

int track_soft_dirty_prepare(struct track *track, struct error *error)
{
	struct soft_dirty *dirty = to_dirty(track);
	int r = check_frames(error);
	char path[40];

	if (r < 0)
		return r;

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", procfs_live_thread(track->pid));
	dirty->clear_fd = open(path, O_WRONLY | O_CLOEXEC);
	if (dirty->clear_fd < 0)
		return error_set_errno(error, -errno, "%s", path);
	return clear_bits(dirty, error);
}
