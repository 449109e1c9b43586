/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source asks on the session's own control stream: the one that it has come back with. */
#include "session.h"

int request_ask_state(struct session *session, const struct buffer *payload, struct error *error)
{
	WireAnswer answer = WIRE_ANSWER__INIT;
	struct lazy_statistics statistics;

	answer.state = WIRE_STATE_RUNNING;
	answer.has_missing = true;
	if (session->lazy && session_phase(session) == PHASE_RUNNING) {
		lazy_statistics(session->lazy, &statistics);
		/* Complete is what the session says it is: until then the source has to stay. */
		answer.missing = statistics.missing_left ? statistics.missing_left : 1;
	}
	return session_send(session, WIRE_ANSWER, &answer.base, error);
}
