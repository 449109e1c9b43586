/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Building a process tree from image sets.
 *
 *   restore_tree_new()       nothing yet
 *   restore_tree_layout()    once a round: makes the processes and threads that are missing, ends those that went,
 *                            brings each address space to the wanted list of mappings; pages of mappings that stay, stay
 *   restore_pages_*()        content, in any order, any time after the layout that has the mapping
 *   restore_tree_finish()    the last layout, descriptors, and all the rest: registers, signals, timers, credentials, ...
 *   restore_tree_keep()      from here on the tree outlives its tracer: who calls it has it held by something else
 *   restore_tree_go()        lets go: the tree runs. The only step that cannot be taken back
 *
 * Until the go every process is a *shell*: it has its PID, belongs to whom the options say (init), is stopped by ptrace and,
 * until it is kept, is killed by the kernel when its tracer ends (PTRACE_O_EXITKILL). restore_tree_free() kills what is not
 * let go and waits for it.
 *
 * All calls on one tree come from one thread, the one that called restore_tree_new(): it is the tracer. The exceptions
 * are restore_pages_write(), restore_shared_write() and restore_shared_drop(), which any thread may call while no other
 * call on this tree runs.
 * Calls block for as long as the kernel works; batches end at `restore_tree.deadline`.
 *
 * Memory of a new child process is a copy-on-write copy of its parent's shell at the moment when restore_tree_layout()
 * makes it, so pages equal at that moment are shared, and the caller has to drop or write those that differ:
 * `restore_process.created` says that this is so. A process that is `fresh` (image/tree.h) begins with none.
 *
 * Relies on: clone3 set_tid 5.5, pidfd_getfd 5.6 and PR_SET_MM_MAP 3.18. Needs CAP_SYS_ADMIN, CAP_SYS_PTRACE.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <termios.h>

#include "image/blockers.h"
#include "image/image.h"
#include "image/tree.h"
#include "tracee/tracee.h"
#include "util/array.h"
#include "util/error.h"
#include "util/log.h"
#include "util/pidmap.h"
#include "util/timens.h"

struct restore_files;  /* files.c: objects opened so far */
struct restore_shared; /* shared-memory.c: shared memory objects */
struct image_ipcs;     /* image/ipc.h */
struct restore_mm;     /* mm.c: the layout as it is now */
struct restore_host;   /* parts.h: what does not change about this machine and program */
struct restore_ptys;   /* pty.c: pseudo-terminals that came with the tree */
struct restore_job;    /* job.c: the terminal and session that are shared */
struct net_lock;
struct net_queue;       /* net/lock.h */

/* Whose child the root of the tree becomes. */
enum restore_parentage {
	RESTORE_DETACHED, /* init's: it lives by itself */
	RESTORE_CHILD,    /* of this program, which waits for it: restore_job_wait() */
	RESTORE_SIBLING,  /* of this program's parent (CLONE_PARENT), which sees its end also when the restore fails */
};

struct restore_options {
	bool checkpoint; /* from a directory, not in a move: what is written to by the tree gets the content that it had */
	bool tcp_close; /* established TCP connections become closed ones */
	bool tcp_established; /* they go on; without either they are an error */
	bool ext_unix;  /* UNIX sockets whose other end did not come along: connected by name again, or closed */
	bool shell_job; /* the tree gets this program's session and terminal, see job.c; needed for a dump of a shell job */
	int terminal_fd; /* shell_job: the terminal, opened for reading and writing; borrowed. -1: there is none */
	enum restore_parentage parentage;
};

/* The clocks of the tree: clocks.c. */
struct restore_clocks {
	bool decided;                  /* the rest is set; once, by the first layout */
	bool continuous;               /* they go on from what they showed on the source */
	struct timens_offsets offsets; /* against the machine's clocks */
	struct timens_offsets own;     /* those of this program, while `continuous` */
};

