/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target side of post-copy: a process runs while pages of it are still on the source.
 *
 *   lazy_new()            nothing yet
 *   lazy_add()            once for each shell that has missing pages: takes a userfaultfd out of it and registers
 *   lazy_keeper_start()   a second process holds the userfaultfds as well, so that the end of this one loses no page
 *   lazy_run_faults()     answers faults until nothing is missing (return 0) or the stream breaks (call it again)
 *   lazy_install()        pages that come by themselves (pushed), from any thread
 *   lazy_free()           the end
 *
 * Pages are named as on the source: by the PID that the process has there and the address that they have there; where
 * the running process has moved them to (mremap), or copied them (fork), is known in here.
 *
 * Only private anonymous memory can have missing pages. A page of a registered mapping that is neither present nor
 * missing is zero: the fault is answered at once.
 *
 * From lazy_add() on, whoever reads a missing page waits until lazy_run_faults() runs, and so does the kernel on behalf
 * of the process, and whoever changes a registered mapping (munmap, mremap, MADV_DONTNEED, fork) waits until
 * lazy_run_faults() takes note. So what the rest of the restore touches (struct rseq of a thread that registers it,
 * pages of mlock(2) without MLOCK_ONFAULT) must not be missing, or lazy_run_faults() must run already: it may, from
 * lazy_add() on, in another thread.
 *
 * The last close of a userfaultfd makes missing pages read as zeros. So lazy_free() ends the processes first while
 * anything is missing (lazy_leave() leaves them to the keeper).
 *
 * Threads: lazy_install() and lazy_statistics() from any thread at any time between lazy_new() and lazy_free();
 * lazy_run_faults() in one thread at a time; lazy_add() and the keeper calls in one thread, not beside
 * lazy_run_faults().
 *
 * Relies on: userfaultfd with EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, EVENT_UNMAP (4.11), pidfd_getfd (5.6); POISON
 * (6.6) where it is there. userfaultfd(2), ioctl_userfaultfd(2). Needs CAP_SYS_PTRACE.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tracee/tracee.h"
#include "transport/stream.h"
#include "util/error.h"
#include "util/log.h"
#include "util/procfs.h"

struct lazy;

/* Missing pages, by the address on the source, which at lazy_add() is the one here too. */
struct lazy_run {
	uint64_t address; /* page aligned */
	uint64_t pages;   /* at least 1 */
};

struct lazy_statistics {
	uint64_t missing_left; /* pages that are still to come, in all processes; forked copies count, too */
	uint64_t installed;    /* pages put into processes, requested or pushed; zero pages too */
	uint64_t faults;       /* faults that had to wait for the source */
	uint64_t zero_filled;  /* faults answered with zeros at once */
	uint64_t p50_us;       /* latency of `faults` from the reading of the fault to the page being there, median */
	uint64_t p99_us;
	uint64_t longest_us;
};

/* -EOPNOTSUPP: a kernel without what is needed. `log` is borrowed, may be NULL. */
int lazy_new(const struct log *log, struct lazy **ret, struct error *error);

/*
 * Closes the userfaultfds. While pages are missing it kills the processes before that, and waits (2 s at most) until
 * their memory is gone; what cannot be killed gets SIGBUS instead of zeros. Ends the keeper. Not beside any other call.
 * NULL is fine.
 */
void lazy_free(struct lazy *lazy);

/* As lazy_free(), but with pages missing and a keeper running nothing is killed: the keeper goes on holding. */
void lazy_leave(struct lazy *lazy);

/*
 * Called by the tracer of `shell` while it is stopped, its memory is laid out, and none of the `missing` pages is
 * present. `missing` may be in any order; runs may touch but not overlap. `maps` are the mappings of the shell (NULL:
 * read here); those that hold missing pages are registered as a whole. No descriptor stays in the shell. With count 0
 * it does nothing. Once for each shell. -EINVAL: a missing page is in no mapping. Blocks until `deadline`.
 */
int lazy_add(struct lazy *lazy, struct tracee_process *shell, const struct lazy_run *missing, size_t count,
	     const struct procfs_maps *maps, int64_t deadline, struct error *error);

/*
 * Another shell has the memory of one that was added (CLONE_VM): it, too, ends before missing pages would turn into zeros.
 * -ENOMEM, or what duplicating its pidfd gives.
 */
int lazy_add_sharer(struct lazy *lazy, const struct tracee_process *shell, struct error *error);

/*
 * Puts pages into all processes that still miss them; ignores the rest (duplicates, pages nobody misses, unknown PIDs).
 * `data` is pages * 4096 bytes, or NULL: they are zero. Blocks while a process changes its memory map and
 * lazy_run_faults() has not taken note of it (forever if nobody runs it and the process runs), and for as long as the
 * kernel copies.
 */
int lazy_install(struct lazy *lazy, pid_t source_pid, uint64_t source_address, const void *data, size_t pages,
		 struct error *error);

/*
 * The fault thread. With NULL for `urgent` it only follows what the processes do, answers what is zero and lets
 * lazy_install() work, until nothing is missing or it is cancelled: for the time until a broken stream is replaced.
 * With a stream it sends WIRE_PAGE_REQUEST on `urgent`, takes WIRE_PAGES (data or zeros) from it, installs. Returns 0
 * when nothing is missing any more: then no process has a trace of it, and the keeper has ended. Returns an error when
 * the stream breaks or ends (-ECONNRESET, ...) or -ECANCELED when `cancel_fd` (-1: none; borrowed) becomes readable:
 * faults wait, and it may be called again, with another stream, on which everything that is waited for is asked for
 * again. The stream stays the caller's. A page number, kind or size that nobody may send is -EPROTO. -ENOTRECOVERABLE:
 * no memory to follow what a process does to its memory map: nothing is left but lazy_free().
 */
int lazy_run_faults(struct lazy *lazy, struct stream *urgent, int cancel_fd, struct error *error);

void lazy_statistics(struct lazy *lazy, struct lazy_statistics *ret);

/*
 * To be called first in main() by every program that calls lazy_keeper_start(), since the keeper is the same program
 * (/proc/self/exe): returns at once, or never.
 */
void lazy_keeper_enter(int argc, char **argv);

/*
 * Starts the keeper: a process of its own, child of init, that holds the userfaultfds and what is missing, and listens
 * at the UNIX socket `socket_path` (made here with mode 0600; removed by the keeper when it ends). Before the process
 * runs, in any order with lazy_add(); it takes some 10 ms, so early is better. It ends by itself when nothing is missing
 * any more or no process is left, and when lazy_free() comes before the first lazy_add(). SIGTERM: it kills the
 * processes, then ends. `ret_pid` may be NULL.
 */
int lazy_keeper_start(struct lazy *lazy, const char *socket_path, pid_t *ret_pid, struct error *error);

/*
 * `lost` is called by lazy_run_faults() when a keeper has gone that was not told to: once for each. It may start another.
 */
void lazy_keeper_on_loss(struct lazy *lazy, void (*lost)(void *context), void *context);

/*
 * In a new pageserver: takes over from the keeper of one that is gone. Then call lazy_run_faults(). -ENOENT or
 * -ECONNREFUSED: no keeper is there, so no process that it held for can be there with pages missing, unless someone
 * killed the keeper with SIGKILL.
 */
int lazy_keeper_fetch(const struct log *log, const char *socket_path, struct lazy **ret, struct error *error);
