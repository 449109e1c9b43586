/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "clock.h"

#include <limits.h>
#include <time.h>

int64_t clock_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * CLOCK_S + ts.tv_nsec;
}

int64_t clock_deadline(int64_t ns)
{
	int64_t now = clock_now_ns();

	return ns >= CLOCK_FOREVER - now ? CLOCK_FOREVER : now + ns;
}

int clock_poll_ms(int64_t deadline)
{
	int64_t left;

	if (deadline == CLOCK_FOREVER)
		return -1;
	left = deadline - clock_now_ns();
	if (left <= 0)
		return 0;
	left = (left + CLOCK_MS - 1) / CLOCK_MS;
	return left > INT_MAX ? INT_MAX : (int)left;
}
