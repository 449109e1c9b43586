/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Open addressing; nothing is taken out of a table, so that no search passes a gap. */
#include "pidmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CAPACITY_FIRST 64

/* Where the number is, or would be. The table has a free entry. */
static struct pidmap_entry *find(struct pidmap_entry *entries, size_t capacity, uint32_t number)
{
	size_t at = (number * UINT32_C(2654435761)) & (capacity - 1);

	while (entries[at].number && entries[at].number != number)
		at = (at + 1) & (capacity - 1);
	return &entries[at];
}

static int grow(struct pidmap *map)
{
	size_t capacity = map->capacity ? 2 * map->capacity : CAPACITY_FIRST;
	struct pidmap_entry *entries = calloc(capacity, sizeof(*entries));

	if (!entries)
		return -ENOMEM;
	for (size_t i = 0; i < map->capacity; i++)
		if (map->entries[i].number)
			*find(entries, capacity, map->entries[i].number) = map->entries[i];
	free(map->entries);
	map->entries = entries;
	map->capacity = capacity;
	return 0;
}

int pidmap_put(struct pidmap *map, uint32_t number, void *value)
{
	struct pidmap_entry *entry;

	if (2 * (map->count + 1) > map->capacity && grow(map) < 0)
		return -ENOMEM;
	entry = find(map->entries, map->capacity, number);
	map->count += !entry->number;
	*entry = (struct pidmap_entry){ .number = number, .value = value };
	return 0;
}

void *pidmap_get(const struct pidmap *map, uint32_t number)
{
	return map->count ? find(map->entries, map->capacity, number)->value : NULL;
}

void pidmap_clear(struct pidmap *map)
{
	if (map->count)
		memset(map->entries, 0, map->capacity * sizeof(*map->entries));
	map->count = 0;
}

void pidmap_deinit(struct pidmap *map)
{
	free(map->entries);
	*map = (struct pidmap){ 0 };
}
