/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files in memory that have a name (dump/memory-file.c): made anew, or found in their place. A new one is made in a directory
 * of its own beside its place, and put there by restore_files_commit(). One that is found is as the tree knows it in a move; in
 * the restore of a checkpoint it gets the content that it had then, if the tree may write to it. No call waits.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "ghost-file.pb-c.h"
#include "image/blockers.h"
#include "restore/restore.h"

struct restore_files;

/* One that gets its content from us. */
struct restore_memory_file {
	uint32_t id;     /* of the object */
	char *final;     /* where it belongs; owned */
	char *directory; /* where it is; owned; NULL, as `staged`: in its place */
	char *staged;    /* the same with its name; owned */
	int lock_fd;     /* of the directory, locked as long as we live; owned; -1: none */
	struct timespec times[2]; /* of the last access, and change */
	bool wanted;     /* has this name in the newest image set */
};

enum restore_memory_place {
	RESTORE_MEMORY_MAKE,  /* nothing is there */
	RESTORE_MEMORY_SAME,  /* it is there, and its content is left alone */
	RESTORE_MEMORY_WRITE, /* it is there, and gets its content back */
};

/* The target's preflight. */
int restore_memory_files_check(const struct image_set *images, struct image_blockers *blockers, struct error *error);

/* An enum restore_memory_place; -EEXIST: another file is there. `checkpoint`: as in struct restore_options. */
int restore_memory_file_find(const struct image_set *images, uint32_t id, const GhostFile *message, bool checkpoint,
			     struct error *error);
/* Makes the file, empty, or opens that in its place; `ret_fd` is open for reading and writing. */
int restore_memory_file_make(struct restore_tree *tree, uint32_t id, const GhostFile *message, bool make, int *ret_fd,
			     struct error *error);
/* Around the ghosts of an image set: what has another name by now, or none. */
void restore_memory_files_begin(struct restore_files *files);
int restore_memory_file_keep(struct restore_files *files, uint32_t id, const GhostFile *message, struct error *error);
void restore_memory_files_prune(struct restore_files *files);
/* Those that are left alone are what the records say: nothing has changed them since. */
int restore_memory_files_compare(const struct restore_files *files, const struct image_set *images, struct error *error);

/* Puts them in place; removes those that are not. */
int restore_memory_files_commit(struct restore_files *files, struct error *error);
void restore_memory_files_discard(struct restore_files *files);
