/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who else uses the shared memory, the deleted files, the files in memory and the terminals of the tree. A copy of them moves:
 * what a process outside of the tree writes afterwards, or what the tree writes, the other one never sees. So that is a
 * blocker.
 *
 * All mappings and descriptors of all processes are looked through, at preflight only: it takes some 50 us a process.
 * Looking is enough for two kinds of use: a memfd that is sealed against writing never changes, and a deleted file that
 * neither the tree nor the other process can write stays what it is (a library that was replaced is mapped by many).
 *
 * Failure modes: a process that ends meanwhile is skipped. One that is handed a descriptor after the preflight is not seen,
 * nor is one in a PID namespace that is not below ours.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/parts.h"
#include "dump/pty.h"
#include "dump/shared-memory.h"
#include "dump/sysv.h"
#include "ghost-file.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

struct look {
	struct dump_context *ctx;
	pid_t pid;
	int proc_fd; /* /proc/PID */
	int failed;  /* no memory */
};

/* A queue of the tree: any process that has it open may take or send messages. */
static bool is_queue(const struct look *look, const struct stat *info)
{
	if (look->ctx->files)
		array_for_each(queue, &look->ctx->files->queues)
			if (queue->st_dev == info->st_dev && queue->st_ino == info->st_ino)
				return true;
	return false;
}

static bool has_such_a_name(const struct look *look, const char *name)
{
	if (look->ctx->files && look->ctx->files->queues.count && name[0] == '/')
		return true;
	if (look->ctx->files && look->ctx->files->pairs.count && strncmp(name, "/dev/pt", 7) == 0)
		return true;
	if (dump_shared_is(name) || dump_link_is_deleted(name))
		return true;
	for (size_t i = 0; name[0] == '/' && i < dump_shared_count(look->ctx); i++) {
		const struct dump_shared_object *object = dump_shared_get(look->ctx, i);

		if (object->present && object->path && strcmp(object->path, name) == 0)
			return true;
	}
	return false;
}

/* Of a file in memory no copy is made if the target has the very same one, so that decides. */
static void note_user(struct look *look, const struct dump_shared_object *object, const char *comm)
{
	MemoryFileUser message = MEMORY_FILE_USER__INIT;
	char who[64];

	snprintf(who, sizeof(who), "PID %d (%s)", look->pid, comm);
	message.id = object->id;
	message.who = who;
	if (look->failed == 0)
		look->failed = image_set_add(look->ctx->images, IMAGE_MEMORY_FILE_USER, 0, &message.base, NULL);
}

static void block(struct look *look, const struct dump_shared_object *object, const char *name)
{
	struct procfs_stat stat = { .comm = "?" };
	char cause[160];

	(void)procfs_read_stat(look->pid, &stat, NULL);
	if (object->path) {
		note_user(look, object, stat.comm);
		return;
	}
	snprintf(cause, sizeof(cause), "PID %d (%s), which is not in the tree, uses it, too", look->pid, stat.comm);
	dump_blocker_add(look->ctx, 0, object->ghost ? "descriptor" : "mapping", cause,
			 "move a tree that has all of its users, or end that process", "%s of %llu bytes", name,
			 (unsigned long long)object->size);
}

/* A segment of another IPC namespace may have the same number. */
static bool has_our_ipc(const struct look *look)
{
	struct stat ours, theirs;

	return stat("/proc/self/ns/ipc", &ours) == 0 && fstatat(look->proc_fd, "ns/ipc", &theirs, 0) == 0 &&
	       ours.st_ino == theirs.st_ino;
}

static void block_queue(const struct look *look, const char *name)
{
	struct procfs_stat stat = { .comm = "?" };

	(void)procfs_read_stat(look->pid, &stat, NULL);
	dump_refuse(look->ctx, 0, "descriptor", IMAGE_KIND_SYSV_OUTSIDE, "message queue %s, as PID %d (%s) does", name,
		    look->pid, stat.comm);
}

/* `writes`: the other process may write through this use of it. */
static void compare(struct look *look, const struct stat *info, bool writes, const char *name)
{
	for (size_t i = 0; i < dump_shared_count(look->ctx); i++) {
		const struct dump_shared_object *object = dump_shared_get(look->ctx, i);
		bool constant = object->ghost ? !writes && !object->written : object->seals & F_SEAL_WRITE;

		if (object->present && object->dev == info->st_dev && object->ino == info->st_ino && !constant &&
		    object->sysv == dump_sysv_is(name) && (!object->sysv || has_our_ipc(look)))
			block(look, object, name);
	}
}

