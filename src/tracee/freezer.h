/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A stop that outlives whoever ordered it: the cgroup v2 freezer (kernel 5.2;
 * Documentation/admin-guide/cgroup-v2.rst).
 *
 * Processes are moved into a cgroup of their own while they run (moving costs an RCU grace period,
 * some ms), and frozen with one write when they shall hold still. Frozen tasks can be killed, and
 * can be seized and stopped by ptrace; a task that is in a ptrace stop when the cgroup is frozen
 * freezes as soon as its tracer detaches or dies. A frozen thread executes nothing: freeze only
 * when no more batches are to be run.
 *
 * The cgroup is reached through a descriptor of the mounted hierarchy's root, or where none is
 * mounted through a mount of our own that is attached nowhere (fsopen, kernel 5.2). Errors as
 * everywhere; -EOPNOTSUPP: there is no cgroup v2 here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct freezer;

/*
 * Makes the cgroup `name` (no slash) below the cgroup of `pid`, or below the root where that is not
 * possible. An existing one of that name is taken over: that is how a restarted agent finds a tree
 * that it left frozen.
 */
int freezer_new(const char *name, pid_t pid, struct freezer **ret, struct error *error);

/* The existing cgroup at a freezer_path(); -ENOENT: there is none. */
int freezer_open(const char *path, struct freezer **ret, struct error *error);

/* Frees the object; the cgroup and its state stay. Takes NULL. */
void freezer_free(struct freezer *freezer);

/* Moves a whole process in and remembers where it was. Blocks for some ms. */
int freezer_add(struct freezer *freezer, pid_t pid, struct error *error);

/*
 * With `wait_frozen`, freeze waits until every task stands still; a task in a ptrace stop does
 * (some 30 us in all). thaw waits until the kernel says so, which may take some ms; the tasks run
 * earlier.
 */
int freezer_freeze(struct freezer *freezer, bool wait_frozen, int64_t deadline,
		   struct error *error);
int freezer_thaw(struct freezer *freezer, int64_t deadline, struct error *error);
/* As freezer_thaw(); returns as soon as the tasks run. */
int freezer_thaw_nowait(struct freezer *freezer, struct error *error);
/* 1: cgroup.events says frozen, 0: it does not. */
int freezer_is_frozen(struct freezer *freezer, struct error *error);

/* Sends SIGKILL to all that is in it (cgroup.kill, kernel 5.14), frozen or not. Does not wait for their end. */
int freezer_kill(struct freezer *freezer, struct error *error);

/*
 * 1: the process is in a cgroup that is frozen, by itself or by one above; its path goes to `ret_cgroup`, to be freed.
 * 0: it is not. Negative when that cannot be told (no hierarchy is mounted, the process has ended).
 */
int freezer_process_is_frozen(pid_t pid, char **ret_cgroup);

/* Moves the process back to where freezer_add() found it (the parent cgroup if that is not known).
 */
int freezer_restore(struct freezer *freezer, pid_t pid, struct error *error);

/* Moves what is left to the parent cgroup and removes the cgroup. -ENOENT is success. */
int freezer_remove(struct freezer *freezer, int64_t deadline, struct error *error);

/* Path of the cgroup below the root of the v2 hierarchy, for the journal; valid as long as the
 * freezer. */
const char *freezer_path(const struct freezer *freezer);
