/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"

int buffer_reserve(struct buffer *buffer, size_t extra)
{
	return array_grow((void **)&buffer->data, &buffer->capacity, buffer->size, extra, 1);
}

int buffer_append(struct buffer *buffer, const void *data, size_t size)
{
	void *place = buffer_extend(buffer, size);

	if (!place)
		return -ENOMEM;
	if (size)
		memcpy(place, data, size);
	return 0;
}

void *buffer_extend(struct buffer *buffer, size_t size)
{
	void *place;

	if (buffer_reserve(buffer, size ? size : 1) < 0)
		return NULL;
	place = buffer->data + buffer->size;
	buffer->size += size;
	return place;
}

void buffer_clear(struct buffer *buffer)
{
	buffer->size = 0;
}

void buffer_deinit(struct buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct buffer)BUFFER_INIT;
}
