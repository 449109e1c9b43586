/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues of System V messages. Messages are sent by the process that is to be known as the last sender; that of a last
 * receiver receives a message of no content first, which the queue then has had, too.
 */
#include <errno.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/syscall.h>

#include "restore/parts.h"
#include "restore/sysv.h"
#include "util/cleanup.h"

static int send_message(struct restore_tree *tree, const IpcQueue *queue, int64_t type, const void *data, size_t size,
			struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	uint8_t *text = malloc(sizeof(type) + size);
	int r = batch && text ? 0 : error_set(error, -ENOMEM, "out of memory");

	if (r == 0) {
		memcpy(text, &type, sizeof(type));
		if (size)
			memcpy(text + sizeof(type), data, size);
		tracee_batch_call(batch, SYS_msgsnd, queue->desc->id, tracee_batch_data(batch, text, sizeof(type) + size), size,
				  IPC_NOWAIT);
		r = tracee_batch_run(restore_sysv_actor(tree, queue->has_sender ? (pid_t)queue->sender : 0), batch,
				     tree->deadline, error);
	}
	free(text);
	tracee_batch_free(batch);
	return r < 0 ? error_wrap(error, r, "System V message queue %u", queue->desc->id) : 0;
}

static int receive_empty(struct restore_tree *tree, const IpcQueue *queue, struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "out of memory");
	tracee_batch_call(batch, SYS_msgrcv, queue->desc->id, tracee_batch_space(batch, sizeof(int64_t)), 0, 0, IPC_NOWAIT);
	r = tracee_batch_run(restore_sysv_actor(tree, (pid_t)queue->receiver), batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r < 0 ? error_wrap(error, r, "System V message queue %u", queue->desc->id) : 0;
}

static int set_limit(const IpcQueue *queue, struct error *error)
{
	const IpcDescription *desc = queue->desc;
	struct msqid_ds info = { .msg_perm = { .uid = desc->uid, .gid = desc->gid, .mode = desc->mode & 0777 },
				 .msg_qbytes = queue->qbytes };

	return msgctl((int)desc->id, IPC_SET, &info) < 0
		       ? error_set_errno(error, -errno, "cannot give System V message queue %u its owner and limit", desc->id)
		       : 0;
}

static int restore_queue(struct restore_tree *tree, const IpcQueue *queue, struct error *error)
{
	int r = restore_sysv_make(tree, IMAGE_IPC_QUEUE, queue->desc, 0, error);

	if (r == 0)
		r = set_limit(queue, error);
	if (r == 0 && (queue->has_sender || queue->has_receiver)) {
		r = send_message(tree, queue, 1, NULL, 0, error);
		if (r == 0)
			r = receive_empty(tree, queue, error);
	}
	for (size_t i = 0; r == 0 && i < queue->n_messages; i++)
		r = send_message(tree, queue, (int64_t)queue->messages[i]->mtype, queue->messages[i]->data.data,
				 queue->messages[i]->data.len, error);
	return r;
}

int restore_sysv_queues(struct restore_tree *tree, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(tree->images, IMAGE_MESSAGE_QUEUE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ IpcQueue *queue = NULL;

		r = image_unpack(record, ipc_queue, &queue, error);
		if (r == 0)
			r = restore_queue(tree, queue, error);
	}
	return r;
}
