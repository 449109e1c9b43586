/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The operator's program at turning points of a session: for what has to move besides the processes, an address above all.
 *
 *   prepare   the first layout is there, the source runs. It is waited for, and its failure is the session's: so what it
 *             does is done before the freeze, and before sockets are made
 *   running   the tree has just been thawed. Nobody waits for it
 *   aborted   the tree will never run here; after prepare only, or by the next page server where the first one was killed
 *
 * Facts are in its environment: PAGESTREAM_EVENT (also its argument), _SESSION, _PID (the root's), _SOURCE. It has ten seconds.
 */
#include <stdio.h>

#include "pageserver/recover.h"
#include "session.h"
#include "util/program.h"

#define HOOK_MS 10000

static int start(const struct registry *registry, const char *event, const char *session, pid_t root, const char *peer,
		 struct program *ret, struct error *error)
{
	char name[64], id[64 + WIRE_SESSION_TEXT], pid[64], source[64 + TCP_ADDRESS_MAX];
	const char *const variables[] = { name, id, pid, source, NULL };

	*ret = (struct program){ .pidfd = -1 };
	if (!registry->options->hook)
		return 0;
	snprintf(name, sizeof(name), "PAGESTREAM_EVENT=%s", event);
	snprintf(id, sizeof(id), "PAGESTREAM_SESSION=%s", session);
	snprintf(pid, sizeof(pid), "PAGESTREAM_PID=%d", root);
	snprintf(source, sizeof(source), "PAGESTREAM_SOURCE=%s", peer);
	return program_start(ret, registry->options->hook, event, variables, error);
}

static int start_for(struct session *session, const char *event, struct error *error)
{
	return start(session->registry, event, session->text, session->root, session->peer, &session->hook, error);
}

static int wait_for(struct session *session, struct error *error)
{
	return program_wait(&session->hook, HOOK_MS, -1, error);
}

int session_hook_prepare(struct session *session, struct error *error)
{
	int r;

	if (session->hook_prepared || !session->tree->processes.count)
		return 0;
	session->hook_prepared = true;
	session->root = session->tree->processes.items[0]->pid;
	r = start_for(session, "prepare", error);
	return r < 0 ? r : wait_for(session, error);
}

static void say(struct session *session, int r, const struct error *error)
{
	if (r < 0)
		log_warning(session->log, "session %s: %s", session->text, error_text(error, r));
}

void session_hook_running(struct session *session)
{
	struct error error = ERROR_INIT;

	say(session, start_for(session, "running", &error), &error);
}

void session_hook_check(struct session *session, bool to_end)
{
	struct error error = ERROR_INIT;

	if (to_end || program_has_ended(&session->hook, HOOK_MS))
		say(session, wait_for(session, &error), &error);
}

void session_hook_aborted(struct session *session)
{
	struct error error = ERROR_INIT;
	int r;

	if (!session->hook_prepared)
		return;
	session->hook_prepared = false;
	r = start_for(session, "aborted", &error);
	if (r == 0)
		r = wait_for(session, &error);
	say(session, r, &error);
}

void recover_hook(struct registry *registry, const JournalEntry *entry, const char *event)
{
	struct program hook = { .pidfd = -1 };
	struct error error = ERROR_INIT;
	char session[WIRE_SESSION_TEXT];
	int r;

	wire_session_text(entry->session.data, session);
	r = start(registry, event, session, entry->n_processes ? entry->processes[0]->pid : 0, entry->peer ? entry->peer : "",
		  &hook, &error);
	if (r == 0)
		r = program_wait(&hook, HOOK_MS, -1, &error);
	if (r < 0)
		log_warning(registry->log, "session %s: %s", session, error_text(&error, r));
}
