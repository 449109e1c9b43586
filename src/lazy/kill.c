/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ending processes before their userfaultfd goes, so that no missing page is ever read as zeros.
 *
 * Known are the shells that were added, and by walking /proc after each fork their descendants; a child that hides (its
 * parent ended before we looked) shows its thread at its first fault. SIGKILL for all, and the proof is asked of the
 * kernel: an ioctl on the userfaultfd says whether its memory is still there. What is still there
 * after two seconds - an unknown child, a task in a version 1 freezer - gets its missing pages poisoned: SIGBUS.
 *
 * Nobody can fork meanwhile: a fork waits until its event is read.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"

#define KILL_WAIT (2 * CLOCK_S)
#define POISON_TRIES 200
#define POISON_PAGES 4096u

int lazy_victim_add(struct lazy *lazy, pid_t pid, int pidfd)
{
	struct lazy_victim victim = { .pid = pid, .pidfd = pidfd };

	if (array_append(&lazy->victims, victim) < 0)
		return -ENOMEM;
	lazy_link_pid(lazy, &victim);
	return 0;
}

static bool is_alive(const struct lazy_victim *victim)
{
	return syscall(SYS_pidfd_send_signal, victim->pidfd, 0, NULL, 0) == 0;
}

static bool is_known(const struct lazy *lazy, pid_t pid)
{
	array_for_each(victim, &lazy->victims)
		if (victim->pid == pid && is_alive(victim))
			return true;
	return false;
}

/* Adds `pid` if it is still the child of `parent`, which is alive: then neither number has been given to another. */
static void add_child(struct lazy *lazy, size_t parent, pid_t pid)
{
	_cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct procfs_stat stat;

	if (pidfd < 0 || procfs_read_stat(pid, &stat, NULL) < 0 || stat.ppid != lazy->victims.items[parent].pid ||
	    !is_alive(&lazy->victims.items[parent]))
		return;
	if (lazy_victim_add(lazy, pid, pidfd) == 0)
		steal_fd(&pidfd);
}

void lazy_victim_walk(struct lazy *lazy)
{
	lazy->walk_due = false;
	for (size_t i = 0; i < lazy->victims.count; i++) {
		struct procfs_pids children = { .items = NULL };

		if (procfs_read_children(lazy->victims.items[i].pid, &children, NULL) == 0)
			array_for_each(pid, &children)
				if (!is_known(lazy, *pid))
					add_child(lazy, i, *pid);
		array_deinit(&children);
	}
}

static int poison_area(const struct lazy_space *space, const struct lazy_area *area, int uffd)
{
	uint64_t page = 0;

	while (page < area->pages) {
		uint64_t most = area->pages - page < POISON_PAGES ? area->pages - page : POISON_PAGES;
		uint64_t run = lazy_space_missing_run(space, area->source + page * LAZY_PAGE, most);
		int64_t r;

		if (run == 0) {
			page++;
			continue;
		}
		r = lazy_userfault_poison(uffd, area->target + page * LAZY_PAGE, run);
		if (r == -ENOENT && run > 1)
			r = lazy_userfault_poison(uffd, area->target + page * LAZY_PAGE, 1);
		if (r == -EEXIST || r == -ENOENT) /* nothing to hide there */
			r = 1;
		if (r < 0)
			return r == -ESRCH ? 0 : (int)r;
		page += (uint64_t)r;
	}
	return 0;
}

int lazy_poison(const struct lazy_space *space, int uffd)
{
	array_for_each(area, &space->areas) {
		int r = poison_area(space, area, uffd);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Those that wait see SIGBUS at once; events that are in the way are taken note of. */
static bool poison_all(struct lazy *lazy, struct lazy_space *space)
{
	int r = -EAGAIN;

	for (int i = 0; r == -EAGAIN && i < POISON_TRIES; i++) {
		r = lazy_poison(space, space->uffd);
		if (r == -EAGAIN) {
			lazy_events_read(lazy, space, NULL);
			usleep(1000);
		}
	}
	return r == 0;
}

static bool memory_is_there(const struct lazy_space *space)
{
	return atomic_load(&space->missing) > 0 && !atomic_load(&space->gone) && lazy_userfault_alive(space->uffd);
}

bool lazy_kill(struct lazy *lazy)
{
	int64_t deadline = clock_deadline(KILL_WAIT);
	bool there = true, closable = true;

	lazy_victim_walk(lazy);
	array_for_each(victim, &lazy->victims)
		syscall(SYS_pidfd_send_signal, victim->pidfd, SIGKILL, NULL, 0);
	while (there && clock_now_ns() < deadline) {
		there = false;
		for (size_t i = 0; !there && i < lazy->spaces.count; i++)
			there = memory_is_there(lazy->spaces.items[i]);
		if (there)
			usleep(500);
	}
	/* by index: taking note of a fork makes the list longer */
	for (size_t i = 0; there && i < lazy->spaces.count; i++)
		if (memory_is_there(lazy->spaces.items[i]) && !poison_all(lazy, lazy->spaces.items[i]))
			closable = false;
	return closable;
}
