/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pages of a round are those written between two scans; so pages / time between them is the dirty rate, and rate *
 * duration of this round is what a freeze right now would find.
 *
 * Rounds end well when that fits a quarter of the limit: the other three are for the state. A round that has not shrunk
 * says that the tree writes faster than the link carries. In hybrid mode the rest then comes after the switch. In precopy
 * mode the tree is slowed down, a step for each such round, as QEMU's auto-converge does it; and when that has come to
 * its end, what is left either fits below the ceiling, or the tree cannot be moved like this.
 */
#include "estimate.h"

#include "throttle.h"

#define SPEED_PAGES_MIN 256 /* smaller rounds measure latency, not speed */

void estimate_round(struct estimate *estimate, uint64_t pages, const struct estimate_times *times)
{
	/* A slowed tree has to win by more than the noise: each step costs a round. */
	uint64_t tenths = estimate->hybrid ? 9 : 7;

	estimate->send_ns = times->send > 0 ? times->send : 1;
	if (pages >= SPEED_PAGES_MIN || estimate->pages_per_ns <= 0)
		estimate->pages_per_ns = (double)pages / (double)estimate->send_ns;
	if (times->since > 0)
		estimate->dirty_per_ns = (double)pages / (double)times->since;
	if (!estimate->throttle)
		estimate->free_per_ns = estimate->dirty_per_ns;
	estimate->stuck = estimate->rounds > 1 && pages * 10 > estimate->pages * tenths ? estimate->stuck + 1 : 0;
	estimate->slowest += estimate->throttle == THROTTLE_MAX;
	estimate->pages = pages;
	estimate->last_ns = times->scan + estimate->send_ns;
	estimate->overhead_ns = times->layout + times->scan;
	estimate->rounds++;
}

static double left_ns(const struct estimate *estimate)
{
	double left = estimate->dirty_per_ns * (double)estimate->last_ns;

	return estimate->pages_per_ns > 0 ? left / estimate->pages_per_ns : 0;
}

double estimate_downtime_ns(const struct estimate *estimate)
{
	return estimate->rounds < 2 ? 0 : (double)estimate->overhead_ns + left_ns(estimate);
}

enum estimate_next estimate_next(struct estimate *estimate)
{
	/* The first round says nothing of the dirty rate; an idle process is through after the second. */
	if (estimate->rounds < 2)
		return ESTIMATE_ROUND;
	if (left_ns(estimate) <= (double)estimate->limit_ns / 4)
		return ESTIMATE_FREEZE;
	if (estimate->hybrid)
		return estimate->stuck || estimate->rounds >= ESTIMATE_ROUNDS_MAX ? ESTIMATE_FREEZE : ESTIMATE_ROUND;
	if (estimate->slowest >= ESTIMATE_SLOWEST_MAX && estimate->stuck)
		return estimate_downtime_ns(estimate) <= (double)estimate->ceiling_ns ? ESTIMATE_FREEZE : ESTIMATE_NEVER;
	if (!estimate->stuck || estimate->throttle == THROTTLE_MAX)
		return ESTIMATE_ROUND;
	estimate->throttle = !estimate->throttle ? THROTTLE_FIRST : estimate->throttle + THROTTLE_STEP;
	if (estimate->throttle > THROTTLE_MAX)
		estimate->throttle = THROTTLE_MAX;
	return ESTIMATE_SLOWER;
}
