/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From PIDs (or other numbers over 0) to pointers: a hash table. Zero-initialised it is empty. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct pidmap_entry {
	uint32_t number; /* 0: free */
	void *value;     /* borrowed */
};

struct pidmap {
	struct pidmap_entry *entries; /* owned */
	size_t capacity;              /* a power of two, or 0 */
	size_t count;
};

/* Adds, or replaces what the number had. 0 or -ENOMEM. */
int pidmap_put(struct pidmap *map, uint32_t number, void *value);
/* NULL when there is none. */
void *pidmap_get(const struct pidmap *map, uint32_t number);
/* Keeps its memory. */
void pidmap_clear(struct pidmap *map);
void pidmap_deinit(struct pidmap *map);
