/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that are in memory only but have a name: POSIX shared memory (/dev/shm) above all, and files of other mounts of tmpfs
 * and ramfs. Another host cannot have them, so the content travels, as that of a deleted file does (ghost.c), and the name
 * with it: the target makes the file, unless what it finds there is the very same file.
 *
 * What is only mapped private or run as a program is looked for on the target as any file is; so is a file with several names,
 * one that the program has a lease on, and whatever lies on the root file system: where that is in memory, both hosts have
 * it from the same place.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "dump/file-kind.h"
#include "util/cleanup.h"

/* To read its content it is opened, which would break a lease that the program has. */
static bool is_leased(int fd)
{
	int lease = fcntl(fd, F_GETLEASE);

	return lease == F_RDLCK || lease == F_WRLCK;
}

static bool is_on_root(const struct stat *st)
{
	struct stat root;

	return stat("/", &root) == 0 && root.st_dev == st->st_dev;
}

bool dump_memory_file_is(const struct dump_regular *file)
{
	struct statfs info;

	return !is_leased(file->fd) && S_ISREG(file->st->st_mode) && file->st->st_nlink == 1 && !file->path_only &&
	       !file->private_map && fstatfs(file->fd, &info) == 0 &&
	       (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC) && !is_on_root(file->st);
}

/* One line of mountinfo(5): the mount point is field 5, the type the first behind " - ". */
static int add_mount(struct dump_memory_mounts *mounts, char *line)
{
	char *type = strstr(line, " - "), *field = line, *point;

	for (int i = 0; field && i < 4; i++)
		field = (field = strchr(field, ' ')) ? field + 1 : NULL;
	if (!type || !field || (strncmp(type + 3, "tmpfs ", 6) != 0 && strncmp(type + 3, "ramfs ", 6) != 0 &&
				strncmp(type + 3, "rootfs ", 7) != 0))
		return 0;
	field[strcspn(field, " ")] = '\0';
	/* What is escaped (blanks) is cut: it then stands for more than there is. */
	field[strcspn(field, "\\")] = '\0';
	if (asprintf(&point, "%s%s", field, field[strlen(field) - 1] == '/' ? "" : "/") < 0)
		return -ENOMEM;
	if (array_append(&mounts->points, point) < 0) {
		free(point);
		return -ENOMEM;
	}
	return 0;
}

int dump_memory_mounts_read(struct dump_memory_mounts *ret, struct error *error)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int r = file ? 0 : -errno;

	while (r == 0 && getline(&line, &size, file) > 0)
		r = add_mount(ret, line);
	if (file)
		fclose(file);
	return r < 0 ? error_set_errno(error, r, "cannot list mounts") : 0;
}

bool dump_memory_file_may_be(const struct dump_memory_mounts *mounts, const char *path)
{
	array_for_each(point, &mounts->points)
		if (strncmp(path, *point, strlen(*point)) == 0)
			return true;
	return false;
}

void dump_memory_mounts_deinit(struct dump_memory_mounts *mounts)
{
	array_for_each(point, &mounts->points)
		free(*point);
	array_deinit(&mounts->points);
}
