/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory for messages: taken from large blocks, given back all at once. A reset keeps one block, so that an arena used for
 * a record after the other costs no allocation.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"

#define ARENA_BLOCK (64u << 10)
#define ARENA_ALIGN 16

struct dump_arena_block {
	struct dump_arena_block *next; /* older one */
	size_t size;                   /* bytes of data */
	size_t used;
	_Alignas(ARENA_ALIGN) uint8_t data[];
};

void *dump_arena_take(struct dump_arena *arena, size_t size)
{
	struct dump_arena_block *block = arena->newest;
	void *place;

	size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	if (!block || block->size - block->used < size) {
		size_t room = size > ARENA_BLOCK ? size : ARENA_BLOCK;

		block = malloc(sizeof(*block) + room);
		if (!block)
			return NULL;
		block->next = arena->newest;
		block->size = room;
		block->used = 0;
		arena->newest = block;
	}
	place = block->data + block->used;
	block->used += size;
	return memset(place, 0, size);
}

char *dump_arena_string(struct dump_arena *arena, const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = dump_arena_take(arena, size);

	if (copy)
		memcpy(copy, text, size);
	return copy;
}

static void free_older(struct dump_arena_block *block)
{
	while (block) {
		struct dump_arena_block *next = block->next;

		free(block);
		block = next;
	}
}

void dump_arena_reset(struct dump_arena *arena)
{
	if (!arena->newest)
		return;
	free_older(arena->newest->next);
	arena->newest->next = NULL;
	arena->newest->used = 0;
}

void dump_arena_deinit(struct dump_arena *arena)
{
	free_older(arena->newest);
	arena->newest = NULL;
}
