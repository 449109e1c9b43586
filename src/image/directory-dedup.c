/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dedup: in a chain of directories, a page that a newer one holds is never read from an older one; its bytes there are given
 * back to the file system, as holes.
 *
 * A hole changes what the chunk around it hashes to. So for each pages file: chunks that will get holes are checked, the seal
 * is written with "not known" for them, the holes are made, and the seal is written with the new hashes. Whatever ends this
 * in the middle leaves a chain that can be read.
 *
 * A seal then names the directory that the chain was read through. Another one, that builds upon the same or lies between,
 * may have lost pages: it is refused.
 *
 * Failure modes: a file system without holes (-EOPNOTSUPP).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "directory-private.h"
#include "util/cleanup.h"
#include "util/fdio.h"

/* A range of bytes of a pages file that goes. */
struct hole {
	uint64_t offset, size;
};

struct dedup_file {
	const struct image_directory *top; /* through which the chain can be read afterwards */
	struct image_directory *dir;
	char name[IMAGE_NAME_MAX];
	ARRAY(struct hole) holes; /* by offset */
};

/* Adds to `file` what of `older` is in `newer` too. Both go up. */
static int find_holes(struct dedup_file *file, const struct image_pagemap *older, const struct image_pagemap *newer)
{
	uint64_t offset = 0;
	size_t first = 0;

	array_for_each(run, &older->runs) {
		uint64_t start = run->address, end = start + run->pages * IMAGE_PAGE_SIZE;

		if (run->in_parent)
			continue;
		while (first < newer->runs.count &&
		       newer->runs.items[first].address + newer->runs.items[first].pages * IMAGE_PAGE_SIZE <= start)
			first++;
		for (size_t i = first; i < newer->runs.count && newer->runs.items[i].address < end; i++) {
			const struct image_pagemap_run *other = &newer->runs.items[i];
			uint64_t from = other->address > start ? other->address : start;
			uint64_t to = other->address + other->pages * IMAGE_PAGE_SIZE;
			struct hole hole;

			to = to < end ? to : end;
			hole = (struct hole){ offset + (from - start), to - from };
			if (!other->in_parent && array_append(&file->holes, hole) < 0)
				return -ENOMEM;
		}
		offset += end - start;
	}
	return 0;
}

/* Reads a chunk and checks it (`check`), or gives it a new hash. */
static int hash_chunk(struct dedup_file *file, struct image_file *sealed, int fd, uint64_t chunk, uint8_t *data, bool check,
		      struct error *error)
{
	uint64_t offset = chunk * IMAGE_CHUNK_SIZE;
	uint64_t size = sealed->size - offset < IMAGE_CHUNK_SIZE ? sealed->size - offset : IMAGE_CHUNK_SIZE;
	struct image_hash hash;

	if (fdio_pread(fd, data, size, offset) != (ssize_t)size)
		return image_file_errno(file->dir, file->name, error, -EIO, "cannot read it");
	image_hash_bytes(data, size, &hash);
	if (check && !image_hash_is_zero(&sealed->chunks[chunk]) && !image_hash_equal(&hash, &sealed->chunks[chunk]))
		return image_file_error(file->dir, file->name, error, -EBADMSG,
					"the bytes from %llu on have changed since the directory was sealed",
					(unsigned long long)offset);
	sealed->chunks[chunk] = check ? (struct image_hash){ { 0 } } : hash;
	return 0;
}

static int hash_holes(struct dedup_file *file, struct image_file *sealed, int fd, bool check, struct error *error)
{
	_cleanup_free_ uint8_t *data = malloc(IMAGE_CHUNK_SIZE);
	uint64_t next = 0;
	int r = data ? 0 : image_file_errno(file->dir, file->name, error, -ENOMEM, "cannot read it");

	array_for_each(hole, &file->holes)
		for (uint64_t chunk = hole->offset / IMAGE_CHUNK_SIZE;
		     r == 0 && chunk * IMAGE_CHUNK_SIZE < hole->offset + hole->size; chunk++) {
			if (chunk < next)
				continue;
			next = chunk + 1;
			r = hash_chunk(file, sealed, fd, chunk, data, check, error);
		}
	return r;
}