/* A process being built. */
struct restore_process {
	pid_t pid;
	struct restore_process *parent; /* NULL for the root; borrowed */
	struct tracee_process *tracee;  /* the stopped shell; owned. tracee->mem_fd, tracee->pidfd are its descriptors */
	struct restore_process *maker;  /* whose clone it is: its parent, or a sibling with the same memory; borrowed */
	struct restore_process *owner;  /* of the memory that it shares (CLONE_VM); NULL: it has its own; borrowed */
	struct restore_mm *mm;          /* owned; NULL with an owner, and for one that has ended */
	uint32_t files_id;              /* id of its IMAGE_FDINFO records: processes with the same share a descriptor table */
	uint32_t fs_id;                 /* the same of their place in the file system */
	uint32_t sighand_id;            /* and of their signal handlers */
	unsigned shares;                /* CLONE_FILES, CLONE_FS, CLONE_VM, CLONE_SIGHAND: it has its maker's */
	pid_t session;                  /* in which it is, with the number that the images have for it */
	bool created;                   /* by the last restore_tree_layout(): memory is the parent's copy */
	bool fresh;                     /* or, with this, nothing */
	bool kept;                      /* outlives its tracer */
	bool is_set_up;                 /* by its first batch, to the last call */
	bool has_attributes;            /* names and guards of its memory are there */
	ARRAY(uint32_t) timers_due;     /* numbers of POSIX timers whose signal is pending; owned */
};

typedef ARRAY(struct restore_process *) restore_process_list;

struct restore_tree {
	const struct restore_options *options; /* borrowed */
	const struct log *log;                 /* borrowed, may be NULL */
	restore_process_list processes;        /* owned; parents before children */
	struct pidmap by_pid;                  /* the same, by PID; owned */
	restore_process_list zombies;          /* shells that are to end; without tracee, when they have; owned */
	struct image_tree before;              /* that the last layout was made for; owned */
	const struct image_set *laid_out;      /* that all of the last layout was made for, and how many records it had; */
	size_t laid_out_count;                 /* never followed */
	const struct image_set *images;        /* the newest, during a call; borrowed */
	int own_pidfd;                         /* pidfd of this process, owned */
	int64_t deadline;                      /* for batches and waits; CLOCK_FOREVER unless the caller sets it */
	unsigned depth;                        /* processes deeper below the root are not made by restore_tree_layout() yet: */
					       /* so a child can be made when its parent has its pages, and shares them. */
					       /* UINT_MAX unless the caller sets it; restore_tree_finish() makes all */
	struct net_lock *lock;                 /* stops TCP connections until the go, which releases it; borrowed or NULL */
	struct net_queue *queue;               /* for connections that nobody has accepted; borrowed, NULL: made when needed */
	struct restore_files *files;           /* owned by files.c, made on first use */
	struct restore_shared *shared;         /* owned by shared-memory.c, made on first use */
	struct image_ipcs *sysv;               /* System V objects made so far, owned by sysv.c; NULL: none */
	struct restore_host *host;             /* owned */
	bool had_terminals;                    /* sessions had terminals of the tree at the last layout */
	struct restore_ptys *ptys;             /* owned by pty.c, made anew by each layout; NULL when finished */
	struct restore_job *job;               /* owned by job.c, made anew by each layout */
	struct restore_clocks clocks;
	bool finished;                         /* restore_tree_finish() succeeded */
	bool kept;                             /* restore_tree_keep() succeeded */
	bool running;                          /* restore_tree_go() let go: nothing is killed any more */
};

int restore_tree_new(const struct restore_options *options, const struct log *log, struct restore_tree **ret,
		     struct error *error);
/* NULL is fine. Kills the shells of a tree that was not let go, and waits until they are gone. */
void restore_tree_free(struct restore_tree *tree);

/*
 * The target's preflight: what of an image set of dump_preflight() cannot be had here - PIDs in use, another vDSO, limits
 * and CPUs that we may not give. Files are restore_files_check()'s. Makes nothing.
 */
int restore_check(const struct image_set *images, struct image_blockers *blockers, struct error *error);

