/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * After a restart, by what the journal says last:
 *
 *   STARTED, PREPARED  the kernel has killed the shells with their tracer. If the end came in the midst of a COMMIT, some
 *                      outlived it, frozen by their cgroup: they are killed. ABORTED, for ever
 *   COMMITTED          the tree outlived its tracer, frozen by its cgroup or thawed already. It is thawed: RUNNING. If
 *                      somebody has killed a part of it, or the keeper of its missing pages, before it ran: ABORTED
 *   RUNNING            pages missing: the keeper has the userfaultfds, the source may come back. None missing: nothing to do
 *   ABORTED            what may be left of it is killed; the hook is told, if it has not been
 *   DONE               nothing to do
 *
 * ABORTED and DONE are kept for a week, for those who ask; what gets older than that while this program runs goes, too.
 * Journals of another boot only say what was; nothing of them is here any more. What is decided is written down before it
 * is done: the end of this program in the midst of it changes no answer.
 */
#include "recover.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "image/ipc.h"
#include "image/tcp-repair.h"
#include "lazy/lazy.h"
#include "net/lock.h"
#include "session.h"
#include "util/cleanup.h"

#define THAW_WAIT (5 * CLOCK_S)
#define KEEP_S    (7 * 24 * 3600)
#define PRUNE_EVERY (3600 * CLOCK_S)

static size_t count_alive(const JournalEntry *entry)
{
	size_t alive = 0;

	for (size_t i = 0; i < entry->n_processes; i++)
		alive += journal_process_alive(entry->processes[i]) ? 1 : 0;
	return alive;
}

static void kill_all(const JournalEntry *entry)
{
	for (size_t i = entry->n_processes; i-- > 0;)
		if (journal_process_alive(entry->processes[i]))
			kill(entry->processes[i]->pid, SIGKILL);
}

static int rewrite(struct registry *registry, JournalEntry *entry, enum journal_phase phase, struct error *error)
{
	entry->phase = phase;
	if (phase == JOURNAL_RUNNING)
		entry->n_ipc = 0; /* the tree's own from now on */
	return journal_write(registry->dir_fd, entry, error);
}

/* NULL: it is gone, or there never was one. */
static int open_freezer(const JournalEntry *entry, struct freezer **ret, struct error *error)
{
	int r;

	if (!entry->freezer || !entry->freezer[0])
		return 0;
	r = freezer_open(entry->freezer, ret, error);
	if (r == -ENOENT) {
		error_clear(error);
		r = 0;
	}
	return r;
}

static void remove_freezer(const JournalEntry *entry)
{
	struct freezer *freezer = NULL;

	if (open_freezer(entry, &freezer, NULL) == 0 && freezer)
		freezer_remove(freezer, clock_deadline(THAW_WAIT), NULL);
	freezer_free(freezer);
}

/* Also when an earlier page server has done it, but has not written that down. */
static int tell_hook_aborted(struct registry *registry, JournalEntry *entry, struct error *error)
{
	recover_hook(registry, entry, "aborted");
	entry->hook_due = false;
	return journal_write(registry->dir_fd, entry, error);
}

/* It has never run, or must not run on. */
static int end_tree(struct registry *registry, JournalEntry *entry, enum journal_phase phase, struct error *error)
{
	int r, told;

	/* Before it is written that there is nothing more to be done. Segments go with the last process. */
	image_ipc_end(entry);
	entry->n_ipc = 0;
	entry->has_hook_due = entry->hook_due = phase == JOURNAL_ABORTED && registry->options->hook;
	r = rewrite(registry, entry, phase, error);
	kill_all(entry);
	remove_freezer(entry);
	if (!entry->hook_due)
		return r;
	told = tell_hook_aborted(registry, entry, r < 0 ? NULL : error);
	return r < 0 ? r : told;
}

/*
 * -ENOENT: a keeper that ends in order removes its socket, and it does so when nothing is missing any more. -ECONNREFUSED:
 * it was killed, and what it held reads as zeros since then, unless nobody runs.
 */
static int fetch(struct registry *registry, JournalEntry *entry, struct lazy **ret, struct error *error)
{
	int r;

	if (!entry->missing || !entry->keeper || count_alive(entry) == 0)
		return 0;
	r = lazy_keeper_fetch(registry->log, entry->keeper, ret, error);
	if (r != -ENOENT)
		return r;
	error_clear(error);
	entry->missing = 0;
	return rewrite(registry, entry, entry->phase, error);
}

static int recover_running(struct registry *registry, JournalEntry *entry, struct error *error)
{
	struct lazy *lazy = NULL;
	int r = fetch(registry, entry, &lazy, error);

	remove_freezer(entry);
	if (r == -ECONNREFUSED) {
		log_error(registry->log,
			  "the tree of PID %d has lost its missing pages, as their keeper was killed; it is ended",
			  entry->processes[0]->pid);
		error_clear(error);
		return end_tree(registry, entry, JOURNAL_IN_DOUBT, error);
	}
	return r == 0 && lazy ? session_resume(registry, entry, lazy, error) : r;
}

