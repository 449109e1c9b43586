/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues of System V messages. MSG_COPY reads a message by its place and leaves it there; it is the message itself that tells
 * its type and size. Messages are read from the stopped tree only.
 *
 * Failure modes: a queue that a process outside of the tree uses, too, is a blocker.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/syscall.h>

#include "dump/parts.h"
#include "dump/sysv.h"
#include "util/cleanup.h"

#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#define MESSAGE_FIRST 8192 /* bytes; doubled as long as a message does not fit */
#define MESSAGE_MAX   (64u << 20)

struct text {
	struct msgbuf *data; /* owned */
	size_t size;         /* of the message, and behind */
};

/* The message at that place into `text`; its size, -ENOMSG behind the last one. */
static ssize_t peek(int id, long place, struct text *text)
{
	for (;;) {
		ssize_t got = text->data ? msgrcv(id, text->data, text->size, place, MSG_COPY | IPC_NOWAIT) : -1;

		if (got >= 0)
			return got;
		if (text->data && errno != E2BIG)
			return -errno;
		text->size = text->data ? 2 * text->size : MESSAGE_FIRST;
		free(text->data);
		text->data = text->size <= MESSAGE_MAX ? malloc(sizeof(long) + text->size) : NULL;
		if (!text->data)
			return -ENOMEM;
	}
}

static int read_messages(int id, IpcQueue *message, struct dump_arena *arena, struct error *error)
{
	struct text text = { 0 };
	ssize_t got = 0;

	message->messages = dump_arena_take(arena, (message->qnum + 1) * sizeof(*message->messages));
	for (uint32_t i = 0; message->messages && got >= 0 && i < message->qnum; i++) {
		IpcMessage *entry = dump_arena_take(arena, sizeof(*entry));

		got = peek(id, i, &text);
		if (got < 0 || !entry)
			break;
		ipc_message__init(entry);
		entry->mtype = (uint64_t)text.data->mtype;
		entry->msize = (uint32_t)got;
		entry->has_data = true;
		entry->data.len = (size_t)got;
		entry->data.data = dump_arena_take(arena, (size_t)got + 1);
		if (!entry->data.data)
			break;
		memcpy(entry->data.data, text.data->mtext, (size_t)got);
		message->messages[message->n_messages++] = entry;
	}
	free(text.data);
	if (got < 0)
		return error_set_errno(error, (int)got, "reading message queue %d", id);
	return message->n_messages == message->qnum ? 0 : error_set(error, -ENOMEM, "out of memory");
}

static bool belongs(struct dump_context *ctx, struct dump_sysv_waits *waits, int id, const struct msqid_ds *info,
		    IpcQueue *message, pid_t *ret_stranger, pid_t *ret_earlier)
{
	static const long calls[2] = { SYS_msgrcv, SYS_msgsnd };
	enum dump_sysv_user sender = dump_sysv_user(ctx, info->msg_lspid, info->msg_stime);
	enum dump_sysv_user receiver = dump_sysv_user(ctx, info->msg_lrpid, info->msg_rtime);

	*ret_stranger = sender == DUMP_SYSV_STRANGER ? info->msg_lspid : receiver == DUMP_SYSV_STRANGER ? info->msg_lrpid : 0;
	*ret_earlier = sender == DUMP_SYSV_EARLIER ? info->msg_lspid : receiver == DUMP_SYSV_EARLIER ? info->msg_lrpid : 0;
	message->has_sender = sender == DUMP_SYSV_OURS;
	message->sender = (uint32_t)info->msg_lspid;
	message->has_receiver = receiver == DUMP_SYSV_OURS;
	message->receiver = (uint32_t)info->msg_lrpid;
	return message->has_sender || message->has_receiver || *ret_earlier ||
	       dump_sysv_waits_on(ctx, waits, (uint32_t)id, calls);
}

static int dump_queue(struct dump_context *ctx, struct dump_sysv_waits *waits, int id, const struct msqid_ds *info,
		      struct error *error)
{
	IpcDescription desc = IPC_DESCRIPTION__INIT;
	IpcQueue message = IPC_QUEUE__INIT;
	struct dump_arena arena = { 0 };
	pid_t stranger, earlier;
	int r = 0;

	if (!belongs(ctx, waits, id, info, &message, &stranger, &earlier))
		return 0;
	dump_sysv_describe(&info->msg_perm, (uint32_t)id, &desc);
	if (earlier) {
		dump_sysv_refuse_earlier(ctx, "message queue", (uint32_t)id, desc.key, earlier);
		return 0;
	}
	if (stranger) {
		dump_sysv_refuse(ctx, "message queue", (uint32_t)id, desc.key, stranger);
		return 0;
	}
	message.desc = &desc;
	message.qbytes = (uint32_t)info->msg_qbytes;
	message.qnum = (uint32_t)info->msg_qnum;
	if (ctx->processes.items[0]->tracee)
		r = read_messages(id, &message, &arena, error);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_MESSAGE_QUEUE, 0, &message.base, error);
	dump_arena_deinit(&arena);
	return r;
}

int dump_sysv_queues(struct dump_context *ctx, struct dump_sysv_waits *waits, struct error *error)
{
	struct msginfo limits = { 0 };
	int last = msgctl(0, MSG_INFO, (struct msqid_ds *)(void *)&limits), r = 0;

	for (int index = 0; r == 0 && index <= last; index++) {
		struct msqid_ds info;
		int id = msgctl(index, MSG_STAT_ANY, &info);

		if (id >= 0)
			r = dump_queue(ctx, waits, id, &info, error);
	}
	return r;
}
