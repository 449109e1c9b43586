/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fanotify(7): fdinfo tells how the group was made, and each mark: on an inode by its file handle, on a mount by its number,
 * on a file system by its device (watched.c). The target sets the marks again by paths.
 *
 * Failure modes, all of them blockers. Events that wait cannot be looked at without taking them. A group that others ask for
 * permission would keep them waiting during the move, the restore itself included.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>

#include "dump/file-kind.h"

#define PERMISSION_EVENTS (FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | 0x100000 /* FAN_PRE_ACCESS */)

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[fanotify]") == 0;
}

/* "mflags:X mask:X ignored_mask:X ", and what is behind it. */
static const char *parse_masks(const char *text, FanotifyMark *mark)
{
	int at = 0;

	if (sscanf(text, " mflags:%x mask:%x ignored_mask:%x%n", &mark->mflags, &mark->mask, &mark->ignored_mask, &at) < 3 ||
	    at == 0)
		return NULL;
	return text + at + strspn(text + at, " ");
}

static bool describe_inode(struct dump_files *files, const char *text, struct dump_arena *arena, FanotifyMark *mark)
{
	FanotifyInode *inode = dump_arena_take(arena, sizeof(*inode));
	struct dump_handle handle = { 0 };
	char path[DUMP_LINK_MAX];
	unsigned long number;
	const char *rest;
	int at = 0;

	if (!inode || sscanf(text, "ino:%lx sdev:%x%n", &number, &mark->s_dev, &at) < 2 || at == 0)
		return false;
	rest = parse_masks(text + at, mark);
	if (!rest || !dump_handle_parse(rest, &handle) || dump_handle_path(files, mark->s_dev, &handle, path) < 0)
		return false;
	fanotify_inode__init(inode);
	inode->i_ino = number;
	inode->f_handle = dump_handle_message(&handle, path, arena);
	mark->path = inode->f_handle ? inode->f_handle->path : NULL;
	mark->type = FANOTIFY_MARK_TYPE__FANOTIFY_INODE;
	mark->ie = inode;
	return mark->path;
}

static bool describe_mount(const char *text, struct dump_arena *arena, FanotifyMark *mark)
{
	FanotifyMount *mount = dump_arena_take(arena, sizeof(*mount));
	char path[DUMP_LINK_MAX];
	unsigned int id;
	int at = 0;

	if (!mount || sscanf(text, "mnt_id:%x%n", &id, &at) < 1 || !parse_masks(text + at, mark) ||
	    dump_mount_path(id, 0, path) < 0)
		return false;
	fanotify_mount__init(mount);
	mount->mnt_id = id;
	mark->me = mount;
	mark->type = FANOTIFY_MARK_TYPE__FANOTIFY_MOUNT;
	mark->path = dump_arena_string(arena, path);
	return mark->path;
}

static bool describe_file_system(const char *text, struct dump_arena *arena, FanotifyMark *mark)
{
	char path[DUMP_LINK_MAX];
	int at = 0;

	if (sscanf(text, "sdev:%x%n", &mark->s_dev, &at) < 1 || !parse_masks(text + at, mark) ||
	    dump_mount_path(0, mark->s_dev, path) < 0)
		return false;
	mark->type = FANOTIFY_MARK_TYPE__FANOTIFY_FILE_SYSTEM;
	mark->path = dump_arena_string(arena, path);
	return mark->path;
}

/* `text` is behind "fanotify ". False when it cannot be moved: a blocker. */
static bool describe(struct dump_context *ctx, const struct dump_file *file, const char *text, struct dump_arena *arena,
		     FanotifyMark *mark)
{
	bool good;

	fanotify_mark__init(mark);
	mark->id = file->id;
	if (strncmp(text, "ino:", 4) == 0)
		good = describe_inode(ctx->files, text, arena, mark);
	else if (strncmp(text, "mnt_id:", 7) == 0)
		good = describe_mount(text, arena, mark);
	else
		good = describe_file_system(text, arena, mark);
	if (!good)
		dump_refuse(ctx, file->process->pid, "descriptor", IMAGE_KIND_WATCH_LOST, "fd %d -> fanotify, mark on %.*s",
			    file->number, (int)strcspn(text, " \n"), text);
	else if (mark->mask & PERMISSION_EVENTS)
		dump_refuse(ctx, file->process->pid, "descriptor", IMAGE_KIND_FANOTIFY_PERMISSION,
			    "fd %d -> fanotify, mark on %s", file->number, mark->path);
	return good;
}

static bool events_wait(const struct dump_file *file)
{
	int bytes = 0;

	return ioctl(file->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const char *info = dump_file_text(file), *start = dump_file_info(info, "fanotify flags");
	struct dump_arena arena = { 0 };
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	FanotifyFd group = FANOTIFY_FD__INIT;
	size_t count = 0;
	int r = 0;

	if (!start || sscanf(start, "%x event-flags:%x", &group.faflags, &group.evflags) != 2) {
		dump_file_block(ctx, file, "this kernel does not tell its state", "use a newer kernel");
		return 0;
	}
	if (file->frozen && events_wait(file))
		dump_file_refuse(ctx, file, IMAGE_KIND_FANOTIFY_EVENTS);
	for (const char *text = start; (text = strstr(text, "\nfanotify ")); text++)
		count++;
	group.mark = dump_arena_take(&arena, (count + 1) * sizeof(group.mark[0]));
	if (!group.mark)
		r = -ENOMEM;
	for (const char *text = start; r == 0 && (text = strstr(text, "\nfanotify ")); text++) {
		FanotifyMark *mark = dump_arena_take(&arena, sizeof(*mark));

		if (!mark)
			r = -ENOMEM;
		else if (describe(ctx, file, text + strlen("\nfanotify "), &arena, mark))
			group.mark[group.n_mark++] = mark;
	}
	group.id = file->id;
	group.flags = file->flags;
	group.fown = &owner;
	message.type = FILE_TYPE__FILE_FANOTIFY;
	message.id = file->id;
	message.ffy = &group;
	r = r < 0 ? error_set(error, r, "no memory for fanotify marks") : dump_file_add(ctx, &message, error);
	dump_arena_deinit(&arena);
	return r;
}

const struct dump_file_kind dump_kind_fanotify = {
	.name = "fanotify",
	.type = FILE_TYPE__FILE_FANOTIFY,
	.match = match,
	.dump = dump,
};
