/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything that stands in the way, found on both sides while nothing is stopped, in one list. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "source.h"
#include "util/buffer.h"
#include "util/cleanup.h"

#define LOOKS 40u
#define LOOKS_NS (5 * CLOCK_S) /* for all of them */
#define LOOK_PAUSE_NS 1000000 /* times 1 to 20: not in step with what the tree does */

/* Sessions that another migrate has with processes of this tree: under way, or left with nobody sure where the tree runs. */
static void check_sessions(struct source *source)
{
	struct journal_list list;

	if (journal_list(source->state_fd, &list, NULL) < 0)
		return;
	array_for_each(place, &list.entries) {
		const JournalEntry *entry = *place;
		bool busy = entry->agent && journal_process_alive(entry->agent);
		char session[WIRE_SESSION_TEXT];

		if (entry->side != JOURNAL_SOURCE || (!busy && entry->phase == JOURNAL_STARTED))
			continue;
		wire_session_text(entry->session.data, session);
		for (size_t i = 0; i < entry->n_processes; i++) {
			const JournalProcess *process = entry->processes[i];

			if (!dump_context_find(source->dump, process->pid) || !journal_process_alive(process))
				continue;
			image_blockers_add(&source->dump->blockers, process->pid, "session",
					   busy ? "it is being moved already" :
						  "an earlier move left it, and it may run on its target",
					   busy ? "wait for that move, or end it: migrate cancel SESSION" :
						  "settle that first: migrate resolve SESSION",
					   "%s to %s, %s", session, entry->peer ? entry->peer : "?",
					   journal_phase_name(entry->phase));
		}
	}
	journal_list_deinit(&list);
}

/* All blockers as one message: a line each. */
static int report(const struct source *source, struct error *error)
{
	const struct image_blockers *blockers = &source->dump->blockers;

	if (image_blockers_empty(blockers))
		return 0;
	image_blockers_log(blockers, source->log);
	return error_set(error, -EBUSY, "PID %d cannot be moved: %zu object%s in the way%s", source->options->pid,
			 blockers->list.count, blockers->list.count == 1 ? " is" : "s are",
			 blockers->incomplete ? " (and more: out of memory)" : "");
}

/* What is in the way for a moment only, as a child that has just ended, is not there any more at the next look. */
static int look_patiently(struct source *source, struct error *error)
{
	struct timespec pause = { .tv_nsec = 0 };
	int64_t deadline = clock_deadline(LOOKS_NS);
	int r = source_look(source, dump_preflight, error);

	for (unsigned tries = 1; r == 0 && tries < LOOKS && !image_blockers_empty(&source->dump->blockers); tries++) {
		if (clock_now_ns() >= deadline)
			break;
		pause.tv_nsec = LOOK_PAUSE_NS * (1 + tries * 7 % 20);
		nanosleep(&pause, NULL);
		image_blockers_deinit(&source->dump->blockers);
		image_blockers_init(&source->dump->blockers);
		r = source_look(source, dump_preflight, error);
	}
	return r;
}

int source_preflight(struct source *source, struct error *error)
{
	int r = look_patiently(source, error);

	if (r == 0)
		check_sessions(source);
	if (r == 0)
		r = lock_check(source, error);
	if (r == 0)
		r = source->destination->check(source, error);
	if (r == 0)
		image_blockers_log_notes(&source->dump->blockers, source->log);
	if (r == 0)
		r = report(source, error);
	return r;
}
