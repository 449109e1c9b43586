/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inotify(7).
 *
 * Watches are added after all other files were opened, so that our own opening of them is no event.
 * A watch gets its old number by INOTIFY_IOC_SETNEXTWD; on a kernel without it, watches are added
 * and removed until the number comes.
 *
 * Events that waited on the source are lost. The program is told so as the kernel does it, by IN_Q_OVERFLOW: the queue is
 * filled with events of two files of our own until it overflows, and all but that last event are read again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "restore/file-kind.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#ifndef INOTIFY_IOC_SETNEXTWD
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t)
#endif

#define MASK	  (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)
#define TRIES_MAX 1000000
#define READ_AT_ONCE 1024 /* events */

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

/* How many events a queue holds before it overflows. */
static size_t queue_size(void)
{
	char text[32] = "";
	int fd = open("/proc/sys/fs/inotify/max_queued_events", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : fdio_pread(fd, text, sizeof(text) - 1, 0);

	if (fd >= 0)
		close(fd);
	return got > 0 ? strtoul(text, NULL, 10) : 0;
}

static int watch_memory(int fd, int *ret_file)
{
	char path[64];

	*ret_file = memfd_create("watched", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", *ret_file);
	return *ret_file < 0 ? -1 : inotify_add_watch(fd, path, IN_ATTRIB);
}

/* Reads `count` events that have no names. */
static int take_events(int fd, size_t count)
{
	struct inotify_event room[READ_AT_ONCE];

	while (count > 0) {
		ssize_t got = read(fd, room, (count < READ_AT_ONCE ? count : READ_AT_ONCE) * sizeof(room[0]));

		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		count -= (size_t)got / sizeof(room[0]);
	}
	return 0;
}

static int tell_of_loss(int fd, struct error *error)
{
	_cleanup_fd_ int one = -1, other = -1;
	int watches[2] = { watch_memory(fd, &one), watch_memory(fd, &other) };
	size_t size = queue_size();
	int r = watches[0] < 0 || watches[1] < 0 || size == 0 ? -EIO : 0;

	/* By turns, for equal neighbours become one event. */
	for (size_t i = 0; r == 0 && i <= size; i++)
		r = fchmod(i % 2 ? one : other, 0600) < 0 ? -errno : 0;
	/* While the queue is full, nothing is noted of their end. */
	for (int i = 0; i < 2; i++)
		(void)inotify_rm_watch(fd, watches[i]);
	if (r == 0)
		r = take_events(fd, size);
	return r < 0 ? error_set_errno(error, r, "telling of lost inotify events") : 0;
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

	if (message->lost) {
		int r = tell_of_loss(file->fd, error);

		if (r < 0)
			return r;
	}
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
