/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The calls that all trackers have, and how a userfaultfd gets out of a process.
 *
 * A userfaultfd belongs to the address space of whoever called userfaultfd(2), wherever its descriptor goes. So one
 * stopped thread is made to create it, pidfd_getfd(2) copies the descriptor to us, and the thread closes its own. If we
 * die in between, the thread closes it by itself (an undo call of the batch). UFFD_USER_MODE_ONLY needs no
 * privilege, and is no restriction here: with WP_ASYNC the kernel resolves all faults by itself, those of its own
 * accesses included.
 *
 * Failure modes: a seccomp filter denies the call (its errno, -EPERM or -ENOSYS mostly; a filter that kills is not
 * survivable and not detectable here); the process has no free descriptor (-EMFILE).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "private.h"

#include "tracee/tracee.h"
#include "util/cleanup.h"

#define TAKE_DEADLINE (5 * CLOCK_S)

/* First address that is not a process's own (4-level page tables); [vsyscall] is behind it. */
#define USER_END UINT64_C(0x7ffffffff000)

static void cleanup_batch(struct tracee_batch **batch)
{
	tracee_batch_free(*batch);
}

#define _cleanup_batch_ _cleanup_(cleanup_batch)

const char *track_kind_name(enum track_kind kind)
{
	return kind == TRACK_PAGEMAP_SCAN ? "pagemap-scan" : "soft-dirty";
}

/* Closes descriptor `fd` inside the process, unless another thread of it has done that: some close whatever is open. */
static int close_inside(struct tracee_thread *thread, int fd, struct error *error)
{
	int64_t result;
	int r;

	r = tracee_thread_call(thread, clock_deadline(TAKE_DEADLINE), &result, error, SYS_close, (uint64_t)fd, 0, 0, 0,
			       0, 0);
	if (r < 0)
		return r;
	if (result < 0 && result != -EBADF)
		return error_set_errno(error, (int)result, "PID %d: close of the userfaultfd", thread->process->pid);
	return 0;
}

/*
 * Creates a userfaultfd for the address space of a stopped process; nothing of it stays in the process. -EBADF: another thread
 * has closed it before it was taken.
 */
static int take_userfaultfd(struct tracee_process *process, int *ret_fd, struct error *error)
{
	_cleanup_batch_ struct tracee_batch *batch = tracee_batch_new();
	_cleanup_fd_ int fd = -1;
	struct tracee_thread *thread;
	int r, inside, code;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	if (process->threads.count == 0)
		return error_set(error, -EINVAL, "PID %d: no thread is stopped", process->pid);
	thread = process->threads.items[0];
	tracee_batch_call(batch, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	tracee_batch_undo(batch, SYS_close, TRACEE_RESULT(0));
	r = tracee_batch_run(thread, batch, clock_deadline(TAKE_DEADLINE), error);
	if (r < 0)
		return error_wrap(error, r, "cannot track the written pages");
	inside = (int)tracee_batch_result(batch, 0);
	fd = tracee_process_getfd(process, inside);
	code = -fd;
	r = close_inside(thread, inside, error);
	if (fd < 0)
		return error_set_errno(error, -code, "PID %d: pidfd_getfd of its userfaultfd", process->pid);
	if (r < 0)
		return r;
	*ret_fd = steal_fd(&fd);
	return 0;
}

int track_start(struct tracee_process *process, enum track_kind kind, struct track **ret, struct error *error)
{
	int userfaultfd = -1;
	int r;

	if (kind == TRACK_PAGEMAP_SCAN) {
		r = take_userfaultfd(process, &userfaultfd, error);
		if (r < 0)
			return r;
	}
	return track_open(process->pid, kind, userfaultfd, ret, error);
}

static int open_pagemap(struct track *track, struct error *error)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", procfs_live_thread(track->pid));
	track->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (track->pagemap_fd < 0)
		return error_set_errno(error, -errno, "%s", path);
	return 0;
}

