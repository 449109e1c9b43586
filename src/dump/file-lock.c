/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks and leases of fcntl(2), and locks of flock(2).
 *
 * fdinfo of a descriptor tells which locks its table of descriptors, or the open file, holds. /proc/locks is not asked:
 * opening it waits for an RCU grace period, which is up to 20 ms of downtime.
 *
 * A lease that is being broken is refused: what it was before is told nowhere, and whoever wants the file waits for its end,
 * which comes within /proc/sys/fs/lease-break-time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dump/file-kind.h"
#include "image/journal.h"

static const struct {
	const char *name; /* as fdinfo has it */
	FileLock__Kind kind;
} lock_kinds[] = {
	{ "POSIX", FILE_LOCK__KIND__POSIX },
	{ "FLOCK", FILE_LOCK__KIND__FLOCK },
	{ "OFDLCK", FILE_LOCK__KIND__OFD },
	{ "LEASE", FILE_LOCK__KIND__LEASE },
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/*
 * "1: POSIX  ADVISORY  WRITE 4567 fe:01:1234 0 EOF", "1: LEASE  ACTIVE    READ 4567 ..."; false when it is of no kind that can
 * be taken again.
 */
static bool parse_lock(const char *text, FileLock *lock, bool *ret_breaking)
{
	char kind[16], state[16], access[16], end[32];
	unsigned long long start;
	int pid;

	if (sscanf(text, "%*d: %15s %15s %15s %d %*s %llu %31s", kind, state, access, &pid, &start, end) != 6)
		return false;
	*ret_breaking = strcmp(state, "BREAKING") == 0;
	lock->write = strcmp(access, "WRITE") == 0;
	lock->pid = pid > 0 ? (uint32_t)pid : 0;
	lock->start = start;
	lock->end = strcmp(end, "EOF") == 0 ? UINT64_MAX : strtoull(end, NULL, 10);
	for (size_t i = 0; i < COUNT(lock_kinds); i++)
		if (strcmp(kind, lock_kinds[i].name) == 0) {
			lock->kind = lock_kinds[i].kind;
			return true;
		}
	return false;
}

/* What has a place in a file system can be locked. */
static bool may_have_locks(const struct dump_file *file)
{
	mode_t mode = file->st.st_mode;

	if (file->flags & O_PATH || file->link[0] != '/')
		return false;
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode);
}

/* By which the target knows whether it would open, and so break, this very lease. */
static FileIdentity *identity_of(const struct dump_file *file, struct dump_arena *arena)
{
	FileIdentity *identity = dump_arena_take(arena, sizeof(*identity));
	char *boot_id = dump_arena_take(arena, JOURNAL_BOOT_ID_MAX);

	if (!identity || !boot_id || journal_boot_id(boot_id, NULL) < 0)
		return NULL;
	file_identity__init(identity);
	identity->boot_id = boot_id;
	identity->dev = file->st.st_dev;
	identity->ino = file->st.st_ino;
	return identity;
}

int dump_locks_collect(struct dump_context *ctx, const struct dump_file *file,
		       struct dump_arena *arena, Descriptor *message)
{
	const char *info;
	size_t count = 0;

	if (!may_have_locks(file))
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
		bool breaking = false;

		if (!lock)
			return -ENOMEM;
		file_lock__init(lock);
		if (!parse_lock(text, lock, &breaking))
			dump_file_refuse(ctx, file, IMAGE_KIND_FILE_LOCK_OTHER);
		else if (breaking)
			dump_file_refuse(ctx, file, IMAGE_KIND_LEASE_BREAKING);
		else
			message->locks[message->n_locks++] = lock;
		if (lock->kind == FILE_LOCK__KIND__LEASE)
			lock->file = identity_of(file, arena);
	}
	return 0;
}
