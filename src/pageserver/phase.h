/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The phases of a session on the target, and which may follow which. docs/protocol.md has the picture. */
#pragma once

#include <stdbool.h>

enum phase {
	PHASE_NEW,       /* the control stream is there, the source describes its tree */
	PHASE_CHECKED,   /* the preflight was answered */
	PHASE_LAID_OUT,  /* a round is under way: shells are laid out, pages arrive */
	PHASE_ROUND,     /* the round's pages are all in place */
	PHASE_PREPARED,  /* everything but the go is done */
	PHASE_COMMITTED, /* the right to run is here, and written down */
	PHASE_RUNNING,   /* the tree runs, pages may be missing */
	PHASE_COMPLETE,  /* nothing is missing */
	PHASE_FINISHED,  /* the source is not needed any more */
	PHASE_ABORTED,   /* it will never run here */
	PHASE_COUNT,
};

#define PHASE_BIT(phase) (1u << (phase))
#define PHASE_BEFORE_COMMIT                                                                                          \
	(PHASE_BIT(PHASE_NEW) | PHASE_BIT(PHASE_CHECKED) | PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_ROUND) |      \
	 PHASE_BIT(PHASE_PREPARED))

bool phase_may_follow(enum phase from, enum phase to);
const char *phase_name(enum phase phase);
