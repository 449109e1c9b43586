/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of the restore library: the parts that restore.c and finish.c put together. */
#pragma once

#include <stdint.h>

#include "core.pb-c.h"
#include "image/host.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "pstree.pb-c.h"
#include "restore/restore.h"

/* ---- what does not change about this machine and program ---------------------------------------------------------- */

#define RESTORE_OWN_GROUPS 256
struct restore_own_creds { /* of this program, so of every shell */
	uid_t uid[3];      /* real, effective, saved */
	gid_t gid[3];
	gid_t groups[RESTORE_OWN_GROUPS];
	size_t group_count; /* SIZE_MAX: too many to compare */
	uint64_t effective, permitted, inheritable, bounding, ambient;
	uint32_t securebits;
};

struct restore_host {
	struct image_xsave_layout xsave;
	struct restore_own_creds creds;
	/* What the root's shell began with, and so each: restore_process_note_root(). INT64_MAX, UINT32_MAX: not known. */
	int64_t oom_score_adj, coredump_filter, login;
};

/* ---- messages ----------------------------------------------------------------------------------------------------- */

/* Unpacks the record of a type and id that must be there; -EPROTO when it is not. Freed by _cleanup_message_. */
int restore_message(const struct image_set *images, enum image_type type, uint32_t id,
		    const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret, struct error *error);
