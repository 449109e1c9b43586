/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "parallel.h"

#include <signal.h>
#include <unistd.h>

#define CHUNK 16u /* indices that a worker takes at once */

static void *work_main(void *argument)
{
	struct parallel_worker *worker = argument;
	struct parallel *run = worker->run;

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

void parallel_begin(struct parallel *run, size_t count, size_t share, parallel_work work, void *context)
{
	unsigned wanted = count_workers(count, share);
	sigset_t all, before;

	*run = (struct parallel){ .work = work, .context = context, .count = count, .started = 1 };
	for (unsigned i = 0; i < PARALLEL_MAX; i++) {
		run->workers[i].run = run;
		run->workers[i].number = i;
	}
	/* Signals are for the threads that were there. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (run->started < wanted && pthread_create(&run->workers[run->started].thread, NULL, work_main,
						       &run->workers[run->started]) == 0)
		run->started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int parallel_end(struct parallel *run, struct error *error)
{
	int failure;

	work_main(&run->workers[0]);
	for (unsigned i = 1; i < run->started; i++)
		pthread_join(run->workers[i].thread, NULL);
	failure = atomic_load(&run->failure);
	for (unsigned i = 0; i < run->started; i++)
		if (run->workers[i].failure < 0)
			error_set(error, failure, "%s", error_text(&run->workers[i].error, failure));
	return failure;
}

int parallel_run(size_t count, size_t share, parallel_work work, void *context, struct error *error)
{
	struct parallel run;

	parallel_begin(&run, count, share, work, context);
	return parallel_end(&run, error);
}