static void look_at_maps(struct look *look)
{
	struct procfs_maps maps;

	if (procfs_read_maps(look->pid, &maps, NULL) < 0)
		return;
	array_for_each(map, &maps) {
		char path[96];
		struct stat info;

		/* A private mapping is a look at what was there at some time anyway. */
		if (!map->shared || !map->name || !has_such_a_name(look, map->name))
			continue;
		snprintf(path, sizeof(path), "map_files/%llx-%llx", (unsigned long long)map->start,
			 (unsigned long long)map->end);
		if (fstatat(look->proc_fd, path, &info, 0) == 0)
			compare(look, &info, map->prot & 2 /* PROT_WRITE */, map->name);
	}
	procfs_maps_deinit(&maps);
}

static void block_terminal(const struct look *look, int index)
{
	struct procfs_stat stat = { .comm = "?" };

	(void)procfs_read_stat(look->pid, &stat, NULL);
	dump_refuse(look->ctx, 0, "descriptor", IMAGE_KIND_TERMINAL_SHARED, "/dev/pts/%d, as PID %d (%s) does", index,
		    look->pid, stat.comm);
}

static void look_at_descriptor(struct look *look, int number, const char *link, const struct stat *info, bool writes)
{
	int index = dump_pty_of_other(look->ctx, look->pid, number, link, info);

	if (index >= 0)
		block_terminal(look, index);
	else if (is_queue(look, info))
		block_queue(look, link);
	else
		compare(look, info, writes, link);
}

static void look_at_descriptors(struct look *look)
{
	int fd = openat(look->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char link[DUMP_LINK_MAX];
		struct stat info, mode;

		/* The mode of the link is the one that it is open with. */
		if (fdio_readlink(dirfd(dir), entry->d_name, link, sizeof(link)) == 0 && has_such_a_name(look, link) &&
		    fstatat(dirfd(dir), entry->d_name, &info, 0) == 0 &&
		    fstatat(dirfd(dir), entry->d_name, &mode, AT_SYMLINK_NOFOLLOW) == 0)
			look_at_descriptor(look, atoi(entry->d_name), link, &info, mode.st_mode & S_IWUSR);
	}
}

int dump_outside_check(struct dump_context *ctx, struct error *error)
{
	size_t before = ctx->blockers.list.count;
	_cleanup_dir_ DIR *proc = NULL;
	struct dirent *entry;

	if (dump_shared_count(ctx) == 0 && (!ctx->files || (!ctx->files->queues.count && !ctx->files->pairs.count)))
		return 0;
	proc = opendir("/proc");
	if (!proc)
		return error_set_errno(error, -errno, "cannot list processes");
	while ((entry = readdir(proc))) {
		struct look look = { .ctx = ctx, .pid = (pid_t)atoi(entry->d_name) };
		_cleanup_fd_ int fd = -1;

		/* The descriptors of our own are copies of the tree's. */
		if (look.pid <= 0 || look.pid == getpid() || dump_context_find(ctx, look.pid))
			continue;
		fd = look.proc_fd = openat(dirfd(proc), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			continue;
		look_at_maps(&look);
		look_at_descriptors(&look);
		if (look.failed)
			return error_set_errno(error, look.failed, "cannot note who else uses files in memory");
	}
	/* Those that cannot be seen from here. */
	return ctx->blockers.list.count == before ? dump_sysv_attachments(ctx, error) : 0;
}

/* Does a process, whose /proc/PID/fd is `fd`, have a descriptor that is this link, another one than `but`? */
static bool has_link(int fd, const char *wanted, int but)
{
	_cleanup_dir_ DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char link[64];

		if (fdio_readlink(dirfd(dir), entry->d_name, link, sizeof(link)) == 0 && strcmp(link, wanted) == 0 &&
		    atoi(entry->d_name) != but)
			return true;
	}
	return false;
}

bool dump_outside_has(const struct dump_context *ctx, const char *link, int own)
{
	_cleanup_dir_ DIR *proc = opendir("/proc");
	struct dirent *entry;

	while (proc && (entry = readdir(proc))) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		char path[32];

		if (pid <= 0 || dump_context_find(ctx, pid))
			continue;
		snprintf(path, sizeof(path), "%d/fd", pid);
		if (has_link(openat(dirfd(proc), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), link,
			     pid == getpid() ? own : -1))
			return true;
	}
	return false;
}
