/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Collecting the state of a process tree.
 *
 * A context follows one tree through a migration:
 *
 *   dump_context_new()       finds the tree that runs below a PID
 *   dump_preflight()         looks at everything while it runs, lists what cannot be moved
 *   dump_layout()            what the target needs to build the tree ahead: once a round, while it runs
 *   dump_frozen()            everything, from the stopped tree
 *
 * Each of the last three adds records to the image set that it is given; records of an earlier round are not needed with
 * those of a later one. While the tree runs only /proc and pidfd_getfd(2) are used, but for a
 * short stop in the preflight of processes that have seccomp filters; at the freeze one batch of system
 * calls is run in each thread and one more in each process. Nothing in the tree is changed or consumed.
 *
 * Calls take tens of microseconds to milliseconds and do not wait for the tree, except for batches, which end at
 * `dump_context.deadline`. Failures: -ESRCH when a process ends meanwhile, -EBUSY when dump_frozen() meets what cannot be
 * moved (the list tells), -ENOMEM, errors of tracee/. One thread uses a context, at the freeze the one that is the tracer.
 *
 * Relies on: pidfd_open 5.3, pidfd_getfd 5.6, /proc/PID/map_files (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN) 5.9.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "image/blockers.h"
#include "image/image.h"
#include "image/kinds.h"
#include "image/tree.h"
#include "tracee/tracee.h"
#include "util/array.h"
#include "util/error.h"
#include "util/log.h"
#include "util/parallel.h"
#include "util/pidmap.h"
#include "util/procfs.h"
#include "util/timens.h"

struct dump_accept_queue; /* accept-queue.c */
struct dump_files;  /* files.c: open file descriptions and mapped files seen so far */
struct dump_shared; /* shared-memory.h: shared memory objects seen so far */
struct dump_seccomp; /* seccomp.c: filters seen at the freeze */
struct dump_status; /* parts.h: /proc/PID/status */
struct dump_host;   /* parts.h: what does not change about this machine */
struct net_lock;    /* net/lock.h */
struct freezer;     /* tracee/freezer.h */

struct dump_options {
	bool tcp_close;     /* established TCP connections are restored as closed by the peer */
	bool tcp_established; /* they go along; without either they are blockers */
	bool ext_unix;      /* UNIX sockets may be connected to processes outside of the tree, see unix-socket.c */
	bool tcp_loopback;  /* also those to a program on this host that is not in the tree */
	bool refuse_locks;  /* locks on files are in the way, rather than taken along */
	bool shell_job; /* the tree shares the terminal it was started from with processes outside of it: tty.c */
	uint64_t ghost_limit; /* bytes of one deleted file that may travel in the images; 0: 1 GiB */
	const char *const *own_programs; /* paths of programs that cannot be moved as they move, up to a NULL; NULL: none */
};

/* What /proc/PID/smaps says of a mapping, and maps does not. */
struct dump_map_flags {
	uint64_t start;
	uint64_t end;
	uint32_t flags; /* DUMP_VM_* of parts.h */
};

/*
 * Which TCP socket is just being read, in memory that outlives the reader: until it is left alone again, somebody else has to
 * be able to do that. The other fields are set before `pid` is, and what they say is what it had before.
 */
struct dump_tcp_mark {
	_Atomic pid_t pid; /* who has it open; 0: none is */
	int number;        /* under this number */
	int reuse, inline_urgent, peek_offset; /* SO_REUSEADDR, SO_OOBINLINE; SO_PEEK_OFF, -1: none */
};

#define DUMP_TCP_MARKS PARALLEL_MAX /* so many are read at a time */

struct dump_look;

#define DUMP_FLAGS_AHEAD 32 /* descriptors whose flags are asked for with all else */

