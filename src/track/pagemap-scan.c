/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Written pages by userfaultfd and PAGEMAP_SCAN.
 *
 * Model. A mapping is registered with a userfaultfd in mode WP_ASYNC. Its pages then have a bit, "protected", which a
 * scan sets and the first write clears in the page fault handler, without anyone being told. A page without the bit is
 * "written". A page that comes to be in any other way (a new mapping, a grown one, a page populated after it was
 * dropped) has no bit, so it counts as written, too. Finding and protecting a page is one step under the page table
 * lock, so that a write comes either before it, and is reported, or after it, and clears the bit again.
 *
 * Happy path. update: all mappings that hold memory of the process are registered (registration.c). scan: PAGEMAP_SCAN over
 * the range, as often as its vector fills up.
 *
 * Four things that are not done, and why:
 * - PM_SCAN_CHECK_WPASYNC makes a scan fail at the first mapping that is not registered; by then the pages before it
 *   are protected, and the kernel does not say how many regions it has written: their writes would be lost (seen on
 *   Linux 6.18). Without it such mappings are skipped, and come with the next round.
 * - Empty places are not scanned for. A scan for WRITTEN alone matches them as well, and protecting them puts a marker
 *   into each: 2 MiB of page tables in the tracked process per GiB of a sparse mapping. Thus a scan asks for written
 *   pages that are there. What was dropped shows in the next scan for all pages by its absence.
 * - Whether a page belongs to a file is asked only where a file is mapped: for that the kernel looks at each page's
 *   descriptor, which makes a scan of clean memory 17 times as long (2.1 ms instead of 0.12 ms for 256 MiB).
 * - Nothing is concluded from addresses: something else mapped at an old address has no registration.
 *
 * Markers still come up where the kernel drops a protected page of a file or of shared memory. The scan calls them
 * SWAPPED; so what is said to be swapped is looked up in pagemap (see pagemap.c), page by page. In swap-less systems
 * that is next to nothing.
 *
 * Failure modes. The program has its own userfaultfd on a mapping: EBUSY, the range is untracked. A mapping that can
 * never be written to: EPERM, nothing to track. The address space is gone: ESRCH by a probe, since a scan of a dead
 * address space finds nothing and succeeds. A scan that fails half-way: the track is marked as failed.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kernel-abi.h"
#include "private.h"
#include "registration.h"

#include "util/cleanup.h"

#define FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | ABI_UFFD_WP_UNPOPULATED | ABI_UFFD_WP_ASYNC)

#define REGIONS_MAX   2048
#define ENTRIES_CHUNK 512

/* The last page of the address space: nobody minds if its protection is taken away. */
#define PROBE_ADDRESS UINT64_C(0x7fffffffe000)

struct pagemap_scan {
	struct track base;               /* first */
	struct track_registration registration;
	uint64_t guard;                  /* ABI_PAGE_GUARD, or 0 where the kernel does not know it */
	struct track_ranges files;       /* owned: where files or shared memory are mapped, of the last update, by address */
	struct abi_page_region *regions; /* owned: the scan's vector, REGIONS_MAX long */
};

static struct pagemap_scan *to_scan(struct track *track)
{
	return (struct pagemap_scan *)track;
}

/* ---- registration ---- */

static int check_alive(const struct pagemap_scan *scan, struct error *error)
{
	struct uffdio_writeprotect probe = {
		.range = { .start = PROBE_ADDRESS, .len = TRACK_PAGE },
		.mode = 0,
	};

	if (ioctl(scan->registration.userfaultfd, UFFDIO_WRITEPROTECT, &probe) == 0 || errno != ESRCH)
		return 0;
	return error_set(error, -ESRCH, "PID %d: its address space is gone (it ended or called execve)",
			 scan->base.pid);
}

static int list_files(struct pagemap_scan *scan, const struct procfs_maps *maps)
{
	int r;

	array_clear(&scan->files);
	array_for_each(map, maps) {
		if (map->inode == 0)
			continue;
		r = array_append(&scan->files, ((struct track_range){ .start = map->start, .end = map->end }));
		if (r < 0)
			return r;
	}
	return 0;
}

