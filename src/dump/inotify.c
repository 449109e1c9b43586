/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inotify(7).
 *
 * Model. fdinfo names what is watched by device and file handle. The handle is opened on a mount of
 * that device, /proc tells the path of what was opened, and the path is good when it leads to the
 * same inode. The target adds the watch by that path under the same number.
 *
 * Events that wait in the descriptor cannot be looked at without taking them, so they are lost in a
 * move.
 *
 * Failure modes. Something watched that was deleted, or lies on a file system without handles, is a
 * blocker.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define HANDLE_MAX 128

struct dump_mount {
	unsigned int major;
	unsigned int minor;
	int fd; /* open mount point, owned */
};

struct dump_mounts {
	ARRAY(struct dump_mount) list; /* those opened so far */
};

struct watch {
	unsigned int wd, sdev, mask, ignored_mask;
	unsigned long ino;
	struct file_handle handle;
	uint8_t bytes[HANDLE_MAX]; /* of the handle, which ends in an array without a size */
};
_Static_assert(offsetof(struct watch, bytes) ==
		       offsetof(struct watch, handle) + sizeof(struct file_handle),
	       "bytes follow the handle");

void dump_mounts_free(struct dump_mounts *mounts)
{
	if (!mounts)
		return;
	array_for_each (mount, &mounts->list)
		close(mount->fd);
	array_deinit(&mounts->list);
	free(mounts);
}

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:inotify") == 0;
}

/* Spaces and the like are written as \ooo in mountinfo. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
			*to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 |
				       (from[3] - '0'));
			from += 3;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
}

/* Opens each mount of the device. */
static int open_mounts(struct dump_mounts *mounts, unsigned int device_major,
		       unsigned int device_minor)
{
	_cleanup_file_ FILE *file = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int r = 0;

	if (!file)
		return -errno;
	while (r == 0 && getline(&line, &size, file) > 0) {
		struct dump_mount mount = { .major = device_major, .minor = device_minor };
		char point[DUMP_LINK_MAX];
		unsigned int a, b;

		if (sscanf(line, "%*d %*d %u:%u %*s %4351s", &a, &b, point) != 3 ||
		    a != device_major || b != device_minor)
			continue;
		unescape(point);
		mount.fd = open(point, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		if (mount.fd < 0)
			continue;
		r = array_append(&mounts->list, mount);
		if (r < 0)
			close(mount.fd);
	}
	return r;
}

/* The path of a handle by way of one mount; 0 when it is found and right. */
static int resolve_on(const struct dump_mount *mount, struct watch *watch, char path[DUMP_LINK_MAX])
{
	_cleanup_fd_ int fd = open_by_handle_at(mount->fd, &watch->handle, O_PATH | O_CLOEXEC);
	struct stat opened, named;
	char name[64];
	int r;

	if (fd < 0 || fstat(fd, &opened) < 0)
		return -errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	r = fdio_readlink(AT_FDCWD, name, path, DUMP_LINK_MAX);
	if (r < 0)
		return r;
	if (path[0] != '/' || lstat(path, &named) < 0 || named.st_dev != opened.st_dev ||
	    named.st_ino != opened.st_ino)
		return -ENOENT;
	return 0;
}

static int resolve(struct dump_files *files, struct watch *watch, char path[DUMP_LINK_MAX])
{
	unsigned int device_major = watch->sdev >> 20, device_minor = watch->sdev & 0xfffff;
	bool opened = false;
	int r;

	if (!files->mounts)
		files->mounts = calloc(1, sizeof(*files->mounts));
	if (!files->mounts)
		return -ENOMEM;
	for (;;) {
		array_for_each (mount, &files->mounts->list) {
			if (mount->major != device_major || mount->minor != device_minor)
				continue;
			opened = true;
			r = resolve_on(mount, watch, path);
			if (r == 0)
				return 0;
		}
		if (opened)
			return -ENOENT;
		r = open_mounts(files->mounts, device_major, device_minor);
		if (r < 0)
			return r;
		opened = true;
	}
}

/* "WD ino:X sdev:X mask:X ignored_mask:X fhandle-bytes:X fhandle-type:X f_handle:HEX" */
static bool parse_watch(const char *text, struct watch *watch)
{
	unsigned int bytes, type;
	int at = 0;

	if (sscanf(text,
		   "%x ino:%lx sdev:%x mask:%x ignored_mask:%x fhandle-bytes:%x "
		   "fhandle-type:%x f_handle:%n",
		   &watch->wd, &watch->ino, &watch->sdev, &watch->mask, &watch->ignored_mask,
		   &bytes, &type, &at) < 7)
		return false;
	if (at == 0 || bytes > HANDLE_MAX)
		return false;
	watch->handle.handle_bytes = bytes;
	watch->handle.handle_type = (int)type;
	for (unsigned int i = 0; i < bytes; i++) {
		unsigned int byte;

		if (sscanf(text + at + 2 * i, "%2x", &byte) != 1)
			return false;
		watch->bytes[i] = (uint8_t)byte;
	}
	return true;
}

static int add_watch(struct dump_context *ctx, const struct dump_file *file, const char *text,
		     struct dump_arena *arena, InotifyFd *message)
{
	InotifyWatch *item = dump_arena_take(arena, sizeof(*item));
	FileHandle *handle = dump_arena_take(arena, sizeof(*handle));
	_cleanup_free_ struct watch *watch = calloc(1, sizeof(*watch));
	char path[DUMP_LINK_MAX];

	if (!item || !handle || !watch)
		return -ENOMEM;
	if (!parse_watch(text, watch) || resolve(ctx->files, watch, path) < 0) {
		dump_blocker_add(ctx, file->process->pid, "descriptor",
				 "it watches a file or directory whose path cannot be found out",
				 "let the program remove the watch",
				 "fd %d -> inotify, watch of inode %lu", file->number, watch->ino);
		return 0;
	}
	inotify_watch__init(item);
	file_handle__init(handle);
	handle->bytes = watch->handle.handle_bytes;
	handle->type = (uint32_t)watch->handle.handle_type;
	handle->n_handle = (watch->handle.handle_bytes + 7) / 8;
	handle->handle = dump_arena_take(arena, HANDLE_MAX);
	handle->path = dump_arena_string(arena, path);
	if (!handle->handle || !handle->path)
		return -ENOMEM;
	memcpy(handle->handle, watch->bytes, watch->handle.handle_bytes);
	item->id = file->id;
	item->i_ino = watch->ino;
	item->mask = watch->mask;
	item->ignored_mask = watch->ignored_mask;
	item->s_dev = watch->sdev;
	item->wd = watch->wd;
	item->f_handle = handle;
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
	int r = 0;

	for (const char *text = info; (text = strstr(text, "\ninotify wd:")); text++)
		count++;
	inotify.wd = dump_arena_take(&arena, (count + 1) * sizeof(inotify.wd[0]));
	if (!inotify.wd)
		r = -ENOMEM;
	for (const char *text = info; r == 0 && (text = strstr(text, "\ninotify wd:")); text++)
		r = add_watch(ctx, file, text + strlen("\ninotify wd:"), &arena, &inotify);
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
