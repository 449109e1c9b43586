/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Places at which a test can hold a program, to kill it there or to cut its link. Only in a build with -Dstop_points=true;
 * in any other build nothing is compared and nothing stops.
 *
 * docs/hacking.md lists the names.
 */
#pragma once

#include <stdint.h>

/*
 * If the environment variable PAGESTREAM_STOP_AT is this name, all threads of this process stop (SIGSTOP) until somebody
 * continues or kills it; once in its life. Children are not stopped.
 */
void stop_point(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A wait for something that may never happen, in ns. PAGESTREAM_HURRY divides it, for tests that have to sit it out. */
int64_t stop_point_wait(int64_t wait);
