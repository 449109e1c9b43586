/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#define CHUNK 16u /* indices that a worker takes at once */

struct run {
	parallel_work work;
	void *context;
	size_t count;
	_Atomic size_t next;
	_Atomic int failure; /* of the first that failed; 0: none has */
};

struct worker {
	struct run *run;
	unsigned number;
	pthread_t thread;
	struct error error; /* of this one's failure, if it is the first */
	int failure;
};

static void *work_main(void *argument)
{
	struct worker *worker = argument;
	struct run *run = worker->run;

	while (atomic_load(&run->failure) == 0) {
		size_t first = atomic_fetch_add(&run->next, CHUNK);

		if (first >= run->count)
			break;
		for (size_t i = first; i < run->count && i < first + CHUNK; i++) {
			struct error error = ERROR_INIT;
			int none = 0, r = run->work(run->context, worker->number, i, &error);

			if (r == 0)
				continue;
			if (atomic_compare_exchange_strong(&run->failure, &none, r)) {
				worker->error = error;
				worker->failure = r;
			}
			return NULL;
		}
	}
	return NULL;
}

static unsigned count_workers(size_t count, size_t share)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	size_t wanted = processors > 1 ? (size_t)processors : 1;

	if (wanted > PARALLEL_MAX)
		wanted = PARALLEL_MAX;
	if (wanted > count / share)
		wanted = count / share;
	return wanted ? (unsigned)wanted : 1;
}

int parallel_run(size_t count, size_t share, parallel_work work, void *context, struct error *error)
{
	unsigned wanted = count_workers(count, share), started = 1;
	struct run run = { .work = work, .context = context, .count = count };
	struct worker workers[PARALLEL_MAX];
	sigset_t all, before;
	int failure;

	for (unsigned i = 0; i < wanted; i++)
		workers[i] = (struct worker){ .run = &run, .number = i };
	/* Signals are for the threads that were there. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (started < wanted &&
	       pthread_create(&workers[started].thread, NULL, work_main, &workers[started]) == 0)
		started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	work_main(&workers[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	failure = atomic_load(&run.failure);
	for (unsigned i = 0; i < started; i++)
		if (workers[i].failure < 0)
			error_set(error, failure, "%s", error_text(&workers[i].error, failure));
	return failure;
}
