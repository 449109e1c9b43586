/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing pages: data goes to the pages file at once, the page map is kept in memory and written at the end. Each piece is
 * hashed while it is in the cache, right before the write; so the only copy is the write's.
 *
 * Failure modes: a full disk, addresses that do not go up. The first error is kept, and everything after it refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "directory-private.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PIECE_BYTES   (UINT64_C(256) << 10) /* hashed and written in one go: fits the second-level cache */
#define RUN_PAGES_MAX (UINT64_C(1) << 30)

struct image_pages_writer {
	struct image_directory *dir;
	char map_name[IMAGE_NAME_MAX];
	char pages_name[IMAGE_NAME_MAX];
	size_t index;                  /* of the pages file in dir->files */
	int fd;                        /* of the pages file; owned */
	uint64_t size;                 /* bytes of the pages file so far */
	bool hole;                     /* it ends in a hole */
	struct buffer map;             /* packed page map */
	struct image_pagemap_run last; /* not packed yet; pages 0: none */
	XXH3_state_t *state;           /* of the chunk that is not full; owned */
	ARRAY(struct image_hash) chunks; /* of full ones */
	int failed;                    /* first error */
	struct error error;            /* its text */
};

static int remember(struct image_pages_writer *writer, int code, const struct error *text, struct error *error)
{
	if (!writer->failed) {
		writer->failed = code;
		writer->error = *text;
	}
	return error_set(error, code, "%s", error_text(text, code));
}

static void writer_free(struct image_pages_writer *writer)
{
	cleanup_fd(&writer->fd);
	buffer_deinit(&writer->map);
	array_deinit(&writer->chunks);
	XXH3_freeState(writer->state);
	free(writer);
}

int image_pages_begin(struct image_directory *dir, enum image_pages_kind kind, uint32_t id,
		      struct image_pages_writer **ret, struct error *error)
{
	struct image_pages_writer *writer = calloc(1, sizeof(*writer));
	uint32_t pages_id = dir->next_pages_id;
	int r = 0;

	if (!writer)
		return error_set_errno(error, -ENOMEM, "%s: cannot begin pages", dir->path);
	writer->dir = dir;
	writer->fd = -1;
	image_pagemap_name(writer->map_name, kind, id);
	image_pages_name(writer->pages_name, pages_id);
	writer->state = XXH3_createState();
	if (!writer->state || XXH3_128bits_reset(writer->state) != XXH_OK ||
	    image_pagemap_begin(&writer->map, pages_id) < 0)
		r = error_set_errno(error, -ENOMEM, "%s: cannot begin pages", dir->path);
	if (r == 0)
		r = image_file_create(dir, writer->pages_name, &writer->fd, &writer->index, error);
	if (r < 0) {
		writer_free(writer);
		return r;
	}
	dir->next_pages_id++;
	*ret = writer;
	return 0;
}

static int end_chunk(struct image_pages_writer *writer)
{
	XXH128_canonical_t canonical;
	struct image_hash hash;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(writer->state));
	memcpy(hash.bytes, canonical.digest, sizeof(hash.bytes));
	XXH3_128bits_reset(writer->state);
	return array_append(&writer->chunks, hash);
}

/* Appends bytes to the pages file; NULL: a hole. */
static int append_bytes(struct image_pages_writer *writer, const uint8_t *data, uint64_t size)
{
	static const uint8_t zeros[64 << 10];

	while (size > 0) {
		uint64_t room = IMAGE_CHUNK_SIZE - writer->size % IMAGE_CHUNK_SIZE;
		uint64_t most = data ? PIECE_BYTES : sizeof(zeros);
		uint64_t piece = size < room ? size : room;
		int r = 0;

		if (piece > most)
			piece = most;
		XXH3_128bits_update(writer->state, data ? data : zeros, piece);
		if (data)
			r = fdio_pwrite(writer->fd, data, piece, writer->size);
		writer->hole = !data;
		writer->size += piece;
		if (r == 0 && writer->size % IMAGE_CHUNK_SIZE == 0)
			r = end_chunk(writer);
		if (r < 0)
			return r;
		data = data ? data + piece : NULL;
		size -= piece;
	}
	return 0;
}

static int flush_run(struct image_pages_writer *writer)
{
	int r = 0;

	if (writer->last.pages > 0)
		r = image_pagemap_append(&writer->map, &writer->last);
	writer->last.pages = 0;
	return r;
}

