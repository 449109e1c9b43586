/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of this folder share: one restore. */
#pragma once

#include "checkpoint.h"
#include "image/directory.h"
#include "restore/restore.h"

struct checkpoint {
	const struct checkpoint_restore_options *options;
	const struct log *log;
	struct checkpoint_summary *summary;
	int64_t began;                     /* CLOCK_MONOTONIC, ns */
	struct image_directory *directory; /* owned */
	struct restore_options restore;
	struct restore_tree *tree;         /* owned */
	struct net_lock *lock;             /* owned; NULL: no TCP connections */
	bool lock_found;                   /* it was there: it is of the dump, and stays if this fails */
	struct checkpoint_lazy *lazy;      /* owned; NULL: all pages are put in place first */
};

/*
 * pages.c: content of processes that restore_tree_layout() has just made (`restore_process.created`), and of shared memory
 * and deleted files. Uses two threads.
 */
int checkpoint_fill_processes(struct checkpoint *checkpoint, struct error *error);
int checkpoint_fill_objects(struct checkpoint *checkpoint, struct error *error);

/* lazy.c */
int checkpoint_lazy_new(struct checkpoint *checkpoint, struct checkpoint_lazy **ret, struct error *error);
void checkpoint_lazy_free(struct checkpoint_lazy *lazy);
/* True if the page may come after the process runs. */
bool checkpoint_lazy_may_wait(struct checkpoint_lazy *lazy, pid_t pid, uint64_t address);
/* Takes a run of pages that are to come later; neither written nor present in the shell. */
int checkpoint_lazy_note(struct checkpoint_lazy *lazy, pid_t pid, uint64_t address, uint64_t pages, struct error *error);
/* Before the tree is finished: userfaultfds are laid over what is missing, and the keeper is started. */
int checkpoint_lazy_begin(struct checkpoint_lazy *lazy, struct checkpoint *checkpoint, struct error *error);
