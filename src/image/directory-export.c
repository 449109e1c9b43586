/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Our records as the images of CRIU: what a set looks like in a directory. The same set always gives the same bytes, so that a
 * reader can tell which entries are still those that were written.
 *
 * Most records are entries without the fields that only we know (directory-message.c). Where CRIU has it otherwise:
 *   - the inventory's ids of the root differ from those of any process: CRIU compares them to see what is shared with itself;
 *   - a mapping of a memfd is one of a file, and names an open file, not the object: such an open file is added where the
 *     tree has none;
 *   - where guard pages are, entries behind the list of mappings tell;
 *   - the object behind a memfd is an entry of memfd.img;
 *   - an interrupted system call is repeated or ended in the registers, not by the kernel;
 *   - what lies in a pipe is one entry, also if it is of several packets;
 *   - locks are entries of filelocks.img.
 * Records of our own types, and files that are only compared, have no entry.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "core.pb-c.h"
#include "directory-private.h"
#include "fdinfo.pb-c.h"
#include "inventory.pb-c.h"
#include "mapping.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "pagestream-files.pb-c.h"
#include "pipe.pb-c.h"
#include "sk-packet.pb-c.h"
#include "tcp-stream.pb-c.h"

#define CRIU_LOCK_POSIX 1 /* file_lock_entry.flag, as FL_* of the kernel */
#define CRIU_LOCK_FLOCK 2
#define CRIU_LOCK_LEASE 32
#define CRIU_LOCK_OFD   1024

/* What a thread has in rax that a signal took out of a system call: errno.h of the kernel. */
#define KERNEL_ERESTARTSYS           512
#define KERNEL_ERESTARTNOINTR        513
#define KERNEL_ERESTARTNOHAND        514
#define KERNEL_ERESTART_RESTARTBLOCK 516
#define SYSCALL_SIZE                 2 /* bytes of the instruction */

/* An open file of a memfd, by which CRIU knows its mappings. */
struct memfd_file {
	uint32_t object;
	uint32_t id; /* of the open file */
};

struct exporter {
	struct image_export *export;
	const struct image_set *set;
	struct error *error;
	ARRAY(struct memfd_file) memfds;
	uint32_t next_file_id; /* not in use */
};

/* ---- files being built */

struct image_export_file *image_export_find(const struct image_export *export, const char *name)
{
	array_for_each(file, &export->files)
		if (strcmp(file->name, name) == 0)
			return file;
	return NULL;
}

static int no_memory(struct exporter *exporter)
{
	return error_set_errno(exporter->error, -ENOMEM, "cannot make the images");
}

/* From the newest on, since most records follow one of their own kind. */
static int get_file(struct exporter *exporter, const struct image_criu_kind *kind, uint32_t id,
		    struct image_export_file **ret)
{
	struct image_export *export = exporter->export;
	struct image_export_file file = { .kind = kind, .id = kind->has_id ? id : 0 };

	*ret = NULL;
	for (size_t i = export->files.count; i-- > 0 && !*ret;)
		if (export->files.items[i].kind == kind && export->files.items[i].id == file.id)
			*ret = &export->files.items[i];
	if (*ret)
		return 0;
	image_criu_name(file.name, kind, id);
	if (image_criu_begin(&file.data, kind) < 0 || array_append(&export->files, file) < 0) {
		buffer_deinit(&file.data);
		return no_memory(exporter);
	}
	*ret = &export->files.items[export->files.count - 1];
	return 0;
}

