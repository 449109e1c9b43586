/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks of fcntl(2) and flock(2).
 *
 * /proc/locks is read once a collection to learn which inodes have locks at all; for those only,
 * fdinfo of a descriptor tells which locks its process, or the open file, holds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "dump/file-kind.h"
#include "util/cleanup.h"

struct locked_inode {
	dev_t dev;
	ino_t ino;
};

struct dump_locks {
	ARRAY(struct locked_inode) list;
};

void dump_locks_free(struct dump_locks *locks)
{
	if (!locks)
		return;
	array_deinit(&locks->list);
	free(locks);
}

/*
 * "1: POSIX  ADVISORY  WRITE 4567 fe:01:1234 0 EOF", and with "->" behind the number for one that
 * waits.
 */
int dump_locks_read(struct dump_files *files, struct error *error)
{
	_cleanup_file_ FILE *file = fopen("/proc/locks", "re");
	struct dump_locks *locks = calloc(1, sizeof(*locks));
	unsigned int device_major, device_minor;
	unsigned long ino;
	char line[256];

	files->locks = locks;
	if (!locks)
		return error_set(error, -ENOMEM, "no memory for file locks");
	if (!file)
		return error_set_errno(error, -errno, "/proc/locks");
	while (fgets(line, sizeof(line), file)) {
		struct locked_inode inode;

		if (sscanf(line, "%*s %*s %*s %*s %*d %x:%x:%lu", &device_major, &device_minor,
			   &ino) != 3)
			continue;
		inode = (struct locked_inode){ makedev(device_major, device_minor), ino };
		if (array_append(&locks->list, inode) < 0)
			return error_set(error, -ENOMEM, "no memory for file locks");
	}
	return 0;
}

/*
 * File systems such as btrfs show another device in /proc/locks than stat(2) does: the inode number
 * has to do.
 */
static bool is_locked(const struct dump_locks *locks, const struct stat *st)
{
	array_for_each (inode, &locks->list)
		if (inode->ino == st->st_ino &&
		    (inode->dev == st->st_dev || major(st->st_dev) == 0))
			return true;
	return false;
}

/* The same line in fdinfo; false when it is no lock of a kind that can be taken again. */
static bool parse_lock(const char *text, FileLock *lock)
{
	char kind[16], access[16], end[32];
	unsigned long long start;
	int pid;

	if (sscanf(text, "%*d: %15s %*15s %15s %d %*s %llu %31s", kind, access, &pid, &start,
		   end) != 5)
		return false;
	if (strcmp(kind, "POSIX") == 0)
		lock->kind = FILE_LOCK__KIND__POSIX;
	else if (strcmp(kind, "FLOCK") == 0)
		lock->kind = FILE_LOCK__KIND__FLOCK;
	else if (strcmp(kind, "OFDLCK") == 0)
		lock->kind = FILE_LOCK__KIND__OFD;
	else
		return false;
	lock->write = strcmp(access, "WRITE") == 0;
	lock->pid = pid > 0 ? (uint32_t)pid : 0;
	lock->start = start;
	lock->end = strcmp(end, "EOF") == 0 ? UINT64_MAX : strtoull(end, NULL, 10);
	return true;
}

int dump_locks_collect(struct dump_context *ctx, const struct dump_file *file,
		       struct dump_arena *arena, Descriptor *message)
{
	const char *info;
	size_t count = 0;

	if (!S_ISREG(file->st.st_mode) || !is_locked(ctx->files->locks, &file->st))
		return 0;
	info = dump_file_text(file);
	for (const char *text = dump_file_info(info, "lock"); text;
	     text = dump_file_info(text, "lock"))
		count++;
	if (count == 0)
		return 0;
	message->locks = dump_arena_take(arena, count * sizeof(message->locks[0]));
	if (!message->locks)
		return -ENOMEM;
	for (const char *text = dump_file_info(info, "lock"); text;
	     text = dump_file_info(text, "lock")) {
		FileLock *lock = dump_arena_take(arena, sizeof(*lock));

		if (!lock)
			return -ENOMEM;
		file_lock__init(lock);
		if (parse_lock(text, lock))
			message->locks[message->n_locks++] = lock;
		else
			dump_file_block(ctx, file,
					"it holds a lease or a lock that cannot be moved",
					"let the program give it up first");
	}
	return 0;
}
