/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "backing.h"

#include <errno.h>
#include <sys/mman.h>

#include "image/mapping.h"

/* As the target sees it (restore/mm-plan.c), or finer: what it keeps though we think it changed is only sent again. */
#define KIND_MASK (MAPPING_HAS_PAGES | MAPPING_MEMFD)

int backings_set(struct backings *backings, const AddressSpace *mm)
{
	array_clear(&backings->list);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const Mapping *mapping = mm->vmas[i];
		struct backing backing = {
			.start = mapping->start,
			.end = mapping->end,
			.file = mapping->shmid,
			.status = mapping->status & KIND_MASK,
			.flags = mapping->flags & ~(uint32_t)MAP_LOCKED,
			.open = mapping->fdflags,
		};

		if (!(mapping->status & MAPPING_HAS_PAGES))
			continue;
		if (mapping->status & MAPPING_FILE_PRIVATE)
			backing.offset = mapping->pgoff - mapping->start;
		if (array_append(&backings->list, backing) < 0)
			return -ENOMEM;
	}
	return 0;
}

void backings_deinit(struct backings *backings)
{
	array_deinit(&backings->list);
}

static bool is_same(const struct backing *one, const struct backing *other)
{
	return one->offset == other->offset && one->file == other->file && one->status == other->status &&
	       one->flags == other->flags && one->open == other->open;
}

/* Index of the first one that ends behind `address`. */
static size_t find(const struct backings *backings, uint64_t address)
{
	size_t low = 0, high = backings->list.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (backings->list.items[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

bool backings_next_change(const struct backings *before, const struct backings *now, uint64_t from, struct backing *ret)
{
	size_t i = find(before, from), k = find(now, from);

	while (i < before->list.count && k < now->list.count) {
		const struct backing *old = &before->list.items[i], *new = &now->list.items[k];
		struct backing both = *new;

		if (both.start < old->start)
			both.start = old->start;
		if (both.start < from)
			both.start = from;
		if (both.end > old->end)
			both.end = old->end;
		if (both.start < both.end && !is_same(old, new)) {
			*ret = both;
			return true;
		}
		i += old->end <= new->end;
		k += new->end <= old->end;
	}
	return false;
}
