/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What CRIU's images do not say, filled in so that a restore has every record that it looks for: vector registers from the
 * message that CRIU has for them, and otherwise what a process has that never asked for anything else. Records of ours that
 * are there stay, but for what an image says differently.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "core.pb-c.h"
#include "directory-private.h"
#include "fdinfo.pb-c.h"
#include "host.h"
#include "inventory.pb-c.h"
#include "mapping.h"
#include "mm.pb-c.h"
#include "pstree.pb-c.h"

#define TIMER_SLACK_USUAL     50000 /* ns */
#define COREDUMP_FILTER_USUAL 0x33  /* core(5) */
#define TASK_STOPPED          3

struct deriver {
	struct image_directory *dir;
	struct image_set *set;
	struct image_arena arena;
	struct error *error;
};

static int no_memory(struct deriver *deriver)
{
	return error_set_errno(deriver->error, -ENOMEM, "%s: cannot read the images", deriver->dir->path);
}

static ProtobufCMessage *unpack(struct deriver *deriver, const struct image_record *record,
				const ProtobufCMessageDescriptor *descriptor)
{
	ProtobufCMessage *message = image_arena_unpack(&deriver->arena, descriptor, record->data, record->size);

	if (!message)
		error_set(deriver->error, -EPROTO, "%s: %s record %u is damaged", deriver->dir->path,
			  image_type_name(record->type), record->id);
	return message;
}

/* Puts a record in the place of the one of its type and id, if it differs. */
static int put_record(struct deriver *deriver, enum image_type type, uint32_t id, const ProtobufCMessage *message)
{
	const struct image_record *record = image_set_find(deriver->set, type, id);
	size_t size = protobuf_c_message_get_packed_size(message);
	uint8_t *packed = image_arena_take(&deriver->arena, size);

	if (!packed)
		return no_memory(deriver);
	protobuf_c_message_pack(message, packed);
	if (record && record->size == size && memcmp(record->data, packed, size) == 0)
		return 0;
	if (record)
		image_set_remove(deriver->set, type, id);
	return image_set_add_bytes(deriver->set, type, id, packed, size, deriver->error);
}

/* ---- threads and processes */

static uint32_t process_of(struct deriver *deriver, uint32_t tid)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(deriver->set, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		const TreeProcess *process = (TreeProcess *)unpack(deriver, record, &tree_process__descriptor);

		for (size_t i = 0; process && i < process->n_threads; i++)
			if (process->threads[i] == tid)
				return process->pid;
	}
	return tid;
}

static int derive_thread(struct deriver *deriver, uint32_t tid, const Core *core)
{
	const struct image_record *record = image_set_find(deriver->set, IMAGE_THREAD_EXTRA, tid);
	ThreadExtra fresh = THREAD_EXTRA__INIT, *extra = &fresh;
	int r;

	if (record)
		extra = (ThreadExtra *)unpack(deriver, record, &thread_extra__descriptor);
	if (!extra)
		return -EPROTO;
	if (!record) {
		extra->pid = process_of(deriver, tid);
		extra->affinity_all = true;
		extra->timer_slack = TIMER_SLACK_USUAL;
	}
	r = image_xsave_import(&deriver->arena, core->thread_info->fpregs, extra);
	if (r == -EPROTO)
		return error_set(deriver->error, r, "%s/core-%u.img: its vector registers are incomplete",
				 deriver->dir->path, tid);
	return r < 0 ? no_memory(deriver) : put_record(deriver, IMAGE_THREAD_EXTRA, tid, &extra->base);
}

static int derive_process(struct deriver *deriver, uint32_t pid, const CoreProcess *core)
{
	const struct image_record *record = image_set_find(deriver->set, IMAGE_PROCESS_EXTRA, pid);
	ProcessExtra fresh = PROCESS_EXTRA__INIT, *extra = &fresh;

	if (record)
		extra = (ProcessExtra *)unpack(deriver, record, &process_extra__descriptor);
	if (!extra)
		return -EPROTO;
	if (!record) {
		extra->coredump_filter = COREDUMP_FILTER_USUAL;
		extra->membarrier = core->membarrier_registration_mask;
	}
	if (core->task_state != TASK_STOPPED)
		extra->stop_signal = 0;
	else if (extra->stop_signal == 0)
		extra->stop_signal = SIGSTOP;
	return put_record(deriver, IMAGE_PROCESS_EXTRA, pid, &extra->base);
}

static int derive_cores(struct deriver *deriver)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(deriver->set, IMAGE_CORE, IMAGE_ANY, &cursor))) {
		uint32_t id = record->id;
		const Core *core = (Core *)unpack(deriver, record, &core__descriptor);

		if (!core)
			return -EPROTO;
		if (!core->thread_info)
			continue;
		r = derive_thread(deriver, id, core);
		if (r == 0 && core->tc)
			r = derive_process(deriver, id, core->tc);
	}
	return r;
}

/* ---- memory */