int restore_tree_layout(struct restore_tree *tree, const struct image_set *images, struct error *error);
/*
 * Locks memory ahead of the finish, which does it otherwise: to be called before missing pages are left to a userfaultfd that
 * nobody serves yet, since to lock memory takes all of its pages. After the last layout.
 */
int restore_tree_lock(struct restore_tree *tree, const struct image_set *images, struct error *error);
int restore_tree_finish(struct restore_tree *tree, const struct image_set *images, struct error *error);
/* Names on file systems come to their places, and the shells stop being killed with their tracer. Nothing runs. */
int restore_tree_keep(struct restore_tree *tree, struct error *error);
/* Of a tree that is kept. Cannot fail. */
void restore_tree_go(struct restore_tree *tree);

/*
 * A terminal as it was before a shell job got it. restore_terminal_save() before the restore: -ENOTTY;
 * restore_terminal_back() afterwards gives this program's group the foreground, and the terminal its settings, if it was in
 * the foreground before. Done by restore_job_wait() too.
 */
struct restore_terminal {
	int fd; /* borrowed */
	bool foreground; /* our process group was the terminal's foreground */
	struct termios settings;
};
int restore_terminal_save(int fd, struct restore_terminal *ret, struct error *error);
void restore_terminal_back(const struct restore_terminal *terminal);
/*
 * Waits until the root of a RESTORE_CHILD tree has ended: `ret_status` is waitpid(2)'s. `terminal` is NULL but for a shell
 * job: when that is stopped, this program's process group stops too (SIGTSTP), and continued, continues it. The tree object
 * may be freed before. SIGCHLD must not be ignored: -ECHILD.
 */
int restore_job_wait(pid_t root, struct restore_terminal *terminal, int *ret_status, struct error *error);

/* NULL when there is no such process. One that has ended on the source does not count. */
struct restore_process *restore_tree_find(const struct restore_tree *tree, pid_t pid);

struct restore_range {
	uint64_t start; /* page-aligned address, or offset in a shared object */
	uint64_t size;  /* bytes */
};

/*
 * Writes whole pages at their final address, whatever the protection of the mapping. Private mappings only: a write to
 * shared memory goes through restore_shared_write().
 */
int restore_pages_write(struct restore_process *process, uint64_t address, const void *data, size_t size,
			struct error *error);
/*
 * Drops pages: they read as zeros, or as the file's, again. One batch. Ranges may cross mappings, but must be mapped.
 * Private mappings only.
 */
int restore_pages_drop(struct restore_tree *tree, struct restore_process *process, const struct restore_range *ranges,
		       size_t count, struct error *error);

/*
 * Content of a shared memory object (dump/shared-memory.h), by offset: what lies behind its end is left out, and an offset
 * there is -EPROTO. restore_shared_drop() makes holes.
 */
int restore_shared_write(struct restore_tree *tree, uint32_t id, uint64_t offset, const void *data, size_t size,
			 struct error *error);
int restore_shared_drop(struct restore_tree *tree, uint32_t id, uint64_t offset, uint64_t size, struct error *error);
/*
 * A new open file description of an object, with flags as of open(2), for a memfd descriptor. The caller closes it.
 * -ENOENT when no IMAGE_SHARED_MEMORY record named it.
 */
int restore_shared_open(struct restore_tree *tree, uint32_t id, int flags, int *ret_fd, struct error *error);

/*
 * What restore/files.h offers to the rest of this folder (implemented there):
 *
 *   int restore_files_prepare(tree, images, error)     opens ahead what can be opened; called by restore_tree_layout()
 *   int restore_files_apply(tree, images, error)       all descriptors of all processes; called by restore_tree_finish()
 *                                                      while every process is root and has no limit on descriptors yet
 *   int restore_file_map(tree, file_id, int prot, bool shared, int *ret_fd, error)
 *                                                      a descriptor fit to mmap a file with; the caller closes it
 *   int restore_file_link(tree, file_id, int *ret_fd, error)
 *                                                      O_PATH descriptor of an exe, cwd or root; the caller closes it
 *   void restore_files_free(struct restore_files *files)
 */
