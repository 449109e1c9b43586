/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of page numbers of an address space: sparse, as address spaces are. Kept as chunks of 512 pages in order of
 * address; a page number is address / 4096. Not locked.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "array.h"

#define PAGESET_CHUNK 512u

struct pageset_chunk {
	uint64_t key;                       /* page number / PAGESET_CHUNK */
	uint64_t words[PAGESET_CHUNK / 64]; /* one bit a page */
};

struct pageset {
	ARRAY(struct pageset_chunk) chunks; /* by key */
	size_t last;                        /* index of the chunk found last */
};

void pageset_deinit(struct pageset *set);
/* 0 or -ENOMEM (then a part of the range may be in). */
int pageset_add(struct pageset *set, uint64_t page, uint64_t count);
void pageset_remove(struct pageset *set, uint64_t page, uint64_t count);
bool pageset_has(struct pageset *set, uint64_t page);
uint64_t pageset_count(const struct pageset *set);
/* Makes `set` hold what `other` holds. 0 or -ENOMEM. */
int pageset_copy(struct pageset *set, const struct pageset *other);
/*
 * The first run of pages at or behind `from`, at most `max` long. Returns its length, 0 if there is none; `ret_page` is
 * its first page.
 */
uint64_t pageset_next(struct pageset *set, uint64_t from, uint64_t max, uint64_t *ret_page);
