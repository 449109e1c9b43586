/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Page maps: which pages a pages file holds, as runs by address. There may be hundreds of thousands of them, so they are
 * packed and read by hand: a length, then fields of pagemap.proto, each a tag and a number of variable length
 * (https://protobuf.dev/programming-guides/encoding/).
 *
 * Failure modes when reading: -EPROTO for anything that is not such a file, or whose runs overlap, are out of order or are
 * of a kind that is not known; -EOPNOTSUPP for pages that another process was to deliver.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "directory-private.h"

#define RUN_BYTES_MAX 32                          /* of a packed run */
#define ADDRESS_END   (UINT64_C(1) << 57)         /* of user space with five levels of page tables */
#define RUN_PAGES_MAX (UINT64_C(1) << 31)

enum {
	FLAG_PARENT = 1 << 0,
	FLAG_LAZY = 1 << 1,
	FLAG_PRESENT = 1 << 2,
};

void image_pagemap_name(char name[IMAGE_NAME_MAX], enum image_pages_kind kind, uint32_t id)
{
	static const char *const parts[] = {
		[IMAGE_PAGES_PROCESS] = "",
		[IMAGE_PAGES_SHARED] = "shmem-",
		[IMAGE_PAGES_GHOST] = "ghost-",
	};

	snprintf(name, IMAGE_NAME_MAX, "pagemap-%s%u.img", parts[kind], id);
}

void image_pages_name(char name[IMAGE_NAME_MAX], uint32_t pages_id)
{
	snprintf(name, IMAGE_NAME_MAX, "pages-%u.img", pages_id);
}

static size_t put_number(uint8_t *at, uint64_t value)
{
	size_t size = 0;

	while (value >= 0x80) {
		at[size++] = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	at[size++] = (uint8_t)value;
	return size;
}

static size_t put_field(uint8_t *at, unsigned field, uint64_t value)
{
	size_t size = put_number(at, (uint64_t)field << 3);

	return size + put_number(at + size, value);
}

static int put_entry(struct buffer *file, const uint8_t *data, size_t size)
{
	uint32_t length = (uint32_t)size;
	int r = buffer_append(file, &length, sizeof(length));

	return r < 0 ? r : buffer_append(file, data, size);
}

int image_pagemap_begin(struct buffer *file, uint32_t pages_id)
{
	static const uint32_t magic[2] = { IMAGE_MAGIC_COMMON, IMAGE_MAGIC_PAGEMAP };
	uint8_t head[RUN_BYTES_MAX];
	int r = buffer_append(file, magic, sizeof(magic));

	return r < 0 ? r : put_entry(file, head, put_field(head, 1, pages_id));
}

int image_pagemap_append(struct buffer *file, const struct image_pagemap_run *run)
{
	uint8_t entry[RUN_BYTES_MAX];
	size_t size = put_field(entry, 1, run->address);

	size += put_field(entry + size, 2, run->pages);
	size += put_field(entry + size, 4, run->in_parent ? FLAG_PARENT : FLAG_PRESENT);
	return put_entry(file, entry, size);
}

/* ---- reading */

struct map_reader {
	const struct image_directory *dir;
	const char *name;
	const uint8_t *data;
	size_t size, at;
	size_t number; /* entries so far */
	struct error *error;
};

/* Fields 1 to 5 of an entry. */
struct map_entry {
	uint64_t value[6];
	bool has[6];
};

static int damaged(const struct map_reader *reader, const char *what)
{
	return image_file_error(reader->dir, reader->name, reader->error, -EPROTO, "entry %zu at byte %zu: %s",
				reader->number, reader->at, what);
}

static bool get_number(const uint8_t *data, size_t size, size_t *at, uint64_t *ret)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 64 && *at < size; shift += 7) {
		uint8_t byte = data[(*at)++];

		if (shift == 63 && byte > 1)
			return false;
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret = value;
			return true;
		}
	}
	return false;
}

