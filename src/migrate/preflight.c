/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything that stands in the way, found on both sides while nothing is stopped, in one list. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "source.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "wire.pb-c.h"

/* Resident bytes of the tree: what the target has to have room for. */
static uint64_t tree_memory(const struct source *source)
{
	uint64_t sum = 0;

	array_for_each(process, &source->dump->processes) {
		static const char *const lines[] = { "VmRSS", "VmSwap" };
		char value[64];

		for (size_t i = 0; i < 2; i++)
			if (procfs_read_status((*process)->pid, lines[i], value, sizeof(value), NULL) == 0)
				sum += strtoull(value, NULL, 10) * 1024;
	}
	return sum;
}

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

static int ask_target(struct source *source, struct error *error)
{
	_cleanup_message_ WirePreflightReply *reply = NULL;
	WirePreflight preflight = WIRE_PREFLIGHT__INIT;
	int64_t deadline = clock_deadline(SOURCE_ANSWER_NS);
	int r = 0;

	for (size_t i = 0; r == 0 && i < image_set_count(source->images); i++) {
		const struct image_record *record = image_set_get(source->images, i);

		r = wire_send_image(source->control, record->type, record->id, record->data, record->size, deadline,
				    error);
	}
	preflight.memory = tree_memory(source);
	preflight.has_tcp_close = preflight.has_bulk = preflight.has_dry_run = preflight.has_postcopy = 1;
	preflight.tcp_close = source->options->tcp_close;
	preflight.bulk = source->options->streams;
	preflight.dry_run = source->options->dry_run;
	preflight.postcopy = source->options->mode != MIGRATE_PRECOPY;
	if (r == 0)
		r = wire_send(source->control, WIRE_PREFLIGHT, &preflight.base, deadline, error);
	if (r == 0)
		r = wire_expect(source->control, &wire_table_client, WIRE_PREFLIGHT_REPLY,
				&wire_preflight_reply__descriptor, (ProtobufCMessage **)(void *)&reply, deadline, error);
	for (size_t i = 0; r == 0 && i < reply->n_blockers; i++) {
		const WireBlocker *blocker = reply->blockers[i];

		image_blockers_add(&source->dump->blockers, blocker->pid, blocker->kind, blocker->cause, blocker->remedy,
				   "%s", blocker->object);
	}
	return r;
}

/* All blockers as one message: a line each. */
static int report(const struct source *source, struct error *error)
{
	const struct image_blockers *blockers = &source->dump->blockers;
	size_t number = 0;

	if (image_blockers_empty(blockers))
		return 0;
	array_for_each(blocker, &blockers->list) {
		char pid[32] = "";

		if (blocker->pid)
			snprintf(pid, sizeof(pid), "PID %d: ", blocker->pid);
		log_error(source->log, "%zu. %s%s %s: %s; %s", ++number, pid, blocker->kind, blocker->object,
			  blocker->cause, blocker->remedy);
	}
	return error_set(error, -EBUSY, "PID %d cannot be moved: %zu object%s in the way%s", source->options->pid,
			 blockers->list.count, blockers->list.count == 1 ? " is" : "s are",
			 blockers->incomplete ? " (and more: out of memory)" : "");
}

int source_preflight(struct source *source, struct error *error)
{
	int r;

	image_set_free(source->images);
	source->images = NULL;
	r = image_set_new(&source->images);
	if (r == 0)
		r = dump_preflight(source->dump, source->images, error);
	if (r == 0)
		check_sessions(source);
	if (r == 0)
		r = ask_target(source, error);
	if (r == 0)
		r = report(source, error);
	return r;
}
