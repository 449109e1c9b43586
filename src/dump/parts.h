/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of the dump library: the parts that dump.c puts together. Each fills a part of a message; what it allocates in
 * there hangs on the arena of the record and lives until the record is packed.
 */
#pragma once

#include <stdint.h>
#include <sys/stat.h>

#include "core.pb-c.h"
#include "dump/dump.h"
#include "image/host.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"

/* ---- what does not change about this machine ---------------------------------------------------------------------- */

#define DUMP_NAMESPACES 7 /* kinds that a process has to share with this program */

/* What of stat(2) tells whether two names lead to the same. */
struct dump_same {
	dev_t device; /* 0 with inode 0: there is no such file */
	ino_t inode;
};

struct dump_host {
	struct image_host facts;
	struct image_xsave_layout xsave;
	long online; /* CPUs */
	struct dump_same namespaces[DUMP_NAMESPACES]; /* ours, in the order of look.c */
};

/* look.c: fills in the namespaces; the name of one, for users. */
void dump_namespaces_read(struct dump_host *host);
const char *dump_namespace_name(size_t index);

/* ---- memory for messages ------------------------------------------------------------------------------------------ */

struct dump_arena_block;

/* Memory that is freed together. Zero-initialised it is empty. */
struct dump_arena {
	struct dump_arena_block *newest; /* owned, with the older ones */
};

/* Zeroed, aligned to 16; NULL without memory. */
void *dump_arena_take(struct dump_arena *arena, size_t size);
char *dump_arena_string(struct dump_arena *arena, const char *text);
/* Everything taken so far is given up; some memory is kept for what comes. */
void dump_arena_reset(struct dump_arena *arena);
void dump_arena_deinit(struct dump_arena *arena);

/* ---- /proc/PID/task/TID/status ------------------------------------------------------------------------------------ */

struct dump_status {
	uint32_t uid[4]; /* real, effective, saved, file system */
	uint32_t gid[4];
	ARRAY(uint32_t) groups; /* owned */
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	uint32_t umask;
	pid_t tracer;        /* 0: none */
	uint32_t seccomp;    /* mode */
	bool no_new_privs;
	uint64_t locked_kib; /* VmLck */
	uint64_t pinned_kib; /* VmPin */
	uint64_t rss_kib;    /* VmRSS */
	uint64_t fd_size;    /* FDSize: room in the descriptor table */
};

int dump_status_read(pid_t pid, pid_t tid, struct dump_status *ret, struct error *error);
void dump_status_deinit(struct dump_status *status);

/* That of the main thread, read once for each look at the process. `*ret` is the process's, until it is refreshed. */
int dump_process_status(struct dump_process *process, const struct dump_status **ret, struct error *error);
void dump_process_forget_status(struct dump_process *process);

/* ---- what /proc tells of a process -------------------------------------------------------------------------------- */

struct dump_look {
	struct dump_same namespaces[DUMP_NAMESPACES]; /* in the order of look.c */
	struct dump_same times[2];                    /* its time namespace, and that of its children */
	int32_t oom_score_adj;
	uint32_t coredump_filter;
	bool has_loginuid;
	uint32_t loginuid;
	bool has_flags; /* dump_process.map_flags are of this look */
};

/*
 * look.c. `*ret` is the process's, until it is refreshed. The whole of a stopped process, by any thread: mappings with their
 * flags, and its status, too.
 */
int dump_look_get(struct dump_process *process, const struct dump_look **ret, struct error *error);
int dump_look_stopped(struct dump_process *process, struct error *error);
void dump_look_forget(struct dump_process *process);

/* ---- parts -------------------------------------------------------------------------------------------------------- */

/* outside.c: blockers for shared memory and deleted files that processes outside of the tree use. */
int dump_outside_check(struct dump_context *ctx, struct error *error);
/*
 * Has a process outside of the tree a descriptor that is the link ("pipe:[4711]")? `own` is a copy of this program's, which
 * does not count; -1: none. Reads all of /proc.
 */
bool dump_outside_has(const struct dump_context *ctx, const char *link, int own);

/* tree.c: the list of processes as the stop found them, without looking for children again. */
int dump_context_take(struct dump_context *ctx, const struct tracee_tree *tree, struct error *error);
/* Is it a process of the tree, or a zombie in it? */
bool dump_tree_has(const struct dump_context *ctx, pid_t pid);

/*
 * session.c: dump_sessions_read() before the others, after each look at the tree. The session and group that a process or
 * zombie shall have on the target; `stat` is its own.
 */
int dump_sessions_read(struct dump_context *ctx, bool frozen, struct error *error);
pid_t dump_session_of(const struct dump_context *ctx, const struct procfs_stat *stat);
pid_t dump_group_of(const struct dump_context *ctx, const struct procfs_stat *stat);
bool dump_session_reaches_outside(const struct dump_context *ctx, pid_t session);

/*
 * sharing.c: what processes share, into files_id, fs_id, vm_id and sighand_id; when ctx->tree is planned, blockers for what
 * cannot be shared again. Blockers for threads that do not share.
 */
