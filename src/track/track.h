/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which pages of a running process were written, asked from outside and without stopping it.
 *
 * How it is used:
 *
 *	track_probe(&kind)                        once: what works on this kernel
 *	track_start(process, kind, &track)        with one thread stopped; the thread may be released at once after it
 *	each round, the process running:
 *		procfs_read_maps(pid, &maps)
 *		track_update(track, &maps, 0)                           in a short stop, if track_wants_stop(track, &maps)
 *		track_scan(track, start, end, TRACK_PROTECT, &runs)     for each mapping of `maps`
 *		... only now read the pages in `runs` and send them ...
 *	the last round, all threads frozen:
 *		procfs_read_maps(pid, &maps)
 *		track_update(track, &maps, TRACK_STOPPED)
 *		track_scan(track, start, end, 0, &runs)                 what was written
 *		track_absent(track, start, end, &gone)                  what the target has to drop, if it has it
 *	track_stop(track)
 *
 * What is promised. A page that is written after the scan that reported it will be reported by a later scan, so
 * reading it any time after that scan is right. Pages of a mapping that is new (mmap, mremap, a grown heap or stack,
 * something else at an old address) all count as written in the first round that sees the mapping. A mapping that
 * appears or changes between track_update() and track_scan() may be left out by that scan and comes with the next
 * round; thus only a round with the process frozen is complete. More than what was written may be reported: a page
 * read for the first time, for one.
 *
 * Pages that were dropped (MADV_DONTNEED, or a mapping that made place for a new one) are not reported as written; they
 * are found by track_absent(), or by not being in track_present() or in a scan with TRACK_ALL. It is enough to look for
 * them once, in the last round. (In a private mapping of a file, what was a copy may then be the file's page again, which is
 * neither absent nor written: look for TRACK_FILE in track_present().) track_absent() is the cheap one: 0.5 ms a GiB, the
 * others 3 ms. A page that became a guard is reported, as TRACK_WRITTEN | TRACK_GUARD.
 *
 * What is not seen, on any kernel: writes into shared memory that do not go through this process's mappings (another
 * process, write(2) on a memfd); and writes by devices or io_uring into pages pinned before the scan (VmPin in
 * /proc/PID/status, registered buffers): copy those again at the freeze. A read(2) with O_DIRECT pins, too, until it returns:
 * stop the process for the scan.
 *
 * What the program may notice: a page fault of some 0.8 us at the first write to each page after a protecting scan; that a
 * new mapping beside a tracked one is not made one with it, until the next round; and if it begins to use a userfaultfd of its
 * own on a mapping that is tracked, it gets EBUSY.
 *
 * One `struct track` is one address space. A fork's child is not tracked: start a track of its own for it. When the
 * process called execve() or ended, track_update() answers -ESRCH; stop the track then.
 *
 * Nothing here blocks for longer than the kernel needs; a track is used by one thread at a time. TRACK_PAGEMAP_SCAN
 * needs Linux 6.7 (userfaultfd WP_ASYNC and PAGEMAP_SCAN, ioctl_userfaultfd(2), Documentation/admin-guide/mm/
 * pagemap.rst), TRACK_SOFT_DIRTY CONFIG_MEM_SOFT_DIRTY and CAP_SYS_ADMIN. Telling swapped pages from mere markers takes
 * CAP_SYS_ADMIN, too; without it markers count as swapped pages, which read as zeros.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/array.h"
#include "util/error.h"
#include "util/procfs.h"

#define TRACK_PAGE UINT64_C(4096)

struct tracee_process;
struct track;

enum track_kind {
	TRACK_PAGEMAP_SCAN, /* userfaultfd WP_ASYNC and PAGEMAP_SCAN: exact, scan and protect are one step per page */
	TRACK_SOFT_DIRTY,   /* clear_refs and bit 55: see TRACK_STOPPED */
};

/* Flags of a run: what the pages have in common. One of PRESENT, SWAPPED and GUARD is there but for track_absent(). */
enum {
	TRACK_WRITTEN = 1 << 0, /* written since the last protecting scan, or new, or not tracked */
	TRACK_PRESENT = 1 << 1, /* has a page in memory */
	TRACK_SWAPPED = 1 << 2, /* has a page, not in memory (swap; migrating) */
	TRACK_ZERO = 1 << 3,    /* the kernel's zero page, present: reads as zeros, no need to read it */
	/*
	 * A page of the page cache. In a private file mapping: as the file has it, not copied by the process. Shared
	 * memory (memfd, shared anonymous, tmpfs) always has it.
	 */
	TRACK_FILE = 1 << 4,
	TRACK_GUARD = 1 << 5, /* a guard page (MADV_GUARD_INSTALL): no content, reading fails; never PRESENT or SWAPPED */
	TRACK_HUGE = 1 << 6,  /* mapped by a huge page at the time of the scan */
	TRACK_POISONED = 1 << 7, /* no content: an access ends in SIGBUS (UFFDIO_POISON); comes with TRACK_SWAPPED */
};

struct track_run {
	uint64_t start; /* address of the first page */
	uint64_t pages; /* number of pages, > 0 */
	uint32_t flags; /* TRACK_WRITTEN ... */
};

