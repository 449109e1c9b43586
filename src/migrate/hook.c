/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The user's program at a turning point. It gets the facts in its environment: PAGESTREAM_EVENT (also as its argument),
 * _SESSION, _PID, _TARGET. It is waited for, at most ten seconds; before the commit less if the user gives up.
 */
#include <stdio.h>

#include "source.h"
#include "util/parse.h"
#include "util/program.h"

#define HOOK_MS 10000

int hook_start(const struct source *source, const char *event, struct program *ret, struct error *error)
{
	char name[64], session[64 + WIRE_SESSION_TEXT], pid[64], target[64 + PARSE_HOST_MAX], text[WIRE_SESSION_TEXT];
	const char *const variables[] = { name, session, pid, target, NULL };

	*ret = (struct program){ .pidfd = -1 };
	if (!source->options->hook)
		return 0;
	wire_session_text(source->session, text);
	snprintf(name, sizeof(name), "PAGESTREAM_EVENT=%s", event);
	snprintf(session, sizeof(session), "PAGESTREAM_SESSION=%s", text);
	snprintf(pid, sizeof(pid), "PAGESTREAM_PID=%d", source->options->pid);
	snprintf(target, sizeof(target), "PAGESTREAM_TARGET=%s", source->options->to);
	return program_start(ret, source->options->hook, event, variables, error);
}

int hook_wait(const struct source *source, struct program *hook, struct error *error)
{
	/* Later the hook is a part of what has to be done. */
	return program_wait(hook, HOOK_MS, source->phase < PHASE_COMMIT ? source->options->cancel_fd : -1, error);
}

int hook_run(const struct source *source, const char *event, struct error *error)
{
	struct program hook;
	int r;

	if (source->options->hook)
		log_status_hold(source->log, true);
	r = hook_start(source, event, &hook, error);
	if (r == 0)
		r = hook_wait(source, &hook, error);
	if (source->options->hook)
		log_status_hold(source->log, false);
	return r;
}
