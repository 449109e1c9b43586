/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System V IPC: which objects of the namespace belong to the tree, and their records.
 *
 *   segments   those that a process of the tree has attached. All that have it attached must be in the tree
 *   sets       those with a semaphore on which a process of the tree did the last operation, or on which one waits
 *   queues     those whose last sender or receiver is a process of the tree, or on which one waits
 *
 * A process outside of the tree that the kernel names as a user as well makes the object a blocker. Nothing else tells who
 * uses a set or a queue: what was made and never used, or last used by processes that have ended, stays where it is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/types.h>

#include "dump/dump.h"
#include "dump/shared-memory.h"
#include "pagestream-ipc.pb-c.h"

#define DUMP_SYSV_NAME "/SYSV" /* begin of the names of mappings of segments */

/* Whether a process has attached segments by that name. */
bool dump_sysv_is(const char *name);

/* sysv-shm.c: fills `ret` for the segment of that id; -EIDRM: it is gone, -ENODEV: it is no segment of our namespace. */
int dump_sysv_segment(uint32_t id, IpcSegment *ret, IpcDescription *ret_desc, struct error *error);
/* Blockers for segments that have more users than the tree's mappings. All processes running: as of their last look. */
int dump_sysv_attachments(struct dump_context *ctx, struct error *error);

/* Records of sets and queues; on the running tree without messages and adjustments. */
int dump_sysv(struct dump_context *ctx, struct error *error);
/* Its parts: sysv-shm.c (blockers only), sysv-sem.c, sysv-msg.c. */
struct dump_sysv_waits;
int dump_sysv_segments(struct dump_context *ctx, struct error *error);
int dump_sysv_sets(struct dump_context *ctx, struct dump_sysv_waits *waits, struct error *error);
int dump_sysv_queues(struct dump_context *ctx, struct dump_sysv_waits *waits, struct error *error);

/* ---- sysv.c: who uses an object */

enum dump_sysv_user {
	DUMP_SYSV_NOBODY,   /* no PID, or one of a process that is gone */
	DUMP_SYSV_OURS,
	DUMP_SYSV_STRANGER,
	DUMP_SYSV_EARLIER, /* that of a process of the tree, which has begun only after `last` */
};
/* `last`: when the object was used last, by the kernel's clock of the time of day; 0: not known. */
enum dump_sysv_user dump_sysv_user(const struct dump_context *ctx, pid_t pid, int64_t last);

/* Threads of the tree that are in a system call on sets or queues: found when first asked for, which takes 10 us a thread. */
struct dump_sysv_waits {
	ARRAY(struct dump_sysv_wait {
		long call;
		uint32_t id; /* its first argument */
	}) list;
	bool filled;
	bool failed; /* no memory */
};
/* Is one in one of two system calls on that object? */
bool dump_sysv_waits_on(struct dump_context *ctx, struct dump_sysv_waits *waits, uint32_t id, const long calls[2]);

/* Owners, mode and key of an object. */
void dump_sysv_describe(const struct ipc_perm *perm, uint32_t id, IpcDescription *ret);
/* The blocker for an object that a process outside of the tree uses, too. `pid` 0: it is not known which. */
void dump_sysv_refuse(struct dump_context *ctx, const char *what, uint32_t id, uint32_t key, pid_t pid);
/* The same for one whose last user has had the number that a process of the tree has now. */
void dump_sysv_refuse_earlier(struct dump_context *ctx, const char *what, uint32_t id, uint32_t key, pid_t pid);
