/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When pre-copy has done what it can: arithmetic on the measured rounds, without side effects. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define ESTIMATE_ROUNDS_MAX 30u

struct estimate {
	uint64_t limit_ns;   /* what the freeze may cost */
	bool hybrid;         /* what is left may come later */
	unsigned rounds;     /* so far */
	uint64_t pages;      /* sent in the last round */
	int64_t last_ns;     /* how long that took: what was written meanwhile is the next round */
	uint64_t before;     /* pages of the round before it */
	double pages_per_ns; /* speed of sending, of rounds large enough to tell */
	double dirty_per_ns; /* pages written per nanosecond while the last round was measured */
	unsigned stuck;      /* rounds in a row that did not shrink */
};

/* Takes note of a round: `pages` sent in `ns`. */
void estimate_round(struct estimate *estimate, uint64_t pages, int64_t ns);
/* Whether to freeze now. */
bool estimate_enough(const struct estimate *estimate);
