/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content of deleted files. CRIU keeps it in ghost-file-ID.img behind the record: in one piece, or in chunks, each with its
 * place and length. While a directory is being written, it comes as pages, maybe with some left in the parent, before the
 * record is known; so it is written as such, and put together when the record comes. Rounds of pre-copy keep it as pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "directory-private.h"
#include "ghost-file.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define GHOST_MAX (UINT64_C(1) << 40) /* bytes of a deleted file */

/* The file being put together. */
struct ghost_writer {
	struct image_directory *dir;
	char name[IMAGE_NAME_MAX];
	int fd;               /* owned */
	uint64_t size;        /* bytes written */
	XXH3_state_t *state;  /* owned */
	uint8_t *piece;       /* room for IMAGE_CHUNK_SIZE, owned */
};

static void ghost_writer_deinit(struct ghost_writer *writer)
{
	cleanup_fd(&writer->fd);
	XXH3_freeState(writer->state);
	free(writer->piece);
}

static int ghost_append(struct ghost_writer *writer, const void *data, size_t size, struct error *error)
{
	int r = fdio_write(writer->fd, data, size);

	XXH3_128bits_update(writer->state, data, size);
	writer->size += size;
	return r < 0 ? image_file_errno(writer->dir, writer->name, error, r, "cannot write") : 0;
}

static int ghost_message(struct ghost_writer *writer, const ProtobufCMessage *message, struct error *error)
{
	_cleanup_buffer_ struct buffer packed = BUFFER_INIT;
	uint32_t size = (uint32_t)protobuf_c_message_get_packed_size(message);
	uint8_t *place = buffer_extend(&packed, sizeof(size) + size);

	if (!place)
		return image_file_errno(writer->dir, writer->name, error, -ENOMEM, "cannot write");
	memcpy(place, &size, sizeof(size));
	protobuf_c_message_pack(message, place + sizeof(size));
	return ghost_append(writer, packed.data, packed.size, error);
}

static int ghost_run(struct ghost_writer *writer, struct image_pages_reader *reader, const struct image_pages_run *run,
		     uint64_t file_size, struct error *error)
{
	GhostChunk chunk = GHOST_CHUNK__INIT;
	uint64_t most = IMAGE_CHUNK_SIZE / IMAGE_PAGE_SIZE;
	int r;

	if (run->zero || run->address >= file_size)
		return 0;
	chunk.off = run->address;
	chunk.len = run->pages * IMAGE_PAGE_SIZE;
	if (chunk.len > file_size - run->address)
		chunk.len = file_size - run->address;
	r = ghost_message(writer, &chunk.base, error);
	for (uint64_t page = 0; r == 0 && page * IMAGE_PAGE_SIZE < chunk.len; page += most) {
		uint64_t left = chunk.len - page * IMAGE_PAGE_SIZE;
		uint64_t pages = run->pages - page < most ? run->pages - page : most;

		r = image_pages_read(reader, run, page, pages, writer->piece, error);
		if (r == 0)
			r = ghost_append(writer, writer->piece, left < IMAGE_CHUNK_SIZE ? left : IMAGE_CHUNK_SIZE, error);
	}
	return r;
}

static int ghost_content(struct ghost_writer *writer, uint32_t id, uint64_t file_size, struct error *error)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	struct image_pages_run run;
	struct error text = ERROR_INIT;
	int r;

	r = image_pages_open(writer->dir, IMAGE_PAGES_GHOST, id, &reader, &text);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return error_set(error, r, "%s", error_text(&text, r));
	while ((r = image_pages_next(reader, &run, error)) > 0) {
		r = ghost_run(writer, reader, &run, file_size, error);
		if (r < 0)
			break;
	}
	return r;
}

/* Takes away the pages that the content came as. Their places in the list stay, nameless. */
static void remove_pages(struct image_directory *dir, uint32_t id)
{
	struct image_pagemap map = { 0 };
	char name[IMAGE_NAME_MAX], pages[IMAGE_NAME_MAX];

	image_pagemap_name(name, IMAGE_PAGES_GHOST, id);
	if (image_pagemap_read(dir, name, &map, NULL) < 0)
		return;
	array_deinit(&map.runs);
	image_pages_name(pages, map.pages_id);
	array_for_each(file, &dir->files)
		if (strcmp(file->name, name) == 0 || strcmp(file->name, pages) == 0) {
			unlinkat(dir->fd, file->name, 0);
			file->name[0] = '\0';
		}
}