/* Appends an entry made of `record` (NULL: of none). */
static int add_entry(struct exporter *exporter, const struct image_criu_kind *kind, uint32_t id,
		     const ProtobufCMessage *message, const void *extra, size_t extra_size,
		     const struct image_record *record)
{
	uint32_t size = (uint32_t)protobuf_c_message_get_packed_size(message);
	struct image_export_entry entry = { .size = size + extra_size, .first = exporter->export->records.count };
	struct image_export_file *file;
	uint8_t *place;
	int r;

	r = get_file(exporter, kind, id, &file);
	if (r < 0)
		return r;
	place = buffer_extend(&file->data, sizeof(size) + size + extra_size);
	if (!place)
		return no_memory(exporter);
	memcpy(place, &size, sizeof(size));
	protobuf_c_message_pack(message, place + sizeof(size));
	if (extra_size)
		memcpy(place + sizeof(size) + size, extra, extra_size);
	entry.offset = file->data.size - entry.size;
	entry.count = record ? 1 : 0;
	if ((record && array_append(&exporter->export->records, record) < 0) || array_append(&file->entries, entry) < 0)
		return no_memory(exporter);
	return 0;
}

/* One more record that the last entry of `file` is made of. */
static int add_record(struct exporter *exporter, struct image_export_file *file, const struct image_record *record)
{
	if (array_append(&exporter->export->records, record) < 0)
		return no_memory(exporter);
	file->entries.items[file->entries.count - 1].count++;
	return 0;
}

static ProtobufCMessage *unpack(struct exporter *exporter, const struct image_record *record,
				const ProtobufCMessageDescriptor *descriptor)
{
	ProtobufCMessage *message = image_arena_unpack(&exporter->export->arena, descriptor, record->data, record->size);

	if (!message)
		error_set(exporter->error, -EPROTO, "%s record %u is damaged", image_type_name(record->type), record->id);
	return message;
}

/* ---- kinds of their own */

/* The root's ids are ours to choose: numbers that no process has, since ids are PIDs. */
static void change_inventory(Inventory *message)
{
	if (message->root_ids)
		message->root_ids->vm_id = message->root_ids->files_id = message->root_ids->fs_id =
			message->root_ids->sighand_id = UINT32_MAX;
}

static int memfd_file_id(struct exporter *exporter, uint32_t object, uint32_t *ret)
{
	FileOwner owner = FILE_OWNER__INIT;
	MemFd memfd = MEM_FD__INIT;
	OpenFile file = OPEN_FILE__INIT;
	struct memfd_file known = { .object = object };

	array_for_each(place, &exporter->memfds)
		if (place->object == object) {
			*ret = place->id;
			return 0;
		}
	known.id = exporter->next_file_id++;
	if (array_append(&exporter->memfds, known) < 0)
		return no_memory(exporter);
	memfd.id = file.id = known.id;
	memfd.flags = O_RDWR | O_LARGEFILE;
	memfd.fown = &owner;
	memfd.inode_id = object;
	file.type = FILE_TYPE__FILE_MEMFD;
	file.memfd = &memfd;
	*ret = known.id;
	return add_entry(exporter, image_criu_kind_of(IMAGE_FILES), 0, &file.base, NULL, 0, NULL);
}

/* Guards of MmExtra as mappings of their own kind, at the end. */
static int add_guards(struct exporter *exporter, uint32_t pid, AddressSpace *message)
{
	const struct image_record *record = image_set_find(exporter->set, IMAGE_MM_EXTRA, pid);
	struct image_arena *arena = &exporter->export->arena;
	MmExtra *extra;
	Mapping **list;

	if (!record)
		return 0;
	extra = (MmExtra *)unpack(exporter, record, &mm_extra__descriptor);
	if (!extra)
		return -EPROTO;
	if (extra->n_guards == 0)
		return 0;
	list = image_arena_take(arena, (message->n_vmas + extra->n_guards) * sizeof(*list));
	if (!list)
		return no_memory(exporter);
	if (message->n_vmas)
		memcpy(list, message->vmas, message->n_vmas * sizeof(*list));
	message->vmas = list;
	for (size_t i = 0; i < extra->n_guards; i++) {
		Mapping *guard = image_arena_take(arena, sizeof(*guard));

		if (!guard)
			return no_memory(exporter);
		mapping__init(guard);
		guard->start = extra->guards[i]->start;
		guard->end = extra->guards[i]->start + extra->guards[i]->size;
		guard->status = MAPPING_GUARD;
		guard->fd = -1;
		message->vmas[message->n_vmas++] = guard;
	}
	return 0;
}

