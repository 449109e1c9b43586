/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inotify(7).
 *
 * Watches are added after all other files were opened, so that our own opening of them is no event.
 * A watch gets its old number by INOTIFY_IOC_SETNEXTWD; on a kernel without it, watches are added
 * and removed until the number comes.
 */
#include <errno.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "restore/file-kind.h"

#ifndef INOTIFY_IOC_SETNEXTWD
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t)
#endif

#define MASK	  (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)
#define TRIES_MAX 1000000

static int add_watch(int fd, const InotifyWatch *watch, struct error *error)
{
	const char *path = watch->f_handle->path;
	int wanted = (int)watch->wd, wd = -1;

	if (!path)
		return error_set(error, -EPROTO, "inotify watch %d has no path", wanted);
	(void)ioctl(fd, INOTIFY_IOC_SETNEXTWD, wanted);
	for (int i = 0; i < TRIES_MAX && wd < wanted; i++) {
		if (wd >= 0)
			(void)inotify_rm_watch(fd, wd);
		wd = inotify_add_watch(fd, path, (watch->mask & MASK) | IN_DONT_FOLLOW);
		if (wd < 0)
			return error_set_errno(error, -errno, "watching %s", path);
	}
	if (wd != wanted)
		return error_set(error, -EBUSY, "watch of %s got the number %d instead of %d", path,
				 wd, wanted);
	return 0;
}

static int open_inotify(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const InotifyFd *message = file->message->ify;

	file->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "inotify_init");
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

/*
 * The watches of one descriptor by ascending number, which is also the order in which numbers are
 * given.
 */
static int finish_inotify(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const InotifyFd *message = file->message->ify;
	uint32_t after = 0;

	for (size_t i = 0; i < message->n_wd; i++) {
		const InotifyWatch *next = NULL;
		int r;

		for (size_t k = 0; k < message->n_wd; k++)
			if (message->wd[k]->wd > after && (!next || message->wd[k]->wd < next->wd))
				next = message->wd[k];
		if (!next)
			break;
		after = next->wd;
		r = add_watch(file->fd, next, error);
		if (r < 0)
			return r;
	}
	return 0;
}

const struct restore_file_kind restore_kind_inotify = {
	.name = "inotify",
	.type = FILE_TYPE__FILE_INOTIFY,
	.open = open_inotify,
	.finish = finish_inotify,
};
