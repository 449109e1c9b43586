/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a checkpoint directory.
 *
 * Happy path. create: an empty state file marks the directory as ours and incomplete. Pages come. write_set: the state file
 * is filled with the records as they are, and the images of CRIU are written from them. seal: each file is brought to the
 * disk, then the seal.
 *
 * Failure modes. A directory that holds a checkpoint is refused before anything is touched. Whatever fails later leaves a
 * directory without a seal, which image_directory_discard() empties again: it removes the files that it made, and only those.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "directory-private.h"
#include "pstree.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

/* ---- beginning */

/* Refuses a directory with a checkpoint in it, whoever wrote that. */
static int check_empty(const struct image_directory *dir, struct error *error)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *list = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!list) {
		int r = -errno;

		cleanup_fd(&fd);
		return error_set_errno(error, r, "%s: cannot list it", dir->path);
	}
	while ((entry = readdir(list))) {
		const char *name = entry->d_name;

		if (image_file_is_image(name) || strcmp(name, IMAGE_STATE_NAME) == 0 || strcmp(name, IMAGE_SEAL_NAME) == 0 ||
		    strcmp(name, IMAGE_PARENT_NAME) == 0)
			return error_set(error, -ENOTEMPTY, "%s: it holds a checkpoint already (%s): take an empty directory",
					 dir->path, name);
	}
	return 0;
}

static int open_new(struct image_directory *dir, struct error *error)
{
	if (mkdir(dir->path, 0700) == 0)
		dir->made = true;
	else if (errno != EEXIST)
		return error_set_errno(error, -errno, "%s: cannot make the directory", dir->path);
	dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0)
		return error_set_errno(error, -errno, "%s: cannot open the directory", dir->path);
	if (faccessat(dir->fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return error_set_errno(error, -errno, "%s: cannot write into the directory", dir->path);
	return check_empty(dir, error);
}

/* The way from directory `from` to `to`, both absolute and without links. NULL: no memory. */
static char *relative_path(const char *from, const char *to)
{
	size_t common = 0, length;
	unsigned up = 0;
	char *path;

	for (size_t i = 0;; i++) {
		bool from_ends = from[i] == '/' || !from[i], to_ends = to[i] == '/' || !to[i];

		if (from_ends && to_ends)
			common = i;
		if (from[i] != to[i] || !from[i])
			break;
	}
	for (const char *at = from + common; *at; at++)
		up += at[0] == '/' && at[1];
	to += common;
	to += *to == '/';
	length = 3 * up + strlen(to) + 2;
	path = calloc(1, length);
	if (!path)
		return NULL;
	for (unsigned i = 0; i < up; i++)
		strcat(path, "../");
	strcat(path, to);
	length = strlen(path);
	if (length > 0 && path[length - 1] == '/')
		path[length - 1] = '\0';
	return path;
}

static int link_parent(struct image_directory *dir, const char *parent_path, struct error *error)
{
	_cleanup_free_ char *from = realpath(dir->path, NULL);
	_cleanup_free_ char *to = realpath(parent_path, NULL);
	_cleanup_free_ char *path = NULL;

	if (!from || !to)
		return error_set_errno(error, -errno, "%s: cannot find its path", from ? parent_path : dir->path);
	if (strcmp(from, to) == 0)
		return error_set(error, -EINVAL, "%s: a directory cannot build upon itself", dir->path);
	path = relative_path(from, to);
	if (!path)
		return error_set_errno(error, -ENOMEM, "%s: cannot link it to its parent", dir->path);
	if (symlinkat(path, dir->fd, IMAGE_PARENT_NAME) < 0)
		return image_file_errno(dir, IMAGE_PARENT_NAME, error, -errno, "cannot make the link");
	dir->linked = true;
	return 0;
}

static int begin(struct image_directory *dir, const char *parent_path, struct error *error)
{
	int r;

	if (parent_path) {
		r = image_directory_open(parent_path, &dir->parent, error);
		if (r < 0)
			return error_wrap(error, r, "cannot build upon an earlier checkpoint");
		r = image_directory_check_hollow(dir->parent, error);
		if (r < 0)
			return error_wrap(error, r, "cannot build upon an earlier checkpoint");
		dir->parent_id = dir->parent->id;
	}
	r = open_new(dir, error);
	if (r < 0)
		return r;
	dir->writing = dir->created = true;
	if (getrandom(dir->id.bytes, sizeof(dir->id.bytes), 0) != sizeof(dir->id.bytes))
		return error_set_errno(error, -errno, "%s: cannot get random bytes", dir->path);
	r = image_file_write(dir, IMAGE_STATE_NAME, NULL, 0, error);
	if (r == 0 && parent_path)
		r = link_parent(dir, parent_path, error);
	return r;
}

int image_directory_create(const char *path, const char *parent_path, struct image_directory **ret, struct error *error)
{
	struct image_directory *dir = calloc(1, sizeof(*dir));
	int r;

	if (!dir || !(dir->path = strdup(path))) {
		free(dir);
		return error_set_errno(error, -ENOMEM, "cannot write to %s", path);
	}
	dir->fd = -1;
	dir->next_pages_id = 1;
	dir->native = true;
	r = image_set_new(&dir->set);
	if (r < 0)
		error_set_errno(error, r, "cannot write to %s", path);
	else
		r = begin(dir, parent_path, error);
	if (r < 0) {
		image_directory_discard(dir);
		return r;
	}
	*ret = dir;
	return 0;
}

/* ---- records */

/* Fills the state file, which is there since the beginning. */
static int write_state(struct image_directory *dir, const struct image_set *set, struct error *error)
{
	_cleanup_buffer_ struct buffer packed = BUFFER_INIT;
	_cleanup_fd_ int fd = -1;
	int r = image_state_pack(set, &packed, error);

	if (r < 0)
		return error_wrap(error, r, "%s/%s", dir->path, IMAGE_STATE_NAME);
	fd = openat(dir->fd, IMAGE_STATE_NAME, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
	r = fd < 0 ? -errno : fdio_write(fd, packed.data, packed.size);
	if (r < 0)
		return image_file_errno(dir, IMAGE_STATE_NAME, error, r, "cannot write");
	/* The first in the list. */
	dir->files.items[0].size = packed.size;
	image_hash_bytes(packed.data, packed.size, &dir->files.items[0].hash);
	return 0;
}

static int write_images(struct image_directory *dir, const struct image_set *set, struct error *error)
{
	struct image_export export;
	int r = image_export_make(set, &export, error);

	if (r < 0)
		return error_wrap(error, r, "%s", dir->path);
	array_for_each(file, &export.files)
		if (r == 0)
			r = image_file_write(dir, file->name, file->data.data, file->data.size, error);
	image_export_deinit(&export);
	return r;
}

static int write_ghosts(struct image_directory *dir, const struct image_set *set, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(set, IMAGE_GHOST_FILE, IMAGE_ANY, &cursor)))
		r = image_ghost_write(dir, record, error);
	return r;
}

