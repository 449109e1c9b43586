/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pageset.h"

#include <errno.h>
#include <string.h>

void pageset_deinit(struct pageset *set)
{
	array_deinit(&set->chunks);
	set->last = 0;
}

/* Index of the first chunk whose key is not below `key`. */
static size_t lower_bound(struct pageset *set, uint64_t key)
{
	size_t low = 0, high = set->chunks.count;

	if (set->last < high && set->chunks.items[set->last].key == key)
		return set->last;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (set->chunks.items[middle].key < key)
			low = middle + 1;
		else
			high = middle;
	}
	set->last = low;
	return low;
}

static struct pageset_chunk *find(struct pageset *set, uint64_t key)
{
	size_t index = lower_bound(set, key);

	if (index < set->chunks.count && set->chunks.items[index].key == key)
		return &set->chunks.items[index];
	return NULL;
}

static struct pageset_chunk *find_or_add(struct pageset *set, uint64_t key)
{
	size_t index = lower_bound(set, key);
	struct pageset_chunk *place;

	if (index < set->chunks.count && set->chunks.items[index].key == key)
		return &set->chunks.items[index];
	if (array_reserve(&set->chunks, 1) < 0)
		return NULL;
	place = &set->chunks.items[index];
	memmove(place + 1, place, (set->chunks.count - index) * sizeof(*place));
	set->chunks.count++;
	*place = (struct pageset_chunk){ .key = key };
	return place;
}

static void chunk_change(struct pageset_chunk *chunk, uint64_t first, uint64_t count, bool value)
{
	for (uint64_t bit = first; bit < first + count;) {
		uint64_t in_word = 64 - bit % 64, left = first + count - bit;
		uint64_t n = in_word < left ? in_word : left;
		uint64_t mask = (n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << (bit % 64);

		if (value)
			chunk->words[bit / 64] |= mask;
		else
			chunk->words[bit / 64] &= ~mask;
		bit += n;
	}
}

int pageset_add(struct pageset *set, uint64_t page, uint64_t count)
{
	while (count) {
		uint64_t first = page % PAGESET_CHUNK;
		uint64_t n = PAGESET_CHUNK - first < count ? PAGESET_CHUNK - first : count;
		struct pageset_chunk *chunk = find_or_add(set, page / PAGESET_CHUNK);

		if (!chunk)
			return -ENOMEM;
		chunk_change(chunk, first, n, true);
		page += n;
		count -= n;
	}
	return 0;
}

void pageset_remove(struct pageset *set, uint64_t page, uint64_t count)
{
	uint64_t end = page + count;

	for (size_t i = lower_bound(set, page / PAGESET_CHUNK); i < set->chunks.count; i++) {
		struct pageset_chunk *chunk = &set->chunks.items[i];
		uint64_t base = chunk->key * PAGESET_CHUNK;
		uint64_t first = page > base ? page - base : 0;
		uint64_t last = end < base + PAGESET_CHUNK ? end - base : PAGESET_CHUNK;

		if (base >= end)
			break;
		chunk_change(chunk, first, last - first, false);
	}
}

bool pageset_has(struct pageset *set, uint64_t page)
{
	const struct pageset_chunk *chunk = find(set, page / PAGESET_CHUNK);

	return chunk && chunk->words[page % PAGESET_CHUNK / 64] >> (page % 64) & 1;
}

uint64_t pageset_count(const struct pageset *set)
{
	uint64_t sum = 0;

	array_for_each(chunk, &set->chunks)
		for (size_t i = 0; i < PAGESET_CHUNK / 64; i++)
			sum += (uint64_t)__builtin_popcountll(chunk->words[i]);
	return sum;
}

int pageset_copy(struct pageset *set, const struct pageset *other)
{
	array_clear(&set->chunks);
	set->last = 0;
	if (array_reserve(&set->chunks, other->chunks.count) < 0)
		return -ENOMEM;
	if (other->chunks.count)
		memcpy(set->chunks.items, other->chunks.items, other->chunks.count * sizeof(*other->chunks.items));
	set->chunks.count = other->chunks.count;
	return 0;
}

/* First set bit of the chunk at or behind `bit`, PAGESET_CHUNK if none. */
static uint64_t chunk_next(const struct pageset_chunk *chunk, uint64_t bit)
{
	for (uint64_t word = bit / 64; word < PAGESET_CHUNK / 64; word++) {
		uint64_t bits = chunk->words[word];

		if (word == bit / 64)
			bits &= UINT64_MAX << (bit % 64);
		if (bits)
			return word * 64 + (uint64_t)__builtin_ctzll(bits);
	}
	return PAGESET_CHUNK;
}

uint64_t pageset_next(struct pageset *set, uint64_t from, uint64_t max, uint64_t *ret_page)
{
	for (size_t i = lower_bound(set, from / PAGESET_CHUNK); i < set->chunks.count; i++) {
		const struct pageset_chunk *chunk = &set->chunks.items[i];
		uint64_t base = chunk->key * PAGESET_CHUNK;
		uint64_t bit = chunk_next(chunk, from > base ? from - base : 0);
		uint64_t length = 0;

		if (bit == PAGESET_CHUNK)
			continue;
		while (length < max && bit + length < PAGESET_CHUNK &&
		       chunk->words[(bit + length) / 64] >> ((bit + length) % 64) & 1)
			length++;
		*ret_page = base + bit;
		return length;
	}
	return 0;
}
