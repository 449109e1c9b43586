/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `migrate status` and `migrate cancel`: what the journal says, and a word to the process that wrote it. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/journal.h"
#include "progress.h"
#include "send.h"
#include "transport/wire.h"
#include "util/cleanup.h"

#define CANCEL_MS 30000 /* for the rollback: taking back a large tree takes a moment */

static bool is_alive(const JournalEntry *entry)
{
	return entry->agent && journal_process_alive(entry->agent);
}

/* A session's migrate says how far it is; what it said is of no use when it is gone. */
static bool read_progress(int dir_fd, const JournalEntry *entry, char text[PROGRESS_TEXT_MAX])
{
	return is_alive(entry) && entry->session.len == WIRE_SESSION_SIZE &&
	       progress_read(dir_fd, entry->session.data, text) == 0;
}

static void print_line(int dir_fd, const JournalEntry *entry, const char *session)
{
	char text[PROGRESS_TEXT_MAX];
	struct progress_facts facts;

	printf("%s  PID %d (%s) to %s: %s%s\n", session, entry->n_processes ? entry->processes[0]->pid : 0,
	       entry->name ? entry->name : "?", entry->peer ? entry->peer : "?", journal_phase_name(entry->phase),
	       is_alive(entry) ? "" : ", its migrate is gone: migrate resolve");
	if (!read_progress(dir_fd, entry, text) || progress_parse(text, &facts) < 0)
		return;
	progress_line(&facts, text);
	printf("  %s; since %.1f s\n", text, (double)facts.elapsed_ms / 1e3);
}

static void add_object(json_t *list, int dir_fd, const JournalEntry *entry, const char *session)
{
	json_t *object = json_pack("{s:s, s:i, s:s, s:s, s:s, s:b}", "session", session, "pid",
				   entry->n_processes ? entry->processes[0]->pid : 0, "name", entry->name ? entry->name : "",
				   "to", entry->peer ? entry->peer : "", "phase", journal_phase_name(entry->phase), "alive",
				   is_alive(entry));
	char text[PROGRESS_TEXT_MAX];
	json_t *progress = read_progress(dir_fd, entry, text) ? json_loads(text, 0, NULL) : NULL;

	json_object_set_new(object, "progress", progress ? progress : json_null());
	json_array_append_new(list, object);
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
			add_object(objects, dir_fd, entry, session);
		else
			print_line(dir_fd, entry, session);
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

/* Its end says nothing of its outcome, but what it has left behind does. */
static int wait_cancelled(int dir_fd, const JournalEntry *entry, int pidfd, const char *text, struct error *error)
{
	JournalEntry *left = NULL;
	uint32_t phase = 0;

	if (poll(&(struct pollfd){ .fd = pidfd, .events = POLLIN }, 1, CANCEL_MS) == 0)
		return error_set(error, -ETIMEDOUT, "PID %d was asked to give up session %s and has not ended yet",
				 entry->agent->pid, text);
	if (journal_read(dir_fd, entry->session.data, &left, NULL) == 0) {
		phase = left->phase;
		journal_entry__free_unpacked(left, NULL);
	}
	if (phase > JOURNAL_PREPARED)
		return error_set(error, -EBUSY, "session %s is %s: it cannot be taken back any more; see migrate resolve", text,
				 journal_phase_name(phase));
	if (!entry->n_processes || !journal_process_alive(entry->processes[0]))
		return error_set(error, -EBUSY, "session %s was over before it could be taken back", text);
	printf("PID %d runs on here\n", entry->processes[0]->pid);
	return 0;
}

static int cancel(int dir_fd, const JournalEntry *entry, const char *text, struct error *error)
{
	_cleanup_fd_ int pidfd = entry->agent ? (int)syscall(SYS_pidfd_open, entry->agent->pid, 0) : -1;

	/* The descriptor first: what is checked after it is still so when the signal is sent. */
	if (pidfd < 0 || !is_alive(entry))
		return error_set(error, -ESRCH, "the migrate of session %s is gone; see migrate resolve", text);
	if (entry->phase != JOURNAL_STARTED && entry->phase != JOURNAL_PREPARED)
		return error_set(error, -EBUSY, "session %s is %s: it cannot be taken back any more", text,
				 journal_phase_name(entry->phase));
	if (syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0) < 0)
		return error_set_errno(error, -errno, "cannot signal PID %d", entry->agent->pid);
	return wait_cancelled(dir_fd, entry, pidfd, text, error);
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
	r = cancel(dir_fd, entry, text, error);
	journal_entry__free_unpacked(entry, NULL);
	return r;
}
