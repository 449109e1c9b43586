/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files known by their path, the mirror of dump/regular-file.c: opened again by path, or, deleted
 * ones, by way of their ghost. And the comparison with what the source said of them.
 *
 * A file that its tree writes to is compared for good at the end only. Before that, a difference is
 * final when the file here is older than it was there at the time of asking, or has another size at
 * the same time: a shared file can only have become newer meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "image/build-id.h"
#include "image/journal.h"
#include "restore/file-kind.h"
#include "restore/files.h"
#include "restore/parts.h"
#include "util/cleanup.h"

/* Bits of f_flags that must not be given to open(2): they would make or truncate something. */
#define NOT_AGAIN (O_CREAT | O_EXCL | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))

int restore_regular_open(struct restore_tree *tree, const struct restore_file *file, int flags,
			 int *ret_fd, struct error *error)
{
	const char *path = file->message->reg->name;
	int fd;

	if ((flags & O_TMPFILE) == O_TMPFILE) /* it has the bit of O_DIRECTORY, and is none */
		flags &= ~O_TMPFILE;
	if (file->ghost_id && !restore_shared_in_place(tree, file->ghost_id))
		return restore_shared_open(tree, file->ghost_id, (flags & ~(NOT_AGAIN | O_NOFOLLOW)) | O_NOCTTY, ret_fd,
					   error);
	fd = open(path, (flags & ~NOT_AGAIN) | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return error_set_errno(error, -errno, "opening %s", file->message->reg->name);
	*ret_fd = fd;
	return 0;
}

static int open_regular(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const RegularFile *message = file->message->reg;
	bool path_only = message->flags & O_PATH;
	struct stat st;
	int r;

	r = restore_regular_open(tree, file, (int)message->flags & ~O_ASYNC, &file->fd, error);
	if (r < 0)
		return r;
	if (fstat(file->fd, &st) < 0)
		return error_set_errno(error, -errno, "%s", message->name);
	if (message->has_mode && (st.st_mode & S_IFMT) != (message->mode & S_IFMT))
		return error_set(error, -ESTALE, "%s is of another type here", message->name);
	if (!path_only && message->pos > 0 && lseek(file->fd, (off_t)message->pos, SEEK_SET) < 0 &&
	    errno != ESPIPE)
		return error_set_errno(error, -errno, "setting the position in %s", message->name);
	return path_only ? 0 : restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_regular = {
	.name = "file",
	.type = FILE_TYPE__FILE_REGULAR,
	.open = open_regular,
};

/* ---- mappings and links */

static int find_regular(struct restore_tree *tree, uint32_t file_id,
			const struct restore_file **ret, struct error *error)
{
	const struct restore_file *file = tree->files ? restore_file_find(tree->files, file_id)
						      : NULL;

	if (!file || file->message->type != FILE_TYPE__FILE_REGULAR)
		return error_set(error, -ENOENT, "there is no record of the mapped file %u",
				 file_id);
	*ret = file;
	return 0;
}

int restore_file_map(struct restore_tree *tree, uint32_t file_id, int prot, bool shared,
		     int *ret_fd, struct error *error)
{
	const struct restore_file *file = NULL;
	bool writable;
	int r;

	r = find_regular(tree, file_id, &file, error);
	if (r < 0)
		return r;
	writable = shared &&
		   ((prot & PROT_WRITE) || (file->message->reg->flags & O_ACCMODE) == O_RDWR);
	return restore_regular_open(tree, file, writable ? O_RDWR : O_RDONLY, ret_fd, error);
}

int restore_file_link(struct restore_tree *tree, uint32_t file_id, int *ret_fd, struct error *error)
{
	const struct restore_file *file = NULL;
	int r;

	r = find_regular(tree, file_id, &file, error);
	if (r < 0)
		return r;
	return restore_regular_open(
		tree, file, S_ISDIR(file->message->reg->mode) ? O_PATH | O_DIRECTORY : O_RDONLY,
		ret_fd, error);
}

/* ---- comparison */

static const char *type_name(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "a regular file";
	case S_IFDIR:
		return "a directory";
	case S_IFCHR:
	case S_IFBLK:
		return "a device";
	case S_IFIFO:
		return "a FIFO";
	case S_IFSOCK:
		return "a socket";
	case S_IFLNK:
		return "a symbolic link";
	}
	return "something else";
}

static void format_time(uint64_t ns, char text[64])
{
	time_t seconds = (time_t)(ns / 1000000000);
	struct tm tm;
	size_t n;

	gmtime_r(&seconds, &tm);
	n = strftime(text, 64, "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(text + n, 64 - n, ".%09u", (unsigned int)(ns % 1000000000));
}

static int compare_build_id(const FileCheck *check, char *cause, size_t size)
{
	_cleanup_fd_ int fd = open(check->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	uint8_t id[IMAGE_BUILD_ID_MAX];
	int n;

	if (fd < 0)
		return -errno;
	n = image_build_id_read(fd, id);
	if (n < 0)
		return n;
	if ((size_t)n == check->build_id.len && memcmp(id, check->build_id.data, (size_t)n) == 0)
		return 1;
	snprintf(
		cause, size,
		"is another build: its build-id began with %02x%02x%02x%02x, here with "
		"%02x%02x%02x%02x",
		check->build_id.len > 3 ? check->build_id.data[0] : 0,
		check->build_id.len > 3 ? check->build_id.data[1] : 0,
		check->build_id.len > 3 ? check->build_id.data[2] : 0,
		check->build_id.len > 3 ? check->build_id.data[3] : 0, n > 3 ? id[0] : 0,
		n > 3 ? id[1] : 0, n > 3 ? id[2] : 0, n > 3 ? id[3] : 0);
	return 0;
}

/* The mount may be another one in each place, but the inode is the same. */
static int compare_inode(const FileIdentity *wanted, const struct stat *st, char *cause, size_t size)
{
	char boot_id[JOURNAL_BOOT_ID_MAX];
	int r = journal_boot_id(boot_id, NULL);

	if (r < 0)
		return r;
	if (strcmp(boot_id, wanted->boot_id) == 0 && wanted->dev == st->st_dev && wanted->ino == st->st_ino)
		return 1;
	snprintf(cause, size, "was in memory and is another file here: writes through a mapping leave no trace by "
			      "which the two could be compared");
	return 0;
}

int restore_regular_compare(const FileCheck *check, bool final, char *cause, size_t size)
{
	struct stat st;
	uint64_t mtime;

	/* Files of a process of the tree are there as soon as the process is. */
	if (!final && strncmp(check->path, "/proc/", 6) == 0 && check->volatile_size)
		return 1;
	if (lstat(check->path, &st) < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			return -errno;
		snprintf(cause, size, "is missing on the restoring host");
		return 0;
	}
	if ((st.st_mode & S_IFMT) != (check->mode & S_IFMT)) {
		snprintf(cause, size, "was %s, is %s here", type_name(check->mode),
			 type_name(st.st_mode));
		return 0;
	}
	if (check->has_rdev && check->rdev != st.st_rdev) {
		snprintf(cause, size, "was the device %u:%u, is %u:%u here",
			 major(check->rdev), minor(check->rdev), major(st.st_rdev),
			 minor(st.st_rdev));
		return 0;
	}
	if (!S_ISREG(st.st_mode) || check->volatile_size)
		return 1;
	if (check->inode)
		return compare_inode(check->inode, &st, cause, size);
	mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec;
	/* On a file system that both hosts share it may have been written meanwhile, and that in the same tick of its clock. */
	if (!final && check->may_change && mtime >= check->mtime)
		return 1;
	if ((uint64_t)st.st_size != check->size) {
		snprintf(cause, size, "had %llu bytes, has %llu here",
			 (unsigned long long)check->size, (unsigned long long)st.st_size);
		return 0;
	}
	if (mtime != check->mtime) {
		char there[64], here[64];

		format_time(check->mtime, there);
		format_time(mtime, here);
		snprintf(cause, size, "was modified at %s, here at %s (UTC)", there,
			 here);
		return 0;
	}
	return check->has_build_id ? compare_build_id(check, cause, size) : 1;
}
