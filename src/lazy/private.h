/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of this folder share; nothing outside includes it.
 *
 * Model. A *space* is one address space of which pages may be missing: a userfaultfd, and two tables. `chunks` say for
 * ranges of source addresses which pages are missing, a bit each; they never move. `areas` say where in the running
 * process a range of source addresses lives now; mremap, munmap and the like change only them. A fork makes a new space
 * with a copy of both. The bits are in shared memory (a memfd), so that the keeper has them when this process is
 * killed.
 *
 * Locks. `lazy.lock` is a read-write lock: held for reading by who installs, from the look at the tables to the end of
 * the ioctl; held for writing by who reads a userfaultfd, from the read to the end of the bookkeeping. So no page is
 * ever put where it belonged before an event. While an event waits to be read the kernel refuses UFFDIO_COPY with
 * EAGAIN. `waiting_lock` is taken inside `lock`, and guards `waiting`.
 */
#pragma once

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "lazy.h"

#include "util/array.h"
#include "util/bitmap.h"
#include "util/clock.h"

#define LAZY_PAGE UINT64_C(4096)

/* Pages put under one hold of the lock: a fault that is read meanwhile waits so long. */
#define LAZY_SLICE_PAGES 16u

#define LAZY_HISTOGRAM 256

struct lazy_chunk {
	uint64_t source;       /* address of the first page on the source */
	struct bitmap missing; /* one bit a page; words are in the space's map. Cleared atomically */
	struct bitmap asked;   /* requested on this stream already, as a neighbour; owned, fault thread only */
};

#define LAZY_LOG_MESSAGES 16

/*
 * What was read from a space's userfaultfd last, in memory that the keeper has as well: an event is gone from the kernel
 * when it is read, so it is read to here, and crossed out (event 0) when it is in the tables and told to the keeper.
 */
struct lazy_log {
	uint64_t batch;                             /* number of the last read */
	struct uffd_msg messages[LAZY_LOG_MESSAGES]; /* what it gave */
};

/* The userfaultfd of a fork's child that is in no tables yet, held by the keeper. */
struct lazy_orphan {
	unsigned slot; /* of its event in the log */
	int uffd;      /* owned */
};

struct lazy_area {
	uint64_t target; /* where it is in the process */
	uint64_t source; /* what was there on the source */
	uint64_t pages;
};

struct lazy_space {
	uint32_t id;                     /* names it to the keeper */
	pid_t source_pid;                /* whose pages they are */
	pid_t pid;                       /* here; 0: a fork that has not been seen yet */
	int uffd;                        /* owned; non-blocking */
	int pagemap_fd;                  /* of the process that it seems to be, owned; -1: none */
	atomic_bool pagemap_proven;      /* it is that of this space: see guards.c */
	int map_fd;                      /* owned: memfd with the chunks' table and bits */
	void *map;                       /* the whole of it, owned */
	size_t map_size;                 /* bytes */
	struct lazy_log *log;            /* in the map */
	uint64_t areas_batch;            /* keeper: the log's batch that `areas` include */
	uint64_t fork_batch;             /* keeper: the batch of which */
	uint32_t fork_slots;             /* these forks' children have come as spaces of their own */
	ARRAY(struct lazy_orphan) orphans; /* keeper, and successor: of the log's forks */
	ARRAY(struct lazy_area) staged;  /* keeper: areas of which not all have come */
	ARRAY(struct lazy_chunk) chunks; /* by source address, disjoint */
	ARRAY(struct lazy_area) areas;   /* by target address, disjoint */
	_Atomic uint64_t missing;        /* bits set */
	atomic_bool gone;                /* its memory is no more */
};

/* A fault that waits for the source. */
struct lazy_waiting {
	uint32_t space;  /* id */
	pid_t pid;       /* source PID */
	uint64_t target; /* page, here */
	uint64_t source; /* page, on the source */
	int64_t since;   /* when it was read */
	bool asked;      /* on the present stream */
};

/* A process that has to end before its userfaultfd does. */
struct lazy_victim {
	pid_t pid;
	int pidfd; /* owned */
};