static int ghost_write(struct ghost_writer *writer, const struct image_record *record, struct error *error)
{
	const struct image_criu_kind *kind = image_criu_kind_of(IMAGE_GHOST_FILE);
	_cleanup_image_arena_ struct image_arena arena = { 0 };
	_cleanup_buffer_ struct buffer head = BUFFER_INIT;
	GhostFile *message;
	size_t index = 0;
	int r;

	message = (GhostFile *)image_arena_unpack(&arena, &ghost_file__descriptor, record->data, record->size);
	if (!message)
		return error_set(error, -EPROTO, "the record of deleted file %u is damaged", record->id);
	image_message_strip(&message->base);
	message->has_chunks = message->chunks = true;
	writer->state = XXH3_createState();
	writer->piece = malloc(IMAGE_CHUNK_SIZE);
	if (!writer->state || !writer->piece || image_criu_begin(&head, kind) < 0)
		return image_file_errno(writer->dir, writer->name, error, -ENOMEM, "cannot write");
	XXH3_128bits_reset(writer->state);
	r = image_file_create(writer->dir, writer->name, &writer->fd, &index, error);
	if (r == 0)
		r = ghost_append(writer, head.data, head.size, error);
	if (r == 0)
		r = ghost_message(writer, &message->base, error);
	if (r == 0)
		r = ghost_content(writer, record->id, message->size, error);
	if (r == 0) {
		struct image_file *file = &writer->dir->files.items[index];
		XXH128_canonical_t canonical;

		XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(writer->state));
		memcpy(file->hash.bytes, canonical.digest, sizeof(file->hash.bytes));
		file->size = writer->size;
	}
	return r;
}

int image_ghost_write(struct image_directory *dir, const struct image_record *record, struct error *error)
{
	struct ghost_writer writer = { .dir = dir, .fd = -1 };
	int r;

	image_criu_name(writer.name, image_criu_kind_of(IMAGE_GHOST_FILE), record->id);
	r = ghost_write(&writer, record, error);
	ghost_writer_deinit(&writer);
	if (r == 0)
		remove_pages(dir, record->id);
	return r;
}

/* ---- reading */

struct ghost_reader {
	struct image_pages_level *level;
	struct image_pages_reader *pages;
	uint32_t index; /* of the level */
	uint64_t at;    /* byte of the file */
	uint64_t end;   /* of the last piece, in the content */
};

static int ghost_damaged(struct ghost_reader *reader, struct error *error)
{
	return image_file_error(reader->level->dir, reader->level->name, error, -EPROTO,
				"it is damaged at byte %llu", (unsigned long long)reader->at);
}

/* Reads a length and the message behind it; `limit` is the largest that makes sense. */
static int ghost_read_message(struct ghost_reader *reader, struct image_arena *arena,
			      const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret, struct error *error)
{
	uint8_t data[4096];
	uint32_t size;

	if (fdio_pread(reader->level->fd, &size, sizeof(size), reader->at) != sizeof(size) || size > sizeof(data) ||
	    fdio_pread(reader->level->fd, data, size, reader->at + sizeof(size)) != (ssize_t)size)
		return ghost_damaged(reader, error);
	*ret = image_arena_unpack(arena, descriptor, data, size);
	if (!*ret)
		return ghost_damaged(reader, error);
	reader->at += sizeof(size) + size;
	return 0;
}

static int ghost_piece(struct ghost_reader *reader, uint64_t address, uint64_t size, struct error *error)
{
	struct image_pages_piece piece = {
		.address = address,
		.pages = (size + IMAGE_PAGE_SIZE - 1) / IMAGE_PAGE_SIZE,
		.offset = reader->at,
		.size = size,
		.level = reader->index,
	};

	if (size > reader->level->size - reader->at)
		return image_file_error(reader->level->dir, reader->level->name, error, -EPROTO,
					"it ends in the middle of the file's content");
	if (address % IMAGE_PAGE_SIZE || address < reader->end || address > GHOST_MAX)
		return ghost_damaged(reader, error);
	reader->end = address + piece.pages * IMAGE_PAGE_SIZE;
	reader->at += size;
	if (size > 0 && array_append(&reader->pages->pieces, piece) < 0)
		return image_file_errno(reader->level->dir, reader->level->name, error, -ENOMEM, "cannot read it");
	return 0;
}

static int ghost_read_pieces(struct ghost_reader *reader, struct error *error)
{
	_cleanup_image_arena_ struct image_arena arena = { 0 };
	ProtobufCMessage *message = NULL;
	int r;

	reader->at = 2 * sizeof(uint32_t);
	r = ghost_read_message(reader, &arena, &ghost_file__descriptor, &message, error);
	if (r < 0)
		return r;
	if (!((GhostFile *)message)->chunks)
		return ghost_piece(reader, 0, reader->level->size - reader->at, error);
	while (r == 0 && reader->at < reader->level->size) {
		r = ghost_read_message(reader, &arena, &ghost_chunk__descriptor, &message, error);
		if (r == 0)
			r = ghost_piece(reader, ((GhostChunk *)message)->off, ((GhostChunk *)message)->len, error);
	}
	return r;
}

int image_ghost_read(struct image_directory *dir, uint32_t id, struct image_pages_level *level,
		     struct image_pages_reader *pages, struct error *error)
{
	struct ghost_reader reader = { .level = level, .pages = pages };
	int r;

	reader.index = (uint32_t)(level - pages->levels.items);
	if (dir->ghosts_moved)
		id &= ~IMAGE_GHOST_MOVED;
	image_criu_name(level->name, image_criu_kind_of(IMAGE_GHOST_FILE), id);
	if (faccessat(dir->fd, level->name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return -ENOENT;
	r = image_file_open(dir, level->name, &level->fd, &level->size, error);
	return r < 0 ? r : ghost_read_pieces(&reader, error);
}
