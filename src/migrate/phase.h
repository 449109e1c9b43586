/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The phases of a migration on the source, and which may follow which. */
#pragma once

#include <stdbool.h>

enum phase {
	PHASE_START,     /* nothing touched */
	PHASE_CONNECT,
	PHASE_PREFLIGHT,
	PHASE_PRECOPY,   /* the tree runs, its writes are tracked */
	PHASE_FREEZE,    /* stopped; state is collected */
	PHASE_HANDOVER,  /* the target applies it */
	PHASE_HELD,      /* PREPARED came; the freezer holds the tree, whatever becomes of us */
	PHASE_COMMIT,    /* COMMIT may be on its way: the right to run is the target's */
	PHASE_DOUBT,     /* no answer to it */
	PHASE_POSTCOPY,  /* runs on the target, pages are missing there */
	PHASE_DONE,      /* our copy is ended */
	PHASE_ROLLBACK,  /* taking everything back */
	PHASE_FAILED,    /* the tree runs here as before */
	PHASE_COUNT,
};

bool phase_allows(enum phase from, enum phase to);
/* Before COMMIT: a failure means rollback, and whoever finds us dead may thaw the tree. */
bool phase_is_before_commit(enum phase phase);
const char *phase_name(enum phase phase);