int dump_sharing_read(struct dump_context *ctx, struct error *error);
void dump_sharing_check(struct dump_context *ctx);
/* Blockers for processes outside of the tree that have memory of it; looks at all of /proc, some us a process. */
int dump_sharing_outside(struct dump_context *ctx, struct error *error);
/* Has the thread a working directory, root and umask apart from its process (unshare(2) with CLONE_FS)? */
bool dump_sharing_own_place(const struct dump_process *process, pid_t tid);
void dump_sharing_threads(struct dump_context *ctx, const struct dump_process *process);

/* vfork.c: a blocker for who waits for a child of vfork(2), after 100 ms. */
void dump_vfork_check(struct dump_context *ctx);

/* tree-record.c: IMAGE_PSTREE of all processes and zombies, IMAGE_IDS of processes, IMAGE_CORE of zombies; ctx->tree. */
int dump_tree_records(struct dump_context *ctx, bool frozen, struct error *error);

/* process.c: blockers that /proc shows: namespaces, seccomp, tracers, zombies, shared tables, terminals, limits. */
int dump_process_check(struct dump_context *ctx, struct dump_process *process, struct error *error);
/* IMAGE_FS of a process, and of each thread that has its own. */
int dump_process_fs(struct dump_context *ctx, struct dump_process *process, struct error *error);

/*
 * seccomp.c: blockers of a running process; it is stopped for a moment if it has filters. What a stopped thread has, into
 * its record; `mode` is prctl(2)'s. IMAGE_SECCOMP, after all threads.
 */
int dump_seccomp_check(struct dump_context *ctx, struct dump_process *process, struct error *error);
int dump_seccomp_thread(struct dump_context *ctx, struct tracee_thread *thread, int64_t mode, CoreThread *core,
			struct error *error);
int dump_seccomp_record(struct dump_context *ctx, struct error *error);
void dump_seccomp_free(struct dump_seccomp *seccomp);

/* stop.c: by which signal a process is stopped, and whether its parent knows. */
int dump_stop(struct dump_context *ctx, const struct dump_process *process, ProcessExtra *extra, struct error *error);

/* tty.c: a blocker for a controlling terminal that cannot be shared or replaced on the target. */
void dump_terminal_check(struct dump_context *ctx, const struct dump_process *process);

/* aio.c: a ring of asynchronous I/O among the mappings. `*ret` is in the arena; NULL with a blocker. */
bool dump_aio_is(const struct procfs_map *map);
int dump_aio_map(struct dump_context *ctx, struct dump_process *process, const struct procfs_map *map,
		 struct dump_arena *arena, AioRing **ret, struct error *error);

/* program.c: the path of options->own_programs that the process runs, or NULL. */
const char *dump_program_own(const struct dump_options *options, pid_t pid);
/* Blockers: a program of ours, a program that is not 64-bit. For processes that run. */
void dump_program_check(struct dump_context *ctx, const struct dump_process *process);

/* notes.c: notes on what is not taken along, of a running process. */
void dump_notes(struct dump_context *ctx, const struct dump_process *process);

/* limits.c: IMAGE_PROCESS_EXTRA of a running process, with what the target's preflight compares. */
int dump_limits(struct dump_context *ctx, struct dump_process *process, struct error *error);
/* True for a mask that has every CPU that is online here. */
bool dump_affinity_is_all(const struct dump_host *host, const uint8_t *mask, size_t size);

/* creds.c: `creds` and the parts of `extra` from a status; securebits come from the thread. */
int dump_creds(const struct dump_status *status, uint32_t securebits, struct dump_arena *arena, Creds *creds,
	       ThreadExtra *extra);

/* Facts of a process that only it can tell, and only at the freeze. */
struct dump_process_facts {
	uint64_t brk;
	int dumpable;
	bool thp_disabled;
};

/*
 * thread.c: IMAGE_CORE, IMAGE_THREAD_EXTRA of all threads and IMAGE_PROCESS_EXTRA; stopped processes only. All processes are
 * asked at the same time: their questions, one run of all batches, their answers.
 */
struct dump_asked;
int dump_threads_ask(struct dump_context *ctx, struct dump_process *process, struct dump_asked **ret,
		     struct error *error);
/* Remote areas are made, where there are none yet: nothing else changes the mappings afterwards. */
int dump_threads_make_room(struct dump_context *ctx, struct dump_asked *const *asked, size_t count, struct error *error);
int dump_threads_run(struct dump_context *ctx, struct dump_asked *const *asked, size_t count, struct error *error);
int dump_threads_answer(struct dump_context *ctx, const struct dump_asked *asked, struct dump_process_facts *ret_facts,
			struct error *error);
/* NULL is fine. */
void dump_threads_forget(struct dump_asked *asked);

/* signal.c: questions to the process, and their answers; pending signals. */
struct dump_signal_query {
	uint64_t actions; /* token of the room for all actions */
};
void dump_signal_ask(struct tracee_batch *batch, struct dump_signal_query *query);
int dump_signal_answer(const struct tracee_batch *batch, const struct dump_signal_query *query,
		       struct dump_arena *arena, CoreProcess *message);
