/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "array.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

int array_grow(void **items, size_t *capacity, size_t count, size_t extra, size_t size)
{
	size_t wanted, room;
	void *moved;

	if (__builtin_add_overflow(count, extra, &wanted))
		return -ENOMEM;
	if (wanted <= *capacity)
		return 0;
	room = *capacity < 8 ? 8 : *capacity;
	while (room < wanted)
		if (__builtin_mul_overflow(room, 2, &room))
			return -ENOMEM;
	moved = reallocarray(*items, room, size);
	if (!moved)
		return -ENOMEM;
	*items = moved;
	*capacity = room;
	return 0;
}

void array_free(void **items, size_t *count, size_t *capacity)
{
	free(*items);
	*items = NULL;
	*count = 0;
	*capacity = 0;
}
