/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What inotify and fanotify watch, as fdinfo names it: a device and a file handle, or a mount.
 *
 * Model. The handle is opened on a mount of that device, /proc tells the path of what was opened, and the path is good when it
 * leads to the same inode. A mount is looked for in mountinfo.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "util/cleanup.h"
#include "util/fdio.h"

struct dump_mount {
	unsigned int major;
	unsigned int minor;
	int fd; /* open mount point, owned */
};

struct dump_mounts {
	ARRAY(struct dump_mount) list; /* those opened so far */
};

void dump_mounts_free(struct dump_mounts *mounts)
{
	if (!mounts)
		return;
	array_for_each (mount, &mounts->list)
		close(mount->fd);
	array_deinit(&mounts->list);
	free(mounts);
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
static int resolve_on(const struct dump_mount *mount, struct dump_handle *handle, char path[DUMP_LINK_MAX])
{
	_cleanup_fd_ int fd = open_by_handle_at(mount->fd, &handle->handle, O_PATH | O_CLOEXEC);
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

int dump_handle_path(struct dump_files *files, unsigned int device, struct dump_handle *handle, char path[DUMP_LINK_MAX])
{
	unsigned int device_major = device >> 20, device_minor = device & 0xfffff;
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
			r = resolve_on(mount, handle, path);
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

bool dump_handle_parse(const char *text, struct dump_handle *ret)
{
	unsigned int bytes, type;
	int at = 0;

	if (sscanf(text, "fhandle-bytes:%x fhandle-type:%x f_handle:%n", &bytes, &type, &at) < 2 || at == 0 ||
	    bytes > DUMP_HANDLE_MAX)
		return false;
	ret->handle.handle_bytes = bytes;
	ret->handle.handle_type = (int)type;
	for (unsigned int i = 0; i < bytes; i++) {
		unsigned int byte;

		if (sscanf(text + at + 2 * i, "%2x", &byte) != 1)
			return false;
		ret->bytes[i] = (uint8_t)byte;
	}
	return true;
}

FileHandle *dump_handle_message(const struct dump_handle *handle, const char *path, struct dump_arena *arena)
{
	FileHandle *message = dump_arena_take(arena, sizeof(*message));

	if (!message)
		return NULL;
	file_handle__init(message);
	message->bytes = handle->handle.handle_bytes;
	message->type = (uint32_t)handle->handle.handle_type;
	message->n_handle = (handle->handle.handle_bytes + 7) / 8;
	message->handle = dump_arena_take(arena, DUMP_HANDLE_MAX);
	message->path = dump_arena_string(arena, path);
	if (!message->handle || !message->path)
		return NULL;
	memcpy(message->handle, handle->bytes, handle->handle.handle_bytes);
	return message;
}

int dump_mount_path(unsigned int id, unsigned int device, char path[DUMP_LINK_MAX])
{
	_cleanup_file_ FILE *file = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	if (!file)
		return -errno;
	while (getline(&line, &size, file) > 0) {
		unsigned int number, device_major, device_minor;

		if (sscanf(line, "%u %*d %u:%u %*s %4351s", &number, &device_major, &device_minor, path) != 4 ||
		    (id ? number != id : (device_major << 20 | device_minor) != device))
			continue;
		unescape(path);
		return 0;
	}
	return -ENOENT;
}
