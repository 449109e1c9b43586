/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pages of a round are those written while the round before it was sent; so pages / duration of the previous round is
 * the dirty rate, and rate * duration of this round is what a freeze right now would find.
 */
#include "estimate.h"

#define SPEED_PAGES_MIN 256 /* smaller rounds measure latency, not speed */

void estimate_round(struct estimate *estimate, uint64_t pages, int64_t ns)
{
	if (ns < 1)
		ns = 1;
	if (pages >= SPEED_PAGES_MIN || estimate->pages_per_ns <= 0)
		estimate->pages_per_ns = (double)pages / (double)ns;
	if (estimate->rounds > 0 && estimate->last_ns > 0)
		estimate->dirty_per_ns = (double)pages / (double)estimate->last_ns;
	estimate->stuck = estimate->rounds > 1 && pages * 10 > estimate->pages * 9 ? estimate->stuck + 1 : 0;
	estimate->before = estimate->pages;
	estimate->pages = pages;
	estimate->last_ns = ns;
	estimate->rounds++;
}

bool estimate_enough(const struct estimate *estimate)
{
	double left = estimate->dirty_per_ns * (double)estimate->last_ns;

	/* The first round says nothing of the dirty rate; an idle process is through after the second. */
	if (estimate->rounds < 2)
		return false;
	if (estimate->rounds >= ESTIMATE_ROUNDS_MAX)
		return true;
	if (estimate->pages_per_ns > 0 && left / estimate->pages_per_ns <= (double)estimate->limit_ns / 4)
		return true;
	return estimate->stuck >= (estimate->hybrid ? 1 : 4);
}
