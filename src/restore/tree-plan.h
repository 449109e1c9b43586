/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of restore: the steps by which the shells that are missing come to be, each below its parent and in its session. */
#pragma once

#include "image/tree.h"

/*
 * Whoever a step speaks of: an index of the wanted tree, or a helper: -1, -2... in the order in which they are made. A helper
 * exists from its step CLONE to its step END, which every helper gets.
 */
enum restore_tree_op {
	RESTORE_TREE_CLONE,  /* `by` clones `who` with PID `number` (0: any), as its child or, where it is no parent, sibling */
	RESTORE_TREE_SETSID, /* `who` begins its own session */
	RESTORE_TREE_END,    /* the helper `who` ends; its children go to `by`, an ancestor of it */
};

struct restore_tree_step {
	enum restore_tree_op op;
	ssize_t who;
	ssize_t by;
	pid_t number;
};

struct restore_tree_steps {
	ARRAY(struct restore_tree_step) list; /* owned */
	size_t helpers;
};

/*
 * `wanted` is planned (image_tree_plan()). `sessions` has for each of its processes the session that its shell is in now, 0
 * while there is none; the root's is there. Processes of a level over `depth` are not made, but for those that only their
 * parent's coming setsid(2) leaves time for. Afterwards `sessions` tells what is when the steps have been taken. -EAGAIN:
 * the shells that are there cannot be added to; -ENOMEM.
 */
int restore_tree_plan(const struct image_tree *wanted, unsigned depth, pid_t *sessions, struct restore_tree_steps *ret,
		      struct error *error);
