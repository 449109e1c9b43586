/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks of fcntl(2) and flock(2) that could not be taken while the tree was built, because the
 * source's frozen process still held them: the usual case on a file system that both hosts are on.
 * They are taken when the source has ended its copy. Until then the source's locks keep others out,
 * the tree's own waiters too; at that moment a process of the tree that waits for such a lock may
 * come first, and the holder is without it for good.
 *
 * The list is a value of its own, since it is needed after the tree is let go.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

struct restore_files;
struct restore_tree;
struct restore_locks;

/*
 * Takes the list out of the tree, before the tree is freed: NULL when all locks are held. Owned by
 * the caller.
 */
struct restore_locks *restore_locks_steal(struct restore_tree *tree);

/*
 * Tries once for each lock left. Stops a thread of each process concerned for some 50 us; to be
 * called by one thread, the tree being let go, whenever the source may have let go of locks.
 * Processes that have ended leave the list. `ret_left` is how many are still not held; a failure
 * leaves the rest in the list.
 */
int restore_locks_take(struct restore_locks *locks, int64_t deadline, size_t *ret_left,
		       struct error *error);

/* NULL is fine. */
void restore_locks_free(struct restore_locks *locks);
