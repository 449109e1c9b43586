/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared memory objects, made here and held open until the tree is let go; and deleted files (ghost.c), which differ in
 * that they are held for reading and opened for each write, as a program that is open for writing cannot be run. An
 * anonymous object is made by a mapping of our own and then opened through /proc/self/map_files, so that it is the same kind
 * of object as on the source; a memfd by memfd_create(2). Content comes by offset through the descriptor, from the first
 * round that has the object on; an object that the newest image set does not name any more is given up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "parts.h"
#include "restore/sysv.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define SHARED_PAGE UINT64_C(4096)

struct shared_object {
	uint32_t id;    /* on the source */
	int fd;         /* read and write, of a ghost read only; owned */
	uint64_t size;  /* bytes: content behind them is not written */
	bool memfd;
	bool sysv;      /* a segment of System V shared memory, and its id: */
	uint32_t segment;
	bool ghost;     /* a deleted file, or one in memory */
	bool in_place;  /* such a file was there already: its content is left alone */
	bool wanted;    /* in the newest image set */
	uint32_t seals; /* to be set at the end */
};

struct restore_shared {
	ARRAY(struct shared_object) objects; /* owned */
};

static struct shared_object *shared_find(const struct restore_tree *tree, uint32_t id)
{
	if (tree->shared)
		array_for_each(object, &tree->shared->objects)
			if (object->id == id)
				return object;
	return NULL;
}

static int make_memfd(const SharedMemory *message, int *ret_fd, struct error *error)
{
	int fd = memfd_create(message->name ? message->name : "", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_set_errno(error, -errno, "cannot make the memfd '%s'", message->name);
	*ret_fd = fd;
	return 0;
}

static int make_anonymous(const SharedMemory *message, int *ret_fd, struct error *error)
{
	size_t size = (message->size + SHARED_PAGE - 1) & ~(SHARED_PAGE - 1);
	char path[96];
	void *map;
	int fd = -1, r;

	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return error_set_errno(error, -errno, "cannot make %zu bytes of shared memory", size);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map, (unsigned long)map + size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	munmap(map, size);
	if (r < 0)
		return error_set_errno(error, r, "cannot open shared memory through /proc/self/map_files");
	*ret_fd = fd;
	return 0;
}

/* Takes the descriptor, also when it fails. */
static int shared_add(struct restore_tree *tree, struct shared_object object, struct error *error)
{
	if (!tree->shared)
		tree->shared = calloc(1, sizeof(*tree->shared));
	if (!tree->shared || array_append(&tree->shared->objects, object) < 0) {
		cleanup_fd(&object.fd);
		return error_set_errno(error, -ENOMEM, "cannot keep shared memory objects");
	}
	return 0;
}

static int shared_make(struct restore_tree *tree, const SharedMemory *message, struct shared_object **ret,
		       struct error *error)
{
	struct shared_object object = { .id = message->id, .memfd = message->memfd };
	int r;

	if (message->segment) {
		object.sysv = true;
		object.segment = message->segment->desc->id;
	}
	r = message->memfd     ? make_memfd(message, &object.fd, error)
	    : message->segment ? restore_sysv_segment(tree, message->segment, &object.fd, error)
			       : make_anonymous(message, &object.fd, error);
	if (r == 0)
		r = shared_add(tree, object, error);
	if (r == 0)
		*ret = shared_find(tree, message->id);
	return r;
}

int restore_shared_adopt(struct restore_tree *tree, uint32_t id, int fd, struct error *error)
{
	struct shared_object object = { .id = id, .fd = fd, .ghost = true, .in_place = fd < 0 };

	return shared_add(tree, object, error);
}

bool restore_shared_in_place(const struct restore_tree *tree, uint32_t id)
{
	const struct shared_object *object = shared_find(tree, id);

	return object && object->in_place;
}

bool restore_shared_has(const struct restore_tree *tree, uint32_t id)
{
	return shared_find(tree, id) != NULL;
}

void restore_shared_begin(struct restore_tree *tree)
{
	if (tree->shared)
		array_for_each(object, &tree->shared->objects)
			object->wanted = false;
}

/* Size, owner and mode of a memfd may change from round to round. */
static int shared_update(struct shared_object *object, const SharedMemory *message, struct error *error)
{
	uint64_t whole = message->segment ? (message->segment->size + SHARED_PAGE - 1) & ~(SHARED_PAGE - 1) : 0;

	if (object->sysv != (message->segment != NULL) || (object->sysv && message->size != whole))
		return error_set(error, -EPROTO, "shared memory object %u is not the segment that it was", object->id);
	object->seals = message->seals;
	object->size = message->size;
	object->wanted = true;
	if (!object->memfd)
		return 0;
	if (ftruncate(object->fd, (off_t)message->size) < 0)
		return error_set_errno(error, -errno, "cannot give the memfd '%s' its size", message->name);
	if (fchown(object->fd, message->uid, message->gid) < 0 || fchmod(object->fd, message->mode) < 0)
		return error_set_errno(error, -errno, "cannot give the memfd '%s' its owner", message->name);
	return 0;
}

int restore_shared_prepare(struct restore_tree *tree, const struct image_set *images, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_SHARED_MEMORY, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SharedMemory *message = NULL;
		struct shared_object *object;
		int r = image_unpack(record, shared_memory, &message, error);

		if (r < 0)
			return r;
		object = shared_find(tree, message->id);
		if (object && object->ghost)
			return error_set(error, -EPROTO, "shared memory object %u is a deleted file", message->id);
		if (!object)
			r = shared_make(tree, message, &object, error);
		if (r == 0)
			r = shared_update(object, message, error);
		if (r < 0)
			return r;
	}
	return 0;
}

