/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks and leases.
 *
 * A POSIX lock belongs to a process, so it is taken by a call inside it: at first in the batch that
 * installs the descriptors, later, when that found the lock still taken, by a batch in the running
 * process. Locks of flock(2) and open file description locks go the same way, for one way is
 * enough.
 */
#include "restore/file-lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "restore/file-kind.h"
#include "util/cleanup.h"

struct restore_locks {
	ARRAY(struct restore_lock) list; /* ordered by process */
};

int restore_lock_call(struct tracee_batch *batch, const struct restore_lock *lock)
{
	struct flock range = { .l_type = lock->write ? F_WRLCK : F_RDLCK,
			       .l_whence = SEEK_SET,
			       .l_start = (off_t)lock->start,
			       .l_len = lock->end == UINT64_MAX
						? 0
						: (off_t)(lock->end - lock->start + 1) };

	if (lock->kind == FILE_LOCK__KIND__FLOCK)
		return tracee_batch_try(batch, SYS_flock, lock->number,
					(lock->write ? LOCK_EX : LOCK_SH) | LOCK_NB);
	if (lock->kind == FILE_LOCK__KIND__LEASE)
		return tracee_batch_try(batch, SYS_fcntl, lock->number, F_SETLEASE, lock->write ? F_WRLCK : F_RDLCK);
	return tracee_batch_try(batch, SYS_fcntl, lock->number,
				lock->kind == FILE_LOCK__KIND__OFD ? F_OFD_SETLK : F_SETLK,
				tracee_batch_data(batch, &range, sizeof(range)));
}

int restore_lock_result(int64_t result, struct error *error)
{
	if (result >= 0)
		return 1;
	if (result == -EAGAIN || result == -EACCES)
		return 0;
	return error_set_errno(error, (int)result, "locking a file");
}

struct restore_locks *restore_locks_steal(struct restore_tree *tree)
{
	struct restore_locks *locks;

	if (!tree->files || tree->files->locks.count == 0)
		return NULL;
	locks = calloc(1, sizeof(*locks));
	if (!locks)
		return NULL;
	locks->list.items = steal_ptr(&tree->files->locks.items);
	locks->list.count = tree->files->locks.count;
	locks->list.capacity = tree->files->locks.capacity;
	tree->files->locks.count = tree->files->locks.capacity = 0;
	return locks;
}

void restore_locks_free(struct restore_locks *locks)
{
	if (!locks)
		return;
	array_deinit(&locks->list);
	free(locks);
}

/*
 * Tries for `count` locks of one process, from `first` on; marks those that need no further try
 * with PID 0.
 */
static int take_some(struct restore_lock *first, size_t count, int64_t deadline,
		     struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	struct tracee_process *process = NULL;
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	for (size_t i = 0; i < count; i++)
		restore_lock_call(batch, &first[i]);
	r = tracee_process_stop(first->pid, NULL, deadline, &process, error);
	if (r == 0)
		r = tracee_batch_run(process->threads.items[0], batch, deadline, error);
	tracee_process_release(process);
	for (size_t i = 0; i < count; i++) {
		struct error ignored = ERROR_INIT;
		int64_t result = r == -ESRCH ? -ESRCH
				 : r < 0     ? -EAGAIN
					     : tracee_batch_result(batch, (int)i);

		/* What fails for good (the process is gone, or has closed the file) is over. */
		if (restore_lock_result(result, &ignored) != 0)
			first[i].pid = 0;
	}
	tracee_batch_free(batch);
	if (r == -ESRCH) {
		error_clear(error);
		r = 0;
	}
	return r;
}

int restore_locks_take(struct restore_locks *locks, int64_t deadline, size_t *ret_left,
		       struct error *error)
{
	size_t left = 0;
	int r = 0;

	for (size_t i = 0, count; r == 0 && i < locks->list.count; i += count) {
		const pid_t pid = locks->list.items[i].pid;

		for (count = 1;
		     i + count < locks->list.count && locks->list.items[i + count].pid == pid;
		     count++)
			;
		r = take_some(&locks->list.items[i], count, deadline, error);
	}
	for (size_t i = 0; i < locks->list.count; i++)
		if (locks->list.items[i].pid != 0)
			locks->list.items[left++] = locks->list.items[i];
	locks->list.count = left;
	if (r == 0)
		*ret_left = left;
	return r;
}
