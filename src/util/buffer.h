/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A growable run of bytes that owns its memory. Zero-initialised it is empty. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct buffer {
	uint8_t *data;   /* owned */
	size_t size;     /* bytes in use */
	size_t capacity; /* bytes allocated */
};

#define BUFFER_INIT { .data = NULL, .size = 0, .capacity = 0 }

/* Makes room for `extra` more bytes behind `size`. 0 or -ENOMEM. */
int buffer_reserve(struct buffer *buffer, size_t extra);
int buffer_append(struct buffer *buffer, const void *data, size_t size);
/* Appends `size` bytes that the caller fills in; NULL if there is no memory. */
void *buffer_extend(struct buffer *buffer, size_t size);
void buffer_clear(struct buffer *buffer);
void buffer_deinit(struct buffer *buffer);

#define _cleanup_buffer_ __attribute__((cleanup(buffer_deinit)))
