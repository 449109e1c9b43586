/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. A mapping is registered once, and then again whenever it has lost that: new mappings have none, and mremap(2) takes it
 * away, from what it moves as from the neighbours that the kernel makes one mapping with it. Pages of such a neighbour keep
 * their bit "protected", which nobody clears any more when they are written: taken at its word it would hide what was written
 * since (seen on Linux 6.18 with a program that swaps pages). So what had no registration has its bits cleared as soon as it
 * has one, and counts as written.
 *
 * Happy path, of an update: a scan that looks at mappings only, not at their pages, tells which have no registration; those
 * are registered and their bits are cleared.
 *
 * The ends of what is registered must be the ends of mappings at that moment: an end inside of one cuts it in two, and the
 * program's next mremap(2) over it fails. So the process should stand still from the look at its mappings on whenever something
 * is loose (track_registration_is_loose()). If it runs, what comes loose between the scan and the registration is found by the
 * next update, as only what the scan has shown is touched.
 *
 * Failure modes: a range that cannot be registered (another userfaultfd is there, or nobody can ever write to it) is taken
 * mapping by mapping, and is untracked.
 */
#include "registration.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/cleanup.h"

#define REGIONS_MAX 512
#define USER_END    UINT64_C(0x7ffffffff000) /* of what a scan takes: [vsyscall] lies behind it */

int track_registration_init(struct track_registration *registration, int userfaultfd)
{
	*registration = (struct track_registration){ .userfaultfd = userfaultfd };
	registration->regions = calloc(REGIONS_MAX, sizeof(*registration->regions));
	if (!registration->regions) {
		cleanup_fd(&registration->userfaultfd);
		return -ENOMEM;
	}
	return 0;
}

static int add_range(struct track_ranges *ranges, uint64_t start, uint64_t end, int code)
{
	struct track_range range = { .start = start, .end = end, .code = code };

	return array_append(ranges, range);
}

/*
 * Lists mappings that are registered, or those that are not. The others are passed over as a whole, without a look at their
 * pages: a microsecond for some of them.
 */
static int list_mappings(struct track_registration *registration, const struct track *track, bool registered,
			 uint64_t start, uint64_t end, struct track_ranges *list)
{
	int count, r;

	array_clear(list);
	if (end > USER_END)
		end = USER_END;
	while (start < end) {
		struct abi_pagemap_scan request = {
			.size = sizeof(request),
			.start = start,
			.end = end,
			.vec = (uintptr_t)registration->regions,
			.vec_len = REGIONS_MAX,
			.category_inverted = registered ? 0 : ABI_PAGE_WPALLOWED,
			.category_mask = ABI_PAGE_WPALLOWED,
			.return_mask = ABI_PAGE_WPALLOWED,
		};

		count = ioctl(track->pagemap_fd, ABI_PAGEMAP_SCAN, &request);
		if (count < 0)
			return -errno;
		for (int i = 0; i < count; i++) {
			const struct abi_page_region *region = &registration->regions[i];
			struct track_range *last = list->count ? &list->items[list->count - 1] : NULL;

			if (last && last->end == region->start) {
				last->end = region->end;
				continue;
			}
			r = add_range(list, region->start, region->end, 0);
			if (r < 0)
				return r;
		}
		if (count < REGIONS_MAX)
			break;
		start = registration->regions[count - 1].end;
	}
	return 0;
}

void track_registration_deinit(struct track_registration *registration, const struct track *track)
{
	/*
	 * The last close would do it alone; but a child that the process forked while it had the descriptor for
	 * a moment has a copy until it execs or ends.
	 */
	array_for_each(range, &registration->registered) {
		if (track->pagemap_fd < 0 ||
		    list_mappings(registration, track, true, range->start, range->end, &registration->loose) < 0)
			break;
		array_for_each(mappings, &registration->loose) {
			struct uffdio_range all = { .start = mappings->start, .len = mappings->end - mappings->start };

			/* What the process has unmapped or remapped meanwhile is not registered any more. */
			(void)ioctl(registration->userfaultfd, UFFDIO_UNREGISTER, &all);
		}
	}
	array_deinit(&registration->registered);
	array_deinit(&registration->loose);
	cleanup_fd(&registration->userfaultfd);
	free(registration->regions);
	registration->regions = NULL;
}

