/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleted files, and files in memory (memory-file.c), whose content travels along.
 *
 * Model. A ghost is an inode without a name. However many descriptors and mappings lead to it, it is one IMAGE_GHOST_FILE
 * record, and one object of shared-memory.c: its content travels as pages of that object, from the first round on.
 *
 * Failure modes: a deleted file over the limit of dump_options.ghost_limit it is a blocker.
 */
#include <errno.h>
#include <stdio.h>

#include "dump/file-kind.h"
#include "dump/shared-memory.h"
#include "ghost-file.pb-c.h"
#include "image/journal.h"

#define GHOST_LIMIT_DEFAULT (UINT64_C(1) << 30)

static int add_record(struct dump_context *ctx, const struct dump_regular *file, const struct dump_shared_object *object,
		      struct error *error)
{
	GhostTime accessed = GHOST_TIME__INIT, modified = GHOST_TIME__INIT;
	GhostFile message = GHOST_FILE__INIT;
	char boot_id[JOURNAL_BOOT_ID_MAX];

	if (object->path) {
		int r = journal_boot_id(boot_id, error);

		if (r < 0)
			return r;
		message.path = object->path;
		message.boot_id = boot_id;
		message.has_full_dev = true;
		message.full_dev = object->dev;
	}
	message.uid = object->uid;
	message.gid = object->gid;
	message.mode = file->st->st_mode;
	message.has_dev = 1;
	message.dev = (uint32_t)object->dev;
	message.has_ino = 1;
	message.ino = object->ino;
	accessed.tv_sec = (uint64_t)file->st->st_atim.tv_sec;
	accessed.tv_usec = (uint64_t)file->st->st_atim.tv_nsec / 1000;
	modified.tv_sec = (uint64_t)file->st->st_mtim.tv_sec;
	modified.tv_usec = (uint64_t)file->st->st_mtim.tv_nsec / 1000;
	message.atim = &accessed;
	message.mtim = &modified;
	message.has_size = 1;
	message.size = object->size;
	return image_set_add(ctx->images, IMAGE_GHOST_FILE, object->id, &message.base, error);
}

int dump_ghost_add(struct dump_context *ctx, const struct dump_regular *file, const char *path, uint32_t file_id,
		   bool *ret_added, struct error *error)
{
	uint64_t limit = ctx->options->ghost_limit ? ctx->options->ghost_limit : GHOST_LIMIT_DEFAULT;
	const struct dump_shared_object *object;
	RemapPath remap = REMAP_PATH__INIT;
	bool is_new;
	int r;

	if (!path && (uint64_t)file->st->st_size > limit) {
		char cause[128];

		snprintf(cause, sizeof(cause), "it is deleted, and with %llu bytes over the limit of %llu for such files",
			 (unsigned long long)file->st->st_size, (unsigned long long)limit);
		dump_blocker_add(ctx, file->process->pid, file->kind, cause,
				 "let the program close it, or raise the limit: migrate dump --ghost-limit", "%s -> %s",
				 file->what, file->link);
		return 0;
	}
	r = dump_shared_ghost(ctx, file->fd, file->link, path, file->may_change, &object, &is_new, error);
	if (r == 0 && is_new)
		r = add_record(ctx, file, object, error);
	if (r < 0)
		return r;
	remap.orig_id = file_id;
	remap.remap_id = object->id;
	remap.has_remap_type = 1;
	remap.remap_type = REMAP_TYPE__REMAP_GHOST;
	r = image_set_add(ctx->images, IMAGE_REMAP_PATH, 0, &remap.base, error);
	*ret_added = r == 0;
	return r;
}
