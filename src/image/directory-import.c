/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The images of CRIU as our records: for a directory that CRIU wrote, and for one of ours of which images were edited.
 *
 * Happy path. Each entry of each image is looked for among those that our own records would give (directory-export.c). If it
 * is there, the record counts, with all that CRIU has no place for. If not, it is an entry from elsewhere: it is translated
 * back, and takes from the record in the same place of the same file, if that has a shape like it, the fields that are ours.
 * Records of our own types are taken as long as the process or thread that they belong to is there. The rest is derived
 * (directory-derive.c).
 *
 * Failure modes: -EPROTO for images that are damaged; -EOPNOTSUPP for what cannot be restored here, by its name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core.pb-c.h"
#include "directory-private.h"
#include "fdinfo.pb-c.h"
#include "ghost-file.pb-c.h"
#include "mapping.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "pagestream-files.pb-c.h"
#include "regfile.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define GHOST_HEAD     12   /* magic numbers and the length of the record */
#define GHOST_HEAD_MAX 8192 /* with the record */

/* Images that mean something which cannot be restored, by how their names begin. */
static const struct {
	const char *begin;
	const char *what;
} unsupported[] = {
	{ "tcp-stream-", "an established TCP connection" }, { "tty", "a terminal" },
	{ "ipcns-", "an IPC namespace" },		    { "utsns-", "a UTS namespace" },
	{ "netns-", "a network namespace" },		    { "userns-", "a user namespace" },
	{ "pidns-", "a PID namespace" },		    { "seccomp", "a seccomp filter" },
	{ "autofs-", "an autofs mount" },		    { "bpfmap-", "a BPF map" },
	{ "apparmor", "an AppArmor profile" },		    { "memfd-secret", "secret memory" },
};

/* An entry on its way to a record. */
struct item {
	enum image_type type;
	uint32_t id;
	ProtobufCMessage *message; /* from elsewhere: in the arena; NULL: `data` is taken as it is */
	const uint8_t *data;
	size_t size;
};

/* An open file of a memfd: which object it is of. */
struct memfd_file {
	uint32_t id, object;
};

/* The object behind a memfd. */
struct memfd_object {
	uint64_t inode;
	uint32_t object;
};

struct importer {
	struct image_directory *dir;
	const struct image_set *native; /* may be NULL */
	struct image_set *set;          /* being filled */
	struct error *error;
	struct image_export export;     /* what `native` looks like */
	struct image_arena arena;
	ARRAY(struct item) items;
	ARRAY(struct buffer) files;     /* content that items point into */
	ARRAY(struct memfd_file) memfds;
	ARRAY(struct memfd_object) objects;
	ARRAY(FileLockEntry *) locks;
	bool locks_changed;             /* filelocks.img is not as we would write it */
};

static int no_memory(struct importer *importer)
{
	return error_set_errno(importer->error, -ENOMEM, "%s: cannot read the images", importer->dir->path);
}

/* ---- loading */

/* The entry that we would write with these very bytes; entries mostly are in the same order. */
static struct image_export_entry *find_entry(struct image_export_file *file, size_t number,
					     const struct image_criu_entry *entry)
{
	size_t size = entry->size + entry->extra_size, count = file ? file->entries.count : 0;

	for (size_t i = 0; i < count; i++) {
		struct image_export_entry *candidate = &file->entries.items[(number + i) % count];

		if (!candidate->used && candidate->size == size &&
		    memcmp(file->data.data + candidate->offset, entry->payload, size) == 0)
			return candidate;
	}
	return NULL;
}

static int keep_records(struct importer *importer, struct image_export_entry *entry)
{
	entry->used = true;
	for (size_t i = 0; i < entry->count; i++) {
		const struct image_record *record = importer->export.records.items[entry->first + i];
		struct item item = { record->type, record->id, NULL, record->data, record->size };

		if (array_append(&importer->items, item) < 0)
			return no_memory(importer);
	}
	return 0;
}

