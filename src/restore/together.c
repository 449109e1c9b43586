/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Batches of several processes, run at the same time. One process after the other costs two switches of the processor for
 * each batch, in which nobody works; together, a shell works while the next one's batch is written. So many are collected
 * that this is hidden, and not so many that what is waited for has left the caches.
 */
#include <errno.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"

struct tracee_batch *restore_together_batch(struct restore_together *together, struct restore_process *process,
					    struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();

	if (batch && array_reserve(&together->threads, 1) == 0 && array_append(&together->batches, batch) == 0) {
		(void)array_append(&together->threads, process->tracee->threads.items[0]);
		return batch;
	}
	tracee_batch_free(batch);
	error_set_errno(error, -ENOMEM, "cannot set up PID %d", process->pid);
	return NULL;
}

int restore_together_close(struct restore_together *together, int fd, struct error *error)
{
	if (fd < 0 || array_append(&together->fds, fd) == 0)
		return 0;
	close(fd);
	return error_set_errno(error, -ENOMEM, "cannot keep a descriptor");
}

static void clear(struct restore_together *together)
{
	array_for_each(batch, &together->batches)
		tracee_batch_free(*batch);
	array_for_each(fd, &together->fds)
		close(*fd);
	array_clear(&together->threads);
	array_clear(&together->batches);
	array_clear(&together->fds);
}

int restore_together_run(struct restore_tree *tree, struct restore_together *together, struct error *error)
{
	int r = 0;

	if (together->batches.count)
		r = tracee_batch_run_many(together->threads.items, together->batches.items, together->batches.count,
					  tree->deadline, error);
	clear(together);
	return r;
}

void restore_together_deinit(struct restore_together *together)
{
	clear(together);
	array_deinit(&together->threads);
	array_deinit(&together->batches);
	array_deinit(&together->fds);
}

int restore_for_each_together(struct restore_tree *tree, restore_together_part part, struct error *error)
{
	_cleanup_(restore_together_deinit) struct restore_together together = { 0 };
	int r = 0;

	array_for_each(place, &tree->processes) {
		struct restore_process *process = *place;

		/* What it shares with one that is before it may be what both are about to change. */
		if (together.batches.count >= RESTORE_TOGETHER || process->shares)
			r = restore_together_run(tree, &together, error);
		if (r < 0)
			return r;
		r = part(tree, process, &together, error);
		if (r < 0)
			return error_wrap(error, r, "cannot restore PID %d", process->pid);
		if (process->shares)
			r = restore_together_run(tree, &together, error);
		if (r < 0)
			return r;
	}
	return restore_together_run(tree, &together, error);
}