static int clear_once(const struct track_registration *registration, uint64_t start, uint64_t end)
{
	struct uffdio_writeprotect request = { .range = { .start = start, .len = end - start } };

	return ioctl(registration->userfaultfd, UFFDIO_WRITEPROTECT, &request) < 0 ? -errno : 0;
}

/* Where a part of the range has come loose again, or is gone, the call stops; that part is left to the next update. */
static int clear_bits(struct track_registration *registration, const struct track *track, uint64_t start, uint64_t end)
{
	struct track_ranges rest = { 0 };
	int r;

	if (clear_once(registration, start, end) != -ENOENT)
		return 0;
	r = list_mappings(registration, track, true, start, end, &rest);
	array_for_each(range, &rest)
		if (r == 0)
			clear_once(registration, range->start, range->end);
	array_deinit(&rest);
	return r;
}

static int register_range(const struct track_registration *registration, uint64_t start, uint64_t end)
{
	struct uffdio_register request = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(registration->userfaultfd, UFFDIO_REGISTER, &request) < 0 ? -errno : 0;
}

/* The part of the list that begins with the first range that ends behind `address`. */
static const struct track_range *loose_from(const struct track_registration *registration, uint64_t address, uint64_t end)
{
	const struct track_range *range = track_ranges_find(&registration->loose, address);

	return range && range->start < end ? range : NULL;
}

static int register_single(struct track_registration *registration, struct track *track, const struct procfs_map *map)
{
	bool is_loose = loose_from(registration, map->start, map->end);
	int r = is_loose ? register_range(registration, map->start, map->end) : 0;

	if (r == 0 && is_loose)
		r = clear_bits(registration, track, map->start, map->end);
	if (r == -ENOMEM)
		return r;
	if (r == -EPERM) /* may never become writable: a shared mapping of a file opened for reading */
		return 0;
	if (r < 0)
		return add_range(&track->untracked, map->start, map->end, r);
	return add_range(&registration->registered, map->start, map->end, 0);
}

/* What of a group is loose. */
static int register_loose(struct track_registration *registration, const struct track *track, uint64_t first, uint64_t last)
{
	const struct track_range *range = loose_from(registration, first, last);

	for (; range && range < registration->loose.items + registration->loose.count && range->start < last; range++) {
		uint64_t start = range->start < first ? first : range->start, end = range->end > last ? last : range->end;
		int r = register_range(registration, start, end);

		if (r == 0)
			r = clear_bits(registration, track, start, end);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Registers maps[0..count), between which there is nothing that must not be registered. */
static int register_group(struct track_registration *registration, struct track *track, const struct procfs_map *maps,
			  size_t count)
{
	int r;

	if (count == 0)
		return 0;
	r = register_loose(registration, track, maps[0].start, maps[count - 1].end);
	if (r == 0)
		return add_range(&registration->registered, maps[0].start, maps[count - 1].end, 0);
	for (size_t i = 0; i < count; i++) {
		r = register_single(registration, track, &maps[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int list_loose(struct track_registration *registration, const struct track *track, const struct procfs_maps *maps)
{
	return list_mappings(registration, track, false, maps->items[0].start, maps->items[maps->count - 1].end,
			     &registration->loose);
}

bool track_registration_is_loose(struct track_registration *registration, const struct track *track,
				 const struct procfs_maps *maps)
{
	if (maps->count == 0 || list_loose(registration, track, maps) < 0)
		return false;
	array_for_each(map, maps) {
		const struct track_range *untracked = track_ranges_find(&track->untracked, map->start);

		/* What could never be written to when it was mapped is loose for ever. */
		if (loose_from(registration, map->start, map->end) && !(untracked && untracked->start <= map->start) &&
		    (!map->shared || map->prot & PROT_WRITE) &&
		    track_map_content(track->pid, map) == TRACK_CONTENT_OWN)
			return true;
	}
	return false;
}

int track_registration_update(struct track_registration *registration, struct track *track,
			      const struct procfs_maps *maps)
{
	size_t first = 0;
	int r;

	array_clear(&registration->registered);
	array_clear(&track->untracked);
	if (maps->count == 0)
		return 0;
	r = list_loose(registration, track, maps);
	for (size_t i = 0; r == 0 && i <= maps->count; i++) {
		if (i < maps->count && track_map_content(track->pid, &maps->items[i]) == TRACK_CONTENT_OWN)
			continue;
		r = register_group(registration, track, &maps->items[first], i - first);
		first = i + 1;
	}
	return r;
}
