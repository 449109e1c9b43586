/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the processes of a tree come to be what they are, as far as both sides have to agree on it: which process is made when,
 * and which ones begin as a copy of their parent.
 *
 * A session is only left for one's own (setsid(2)) and otherwise inherited from whoever forks. So a process can be in a session
 * that is neither its own nor its parent's: the parent began its own session after it had forked, or the one that forked has
 * ended and the process was given to an ancestor (PR_SET_CHILD_SUBREAPER). On the target such a process has to be *born* in its
 * session: by its parent before that begins its own, by a member of the session below the parent, or by one that is made
 * for the purpose and leads a session whose leader is gone. It is `fresh`: its memory is not a copy of its parent's.
 *
 * Memory is shared from a process's beginning on (clone(2) with CLONE_VM), with its parent or, by CLONE_PARENT, with a sibling,
 * and until one of the two begins another program.
 *
 * Pure: nothing here looks at a living process, blocks or keeps pointers.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/array.h"
#include "util/error.h"

#define IMAGE_TREE_NONE SIZE_MAX

struct image_tree_process {
	pid_t pid;      /* set by the caller, as the next three */
	pid_t ppid;     /* 0: the root */
	pid_t sid;      /* session at the end */
	uint32_t memory; /* id of its address space, the same for those that share it; 0: nobody else has it */
	/* Found by image_tree_plan(): */
	size_t parent;  /* index; IMAGE_TREE_NONE: the root */
	pid_t birth;    /* session in which it is made; that of the root is not said */
	size_t owner;   /* index of the first one that has its memory: itself, or whose it shares */
	size_t maker;   /* index of whose clone it is: its parent, or the owner of its memory, which has the same parent */
	bool fresh;     /* its memory is no copy of its parent's */
	unsigned level; /* when it is made: 0 for the root, later than its parent and whoever it needs besides */
};

/* A session of the tree whose leader is gone. */
struct image_tree_session {
	pid_t id;
	size_t entry;          /* index of the process below which a leader has to be made */
	ARRAY(size_t) needers; /* parents of members, not in the session themselves; owned */
};

struct image_tree {
	ARRAY(struct image_tree_process) processes; /* owned; parents before children */
	ARRAY(size_t) by_pid;                       /* owned; found by the plan, like the next */
	ARRAY(struct image_tree_session) lost;      /* owned; by id */
};

/*
 * Fills in what is to be found. -EPROTO: parents do not come before children, or a PID is there twice. -EINVAL: processes
 * cannot have come into their sessions like that. -EXDEV: nor to the memory that they share. -ENOMEM. Takes n log n, and a
 * walk to the root for each fresh process.
 */
int image_tree_plan(struct image_tree *tree, struct error *error);
void image_tree_deinit(struct image_tree *tree);

/*
 * Which processes of `now` can stay as they were made for `before`, an earlier picture of the tree: `ret_keep` has room for
 * all of `now`. A process stays below its parent, and in its session or the leader of one, and with the owner of its memory;
 * the members of a session go with a leader that has to be made anew, as its number is not free before.
 */
void image_tree_compare(const struct image_tree *before, const struct image_tree *now, bool *ret_keep);
/* A copy of a planned tree, to compare others with, in the place of `ret`, whose content is given up. 0 or -ENOMEM. */
int image_tree_copy(const struct image_tree *tree, struct image_tree *ret);

/* After the plan: index of a PID, or IMAGE_TREE_NONE; the lost session of that id, or NULL. */
size_t image_tree_find(const struct image_tree *tree, pid_t pid);
const struct image_tree_session *image_tree_lost(const struct image_tree *tree, pid_t session);
/* Is `above` an ancestor of `below`, or that itself? */
bool image_tree_is_above(const struct image_tree *tree, size_t above, size_t below);
