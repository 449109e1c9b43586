/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleted files, made again; and files in memory, of which memory-file.c knows where they belong.
 *
 * Model. A ghost is made in the directory where the file was, under its old name if that is free,
 * and deleted at once, so that /proc shows what it showed on the source; otherwise as a nameless
 * file of that directory, or of /var/tmp when the directory is not there. It is made in the first
 * round that has it, since it may be mapped from then on; from there on it is an object of
 * shared-memory.c, which gets its content as pages. Size, owner and times follow each image set.
 *
 * Failure modes: no space.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ghost-file.pb-c.h"
#include "regfile.pb-c.h"
#include "restore/file-kind.h"
#include "restore/parts.h"
#include "util/cleanup.h"

#define SPARE_DIRECTORY "/var/tmp"

static int make_file(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	int fd;

	if (!copy)
		return -ENOMEM;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0) {
		unlink(path);
		return fd;
	}
	fd = open(dirname(copy), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = open(SPARE_DIRECTORY, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* `ret_fd` stays as it is for a file that is left alone: what is written to the object goes nowhere. */
static int make_named(struct restore_tree *tree, uint32_t id, const GhostFile *message, const struct image_set *images,
		      int *ret_fd, struct error *error)
{
	int place = restore_memory_file_find(images, id, message, tree->options->checkpoint, error);

	if (place < 0)
		return place;
	if (place == RESTORE_MEMORY_SAME)
		return restore_shared_adopt(tree, id, -1, error);
	return restore_memory_file_make(tree, id, message, place == RESTORE_MEMORY_MAKE, ret_fd, error);
}

static int make_ghost(struct restore_tree *tree, const char *path, uint32_t id, const GhostFile *message,
		      const struct image_set *images, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	char self[64];
	int kept, r;

	if (message->path) {
		r = make_named(tree, id, message, images, &fd, error);
		if (r < 0 || fd < 0)
			return r;
	} else {
		fd = make_file(path);
	}
	if (fd < 0)
		return error_set_errno(error, fd, "making the deleted file %s again", path);
	/* The kernel refuses to run a program that is open for writing: keep one for reading. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	kept = open(self, O_RDONLY | O_CLOEXEC);
	if (kept < 0)
		return error_set_errno(error, -errno, "opening the deleted file %s", path);
	return restore_shared_adopt(tree, id, kept, error);
}

/* The times last: the size may change them. */
static int update_ghost(struct restore_tree *tree, uint32_t id, const GhostFile *message, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	int r = restore_shared_resize(tree, id, message->size, error);

	if (r == 0 && restore_shared_in_place(tree, id))
		return message->path ? 0 : error_set(error, -EAGAIN, "file %u was deleted while it moved", id);
	if (r == 0 && message->path)
		r = restore_memory_file_keep(tree->files, id, message, error);
	if (r == 0)
		r = restore_shared_open(tree, id, O_RDONLY, &fd, error);
	if (r < 0)
		return r;
	if (fchown(fd, message->uid, message->gid) < 0 || fchmod(fd, message->mode & 07777) < 0)
		return error_set_errno(error, -errno, "giving a deleted file its owner");
	if (message->atim && message->mtim) {
		struct timespec times[2] = {
			{ (time_t)message->atim->tv_sec, (long)message->atim->tv_usec * 1000 },
			{ (time_t)message->mtim->tv_sec, (long)message->mtim->tv_usec * 1000 },
		};

		(void)futimens(fd, times);
	}
	return 0;
}

int restore_ghosts_load(struct restore_tree *tree, const struct image_set *images,
			struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	restore_memory_files_begin(tree->files);
	while (r == 0 && (record = image_set_next(images, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		const struct image_record *ghost_record;
		_cleanup_message_ RemapPath *remap = NULL;
		_cleanup_message_ GhostFile *message = NULL;

		r = image_unpack(record, remap_path, &remap, error);
		if (r < 0)
			return r;
		ghost_record = image_set_find(images, IMAGE_GHOST_FILE, remap->remap_id);
		if (!ghost_record)
			return error_set(error, -EPROTO, "deleted file %u did not come along",
					 remap->remap_id);
		r = image_unpack(ghost_record, ghost_file, &message, error);
		if (r == 0 && !restore_shared_has(tree, remap->remap_id))
			r = make_ghost(tree, restore_file_find(tree->files, remap->orig_id)->message->reg->name,
				       remap->remap_id, message, images, error);
		if (r == 0)
			r = update_ghost(tree, remap->remap_id, message, error);
	}
	if (r == 0)
		restore_memory_files_prune(tree->files);
	return r;
}
