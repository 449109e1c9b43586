/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image sets: the state of a process tree as records.
 *
 * A record is a packed protobuf message (or plain bytes) with a type and an id. The types are the images that CRIU
 * keeps in a checkpoint directory, plus ours; the id is what the file name there carries (a PID, a TID, a shared
 * memory id), 0 where there is only one. Several records of one type and id keep their order, as in a file. `dump`
 * adds records, the session sends them, `restore` reads them.
 *
 * A set owns the bytes of its records. It is not locked; nothing here blocks.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* Sent on the wire: the numbers never change. */
enum image_type {
	IMAGE_INVENTORY = 1,
	IMAGE_PSTREE = 2,         /* id 0; one record a process, parents first */
	IMAGE_CORE = 3,           /* id: TID */
	IMAGE_IDS = 4,            /* id: PID */
	IMAGE_MM = 5,             /* id: PID */
	IMAGE_FS = 6,             /* id: PID, or TID of a thread that has its own */
	IMAGE_FDINFO = 7,         /* id: files id of the process; one record a descriptor */
	IMAGE_FILES = 8,          /* id 0; one record an open file description */
	IMAGE_PIPE_DATA = 9,      /* id 0: a record with the message, then one with the bytes */
	IMAGE_FIFO_DATA = 10,     /* as IMAGE_PIPE_DATA */
	IMAGE_SOCKET_QUEUE = 11,  /* id 0: packets, message then bytes */
	IMAGE_GHOST_FILE = 12,    /* id: of the object whose pages are its content */
	IMAGE_REMAP_PATH = 13,    /* id 0 */
	IMAGE_EVENTPOLL_ITEM = 14,/* id 0 */
	IMAGE_INOTIFY_WATCH = 15, /* id 0 */
	IMAGE_MEMFD = 16,         /* id 0; one record a memfd inode */
	IMAGE_CREDS = 17,         /* id: TID */
	IMAGE_PAGEMAP = 18,       /* id: PID */
	IMAGE_TIMENS = 19,        /* id 0 */
	IMAGE_TTY_INFO = 20,      /* id 0; one record a terminal */
	IMAGE_TTY_DATA = 22,      /* id 0; one record a queue */
	IMAGE_TCP_STREAM = 41,    /* id: inode of the socket; a message, then the bytes of both queues, if there are any */
	IMAGE_SECCOMP = 44,       /* id 0; one record with all filters */
	/* Ours, for what CRIU has no message for. */
	IMAGE_THREAD_EXTRA = 64,  /* id: TID */
	IMAGE_PROCESS_EXTRA = 65, /* id: PID */
	IMAGE_MM_EXTRA = 66,      /* id: PID */
	IMAGE_SHARED_MEMORY = 67, /* id 0; one record an object */
	IMAGE_FILE_CHECK = 68,    /* id 0; one record a file that the target must have */
	IMAGE_SEMAPHORES = 73,    /* id 0; one record a set */
	IMAGE_MESSAGE_QUEUE = 74, /* id 0; one record a System V queue */
	IMAGE_MEMORY_FILE_USER = 75, /* id 0; preflight only: who else uses a file in memory */
	IMAGE_MQUEUE = 76,        /* id 0; one record a POSIX message queue */
	IMAGE_DATAGRAM = 81,      /* id: of the open file; one record each, in order */
	IMAGE_ACCEPT_QUEUE = 95,  /* id: inode of the listening socket; for each that waits a message, then its bytes, if any */
	IMAGE_RING_BUFFERS = 97,  /* id: PID; one record for each io_uring that has buffers in its memory */
	IMAGE_TYPE_MAX = 100,
};

/* The largest record that a set takes: a mapping list of 30,000 entries is some 2 MiB. */
#define IMAGE_RECORD_MAX (64u << 20)
#define IMAGE_SET_MAX (4ull << 30)

struct image_record {
	enum image_type type;
	uint32_t id;
	size_t size;
	uint8_t data[]; /* packed message or plain bytes */
};

struct image_set;

int image_set_new(struct image_set **ret);
void image_set_free(struct image_set *set);

/* Packs `message` into a new record. -ENOMEM, -EMSGSIZE. */
int image_set_add(struct image_set *set, enum image_type type, uint32_t id, const ProtobufCMessage *message,
		  struct error *error);
/* Adds a record of plain bytes (a copy). */
int image_set_add_bytes(struct image_set *set, enum image_type type, uint32_t id, const void *data, size_t size,
			struct error *error);
/* Removes all records of a type and id. */
void image_set_remove(struct image_set *set, enum image_type type, uint32_t id);

/* Number of records; record `index` in the order in which they were added, over all types. Valid until the next change. */
size_t image_set_count(const struct image_set *set);
const struct image_record *image_set_get(const struct image_set *set, size_t index);

#define IMAGE_ANY UINT32_MAX

/*
 * Walks the records of one type, and of one id unless it is IMAGE_ANY, in order: `*cursor` starts at 0. NULL at the
 * end. Costs one step a record that is found.
 */
const struct image_record *image_set_next(const struct image_set *set, enum image_type type, uint32_t id,
					  size_t *cursor);
/* The first such record, or NULL. */
const struct image_record *image_set_find(const struct image_set *set, enum image_type type, uint32_t id);

/*
 * Unpacks a record; the caller frees with protobuf_c_message_free_unpacked(message, NULL). -EPROTO when the bytes are
 * no such message.
 */
int image_record_unpack(const struct image_record *record, const ProtobufCMessageDescriptor *descriptor,
			ProtobufCMessage **ret, struct error *error);

/* CoreProcess.task_state of a process that has ended and was not waited for; images have one or the other. */
static inline bool image_task_has_ended(uint32_t state)
{
	return state == 2 || state == 6;
}

/* Name of a type as CRIU spells the image ("pstree"), or "?"; for messages to people. */
const char *image_type_name(enum image_type type);

static inline void image_cleanup_message(void *message)
{
	ProtobufCMessage **place = message;

	if (*place)
		protobuf_c_message_free_unpacked(*place, NULL);
}

#define _cleanup_message_ __attribute__((cleanup(image_cleanup_message)))

/* image_unpack(record, some__message, &pointer, error): typed form of image_record_unpack(). */
#define image_unpack(record, prefix, ret, error)                                                                     \
	image_record_unpack((record), &prefix##__descriptor, (ProtobufCMessage **)(void *)(ret), (error))
