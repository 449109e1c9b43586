/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `migrate status` and `migrate cancel`: what the journal says, and a word to the process that wrote it. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "image/journal.h"
#include "send.h"
#include "transport/wire.h"
#include "util/cleanup.h"

static void print_line(const JournalEntry *entry, const char *session)
{
	printf("%s  PID %d (%s) to %s: %s%s\n", session, entry->n_processes ? entry->processes[0]->pid : 0,
	       entry->name ? entry->name : "?", entry->peer ? entry->peer : "?", journal_phase_name(entry->phase),
	       entry->agent && journal_process_alive(entry->agent) ? "" : ", its migrate is gone: migrate resolve");
}

static void add_object(json_t *list, const JournalEntry *entry, const char *session)
{
	json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:s, s:s, s:b}", "session", session, "pid",
					      entry->n_processes ? entry->processes[0]->pid : 0, "name",
					      entry->name ? entry->name : "", "to", entry->peer ? entry->peer : "", "phase",
					      journal_phase_name(entry->phase), "alive",
					      entry->agent && journal_process_alive(entry->agent)));
}

int migrate_status(const char *state_dir, const char *wanted, bool json, struct error *error)
{
	_cleanup_fd_ int dir_fd = -1;
	struct journal_list list = { 0 };
	json_t *objects = json_array();
	size_t shown = 0;
	int r;

	r = journal_open_dir(state_dir, &dir_fd, error);
	if (r == 0)
		r = journal_list(dir_fd, &list, error);
	for (size_t i = 0; r == 0 && i < list.entries.count; i++) {
		const JournalEntry *entry = list.entries.items[i];
		char session[WIRE_SESSION_TEXT];

		wire_session_text(entry->session.data, session);
		if (entry->side != JOURNAL_SOURCE || (wanted && strcmp(wanted, session) != 0))
			continue;
		shown++;
		if (json)
			add_object(objects, entry, session);
		else
			print_line(entry, session);
	}
	if (r == 0 && json) {
		json_dumpf(objects, stdout, JSON_INDENT(2));
		printf("\n");
	} else if (r == 0 && !shown) {
		if (wanted)
			r = error_set(error, -ENOENT, "no session %s in %s", wanted, state_dir);
		else
			printf("no migration is under way\n");
	}
	json_decref(objects);
	journal_list_deinit(&list);
	return r;
}

int migrate_cancel(const char *state_dir, const char *text, struct error *error)
{
	uint8_t session[WIRE_SESSION_SIZE];
	_cleanup_fd_ int dir_fd = -1;
	JournalEntry *entry = NULL;
	int r;

	r = wire_session_parse(text, session, error);
	if (r == 0)
		r = journal_open_dir(state_dir, &dir_fd, error);
	if (r == 0)
		r = journal_read(dir_fd, session, &entry, error);
	if (r < 0)
		return r;
	if (!entry->agent || !journal_process_alive(entry->agent))
		r = error_set(error, -ESRCH, "the migrate of session %s is gone; see migrate resolve", text);
	else if (entry->phase != JOURNAL_STARTED && entry->phase != JOURNAL_PREPARED)
		r = error_set(error, -EBUSY, "session %s is %s: it cannot be taken back any more", text,
			      journal_phase_name(entry->phase));
	else if (kill(entry->agent->pid, SIGINT) < 0)
		r = error_set_errno(error, -errno, "cannot signal PID %d", entry->agent->pid);
	journal_entry__free_unpacked(entry, NULL);
	return r;
}
