/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a userfaultfd says. Read and put into the tables under the lock held for writing, so nobody puts a page by
 * tables that are older than the kernel's.
 *
 * The process goes on as soon as its event has been read. A fault queued before an event may be for a page that the
 * event moved or emptied: whoever waits in its range is woken, and faults anew if need be.
 *
 * A server that is killed must not take an event with it. So it reads to the log of the space, which is shared with the
 * keeper (a read that has begun is finished, killed or not), and crosses out what is in the tables. What is not crossed out
 * its successor applies: bits are only ever cleared, and the areas that the keeper has are those before or after a batch.
 * The userfaultfd of a fork's child belongs to whoever reads the event: if an event other than a fault is on its way, the
 * keeper does the reading.
 *
 * Left open: no event was on its way when the server looked, and then the fault that it was about to read was taken back
 * by a signal, while another thread forked; that fork's userfaultfd is the server's alone for the time of one sendmsg(2). If
 * it is killed in just that time, the keeper ends the tree.
 *
 * Failure modes: no memory for the tables of a fork's child: its missing pages become SIGBUS, never zeros. No memory
 * to follow an unmapping or move: an error, and the session has to end its processes (lazy_free()).
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"

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
		lazy_guards_watch(space, pid, false); /* fails if it has just ended */
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

static int handle_fork(struct lazy *lazy, struct lazy_space *space, unsigned slot)
{
	int fd = (int)space->log->messages[slot].arg.fork.ufd;
	struct lazy_space *child;
	int r;

	lazy_link_fork(lazy, space, slot, fd);
	r = lazy_space_copy(space, fd, &child);
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
	lazy_link_child(lazy, child, space, slot);
	return 0;
}

static void wake_range(struct lazy *lazy, struct lazy_space *space, uint64_t start, uint64_t size)
{
	lazy_waiting_end(lazy, space, start, size, false);
	lazy_userfault_wake(space->uffd, start, size);
}

/* `moved` is set when areas have changed. */
static int handle_event(struct lazy *lazy, struct lazy_space *space, unsigned slot, bool *moved)
{
	const struct uffd_msg *msg = &space->log->messages[slot];
	uint64_t start = msg->arg.remove.start, end = msg->arg.remove.end;
	int r = 0;

	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		return handle_fault(lazy, space, msg);
	case UFFD_EVENT_FORK:
		return handle_fork(lazy, space, slot);
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
	*moved = true;
	return r;
}

static void cross_out(struct lazy_log *log)
{
	memset(log->messages, 0, sizeof(log->messages));
	atomic_signal_fence(memory_order_seq_cst); /* one's own death is all that this has to be in order with */
}

/* What the log has; crossed out when the keeper knows it. */
static int apply_log(struct lazy *lazy, struct lazy_space *space)
{
	bool moved = false;
	int r = 0;

	for (unsigned slot = 0; slot < LAZY_LOG_MESSAGES; slot++) {
		struct uffd_msg *msg = &space->log->messages[slot];
		int failed = msg->event ? handle_event(lazy, space, slot, &moved) : 0;

		if (failed < 0 && r == 0)
			r = failed;
		if (msg->event == UFFD_EVENT_FORK)
			msg->event = 0;
	}
	if (moved)
		lazy_link_areas(lazy, space);
	cross_out(space->log);
	return r;
}

/* Messages read to the log, or a negative errno. */
static int read_log(struct lazy *lazy, struct lazy_space *space)
{
	struct lazy_log *log = space->log;
	ssize_t n;

	cross_out(log);
	log->batch++;
	if (lazy->keeper_fd >= 0 && lazy_userfault_changing(space->uffd)) {
		int r = lazy_link_read(lazy, space);

		if (r != -ENOTCONN)
			return r;
	}
	do {
		n = read(space->uffd, log->messages, sizeof(log->messages));
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)((size_t)n / sizeof(log->messages[0]));
}

int lazy_events_read(struct lazy *lazy, struct lazy_space *space, struct error *error)
{
	int n, r = 0;

	pthread_rwlock_wrlock(&lazy->lock);
	do {
		n = read_log(lazy, space);
		if (n < 0 && n != -EAGAIN)
			r = error_set_errno(error, n, "PID %d: reading its userfaultfd", space->pid);
		if (n > 0 && apply_log(lazy, space) < 0)
			r = error_set(error, -ENOMEM, "PID %d: no memory to follow its changes", space->pid);
	} while (r == 0 && n == LAZY_LOG_MESSAGES);
	if (r < 0)
		atomic_store(&lazy->lost, true);
	pthread_rwlock_unlock(&lazy->lock);
	return r;
}

/* The descriptors in the log were the former server's. */
static int adopt_orphans(struct lazy_space *space)
{
	for (unsigned slot = 0; slot < LAZY_LOG_MESSAGES; slot++) {
		struct uffd_msg *msg = &space->log->messages[slot];
		bool found = msg->event != UFFD_EVENT_FORK;

		for (size_t i = 0; !found && i < space->orphans.count; i++) {
			if (space->orphans.items[i].slot != slot)
				continue;
			msg->arg.fork.ufd = (uint32_t)space->orphans.items[i].uffd;
			space->orphans.items[i] = space->orphans.items[--space->orphans.count];
			found = true;
		}
		if (!found)
			return -ENOTRECOVERABLE;
	}
	return 0;
}

int lazy_events_replay(struct lazy *lazy, struct error *error)
{
	/* By index: a fork appends. */
	for (size_t i = 0; i < lazy->spaces.count; i++) {
		struct lazy_space *space = lazy->spaces.items[i];
		int r = adopt_orphans(space);

		if (r < 0)
			return error_set(error, r, "PID %d: the missing pages of its child are lost", space->pid);
		r = apply_log(lazy, space);
		if (r < 0)
			return error_set_errno(error, r, "PID %d: its last changes", space->pid);
	}
	return 0;
}
