/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of System V semaphores: values, the PID of the last operation on each, and what the end of each process of the tree
 * would add to them (SEM_UNDO).
 *
 * Adjustments are shown nowhere, but the process itself can find out without changing anything. semop(2) does all of a list
 * of operations or none; an operation with SEM_UNDO fails with ERANGE when the adjustment would leave -32768..32767; so a
 * list that moves the adjustment by S, gives each value back at once, and ends with an operation that cannot be done,
 * answers ERANGE if adjustment - S < -32768 and else EAGAIN. Most adjustments are 0, which two questions tell; the others
 * take 16 each.
 *
 * Failure modes: a thread that has adjustments of its own (clone(2) without CLONE_SYSVSEM) is a blocker; so is a set that a
 * process outside of the tree uses, too. A process that may not change a set has no adjustment of it.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/parts.h"
#include "dump/sysv.h"
#include "image/ipc.h"
#include "util/cleanup.h"

#define VALUE_MAX   32767
#define SHIFT_ZERO  32768 /* a shift by which an adjustment of 0 is just in range */
#define SHIFT_STEP  16383 /* of one pair of operations: one of the two orders keeps any value in range */
#define SHIFT_OPS   (2 * (2 * SHIFT_ZERO / SHIFT_STEP + 1) + 1)
#define PROBE_BATCH 50 /* semaphores */

/* The adjustments of one process in one set. */
struct probe {
	struct dump_context *ctx;
	struct dump_process *process;
	int set;
	const unsigned short *values;
	struct tracee_batch *batch; /* owned */
};

/* ---- adjustments */

/* Asks whether adjustment < shift - 32768: the call then answers ERANGE. */
static int probe_add(struct probe *probe, unsigned number, int shift)
{
	struct sembuf ops[SHIFT_OPS];
	int value = probe->values[number];
	size_t count = 0;

	while (shift > 0) {
		short step = (short)(shift < SHIFT_STEP ? shift : SHIFT_STEP);
		bool up_first = value + step <= VALUE_MAX;
		struct sembuf up = { .sem_num = (unsigned short)number, .sem_op = step, .sem_flg = SEM_UNDO | IPC_NOWAIT };
		struct sembuf down = { .sem_num = (unsigned short)number, .sem_op = (short)-step, .sem_flg = IPC_NOWAIT };

		ops[count++] = up_first ? up : down;
		ops[count++] = up_first ? down : up;
		shift -= step;
	}
	ops[count++] = (struct sembuf){ .sem_num = (unsigned short)number, .sem_op = (short)(-value - 1),
					.sem_flg = IPC_NOWAIT };
	return tracee_batch_try(probe->batch, SYS_semop, probe->set,
				tracee_batch_data(probe->batch, ops, count * sizeof(ops[0])), count);
}

static int probe_run(struct probe *probe, struct error *error)
{
	return tracee_batch_run(probe->process->tracee->threads.items[0], probe->batch, probe->ctx->deadline, error);
}

/* 1: below; 0: not; negative: an error. */
static int probe_answer(const struct probe *probe, int index, struct error *error)
{
	int64_t result = tracee_batch_result(probe->batch, index);

	if (result == -ERANGE)
		return 1;
	if (result == -EAGAIN || result == -EACCES)
		return 0;
	return error_set_errno(error, result < 0 ? (int)result : -EPROTO, "asking PID %d for its adjustments of System V "
			       "semaphore set %d", probe->process->pid, probe->set);
}

/* An adjustment that is not 0: the largest shift that is in range tells it. */
static int probe_search(struct probe *probe, unsigned number, int *ret, struct error *error)
{
	int low = 0, high = 2 * SHIFT_ZERO - 1;

	while (low < high) {
		int middle = low + (high - low + 1) / 2, index, r;

		tracee_batch_clear(probe->batch);
		index = probe_add(probe, number, middle);
		r = probe_run(probe, error);
		if (r == 0)
			r = probe_answer(probe, index, error);
		if (r < 0)
			return r;
		if (r)
			high = middle - 1;
		else
			low = middle;
	}
	*ret = low - SHIFT_ZERO;
	return 0;
}

