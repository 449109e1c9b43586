/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When pre-copy has done what it can: arithmetic on the measured rounds, without side effects. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define ESTIMATE_ROUNDS_MAX 30u  /* hybrid */
#define ESTIMATE_SLOWEST_MAX 8u  /* rounds with the tree slowed down as far as it goes; more only while they shrink */

struct estimate {
	uint64_t limit_ns;   /* what the freeze shall cost */
	uint64_t ceiling_ns; /* precopy: what it may cost when all else has been tried */
	bool hybrid;         /* what is left may come later */
	unsigned throttle;   /* percent of the time that the tree is made to stand still */
	unsigned slowest;    /* rounds at the most of it */
	unsigned rounds;     /* so far */
	uint64_t pages;      /* sent in the last round */
	int64_t last_ns;     /* from its scan to its end: what was written meanwhile is the next round */
	int64_t send_ns;     /* how long the sending took of that */
	int64_t overhead_ns; /* how long the last round took besides: a freeze has that to do, too */
	double pages_per_ns; /* speed of sending, of rounds large enough to tell */
	double dirty_per_ns; /* pages written per nanosecond between the last two scans */
	double free_per_ns;  /* the same, when the tree was last not slowed down */
	unsigned stuck;      /* rounds in a row that did not shrink */
};

enum estimate_next {
	ESTIMATE_ROUND,  /* another round */
	ESTIMATE_SLOWER, /* another round, with the tree slowed down: `throttle` says by how much */
	ESTIMATE_FREEZE, /* now */
	ESTIMATE_NEVER,  /* it would stand still for longer than it may, and nothing makes it shorter */
};

/* A round that was measured, in nanoseconds. */
struct estimate_times {
	int64_t layout; /* to describe the tree and to lay it out */
	int64_t scan;   /* to find what was written */
	int64_t send;   /* until the target had it */
	int64_t since;  /* between the begin of the scan before and of this one; 0: there was none before */
};

void estimate_round(struct estimate *estimate, uint64_t pages, const struct estimate_times *times);
/* What to do now. ESTIMATE_SLOWER has raised `throttle`. */
enum estimate_next estimate_next(struct estimate *estimate);
/* How long a freeze right now would take; 0 while nothing is known. */
double estimate_downtime_ns(const struct estimate *estimate);