/* Gives a message that was edited the fields of ours that the record in its place has. */
static void adopt_fields(struct importer *importer, struct image_export_file *file, size_t number, size_t total,
			 ProtobufCMessage *message, enum image_type type)
{
	const struct image_export_entry *entry;
	const struct image_record *record;
	ProtobufCMessage *own;

	if (!file || number >= file->entries.count || total != file->entries.count)
		return;
	entry = &file->entries.items[number];
	record = entry->count ? importer->export.records.items[entry->first] : NULL;
	if (!record || record->type != type)
		return;
	own = image_arena_unpack(&importer->arena, message->descriptor, record->data, record->size);
	if (own)
		image_message_adopt(message, own);
}

static int note_memfd(struct importer *importer, const struct image_criu_kind *kind, const ProtobufCMessage *message)
{
	const OpenFile *file = (const OpenFile *)message;
	const MemFdInode *inode = (const MemFdInode *)message;
	struct memfd_file open_file;
	struct memfd_object object;

	if (kind->type == IMAGE_FILES && file->memfd) {
		open_file = (struct memfd_file){ file->memfd->id, file->memfd->inode_id };
		return array_append(&importer->memfds, open_file) < 0 ? no_memory(importer) : 0;
	}
	if (kind->type == IMAGE_MEMFD) {
		object = (struct memfd_object){ inode->inode_id, inode->shmid };
		return array_append(&importer->objects, object) < 0 ? no_memory(importer) : 0;
	}
	return 0;
}

static int load_entry(struct importer *importer, const struct image_criu_reader *reader, uint32_t id,
		      struct image_export_file *own, size_t total, const struct image_criu_entry *entry)
{
	const struct image_criu_kind *kind = reader->kind;
	struct image_export_entry *same = find_entry(own, reader->number - 1, entry);
	struct item item = { .type = kind->type, .id = id };
	int r;

	item.message = image_arena_unpack(&importer->arena, kind->descriptor, entry->payload, entry->size);
	if (!item.message)
		return image_file_error(importer->dir, reader->name, importer->error, -EPROTO,
					"entry %zu is damaged: its %zu bytes are no such message", reader->number, entry->size);
	r = note_memfd(importer, kind, item.message);
	if (r == 0 && kind->type == 0)
		r = array_append(&importer->locks, (FileLockEntry *)item.message) < 0 ? no_memory(importer) : 0;
	if (r < 0 || kind->type == 0)
		return r;
	if (same)
		return keep_records(importer, same);
	adopt_fields(importer, own, reader->number - 1, total, item.message, kind->type);
	if (array_append(&importer->items, item) < 0)
		return no_memory(importer);
	if (entry->extra_size == 0 || kind->extra == IMAGE_EXTRA_GHOST)
		return 0;
	item = (struct item){ kind->type, id, NULL, entry->extra, entry->extra_size };
	return array_append(&importer->items, item) < 0 ? no_memory(importer) : 0;
}

static int count_entries(struct image_criu_reader reader, size_t *ret, struct error *error)
{
	struct image_criu_entry entry;
	int r;

	while ((r = image_criu_next(&reader, &entry, error)) > 0)
		;
	*ret = reader.number;
	return r;
}

/* Of a deleted file only the record: its content stays where it is. */
static int read_ghost(struct importer *importer, const char *name, struct buffer *ret)
{
	_cleanup_fd_ int fd = -1;
	uint64_t size = 0;
	uint32_t length;
	ssize_t got;
	int r = image_file_open(importer->dir, name, &fd, &size, importer->error);

	if (r < 0)
		return r;
	if (!buffer_extend(ret, GHOST_HEAD_MAX))
		return no_memory(importer);
	got = fdio_pread(fd, ret->data, GHOST_HEAD_MAX, 0);
	if (got < 0)
		return image_file_errno(importer->dir, name, importer->error, (int)got, "cannot read it");
	ret->size = (size_t)got;
	if (ret->size >= GHOST_HEAD) {
		memcpy(&length, ret->data + GHOST_HEAD - sizeof(length), sizeof(length));
		if (length <= ret->size - GHOST_HEAD)
			ret->size = GHOST_HEAD + length;
	}
	return 0;
}