/* One process of the tree. */
struct dump_process {
	pid_t pid;                     /* as seen by us */
	pid_t live;                    /* a thread of it that lives: `pid`, unless the main thread has ended while others run */
	struct procfs_stat stat;       /* at the last refresh */
	struct procfs_maps maps;       /* at the last refresh, owned */
	struct dump_status *status;    /* of its main thread since the last refresh; NULL: not read yet; owned by status.c */
	struct procfs_pids threads;    /* TIDs, the leader first, owned */
	int pidfd;                     /* owned */
	int thread_pidfd;              /* of `live` if that is another one, whose descriptors there are; owned; -1: none */
	int proc_fd;                   /* /proc/PID of `live`, O_PATH; owned */
	uint32_t files_id;             /* id of its IMAGE_FDINFO records: its descriptor table; the PID of who has it first */
	uint32_t fs_id;                /* the same of its place in the file system */
	uint32_t vm_id;                /* and of its memory: its own PID unless it shares that of another */
	uint32_t sighand_id;           /* and of its signal handlers */
	size_t order;                  /* its place in the list of processes; found with these ids */
	unsigned level;                /* image/tree.h; as the next, set with its records */
	bool fresh;                    /* its memory does not begin as a copy of its parent's on the target */
	bool reads_direct;             /* has had a file open with O_DIRECT when its descriptors were last collected */
	struct dump_look *look;        /* what /proc tells since the last refresh; NULL: not looked; owned by look.c */
	bool asked_flags;              /* the next is of this stop */
	uint32_t close_on_exec;        /* which of its descriptors below DUMP_FLAGS_AHEAD are */
	bool seccomp;                  /* a thread was restricted by seccomp(2) at the last look at all of them */
	bool pins;                     /* devices may write to its memory, which nothing tells: asynchronous I/O */
	uint64_t ring_pages;           /* of its memory that io_urings of the tree have pinned */
	struct tracee_process *tracee; /* NULL while the tree runs; borrowed from the tracee_tree */
	ARRAY(struct dump_map_flags) map_flags; /* VmFlags at the last look (mm-flags.c), by address; owned */
};

/*
 * What the tree's clocks are to be shifted by on the target, against the clocks of that machine, so that they go on as they
 * are here; set by the caller when it knows.
 */
struct dump_target_clocks {
	bool known;
	struct timens_offsets offsets;
};

/* A process of the tree that has ended, and that its parent has not waited for. */
struct dump_zombie {
	pid_t pid;
	struct procfs_stat stat; /* of the last look */
};

struct dump_context {
	const struct dump_options *options; /* borrowed */
	const struct log *log;              /* borrowed, may be NULL */
	pid_t root;                         /* the PID that the user named */
	ARRAY(struct dump_process *) processes; /* owned; parents before children */
	struct pidmap by_pid;               /* the same, by PID; owned */
	ARRAY(struct dump_zombie) zombies;  /* owned */
	struct pidmap zombie_pids;          /* which PIDs are in there; owned */
	struct pidmap reaches;              /* session.c: of numbers that have no process in the tree; owned */
	struct image_tree tree;             /* processes and zombies as the last records have them; owned */
	bool shares_memory;                 /* some processes have one address space */
	struct image_set *images;           /* where records go during a call; borrowed, NULL between calls */
	struct image_blockers blockers;     /* found so far, owned */
	struct timens_offsets clocks;       /* of the tree, against the machine's; as of the last refresh */
	struct dump_target_clocks target_clocks;
	int64_t deadline;                   /* for batches, see util/clock.h; CLOCK_FOREVER unless the caller sets it */
	struct net_lock *lock;              /* stops TCP connections at the freeze; borrowed, NULL: nothing does */
	struct net_lock *kept_lock;         /* engaged likewise: one that stays when the tree is ended; borrowed, may be NULL */
	bool lockless;                      /* there can be no lock: sockets that listen go along without */
	struct freezer *freezer;            /* holds the tree while its sockets are read; borrowed, NULL: the stop is enough */
	struct dump_tcp_mark *tcp_marks;    /* DUMP_TCP_MARKS, borrowed; NULL: nobody would look */
	_Atomic pid_t *queue_holder;        /* who puts back what accept_queue has, should we die; borrowed, may be NULL */
	bool target_queues;                 /* the target can put connections into the queues of listening sockets */
	struct dump_accept_queue *accept_queue; /* accept-queue.c: what was taken out of such queues here; owned */
	bool has_tcp;                       /* a collection has met a TCP socket */
	bool has_connections;               /* one that was connected */
	struct dump_files *files;           /* owned by files.c, made on first use */
	struct dump_shared *shared;         /* owned by shared-memory.c, made on first use */
	struct dump_seccomp *seccomp;       /* owned by seccomp.c, made on first use */
	struct dump_host *host;             /* owned */
};

/*
 * Finds the tree. `options` and `log` must outlive the context. Bad targets are errors that say so: no such process,
 * PID 1, a zombie, a kernel thread, ourselves or an ancestor of ours.
 */
int dump_context_new(pid_t root, const struct dump_options *options, const struct log *log, struct dump_context **ret,
		     struct error *error);
void dump_context_free(struct dump_context *ctx);

