/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading pages through a chain of directories.
 *
 * Model. An object has, in each directory of the chain, a list of pieces: runs of pages, each with the file that holds it. It
 * is built from the oldest directory on: pages that a page map has itself, and for those that it says to be in its parent,
 * the parent's pieces. So a reader of the newest directory finds every page with one search, however long the chain is.
 *
 * The content is checked by the hashes that the seal of each directory has of each MiB (chunk) of its pages files: when a
 * page is read and its chunk was not checked yet, the whole chunk is read.
 *
 * Failure modes: -EPROTO for page maps that do not fit one another or their files; -EBADMSG for content that differs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "directory-private.h"
#include "util/cleanup.h"
#include "util/fdio.h"

/* ---- the pieces of one level */

static bool file_exists(const struct image_directory *dir, const char *name)
{
	struct stat info;

	return fstatat(dir->fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

static uint64_t piece_end(const struct image_pages_piece *piece)
{
	return piece->address + piece->pages * IMAGE_PAGE_SIZE;
}

/* Appends the parent's pieces of one run; `*next` goes through them, as runs go up. */
static int add_from_parent(struct image_pages_reader *reader, const struct image_pages_reader *parent, size_t *next,
			   const struct image_pagemap_run *run)
{
	uint64_t at = run->address, end = run->address + run->pages * IMAGE_PAGE_SIZE;

	while (at < end) {
		const struct image_pages_piece *from;
		struct image_pages_piece piece;
		uint64_t skip;

		while (*next < parent->pieces.count && piece_end(&parent->pieces.items[*next]) <= at)
			(*next)++;
		from = *next < parent->pieces.count ? &parent->pieces.items[*next] : NULL;
		if (!from || from->address > at)
			return -ENXIO;
		skip = at - from->address;
		piece = *from;
		piece.address = at;
		piece.offset += skip;
		piece.pages -= skip / IMAGE_PAGE_SIZE;
		piece.size = piece.size > skip ? piece.size - skip : 0;
		if (piece.pages > (end - at) / IMAGE_PAGE_SIZE)
			piece.pages = (end - at) / IMAGE_PAGE_SIZE;
		if (piece.size > piece.pages * IMAGE_PAGE_SIZE)
			piece.size = piece.pages * IMAGE_PAGE_SIZE;
		if (array_append(&reader->pieces, piece) < 0)
			return -ENOMEM;
		at = piece_end(&piece);
	}
	return 0;
}

static int build_pieces(struct image_pages_reader *reader, uint32_t level, const struct image_pagemap *map,
			const struct image_pages_reader *parent, const char *map_name, uint64_t *ret_bytes,
			struct error *error)
{
	const struct image_directory *dir = reader->levels.items[level].dir;
	uint64_t offset = 0;
	size_t next = 0;

	array_for_each(run, &map->runs) {
		struct image_pages_piece piece = { run->address, run->pages, offset, run->pages * IMAGE_PAGE_SIZE, level };
		int r = run->in_parent ? add_from_parent(reader, parent, &next, run)
				       : array_append(&reader->pieces, piece);

		if (r == -ENXIO)
			return image_file_error(dir, map_name, error, -EPROTO,
						"pages between 0x%llx and 0x%llx are said to be in the parent directory, "
						"which does not have them",
						(unsigned long long)run->address,
						(unsigned long long)run->address + run->pages * IMAGE_PAGE_SIZE);
		if (r < 0)
			return image_file_errno(dir, map_name, error, r, "cannot read it");
		if (!run->in_parent)
			offset += piece.size;
	}
	*ret_bytes = offset;
	return 0;
}

/* Opens the pages file of a level, whose size the page map tells. */
static int open_level(struct image_pages_level *level, uint64_t bytes, struct error *error)
{
	struct image_directory *dir = level->dir;
	struct stat info;
	int r;

	if (bytes == 0 && !file_exists(dir, level->name))
		return 0;
	r = image_file_open(dir, level->name, &level->fd, &level->size, error);
	if (r < 0)
		return r;
	if (level->size != bytes)
		return image_file_error(dir, level->name, error, -EPROTO,
					"it is too %s: %llu bytes, and its page map says %llu",
					level->size < bytes ? "short" : "long", (unsigned long long)level->size,
					(unsigned long long)bytes);
	level->sparse = fstat(level->fd, &info) == 0 && (uint64_t)info.st_blocks * 512 < bytes;
	if (!dir->sealed)
		return 0;
	level->file = image_file_find(dir, level->name);
	if (!level->file || !level->file->pages)
		return image_file_error(dir, level->name, error, -EPROTO, "the seal knows of no such file");
	level->checked = calloc(level->file->chunk_count / 8 + 1, 1);
	return level->checked ? 0 : image_file_errno(dir, level->name, error, -ENOMEM, "cannot read it");
}

/* Reads the page map of one level and joins it with what the parents have, which `parent` holds and loses. */
static int load_level(struct image_pages_reader *reader, uint32_t index, enum image_pages_kind kind, uint32_t id,
		      struct image_pages_reader *parent, struct error *error)
{
	struct image_pages_level *level = &reader->levels.items[index];
	struct image_pagemap map = { 0 };
	char name[IMAGE_NAME_MAX];
	uint64_t bytes = 0;
	int r;

	image_pagemap_name(name, kind, id);
	if (!file_exists(level->dir, name))
		return kind == IMAGE_PAGES_GHOST ? image_ghost_read(level->dir, id, level, reader, error) : -ENOENT;
	r = image_pagemap_read(level->dir, name, &map, error);
	if (r < 0)
		return r;
	image_pages_name(level->name, map.pages_id);
	r = build_pieces(reader, index, &map, parent, name, &bytes, error);
	array_deinit(&map.runs);
	return r < 0 ? r : open_level(level, bytes, error);
}

static int load_chain(struct image_pages_reader *reader, enum image_pages_kind kind, uint32_t id, struct error *error)
{
	struct image_pages_reader parent = { .next = 0 };
	int r = 0;

	for (size_t index = reader->levels.count; index-- > 0;) {
		/* The pieces so far become the parent's. */
		parent.pieces = reader->pieces;
		memset(&reader->pieces, 0, sizeof(reader->pieces));
		r = load_level(reader, (uint32_t)index, kind, id, &parent, error);
		array_deinit(&parent.pieces);
		if (r < 0 && (r != -ENOENT || index == 0))
			break;
	}
	return r;
}

/* ---- the reader */

int image_pages_open(struct image_directory *dir, enum image_pages_kind kind, uint32_t id,
		     struct image_pages_reader **ret, struct error *error)
{
	struct image_pages_reader *reader;
	struct error text = ERROR_INIT;
	char name[IMAGE_NAME_MAX];
	int r = image_directory_check_hollow(dir, error);

	if (r < 0)
		return r;
	reader = calloc(1, sizeof(*reader));
	r = reader ? 0 : -ENOMEM;

	for (struct image_directory *at = dir; r == 0 && at; at = at->parent) {
		struct image_pages_level level = { .dir = at, .fd = -1 };

		r = array_append(&reader->levels, level);
	}
	if (r < 0)
		error_set_errno(&text, r, "%s: cannot read pages", dir->path);
	else
		r = load_chain(reader, kind, id, &text);
	if (r == 0) {
		*ret = reader;
		return 0;
	}
	image_pagemap_name(name, kind, id);
	image_file_error(dir, name, &text, r, "there is none");
	image_pages_close(reader);
	return error_set(error, r, "%s", error_text(&text, r));
}

void image_pages_close(struct image_pages_reader *reader)
{
	if (!reader)
		return;
	array_for_each(level, &reader->levels) {
		cleanup_fd(&level->fd);
		free(level->checked);
	}
	array_deinit(&reader->levels);
	array_deinit(&reader->pieces);
	free(reader->chunk);
	free(reader);
}

uint64_t image_pages_count(const struct image_pages_reader *reader)
{
	uint64_t sum = 0;

	array_for_each(piece, &reader->pieces)
		sum += piece->pages;
	return sum;
}

static void fill_run(const struct image_pages_reader *reader, size_t index, struct image_pages_run *ret)
{
	const struct image_pages_piece *piece = &reader->pieces.items[index];

	*ret = (struct image_pages_run){
		.address = piece->address,
		.pages = piece->pages,
		.fd = reader->levels.items[piece->level].fd,
		.offset = piece->offset,
		.size = piece->size,
		.level = piece->level,
		.index = (uint32_t)index,
	};
}

int image_pages_find(struct image_pages_reader *reader, uint64_t address, struct image_pages_run *ret)
{
	size_t low = 0, high = reader->pieces.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct image_pages_piece *piece = &reader->pieces.items[middle];

		if (address >= piece->address && address < piece_end(piece)) {
			fill_run(reader, middle, ret);
			return 0;
		}
		if (piece->address > address)
			high = middle;
		else
			low = middle + 1;
	}
	return -ENOENT;
}

/* ---- content */

static int read_exactly(struct image_pages_level *level, void *buffer, uint64_t size, uint64_t offset, struct error *error)
{
	ssize_t got = fdio_pread(level->fd, buffer, size, offset);

	if (got < 0)
		return image_file_errno(level->dir, level->name, error, (int)got, "cannot read it");
	if ((uint64_t)got != size)
		return image_file_error(level->dir, level->name, error, -EPROTO, "it became shorter while it was used");
	return 0;
}

static int check_chunk(struct image_pages_level *level, uint64_t chunk, const void *data, uint64_t size,
		       struct error *error)
{
	struct image_hash hash;

	if (!image_hash_is_zero(&level->file->chunks[chunk])) {
		image_hash_bytes(data, size, &hash);
		if (!image_hash_equal(&hash, &level->file->chunks[chunk]))
			return image_file_error(level->dir, level->name, error, -EBADMSG,
						"the bytes from %llu to %llu have changed since the directory was sealed",
						(unsigned long long)chunk * IMAGE_CHUNK_SIZE,
						(unsigned long long)chunk * IMAGE_CHUNK_SIZE + size);
	}
	level->checked[chunk / 8] |= (uint8_t)(1u << chunk % 8);
	return 0;
}

/* Reads what of one chunk is wanted: `size` bytes at `offset`, all in that chunk. */
static int read_in_chunk(struct image_pages_reader *reader, struct image_pages_level *level, uint8_t *buffer, uint64_t size,
			 uint64_t offset, struct error *error)
{
	uint64_t chunk = offset / IMAGE_CHUNK_SIZE, start = chunk * IMAGE_CHUNK_SIZE;
	uint64_t whole = level->size - start < IMAGE_CHUNK_SIZE ? level->size - start : IMAGE_CHUNK_SIZE;
	int r;

	if (!level->file || (level->checked[chunk / 8] >> chunk % 8 & 1))
		return read_exactly(level, buffer, size, offset, error);
	if (size == whole) {
		r = read_exactly(level, buffer, size, offset, error);
		return r < 0 ? r : check_chunk(level, chunk, buffer, size, error);
	}
	if (!reader->chunk)
		reader->chunk = malloc(IMAGE_CHUNK_SIZE);
	if (!reader->chunk)
		return image_file_errno(level->dir, level->name, error, -ENOMEM, "cannot read it");
	r = read_exactly(level, reader->chunk, whole, start, error);
	if (r == 0)
		r = check_chunk(level, chunk, reader->chunk, whole, error);
	if (r == 0)
		memcpy(buffer, reader->chunk + (offset - start), size);
	return r;
}

int image_pages_read(struct image_pages_reader *reader, const struct image_pages_run *run, uint64_t first, uint64_t pages,
		     void *buffer, struct error *error)
{
	const struct image_pages_piece *piece = &reader->pieces.items[run->index];
	struct image_pages_level *level = &reader->levels.items[piece->level];
	uint64_t begin = first * IMAGE_PAGE_SIZE, size = pages * IMAGE_PAGE_SIZE, there, done = 0;

	if (first > piece->pages || pages > piece->pages - first)
		return image_file_error(level->dir, level->name, error, -EINVAL, "there are no such pages in the run");
	there = begin < piece->size ? piece->size - begin : 0;
	if (there > size)
		there = size;
	while (done < there) {
		uint64_t offset = piece->offset + begin + done;
		uint64_t part = IMAGE_CHUNK_SIZE - offset % IMAGE_CHUNK_SIZE;
		int r;

		if (part > there - done)
			part = there - done;
		r = read_in_chunk(reader, level, (uint8_t *)buffer + done, part, offset, error);
		if (r < 0)
			return r;
		done += part;
	}
	memset((uint8_t *)buffer + done, 0, size - done);
	return 0;
}

/* Whether the run is one hole. What is to be read as zeros is checked as other content is. */
static int find_hole(struct image_pages_reader *reader, struct image_pages_run *run, struct error *error)
{
	struct image_pages_level *level = &reader->levels.items[run->level];
	off_t data = lseek(level->fd, (off_t)run->offset, SEEK_DATA);
	_cleanup_free_ uint8_t *buffer = NULL;

	if ((data < 0 && errno != ENXIO) || (data >= 0 && (uint64_t)data < run->offset + run->size))
		return 0;
	buffer = level->file ? malloc(IMAGE_PAGE_SIZE) : NULL;
	if (level->file && !buffer)
		return image_file_errno(level->dir, level->name, error, -ENOMEM, "cannot read it");
	/* One page of each chunk, which checks that chunk. */
	for (uint64_t page = 0; buffer && page < run->pages;) {
		uint64_t offset = run->offset + page * IMAGE_PAGE_SIZE;
		int r = image_pages_read(reader, run, page, 1, buffer, error);

		if (r < 0)
			return r;
		page += (IMAGE_CHUNK_SIZE - offset % IMAGE_CHUNK_SIZE) / IMAGE_PAGE_SIZE;
	}
	run->zero = true;
	return 0;
}

int image_pages_next(struct image_pages_reader *reader, struct image_pages_run *ret, struct error *error)
{
	struct image_pages_run run;
	int r;

	if (reader->next == reader->pieces.count)
		return 0;
	fill_run(reader, reader->next, &run);
	if (reader->levels.items[run.level].sparse) {
		r = find_hole(reader, &run, error);
		if (r < 0)
			return r;
	}
	reader->next++;
	*ret = run;
	return 1;
}
