/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fanotify(7): a new group, and its marks after all other files were opened, so that our own opening of them is no event.
 *
 * A mark on a mount is on whatever mount the path leads to; preflight has seen that one begins there (file-check.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/fanotify.h>

#include "fsnotify.pb-c.h"
#include "restore/file-kind.h"

#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x200
#endif
#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x400
#endif

static unsigned int type_flag(const FanotifyMark *mark)
{
	switch ((int)mark->type) {
	case FANOTIFY_MARK_TYPE__FANOTIFY_MOUNT: return FAN_MARK_MOUNT;
	case FANOTIFY_MARK_TYPE__FANOTIFY_FILE_SYSTEM: return FAN_MARK_FILESYSTEM;
	default: return FAN_MARK_INODE | FAN_MARK_DONT_FOLLOW;
	}
}

static int add_mark(int fd, const FanotifyMark *mark, struct error *error)
{
	const char *path = mark->path ? mark->path : mark->ie ? mark->ie->f_handle->path : NULL;
	unsigned int flags = FAN_MARK_ADD | type_flag(mark);
	unsigned int ignore = mark->mflags & FAN_MARK_IGNORE ? FAN_MARK_IGNORE : FAN_MARK_IGNORED_MASK;

	if (!path)
		return error_set(error, -EPROTO, "a fanotify mark has no path");
	if (mark->mask && fanotify_mark(fd, flags | (mark->mflags & FAN_MARK_EVICTABLE), mark->mask, AT_FDCWD, path) < 0)
		return error_set_errno(error, -errno, "marking %s", path);
	if (mark->ignored_mask &&
	    fanotify_mark(fd, flags | ignore | (mark->mflags & (FAN_MARK_EVICTABLE | FAN_MARK_IGNORED_SURV_MODIFY)),
			  mark->ignored_mask, AT_FDCWD, path) < 0)
		return error_set_errno(error, -errno, "ignoring events of %s", path);
	return 0;
}

static int open_fanotify(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const FanotifyFd *message = file->message->ffy;

	/* With the flags that it had, which the group keeps. */
	file->fd = fanotify_init(message->faflags, message->evflags);
	if (file->fd < 0 || fcntl(file->fd, F_SETFD, FD_CLOEXEC) < 0)
		return error_set_errno(error, -errno, "fanotify_init with flags %#x", message->faflags);
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

static int finish_fanotify(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const FanotifyFd *message = file->message->ffy;
	int r = 0;

	for (size_t i = 0; r == 0 && i < message->n_mark; i++)
		r = add_mark(file->fd, message->mark[i], error);
	return r;
}

const struct restore_file_kind restore_kind_fanotify = {
	.name = "fanotify",
	.type = FILE_TYPE__FILE_FANOTIFY,
	.open = open_fanotify,
	.finish = finish_fanotify,
};
