/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One thing done to each of many, on several processors: for the time in which nobody else needs them, that of the freeze. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
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

struct parallel_worker {
	struct parallel *run; /* borrowed */
	unsigned number;
	pthread_t thread;
	struct error error; /* of this one's failure, if it is the first */
	int failure;
};

/* The same in two steps, for a thread that has something else to do meanwhile. parallel_begin() fills it; it stays in place. */
struct parallel {
	parallel_work work;
	void *context;
	size_t count;
	unsigned started;    /* workers; the first one is the caller */
	_Atomic size_t next;
	_Atomic int failure; /* of the first that failed; 0: none has */
	struct parallel_worker workers[PARALLEL_MAX];
};

/* Lets the others begin. parallel_end() must follow. */
void parallel_begin(struct parallel *run, size_t count, size_t share, parallel_work work, void *context);
/* Does its part of what is left; the result is that of parallel_run(). */
int parallel_end(struct parallel *run, struct error *error);
