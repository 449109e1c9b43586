/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a session writes down of itself. The caller says when: before the commit's effects, after the go. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "util/cleanup.h"

int session_note_processes(struct session *session, struct error *error)
{
	size_t count = session->tree->processes.count;
	int r = 0;

	free(session->processes);
	session->process_count = 0;
	session->processes = calloc(count, sizeof(*session->processes));
	if (!session->processes)
		return error_set_errno(error, -ENOMEM, "cannot write the journal");
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = journal_process_fill(&session->processes[i], session->tree->processes.items[i]->pid, error);
		if (r == 0)
			session->process_count++;
	}
	return r;
}

bool session_keeper_path(const struct registry *registry, const char *text, char *path, size_t size)
{
	return (size_t)snprintf(path, size, "%s/sessions/%s.keeper", registry->options->state_dir, text) < size;
}

static uint64_t missing_now(struct session *session)
{
	struct lazy_statistics statistics;

	if (!session->lazy)
		return 0;
	lazy_statistics(session->lazy, &statistics);
	return statistics.missing_left;
}

int session_journal(struct session *session, enum journal_phase phase, struct error *error)
{
	JournalEntry entry = JOURNAL_ENTRY__INIT;
	JournalProcess agent = JOURNAL_PROCESS__INIT;
	JournalProcess **processes = calloc(session->process_count + 1, sizeof(*processes));
	_cleanup_free_ JournalIpc **ipc = NULL;
	bool ours = phase <= JOURNAL_COMMITTED || phase == JOURNAL_ABORTED; /* once it runs, they are nobody's to remove */
	char keeper[108];
	int r;

	if (!processes || (ours && image_ipc_note(&session->ipc, &entry, &ipc) < 0)) {
		free(processes);
		return error_set_errno(error, -ENOMEM, "cannot write the journal");
	}
	entry.session.data = session->id;
	entry.session.len = WIRE_SESSION_SIZE;
	entry.side = JOURNAL_TARGET;
	entry.phase = phase;
	entry.peer = session->peer;
	entry.boot_id = session->registry->boot_id;
	entry.has_token = true;
	entry.token.data = session->token;
	entry.token.len = WIRE_TOKEN_SIZE;
	for (size_t i = 0; i < session->process_count; i++)
		processes[i] = &session->processes[i];
	entry.processes = processes;
	entry.n_processes = session->process_count;
	if (journal_process_fill(&agent, getpid(), NULL) == 0)
		entry.agent = &agent;
	if (session->freezer)
		entry.freezer = (char *)(uintptr_t)freezer_path(session->freezer);
	if (session->has_keeper && session_keeper_path(session->registry, session->text, keeper, sizeof(keeper)))
		entry.keeper = keeper;
	entry.has_hook_due = entry.hook_due = phase == JOURNAL_ABORTED && session->hook_prepared;
	entry.has_started = true;
	entry.started = (uint64_t)time(NULL);
	entry.has_missing = true;
	entry.missing = missing_now(session);
	r = journal_write(session->registry->dir_fd, &entry, error);
	free(processes);
	return r;
}
