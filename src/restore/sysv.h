/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System V IPC, the mirror of dump/sysv.h. Objects get the ids and keys that they had (kernel.shm_next_id and the like), made
 * by the shell of the root. They outlive every process: what was made for a tree that was not let go is removed with it, and
 * who restores notes image_ipc_list() in a journal before the layout, for the case that it is killed.
 *
 * Segments are made by the layout that first has them, sets and queues by the finish.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/ipc.h"
#include "pagestream-ipc.pb-c.h"
#include "restore/restore.h"

/* The target's preflight: ids and keys that are taken, limits. */
int restore_sysv_check(const struct image_set *images, struct image_blockers *blockers, struct error *error);

/*
 * sysv.c: makes an object with its id, key, owner and permissions. `size` is that of a segment, or the number of semaphores.
 * -EEXIST: id or key are taken.
 */
int restore_sysv_make(struct restore_tree *tree, uint32_t kind, const IpcDescription *desc, uint64_t size, struct error *error);
/* Notes what else was made and has to be removed. -ENOMEM. */
int restore_sysv_note(struct restore_tree *tree, const struct image_ipc *object);
/* Removes what was made, unless the tree runs. */
void restore_sysv_free(struct restore_tree *tree);
/* The thread that acts in the name of `pid`: its shell's, or the root's. */
struct tracee_thread *restore_sysv_actor(const struct restore_tree *tree, pid_t pid);

/* sysv-shm.c: `ret_fd` is a descriptor of the content, for reading and writing. */
int restore_sysv_segment(struct restore_tree *tree, const IpcSegment *message, int *ret_fd, struct error *error);
/* When everybody has it attached: locked, marked for destruction, as it was. */
int restore_sysv_segments_finish(struct restore_tree *tree, struct error *error);

/* sysv-sem.c, sysv-msg.c. */
int restore_sysv_sets(struct restore_tree *tree, struct error *error);
int restore_sysv_queues(struct restore_tree *tree, struct error *error);
