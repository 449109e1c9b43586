/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleted files, made again.
 *
 * Model. A ghost is made in the directory where the file was, under its old name if that is free,
 * and deleted at once, so that /proc shows what it showed on the source; otherwise as a nameless
 * file of that directory, or of /var/tmp when the directory is not there. It is made in the first
 * round that has it, since it may be mapped from then on, and its content is written when the image
 * set has it. A descriptor of it is kept for reading; others are opened by way of /proc/self/fd.
 *
 * Failure modes: no space; an image with data outside of the file's size.
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
#include "util/cleanup.h"
#include "util/fdio.h"

#define SPARE_DIRECTORY "/var/tmp"

struct restore_ghost *restore_ghost_find(struct restore_files *files, uint32_t id)
{
	array_for_each (ghost, &files->ghosts)
		if (ghost->id == id)
			return ghost;
	return NULL;
}

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

static int make_ghost(struct restore_files *files, const RemapPath *remap, const GhostFile *message,
		      struct error *error)
{
	const struct restore_file *file = restore_file_find(files, remap->orig_id);
	struct restore_ghost ghost = { .id = remap->remap_id, .fd = -1 };
	const char *path = file->message->reg->name;
	_cleanup_fd_ int fd = make_file(path);
	char self[64];

	if (fd < 0)
		return error_set_errno(error, fd, "making the deleted file %s again", path);
	if (fchown(fd, message->uid, message->gid) < 0 || fchmod(fd, message->mode & 07777) < 0 ||
	    ftruncate(fd, (off_t)message->size) < 0)
		return error_set_errno(error, -errno, "making the deleted file %s again", path);
	/* The kernel refuses to run a program that is open for writing: keep one for reading. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	ghost.fd = open(self, O_RDONLY | O_CLOEXEC);
	if (ghost.fd < 0)
		return error_set_errno(error, -errno, "opening the deleted file %s", path);
	if (array_append(&files->ghosts, ghost) < 0) {
		close(ghost.fd);
		return error_set(error, -ENOMEM, "no memory for deleted files");
	}
	return 0;
}

/*
 * Writes the chunks that follow the message. Pages that are mapped must not go meanwhile: the size
 * never shrinks first.
 */
static int write_content(const struct image_set *images, struct restore_ghost *ghost,
			 const GhostFile *message, size_t cursor, struct error *error)
{
	const struct image_record *record, *data;
	_cleanup_fd_ int fd = -1;
	char self[64];
	int r;

	if (ghost->loaded)
		return 0;
	ghost->loaded = true;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", ghost->fd);
	fd = open(self, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(error, -errno, "opening a deleted file");
	if (ghost->content && message->size > 0 &&
	    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)message->size) <
		    0 &&
	    errno != EOPNOTSUPP)
		return error_set_errno(error, -errno, "emptying a deleted file");
	if (ftruncate(fd, (off_t)message->size) < 0)
		return error_set_errno(error, -errno, "setting the size of a deleted file");
	while ((record = image_set_next(images, IMAGE_GHOST_FILE, ghost->id, &cursor))) {
		_cleanup_message_ GhostChunk *chunk = NULL;

		r = image_unpack(record, ghost_chunk, &chunk, error);
		if (r < 0)
			return r;
		data = image_set_next(images, IMAGE_GHOST_FILE, ghost->id, &cursor);
		if (!data || data->size != chunk->len || chunk->off > message->size ||
		    chunk->len > message->size - chunk->off)
			return error_set(error, -EPROTO, "content of deleted file %u is damaged",
					 ghost->id);
		r = fdio_pwrite(fd, data->data, data->size, chunk->off);
		if (r < 0)
			return error_set_errno(error, r, "writing a deleted file");
		ghost->content = true;
	}
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
	struct restore_files *files = tree->files;
	const struct image_record *remap_record, *record;
	size_t cursor = 0;
	int r;

	array_for_each (ghost, &files->ghosts)
		ghost->loaded = false;
	while ((remap_record = image_set_next(images, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		_cleanup_message_ RemapPath *remap = NULL;
		_cleanup_message_ GhostFile *message = NULL;
		size_t content = 0;

		r = image_unpack(remap_record, remap_path, &remap, error);
		if (r < 0)
			return r;
		record = image_set_next(images, IMAGE_GHOST_FILE, remap->remap_id, &content);
		if (!record)
			return error_set(error, -EPROTO, "deleted file %u did not come along",
					 remap->remap_id);
		r = image_unpack(record, ghost_file, &message, error);
		if (r == 0 && !restore_ghost_find(files, remap->remap_id))
			r = make_ghost(files, remap, message, error);
		if (r == 0)
			r = write_content(images, restore_ghost_find(files, remap->remap_id),
					  message, content, error);
		if (r < 0)
			return r;
	}
	return 0;
}