static int change_mm(struct exporter *exporter, uint32_t pid, AddressSpace *message)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < message->n_vmas; i++) {
		Mapping *mapping = message->vmas[i];
		uint32_t id = 0;

		if (!(mapping->status & MAPPING_MEMFD))
			continue;
		r = memfd_file_id(exporter, (uint32_t)mapping->shmid, &id);
		if (r < 0)
			break;
		mapping->shmid = id;
		if (mapping->status & MAPPING_ANON_SHARED)
			mapping->status ^= MAPPING_ANON_SHARED | MAPPING_FILE_SHARED;
	}
	return r < 0 ? r : add_guards(exporter, pid, message);
}

/*
 * An interrupted system call is left to the kernel by us, which looks at orig_ax when the thread goes on. CRIU lets a thread
 * go on by sigreturn(2), where there is no such look: so what the kernel would do is done here.
 */
static void finish_call(X86Registers *registers)
{
	if ((int64_t)registers->orig_ax < 0)
		return;
	switch ((int64_t)registers->ax) {
	case -KERNEL_ERESTARTSYS:
	case -KERNEL_ERESTARTNOINTR:
	case -KERNEL_ERESTARTNOHAND:
		registers->ax = registers->orig_ax;
		registers->ip -= SYSCALL_SIZE;
		break;
	case -KERNEL_ERESTART_RESTARTBLOCK:
		registers->ax = (uint64_t)-EINTR;
		break;
	default:
		break;
	}
	registers->orig_ax = UINT64_MAX;
}

/* The states of ThreadExtra that CRIU has fields for. */
static int change_core(struct exporter *exporter, uint32_t tid, Core *message)
{
	const struct image_record *record = image_set_find(exporter->set, IMAGE_THREAD_EXTRA, tid);
	X86Xsave *xsave = message->thread_info ? message->thread_info->fpregs->xsave : NULL;
	ThreadExtra *extra;

	if (message->thread_info)
		finish_call(message->thread_info->gpregs);
	if (!record || !xsave)
		return 0;
	extra = (ThreadExtra *)unpack(exporter, record, &thread_extra__descriptor);
	if (!extra)
		return -EPROTO;
	return image_xsave_export(&exporter->export->arena, extra, xsave) < 0 ? no_memory(exporter) : 0;
}

static int export_memfd(struct exporter *exporter, const struct image_record *record)
{
	SharedMemory *object = (SharedMemory *)unpack(exporter, record, &shared_memory__descriptor);
	MemFdInode inode = MEM_FD_INODE__INIT;

	if (!object)
		return -EPROTO;
	if (!object->memfd)
		return 0;
	inode.name = object->name ? object->name : (char *)"";
	inode.uid = object->uid;
	inode.gid = object->gid;
	inode.size = object->size;
	inode.shmid = object->id;
	inode.inode_id = object->id;
	inode.seals = object->seals;
	return add_entry(exporter, image_criu_kind_of(IMAGE_MEMFD), 0, &inode.base, NULL, 0, record);
}

static int export_lock(struct exporter *exporter, const struct image_record *record, const Descriptor *descriptor,
		       const FileLock *lock)
{
	FileLockEntry entry = FILE_LOCK_ENTRY__INIT;

	entry.flag = lock->kind == FILE_LOCK__KIND__POSIX ? CRIU_LOCK_POSIX
		     : lock->kind == FILE_LOCK__KIND__FLOCK ? CRIU_LOCK_FLOCK
		     : lock->kind == FILE_LOCK__KIND__LEASE ? CRIU_LOCK_LEASE
							    : CRIU_LOCK_OFD;
	entry.type = lock->write ? F_WRLCK : F_RDLCK;
	entry.pid = (int32_t)(lock->kind == FILE_LOCK__KIND__POSIX ? lock->pid : record->id);
	entry.fd = (int32_t)descriptor->fd;
	entry.start = (int64_t)lock->start;
	entry.len = lock->end >= INT64_MAX ? 0 : (int64_t)(lock->end - lock->start + 1);
	return add_entry(exporter, &image_criu_kinds[image_criu_kind_count - 1], 0, &entry.base, NULL, 0, NULL);
}

