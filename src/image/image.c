/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set is one list of records in the order of their addition, and per type a list of the same records, so that a
 * reader who wants one kind walks only that kind.
 */
#include "image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/array.h"
#include "util/cleanup.h"
#include "util/pidmap.h"

struct record_list {
	struct image_record **items;
	size_t count;
	size_t capacity;
};

/* Records of one type. Those of one id are chained in a circle, which is entered by the last of them. */
struct typed_records {
	struct record_list list; /* borrows them */
	ARRAY(size_t) next;      /* of each: index of the next with its id; of the last, of the first */
	struct pidmap last;      /* by id + 1: index + 1 of the last */
};

struct image_set {
	struct record_list all;                        /* owns the records */
	struct typed_records by_type[IMAGE_TYPE_MAX]; /* borrow them */
	size_t bytes;                               /* sum of the records' sizes */
};

int image_set_new(struct image_set **ret)
{
	struct image_set *set = calloc(1, sizeof(*set));

	if (!set)
		return -ENOMEM;
	*ret = set;
	return 0;
}

void image_set_free(struct image_set *set)
{
	if (!set)
		return;
	array_for_each(record, &set->all)
		free(*record);
	array_deinit(&set->all);
	for (size_t type = 0; type < IMAGE_TYPE_MAX; type++) {
		array_deinit(&set->by_type[type].list);
		array_deinit(&set->by_type[type].next);
		pidmap_deinit(&set->by_type[type].last);
	}
	free(set);
}

static void *index_value(size_t index)
{
	return (void *)(uintptr_t)(index + 1); /* NOLINT(performance-no-int-to-ptr) */
}

/* Index of the last record of that id; SIZE_MAX: there is none. */
static size_t find_last(const struct typed_records *records, uint32_t id)
{
	return (size_t)(uintptr_t)pidmap_get(&records->last, id + 1) - 1;
}

/* There is room for it. */
static int chain_record(struct typed_records *records, struct image_record *record)
{
	size_t index = records->list.count, last = find_last(records, record->id);

	if (pidmap_put(&records->last, record->id + 1, index_value(index)) < 0)
		return -ENOMEM;
	records->list.items[records->list.count++] = record;
	records->next.items[records->next.count++] = last == SIZE_MAX ? index : records->next.items[last];
	if (last != SIZE_MAX)
		records->next.items[last] = index;
	return 0;
}

/* Makes an empty record and puts it on both lists, or on none. */
static int add_record(struct image_set *set, enum image_type type, uint32_t id, size_t size,
		      struct image_record **ret, struct error *error)
{
	struct image_record *record;

	if (type <= 0 || type >= IMAGE_TYPE_MAX)
		return error_set(error, -EPROTO, "image type %d is unknown", (int)type);
	if (id == IMAGE_ANY)
		return error_set(error, -EPROTO, "no %s record can have the id %u", image_type_name(type), id);
	if (size > IMAGE_RECORD_MAX || size > IMAGE_SET_MAX - set->bytes)
		return error_set(error, -EMSGSIZE, "%s record of %zu bytes is too large", image_type_name(type), size);
	if (array_reserve(&set->all, 1) < 0 || array_reserve(&set->by_type[type].list, 1) < 0 ||
	    array_reserve(&set->by_type[type].next, 1) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	record = malloc(sizeof(*record) + size);
	if (!record)
		return error_set(error, -ENOMEM, "out of memory for a %s record of %zu bytes", image_type_name(type),
				 size);
	record->type = type;
	record->id = id;
	record->size = size;
	if (chain_record(&set->by_type[type], record) < 0) {
		free(record);
		return error_set(error, -ENOMEM, "out of memory");
	}
	set->all.items[set->all.count++] = record;
	set->bytes += size;
	*ret = record;
	return 0;
}

int image_set_add(struct image_set *set, enum image_type type, uint32_t id, const ProtobufCMessage *message,
		  struct error *error)
{
	struct image_record *record;
	int r;

	r = add_record(set, type, id, protobuf_c_message_get_packed_size(message), &record, error);
	if (r < 0)
		return r;
	protobuf_c_message_pack(message, record->data);
	return 0;
}

int image_set_add_bytes(struct image_set *set, enum image_type type, uint32_t id, const void *data, size_t size,
			struct error *error)
{
	struct image_record *record;
	int r;