static int load_image(struct importer *importer, const struct image_criu_kind *kind, const char *name, uint32_t id)
{
	struct image_export_file *own = image_export_find(&importer->export, name);
	struct image_criu_reader reader;
	struct image_criu_entry entry;
	struct buffer file = BUFFER_INIT;
	size_t total = 0;
	int r;

	r = kind->extra == IMAGE_EXTRA_GHOST ? read_ghost(importer, name, &file)
					     : image_file_read(importer->dir, name, &file, importer->error);
	if (r < 0 || array_append(&importer->files, file) < 0) {
		buffer_deinit(&file);
		return r < 0 ? r : no_memory(importer);
	}
	if (kind->type == 0 && (!own || own->data.size != file.size || memcmp(own->data.data, file.data, file.size) != 0))
		importer->locks_changed = true;
	r = image_criu_reader_init(&reader, importer->dir, name, kind, &file, importer->error);
	if (r == 0)
		r = count_entries(reader, &total, importer->error);
	while (r == 0 && (r = image_criu_next(&reader, &entry, importer->error)) > 0)
		r = load_entry(importer, &reader, id, own, total, &entry);
	return r;
}

static int load_images(struct importer *importer)
{
	array_for_each(file, &importer->dir->files) {
		uint32_t id = 0;
		const struct image_criu_kind *kind = image_criu_kind_named(file->name, &id);
		int r = kind ? load_image(importer, kind, file->name, id) : 0;

		if (r < 0)
			return r;
		for (size_t i = 0; !kind && i < sizeof(unsupported) / sizeof(unsupported[0]); i++)
			if (strncmp(file->name, unsupported[i].begin, strlen(unsupported[i].begin)) == 0)
				return image_file_error(importer->dir, file->name, importer->error, -EOPNOTSUPP,
							"%s cannot be restored", unsupported[i].what);
	}
	if (image_export_find(&importer->export, "filelocks.img") && importer->locks.count == 0)
		importer->locks_changed = true;
	return 0;
}

/* ---- translating */

static uint32_t object_of_inode(const struct importer *importer, uint64_t inode)
{
	array_for_each(object, &importer->objects)
		if (object->inode == inode)
			return object->object;
	return (uint32_t)inode;
}

/* A process as it is counted in a message about it. */
static int translate_core(struct importer *importer, const struct item *item, Core *message)
{
	CoreProcess *process = message->tc;
	CoreThread *thread = message->thread_core;

	if (message->mtype != CORE__MACHINE__X86_64)
		return 0; /* refused when the directory is complete */
	if (!message->thread_info || !thread || !thread->creds)
		return error_set(importer->error, -EPROTO, "%s/core-%u.img: it lacks registers or credentials",
				 importer->dir->path, item->id);
	if (process && process->task_state != 1 && process->task_state != 3)
		return error_set(importer->error, -EOPNOTSUPP,
				 "%s/core-%u.img: the process has ended already (state %u), which cannot be restored",
				 importer->dir->path, item->id, process->task_state);
	/* No system call is to be restarted: that is done already. */
	message->thread_info->gpregs->orig_ax = UINT64_MAX;
	if (process && !thread->has_blk_sigset) {
		thread->has_blk_sigset = true;
		thread->blk_sigset = process->blk_sigset;
	}
	if (process && !thread->comm)
		thread->comm = process->comm;
	return 0;
}

