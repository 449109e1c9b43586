/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared memory objects and deleted files, found by (st_dev, st_ino) of the inode behind a mapping or descriptor. (Inode
 * numbers of segments of System V shared memory are their ids, and on the same device as those of anonymous memory.)
 * /proc/PID/map_files gives a descriptor of the very object also for anonymous shared memory, which has no name anywhere
 * else. A descriptor of each object is kept, so its inode number is nobody else's as long as it is in the list.
 */
#include "shared-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "dump/sysv.h"
#include "pagestream-core.pb-c.h"
#include "util/cleanup.h"

#define SHARED_ANONYMOUS "/dev/zero (deleted)"
#define SHARED_MEMFD     "/memfd:"
#define SHARED_DELETED   " (deleted)"
#define SHARED_PAGE      UINT64_C(4096)

struct dump_shared {
	ARRAY(struct dump_shared_object) objects; /* owned; an object's id is its index + 1 */
};

bool dump_shared_is(const char *name)
{
	return name && (strcmp(name, SHARED_ANONYMOUS) == 0 || strncmp(name, SHARED_MEMFD, strlen(SHARED_MEMFD)) == 0 ||
			dump_sysv_is(name));
}

static struct dump_shared *shared_get(struct dump_context *ctx)
{
	if (!ctx->shared)
		ctx->shared = calloc(1, sizeof(*ctx->shared));
	return ctx->shared;
}

/* "/memfd:NAME (deleted)" -> "NAME" */
static char *memfd_name(const char *name)
{
	size_t length = strlen(name), tail = strlen(SHARED_DELETED);

	name += strlen(SHARED_MEMFD);
	length -= strlen(SHARED_MEMFD);
	if (length >= tail && strcmp(name + length - tail, SHARED_DELETED) == 0)
		length -= tail;
	return strndup(name, length);
}

static int shared_record(struct dump_context *ctx, struct dump_shared_object *object, struct error *error)
{
	SharedMemory message = SHARED_MEMORY__INIT;
	IpcDescription desc;
	IpcSegment segment;
	int r;

	if (object->sysv) {
		r = dump_sysv_segment((uint32_t)object->ino, &segment, &desc, error);
		if (r < 0)
			return r;
		message.segment = &segment;
	}
	message.id = object->id;
	message.size = object->size;
	message.memfd = object->memfd;
	message.name = object->name;
	message.has_seals = object->memfd;
	message.seals = object->seals;
	message.uid = object->uid;
	message.gid = object->gid;
	message.mode = object->mode;
	r = image_set_add(ctx->images, IMAGE_SHARED_MEMORY, 0, &message.base, error);
	if (r == 0)
		object->present = true;
	return r;
}

static void object_refresh(struct dump_shared_object *object, int fd, const struct stat *info)
{
	int seals = object->memfd ? fcntl(fd, F_GET_SEALS) : 0;

	object->size = (uint64_t)info->st_size;
	if (object->sysv)
		object->size = (object->size + SHARED_PAGE - 1) & ~(SHARED_PAGE - 1);
	object->uid = info->st_uid;
	object->gid = info->st_gid;
	object->mode = info->st_mode & 07777;
	object->seals = seals > 0 ? (uint32_t)seals : 0;
}

static struct dump_shared_object *object_find(struct dump_shared *shared, const struct stat *info, bool sysv)
{
	array_for_each(object, &shared->objects)
		if (object->fd >= 0 && object->dev == info->st_dev && object->ino == info->st_ino && object->sysv == sysv)
			return object;
	return NULL;
}

/* A segment has whole pages, whatever size was asked for. */
static int map_tail(struct dump_shared_object *object, const struct stat *info, struct error *error)
{
	off_t end = info->st_size & ~(off_t)(SHARED_PAGE - 1);
	void *map;

	if (end == info->st_size)
		return 0;
	map = mmap(NULL, SHARED_PAGE, PROT_READ, MAP_SHARED, object->fd, end);
	if (map == MAP_FAILED)
		return error_set_errno(error, -errno, "cannot map the last page of System V segment %u", (uint32_t)object->ino);
	object->tail = map;
	return 0;
}

static void object_close(struct dump_shared_object *object)
{
	if (object->tail)
		munmap((void *)(uintptr_t)object->tail, SHARED_PAGE);
	object->tail = NULL;
	cleanup_fd(&object->fd);
	object->fd = -1;
}

/* Adds the object behind `fd`, of which it keeps a copy. */
static int object_add(struct dump_shared *shared, int fd, const char *name, const struct stat *info, bool ghost,
		      struct dump_shared_object **ret, struct error *error)
{
	struct dump_shared_object object = {
		.memfd = !ghost && strncmp(name, SHARED_MEMFD, strlen(SHARED_MEMFD)) == 0,
		.ghost = ghost,
		.sysv = !ghost && dump_sysv_is(name),
	};
	char path[64];
	int r = 0;

