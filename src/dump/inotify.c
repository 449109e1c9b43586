/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inotify(7).
 *
 * Model. fdinfo names what is watched (watched.c). The target adds the watch by its path under the
 * same number.
 *
 * Events that wait in the descriptor cannot be looked at without taking them, so they are lost in a
 * move. It is noted that there were any: on the target the program finds the event by which the
 * kernel tells that it has lost some.
 *
 * Failure modes. Something watched that was deleted, or lies on a file system without handles, is a
 * blocker.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "util/cleanup.h"

struct watch {
	unsigned int wd, sdev, mask, ignored_mask;
	unsigned long ino;
	struct dump_handle handle;
};

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:inotify") == 0;
}

/* "WD ino:X sdev:X mask:X ignored_mask:X fhandle-bytes:X fhandle-type:X f_handle:HEX" */
static bool parse_watch(const char *text, struct watch *watch)
{
	int at = 0;

	return sscanf(text, "%x ino:%lx sdev:%x mask:%x ignored_mask:%x %n", &watch->wd, &watch->ino, &watch->sdev,
		      &watch->mask, &watch->ignored_mask, &at) >= 5 &&
	       at > 0 && dump_handle_parse(text + at, &watch->handle);
}

static int add_watch(struct dump_context *ctx, const struct dump_file *file, const char *text,
		     struct dump_arena *arena, InotifyFd *message)
{
	InotifyWatch *item = dump_arena_take(arena, sizeof(*item));
	_cleanup_free_ struct watch *watch = calloc(1, sizeof(*watch));
	char path[DUMP_LINK_MAX];

	if (!item || !watch)
		return -ENOMEM;
	if (!parse_watch(text, watch) || dump_handle_path(ctx->files, watch->sdev, &watch->handle, path) < 0) {
		dump_refuse(ctx, file->process->pid, "descriptor", IMAGE_KIND_WATCH_LOST,
			    "fd %d -> inotify, watch of inode %lu", file->number, watch->ino);
		return 0;
	}
	inotify_watch__init(item);
	item->id = file->id;
	item->i_ino = watch->ino;
	item->mask = watch->mask;
	item->ignored_mask = watch->ignored_mask;
	item->s_dev = watch->sdev;
	item->wd = watch->wd;
	item->f_handle = dump_handle_message(&watch->handle, path, arena);
	if (!item->f_handle)
		return -ENOMEM;
	message->wd[message->n_wd++] = item;
	return 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct dump_arena arena = { 0 };
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	InotifyFd inotify = INOTIFY_FD__INIT;
	const char *info = dump_file_text(file);
	size_t count = 0;
	int waiting = 0, r = 0;

	for (const char *text = info; (text = strstr(text, "\ninotify wd:")); text++)
		count++;
	inotify.wd = dump_arena_take(&arena, (count + 1) * sizeof(inotify.wd[0]));
	if (!inotify.wd)
		r = -ENOMEM;
	for (const char *text = info; r == 0 && (text = strstr(text, "\ninotify wd:")); text++)
		r = add_watch(ctx, file, text + strlen("\ninotify wd:"), &arena, &inotify);
	if (file->frozen && ioctl(file->fd, FIONREAD, &waiting) == 0 && waiting > 0)
		inotify.has_lost = inotify.lost = true;
	inotify.id = file->id;
	inotify.flags = file->flags;
	inotify.fown = &owner;
	message.type = FILE_TYPE__FILE_INOTIFY;
	message.id = file->id;
	message.ify = &inotify;
	if (r < 0)
		error_set(error, r, "no memory for inotify watches");
	else
		r = dump_file_add(ctx, &message, error);
	dump_arena_deinit(&arena);
	return r;
}

const struct dump_file_kind dump_kind_inotify = {
	.name = "inotify",
	.type = FILE_TYPE__FILE_INOTIFY,
	.match = match,
	.dump = dump,
};
