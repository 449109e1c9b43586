/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bitmap.h"

#include <errno.h>
#include <stdlib.h>

int bitmap_init(struct bitmap *bitmap, size_t bits)
{
	uint64_t *words = calloc(bits / 64 + 1, sizeof(*words));

	if (!words)
		return -ENOMEM;
	bitmap->words = words;
	bitmap->bits = bits;
	return 0;
}

void bitmap_deinit(struct bitmap *bitmap)
{
	free(bitmap->words);
	bitmap->words = NULL;
	bitmap->bits = 0;
}

/* The bits of word `word` that lie in [first, last). */
static uint64_t word_mask(size_t word, size_t first, size_t last)
{
	uint64_t mask = UINT64_MAX;

	if (word == first / 64)
		mask &= UINT64_MAX << (first % 64);
	if (word == last / 64)
		mask &= last % 64 ? UINT64_MAX >> (64 - last % 64) : 0;
	return mask;
}

void bitmap_set_range(struct bitmap *bitmap, size_t first, size_t count)
{
	for (size_t word = first / 64; count && word <= (first + count) / 64; word++)
		bitmap->words[word] |= word_mask(word, first, first + count);
}

void bitmap_clear_range(struct bitmap *bitmap, size_t first, size_t count)
{
	for (size_t word = first / 64; count && word <= (first + count) / 64; word++)
		bitmap->words[word] &= ~word_mask(word, first, first + count);
}

static size_t count_range(const struct bitmap *bitmap, size_t first, size_t count)
{
	size_t sum = 0;

	for (size_t word = first / 64; count && word <= (first + count) / 64; word++)
		sum += (size_t)__builtin_popcountll(bitmap->words[word] & word_mask(word, first, first + count));
	return sum;
}

size_t bitmap_count(const struct bitmap *bitmap)
{
	return count_range(bitmap, 0, bitmap->bits);
}
