/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fixed-size bitmaps, one bit a page. Not locked. Bits outside the size must not be named. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap {
	uint64_t *words; /* owned */
	size_t bits;     /* number of bits */
};

int bitmap_init(struct bitmap *bitmap, size_t bits);
void bitmap_deinit(struct bitmap *bitmap);
void bitmap_set_range(struct bitmap *bitmap, size_t first, size_t count);
void bitmap_clear_range(struct bitmap *bitmap, size_t first, size_t count);
size_t bitmap_count(const struct bitmap *bitmap);

static inline bool bitmap_test(const struct bitmap *bitmap, size_t bit)
{
	return bitmap->words[bit / 64] >> (bit % 64) & 1;
}

static inline void bitmap_set(struct bitmap *bitmap, size_t bit)
{
	bitmap->words[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static inline void bitmap_clear(struct bitmap *bitmap, size_t bit)
{
	bitmap->words[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}
