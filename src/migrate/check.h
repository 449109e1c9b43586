/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `migrate check`: what this kernel and these privileges allow, each found by trying it, and what of a tree could not be
 * moved. Leaves nothing behind; blocks for some 50 ms. Needs no root: without it most answers are no.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "image/blockers.h"
#include "util/error.h"
#include "util/log.h"

struct check_feature {
	const char *name;
	const char *since; /* first kernel that has it; NULL: a privilege, or as old as the others */
	const char *cost;  /* what does not work without it */
	bool needed;       /* by every move */
	bool works;
	int code;          /* negative errno when it does not */
};

/* Tries all features. `ret` is `ret_count` long, to be freed with free(); their strings are constants. */
int check_features(struct check_feature **ret, size_t *ret_count, struct error *error);

/* The blockers of the tree below `pid`, as the preflight of a move finds them on this side. Stops nothing. */
int check_tree(pid_t pid, const struct log *log, struct image_blockers *ret, struct error *error);