static int translate_mapping(struct importer *importer, const struct item *item, Mapping *mapping)
{
	static const struct {
		uint32_t status;
		const char *what;
	} kinds[] = {
		{ MAPPING_SYSV, "System V shared memory" },
		{ MAPPING_SOCKET, "the ring of a packet socket" },
		{ MAPPING_AIO, "a ring of asynchronous I/O" },
		{ MAPPING_SHADOW_STACK, "a shadow stack" },
		{ MAPPING_UPROBES, "memory of a user-space probe" },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (mapping->status & kinds[i].status)
			return error_set(importer->error, -EOPNOTSUPP, "%s/mm-%u.img: %s at 0x%llx cannot be restored",
					 importer->dir->path, item->id, kinds[i].what, (unsigned long long)mapping->start);
	if (mapping->status & MAPPING_MEMFD) {
		array_for_each(file, &importer->memfds)
			if (file->id == mapping->shmid) {
				mapping->shmid = object_of_inode(importer, file->object);
				if (mapping->status & MAPPING_FILE_SHARED)
					mapping->status ^= MAPPING_ANON_SHARED | MAPPING_FILE_SHARED;
				return 0;
			}
		return error_set(importer->error, -EPROTO, "%s/mm-%u.img: the mapping at 0x%llx is of no open file",
				 importer->dir->path, item->id, (unsigned long long)mapping->start);
	}
	if (mapping->status & MAPPING_ANON_SHARED && mapping->shmid > UINT32_MAX)
		return error_set(importer->error, -EOPNOTSUPP, "%s/mm-%u.img: the id of shared memory at 0x%llx is too large",
				 importer->dir->path, item->id, (unsigned long long)mapping->start);
	return 0;
}

/* What our own record says of an address space, or an empty message. */
static MmExtra *get_mm_extra(struct importer *importer, uint32_t pid)
{
	const struct image_record *record = importer->native ? image_set_find(importer->native, IMAGE_MM_EXTRA, pid) : NULL;
	MmExtra *extra = image_arena_take(&importer->arena, sizeof(*extra));

	if (extra)
		mm_extra__init(extra);
	if (!record || !extra)
		return extra;
	return (MmExtra *)image_arena_unpack(&importer->arena, &mm_extra__descriptor, record->data, record->size);
}

/* Leaves out what the kernel has anyway, and guards, which become a record of their own. */
static int translate_mm(struct importer *importer, const struct item *item, AddressSpace *message)
{
	MmExtra *extra = get_mm_extra(importer, item->id);
	size_t kept = 0;
	int r = 0;

	if (!extra)
		return no_memory(importer);
	extra->n_guards = 0;
	extra->guards = image_arena_take(&importer->arena, message->n_vmas * sizeof(*extra->guards));
	if (!extra->guards)
		return no_memory(importer);
	for (size_t i = 0; r == 0 && i < message->n_vmas; i++) {
		Mapping *mapping = message->vmas[i];
		AddressRange *range;

		if (mapping->status & MAPPING_VSYSCALL)
			continue;
		if (!(mapping->status & MAPPING_GUARD)) {
			message->vmas[kept++] = mapping;
			r = translate_mapping(importer, item, mapping);
			continue;
		}
		range = image_arena_take(&importer->arena, sizeof(*range));
		if (!range)
			return no_memory(importer);
		address_range__init(range);
		range->start = mapping->start;
		range->size = mapping->end - mapping->start;
		extra->guards[extra->n_guards++] = range;
	}
	message->n_vmas = kept;
	return r < 0 ? r : image_set_add(importer->set, IMAGE_MM_EXTRA, item->id, &extra->base, importer->error);
}

static int translate_memfd(struct importer *importer, const MemFdInode *inode)
{
	SharedMemory message = SHARED_MEMORY__INIT;

	if (inode->has_hugetlb_flag)
		return image_file_error(importer->dir, "memfd.img", importer->error, -EOPNOTSUPP,
					"huge pages of hugetlbfs cannot be restored");
	message.id = inode->shmid;
	message.size = inode->size;
	message.memfd = true;
	message.name = inode->name;
	message.has_seals = true;
	message.seals = inode->seals;
	message.uid = inode->uid;
	message.gid = inode->gid;
	message.mode = 0777; /* as memfd_create(2) makes it */
	return image_set_add(importer->set, IMAGE_SHARED_MEMORY, 0, &message.base, importer->error);
}

static int translate(struct importer *importer, struct item *item)
{
	ProtobufCMessage *message = item->message;
	int r = 0;

	switch (item->type) {
	case IMAGE_CORE:
		r = translate_core(importer, item, (Core *)message);
		break;
	case IMAGE_MM:
		r = translate_mm(importer, item, (AddressSpace *)message);
		break;
	case IMAGE_MEMFD:
		return translate_memfd(importer, (MemFdInode *)message);
	case IMAGE_FILES:
		if (((OpenFile *)message)->memfd)
			((OpenFile *)message)->memfd->inode_id =
				object_of_inode(importer, ((OpenFile *)message)->memfd->inode_id);
		break;
	case IMAGE_GHOST_FILE:
		item->id |= importer->dir->ghosts_moved ? IMAGE_GHOST_MOVED : 0;
		((GhostFile *)message)->has_chunks = false;
		break;
	case IMAGE_REMAP_PATH:
		if (((RemapPath *)message)->remap_type != REMAP_TYPE__REMAP_GHOST)
			return image_file_error(importer->dir, "remap-fpath.img", importer->error, -EOPNOTSUPP,
						"open file %u was renamed or belongs to a process, which cannot be restored",
						((RemapPath *)message)->orig_id);
		((RemapPath *)message)->remap_id |= importer->dir->ghosts_moved ? IMAGE_GHOST_MOVED : 0;
		break;
	default:
		break;
	}
	return r < 0 ? r : image_set_add(importer->set, item->type, item->id, message, importer->error);
}

/* Ids of shared memory and of deleted files overlap? */
static void find_moved_ghosts(struct importer *importer)
{
	array_for_each(ghost, &importer->items) {
		if (ghost->type != IMAGE_GHOST_FILE || !ghost->message)
			continue;
		array_for_each(other, &importer->items) {
			const MemFdInode *inode = (const MemFdInode *)other->message;
			const AddressSpace *mm = (const AddressSpace *)other->message;

			if (other->type == IMAGE_MEMFD && inode && inode->shmid == ghost->id)
				importer->dir->ghosts_moved = true;
			for (size_t i = 0; other->type == IMAGE_MM && mm && i < mm->n_vmas; i++)
				if (mm->vmas[i]->status & MAPPING_ANON_SHARED && mm->vmas[i]->shmid == ghost->id)
					importer->dir->ghosts_moved = true;
		}
	}
}

/* ---- locks */

static int lock_of(struct importer *importer, const FileLockEntry *entry, FileLock **ret)
{
	FileLock *lock = image_arena_take(&importer->arena, sizeof(*lock));

	if (!lock)
		return no_memory(importer);
	file_lock__init(lock);
	lock->kind = entry->flag == 1 ? FILE_LOCK__KIND__POSIX : entry->flag == 2 ? FILE_LOCK__KIND__FLOCK : FILE_LOCK__KIND__OFD;
	lock->write = entry->type != F_RDLCK;
	lock->pid = (uint32_t)entry->pid;
	lock->start = (uint64_t)entry->start;
	lock->end = entry->len == 0 ? UINT64_MAX : (uint64_t)(entry->start + entry->len - 1);
	*ret = lock;
	return 0;
}

/* Gives each descriptor the locks that the images say it holds; `files_id` is that of its table. */
static int lock_descriptor(struct importer *importer, struct item *item)
{
	Descriptor *descriptor = (Descriptor *)item->message;
	int r = 0;

	if (!descriptor)
		descriptor = (Descriptor *)image_arena_unpack(&importer->arena, &descriptor__descriptor, item->data, item->size);
	if (!descriptor)
		return error_set(importer->error, -EPROTO, "%s: a descriptor is damaged", importer->dir->path);
	item->message = &descriptor->base;
	descriptor->n_locks = 0;
	descriptor->locks = image_arena_take(&importer->arena, importer->locks.count * sizeof(*descriptor->locks));
	if (!descriptor->locks)
		return no_memory(importer);
	array_for_each(entry, &importer->locks) {
		uint32_t table = (uint32_t)(*entry)->pid;

		array_for_each(other, &importer->items)
			if (other->type == IMAGE_IDS && other->id == (uint32_t)(*entry)->pid && other->message)
				table = ((ObjectIds *)other->message)->files_id;
		if (table == item->id && (uint32_t)(*entry)->fd == descriptor->fd && r == 0) {
			r = lock_of(importer, *entry, &descriptor->locks[descriptor->n_locks]);
			descriptor->n_locks += r == 0;
		}
	}
	return r;
}

static int apply_locks(struct importer *importer)
{
	int r = 0;

	if (!importer->locks_changed)
		return 0;
	array_for_each(item, &importer->items)
		if (r == 0 && item->type == IMAGE_FDINFO)
			r = lock_descriptor(importer, item);
	return r;
}

/* ---- records of ours */

/* Which record must be there for one of ours to mean something; 0: none. */
static enum image_type base_type(enum image_type type)
{
	switch (type) {
	case IMAGE_THREAD_EXTRA:
	case IMAGE_PROCESS_EXTRA:
		return IMAGE_CORE;
	case IMAGE_MM_EXTRA:
		return IMAGE_MM;
	default:
		return 0;
	}
}

/* Objects that have an image of their own came with that. */
static bool came_with_image(const struct image_record *record)
{
	_cleanup_message_ SharedMemory *object = NULL;

	return record->type == IMAGE_SHARED_MEMORY && image_unpack(record, shared_memory, &object, NULL) == 0 &&
	       object->memfd;
}

static int take_own_records(struct importer *importer)
{
	int r = 0;

	for (size_t i = 0; importer->native && r == 0 && i < image_set_count(importer->native); i++) {
		const struct image_record *record = image_set_get(importer->native, i);
		enum image_type base = base_type(record->type);

		if (image_criu_kind_of(record->type) || came_with_image(record) ||
		    (base && !image_set_find(importer->set, base, record->id)))
			continue;
		/* That of an edited address space is there already. */
		if (record->type == IMAGE_MM_EXTRA && image_set_find(importer->set, IMAGE_MM_EXTRA, record->id))
			continue;
		r = image_set_add_bytes(importer->set, record->type, record->id, record->data, record->size, importer->error);
	}
	return r;
}

/* ---- all */

static int import_all(struct importer *importer)
{
	int r = load_images(importer);

	if (r < 0)
		return r;
	find_moved_ghosts(importer);
	r = apply_locks(importer);
	array_for_each(item, &importer->items)
		if (r == 0)
			r = item->message ? translate(importer, item)
					  : image_set_add_bytes(importer->set, item->type, item->id, item->data, item->size,
								importer->error);
	if (r == 0)
		r = take_own_records(importer);
	return r < 0 ? r : image_derive(importer->dir, importer->set, importer->error);
}

int image_import(struct image_directory *dir, const struct image_set *native, struct image_set *set, struct error *error)
{
	struct importer importer = { .dir = dir, .native = native, .set = set, .error = error };
	int r = 0;

	if (native)
		r = image_export_make(native, &importer.export, error);
	if (r == 0)
		r = import_all(&importer);
	image_export_deinit(&importer.export);
	image_arena_deinit(&importer.arena);
	array_for_each(file, &importer.files)
		buffer_deinit(file);
	array_deinit(&importer.files);
	array_deinit(&importer.items);
	array_deinit(&importer.memfds);
	array_deinit(&importer.objects);
	array_deinit(&importer.locks);
	return r;
}
