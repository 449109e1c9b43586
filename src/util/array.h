/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growable arrays of plain structs: a struct with the three members `items`, `count` and `capacity` is an array, made
 * by zero-initialising it. Appending may move the items, so pointers into an array do not survive an append.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define ARRAY(type)              \
	struct {                 \
		type *items;     \
		size_t count;    \
		size_t capacity; \
	}

/* Makes room for `extra` more items. 0 or -ENOMEM. */
#define array_reserve(array, extra)                                                                                  \
	array_grow((void **)&(array)->items, &(array)->capacity, (array)->count, (extra), sizeof(*(array)->items))

/* Appends a copy of `item`. 0 or -ENOMEM. */
#define array_append(array, item)                                                                                    \
	(array_reserve((array), 1) < 0 ? -ENOMEM : ((array)->items[(array)->count++] = (item), 0))

#define array_clear(array) ((void)((array)->count = 0))

/* Frees the items (not what they point to) and makes the array empty. */
#define array_deinit(array) array_free((void **)&(array)->items, &(array)->count, &(array)->capacity)

#define array_for_each(pointer, array)                                                                               \
	for (typeof(&*(array)->items) pointer = (array)->items;                                                      \
	     (array)->count && pointer < (array)->items + (array)->count; (pointer)++)

int array_grow(void **items, size_t *capacity, size_t count, size_t extra, size_t size);
void array_free(void **items, size_t *count, size_t *capacity);