/* CRIU wants a page map of every process and of all shared memory. */
static int write_empty_map(struct image_directory *dir, enum image_pages_kind kind, uint32_t id, struct error *error)
{
	struct image_pages_writer *writer;
	char name[IMAGE_NAME_MAX];
	int r;

	image_pagemap_name(name, kind, id);
	if (faccessat(dir->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	r = image_pages_begin(dir, kind, id, &writer, error);
	return r < 0 ? r : image_pages_end(writer, error);
}

static int write_empty_maps(struct image_directory *dir, const struct image_set *set, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(set, IMAGE_MM, IMAGE_ANY, &cursor)))
		r = write_empty_map(dir, IMAGE_PAGES_PROCESS, record->id, error);
	cursor = 0;
	while (r == 0 && (record = image_set_next(set, IMAGE_SHARED_MEMORY, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SharedMemory *message = NULL;

		r = image_unpack(record, shared_memory, &message, error);
		if (r == 0)
			r = write_empty_map(dir, IMAGE_PAGES_SHARED, message->id, error);
	}
	return r;
}

int image_directory_write_set(struct image_directory *dir, const struct image_set *set, struct error *error)
{
	int r;

	if (!dir->writing || dir->has_set)
		return error_set(error, -EINVAL, "%s: its records were written already", dir->path);
	dir->has_set = true;
	r = write_ghosts(dir, set, error);
	if (r == 0)
		r = write_empty_maps(dir, set, error);
	if (r == 0)
		r = write_images(dir, set, error);
	return r < 0 ? r : write_state(dir, set, error);
}

/* ---- the end */

static int sync_files(struct image_directory *dir, struct error *error)
{
	array_for_each(file, &dir->files) {
		_cleanup_fd_ int fd = -1;

		if (!file->name[0])
			continue;
		fd = openat(dir->fd, file->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 || fdatasync(fd) < 0)
			return image_file_errno(dir, file->name, error, -errno, "cannot bring it to the disk");
	}
	if (fsync(dir->fd) < 0)
		return error_set_errno(error, -errno, "%s: cannot bring it to the disk", dir->path);
	return 0;
}

int image_directory_seal(struct image_directory *dir, struct error *error)
{
	int r = 0;

	if (!dir->writing)
		return error_set(error, -EINVAL, "%s: it is sealed already", dir->path);
	/* A round of pre-copy has no records, but is complete. */
	if (!dir->has_set)
		r = write_state(dir, dir->set, error);
	if (r == 0)
		r = sync_files(dir, error);
	if (r == 0)
		r = image_seal_write(dir, error);
	if (r == 0)
		dir->writing = false;
	return r;
}

void image_directory_discard(struct image_directory *dir)
{
	if (!dir)
		return;
	/* The seal first: what is left if this ends in the middle is incomplete. */
	if (dir->created)
		unlinkat(dir->fd, IMAGE_SEAL_NAME, 0);
	array_for_each(file, &dir->files)
		if (dir->created && file->name[0])
			unlinkat(dir->fd, file->name, 0);
	if (dir->fd >= 0 && dir->linked)
		unlinkat(dir->fd, IMAGE_PARENT_NAME, 0);
	if (dir->made)
		rmdir(dir->path);
	image_directory_free(dir);
}

void image_directory_free(struct image_directory *dir)
{
	if (!dir)
		return;
	image_directory_free(dir->parent);
	array_for_each(file, &dir->files)
		free(file->chunks);
	array_deinit(&dir->files);
	image_set_free(dir->set);
	cleanup_fd(&dir->fd);
	free(dir->path);
	free(dir);
}