/* The size of an object that is known by its mappings only. */
static int grow_object(struct deriver *deriver, uint32_t id, uint64_t end)
{
	const struct image_record *record;
	SharedMemory message = SHARED_MEMORY__INIT;
	size_t cursor = 0;

	while ((record = image_set_next(deriver->set, IMAGE_SHARED_MEMORY, IMAGE_ANY, &cursor))) {
		const SharedMemory *object = (SharedMemory *)unpack(deriver, record, &shared_memory__descriptor);

		if (!object)
			return -EPROTO;
		if (object->id == id)
			return 0;
	}
	message.id = id;
	message.size = end;
	message.mode = 0777;
	return image_set_add(deriver->set, IMAGE_SHARED_MEMORY, 0, &message.base, deriver->error);
}

/* The largest end of all mappings of an object. */
static int object_end(struct deriver *deriver, uint32_t id, uint64_t *ret)
{
	const struct image_record *record;
	size_t cursor = 0;
	uint64_t end = 0;

	while ((record = image_set_next(deriver->set, IMAGE_MM, IMAGE_ANY, &cursor))) {
		const AddressSpace *mm = (AddressSpace *)unpack(deriver, record, &address_space__descriptor);

		if (!mm)
			return -EPROTO;
		for (size_t i = 0; i < mm->n_vmas; i++) {
			const Mapping *mapping = mm->vmas[i];
			uint64_t reach = mapping->pgoff + (mapping->end - mapping->start);

			if (mapping->status & MAPPING_ANON_SHARED && !(mapping->status & MAPPING_MEMFD) &&
			    mapping->shmid == id && reach > end)
				end = reach;
		}
	}
	*ret = end;
	return 0;
}

static int derive_memory(struct deriver *deriver)
{
	const struct image_record *record;
	MmExtra extra = MM_EXTRA__INIT;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(deriver->set, IMAGE_MM, IMAGE_ANY, &cursor))) {
		uint32_t pid = record->id;
		const AddressSpace *mm = (AddressSpace *)unpack(deriver, record, &address_space__descriptor);

		if (!mm)
			return -EPROTO;
		for (size_t i = 0; r == 0 && i < mm->n_vmas; i++) {
			const Mapping *mapping = mm->vmas[i];
			uint64_t end = 0;

			if (!(mapping->status & MAPPING_ANON_SHARED) || mapping->status & MAPPING_MEMFD)
				continue;
			r = object_end(deriver, (uint32_t)mapping->shmid, &end);
			if (r == 0)
				r = grow_object(deriver, (uint32_t)mapping->shmid, end);
		}
		if (r == 0 && !image_set_find(deriver->set, IMAGE_MM_EXTRA, pid))
			r = image_set_add(deriver->set, IMAGE_MM_EXTRA, pid, &extra.base, deriver->error);
	}
	return r;
}

/* ---- files */

/* The table in which a file has a number; 0: none. */
static uint32_t table_of(struct deriver *deriver, uint32_t file_id)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(deriver->set, IMAGE_FDINFO, IMAGE_ANY, &cursor))) {
		const Descriptor *descriptor = (Descriptor *)unpack(deriver, record, &descriptor__descriptor);

		if (descriptor && descriptor->id == file_id)
			return record->id;
	}
	return 0;
}

/* The numbers in an epoll set count in the table of whoever has it open. Returns 1 when the message was changed. */
static int derive_epoll(struct deriver *deriver, OpenFile *file)
{
	uint32_t table;

	if (!file->epfd || file->epfd->has_files_id)
		return 0;
	table = table_of(deriver, file->id);
	file->epfd->has_files_id = table != 0;
	file->epfd->files_id = table;
	return table != 0;
}

/* All open files are records of one type and id: they are put back together. */
static int derive_files(struct deriver *deriver)
{
	const struct image_record *record;
	ARRAY(OpenFile *) files = { 0 };
	bool changed = false;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(deriver->set, IMAGE_FILES, 0, &cursor))) {
		OpenFile *file = (OpenFile *)unpack(deriver, record, &open_file__descriptor);

		r = !file ? -EPROTO : array_append(&files, file) < 0 ? no_memory(deriver) : 0;
		if (r == 0 && derive_epoll(deriver, file))
			changed = true;
	}
	if (r == 0 && changed)
		image_set_remove(deriver->set, IMAGE_FILES, 0);
	array_for_each(file, &files)
		if (r == 0 && changed)
			r = image_set_add(deriver->set, IMAGE_FILES, 0, &(*file)->base, deriver->error);
	array_deinit(&files);
	return r;
}

/* ---- the whole */

/* Images without facts of a machine are taken as of this one. */
static int derive_inventory(struct deriver *deriver)
{
	const struct image_record *record = image_set_find(deriver->set, IMAGE_INVENTORY, 0);
	struct image_host host;
	Inventory *message;
	int r;

	if (!record)
		return 0;
	message = (Inventory *)unpack(deriver, record, &inventory__descriptor);
	if (!message)
		return -EPROTO;
	if (message->host)
		return 0;
	r = image_host_read(&host, deriver->error);
	message->host = &host.message;
	return r < 0 ? r : put_record(deriver, IMAGE_INVENTORY, 0, &message->base);
}

int image_derive(struct image_directory *dir, struct image_set *set, struct error *error)
{
	struct deriver deriver = { .dir = dir, .set = set, .error = error };
	int r;

	r = derive_inventory(&deriver);
	if (r == 0)
		r = derive_cores(&deriver);
	if (r == 0)
		r = derive_memory(&deriver);
	if (r == 0)
		r = derive_files(&deriver);
	image_arena_deinit(&deriver.arena);
	return r;
}
