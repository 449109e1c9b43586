/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "phase.h"

#include <stddef.h>

#define TO(phase) (1u << (phase))

static const struct {
	const char *name;
	unsigned next; /* phases that may follow */
} phases[PHASE_COUNT] = {
	[PHASE_START] = { "start", TO(PHASE_CONNECT) | TO(PHASE_ROLLBACK) },
	[PHASE_CONNECT] = { "connect", TO(PHASE_PREFLIGHT) | TO(PHASE_ROLLBACK) },
	[PHASE_PREFLIGHT] = { "preflight", TO(PHASE_PRECOPY) | TO(PHASE_ROLLBACK) },
	[PHASE_PRECOPY] = { "pre-copy", TO(PHASE_FREEZE) | TO(PHASE_ROLLBACK) },
	[PHASE_FREEZE] = { "freeze", TO(PHASE_HANDOVER) | TO(PHASE_PRECOPY) | TO(PHASE_ROLLBACK) },
	[PHASE_HANDOVER] = { "hand-over", TO(PHASE_HELD) | TO(PHASE_ROLLBACK) },
	[PHASE_HELD] = { "held", TO(PHASE_COMMIT) | TO(PHASE_ROLLBACK) },
	[PHASE_COMMIT] = { "commit", TO(PHASE_POSTCOPY) | TO(PHASE_DONE) | TO(PHASE_DOUBT) },
	[PHASE_DOUBT] = { "in doubt", TO(PHASE_POSTCOPY) | TO(PHASE_ROLLBACK) },
	[PHASE_POSTCOPY] = { "post-copy", TO(PHASE_DONE) },
	[PHASE_DONE] = { "done", 0 },
	[PHASE_ROLLBACK] = { "rollback", TO(PHASE_FAILED) | TO(PHASE_DONE) },
	[PHASE_FAILED] = { "failed", 0 },
};

bool phase_allows(enum phase from, enum phase to)
{
	return phases[from].next & TO(to);
}

bool phase_is_before_commit(enum phase phase)
{
	return phase < PHASE_COMMIT || phase == PHASE_ROLLBACK || phase == PHASE_FAILED;
}

const char *phase_name(enum phase phase)
{
	return phases[phase].name;
}
