/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One thing done to each of many, on several processors: for the time in which nobody else needs them, that of the freeze. */
#pragma once

#include <stddef.h>

#include "error.h"

#define PARALLEL_MAX 8u /* workers */

/* `worker` is below PARALLEL_MAX, and no two calls at a time have the same. 0 or a negative errno. */
typedef int (*parallel_work)(void *context, unsigned worker, size_t index, struct error *error);

/*
 * Calls work() for each index below `count`, in no order: from this thread, and from others as far as there are processors
 * and `share` indices for each. They have this thread's namespaces and end before this returns. After a failure no more is
 * begun; the first one is returned, with its error. Where no thread can be made, this one does it all.
 */
int parallel_run(size_t count, size_t share, parallel_work work, void *context, struct error *error);