typedef ARRAY(IpcUndo) undo_list;

static int note_undo(const struct probe *probe, unsigned number, int adjustment, undo_list *undos, struct error *error)
{
	IpcUndo undo = IPC_UNDO__INIT;

	undo.pid = (uint32_t)probe->process->pid;
	undo.number = number;
	undo.adjustment = adjustment;
	return array_append(undos, undo) < 0 ? error_set(error, -ENOMEM, "out of memory") : 0;
}

/* Semaphores `first` and following. */
static int probe_some(struct probe *probe, unsigned first, unsigned count, undo_list *undos, struct error *error)
{
	bool differs[PROBE_BATCH] = { false };
	int r;

	tracee_batch_clear(probe->batch);
	for (unsigned i = 0; i < count; i++) {
		probe_add(probe, first + i, SHIFT_ZERO);
		probe_add(probe, first + i, SHIFT_ZERO + 1);
	}
	r = probe_run(probe, error);
	for (unsigned i = 0; r >= 0 && i < count; i++) {
		int below = probe_answer(probe, (int)(2 * i), error), at_most;

		at_most = below < 0 ? below : probe_answer(probe, (int)(2 * i + 1), error);
		r = at_most;
		differs[i] = below > 0 || (at_most == 0 && tracee_batch_result(probe->batch, (int)(2 * i)) != -EACCES);
	}
	for (unsigned i = 0; r >= 0 && i < count; i++) {
		int adjustment = 0;

		if (!differs[i])
			continue;
		r = probe_search(probe, first + i, &adjustment, error);
		if (r == 0)
			r = note_undo(probe, first + i, adjustment, undos, error);
	}
	return r < 0 ? r : 0;
}

/* Whether all threads share the adjustments of their process. */
static bool threads_share(const struct dump_process *process)
{
	array_for_each(tid, &process->threads)
		if (*tid != process->pid && syscall(SYS_kcmp, *tid, process->live, KCMP_SYSVSEM, 0, 0) > 0)
			return false;
	return true;
}

static int probe_process(struct dump_context *ctx, struct dump_process *process, IpcSemaphores *message,
			 const unsigned short *values, undo_list *undos, struct error *error)
{
	struct probe probe = { .ctx = ctx, .process = process, .set = (int)message->desc->id, .values = values };
	int r = 0;

	if (!threads_share(process))
		dump_refuse(ctx, process->pid, "thread", IMAGE_KIND_SYSV_THREAD_UNDO, "semaphore set %u", message->desc->id);
	if (!process->tracee)
		return 0;
	probe.batch = tracee_batch_new();
	if (!probe.batch)
		return error_set(error, -ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && i < message->nsems; i += PROBE_BATCH)
		r = probe_some(&probe, i, message->nsems - i < PROBE_BATCH ? message->nsems - i : PROBE_BATCH, undos, error);
	tracee_batch_free(probe.batch);
	return r;
}

/* ---- a set */

/*
 * Who used it last; `ret_stranger` is somebody outside of the tree, or 0, and `ret_earlier` one of the tree that was another
 * one then. True: it belongs to the tree, or may do so.
 */
static bool belongs(struct dump_context *ctx, struct dump_sysv_waits *waits, int id, const struct semid_ds *info,
		    uint32_t *pids, pid_t *ret_stranger, pid_t *ret_earlier)
{
	static const long calls[2] = { SYS_semop, SYS_semtimedop };
	/* A value that is set names its process, too, and is a change. */
	int64_t last = info->sem_otime > info->sem_ctime ? info->sem_otime : info->sem_ctime;
	unsigned count = (unsigned)info->sem_nsems;
	bool ours = false;

	*ret_stranger = *ret_earlier = 0;
	for (unsigned i = 0; i < count; i++) {
		pid_t pid = (pid_t)semctl(id, (int)i, GETPID);
		enum dump_sysv_user user = dump_sysv_user(ctx, pid, last);

		pids[i] = user == DUMP_SYSV_OURS ? (uint32_t)pid : 0;
		ours |= user == DUMP_SYSV_OURS;
		if (user == DUMP_SYSV_STRANGER)
			*ret_stranger = pid;
		if (user == DUMP_SYSV_EARLIER)
			*ret_earlier = pid;
	}
	return ours || *ret_earlier || dump_sysv_waits_on(ctx, waits, (uint32_t)id, calls);
}

