/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System V IPC objects by their ids, and POSIX message queues by their names: which of them an image set has, and how they
 * end. They outlive every process, so each side notes them in its journal: the target before it makes one, the source before
 * it gives the tree away.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"
#include "journal.pb-c.h"
#include "util/array.h"

/* Kept on disk: the numbers never change. */
enum image_ipc_kind {
	IMAGE_IPC_SEGMENT = 1,
	IMAGE_IPC_SET = 2,
	IMAGE_IPC_QUEUE = 3,
	IMAGE_IPC_MQUEUE = 4, /* POSIX */
};

#define IMAGE_IPC_NAME 257

struct image_ipc {
	uint32_t kind; /* enum image_ipc_kind */
	uint32_t id;
	uint32_t key;  /* 0: IPC_PRIVATE */
	char name[IMAGE_IPC_NAME]; /* IMAGE_IPC_MQUEUE, which has neither id nor key */
};

struct image_ipcs {
	ARRAY(struct image_ipc) list;
};

/* Segments, sets and queues of an image set, then POSIX queues that have a name; appended to `ret`. -ENOMEM, -EPROTO. */
int image_ipc_list(const struct image_set *images, struct image_ipcs *ret, struct error *error);
bool image_ipc_has(const struct image_ipcs *objects, const struct image_ipc *object);
void image_ipcs_deinit(struct image_ipcs *objects);

/*
 * Removes the object of this IPC namespace that has that id, if it has that key as well; or that name. A segment that is
 * attached goes later.
 */
void image_ipc_remove(const struct image_ipc *object);

/*
 * Puts the objects into a journal's entry. What it points to then is one allocation, `ret`, which the caller frees when the
 * entry has been written. -ENOMEM.
 */
int image_ipc_note(const struct image_ipcs *objects, JournalEntry *entry, JournalIpc ***ret);
/* Removes what an entry names. */
void image_ipc_end(const JournalEntry *entry);

/* "segment", "semaphore set", "message queue"; "shm", "sem", "msg" as in /proc/sys/kernel/shm_next_id. */
const char *image_ipc_kind_name(uint32_t kind);
const char *image_ipc_kind_short(uint32_t kind);

/* What semctl(2) takes; the C library leaves it to its users to declare it. */
union image_semun {
	int value;
	struct semid_ds *set;
	unsigned short *values;
	struct seminfo *info;
};