static int export_locks(struct exporter *exporter, const struct image_record *record, const Descriptor *descriptor)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < descriptor->n_locks; i++)
		r = export_lock(exporter, record, descriptor, descriptor->locks[i]);
	return r;
}

static int export_message(struct exporter *exporter, const struct image_record *record,
			  const struct image_criu_kind *kind)
{
	ProtobufCMessage *message = unpack(exporter, record, kind->descriptor);
	int r = 0;

	if (!message)
		return -EPROTO;
	if (record->type == IMAGE_FDINFO)
		r = export_locks(exporter, record, (Descriptor *)message);
	if (record->type == IMAGE_MM)
		r = change_mm(exporter, record->id, (AddressSpace *)message);
	if (record->type == IMAGE_CORE)
		r = change_core(exporter, record->id, (Core *)message);
	if (record->type == IMAGE_INVENTORY)
		change_inventory((Inventory *)message);
	if (r < 0)
		return r;
	image_message_strip(message);
	return add_entry(exporter, kind, record->id, message, NULL, 0, record);
}

/* ---- records with bytes behind them */

/* All that lies in one pipe: the records from `cursor` on that are of it, which dump has put side by side. */
static int export_pipe(struct exporter *exporter, enum image_type type, const PipeData *first,
		       const struct image_record *record, size_t *cursor)
{
	const struct image_criu_kind *kind = image_criu_kind_of(type);
	struct image_export_file *file;
	_cleanup_buffer_ struct buffer bytes = BUFFER_INIT;
	ARRAY(const struct image_record *) parts = { 0 };
	PipeData whole = *first;
	const PipeData *message = first;
	int r = 0;

	for (;;) {
		const struct image_record *data = NULL, *next;
		size_t after;

		if (message->bytes > 0) {
			data = image_set_next(exporter->set, type, IMAGE_ANY, cursor);
			if (!data || data->size != message->bytes)
				r = error_set(exporter->error, -EPROTO, "the data of pipe %u is damaged", first->pipe_id);
			else if (buffer_append(&bytes, data->data, data->size) < 0 || array_append(&parts, data) < 0)
				r = no_memory(exporter);
		}
		after = *cursor;
		next = r == 0 ? image_set_next(exporter->set, type, IMAGE_ANY, &after) : NULL;
		if (!next)
			break;
		message = (PipeData *)image_arena_unpack(&exporter->export->arena, &pipe_data__descriptor, next->data,
							 next->size);
		if (!message || message->pipe_id != first->pipe_id)
			break;
		*cursor = after;
		if (array_append(&parts, next) < 0)
			r = no_memory(exporter);
	}
	whole.bytes = (uint32_t)bytes.size;
	image_message_strip(&whole.base);
	if (r == 0)
		r = add_entry(exporter, kind, 0, &whole.base, bytes.data, bytes.size, record);
	if (r == 0)
		r = get_file(exporter, kind, 0, &file);
	for (size_t i = 0; r == 0 && i < parts.count; i++)
		r = add_record(exporter, file, parts.items[i]);
	array_deinit(&parts);
	return r;
}

static int export_pipes(struct exporter *exporter, enum image_type type)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(exporter->set, type, IMAGE_ANY, &cursor))) {
		PipeData *message = (PipeData *)unpack(exporter, record, &pipe_data__descriptor);

		r = message ? export_pipe(exporter, type, message, record, &cursor) : -EPROTO;
	}
	return r;
}