int dump_signal_pending(struct tracee_thread *thread, bool shared, struct dump_arena *arena, PendingSignals **ret,
			struct error *error);

/* timer.c: the same for timers. */
struct dump_posix_timer {
	int id;
	int signal;
	uint64_t value;   /* sigval */
	int notify;       /* SIGEV_* */
	pid_t notify_tid; /* SIGEV_THREAD_ID */
	int clock;
	uint64_t setting; /* token of its struct itimerspec */
	int overrun_call; /* index of timer_getoverrun */
};
struct dump_timer_query {
	uint64_t clocks;   /* token of two struct timespec: CLOCK_MONOTONIC, CLOCK_BOOTTIME */
	uint64_t interval; /* token of three struct itimerval */
	ARRAY(struct dump_posix_timer) posix;
};
int dump_timer_ask(struct dump_context *ctx, const struct dump_process *process, struct tracee_batch *batch,
		   struct dump_timer_query *query, struct error *error);
int dump_timer_answer(const struct tracee_batch *batch, const struct dump_timer_query *query, struct dump_arena *arena,
		      CoreProcess *message);
void dump_timer_query_deinit(struct dump_timer_query *query);

/* settings.c: the same for what a thread has set for itself, and a process. */
#define DUMP_SPECULATIONS 3 /* kinds of PR_GET_SPECULATION_CTRL */
struct dump_setting_query {
	uint64_t tsc; /* tokens */
	uint64_t mode;
	uint64_t nodes;
	int cpuid; /* indices of calls */
	int memory_error;
	int speculation[DUMP_SPECULATIONS];
	int policy;
};
struct dump_process_setting_query {
	int no_exec_gain; /* indices of calls */
	int merge;
	int huge_pages;
};
void dump_setting_ask(struct tracee_batch *batch, struct dump_setting_query *query);
int dump_setting_answer(const struct tracee_batch *batch, const struct dump_setting_query *query, struct dump_arena *arena,
			ThreadExtra *extra);
void dump_setting_process_ask(struct tracee_batch *batch, struct dump_process_setting_query *query);
void dump_setting_process_answer(const struct tracee_batch *batch, const struct dump_process_setting_query *query,
				 ProcessExtra *extra);
/* Is memory to come locked? Asks by a batch of its own if the process has locked memory; after other batches were run. */
int dump_setting_locks(struct dump_context *ctx, const struct dump_process *process, const struct dump_status *status,
		       ProcessExtra *extra, struct error *error);

/* xstate.c: the vector and floating-point state of a thread, in both messages. */
int dump_xstate(const struct image_xsave_layout *layout, struct tracee_thread *thread, struct dump_arena *arena,
		X86Fpu *fpu, ThreadExtra *extra, struct error *error);

/* mm.c: IMAGE_MM and IMAGE_MM_EXTRA; after those of the owner of the memory. `facts` is NULL while the process runs. */
int dump_mm(struct dump_context *ctx, struct dump_process *process, const struct dump_process_facts *facts,
	    struct error *error);

/* mm-flags.c: flags of mappings, from smaps. */
enum {
	DUMP_VM_GROWSDOWN = 1 << 0,
	DUMP_VM_NORESERVE = 1 << 1,
	DUMP_VM_LOCKED = 1 << 2,
	DUMP_VM_LOCK_ON_FAULT = 1 << 3,
	DUMP_VM_SEALED = 1 << 4,
	DUMP_VM_MAY_WRITE = 1 << 5,
	DUMP_VM_DROPPABLE = 1 << 6,
	DUMP_VM_SEQUENTIAL = 1 << 7,
	DUMP_VM_RANDOM = 1 << 8,
	DUMP_VM_DONTFORK = 1 << 9,
	DUMP_VM_DONTDUMP = 1 << 10,
	DUMP_VM_HUGEPAGE = 1 << 11,
	DUMP_VM_NOHUGEPAGE = 1 << 12,
	DUMP_VM_MERGEABLE = 1 << 13,
	DUMP_VM_WIPEONFORK = 1 << 14,
	DUMP_VM_IO = 1 << 15,
	DUMP_VM_HUGETLB = 1 << 16,
	DUMP_VM_UFFD = 1 << 17, /* registered for missing or minor faults */
	DUMP_VM_SHADOW_STACK = 1 << 18,
};
/*
 * Brings process->map_flags up to date with process->maps. With `quick` (the freeze) smaps is read only where it must be:
 * see the file's comment.
 */
int dump_mm_flags_update(struct dump_process *process, bool quick, struct error *error);
/* The flags of a mapping of process->maps; 0 when it is not known. */
uint32_t dump_mm_flags_get(const struct dump_process *process, const struct procfs_map *map);

/* guards.c: guard pages (MADV_GUARD_INSTALL) of the whole address space. Kernels before 6.16 tell of none. */
int dump_guards(const struct dump_process *process, struct dump_arena *arena, MmExtra *extra, struct error *error);