void restore_shared_prune(struct restore_tree *tree)
{
	size_t kept = 0;

	if (!tree->shared)
		return;
	array_for_each(object, &tree->shared->objects) {
		if (object->wanted)
			tree->shared->objects.items[kept++] = *object;
		else
			cleanup_fd(&object->fd);
	}
	tree->shared->objects.count = kept;
}

int restore_shared_finish(struct restore_tree *tree, struct error *error)
{
	if (!tree->shared)
		return 0;
	array_for_each(object, &tree->shared->objects)
		if (object->seals && fcntl(object->fd, F_ADD_SEALS, object->seals) < 0)
			return error_set_errno(error, -errno, "cannot seal a memfd (seals %#x)", object->seals);
	return 0;
}

static int shared_get(struct restore_tree *tree, uint32_t id, struct shared_object **ret, struct error *error)
{
	*ret = shared_find(tree, id);
	return *ret ? 0 : error_set(error, -ENOENT, "there is no shared memory object %u", id);
}

int restore_shared_segment(struct restore_tree *tree, uint32_t id, uint32_t *ret_segment, uint64_t *ret_size,
			   struct error *error)
{
	struct shared_object *object;
	int r = shared_get(tree, id, &object, error);

	if (r < 0)
		return r;
	if (!object->sysv)
		return error_set(error, -EPROTO, "shared memory object %u is no System V segment", id);
	*ret_segment = object->segment;
	*ret_size = (object->size + SHARED_PAGE - 1) & ~(SHARED_PAGE - 1);
	return 0;
}

int restore_shared_open(struct restore_tree *tree, uint32_t id, int flags, int *ret_fd, struct error *error)
{
	struct shared_object *object;
	char path[64];
	int fd = -1, r;

	r = shared_get(tree, id, &object, error);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", object->fd);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(error, -errno, "cannot open shared memory object %u", id);
	*ret_fd = fd;
	return 0;
}

/* A descriptor to write by, of which `ret_own` has to be closed. */
static int writable(const struct shared_object *object, int *ret_fd, int *ret_own, struct error *error)
{
	char path[64];

	*ret_fd = object->fd;
	if (!object->ghost)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", object->fd);
	*ret_fd = *ret_own = open(path, O_RDWR | O_CLOEXEC);
	return *ret_fd < 0 ? error_set_errno(error, -errno, "cannot open deleted file %u", object->id) : 0;
}

int restore_shared_resize(struct restore_tree *tree, uint32_t id, uint64_t size, struct error *error)
{
	_cleanup_fd_ int own = -1;
	struct shared_object *object;
	int fd = -1, r;

	r = shared_get(tree, id, &object, error);
	if (r == 0 && !object->in_place)
		r = writable(object, &fd, &own, error);
	if (r == 0 && !object->in_place && ftruncate(fd, (off_t)size) < 0)
		r = error_set_errno(error, -errno, "cannot give shared memory object %u its size", id);
	if (r < 0)
		return r;
	object->size = size;
	object->wanted = true;
	return 0;
}

int restore_shared_write(struct restore_tree *tree, uint32_t id, uint64_t offset, const void *data, size_t size,
			 struct error *error)
{
	_cleanup_fd_ int own = -1;
	struct shared_object *object;
	int fd = -1, r;

	r = shared_get(tree, id, &object, error);
	if (r == 0 && !object->in_place)
		r = writable(object, &fd, &own, error);
	if (r < 0 || object->in_place)
		return r;
	if (offset >= object->size)
		return error_set(error, -EPROTO, "shared memory object %u ends before offset 0x%llx", id,
				 (unsigned long long)offset);
	/* The last page ends where the object does. */
	if (size > object->size - offset)
		size = (size_t)(object->size - offset);
	r = fdio_pwrite(fd, data, size, offset);
	return r < 0 ? error_set_errno(error, r, "cannot write shared memory object %u", id) : 0;
}

int restore_shared_drop(struct restore_tree *tree, uint32_t id, uint64_t offset, uint64_t size, struct error *error)
{
	static const uint8_t zeros[SHARED_PAGE];
	_cleanup_fd_ int own = -1;
	struct shared_object *object;
	int fd = -1, r;

	r = shared_get(tree, id, &object, error);
	if (r == 0 && !object->in_place)
		r = writable(object, &fd, &own, error);
	if (r < 0 || object->in_place ||
	    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) == 0)
		return r;
	if (errno != EOPNOTSUPP)
		return error_set_errno(error, -errno, "cannot drop pages of shared memory object %u", id);
	/* A file system without holes. */
	for (uint64_t at = offset; r == 0 && at < offset + size; at += SHARED_PAGE)
		r = restore_shared_write(tree, id, at, zeros, sizeof(zeros), error);
	return r;
}

void restore_shared_free(struct restore_shared *shared)
{
	if (!shared)
		return;
	array_for_each(object, &shared->objects)
		cleanup_fd(&object->fd);
	array_deinit(&shared->objects);
	free(shared);
}
