/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process tree from a checkpoint directory (image/directory.h). One blocking call builds the tree and lets it go; until
 * then every failure leaves nothing of it behind. The caller's thread is the tracer meanwhile.
 *
 * Needs root. Relies on what restore/restore.h and lazy/lazy.h rely on.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "restore/restore.h"
#include "util/error.h"
#include "util/log.h"

struct checkpoint_restore_options {
	const char *path;       /* of the directory */
	bool lazy_pages;        /* let it go at once; pages come as they are needed, and the rest meanwhile */
	struct restore_options restore;
	const char *keeper_dir; /* where the socket of the keeper of missing pages goes; with lazy_pages */
	int cancel_fd;          /* readable: give up, as long as nothing runs; -1: none. Borrowed */
};

struct checkpoint_summary {
	pid_t pid;              /* of the root */
	double ready_ms;        /* until it ran */
	uint32_t processes, threads;
	uint64_t pages;         /* put in place before that */
	uint64_t pages_shared;  /* not put in place, since a parent has the same */
	uint64_t pages_late;    /* left for later */
};

struct checkpoint_lazy;

/*
 * Restores the tree; it runs when this returns 0. With lazy_pages and pages that are missing, `ret_lazy` has what is needed
 * to serve them, else it is NULL. What is in the way is logged, a line each, and counted in `error` (-EBUSY).
 */
int checkpoint_restore(const struct checkpoint_restore_options *options, const struct log *log,
		       struct checkpoint_summary *summary, struct checkpoint_lazy **ret_lazy, struct error *error);

/* Serves and installs missing pages until there are none. Blocks for that long. Frees `lazy` in every case. */
int checkpoint_lazy_serve(struct checkpoint_lazy *lazy, struct error *error);