/* What restore_tree_go() does. */
static void wake_connections(struct registry *registry, const JournalEntry *entry)
{
	struct error error = ERROR_INIT;
	char name[JOURNAL_NAME_SIZE];

	if (journal_name(registry->dir_fd, entry->session.data, name, NULL) == 0)
		net_lock_remove(NET_LOCK_TARGET, name, NULL);
	for (size_t i = 0; i < entry->n_processes; i++)
		if (journal_process_alive(entry->processes[i]) &&
		    image_tcp_wake(entry->processes[i]->pid, true, &error) < 0) {
			log_error(registry->log, "%s", error.message);
			error_clear(&error);
		}
}

/* Thaws it if that can be done safely. */
static int run_committed(struct registry *registry, JournalEntry *entry, struct freezer *freezer, struct error *error)
{
	int frozen = freezer ? freezer_is_frozen(freezer, error) : 0;
	struct lazy *lazy = NULL;
	int r;

	if (frozen < 0)
		return frozen;
	if (frozen && count_alive(entry) < entry->n_processes)
		return end_tree(registry, entry, JOURNAL_ABORTED, error);
	r = fetch(registry, entry, &lazy, error);
	if (frozen && r == -ECONNREFUSED) {
		error_clear(error);
		return end_tree(registry, entry, JOURNAL_ABORTED, error);
	}
	if (r < 0)
		return r;
	wake_connections(registry, entry);
	if (freezer)
		r = freezer_thaw(freezer, clock_deadline(THAW_WAIT), error);
	if (r == 0)
		r = rewrite(registry, entry, JOURNAL_RUNNING, error);
	if (r < 0) {
		lazy_leave(lazy);
		return r;
	}
	recover_hook(registry, entry, "running");
	remove_freezer(entry);
	return lazy ? session_resume(registry, entry, lazy, error) : 0;
}

static int recover_committed(struct registry *registry, JournalEntry *entry, struct error *error)
{
	struct freezer *freezer = NULL;
	int r = open_freezer(entry, &freezer, error);

	if (r == 0)
		r = run_committed(registry, entry, freezer, error);
	freezer_free(freezer);
	return r;
}

static bool is_old(const JournalEntry *entry)
{
	return entry->has_started && (uint64_t)time(NULL) > entry->started + KEEP_S;
}

static int recover_one(struct registry *registry, JournalEntry *entry, struct error *error)
{
	bool same_boot = entry->boot_id && strcmp(entry->boot_id, registry->boot_id) == 0;
	int r = 0;

	switch (entry->phase) {
	case JOURNAL_STARTED:
	case JOURNAL_PREPARED:
		return same_boot ? end_tree(registry, entry, JOURNAL_ABORTED, error)
				 : rewrite(registry, entry, JOURNAL_ABORTED, error);
	case JOURNAL_COMMITTED:
		return same_boot ? recover_committed(registry, entry, error)
				 : rewrite(registry, entry, JOURNAL_IN_DOUBT, error);
	case JOURNAL_RUNNING:
		if (!same_boot)
			return rewrite(registry, entry, JOURNAL_IN_DOUBT, error);
		if (count_alive(entry))
			return recover_running(registry, entry, error);
		break;
	case JOURNAL_ABORTED:
		if (same_boot)
			kill_all(entry);
		if (same_boot && entry->n_ipc) {
			image_ipc_end(entry);
			entry->n_ipc = 0;
			r = rewrite(registry, entry, JOURNAL_ABORTED, error);
		}
		if (r == 0 && same_boot && entry->hook_due)
			r = tell_hook_aborted(registry, entry, error);
		if (r < 0)
			return r;
		break;
	default:
		break;
	}
	/* Whoever wrote it may not have come to this. */
	if (same_boot)
		remove_freezer(entry);
	if (is_old(entry))
		return journal_remove(registry->dir_fd, entry->session.data, error);
	return 0;
}

int recover_sessions(struct registry *registry, struct error *error)
{
	struct journal_list list = { 0 };
	int r = journal_list(registry->dir_fd, &list, error);

	array_for_each(entry, &list.entries) {
		struct error local = ERROR_INIT;

		if ((*entry)->side == JOURNAL_TARGET && recover_one(registry, *entry, &local) < 0)
			log_error(registry->log, "a session of an earlier page server: %s", local.message);
	}
	journal_list_deinit(&list);
	return r;
}

void recover_prune(struct registry *registry)
{
	struct journal_list list = { 0 };
	int64_t now = clock_now_ns();

	if (registry->pruned_at && now - registry->pruned_at < PRUNE_EVERY)
		return;
	registry->pruned_at = now;
	if (journal_list(registry->dir_fd, &list, NULL) < 0)
		return;
	array_for_each(entry, &list.entries)
		if ((*entry)->side == JOURNAL_TARGET && is_old(*entry) &&
		    ((*entry)->phase == JOURNAL_ABORTED || (*entry)->phase == JOURNAL_DONE))
			journal_remove(registry->dir_fd, (*entry)->session.data, NULL);
	journal_list_deinit(&list);
}
