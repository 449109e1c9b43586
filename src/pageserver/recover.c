/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * After a restart, by what the journal says last:
 *
 *   STARTED, PREPARED  the kernel has killed the shells with their tracer: ABORTED, for ever
 *   COMMITTED          the tree is let go, frozen by its cgroup, or thawed already: thawed, RUNNING. Or it was still traced
 *                      and died (as a whole or in part: then the rest is killed): ABORTED, as nothing of it has run
 *   RUNNING            pages missing: the keeper has the userfaultfds, the source may come back. None missing: nothing to do
 *   ABORTED, DONE      kept for a week, for those who ask
 *
 * Journals of another boot only say what was; nothing of them is here any more.
 */
#include "recover.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lazy/lazy.h"
#include "session.h"
#include "util/cleanup.h"

#define THAW_WAIT (5 * CLOCK_S)
#define KEEP_S    (7 * 24 * 3600)

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
	return journal_write(registry->dir_fd, entry, error);
}

/* The cgroup that the journal names, which exists: freezer_new() takes it over. */
static int open_freezer(const JournalEntry *entry, struct freezer **ret, struct error *error)
{
	const char *name = strrchr(entry->freezer, '/');
	int r;

	name = name ? name + 1 : entry->freezer;
	r = freezer_new(name, 1, ret, error);
	if (r == 0 && strcmp(freezer_path(*ret), entry->freezer) != 0) {
		freezer_remove(*ret, clock_deadline(CLOCK_S), NULL);
		freezer_free(*ret);
		r = freezer_new(name, getpid(), ret, error);
	}
	return r;
}

static void remove_freezer(const JournalEntry *entry)
{
	struct freezer *freezer = NULL;

	if (entry->freezer && open_freezer(entry, &freezer, NULL) == 0)
		freezer_remove(freezer, clock_deadline(THAW_WAIT), NULL);
	freezer_free(freezer);
}

static int recover_running(struct registry *registry, JournalEntry *entry, struct error *error)
{
	struct error local = ERROR_INIT;
	struct lazy *lazy = NULL;
	int r;

	remove_freezer(entry);
	if (!entry->missing || !entry->keeper || count_alive(entry) == 0)
		return 0;
	r = lazy_keeper_fetch(registry->log, entry->keeper, &lazy, &local);
	if (r == 0)
		return session_resume(registry, entry, lazy, error);
	/* What the keeper has held reads as zeros without it. It kills before it ends, so this is what escaped. */
	log_error(registry->log, "the tree of PID %d has lost its missing pages and is ended: %s", entry->processes[0]->pid,
		  error_text(&local, r));
	kill_all(entry);
	return rewrite(registry, entry, JOURNAL_IN_DOUBT, error);
}

static int recover_committed(struct registry *registry, JournalEntry *entry, struct error *error)
{
	struct freezer *freezer = NULL;
	size_t alive = count_alive(entry);
	int r = 0, frozen = 0;

	if (entry->freezer)
		r = open_freezer(entry, &freezer, error);
	if (r == 0 && freezer)
		frozen = freezer_is_frozen(freezer, error);
	if (r < 0 || frozen < 0) {
		freezer_free(freezer);
		return r < 0 ? r : frozen;
	}
	/* Whole, or thawed and since then partly at its end by itself. */
	if (alive == entry->n_processes || (alive && !frozen)) {
		if (freezer)
			r = freezer_thaw(freezer, clock_deadline(THAW_WAIT), error);
		if (r == 0)
			r = rewrite(registry, entry, JOURNAL_RUNNING, error);
		if (r == 0)
			r = recover_running(registry, entry, error);
	} else {
		kill_all(entry);
		r = rewrite(registry, entry, JOURNAL_ABORTED, error);
	}
	if (freezer)
		freezer_remove(freezer, clock_deadline(THAW_WAIT), NULL);
	freezer_free(freezer);
	return r;
}

static int recover_prepared(struct registry *registry, JournalEntry *entry, struct error *error)
{
	kill_all(entry);
	remove_freezer(entry);
	return rewrite(registry, entry, JOURNAL_ABORTED, error);
}

static int recover_one(struct registry *registry, JournalEntry *entry, struct error *error)
{
	bool same_boot = entry->boot_id && strcmp(entry->boot_id, registry->boot_id) == 0;

	switch (entry->phase) {
	case JOURNAL_STARTED:
	case JOURNAL_PREPARED:
		return same_boot ? recover_prepared(registry, entry, error)
				 : rewrite(registry, entry, JOURNAL_ABORTED, error);
	case JOURNAL_COMMITTED:
		return same_boot ? recover_committed(registry, entry, error)
				 : rewrite(registry, entry, JOURNAL_IN_DOUBT, error);
	case JOURNAL_RUNNING:
		if (same_boot && count_alive(entry))
			return recover_running(registry, entry, error);
		break;
	default:
		break;
	}
	if (entry->has_started && (uint64_t)time(NULL) > entry->started + KEEP_S)
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
