/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Single files of a checkpoint directory: written as a whole and noted with their hash, or read as a whole. A file is never
 * written over: each is made with O_EXCL, so that what was there before stays. Symbolic links are not followed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "directory-private.h"
#include "util/cleanup.h"
#include "util/fdio.h"

void image_hash_bytes(const void *data, size_t size, struct image_hash *ret)
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
	memcpy(ret->bytes, canonical.digest, sizeof(ret->bytes));
}

bool image_hash_equal(const struct image_hash *one, const struct image_hash *other)
{
	return memcmp(one->bytes, other->bytes, sizeof(one->bytes)) == 0;
}

bool image_hash_is_zero(const struct image_hash *hash)
{
	static const struct image_hash zero;

	return image_hash_equal(hash, &zero);
}

int image_file_error(const struct image_directory *dir, const char *name, struct error *error, int code, const char *format,
		     ...)
{
	char text[ERROR_MESSAGE_MAX / 2];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	return error_set(error, code, "%s/%s: %s", dir->path, name, text);
}

int image_file_errno(const struct image_directory *dir, const char *name, struct error *error, int code, const char *what)
{
	return error_set_errno(error, code, "%s/%s: %s", dir->path, name, what);
}

/* The hash and the size of a file are filled in by whoever writes it. */
int image_file_create(struct image_directory *dir, const char *name, int *ret_fd, size_t *ret_index, struct error *error)
{
	struct image_file file = { .pages = image_file_is_pages(name) };
	int fd;

	if (strlen(name) >= sizeof(file.name))
		return image_file_error(dir, name, error, -ENAMETOOLONG, "the name is too long");
	strcpy(file.name, name);
	if (array_reserve(&dir->files, 1) < 0)
		return image_file_errno(dir, name, error, -ENOMEM, "cannot note it");
	fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return image_file_errno(dir, name, error, -errno, "cannot create it");
	*ret_index = dir->files.count;
	dir->files.items[dir->files.count++] = file;
	*ret_fd = fd;
	return 0;
}

int image_file_write(struct image_directory *dir, const char *name, const void *data, size_t size, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	size_t index = 0;
	int r;

	r = image_file_create(dir, name, &fd, &index, error);
	if (r < 0)
		return r;
	r = fdio_write(fd, data, size);
	if (r < 0)
		return image_file_errno(dir, name, error, r, "cannot write");
	dir->files.items[index].size = size;
	image_hash_bytes(data, size, &dir->files.items[index].hash);
	return 0;
}

int image_file_open(const struct image_directory *dir, const char *name, int *ret_fd, uint64_t *ret_size,
		    struct error *error)
{
	_cleanup_fd_ int fd = openat(dir->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	struct stat info;

	if (fd < 0)
		return image_file_errno(dir, name, error, -errno, "cannot open it");
	if (fstat(fd, &info) < 0)
		return image_file_errno(dir, name, error, -errno, "cannot look at it");
	if (!S_ISREG(info.st_mode))
		return image_file_error(dir, name, error, -EPROTO, "it is no regular file");
	*ret_size = (uint64_t)info.st_size;
	*ret_fd = steal_fd(&fd);
	return 0;
}

int image_file_read(const struct image_directory *dir, const char *name, struct buffer *buffer, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	uint64_t size = 0;
	ssize_t got;
	uint8_t *place;
	int r;

	r = image_file_open(dir, name, &fd, &size, error);
	if (r < 0)
		return r;
	if (size > IMAGE_FILE_MAX)
		return image_file_error(dir, name, error, -EFBIG, "its %llu bytes are too many",
					(unsigned long long)size);
	place = buffer_extend(buffer, size + 1);
	if (!place)
		return image_file_errno(dir, name, error, -ENOMEM, "cannot read it");
	buffer->size -= 1;
	got = fdio_read(fd, place, size);
	if (got < 0)
		return image_file_errno(dir, name, error, (int)got, "cannot read it");
	if ((uint64_t)got != size)
		return image_file_error(dir, name, error, -EPROTO, "it became shorter while it was read");
	place[size] = '\0';
	return 0;
}

int image_file_hash(const struct image_directory *dir, const char *name, uint64_t size, struct image_hash *ret,
		    struct error *error)
{
	_cleanup_free_ uint8_t *piece = malloc(IMAGE_CHUNK_SIZE);
	XXH3_state_t *state = XXH3_createState();
	XXH128_canonical_t canonical;
	_cleanup_fd_ int fd = -1;
	uint64_t now = 0, at = 0;
	int r = image_file_open(dir, name, &fd, &now, error);

	if (r == 0 && (!piece || !state))
		r = image_file_errno(dir, name, error, -ENOMEM, "cannot read it");
	if (r == 0)
		XXH3_128bits_reset(state);
	while (r == 0 && at < size) {
		ssize_t got = fdio_pread(fd, piece, size - at < IMAGE_CHUNK_SIZE ? size - at : IMAGE_CHUNK_SIZE, at);

		if (got <= 0) {
			r = image_file_errno(dir, name, error, got < 0 ? (int)got : -EIO, "cannot read it");
			break;
		}
		XXH3_128bits_update(state, piece, (size_t)got);
		at += (uint64_t)got;
	}
	if (r == 0) {
		XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
		memcpy(ret->bytes, canonical.digest, sizeof(ret->bytes));
	}
	XXH3_freeState(state);
	return r;
}

static int compare_files(const void *left, const void *right)
{
	return strcmp(((const struct image_file *)left)->name, ((const struct image_file *)right)->name);
}

void image_files_sort(struct image_directory *dir)
{
	if (dir->files.count > 1)
		qsort(dir->files.items, dir->files.count, sizeof(dir->files.items[0]), compare_files);
}

struct image_file *image_file_find(const struct image_directory *dir, const char *name)
{
	size_t low = 0, high = dir->files.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(dir->files.items[middle].name, name);

		if (order == 0)
			return &dir->files.items[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

bool image_file_is_image(const char *name)
{
	size_t length = strlen(name);

	return length > 4 && strcmp(name + length - 4, ".img") == 0;
}

bool image_file_is_pages(const char *name)
{
	return strncmp(name, "pages-", 6) == 0 && image_file_is_image(name);
}