static int make_holes(struct dedup_file *file, int fd, uint64_t *freed, struct error *error)
{
	array_for_each(hole, &file->holes) {
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)hole->offset, (off_t)hole->size) < 0)
			return image_file_errno(file->dir, file->name, error, -errno, "cannot make a hole in it");
		*freed += hole->size;
	}
	return 0;
}

static int rewrite_seal(struct dedup_file *file, struct error *error)
{
	file->dir->reader_id = file->top->id;
	return image_seal_write(file->dir, error);
}

static int apply(struct dedup_file *file, uint64_t *freed, struct error *error)
{
	struct image_file *sealed = file->dir->sealed ? image_file_find(file->dir, file->name) : NULL;
	_cleanup_fd_ int fd = -1;
	int r = 0;

	if (file->holes.count == 0)
		return 0;
	if (sealed && image_hash_is_zero(&file->top->id))
		return error_set(error, -EINVAL, "%s was edited, and %s was not: they cannot be deduplicated", file->top->path,
				 file->dir->path);
	fd = openat(file->dir->fd, file->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return image_file_errno(file->dir, file->name, error, -errno, "cannot open it for writing");
	if (!sealed)
		return make_holes(file, fd, freed, error);
	r = hash_holes(file, sealed, fd, true, error);
	if (r == 0)
		r = rewrite_seal(file, error);
	if (r == 0)
		r = make_holes(file, fd, freed, error);
	if (r == 0)
		r = hash_holes(file, sealed, fd, false, error);
	return r < 0 ? r : rewrite_seal(file, error);
}

static int compare_holes(const void *left, const void *right)
{
	const struct hole *a = left, *b = right;

	return (a->offset > b->offset) - (a->offset < b->offset);
}

/* In order, and none twice when several newer directories hold a page. */
static void join_holes(struct dedup_file *file)
{
	size_t kept = 0;

	if (file->holes.count > 1)
		qsort(file->holes.items, file->holes.count, sizeof(file->holes.items[0]), compare_holes);
	array_for_each(hole, &file->holes) {
		struct hole *last = kept ? &file->holes.items[kept - 1] : NULL;

		if (!last || hole->offset > last->offset + last->size)
			file->holes.items[kept++] = *hole;
		else if (hole->offset + hole->size > last->offset + last->size)
			last->size = hole->offset + hole->size - last->offset;
	}
	file->holes.count = kept;
}

/* One page map of an older directory against the same one of all newer ones, `top` to `dir`. */
static int dedup_map(struct image_directory *top, struct image_directory *dir, const char *name, uint64_t *freed,
		     struct error *error)
{
	struct dedup_file file = { .top = top, .dir = dir };
	struct image_pagemap older = { 0 };
	int r = image_pagemap_read(dir, name, &older, error);

	if (r < 0)
		return r;
	image_pages_name(file.name, older.pages_id);
	for (struct image_directory *at = top; r == 0 && at != dir; at = at->parent) {
		struct image_pagemap newer = { 0 };

		if (!image_file_find(at, name))
			continue;
		r = image_pagemap_read(at, name, &newer, error);
		if (r == 0 && find_holes(&file, &older, &newer) < 0)
			r = image_file_errno(dir, name, error, -ENOMEM, "cannot compare it");
		array_deinit(&newer.runs);
	}
	join_holes(&file);
	if (r == 0)
		r = apply(&file, freed, error);
	array_deinit(&file.holes);
	array_deinit(&older.runs);
	return r;
}

int image_directory_dedup(struct image_directory *dir, uint64_t *ret_bytes, struct error *error)
{
	uint64_t freed = 0;
	int r = image_directory_check_hollow(dir, error);

	for (struct image_directory *older = dir->parent; older; older = older->parent)
		for (size_t i = 0; r == 0 && i < older->files.count; i++)
			if (strncmp(older->files.items[i].name, "pagemap-", 8) == 0)
				r = dedup_map(dir, older, older->files.items[i].name, &freed, error);
	if (r == 0)
		*ret_bytes = freed;
	return r;
}