	r = add_record(set, type, id, size, &record, error);
	if (r < 0)
		return r;
	if (size)
		memcpy(record->data, data, size);
	return 0;
}

static bool matches(const struct image_record *record, enum image_type type, uint32_t id)
{
	return record->type == type && (id == IMAGE_ANY || record->id == id);
}

/* What stays has had room before. */
static void typed_remove(struct typed_records *records, enum image_type type, uint32_t id)
{
	size_t count = records->list.count;

	records->list.count = records->next.count = 0;
	pidmap_clear(&records->last);
	for (size_t i = 0; i < count; i++)
		if (!matches(records->list.items[i], type, id))
			(void)chain_record(records, records->list.items[i]);
}

void image_set_remove(struct image_set *set, enum image_type type, uint32_t id)
{
	struct record_list *all = &set->all;
	size_t kept = 0;

	typed_remove(&set->by_type[type], type, id);
	for (size_t i = 0; i < all->count; i++) {
		if (!matches(all->items[i], type, id)) {
			all->items[kept++] = all->items[i];
			continue;
		}
		set->bytes -= all->items[i]->size;
		free(all->items[i]);
	}
	all->count = kept;
}

size_t image_set_count(const struct image_set *set)
{
	return set->all.count;
}

const struct image_record *image_set_get(const struct image_set *set, size_t index)
{
	return set->all.items[index];
}

/* Index of the first record of that id behind the cursor; SIZE_MAX: none. */
static size_t find_next(const struct typed_records *records, uint32_t id, size_t cursor)
{
	size_t last = find_last(records, id);

	if (last == SIZE_MAX || cursor > last)
		return SIZE_MAX;
	if (cursor == 0)
		return records->next.items[last];
	if (records->list.items[cursor - 1]->id == id)
		return records->next.items[cursor - 1];
	while (records->list.items[cursor]->id != id)
		cursor++;
	return cursor;
}

const struct image_record *image_set_next(const struct image_set *set, enum image_type type, uint32_t id,
					  size_t *cursor)
{
	const struct typed_records *records = &set->by_type[type];
	size_t index = id == IMAGE_ANY ? *cursor : find_next(records, id, *cursor);

	if (index >= records->list.count) {
		*cursor = records->list.count;
		return NULL;
	}
	*cursor = index + 1;
	return records->list.items[index];
}

const struct image_record *image_set_find(const struct image_set *set, enum image_type type, uint32_t id)
{
	size_t cursor = 0;

	return image_set_next(set, type, id, &cursor);
}

int image_record_unpack(const struct image_record *record, const ProtobufCMessageDescriptor *descriptor,
			ProtobufCMessage **ret, struct error *error)
{
	ProtobufCMessage *message;

	message = protobuf_c_message_unpack(descriptor, NULL, record->size, record->data);
	if (!message)
		return error_set(error, -EPROTO, "%s record %u is damaged: its %zu bytes are no %s message",
				 image_type_name(record->type), record->id, record->size, descriptor->short_name);
	*ret = message;
	return 0;
}

const char *image_type_name(enum image_type type)
{
	static const char *const names[IMAGE_TYPE_MAX] = {
		[IMAGE_INVENTORY] = "inventory",
		[IMAGE_PSTREE] = "pstree",
		[IMAGE_CORE] = "core",
		[IMAGE_IDS] = "ids",
		[IMAGE_MM] = "mm",
		[IMAGE_FS] = "fs",
		[IMAGE_FDINFO] = "fdinfo",
		[IMAGE_FILES] = "files",
		[IMAGE_PIPE_DATA] = "pipes-data",
		[IMAGE_FIFO_DATA] = "fifo-data",
		[IMAGE_SOCKET_QUEUE] = "sk-queues",
		[IMAGE_GHOST_FILE] = "ghost-file",
		[IMAGE_REMAP_PATH] = "remap-fpath",
		[IMAGE_EVENTPOLL_ITEM] = "eventpoll-tfd",
		[IMAGE_INOTIFY_WATCH] = "inotify-wd",
		[IMAGE_MEMFD] = "memfd",
		[IMAGE_CREDS] = "creds",
		[IMAGE_PAGEMAP] = "pagemap",
		[IMAGE_TIMENS] = "timens",
		[IMAGE_TTY_INFO] = "tty-info",
		[IMAGE_TCP_STREAM] = "tcp-stream",
		[IMAGE_TTY_DATA] = "tty-data",
		[IMAGE_SECCOMP] = "seccomp",
		[IMAGE_THREAD_EXTRA] = "pagestream-thread",
		[IMAGE_PROCESS_EXTRA] = "pagestream-process",
		[IMAGE_MM_EXTRA] = "pagestream-mm",
		[IMAGE_SHARED_MEMORY] = "pagestream-shmem",
		[IMAGE_RING_BUFFERS] = "pagestream-ring-buffers",
		[IMAGE_DATAGRAM] = "pagestream-datagram",
		[IMAGE_ACCEPT_QUEUE] = "pagestream-accept-queue",
		[IMAGE_FILE_CHECK] = "pagestream-file-check",
		[IMAGE_MEMORY_FILE_USER] = "pagestream-memory-file-user",
		[IMAGE_MQUEUE] = "pagestream-mqueue",
		[IMAGE_SEMAPHORES] = "pagestream-sem",
		[IMAGE_MESSAGE_QUEUE] = "pagestream-msg",
	};

	return type > 0 && type < IMAGE_TYPE_MAX && names[type] ? names[type] : "?";
}
