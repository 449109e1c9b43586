/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Time and deadlines. All times are CLOCK_MONOTONIC in nanoseconds. A deadline is the point in time after which a
 * blocking call gives up with -ETIMEDOUT; CLOCK_FOREVER never comes.
 */
#pragma once

#include <stdint.h>

#define CLOCK_FOREVER INT64_MAX
#define CLOCK_MS INT64_C(1000000)
#define CLOCK_S INT64_C(1000000000)

int64_t clock_now_ns(void);

/* The deadline `ns` from now; saturates. */
int64_t clock_deadline(int64_t ns);

/* Milliseconds until `deadline` for poll(2): -1 for CLOCK_FOREVER, 0 when it has passed, rounded up otherwise. */
int clock_poll_ms(int64_t deadline);