int track_open(pid_t pid, enum track_kind kind, int userfaultfd, struct track **ret, struct error *error)
{
	struct track *track;
	int r;

	r = kind == TRACK_PAGEMAP_SCAN ? track_pagemap_scan_new(userfaultfd, &track, error) :
					 track_soft_dirty_new(&track, error);
	if (r < 0)
		return r;
	track->kind = kind;
	track->pid = pid;
	track->pagemap_fd = -1;
	r = open_pagemap(track, error);
	if (r >= 0)
		r = kind == TRACK_PAGEMAP_SCAN ? track_pagemap_scan_prepare(track, error) :
						 track_soft_dirty_prepare(track, error);
	if (r < 0) {
		track_stop(track);
		return r;
	}
	*ret = track;
	return 0;
}

void track_stop(struct track *track)
{
	if (!track)
		return;
	track->operations->stop(track);
	if (track->pagemap_fd >= 0)
		close(track->pagemap_fd);
	array_deinit(&track->untracked);
	free(track);
}

static int check_usable(const struct track *track, struct error *error)
{
	if (track->failed == 0)
		return 0;
	return error_set_errno(error, track->failed, "PID %d: tracking broke down earlier, start it anew", track->pid);
}

int track_update(struct track *track, const struct procfs_maps *maps, unsigned int flags, struct error *error)
{
	int r = check_usable(track, error);

	return r < 0 ? r : track->operations->update(track, maps, flags, error);
}

/* Checks the range and cuts off what no process can write to. */
static int clip_range(uint64_t *start, uint64_t *end, struct error *error)
{
	if (*start % TRACK_PAGE || *end % TRACK_PAGE || *start > *end)
		return error_set(error, -EINVAL, "0x%lx-0x%lx is no range of pages", (unsigned long)*start,
				 (unsigned long)*end);
	if (*end > USER_END)
		*end = USER_END;
	if (*start > *end)
		*start = *end;
	return 0;
}

int track_scan(struct track *track, uint64_t start, uint64_t end, unsigned int flags, struct track_runs *runs,
	       struct error *error)
{
	int r = check_usable(track, error);

	if (r >= 0)
		r = clip_range(&start, &end, error);
	if (r < 0)
		return r;
	if ((flags & TRACK_PROTECT) && (flags & TRACK_ALL))
		return error_set(error, -EINVAL, "TRACK_PROTECT and TRACK_ALL exclude each other");
	return track->operations->scan(track, start, end, flags, runs, error);
}

int track_present(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error)
{
	int r = clip_range(&start, &end, error);

	return r < 0 ? r : track->operations->present(track, start, end, runs, error);
}

int track_absent(struct track *track, uint64_t start, uint64_t end, struct track_runs *runs, struct error *error)
{
	int r = clip_range(&start, &end, error);

	return r < 0 ? r : track->operations->absent(track, start, end, runs, error);
}

const struct track_ranges *track_untracked(const struct track *track)
{
	return &track->untracked;
}

enum track_kind track_kind(const struct track *track)
{
	return track->kind;
}

bool track_wants_stop(struct track *track, const struct procfs_maps *maps)
{
	return track->operations->wants_stop(track, maps);
}

const struct track_range *track_ranges_find(const struct track_ranges *ranges, uint64_t address)
{
	size_t low = 0, high = ranges->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ranges->items[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low < ranges->count ? &ranges->items[low] : NULL;
}

int track_runs_add(struct track_runs *runs, size_t first, uint64_t start, uint64_t pages, uint32_t flags)
{
	struct track_run run = { .start = start, .pages = pages, .flags = flags };

	if (runs->count > first) {
		struct track_run *last = &runs->items[runs->count - 1];

		if (last->flags == flags && last->start + last->pages * TRACK_PAGE == start) {
			last->pages += pages;
			return 0;
		}
	}
	return array_append(runs, run);
}

void track_runs_deinit(struct track_runs *runs)
{
	array_deinit(runs);
}

uint64_t track_runs_pages(const struct track_runs *runs, uint32_t flags)
{
	uint64_t pages = 0;

	array_for_each(run, runs)
		if ((run->flags & flags) == flags)
			pages += run->pages;
	return pages;
}
