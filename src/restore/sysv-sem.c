/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of System V semaphores. Values first, as setting one clears the adjustments of all processes; then each process gets
 * its adjustments by operations that give the value back at once; at last the process that is to be known as the one with the
 * last operation does one that changes nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include "restore/parts.h"
#include "restore/sysv.h"
#include "util/cleanup.h"

#define VALUE_MAX  32767
#define UNDO_STEP  16383 /* one of the two orders of a pair of operations keeps any value in range */
#define TOUCH_OPS  400   /* operations of one call; SEMOPM is 500 */

static int run_ops(struct restore_tree *tree, pid_t pid, uint32_t set, const struct sembuf *ops, size_t count,
		   struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "out of memory");
	tracee_batch_call(batch, SYS_semop, set, tracee_batch_data(batch, ops, count * sizeof(*ops)), count);
	r = tracee_batch_run(restore_sysv_actor(tree, pid), batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r < 0 ? error_wrap(error, r, "System V semaphore set %u", set) : 0;
}

/* The end of the process adds `adjustment`: what SEM_UNDO has taken. */
static int set_undo(struct restore_tree *tree, const IpcSemaphores *message, const IpcUndo *undo, struct error *error)
{
	int left = abs(undo->adjustment), value = (int)message->values[undo->number];

	while (left > 0) {
		short step = (short)(left < UNDO_STEP ? left : UNDO_STEP);
		bool gives = undo->adjustment > 0, up_first = value + step <= VALUE_MAX;
		struct sembuf up = { .sem_num = (unsigned short)undo->number, .sem_op = step,
				     .sem_flg = gives ? IPC_NOWAIT : IPC_NOWAIT | SEM_UNDO };
		struct sembuf down = { .sem_num = (unsigned short)undo->number, .sem_op = (short)-step,
				       .sem_flg = gives ? IPC_NOWAIT | SEM_UNDO : IPC_NOWAIT };
		struct sembuf ops[2] = { up_first ? up : down, up_first ? down : up };
		int r = run_ops(tree, (pid_t)undo->pid, message->desc->id, ops, 2, error);

		if (r < 0)
			return r;
		left -= step;
	}
	return 0;
}

/* The operations that leave semaphore `number` as it is: its value is 0 or not. */
static size_t add_touch(const IpcSemaphores *message, size_t number, struct sembuf *ops)
{
	struct sembuf op = { .sem_num = (unsigned short)number, .sem_flg = IPC_NOWAIT };
	size_t count = 0;

	if (message->values[number]) {
		op.sem_op = -1;
		ops[count++] = op;
		op.sem_op = 1;
	}
	ops[count++] = op;
	return count;
}

/* All semaphores that were last used by the process that `first` was last used by. */
static int touch(struct restore_tree *tree, const IpcSemaphores *message, size_t first, struct error *error)
{
	struct sembuf ops[TOUCH_OPS + 2];
	size_t count = 0;
	int r = 0;

	for (size_t i = 0; i < first; i++)
		if (message->pids[i] == message->pids[first])
			return 0;
	for (size_t i = first; r == 0 && i < message->nsems; i++) {
		if (message->pids[i] == message->pids[first])
			count += add_touch(message, i, ops + count);
		if (count >= TOUCH_OPS || (i + 1 == message->nsems && count)) {
			r = run_ops(tree, (pid_t)message->pids[first], message->desc->id, ops, count, error);
			count = 0;
		}
	}
	return r;
}

static int set_values(const IpcSemaphores *message, struct error *error)
{
	_cleanup_free_ unsigned short *values = calloc(message->nsems, sizeof(*values));
	union image_semun argument = { .values = values };

	if (!values)
		return error_set(error, -ENOMEM, "out of memory");
	for (size_t i = 0; i < message->nsems; i++)
		values[i] = (unsigned short)message->values[i];
	return semctl((int)message->desc->id, 0, SETALL, argument) < 0
		       ? error_set_errno(error, -errno, "cannot set the values of System V semaphore set %u", message->desc->id)
		       : 0;
}

static int check_message(const IpcSemaphores *message, struct error *error)
{
	bool good = message->nsems && message->n_values == message->nsems && message->n_pids == message->nsems;

	for (size_t i = 0; good && i < message->n_values; i++)
		good = message->values[i] <= VALUE_MAX;
	for (size_t i = 0; good && i < message->n_undos; i++)
		good = message->undos[i]->number < message->nsems && abs(message->undos[i]->adjustment) <= VALUE_MAX + 1;
	return good ? 0 : error_set(error, -EPROTO, "the record of System V semaphore set %u is wrong", message->desc->id);
}

static int restore_set(struct restore_tree *tree, const IpcSemaphores *message, struct error *error)
{
	int r = check_message(message, error);

	if (r == 0)
		r = restore_sysv_make(tree, IMAGE_IPC_SET, message->desc, message->nsems, error);
	if (r == 0)
		r = set_values(message, error);
	for (size_t i = 0; r == 0 && i < message->n_undos; i++)
		r = set_undo(tree, message, message->undos[i], error);
	for (size_t i = 0; r == 0 && i < message->nsems; i++)
		r = touch(tree, message, i, error);
	return r;
}

int restore_sysv_sets(struct restore_tree *tree, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(tree->images, IMAGE_SEMAPHORES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ IpcSemaphores *message = NULL;

		r = image_unpack(record, ipc_semaphores, &message, error);
		if (r == 0)
			r = restore_set(tree, message, error);
	}
	return r;
}
