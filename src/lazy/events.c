/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a userfaultfd says. Read and put into the tables under the lock held for writing, so nobody puts a page by
 * tables that are older than the kernel's.
 *
 * The process goes on as soon as its event has been read. A fault queued before an event may be for a page that the
 * event moved or emptied: whoever waits in its range is woken, and faults anew if need be.
 *
 * Failure modes: no memory for the tables of a fork's child: its missing pages become SIGBUS, never zeros. No memory
 * to follow an unmapping or move: an error, and the session has to end its processes (lazy_free()).
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"

#define READ_MESSAGES 16

/* A fork's child shows who it is at its first fault: the message has its thread. */
static void note_thread(struct lazy *lazy, struct lazy_space *space, pid_t tid)
{
	_cleanup_fd_ int pidfd = -1;
	char value[32];
	pid_t pid;

	if (space->pid > 0 || tid <= 0 || procfs_read_status(tid, "Tgid", value, sizeof(value), NULL) < 0)
		return;
	pid = (pid_t)strtol(value, NULL, 10);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd >= 0 && lazy_victim_add(lazy, pid, pidfd) == 0) {
		steal_fd(&pidfd);
		space->pid = pid;
	}
}

static int handle_fault(struct lazy *lazy, struct lazy_space *space, const struct uffd_msg *msg)
{
	uint64_t page = msg->arg.pagefault.address & ~(LAZY_PAGE - 1);
	const struct lazy_area *area = lazy_space_find_target(space, page);
	int64_t r;

	if (lazy->features & UFFD_FEATURE_THREAD_ID)
		note_thread(lazy, space, (pid_t)msg->arg.pagefault.feat.ptid);
	if (area && lazy_space_is_missing(space, area->source + (page - area->target)))
		return lazy_waiting_add(lazy, space, page, area->source + (page - area->target));
	r = lazy_userfault_put(space->uffd, page, NULL, 1);
	if (r == 1)
		atomic_fetch_add(&lazy->zero_filled, 1);
	else if (r == -ESRCH)
		atomic_store(&space->gone, true);
	else /* there already, or an event comes first: let it fault again */
		lazy_userfault_wake(space->uffd, page, LAZY_PAGE);
	return 0;
}

static int handle_fork(struct lazy *lazy, struct lazy_space *space, const struct uffd_msg *msg)
{
	struct lazy_space *child;
	int fd = (int)msg->arg.fork.ufd;
	int r = lazy_space_copy(space, fd, &child);

	if (r == 0) {
		r = lazy_insert_space(lazy, child);
		if (r < 0) {
			child->uffd = -1;
			lazy_space_free(child);
		}
	}
	if (r < 0) {
		/* If even this fails the child hangs, with its userfaultfd open as long as this program runs. */
		if (lazy_poison(space, fd) == 0)
			close(fd);
		return r;
	}
	lazy->walk_due = true;
	lazy_link_space(lazy, child);
	return 0;
}

static void wake_range(struct lazy *lazy, struct lazy_space *space, uint64_t start, uint64_t size)
{
	lazy_waiting_end(lazy, space, start, size, false);
	lazy_userfault_wake(space->uffd, start, size);
}

static int handle_event(struct lazy *lazy, struct lazy_space *space, const struct uffd_msg *msg)
{
	uint64_t start = msg->arg.remove.start, end = msg->arg.remove.end;
	int r = 0;

	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		return handle_fault(lazy, space, msg);
	case UFFD_EVENT_FORK:
		return handle_fork(lazy, space, msg);
	case UFFD_EVENT_REMOVE:
		lazy_space_empty(space, start, end);
		wake_range(lazy, space, start, end - start);
		return 0;
	case UFFD_EVENT_UNMAP:
		r = lazy_space_unmap(space, start, end);
		wake_range(lazy, space, start, end - start);
		break;
	case UFFD_EVENT_REMAP:
		r = lazy_space_remap(space, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
		wake_range(lazy, space, msg->arg.remap.from, msg->arg.remap.len);
		break;
	default:
		return 0;
	}
	lazy_link_areas(lazy, space);
	return r;
}

int lazy_events_read(struct lazy *lazy, struct lazy_space *space, struct error *error)
{
	struct uffd_msg messages[READ_MESSAGES];
	int r = 0;

	pthread_rwlock_wrlock(&lazy->lock);
	for (;;) {
		ssize_t n = read(space->uffd, messages, sizeof(messages));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			r = error_set_errno(error, -errno, "PID %d: reading its userfaultfd", space->pid);
		if (n < 0)
			break;
		for (size_t i = 0; i < (size_t)n / sizeof(messages[0]); i++) {
			int failed = handle_event(lazy, space, &messages[i]);

			if (failed < 0 && r == 0)
				r = error_set(error, failed, "PID %d: no memory to follow its changes", space->pid);
		}
		if (r < 0 || (size_t)n < sizeof(messages))
			break;
	}
	if (r < 0)
		atomic_store(&lazy->lost, true);
	pthread_rwlock_unlock(&lazy->lock);
	return r;
}