static int update(struct track *track, const struct procfs_maps *maps, unsigned int flags, struct error *error)
{
	struct pagemap_scan *scan = to_scan(track);
	int r;

	(void)flags;
	r = check_alive(scan, error);
	if (r < 0)
		return r;
	r = list_files(scan, maps);
	if (r >= 0)
		r = track_registration_update(&scan->registration, track, maps);
	if (r < 0)
		return check_alive(scan, error) < 0 ? -ESRCH : /* the kernel says ENOMEM for it */
		       error_set_errno(error, r, "PID %d: userfaultfd registration", track->pid);
	return 0;
}

static bool wants_stop(struct track *track, const struct procfs_maps *maps)
{
	return track_registration_is_loose(&to_scan(track)->registration, track, maps);
}

/* ---- scanning ---- */

static uint32_t run_flags(uint64_t categories)
{
	uint32_t flags = 0;

	if (categories & ABI_PAGE_WRITTEN)
		flags |= TRACK_WRITTEN;
	if (categories & ABI_PAGE_GUARD)
		return flags | TRACK_GUARD;
	if (categories & ABI_PAGE_PRESENT)
		flags |= TRACK_PRESENT;
	else if (categories & ABI_PAGE_SWAPPED)
		flags |= TRACK_SWAPPED;
	if (categories & ABI_PAGE_ZERO)
		flags |= TRACK_ZERO;
	if (categories & ABI_PAGE_FILE)
		flags |= TRACK_FILE;
	if (categories & ABI_PAGE_HUGE)
		flags |= TRACK_HUGE;
	return flags;
}

/*
 * Adds pages that the scan called swapped as what they are. Whatever is not known for sure is added as swapped. A page
 * that has come in since is present, which is as good.
 */
static int add_swapped(struct pagemap_scan *scan, size_t first, uint64_t start, uint64_t end, uint32_t written,
		       struct track_runs *runs)
{
	uint64_t entries[ENTRIES_CHUNK];
	size_t count, i;
	uint32_t flags;
	int r;