struct track_runs {
	struct track_run *items; /* by address within each scan, not overlapping */
	size_t count;
	size_t capacity;
};

/* A part of the address space whose writes are not seen. */
struct track_range {
	uint64_t start; /* first address */
	uint64_t end;   /* first address behind it */
	int code;       /* why: -EBUSY: the program's own userfaultfd is there; else what the kernel answered */
};

struct track_ranges {
	struct track_range *items; /* by address */
	size_t count;
	size_t capacity;
};

/* Flags of track_scan(); one or none of them. */
enum {
	TRACK_PROTECT = 1 << 0, /* what is reported counts as clean from now on */
	TRACK_ALL = 1 << 1,     /* pages with content or guards that were not written are reported, too */
};

/*
 * Flag of track_update(): no thread can write to the address space now, and none will before the call returns; nor could it
 * since `maps` was read. Callers stop the process for that moment if, and only if, track_wants_stop() says so:
 * - TRACK_PAGEMAP_SCAN works without it, but where a mapping changes while it comes to be tracked, tracking may begin in the
 *   middle of it: to the kernel it is two mappings then, over which the program's next mremap(2) fails with EFAULT.
 * - TRACK_SOFT_DIRTY can only start counting anew in such a moment, because the kernel has no step that reads and clears;
 *   without it each scan reports everything written since the last update that had the flag (more than necessary, never less).
 */
enum {
	TRACK_STOPPED = 1 << 0,
};

/*
 * Finds out by trying, on a child process made for it, what works on this kernel: the best kind that reported a write
 * and did not report what was not written. -EOPNOTSUPP if none does. Takes some milliseconds; blocks that long.
 */
int track_probe(enum track_kind *ret, struct error *error);
/* The same for one kind: 0 if it works, else a negative errno with the cause. */
int track_probe_kind(enum track_kind kind, struct error *error);
const char *track_kind_name(enum track_kind kind);

/*
 * Begins to track. At least one thread of the process is stopped by the caller, who may let it go on right
 * afterwards; nothing is left in it but (invisible) registrations on its mappings, which go with track_stop() or with
 * this process's end, whatever ends it. -EPERM or -ENOSYS where a seccomp filter denies userfaultfd(2).
 * -EBADF: a thread that was not stopped has closed the descriptor inside before it could be taken out.
 */
int track_start(struct tracee_process *process, enum track_kind kind, struct track **ret, struct error *error);

/*
 * The same with a userfaultfd that the caller already has: made by the process `pid`, UFFDIO_API not done yet. It is
 * owned by the track from now on, on failure, too; -1 for TRACK_SOFT_DIRTY.
 */
int track_open(pid_t pid, enum track_kind kind, int userfaultfd, struct track **ret, struct error *error);

/* Ends tracking: /proc/PID/maps is as if it had never been. NULL is ok, so is a process that is gone. */
void track_stop(struct track *track);

/*
 * Begins a round: mappings that are not tracked yet are from now on. `maps` is fresh from procfs_read_maps() and only
 * read. -ESRCH when the address space is gone. A single mapping that cannot be tracked is no failure, see
 * track_untracked().
 */
int track_update(struct track *track, const struct procfs_maps *maps, unsigned int flags, struct error *error);

/*
 * What the last track_update() could not track though it may be written to; valid until the next one. Mappings that
 * hold no memory of the process's own are not in it: shared mappings of files on disk and of devices.
 */
const struct track_ranges *track_untracked(const struct track *track);

/*
 * Appends the written pages (with TRACK_ALL: all pages) from `start` to `end` (multiples of the page size, may cross
 * mappings and holes) to `runs`. What track_untracked() names is left out with TRACK_PROTECT, and reported whole as
 * written without. Runs that were appended before a failure are valid, and if TRACK_PROTECT was given nothing that was
 * left out is lost; but a kernel that failed half-way through leaves the track unusable, which all calls then say.
 */
int track_scan(struct track *track, uint64_t start, uint64_t end, unsigned int flags, struct track_runs *runs,
	       struct error *error);

/*
 * Appends the pages that have content or are guards, written or not; never TRACK_WRITTEN. Works on all mappings,
 * untracked ones, too. Changes nothing. For shared memory it means "in this process's page tables", which is less than
 * what the shared object holds: ask the object (SEEK_DATA) for its first copy. The same holds for track_scan().
 */
int track_present(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error);

/*
 * Appends the pages inside mappings that are neither content nor guards; flags are 0. Places where nothing is mapped
 * are not in it. For shared memory absent means "not in the page tables": the object may have content there.
 */
int track_absent(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error);

enum track_kind track_kind(const struct track *track);

/*
 * Should the process be stopped, `maps` be read again then, and TRACK_STOPPED be given to the track_update() that follows?
 * `maps` is fresh.
 */
bool track_wants_stop(struct track *track, const struct procfs_maps *maps);

void track_runs_deinit(struct track_runs *runs);
/* Sum of the pages of the runs that have all of `flags`. */
uint64_t track_runs_pages(const struct track_runs *runs, uint32_t flags);