struct lazy {
	const struct log *log;                      /* borrowed, may be NULL */
	pthread_rwlock_t lock;                      /* see above; prefers writers */
	ARRAY(struct lazy_space *) spaces;          /* owned */
	uint32_t next_id;                           /* for a new space */
	uint64_t features;                          /* UFFD_FEATURE_* that are asked for */
	int wake_fd;                                /* eventfd: a space may be complete; owned */
	pthread_mutex_t waiting_lock;               /* guards waiting */
	ARRAY(struct lazy_waiting) waiting;         /* faults that wait */
	_Atomic size_t waiting_count;               /* waiting.count, to be seen without the lock */
	ARRAY(struct lazy_victim) victims;          /* processes known so far; tracer's or fault thread */
	atomic_bool lost;                           /* an event could not be followed: the tables are wrong */
	bool walk_due;                              /* a fork was seen: look for its child */
	int keeper_fd;                              /* link to the keeper, owned; -1: none */
	bool keeper_wanted;                         /* one was started or found, and not told to end */
	void (*keeper_lost)(void *context);         /* may be NULL */
	void *keeper_context;                       /* borrowed */
	_Atomic uint64_t installed;                 /* pages */
	_Atomic uint64_t faults;                    /* that had to wait */
	_Atomic uint64_t zero_filled;               /* faults */
	_Atomic uint64_t longest_us;                /* latency */
	_Atomic uint64_t histogram[LAZY_HISTOGRAM]; /* of latencies, see install.c */
};

/* ---- space.c: tables. The caller holds the lock as said above. */

struct lazy_extent {
	uint64_t source; /* page aligned */
	uint64_t pages;
};

/* Nothing is missing at first; each extent is an area at its own address. Takes `uffd` on success. */
int lazy_space_new(pid_t source_pid, const struct lazy_extent *extents, size_t count, int uffd,
		   struct lazy_space **ret);
/* A copy for the child of a fork. Takes `uffd` on success. */
int lazy_space_copy(const struct lazy_space *space, int uffd, struct lazy_space **ret);
/* From another process: takes both descriptors on success. Areas are empty. */
int lazy_space_open(pid_t source_pid, pid_t pid, int uffd, int map_fd, struct lazy_space **ret);
/* Closes the userfaultfd. NULL is fine. */
void lazy_space_free(struct lazy_space *space);
void lazy_space_set_missing(struct lazy_space *space, uint64_t source, uint64_t pages);

struct lazy_area *lazy_space_find_target(const struct lazy_space *space, uint64_t target);
/* Where a source page is now; false: nowhere. `ret_pages`: how many from there on are side by side. */
bool lazy_space_locate(const struct lazy_space *space, uint64_t source, uint64_t *ret_target, uint64_t *ret_pages);
struct lazy_chunk *lazy_space_find_chunk(const struct lazy_space *space, uint64_t source);
bool lazy_space_is_missing(const struct lazy_space *space, uint64_t source);
/* Pages from `source` on that are missing without a gap, `most` at most. */
uint64_t lazy_space_missing_run(const struct lazy_space *space, uint64_t source, uint64_t most);
/* Clears bits, also with the lock held for reading; true if that completed the space. */
bool lazy_space_clear(struct lazy_space *space, uint64_t source, uint64_t pages);

/* The process has unmapped / emptied / moved a range. Lock held for writing. */
int lazy_space_unmap(struct lazy_space *space, uint64_t start, uint64_t end);
void lazy_space_empty(struct lazy_space *space, uint64_t start, uint64_t end);
int lazy_space_remap(struct lazy_space *space, uint64_t from, uint64_t to, uint64_t size);

/* ---- userfault.c: the kernel's side */

int lazy_userfault_features(uint64_t *ret, struct error *error);
int lazy_userfault_take(struct tracee_process *process, uint64_t features, int64_t deadline, int *ret_fd,
			struct error *error);
int lazy_userfault_register(int fd, uint64_t start, uint64_t end);
/*
 * Pages copied (data NULL: zeros), at least 1; or -EEXIST (the first is there), -ENOENT (no mapping of this userfaultfd
 * has all of them), -EAGAIN (an event is to be read), -ESRCH (the memory is gone), or another errno.
 */
int64_t lazy_userfault_put(int fd, uint64_t target, const void *data, uint64_t pages);
void lazy_userfault_wake(int fd, uint64_t start, uint64_t size);
/* As lazy_userfault_put(); who reads such a page gets SIGBUS. */
int64_t lazy_userfault_poison(int fd, uint64_t target, uint64_t pages);
bool lazy_userfault_alive(int fd);
/* An event other than a fault is on its way, or waits to be read. */
bool lazy_userfault_changing(int fd);

/* ---- lazy.c */

int lazy_make(const struct log *log, struct lazy **ret, struct error *error);
/* Frees memory and closes what is open, whatever is missing. */
void lazy_destroy(struct lazy *lazy);
int lazy_insert_space(struct lazy *lazy, struct lazy_space *space);
struct lazy_space *lazy_find_space(const struct lazy *lazy, uint32_t id);
/* Pages missing in all spaces that are there. Lock held. */
uint64_t lazy_missing(const struct lazy *lazy);
void lazy_wake(struct lazy *lazy);
/* Frees spaces with nothing missing, and those that are gone; tells the keeper. */
void lazy_reap(struct lazy *lazy);

/* ---- install.c */

/* One slice, to be retried after -EAGAIN when events have been read. */
int lazy_install_slice(struct lazy *lazy, pid_t source_pid, uint64_t source, const void *data, size_t pages,
		       struct error *error);