	while (start < end) {
		count = (end - start) / TRACK_PAGE;
		if (count > ENTRIES_CHUNK)
			count = ENTRIES_CHUNK;
		if (track_pagemap_read(&scan->base, start, entries, count, &count, NULL) < 0)
			return track_runs_add(runs, first, start, (end - start) / TRACK_PAGE, TRACK_SWAPPED | written);
		for (i = 0; i < count; i++, start += TRACK_PAGE) {
			flags = track_pagemap_flags(entries[i]);
			if (!flags)
				continue;
			r = track_runs_add(runs, first, start, 1, flags | written);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int add_regions(struct pagemap_scan *scan, size_t count, size_t first, uint32_t keep, uint32_t force,
		       struct track_runs *runs)
{
	size_t i;
	int r;

	for (i = 0; i < count; i++) {
		const struct abi_page_region *region = &scan->regions[i];
		uint32_t flags = (run_flags(region->categories) & keep) | force;

		if (flags & TRACK_SWAPPED)
			r = add_swapped(scan, first, region->start, region->end, flags & TRACK_WRITTEN, runs);
		else
			r = track_runs_add(runs, first, region->start, (region->end - region->start) / TRACK_PAGE,
					   flags);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Where the next call has to go on. With room left in the vector the range is done, whatever walk_end says: the kernel
 * sets it each time its inner buffer is full and not again at the end (seen on Linux 6.18). Going on from there would
 * report pages twice, and the first report, older than the second, might say "zero page" of what no longer is.
 */
static uint64_t next_start(const struct pagemap_scan *scan, const struct abi_pagemap_scan *request, size_t count)
{
	uint64_t last;

	if (count < REGIONS_MAX)
		return request->end;
	last = scan->regions[count - 1].end;
	return request->walk_end > last ? request->walk_end : last;
}

/* What to look for, and how to tell it. */
struct query {
	uint64_t flags;    /* ABI_SCAN_* */
	uint64_t inverted; /* categories that are to be missing rather than there */
	uint64_t mask;     /* all of these ... */
	uint64_t any;      /* ... and, unless 0, one of these */
	uint64_t returned; /* categories to tell */
	uint32_t keep;     /* flags of the runs that are passed on ... */
	uint32_t force;    /* ... and those that are added to each */
};

#define CONTENT (ABI_PAGE_PRESENT | ABI_PAGE_SWAPPED)

static int query_range(struct pagemap_scan *scan, const struct query *query, uint64_t start, uint64_t end,
		       struct track_runs *runs, struct error *error)
{
	size_t first = runs->count;
	int count, r;

	while (start < end) {
		struct abi_pagemap_scan request = {
			.size = sizeof(request),
			.flags = query->flags,
			.start = start,
			.end = end,
			.vec = (uintptr_t)scan->regions,
			.vec_len = REGIONS_MAX,
			.category_inverted = query->inverted,
			.category_mask = query->mask,
			.category_anyof_mask = query->any,
			.return_mask = query->returned,
		};

		/* Memory first: what the kernel has protected must find its place in the list. */
		if (array_reserve(runs, REGIONS_MAX) < 0)
			return error_set(error, -ENOMEM, "no memory for a list of pages");
		count = ioctl(scan->base.pagemap_fd, ABI_PAGEMAP_SCAN, &request);
		r = count < 0 ? -errno : add_regions(scan, (size_t)count, first, query->keep, query->force, runs);
		if (r < 0) {
			if (query->flags & ABI_SCAN_PROTECT)
				scan->base.failed = r;
			return error_set_errno(error, r, "PID %d: PAGEMAP_SCAN from 0x%lx", scan->base.pid,
					       (unsigned long)start);
		}
		start = next_start(scan, &request, (size_t)count);
	}
	return 0;
}

/* Is there a range at `start`? Takes `end` back to where that changes. */
static bool range_at(const struct track_ranges *ranges, uint64_t start, uint64_t *end)
{
	const struct track_range *range = track_ranges_find(ranges, start);
	bool inside = range && range->start <= start;
	uint64_t change = !range ? UINT64_MAX : inside ? range->end : range->start;

	if (change < *end)
		*end = change;
	return inside;
}

/* Categories to ask for: those of a file cost a look at each page. */
static uint64_t returned_categories(const struct pagemap_scan *scan, bool file)
{
	return ABI_PAGE_WRITTEN | CONTENT | ABI_PAGE_ZERO | ABI_PAGE_HUGE | scan->guard | (file ? ABI_PAGE_FILE : 0);
}

static int scan_range(struct track *track, uint64_t start, uint64_t end, unsigned int flags, struct track_runs *runs,
		      struct error *error)
{
	struct pagemap_scan *scan = to_scan(track);
	uint64_t piece;
	int r;

	for (; start < end; start = piece) {
		struct query query = { .any = CONTENT, .keep = UINT32_MAX };

		piece = end;
		query.returned = returned_categories(scan, range_at(&scan->files, start, &piece));
		if (!range_at(&track->untracked, start, &piece)) {
			query.flags = flags & TRACK_PROTECT ? ABI_SCAN_PROTECT : 0;
			query.mask = flags & TRACK_ALL ? 0 : ABI_PAGE_WRITTEN;
		} else if (flags & TRACK_PROTECT) {
			continue;
		} else {
			query.force = TRACK_WRITTEN;
		}
		r = query_range(scan, &query, start, piece, runs, error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int present(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error)
{
	struct pagemap_scan *scan = to_scan(track);
	struct query query = { .any = CONTENT, .keep = ~(uint32_t)TRACK_WRITTEN };
	uint64_t piece;
	int r;

	for (; start < end; start = piece) {
		piece = end;
		query.returned = returned_categories(scan, range_at(&scan->files, start, &piece));
		r = query_range(scan, &query, start, piece, runs, error);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Where files are mapped, markers look like content to the kernel: what is not present is absent. */
static int absent_of_file(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs,
			  struct error *error)
{
	struct track_runs there = { 0 };
	size_t first = runs->count;
	int r = present(track, start, end, &there, error);

	if (r >= 0)
		r = array_append(&there, ((struct track_run){ .start = end, .pages = 0 }));
	for (size_t i = 0; r >= 0 && i < there.count; i++) {
		if (there.items[i].start > start)
			r = track_runs_add(runs, first, start, (there.items[i].start - start) / TRACK_PAGE, 0);
		start = there.items[i].start + there.items[i].pages * TRACK_PAGE;
	}
	track_runs_deinit(&there);
	return r < 0 ? error_set_errno(error, r, "PID %d: list of absent pages", track->pid) : 0;
}

static int absent(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error)
{
	struct pagemap_scan *scan = to_scan(track);
	struct query query = { .inverted = CONTENT, .mask = CONTENT, .returned = ABI_PAGE_PRESENT };
	uint64_t piece;
	int r;

	for (; start < end; start = piece) {
		piece = end;
		r = range_at(&scan->files, start, &piece) ?
			    absent_of_file(track, start, piece, runs, error) :
			    query_range(scan, &query, start, piece, runs, error);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- start and stop ---- */

static void stop(struct track *track)
{
	struct pagemap_scan *scan = to_scan(track);

	track_registration_deinit(&scan->registration, track);
	array_deinit(&scan->files);
	free(scan->regions);
}

static const struct track_operations operations = {
	.update = update,
	.scan = scan_range,
	.present = present,
	.absent = absent,
	.stop = stop,
	.wants_stop = wants_stop,
};

int track_pagemap_scan_new(int userfaultfd, struct track **ret, struct error *error)
{
	struct pagemap_scan *scan = calloc(1, sizeof(*scan));

	if (scan)
		scan->regions = calloc(REGIONS_MAX, sizeof(*scan->regions));
	if (!scan || !scan->regions) {
		cleanup_fd(&userfaultfd);
		if (scan)
			free(scan->regions);
		free(scan);
		return error_set(error, -ENOMEM, "no memory for a tracker");
	}
	if (track_registration_init(&scan->registration, userfaultfd) < 0) {
		free(scan->regions);
		free(scan);
		return error_set(error, -ENOMEM, "no memory for a tracker");
	}
	scan->base.operations = &operations;
	*ret = &scan->base;
	return 0;
}

/* An empty scan, which tells whether the kernel knows the call and the categories. */
static int try_scan(const struct pagemap_scan *scan)
{
	struct abi_pagemap_scan request = {
		.size = sizeof(request),
		.start = PROBE_ADDRESS,
		.end = PROBE_ADDRESS + TRACK_PAGE,
		.vec = (uintptr_t)scan->regions,
		.vec_len = 1,
		.category_mask = ABI_PAGE_WRITTEN,
		.return_mask = returned_categories(scan, true),
	};

	return ioctl(scan->base.pagemap_fd, ABI_PAGEMAP_SCAN, &request) < 0 ? -errno : 0;
}

int track_pagemap_scan_prepare(struct track *track, struct error *error)
{
	struct pagemap_scan *scan = to_scan(track);
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int r;

	if (ioctl(scan->registration.userfaultfd, UFFDIO_API, &api) < 0)
		return error_set_errno(error, -errno, "PID %d: userfaultfd with asynchronous write protection (Linux 6.7)",
				       track->pid);
	scan->guard = ABI_PAGE_GUARD;
	r = try_scan(scan);
	if (r == -EINVAL) {
		scan->guard = 0;
		r = try_scan(scan);
	}
	if (r < 0)
		return error_set_errno(error, r, "PID %d: PAGEMAP_SCAN (Linux 6.7)", track->pid);
	return 0;
}