/* 1: an entry, 0: the end. */
static int next_entry(struct map_reader *reader, struct map_entry *ret)
{
	uint32_t length;
	size_t end;

	if (reader->at == reader->size)
		return 0;
	if (reader->size - reader->at < sizeof(length))
		return damaged(reader, "the file ends in the middle");
	memcpy(&length, reader->data + reader->at, sizeof(length));
	if (length > reader->size - reader->at - sizeof(length))
		return damaged(reader, "the file ends in the middle");
	reader->at += sizeof(length);
	end = reader->at + length;
	*ret = (struct map_entry){ .has = { false } };
	while (reader->at < end) {
		uint64_t tag = 0, value = 0;

		if (!get_number(reader->data, end, &reader->at, &tag) || (tag & 7) != 0 ||
		    !get_number(reader->data, end, &reader->at, &value))
			return damaged(reader, "it is damaged, or its pages are compressed");
		if (tag >> 3 < 1 || tag >> 3 > 5)
			return damaged(reader, "it has a field that is not known");
		ret->has[tag >> 3] = true;
		ret->value[tag >> 3] = value;
	}
	reader->number++;
	return 1;
}

static int read_run(const struct map_reader *reader, const struct map_entry *entry, struct image_pagemap_run *ret)
{
	uint64_t flags = entry->has[4] ? entry->value[4] : FLAG_PRESENT;

	if (entry->has[3] && entry->value[3])
		flags = (flags & ~(uint64_t)FLAG_PRESENT) | FLAG_PARENT;
	if (!entry->has[1] || (!entry->has[2] && !entry->has[5]))
		return damaged(reader, "it lacks an address or a number of pages");
	ret->address = entry->value[1];
	ret->pages = entry->has[5] ? entry->value[5] : entry->value[2];
	if (ret->address % IMAGE_PAGE_SIZE || ret->pages == 0 || ret->pages > RUN_PAGES_MAX ||
	    ret->address >= ADDRESS_END || ret->pages * IMAGE_PAGE_SIZE > ADDRESS_END - ret->address)
		return damaged(reader, "its address or number of pages cannot be");
	if (flags == FLAG_LAZY)
		return image_file_error(reader->dir, reader->name, reader->error, -EOPNOTSUPP,
					"the pages at 0x%llx are not in the images: they were left to a page server "
					"(--lazy-pages of the dump)", (unsigned long long)ret->address);
	if ((flags & ~(uint64_t)FLAG_LAZY) != FLAG_PARENT && (flags & ~(uint64_t)FLAG_LAZY) != FLAG_PRESENT)
		return damaged(reader, "its flags are not known");
	ret->in_parent = flags & FLAG_PARENT;
	return 0;
}

static int read_runs(struct map_reader *reader, struct image_pagemap *map)
{
	struct image_pagemap_run run = { 0 };
	struct map_entry entry;
	uint64_t end = 0;
	int r;

	while ((r = next_entry(reader, &entry)) > 0) {
		r = read_run(reader, &entry, &run);
		if (r < 0)
			return r;
		if (run.address < end)
			return damaged(reader, "it overlaps the one before it or is out of order");
		end = run.address + run.pages * IMAGE_PAGE_SIZE;
		if (array_append(&map->runs, run) < 0)
			return image_file_errno(reader->dir, reader->name, reader->error, -ENOMEM, "cannot read it");
	}
	return r;
}

static int read_head(struct map_reader *reader, struct image_pagemap *map)
{
	static const uint32_t magic[2] = { IMAGE_MAGIC_COMMON, IMAGE_MAGIC_PAGEMAP };
	struct map_entry head;
	int r;

	if (reader->size < sizeof(magic) || memcmp(reader->data, magic, sizeof(magic)) != 0)
		return image_file_error(reader->dir, reader->name, reader->error, -EPROTO,
					"it is no page map of image version 1.1 (wrong magic number)");
	reader->at = sizeof(magic);
	r = next_entry(reader, &head);
	if (r == 0)
		return damaged(reader, "the file ends before its head");
	if (r < 0)
		return r;
	if (!head.has[1] || head.value[1] > UINT32_MAX)
		return damaged(reader, "it names no pages file");
	map->pages_id = (uint32_t)head.value[1];
	return 0;
}

int image_pagemap_read(const struct image_directory *dir, const char *name, struct image_pagemap *ret, struct error *error)
{
	_cleanup_buffer_ struct buffer file = BUFFER_INIT;
	struct map_reader reader = { .dir = dir, .name = name, .error = error };
	struct image_pagemap map = { 0 };
	int r;

	r = image_file_read(dir, name, &file, error);
	if (r < 0)
		return r;
	reader.data = file.data;
	reader.size = file.size;
	r = read_head(&reader, &map);
	if (r == 0)
		r = read_runs(&reader, &map);
	if (r < 0) {
		array_deinit(&map.runs);
		return r;
	}
	*ret = map;
	return 0;
}
