/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks of fcntl(2) and flock(2).
 *
 * fdinfo of a descriptor tells which locks its process, or the open file, holds. /proc/locks is not asked: opening it waits
 * for an RCU grace period, which is up to 20 ms of downtime.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dump/file-kind.h"

/* "1: POSIX  ADVISORY  WRITE 4567 fe:01:1234 0 EOF"; false when it is no lock of a kind that can be taken again. */
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

	if (!S_ISREG(file->st.st_mode))
		return 0;
	info = dump_file_text(file);
	for (const char *text = dump_file_info(info, "lock"); text;
	     text = dump_file_info(text, "lock"))
		count++;
	if (count == 0)
		return 0;
	if (ctx->options->refuse_locks) {
		dump_file_block(ctx, file, "it has a lock", "take locks along: --file-locks");
		return 0;
	}
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