/* Lock held for writing. */
int lazy_waiting_add(struct lazy *lazy, const struct lazy_space *space, uint64_t target, uint64_t source);
/* Forgets who waits in the range; `served`: because it is there, so it counts in the statistics. */
void lazy_waiting_end(struct lazy *lazy, const struct lazy_space *space, uint64_t target, uint64_t size, bool served);

/* ---- guards.c */

/* Opens the page map of `pid`, of which it is known, or only seems, that it has this space. Lock held for writing. */
int lazy_guards_watch(struct lazy_space *space, pid_t pid, bool known);
/* How many pages from `target` on may be copied to; if not all, behind them come `ret_guarded` that must not. */
uint64_t lazy_guards_look(const struct lazy_space *space, uint64_t target, uint64_t pages, uint64_t *ret_guarded);
/* As lazy_userfault_put(), and takes it as a proof of whose page map it is. */
int64_t lazy_guards_put(struct lazy_space *space, uint64_t target, const void *data, uint64_t pages);

/* ---- events.c */

/* Reads what a userfaultfd says, under the lock. 0, or an error that is not the process's fault. */
int lazy_events_read(struct lazy *lazy, struct lazy_space *space, struct error *error);
/*
 * Applies what a server that is gone has read and not finished. -ENOTRECOVERABLE: a fork's userfaultfd was lost. Nobody
 * else uses the object meanwhile.
 */
int lazy_events_replay(struct lazy *lazy, struct error *error);

/* ---- kill.c */

int lazy_victim_add(struct lazy *lazy, pid_t pid, int pidfd);
/* Looks for children of the victims; tells the keeper about new ones. */
void lazy_victim_walk(struct lazy *lazy);
/* Ends all processes that miss pages. True if every userfaultfd may be closed. */
bool lazy_kill(struct lazy *lazy);
/* Makes all missing pages of a space SIGBUS, through `uffd` (its own, or that of a copy). */
int lazy_poison(const struct lazy_space *space, int uffd);

/* ---- keeper-link.c: messages between a pageserver and its keeper */

enum lazy_link_kind {
	LAZY_LINK_SPACE = 1, /* with userfaultfd and map */
	LAZY_LINK_AREAS,     /* the areas of a space, or more of them */
	LAZY_LINK_GONE,      /* a space needs no holding any more */
	LAZY_LINK_PID,       /* a victim, with its pidfd */
	LAZY_LINK_DONE,      /* the keeper may end */
	LAZY_LINK_FETCH,     /* asks for all of these */
	LAZY_LINK_END,       /* that was all */
	LAZY_LINK_FORK,      /* a fork's userfaultfd, to be held until its space comes */
	LAZY_LINK_READ,      /* asks the keeper to read a userfaultfd to its log */
	LAZY_LINK_EVENTS,    /* the answer, with the userfaultfds of forks in the log's order */
};

/* These keep quiet without a keeper, and go on without it when it is gone. */
void lazy_link_space(struct lazy *lazy, const struct lazy_space *space);
/* The space of the child whose birth is in the parent's log. */
void lazy_link_child(struct lazy *lazy, const struct lazy_space *child, const struct lazy_space *parent, unsigned slot);
void lazy_link_fork(struct lazy *lazy, const struct lazy_space *parent, unsigned slot, int uffd);
/* Has the keeper read to the log, and makes the descriptors in it ours: messages, or an error; -ENOTCONN: no keeper. */
int lazy_link_read(struct lazy *lazy, struct lazy_space *space);
void lazy_link_areas(struct lazy *lazy, const struct lazy_space *space);
void lazy_link_gone(struct lazy *lazy, const struct lazy_space *space);
void lazy_link_pid(struct lazy *lazy, const struct lazy_victim *victim);
/* Tells the keeper to end, and waits until it has. */
void lazy_link_done(struct lazy *lazy);
/* Sends all of it, and END. */
void lazy_link_everything(struct lazy *lazy);
/* The server has gone: what of the logs the keeper has been told is crossed out. False: a fork was lost. */
bool lazy_link_settle(struct lazy *lazy);
/* Asks the keeper at the other end for all of it: 0, or a negative errno. */
int lazy_link_ask(int fd);
/* Takes one message and applies it, or answers it; returns its kind, 0 at the end of the link, or a negative errno. */
int lazy_link_receive(struct lazy *lazy, int fd);

/* ---- keeper.c: lazy_keeper_enter(), and how keeper-start.c starts it: under this name, with the socket's path */

#define LAZY_KEEPER_NAME      "pagestream-keeper"
#define LAZY_KEEPER_LISTEN_FD 3
#define LAZY_KEEPER_LINK_FD   4
#define LAZY_KEEPER_FD_END    5
