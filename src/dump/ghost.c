/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleted files whose content travels in the images.
 *
 * Model. A ghost is an inode without a name. However many descriptors and mappings lead to it, it
 * is one IMAGE_GHOST_FILE: the GhostFile message, then for each run of data a GhostChunk message
 * and a record with its bytes, at most 1 MiB each; holes stay holes. While the tree runs only the
 * message is added (the target can make the file and map it); the content follows at the freeze,
 * when it cannot change any more.
 *
 * Failure modes: over the limit of dump_options.ghost_max it is a blocker. A file system without
 * SEEK_DATA reports one run from start to end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "ghost-file.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define CHUNK_MAX	  ((size_t)1 << 20)
#define GHOST_MAX_DEFAULT (UINT64_C(1) << 30)

static int add_chunk(struct dump_context *ctx, uint32_t id, const void *data, size_t size,
		     uint64_t offset, struct error *error)
{
	GhostChunk chunk = GHOST_CHUNK__INIT;
	int r;

	chunk.len = size;
	chunk.off = offset;
	r = image_set_add(ctx->images, IMAGE_GHOST_FILE, id, &chunk.base, error);
	return r < 0 ? r
		     : image_set_add_bytes(ctx->images, IMAGE_GHOST_FILE, id, data, size, error);
}

static int add_content(struct dump_context *ctx, uint32_t id, int fd, uint64_t size,
		       struct error *error)
{
	_cleanup_free_ void *data = malloc(CHUNK_MAX);
	uint64_t at = 0;

	if (!data)
		return error_set(error, -ENOMEM, "no memory to read a deleted file");
	while (at < size) {
		off_t start = lseek(fd, (off_t)at, SEEK_DATA);
		off_t end;

		if (start < 0 && errno == ENXIO)
			break;
		if (start < 0)
			return error_set_errno(error, -errno, "looking for data in a deleted file");
		end = lseek(fd, start, SEEK_HOLE);
		if (end < 0)
			return error_set_errno(error, -errno,
					       "looking for holes in a deleted file");
		for (at = (uint64_t)start; at < (uint64_t)end;) {
			size_t length = (uint64_t)end - at < CHUNK_MAX
						? (size_t)((uint64_t)end - at)
						: CHUNK_MAX;
			ssize_t n = fdio_pread(fd, data, length, at);
			int r;

			if (n <= 0)
				return error_set_errno(error, n < 0 ? (int)n : -EIO,
						       "reading a deleted file");
			r = add_chunk(ctx, id, data, (size_t)n, at, error);
			if (r < 0)
				return r;
			at += (uint64_t)n;
		}
	}
	return 0;
}

static int add_ghost(struct dump_context *ctx, const struct dump_regular *file, uint32_t id,
		     struct error *error)
{
	GhostTime accessed = GHOST_TIME__INIT, modified = GHOST_TIME__INIT;
	GhostFile message = GHOST_FILE__INIT;
	_cleanup_fd_ int fd = -1;
	char path[64];
	int r;

	message.uid = file->st->st_uid;
	message.gid = file->st->st_gid;
	message.mode = file->st->st_mode;
	message.has_dev = 1;
	message.dev = (uint32_t)file->st->st_dev;
	message.has_ino = 1;
	message.ino = file->st->st_ino;
	accessed.tv_sec = (uint64_t)file->st->st_atim.tv_sec;
	accessed.tv_usec = (uint64_t)file->st->st_atim.tv_nsec / 1000;
	modified.tv_sec = (uint64_t)file->st->st_mtim.tv_sec;
	modified.tv_usec = (uint64_t)file->st->st_mtim.tv_nsec / 1000;
	message.atim = &accessed;
	message.mtim = &modified;
	message.has_chunks = 1;
	message.chunks = 1;
	message.has_size = 1;
	message.size = (uint64_t)file->st->st_size;
	r = image_set_add(ctx->images, IMAGE_GHOST_FILE, id, &message.base, error);
	if (r < 0 || !file->process->tracee)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (fd < 0)
		return error_set_errno(error, -errno, "opening %s", file->link);
	r = add_content(ctx, id, fd, message.size, error);
	return r < 0 ? error_wrap(error, r, "%s", file->link) : 0;
}

int dump_ghost_add(struct dump_context *ctx, const struct dump_regular *file, uint32_t file_id,
		   bool *ret_added, struct error *error)
{
	uint64_t limit = ctx->options->ghost_max ? ctx->options->ghost_max : GHOST_MAX_DEFAULT;
	RemapPath remap = REMAP_PATH__INIT;
	struct dump_inode *ghost;
	int r = 0;

	if ((uint64_t)file->st->st_size > limit) {
		dump_blocker_add(ctx, file->process->pid, file->kind,
				 "it is deleted and too large to be sent along",
				 "let the program close it, or raise the limit for deleted files",
				 "%s -> %s", file->what, file->link);
		return 0;
	}
	ghost = dump_inodes_find(&ctx->files->ghosts, file->st->st_dev, file->st->st_ino, 0);
	if (!ghost)
		return error_set(error, -ENOMEM, "no memory for deleted files");
	if (ghost->id == 0)
		ghost->id = ctx->files->next_id++;
	remap.orig_id = file_id;
	remap.remap_id = ghost->id;
	remap.has_remap_type = 1;
	remap.remap_type = REMAP_TYPE__REMAP_GHOST;
	if (!ghost->added) {
		ghost->added = true;
		r = add_ghost(ctx, file, ghost->id, error);
	}
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_REMAP_PATH, 0, &remap.base, error);
	*ret_added = r == 0;
	return r;
}