/* Of a stopped tree nobody waits any more: its threads were taken out of the queue. */
static bool others_wait(int id, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (semctl(id, (int)i, GETNCNT) > 0 || semctl(id, (int)i, GETZCNT) > 0)
			return true;
	return false;
}

static bool is_frozen(const struct dump_context *ctx)
{
	return ctx->processes.count && ctx->processes.items[0]->tracee;
}

static int add_record(struct dump_context *ctx, IpcSemaphores *message, const unsigned short *values, struct error *error)
{
	_cleanup_free_ uint32_t *wide = calloc(message->nsems, sizeof(*wide));
	_cleanup_free_ IpcUndo **pointers = NULL;
	undo_list undos = { 0 };
	int r = wide ? 0 : error_set(error, -ENOMEM, "out of memory");

	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++)
		r = probe_process(ctx, ctx->processes.items[i], message, values, &undos, error);
	pointers = r == 0 ? calloc(undos.count + 1, sizeof(*pointers)) : NULL;
	if (r == 0 && !pointers)
		r = error_set(error, -ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && i < message->nsems; i++)
		wide[i] = values[i];
	for (size_t i = 0; r == 0 && i < undos.count; i++)
		pointers[i] = &undos.items[i];
	message->values = wide;
	message->n_values = message->nsems;
	message->undos = pointers;
	message->n_undos = undos.count;
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_SEMAPHORES, 0, &message->base, error);
	array_deinit(&undos);
	return r;
}

static int dump_set(struct dump_context *ctx, struct dump_sysv_waits *waits, int id, const struct semid_ds *info,
		    struct error *error)
{
	unsigned count = (unsigned)info->sem_nsems;
	_cleanup_free_ unsigned short *values = calloc(count, sizeof(*values));
	_cleanup_free_ uint32_t *pids = calloc(count, sizeof(*pids));
	union image_semun argument = { .values = values };
	IpcSemaphores message = IPC_SEMAPHORES__INIT;
	IpcDescription desc = IPC_DESCRIPTION__INIT;
	pid_t stranger, earlier;

	if (!values || !pids)
		return error_set(error, -ENOMEM, "out of memory");
	if (!belongs(ctx, waits, id, info, pids, &stranger, &earlier))
		return 0;
	dump_sysv_describe(&info->sem_perm, (uint32_t)id, &desc);
	if (earlier) {
		dump_sysv_refuse_earlier(ctx, "semaphore set", (uint32_t)id, desc.key, earlier);
		return 0;
	}
	if (stranger || (is_frozen(ctx) && others_wait(id, count))) {
		dump_sysv_refuse(ctx, "semaphore set", (uint32_t)id, desc.key, stranger);
		return 0;
	}
	if (semctl(id, 0, GETALL, argument) < 0)
		return errno == EINVAL || errno == EIDRM ? 0 : error_set_errno(error, -errno, "semaphore set %d", id);
	message.desc = &desc;
	message.nsems = count;
	message.pids = pids;
	message.n_pids = count;
	return add_record(ctx, &message, values, error);
}

int dump_sysv_sets(struct dump_context *ctx, struct dump_sysv_waits *waits, struct error *error)
{
	struct seminfo limits = { 0 };
	union image_semun argument = { .info = &limits };
	int last = semctl(0, 0, SEM_INFO, argument), r = 0;

	/* `last` is the highest index in use, 0 also if there is none. */
	for (int index = 0; r == 0 && index <= last; index++) {
		struct semid_ds info;
		union image_semun place = { .set = &info };
		int id = semctl(index, 0, SEM_STAT_ANY, place);

		if (id >= 0)
			r = dump_set(ctx, waits, id, &info, error);
	}
	return r;
}
