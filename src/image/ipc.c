/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ipc.h"

#include <errno.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "pagestream-core.pb-c.h"
#include "pagestream-ipc.pb-c.h"

static int add(struct image_ipcs *ret, uint32_t kind, const IpcDescription *desc, struct error *error)
{
	struct image_ipc object = { .kind = kind, .id = desc->id, .key = desc->key };

	return array_append(&ret->list, object) < 0 ? error_set(error, -ENOMEM, "out of memory") : 0;
}

static int list_segments(const struct image_set *images, struct image_ipcs *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(images, IMAGE_SHARED_MEMORY, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SharedMemory *message = NULL;

		r = image_unpack(record, shared_memory, &message, error);
		if (r == 0 && message->segment)
			r = add(ret, IMAGE_IPC_SEGMENT, message->segment->desc, error);
	}
	return r;
}

static int list_posix_queues(const struct image_set *images, struct image_ipcs *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_MQUEUE, IMAGE_ANY, &cursor))) {
		struct image_ipc object = { .kind = IMAGE_IPC_MQUEUE };
		_cleanup_message_ PosixQueue *message = NULL;
		int r = image_unpack(record, posix_queue, &message, error);

		if (r < 0)
			return r;
		if ((size_t)snprintf(object.name, sizeof(object.name), "%s", message->name) >= sizeof(object.name))
			return error_set(error, -EPROTO, "the name of a message queue is too long");
		if (!message->deleted && array_append(&ret->list, object) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	return 0;
}

int image_ipc_list(const struct image_set *images, struct image_ipcs *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = list_segments(images, ret, error);

	while (r == 0 && (record = image_set_next(images, IMAGE_SEMAPHORES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ IpcSemaphores *message = NULL;

		r = image_unpack(record, ipc_semaphores, &message, error);
		if (r == 0)
			r = add(ret, IMAGE_IPC_SET, message->desc, error);
	}
	cursor = 0;
	while (r == 0 && (record = image_set_next(images, IMAGE_MESSAGE_QUEUE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ IpcQueue *message = NULL;

		r = image_unpack(record, ipc_queue, &message, error);
		if (r == 0)
			r = add(ret, IMAGE_IPC_QUEUE, message->desc, error);
	}
	return r < 0 ? r : list_posix_queues(images, ret, error);
}

bool image_ipc_has(const struct image_ipcs *objects, const struct image_ipc *object)
{
	array_for_each(known, &objects->list)
		if (known->kind == object->kind && known->id == object->id && strcmp(known->name, object->name) == 0)
			return true;
	return false;
}

void image_ipcs_deinit(struct image_ipcs *objects)
{
	array_deinit(&objects->list);
}

void image_ipc_remove(const struct image_ipc *object)
{
	struct semid_ds set;
	struct shmid_ds segment;
	struct msqid_ds queue;
	union image_semun argument = { .set = &set };
	int id = (int)object->id;

	switch (object->kind) {
	case IMAGE_IPC_SEGMENT:
		if (shmctl(id, IPC_STAT, &segment) == 0 && (uint32_t)segment.shm_perm.__key == object->key)
			shmctl(id, IPC_RMID, NULL);
		break;
	case IMAGE_IPC_SET:
		if (semctl(id, 0, IPC_STAT, argument) == 0 && (uint32_t)set.sem_perm.__key == object->key)
			semctl(id, 0, IPC_RMID, argument);
		break;
	case IMAGE_IPC_QUEUE:
		if (msgctl(id, IPC_STAT, &queue) == 0 && (uint32_t)queue.msg_perm.__key == object->key)
			msgctl(id, IPC_RMID, NULL);
		break;
	case IMAGE_IPC_MQUEUE:
		mq_unlink(object->name);
		break;
	default:
		break;
	}
}

int image_ipc_note(const struct image_ipcs *objects, JournalEntry *entry, JournalIpc ***ret)
{
	size_t count = objects->list.count;
	JournalIpc **pointers = malloc(count * (sizeof(*pointers) + sizeof(**pointers)) + 1);
	JournalIpc *items;

	if (!pointers)
		return -ENOMEM;
	items = (JournalIpc *)(void *)(pointers + count);
	for (size_t i = 0; i < count; i++) {
		journal_ipc__init(&items[i]);
		items[i].kind = objects->list.items[i].kind;
		items[i].id = objects->list.items[i].id;
		items[i].key = objects->list.items[i].key;
		if (objects->list.items[i].kind == IMAGE_IPC_MQUEUE)
			items[i].name = objects->list.items[i].name;
		pointers[i] = &items[i];
	}
	entry->ipc = pointers;
	entry->n_ipc = count;
	*ret = pointers;
	return 0;
}

void image_ipc_end(const JournalEntry *entry)
{
	for (size_t i = 0; i < entry->n_ipc; i++) {
		struct image_ipc object = { .kind = entry->ipc[i]->kind, .id = entry->ipc[i]->id, .key = entry->ipc[i]->key };

		snprintf(object.name, sizeof(object.name), "%s", entry->ipc[i]->name ? entry->ipc[i]->name : "");
		image_ipc_remove(&object);
	}
}

const char *image_ipc_kind_name(uint32_t kind)
{
	switch (kind) {
	case IMAGE_IPC_SEGMENT:
		return "segment";
	case IMAGE_IPC_SET:
		return "semaphore set";
	case IMAGE_IPC_QUEUE:
		return "message queue";
	default:
		return "POSIX queue";
	}
}

const char *image_ipc_kind_short(uint32_t kind)
{
	return kind == IMAGE_IPC_SEGMENT ? "shm" : kind == IMAGE_IPC_SET ? "sem" : "msg";
}