/* Notes a run in the page map, joined with the last one if it goes on. */
static int note_run(struct image_pages_writer *writer, uint64_t address, uint64_t pages, bool in_parent)
{
	struct image_pagemap_run *last = &writer->last;

	while (pages > 0) {
		uint64_t end = last->address + last->pages * IMAGE_PAGE_SIZE;
		uint64_t part = pages;
		int r;

		if (last->pages > 0 && (last->in_parent != in_parent || end != address || last->pages == RUN_PAGES_MAX)) {
			r = flush_run(writer);
			if (r < 0)
				return r;
		}
		if (last->pages == 0)
			*last = (struct image_pagemap_run){ .address = address, .in_parent = in_parent };
		if (part > RUN_PAGES_MAX - last->pages)
			part = RUN_PAGES_MAX - last->pages;
		last->pages += part;
		address += part * IMAGE_PAGE_SIZE;
		pages -= part;
	}
	return 0;
}

static int check_run(const struct image_pages_writer *writer, uint64_t address, uint64_t pages, struct error *text)
{
	uint64_t end = writer->last.address + writer->last.pages * IMAGE_PAGE_SIZE;

	if (writer->failed)
		return error_set(text, writer->failed, "%s", error_text(&writer->error, writer->failed));
	if (address % IMAGE_PAGE_SIZE || pages == 0 || pages > IMAGE_PAGES_FILE_MAX / IMAGE_PAGE_SIZE || address < end)
		return image_file_error(writer->dir, writer->map_name, text, -EINVAL,
					"%llu pages at 0x%llx cannot follow those before",
					(unsigned long long)pages, (unsigned long long)address);
	return 0;
}

static int add_run(struct image_pages_writer *writer, uint64_t address, uint64_t pages, const void *data, bool in_parent,
		   struct error *error)
{
	struct error text = ERROR_INIT;
	int r = check_run(writer, address, pages, &text);

	if (r == 0) {
		r = note_run(writer, address, pages, in_parent);
		if (r == 0 && !in_parent)
			r = append_bytes(writer, data, pages * IMAGE_PAGE_SIZE);
		if (r < 0)
			image_file_errno(writer->dir, writer->pages_name, &text, r, "cannot write");
	}
	return r < 0 ? remember(writer, r, &text, error) : 0;
}

int image_pages_add(struct image_pages_writer *writer, uint64_t address, uint64_t pages, const void *data,
		    struct error *error)
{
	return add_run(writer, address, pages, data, false, error);
}

int image_pages_add_zero(struct image_pages_writer *writer, uint64_t address, uint64_t pages, struct error *error)
{
	return add_run(writer, address, pages, NULL, false, error);
}

int image_pages_add_in_parent(struct image_pages_writer *writer, uint64_t address, uint64_t pages, struct error *error)
{
	struct error text = ERROR_INIT;
	int r;

	if (!writer->dir->parent) {
		r = image_file_error(writer->dir, writer->map_name, &text, -EINVAL, "there is no parent to leave pages in");
		return remember(writer, r, &text, error);
	}
	return add_run(writer, address, pages, NULL, true, error);
}

static int finish(struct image_pages_writer *writer, struct error *error)
{
	struct image_directory *dir = writer->dir;
	struct image_file *file = &dir->files.items[writer->index];
	int r = flush_run(writer);

	if (r == 0 && writer->size % IMAGE_CHUNK_SIZE)
		r = end_chunk(writer);
	if (r == 0 && writer->hole && ftruncate(writer->fd, (off_t)writer->size) < 0)
		r = -errno;
	if (r < 0)
		return image_file_errno(dir, writer->pages_name, error, r, "cannot write");
	file->size = writer->size;
	file->chunks = steal_ptr(&writer->chunks.items);
	file->chunk_count = writer->chunks.count;
	return image_file_write(dir, writer->map_name, writer->map.data, writer->map.size, error);
}

int image_pages_end(struct image_pages_writer *writer, struct error *error)
{
	int r;

	if (!writer)
		return 0;
	r = writer->failed;
	if (r < 0)
		error_set(error, r, "%s", error_text(&writer->error, r));
	else
		r = finish(writer, error);
	writer_free(writer);
	return r;
}
