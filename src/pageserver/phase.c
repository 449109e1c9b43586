/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "phase.h"

/* By phase: those that may follow. COMMITTED is left backwards only when nothing has run and nothing can any more. */
static const unsigned followers[PHASE_COUNT] = {
	[PHASE_NEW] = PHASE_BIT(PHASE_CHECKED) | PHASE_BIT(PHASE_ABORTED),
	[PHASE_CHECKED] = PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_ABORTED),
	[PHASE_LAID_OUT] = PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_ROUND) | PHASE_BIT(PHASE_ABORTED),
	[PHASE_ROUND] = PHASE_BIT(PHASE_ROUND) | PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_PREPARED) |
			PHASE_BIT(PHASE_ABORTED),
	[PHASE_PREPARED] = PHASE_BIT(PHASE_COMMITTED) | PHASE_BIT(PHASE_ABORTED),
	[PHASE_COMMITTED] = PHASE_BIT(PHASE_RUNNING) | PHASE_BIT(PHASE_ABORTED),
	[PHASE_RUNNING] = PHASE_BIT(PHASE_COMPLETE),
	[PHASE_COMPLETE] = PHASE_BIT(PHASE_FINISHED),
	[PHASE_FINISHED] = 0,
	[PHASE_ABORTED] = 0,
};

bool phase_may_follow(enum phase from, enum phase to)
{
	return from < PHASE_COUNT && to < PHASE_COUNT && (followers[from] & PHASE_BIT(to));
}

const char *phase_name(enum phase phase)
{
	static const char *const names[PHASE_COUNT] = {
		[PHASE_NEW] = "new",           [PHASE_CHECKED] = "checked",     [PHASE_LAID_OUT] = "laid out",
		[PHASE_ROUND] = "round done",  [PHASE_PREPARED] = "prepared",   [PHASE_COMMITTED] = "committed",
		[PHASE_RUNNING] = "running",   [PHASE_COMPLETE] = "complete",   [PHASE_FINISHED] = "finished",
		[PHASE_ABORTED] = "aborted",
	};

	return phase < PHASE_COUNT ? names[phase] : "?";
}