/* Reads processes, threads and mappings again; processes that ended leave the list, new ones join. Run by dump_layout(). */
int dump_context_refresh(struct dump_context *ctx, struct error *error);

/* NULL when the tree has no such process. */
struct dump_process *dump_context_find(const struct dump_context *ctx, pid_t pid);
/* What pidfd_getfd(2) takes for the process's descriptors. */
static inline int dump_process_pidfd(const struct dump_process *process)
{
	return process->live == process->pid ? process->pidfd : process->thread_pidfd;
}
/* Whose memory the process has: the first one of those that share it, mostly itself. */
struct dump_process *dump_process_owner(const struct dump_context *ctx, struct dump_process *process);
/* The next one in the list with the same memory, or NULL; from the owner on these are all. */
struct dump_process *dump_process_next_sharer(const struct dump_context *ctx, const struct dump_process *process);

/*
 * Looks at the running tree. Returns 0 also when ctx->blockers has entries. Records: those of dump_layout(), creds,
 * limits and file checks: what the target's preflight asks for.
 */
int dump_preflight(struct dump_context *ctx, struct image_set *images, struct error *error);

/*
 * IMAGE_INVENTORY, _PSTREE, _IDS, _MM, _MM_EXTRA, _SHARED_MEMORY (that which is only open, too) and the files that are
 * mapped, from the running tree.
 */
int dump_layout(struct dump_context *ctx, struct image_set *images, struct error *error);

/* Everything, from the tree as tracee_tree_stop() left it. The tree stays stopped and as it was. */
int dump_frozen(struct dump_context *ctx, struct tracee_tree *tree, struct image_set *images, struct error *error);

/*
 * Shortly before the freeze, while the tree runs: new connections are kept out by ctx->lock, and those that have begun are
 * waited for until its listening sockets have none that the program could not have accepted. Returns 0 at the deadline, too.
 */
int dump_listeners_settle(struct dump_context *ctx, int64_t deadline, struct error *error);

/*
 * The tree runs: waits for all that wait for a child of vfork(2) to begin another program or to end, as nobody can stop them.
 * 0, or the PID of one that still waits at the deadline. By what the last look has found.
 */
#define DUMP_VFORK_NS (1 * CLOCK_S) /* how long that is worth waiting for */
pid_t dump_vfork_settle(const struct dump_context *ctx, int64_t deadline);

/*
 * accept-queue.c: what the freeze has taken out of the queues of listening sockets is put back there, for a tree that goes on
 * here; or is gone without a word. Before the lock goes, and before the tree runs. What fails is logged.
 */
void dump_accept_queue_put_back(struct dump_context *ctx);
void dump_accept_queue_forget(struct dump_context *ctx);

/* Gives the socket that a mark names back what it had, after the end of who has set it. 0 also when there is none. */
int dump_tcp_mend(const struct dump_tcp_mark *mark);

/* Notes what cannot be moved; collecting goes on. `object` is a format string, its arguments come last. */
#define dump_blocker_add(ctx, pid, kind, cause, remedy, ...)                                                         \
	image_blockers_add(&(ctx)->blockers, (pid), (kind), (cause), (remedy), __VA_ARGS__)

/*
 * The same for a kind that image/kinds.def refuses: cause and remedy are in there. `what` is the kind of object that carries
 * it ("descriptor", "mapping", "process").
 */
#define dump_refuse(ctx, pid, what, kind, ...)                                                                       \
	dump_blocker_add(ctx, pid, what, image_kind_get(kind).cause, image_kind_get(kind).remedy, __VA_ARGS__)

/*
 * What dump/files.h offers to the rest of this folder (implemented there):
 *
 *   int dump_files_collect(ctx, error)
 *       all descriptors of all processes: IMAGE_FDINFO, IMAGE_FILES and what belongs to them; blockers. Runs on the
 *       running tree too (process->tracee == NULL).
 *   int dump_file_map(ctx, process, const struct procfs_map *map, uint32_t *ret_file_id, error)
 *       an IMAGE_FILES record (once per call of dump_*() and file) for a mapped regular file, deleted ones included; the
 *       id is the same in every round. Shared memory never gets there: see shared-memory.h.
 *   int dump_file_link(ctx, process, const char *link, uint32_t *ret_file_id, error)
 *       the same for /proc/PID/exe, cwd and root.
 *   void dump_files_begin(ctx)  a new image set begins: records must be added again, ids stay
 *   void dump_files_free(struct dump_files *files)
 */
