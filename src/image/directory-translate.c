/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entries as CRIU has them, back into records: the mirror of directory-export.c. Entries that are still ours pass through.
 *
 * Failure modes: -EOPNOTSUPP for what cannot be restored here, by its name; -EPROTO for what does not fit together.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "core.pb-c.h"
#include "directory-import.h"
#include "fdinfo.pb-c.h"
#include "ghost-file.pb-c.h"
#include "mapping.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "regfile.pb-c.h"

#define LOCK_FLAG_POSIX 1 /* file_lock_entry.flag */
#define LOCK_FLAG_FLOCK 2
#define LOCK_FLAG_LEASE 32
#define TASK_ALIVE      1 /* task_core_entry.task_state */
#define TASK_STOPPED    3

static uint32_t object_of_inode(const struct importer *importer, uint64_t inode)
{
	array_for_each(object, &importer->objects)
		if (object->inode == inode)
			return object->object;
	return (uint32_t)inode;
}

static int translate_core(struct importer *importer, const struct import_item *item, Core *message)
{
	CoreProcess *process = message->tc;
	CoreThread *thread = message->thread_core;

	if (message->mtype != CORE__MACHINE__X86_64)
		return 0; /* refused when the directory is complete */
	/* Of one that has ended only its name and status are known. */
	if (process && image_task_has_ended(process->task_state))
		return 0;
	if (!message->thread_info || !thread || !thread->creds)
		return error_set(importer->error, -EPROTO, "%s/core-%u.img: it lacks registers or credentials",
				 importer->dir->path, item->id);
	if (process && process->task_state != TASK_ALIVE && process->task_state != TASK_STOPPED)
		return error_set(importer->error, -EOPNOTSUPP,
				 "%s/core-%u.img: the process is in state %u, which cannot be restored",
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

static int translate_mapping(struct importer *importer, const struct import_item *item, Mapping *mapping)
{
	const struct {
		uint32_t status;
		const char *what;
	} kinds[] = {
		{ importer->native ? 0 : MAPPING_SYSV, "System V shared memory" },
		{ MAPPING_SOCKET, "the ring of a packet socket" },
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
static int translate_mm(struct importer *importer, const struct import_item *item, AddressSpace *message)
{
	MmExtra *extra = get_mm_extra(importer, item->id);
	size_t kept = 0;
	int r = 0;

	if (!extra)
		return image_import_no_memory(importer);
	extra->n_guards = 0;
	extra->guards = image_arena_take(&importer->arena, message->n_vmas * sizeof(*extra->guards));
	if (!extra->guards)
		return image_import_no_memory(importer);
	for (size_t i = 0; i < message->n_aios; i++)
		if (!message->aios[i]->has_head)
			return error_set(importer->error, -EOPNOTSUPP,
					 "%s/mm-%u.img: a ring of asynchronous I/O at 0x%llx, which another program "
					 "wrote, cannot be restored",
					 importer->dir->path, item->id, (unsigned long long)message->aios[i]->id);
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
			return image_import_no_memory(importer);
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

static int translate(struct importer *importer, struct import_item *item)
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
		return image_import_no_memory(importer);
	file_lock__init(lock);
	lock->kind = entry->flag == LOCK_FLAG_POSIX   ? FILE_LOCK__KIND__POSIX
		     : entry->flag == LOCK_FLAG_FLOCK ? FILE_LOCK__KIND__FLOCK
		     : entry->flag == LOCK_FLAG_LEASE ? FILE_LOCK__KIND__LEASE
						      : FILE_LOCK__KIND__OFD;
	lock->write = entry->type != F_RDLCK;
	lock->pid = (uint32_t)entry->pid;
	lock->start = (uint64_t)entry->start;
	lock->end = entry->len == 0 ? UINT64_MAX : (uint64_t)(entry->start + entry->len - 1);
	*ret = lock;
	return 0;
}

/* Gives each descriptor the locks that the images say it holds; `files_id` is that of its table. */
static int lock_descriptor(struct importer *importer, struct import_item *item)
{
	Descriptor *descriptor = (Descriptor *)item->message;
	int r = 0;

	if (!descriptor)
		descriptor = (Descriptor *)image_arena_unpack(&importer->arena, &descriptor__descriptor, item->data,
							      item->size);
	if (!descriptor)
		return error_set(importer->error, -EPROTO, "%s: a descriptor is damaged", importer->dir->path);
	item->message = &descriptor->base;
	descriptor->n_locks = 0;
	descriptor->locks = image_arena_take(&importer->arena, importer->locks.count * sizeof(*descriptor->locks));
	if (!descriptor->locks)
		return image_import_no_memory(importer);
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

/* ---- all */

int image_import_translate(struct importer *importer)
{
	int r;

	find_moved_ghosts(importer);
	r = apply_locks(importer);
	array_for_each(item, &importer->items) {
		if (r < 0)
			break;
		if (item->message)
			r = translate(importer, item);
		else
			r = image_set_add_bytes(importer->set, item->type, item->id, item->data, item->size,
						importer->error);
	}
	return r;
}
