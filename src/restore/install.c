/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Putting descriptors into a shell.
 *
 * Model. A shell fetches descriptors from this process: pidfd_open(our PID), then pidfd_getfd() for
 * each, which gives the lowest free number. Numbers are filled in ascending order, so which number
 * comes is known when the batch is built: if it is the wanted one, nothing else is to do, otherwise
 * dup3() moves it. The pidfd itself sits at the lowest number that the final table leaves free and
 * is closed at the end.
 *
 * A table of thousands of descriptors is cut into batches of some hundred calls, so that the remote
 * area stays small.
 *
 * Failure modes: a number beyond the limit of descriptors (raised here as far as the hard limit
 * allows).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/file-kind.h"
#include "restore/parts.h"

#define CALLS_MAX 400 /* of one batch */

struct tracee_batch *restore_install_batch(struct restore_install *install, size_t calls)
{
	struct tracee_batch *batch = NULL;

	if (install->batches.count > 0)
		batch = install->batches.items[install->batches.count - 1];
	if (batch && tracee_batch_count(batch) + calls <= CALLS_MAX)
		return batch;
	batch = tracee_batch_new();
	if (batch && array_append(&install->batches, batch) < 0) {
		tracee_batch_free(batch);
		return NULL;
	}
	return batch;
}

static int raise_limit(pid_t pid, int highest, struct error *error)
{
	struct rlimit limit;

	if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit) < 0)
		return error_set_errno(error, -errno, "PID %d: limit of descriptors", pid);
	if (limit.rlim_cur > (rlim_t)highest)
		return 0;
	limit.rlim_cur = (rlim_t)highest + 1;
	if (limit.rlim_max < limit.rlim_cur)
		limit.rlim_max = limit.rlim_cur;
	if (prlimit(pid, RLIMIT_NOFILE, &limit, NULL) < 0)
		return error_set_errno(error, -errno,
				       "PID %d: descriptor %d is beyond the limit of this host",
				       pid, highest);
	return 0;
}

int restore_install_begin(struct restore_install *install, struct restore_process *process,
			  const int *numbers, size_t count, struct error *error)
{
	struct tracee_batch *batch;
	int number = 0, opened, r;

	*install = (struct restore_install){ .process = process };
	for (size_t i = 0; i < count && numbers[i] == number; i++)
		number++;
	install->pidfd_number = number;
	if (count > 0 && numbers[count - 1] > number)
		number = numbers[count - 1];
	r = raise_limit(process->pid, number, error);
	if (r < 0)
		return r;
	batch = restore_install_batch(install, 4);
	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	tracee_batch_call(batch, SYS_close_range, 0, UINT32_MAX, 0);
	opened = tracee_batch_call(batch, SYS_pidfd_open, getpid(), 0);
	if (install->pidfd_number != 0) {
		tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(opened), install->pidfd_number,
				  O_CLOEXEC);
		tracee_batch_call(batch, SYS_close, TRACEE_RESULT(opened));
	}
	return 0;
}

int restore_install_add(struct restore_install *install, int number, int our_fd, bool cloexec)
{
	struct tracee_batch *batch = restore_install_batch(install, 3);
	int fetched;

	if (!batch)
		return -ENOMEM;
	if (install->lowest == install->pidfd_number)
		install->lowest++;
	fetched = tracee_batch_call(batch, SYS_pidfd_getfd, install->pidfd_number, our_fd, 0);
	if (install->lowest == number) {
		install->lowest++;
		if (!cloexec)
			tracee_batch_call(batch, SYS_fcntl, TRACEE_RESULT(fetched), F_SETFD, 0);
	} else {
		tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(fetched), number,
				  cloexec ? O_CLOEXEC : 0);
		tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fetched));
	}
	return 0;
}

int restore_install_end(struct restore_install *install)
{
	struct tracee_batch *batch = restore_install_batch(install, 1);

	if (!batch)
		return -ENOMEM;
	tracee_batch_call(batch, SYS_close, install->pidfd_number);
	return 0;
}

int restore_install_run(struct restore_tree *tree, struct restore_install *installs, size_t count,
			struct error *error)
{
	struct tracee_thread **threads = calloc(count + 1, sizeof(*threads));
	struct tracee_batch **batches = calloc(count + 1, sizeof(*batches));
	size_t round = 0, n;
	int r = 0;

	if (!threads || !batches)
		r = error_set(error, -ENOMEM, "no memory for batches");
	do {
		n = 0;
		for (size_t i = 0; r == 0 && i < count; i++) {
			if (round >= installs[i].batches.count)
				continue;
			threads[n] = installs[i].process->tracee->threads.items[0];
			batches[n++] = installs[i].batches.items[round];
		}
		if (r == 0 && n > 0)
			r = tracee_batch_run_many(threads, batches, n, tree->deadline, error);
		round++;
	} while (r == 0 && n > 0);
	free(threads);
	free(batches);
	return r;
}

void restore_install_deinit(struct restore_install *install)
{
	array_for_each (batch, &install->batches)
		tracee_batch_free(*batch);
	array_deinit(&install->batches);
	array_deinit(&install->tries);
}