/* How many bytes follow the message. */
static size_t bytes_behind(enum image_type type, const ProtobufCMessage *message)
{
	const TcpStream *stream = (const TcpStream *)message;

	return type == IMAGE_SOCKET_QUEUE ? ((const SocketPacket *)message)->length
					  : (size_t)stream->inq_len + stream->outq_len;
}

/* Packets, and what is in the queues of connections. */
static int export_pairs(struct exporter *exporter, enum image_type type)
{
	const struct image_criu_kind *kind = image_criu_kind_of(type);
	const struct image_record *record, *data;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(exporter->set, type, IMAGE_ANY, &cursor))) {
		ProtobufCMessage *message = unpack(exporter, record, kind->descriptor);
		size_t size = message ? bytes_behind(type, message) : 0;
		struct image_export_file *file;

		if (!message)
			return -EPROTO;
		data = size ? image_set_next(exporter->set, type, IMAGE_ANY, &cursor) : NULL;
		if (size && (!data || data->size != size))
			return error_set(exporter->error, -EPROTO, "the data behind %s record %u is damaged", kind->name,
					 record->id);
		image_message_strip(message);
		r = add_entry(exporter, kind, record->id, message, data ? data->data : NULL, size, record);
		if (r == 0 && data)
			r = get_file(exporter, kind, record->id, &file);
		if (r == 0 && data)
			r = add_record(exporter, file, data);
	}
	return r;
}

/* ---- all of them */

/* The memfds that are open anyway, and the first number that no open file has. */
static int find_memfds(struct exporter *exporter)
{
	const struct image_record *record;
	size_t cursor = 0;

	exporter->next_file_id = 1;
	while ((record = image_set_next(exporter->set, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		OpenFile *file = (OpenFile *)unpack(exporter, record, &open_file__descriptor);
		struct memfd_file known;

		if (!file)
			return -EPROTO;
		if (file->id >= exporter->next_file_id)
			exporter->next_file_id = file->id + 1;
		if (!file->memfd)
			continue;
		known = (struct memfd_file){ file->memfd->inode_id, file->id };
		if (array_append(&exporter->memfds, known) < 0)
			return no_memory(exporter);
	}
	return 0;
}

static int export_record(struct exporter *exporter, const struct image_record *record)
{
	switch (record->type) {
	case IMAGE_PIPE_DATA:
	case IMAGE_FIFO_DATA:
	case IMAGE_SOCKET_QUEUE:
	case IMAGE_TCP_STREAM:
	case IMAGE_GHOST_FILE:
	case IMAGE_MEMFD:
		return 0; /* pairs and objects: elsewhere */
	case IMAGE_SHARED_MEMORY:
		return export_memfd(exporter, record);
	default: {
		const struct image_criu_kind *kind = image_criu_kind_of(record->type);

		return kind ? export_message(exporter, record, kind) : 0;
	}
	}
}

int image_export_make(const struct image_set *set, struct image_export *ret, struct error *error)
{
	struct exporter exporter = { .export = ret, .set = set, .error = error };
	int r;

	*ret = (struct image_export){ .files = { 0 } };
	r = find_memfds(&exporter);
	for (size_t i = 0; r == 0 && i < image_set_count(set); i++)
		r = export_record(&exporter, image_set_get(set, i));
	if (r == 0)
		r = export_pipes(&exporter, IMAGE_PIPE_DATA);
	if (r == 0)
		r = export_pipes(&exporter, IMAGE_FIFO_DATA);
	if (r == 0)
		r = export_pairs(&exporter, IMAGE_SOCKET_QUEUE);
	if (r == 0)
		r = export_pairs(&exporter, IMAGE_TCP_STREAM);
	array_deinit(&exporter.memfds);
	if (r < 0)
		image_export_deinit(ret);
	return r;
}

void image_export_deinit(struct image_export *export)
{
	array_for_each(file, &export->files) {
		buffer_deinit(&file->data);
		array_deinit(&file->entries);
	}
	array_deinit(&export->files);
	array_deinit(&export->records);
	image_arena_deinit(&export->arena);
}