	object.id = (uint32_t)shared->objects.count + 1;
	object.dev = info->st_dev;
	object.ino = info->st_ino;
	/* Opened anew: the position belongs to us, and the copy can be read whatever the descriptor's mode. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	object.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (object.fd < 0)
		return error_set_errno(error, -errno, "cannot open %s", name);
	if (object.memfd)
		object.name = memfd_name(name);
	if (object.sysv)
		r = map_tail(&object, info, error);
	if (r == 0 && ((object.memfd && !object.name) || array_append(&shared->objects, object) < 0))
		r = error_set_errno(error, -ENOMEM, "cannot keep a shared memory object");
	if (r < 0) {
		object_close(&object);
		free(object.name);
		return r;
	}
	*ret = &shared->objects.items[shared->objects.count - 1];
	return 0;
}

/* Finds or adds the object behind `fd`. */
static int object_take(struct dump_context *ctx, int fd, const char *name, bool ghost, struct dump_shared_object **ret,
		       struct error *error)
{
	struct dump_shared *shared = shared_get(ctx);
	struct dump_shared_object *object;
	struct stat info;
	int r = 0;

	if (!shared)
		return error_set_errno(error, -ENOMEM, "cannot keep a shared memory object");
	if (fstat(fd, &info) < 0)
		return error_set_errno(error, -errno, "cannot look at %s", name);
	object = object_find(shared, &info, !ghost && dump_sysv_is(name));
	if (!object)
		r = object_add(shared, fd, name, &info, ghost, &object, error);
	if (r < 0)
		return r;
	/* Once an image set, so that the size here is the one of its record, whatever it grows to meanwhile. */
	if (!object->present)
		object_refresh(object, fd, &info);
	*ret = object;
	return 0;
}

static int shared_take(struct dump_context *ctx, int fd, const char *name, uint32_t *ret_id, struct error *error)
{
	struct dump_shared_object *object;
	int r = object_take(ctx, fd, name, false, &object, error);

	if (r == 0 && !object->present)
		r = shared_record(ctx, object, error);
	if (r == 0)
		*ret_id = object->id;
	return r;
}

int dump_shared_ghost(struct dump_context *ctx, int fd, const char *name, const char *path, bool written,
		      const struct dump_shared_object **ret, bool *ret_new, struct error *error)
{
	struct dump_shared_object *object;
	int r = object_take(ctx, fd, name, true, &object, error);

	if (r < 0)
		return r;
	*ret_new = !object->present;
	if (*ret_new) {
		free(object->path);
		object->path = path ? strdup(path) : NULL;
		if (path && !object->path)
			return error_set_errno(error, -ENOMEM, "cannot keep a shared memory object");
	}
	object->written = written || (object->present && object->written);
	object->present = true;
	*ret = object;
	return 0;
}

/* Huge pages have no place among pages of 4 KiB. */
static bool shared_is_huge(int fd)
{
	struct statfs info;

	return fstatfs(fd, &info) == 0 && info.f_type == HUGETLBFS_MAGIC;
}

int dump_shared_map(struct dump_context *ctx, struct dump_process *process, const struct procfs_map *map,
		    uint32_t *ret_id, struct error *error)
{
	char path[96];
	_cleanup_fd_ int fd = -1;

	snprintf(path, sizeof(path), "map_files/%llx-%llx", (unsigned long long)map->start,
		 (unsigned long long)map->end);
	fd = openat(process->proc_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(error, -errno, "cannot open /proc/%d/%s", process->pid, path);
	if (shared_is_huge(fd)) {
		dump_refuse(ctx, process->pid, "mapping", IMAGE_KIND_MEMORY_HUGETLB, "%llx-%llx %s",
				 (unsigned long long)map->start, (unsigned long long)map->end, map->name);
		*ret_id = 0;
		return 0;
	}
	return shared_take(ctx, fd, map->name, ret_id, error);
}

int dump_shared_memfd(struct dump_context *ctx, int fd, const char *name, uint32_t *ret_id, struct error *error)
{
	if (shared_is_huge(fd)) {
		dump_refuse(ctx, 0, "descriptor", IMAGE_KIND_MEMORY_HUGETLB, "%s", name);
		*ret_id = 0;
		return 0;
	}
	return shared_take(ctx, fd, name, ret_id, error);
}

size_t dump_shared_count(const struct dump_context *ctx)
{
	return ctx->shared ? ctx->shared->objects.count : 0;
}

const struct dump_shared_object *dump_shared_get(const struct dump_context *ctx, size_t index)
{
	return &ctx->shared->objects.items[index];
}

void dump_shared_begin(struct dump_context *ctx)
{
	if (!ctx->shared)
		return;
	array_for_each(object, &ctx->shared->objects) {
		/* Not in the last set: given back by the tree, and so by us. Its inode number may get a new owner. */
		if (!object->present)
			object_close(object);
		object->present = false;
	}
}

void dump_shared_free(struct dump_shared *shared)
{
	if (!shared)
		return;
	array_for_each(object, &shared->objects) {
		object_close(object);
		free(object->name);
		free(object->path);
	}
	array_deinit(&shared->objects);
	free(shared);
}