#define restore_get(images, type, id, prefix, ret, error)                                                            \
	restore_message((images), (type), (id), &prefix##__descriptor, (ProtobufCMessage **)(void *)(ret), (error))

/* ---- descriptors of ours inside a shell --------------------------------------------------------------------------- */

/*
 * A batch that uses descriptors of this program: restore_borrow_begin() adds pidfd_open(), restore_borrow() adds
 * pidfd_getfd() and returns the index of its result, restore_borrow_end() closes the pidfd. The batch must close what it
 * borrowed.
 */
int restore_borrow_begin(struct tracee_batch *batch);
int restore_borrow(struct tracee_batch *batch, int pidfd_index, int fd);
void restore_borrow_end(struct tracee_batch *batch, int pidfd_index);

/* ---- batches of several processes: together.c --------------------------------------------------------------------- */

#define RESTORE_TOGETHER 32 /* processes at a time */
/* To be run at the same time, one in the leader of each process. Zero-initialised before. */
struct restore_together {
	ARRAY(struct tracee_thread *) threads; /* borrowed */
	ARRAY(struct tracee_batch *) batches;  /* owned */
	ARRAY(int) fds;                        /* owned: what the batches borrow */
};

/* An empty batch for the leader of a process; NULL: -ENOMEM. Of `together`. One for each process until the next run. */
struct tracee_batch *restore_together_batch(struct restore_together *together, struct restore_process *process,
					    struct error *error);
/* Takes a descriptor (-1: none), also on failure, and closes it after the next run. */
int restore_together_close(struct restore_together *together, int fd, struct error *error);
/* Runs what there is, and makes `together` empty. */
int restore_together_run(struct restore_tree *tree, struct restore_together *together, struct error *error);
void restore_together_deinit(struct restore_together *together);

typedef int (*restore_together_part)(struct restore_tree *tree, struct restore_process *process,
				     struct restore_together *together, struct error *error);
/*
 * Has part() add the batches of all processes, makers first, and runs them. What a process shares with its maker is its
 * maker's work before it is its own: the two never run at the same time.
 */
int restore_for_each_together(struct restore_tree *tree, restore_together_part part, struct error *error);

/* ---- shell jobs: job.c --------------------------------------------------------------------------------------------- */

struct restore_job;

/* What the images say of a shared terminal and session, and whether the options and the terminal here are fit for it. */
int restore_job_read(struct restore_tree *tree, struct error *error);
void restore_job_free(struct restore_job *job);
/* Is that session of the images the one that is shared? */
bool restore_job_shares(const struct restore_tree *tree, pid_t session);
/* 0 when terminal_fd is a terminal to share. */
int restore_job_terminal(const struct restore_tree *tree, struct error *error);
/* Before and after the go: gives the terminal to the job; tells it of another size. Neither can fail. */
void restore_job_foreground(const struct restore_tree *tree);
void restore_job_resized(const struct restore_tree *tree);

/* ---- clocks.c ----------------------------------------------------------------------------------------------------- */

/* Sets tree->clocks from the images, the first time; adds blockers for what cannot be given here, if `blockers` is not NULL. */
int restore_clocks_decide(const struct image_set *images, struct restore_clocks *clocks, struct image_blockers *blockers,
			  struct error *error);
/* ns that have passed for the tree since its CLOCK_MONOTONIC showed `then`; 0 if that cannot be told. */
int64_t restore_clocks_elapsed(const struct restore_tree *tree, uint64_t then);

/* ---- parts -------------------------------------------------------------------------------------------------------- */

/*
 * shell.c: the root, with nothing in it, child of whom the options say, seized, EXITKILL. It leads a session, or is in one that
 * has no leader, or leads a process group of ours in a shell job.
 */
int restore_shell_create(struct restore_tree *tree, const TreeProcess *root, struct tracee_process **ret,
			 struct error *error);
/* Kills and waits, and reaps in the parent's shell. */
void restore_shell_end(struct restore_process *process);
/* The same of a helper, a child of `maker`. */
void restore_shell_end_helper(struct tracee_process *maker, struct tracee_process *helper);
/* Takes pending signals that building has left (SIGCHLD of ended children) out of the queues of a shell. */
int restore_shell_flush_signals(struct restore_tree *tree, struct restore_process *process, struct error *error);

/* layout.c: processes and threads as IMAGE_PSTREE wants them. */
int restore_layout_processes(struct restore_tree *tree, struct error *error);
/* sharing.c: what processes share, of those that are there already; of one that is about to be made. */
int restore_sharing_follow(struct restore_tree *tree, struct error *error);
int restore_sharing_begin(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* A zombie, or what becomes one; NULL when there is none. */
struct restore_process *restore_zombie_find(const struct restore_tree *tree, pid_t pid);
/* zombie.c: those that have ended on the source do. */
int restore_zombies_end(struct restore_tree *tree, struct error *error);
/* stop.c: those that were stopped are so; when groups are there, before restore_shell_flush_signals(). */
int restore_stop(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* group.c: process groups; for the end, when all processes are there. */
int restore_layout_groups(struct restore_tree *tree, struct error *error);

/* mm.c */
/* The layout of a shell that has just been made: a fresh one, or a copy of its parent's. */
int restore_mm_new(struct restore_tree *tree, struct restore_process *process, struct error *error);
void restore_mm_free(struct restore_mm *mm);
int restore_mm_apply(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* Numbers of the address space, break and exe link: PR_SET_MM_MAP. */
int restore_mm_numbers(struct restore_tree *tree, struct restore_process *process, struct restore_together *together,
		       struct error *error);
/* Locks: takes all pages that are not there. */
int restore_mm_locks(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* Names and guards: after all content. Seals: at the very end, in a batch of the caller's. */
int restore_mm_attributes(struct restore_tree *tree, struct restore_process *process, struct error *error);
int restore_mm_seals(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
		     struct error *error);

/* shared-memory.c */
int restore_shared_prepare(struct restore_tree *tree, const struct image_set *images, struct error *error);
/* The id of the System V segment that an object is, and its size in memory; -EPROTO: it is none. */
int restore_shared_segment(struct restore_tree *tree, uint32_t id, uint32_t *ret_segment, uint64_t *ret_size,
			   struct error *error);
/*
 * A deleted file, or one in memory: takes the descriptor, which is for reading; -1: it is in its place, and what is written
 * to the object goes nowhere. restore_shared_resize() before anything else.
 */
bool restore_shared_in_place(const struct restore_tree *tree, uint32_t id);
int restore_shared_adopt(struct restore_tree *tree, uint32_t id, int fd, struct error *error);
int restore_shared_resize(struct restore_tree *tree, uint32_t id, uint64_t size, struct error *error);
bool restore_shared_has(const struct restore_tree *tree, uint32_t id);
/* Around a layout: objects that were neither prepared nor resized in between are given up, after the mappings. */
void restore_shared_begin(struct restore_tree *tree);
void restore_shared_prune(struct restore_tree *tree);
/* Seals of memfds. */
int restore_shared_finish(struct restore_tree *tree, struct error *error);
void restore_shared_free(struct restore_shared *shared);

/* aio.c: rings of asynchronous I/O, while the shell has no descriptors; and whether this host can make them. */
int restore_aio(struct restore_tree *tree, struct restore_process *process, struct error *error);
int restore_aio_check(const struct image_set *images, struct image_blockers *blockers, struct error *error);

/*
 * process.c: what belongs to a process, by a batch in its leader; before its threads get their credentials. Where it has one
 * thread and needs nothing in between, all the rest goes into that batch, too: process->is_set_up.
 */
void restore_process_note_root(struct restore_tree *tree, pid_t pid);
int restore_process_apply(struct restore_tree *tree, struct restore_process *process, struct restore_together *together,
			  struct error *error);
/* Of one that is not set up: POSIX timers and threads. */
int restore_process_threads(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* And its last batch: what must come after credentials, and what starts to move by itself (timers, pending signals). */
int restore_process_last(struct restore_tree *tree, struct restore_process *process, struct restore_together *together,
			 struct error *error);

/* signal.c */
void restore_signal_actions(struct tracee_batch *batch, const CoreProcess *message);
/*
 * `tid` 0: for the process. Signals of the POSIX timers in `timers` (NULL: there are none) are left to these: they are noted
 * in process->timers_due. -ENOMEM.
 */
int restore_signal_pending(struct restore_process *process, struct tracee_batch *batch, pid_t tid,
			   const PendingSignals *signals, const ProcessTimers *timers);

/* timer.c: makes POSIX timers (runs batches of its own); arms all timers (adds to a batch). */
int restore_timer_create(struct restore_tree *tree, struct restore_process *process, const ProcessTimers *timers,
			 struct error *error);
void restore_timer_arm(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
		       const ProcessTimers *timers);
/* A timer on a clock that runs by itself, unlike those of CPU time. */
bool restore_timer_is_steady(const PosixTimer *timer);

/* creds.c: calls for the thread's own batch; the last ones in it that need privileges. */
void restore_creds_read_own(struct restore_own_creds *own);
void restore_creds(struct tracee_batch *batch, const struct restore_own_creds *own, const Creds *creds,
		   const ThreadExtra *extra);

/* seccomp.c: filters of all threads, while they are suspended; before credentials, which may be needed to install them. */
struct restore_seccomp_thread {
	struct tracee_thread *thread; /* borrowed */
	const CoreThread *core;       /* borrowed */
};
int restore_seccomp_apply(struct restore_tree *tree, const struct restore_seccomp_thread *threads, size_t count,
			  struct error *error);

/*
 * settings.c: calls for the batch of a thread; of the leader while it is root; for the last batch. The login uid, by the leader
 * while it sees /proc.
 */
void restore_setting_thread(struct tracee_batch *batch, const ThreadExtra *extra);
void restore_setting_process(struct tracee_batch *batch, const ProcessExtra *extra);
void restore_setting_last(struct tracee_batch *batch, const ProcessExtra *extra);
void restore_setting_login(struct tracee_batch *batch, uint32_t uid);

/* process.c: of a thread that has its own; while it is root. */
int restore_thread_place(struct restore_tree *tree, struct tracee_thread *thread, struct error *error);
/* thread.c: a main thread that has ended on the source does; before any process has the death signal that it had. */
int restore_leader_end(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* thread.c: all threads of a process: everything but what the process's last batch does. */
int restore_threads_apply(struct restore_tree *tree, struct restore_process *process, struct error *error);
/* The same of the only thread of a process without filters and POSIX timers: the calls are added to a batch. */
int restore_thread_add(struct restore_tree *tree, struct restore_process *process, const Core *core, struct tracee_batch *batch,
		       struct error *error);

/* xstate.c: NT_X86_XSTATE area from the messages; and AMX, which a thread has to touch before it can be given a state. */
int restore_xstate(const struct image_xsave_layout *layout, struct tracee_thread *thread, const ThreadExtra *extra,
		   struct error *error);

/* finish.c */
int restore_finish(struct restore_tree *tree, struct error *error);
