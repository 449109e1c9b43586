/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of restore: the tree as the newest IMAGE_PSTREE wants it (wanted.c), for those that bring the shells to it. */
#pragma once

#include "image/tree.h"
#include "restore/parts.h"

struct restore_wanted {
	ARRAY(TreeProcess *) processes; /* owned, parents first */
	struct image_tree tree;         /* the same, planned; owned */
};

/* Zero-initialised before. -EPROTO. */
int restore_wanted_read(const struct restore_tree *tree, struct restore_wanted *wanted, struct error *error);
void restore_wanted_deinit(struct restore_wanted *wanted);
/* NULL when there is none. */
const TreeProcess *restore_wanted_find(const struct restore_wanted *wanted, pid_t pid);
/* It has ended: nothing is known of it but its status. */
bool restore_wanted_is_zombie(const struct restore_tree *tree, const TreeProcess *process);
