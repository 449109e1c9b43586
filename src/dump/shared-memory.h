/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared memory objects: memory mapped MAP_SHARED | MAP_ANONYMOUS, memfds, mapped or only open, segments of System V shared
 * memory, and deleted files. An
 * object is its (st_dev, st_ino) on the source and gets a small id that stays the same for the life of the context: the
 * shmid of mappings, the inode id of memfd descriptors, the id of its IMAGE_SHARED_MEMORY or IMAGE_GHOST_FILE record. Its
 * content travels as pages of the object (by offset), read through a descriptor that is kept here, not as pages of a process.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dump/dump.h"

struct dump_shared_object {
	uint32_t id;       /* from 1, stable */
	dev_t dev;         /* of the source's inode */
	ino_t ino;
	uint64_t size;     /* bytes, as in its record of the last image set */
	int fd;            /* readable, for pread(2) and SEEK_DATA; owned by the context; -1: gone for good */
	bool ghost;        /* a deleted file: its record is an IMAGE_GHOST_FILE with that id */
	char *path;        /* a ghost that is not deleted, but a file in memory: its name; owned */
	bool written;      /* ghosts: the tree has it open for writing, or mapped so */
	bool memfd;        /* made by memfd_create(2), not by an anonymous shared mapping */
	bool sysv;         /* a segment of System V shared memory: the inode number is its id */
	bool present;      /* has a record in the last image set */
	uint32_t seals;    /* F_GET_SEALS; memfds only */
	char *name;        /* of the memfd, without "memfd:" and " (deleted)"; NULL for anonymous; owned */
	/* Segments whose last page is not whole: that page, mapped; owned. read(2) ends in the midst of it. */
	const uint8_t *tail;
	uint32_t uid, gid; /* owner and mode of the inode */
	uint32_t mode;
};

/*
 * The object behind a shared-memory mapping (map->name begins with "/memfd:", "/SYSV" or is "/dev/zero (deleted)"). Adds its
 * IMAGE_SHARED_MEMORY record when this image set has none yet. A blocker (huge pages, secret memory) leaves id 0.
 */
int dump_shared_map(struct dump_context *ctx, struct dump_process *process, const struct procfs_map *map,
		    uint32_t *ret_id, struct error *error);

/*
 * The same for a memfd that is open as a descriptor: `fd` is our copy of it (from pidfd_getfd; stays the caller's),
 * `name` what /proc/PID/fd says of it ("/memfd:NAME (deleted)").
 */
int dump_shared_memfd(struct dump_context *ctx, int fd, const char *name, uint32_t *ret_id, struct error *error);

/*
 * The object of a deleted file, or of a file in memory, of which `path` is the name (else NULL); `fd` is any descriptor of it,
 * O_PATH too, and stays the caller's. `written`: this use of it may write. `ret_new`: this image set has no record of it yet,
 * the caller adds it. `ret` is valid until the next call.
 */
int dump_shared_ghost(struct dump_context *ctx, int fd, const char *name, const char *path, bool written,
		      const struct dump_shared_object **ret, bool *ret_new, struct error *error);

/* True for the name of a mapping or descriptor link that dump_shared_*() are for. */
bool dump_shared_is(const char *name);

/* Objects by index, for the page code. Pointers are valid until the next call of dump_*(). */
size_t dump_shared_count(const struct dump_context *ctx);
const struct dump_shared_object *dump_shared_get(const struct dump_context *ctx, size_t index);

void dump_shared_begin(struct dump_context *ctx);
void dump_shared_free(struct dump_shared *shared);
