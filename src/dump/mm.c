/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The address space: a list of mappings from /proc/PID/maps with the flags of smaps, and the numbers that
 * PR_SET_MM_MAP takes. Mappings that only differ in how the kernel has split them (userfaultfd registration does) are
 * joined again, so the list says the same in every round. The remote area of src/tracee is left out.
 *
 * A mapping is of one of these kinds: private anonymous; private or shared file (by file id); shared memory (by object
 * id); vDSO and vvar, which the target's kernel makes too; everything else is a blocker.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dump/files.h"
#include "dump/shared-memory.h"
#include "dump/sysv.h"
#include "image/mapping.h"
#include "mm.pb-c.h"
#include "parts.h"
#include "util/buffer.h"
#include "util/fdio.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#define AUXV_MAX 4096

/* The list being built. */
struct mm_builder {
	struct dump_context *ctx;
	struct dump_process *process;
	struct dump_arena arena;  /* owned: all that the messages point to */
	AddressSpace message;
	MmExtra extra;
	Mapping *mappings;        /* room for all, in the arena */
	uint32_t *vm_flags;       /* DUMP_VM_* beside each mapping */
	const char **names;       /* anonymous names beside each mapping, or NULL */
	size_t count;
};

/* Kinds that are refused, by what the name of the mapping begins with. */
static const struct {
	const char *prefix;
	enum image_kind kind;
} mm_refused[] = {
	{ "anon_inode:", IMAGE_KIND_MEMORY_KERNEL },
	{ "/anon_hugepage", IMAGE_KIND_MEMORY_HUGETLB },
	{ "/secretmem", IMAGE_KIND_MEMORY_SECRET },
	{ "socket:", IMAGE_KIND_PACKET_RING },
	{ "[uprobes]", IMAGE_KIND_UPROBE },
	{ "/dev/", IMAGE_KIND_MEMORY_DEVICE },
};

static bool name_begins(const struct procfs_map *map, const char *prefix)
{
	return map->name && strncmp(map->name, prefix, strlen(prefix)) == 0;
}

static void mapping_refuse(struct mm_builder *builder, const struct procfs_map *map, enum image_kind kind)
{
	dump_refuse(builder->ctx, builder->process->pid, "mapping", kind, "%llx-%llx %s", (unsigned long long)map->start,
		    (unsigned long long)map->end, map->name ? map->name : "");
}

/* True when the mapping is a blocker. */
static bool mapping_unmovable(struct mm_builder *builder, const struct procfs_map *map, uint32_t vm_flags)
{
	if (name_begins(map, "/dev/zero") || dump_shared_is(map->name))
		vm_flags &= ~(uint32_t)DUMP_VM_IO;
	else
		for (size_t i = 0; i < sizeof(mm_refused) / sizeof(mm_refused[0]); i++)
			if (name_begins(map, mm_refused[i].prefix) &&
			    !(strncmp(map->name, "/dev/shm/", 9) == 0)) {
				mapping_refuse(builder, map, mm_refused[i].kind);
				return true;
			}
	if (vm_flags & DUMP_VM_IO)
		mapping_refuse(builder, map, IMAGE_KIND_MEMORY_DEVICE);
	else if (vm_flags & DUMP_VM_HUGETLB)
		mapping_refuse(builder, map, IMAGE_KIND_MEMORY_HUGETLB);
	else if (vm_flags & DUMP_VM_UFFD)
		mapping_refuse(builder, map, IMAGE_KIND_MEMORY_USERFAULT);
	else if (vm_flags & DUMP_VM_SHADOW_STACK)
		mapping_refuse(builder, map, IMAGE_KIND_MEMORY_SHADOW_STACK);
	else
		return false;
	return true;
}

static uint32_t mapping_map_flags(const struct procfs_map *map, uint32_t vm_flags)
{
	return (map->shared ? MAP_SHARED : MAP_PRIVATE) | (vm_flags & DUMP_VM_GROWSDOWN ? MAP_GROWSDOWN : 0) |
	       (vm_flags & DUMP_VM_NORESERVE ? MAP_NORESERVE : 0) | (vm_flags & DUMP_VM_LOCKED ? MAP_LOCKED : 0);
}

static uint64_t mapping_advice(uint32_t vm_flags)
{
	static const struct {
		uint32_t flag;
		unsigned advice;
	} advices[] = {
		{ DUMP_VM_RANDOM, MADV_RANDOM },	 { DUMP_VM_SEQUENTIAL, MADV_SEQUENTIAL },
		{ DUMP_VM_DONTFORK, MADV_DONTFORK },	 { DUMP_VM_MERGEABLE, MADV_MERGEABLE },
		{ DUMP_VM_HUGEPAGE, MADV_HUGEPAGE },	 { DUMP_VM_NOHUGEPAGE, MADV_NOHUGEPAGE },
		{ DUMP_VM_DONTDUMP, MADV_DONTDUMP },	 { DUMP_VM_WIPEONFORK, MADV_WIPEONFORK },
	};
	uint64_t bits = 0;

	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++)
		if (vm_flags & advices[i].flag)
			bits |= UINT64_C(1) << advices[i].advice;
	return bits;
}

static bool map_is_anonymous(const struct procfs_map *map)
{
	return !map->shared && (map->inode == 0 || name_begins(map, "/dev/zero"));
}

/* A ring is made by the kernel; the restore keeps its place free until then. */
static int mapping_ring(struct mm_builder *builder, const struct procfs_map *map, Mapping *mapping, struct error *error)
{
	AioRing *ring = NULL;
	int r = dump_aio_map(builder->ctx, builder->process, map, &builder->arena, &ring, error);

	if (r < 0 || !ring)
		return r;
	builder->message.aios[builder->message.n_aios++] = ring;
	mapping->status = MAPPING_REGULAR | MAPPING_AIO;
	mapping->flags &= ~(uint32_t)MAP_LOCKED;
	mapping->madv = 0;
	return 0;
}

/* Fills kind, id and file flags; status 0: a blocker, left out. */
static int mapping_classify(struct mm_builder *builder, const struct procfs_map *map, uint32_t vm_flags,
			    Mapping *mapping, struct error *error)
{
	uint32_t id = 0;
	int r;

	if (name_begins(map, "[vdso]") || name_begins(map, "[vvar")) {
		mapping->status = MAPPING_REGULAR | (map->name[3] == 's' ? MAPPING_VDSO : MAPPING_VVAR);
		return 0;
	}
	if (dump_aio_is(map))
		return mapping_ring(builder, map, mapping, error);
	if (name_begins(map, "anon_inode:[io_uring]")) {
		mapping->status = MAPPING_REGULAR | MAPPING_IO_URING;
		mapping->shmid = (uint32_t)map->inode;
		mapping->flags &= ~(uint32_t)MAP_LOCKED;
		mapping->madv = 0;
		return 0;
	}
	if (mapping_unmovable(builder, map, vm_flags))
		return 0;
	if (map_is_anonymous(map)) {
		mapping->status = MAPPING_REGULAR | MAPPING_ANON_PRIVATE;
		mapping->flags |= MAP_ANONYMOUS | (vm_flags & DUMP_VM_DROPPABLE ? MAP_DROPPABLE : 0);
		mapping->status |= name_begins(map, "[heap]") ? MAPPING_HEAP : 0;
		mapping->status |= name_begins(map, "[stack]") ? MAPPING_STACK : 0;
		mapping->pgoff = 0;
		return 0;
	}
	mapping->has_fdflags = true;
	mapping->fdflags = map->shared && vm_flags & DUMP_VM_MAY_WRITE ? O_RDWR : O_RDONLY;
	if (dump_shared_is(map->name)) {
		r = dump_shared_map(builder->ctx, builder->process, map, &id, error);
		mapping->status = MAPPING_REGULAR | (map->shared ? MAPPING_ANON_SHARED : MAPPING_FILE_PRIVATE) |
				  (name_begins(map, "/memfd:") ? MAPPING_MEMFD : 0) |
				  (dump_sysv_is(map->name) ? MAPPING_SYSV : 0);
		mapping->flags |= name_begins(map, "/memfd:") || dump_sysv_is(map->name) ? 0 : MAP_ANONYMOUS;
	} else {
		r = dump_file_map(builder->ctx, builder->process, map, &id, error);
		mapping->status = MAPPING_REGULAR | (map->shared ? MAPPING_FILE_SHARED : MAPPING_FILE_PRIVATE);
	}
	if (r < 0)
		return r;
	mapping->shmid = id;
	if (id == 0)
		mapping->status = 0;
	return 0;
}

static const char *mapping_anonymous_name(struct mm_builder *builder, const struct procfs_map *map)
{
	char *name;

	if (!name_begins(map, "[anon:"))
		return NULL;
	name = dump_arena_string(&builder->arena, map->name + strlen("[anon:"));
	if (name && name[0])
		name[strlen(name) - 1] = '\0';
	return name;
}

static bool same_name(const char *one, const char *other)
{
	return one == other || (one && other && strcmp(one, other) == 0);
}

/* Only split by the kernel, alike in everything that a restore can set? */
static bool mappings_join(const struct mm_builder *builder, const Mapping *next, uint32_t vm_flags, const char *name)
{
	const Mapping *last = builder->count ? &builder->mappings[builder->count - 1] : NULL;

	return last && last->end == next->start && last->prot == next->prot && last->flags == next->flags &&
	       last->status == next->status && last->shmid == next->shmid && last->madv == next->madv &&
	       last->fdflags == next->fdflags && builder->vm_flags[builder->count - 1] == vm_flags &&
	       same_name(builder->names[builder->count - 1], name) &&
	       !(next->status & (MAPPING_VDSO | MAPPING_VVAR)) &&
	       (next->flags & MAP_ANONYMOUS && !(next->status & MAPPING_ANON_SHARED)
			? true
			: last->pgoff + (last->end - last->start) == next->pgoff);
}

static int mapping_add(struct mm_builder *builder, const struct procfs_map *map, struct error *error)
{
	uint32_t vm_flags = dump_mm_flags_get(builder->process, map);
	Mapping mapping = MAPPING__INIT;
	const char *name;
	int r;

	if (name_begins(map, "[vsyscall]"))
		return 0;
	mapping.start = map->start;
	mapping.end = map->end;
	mapping.pgoff = map->offset;
	mapping.prot = (uint32_t)map->prot;
	mapping.flags = mapping_map_flags(map, vm_flags);
	mapping.fd = -1;
	mapping.has_madv = true;
	mapping.madv = mapping_advice(vm_flags);
	r = mapping_classify(builder, map, vm_flags, &mapping, error);
	if (r < 0 || mapping.status == 0)
		return r;
	name = mapping_anonymous_name(builder, map);
	vm_flags &= DUMP_VM_SEALED | DUMP_VM_LOCK_ON_FAULT;
	if (mappings_join(builder, &mapping, vm_flags, name)) {
		builder->mappings[builder->count - 1].end = mapping.end;
		return 0;
	}
	builder->mappings[builder->count] = mapping;
	builder->vm_flags[builder->count] = vm_flags;
	builder->names[builder->count++] = name;
	return 0;
}

/* Adds a mapping without what of it lies in the remote area. */
static int mapping_add_outside(struct mm_builder *builder, const struct procfs_map *map, struct error *error)
{
	const struct tracee_process *tracee = builder->process->tracee;
	uint64_t hole = tracee ? tracee->area_address : 0;
	uint64_t hole_end = hole + (tracee ? tracee->area_size : 0);
	struct procfs_map part = *map;
	int r = 0;

	if (hole_end <= map->start || hole >= map->end)
		return mapping_add(builder, map, error);
	part.end = hole;
	if (part.start < part.end)
		r = mapping_add(builder, &part, error);
	part.start = hole_end;
	part.end = map->end;
	part.offset = map->inode ? map->offset + (part.start - map->start) : map->offset;
	if (r == 0 && part.start < part.end)
		r = mapping_add(builder, &part, error);
	return r;
}

static int extra_range(struct mm_builder *builder, size_t index, uint32_t flag, size_t *count, AddressRange **list)
{
	AddressRange *range;

	if (!(builder->vm_flags[index] & flag))
		return 0;
	range = dump_arena_take(&builder->arena, sizeof(*range));
	if (!range)
		return -ENOMEM;
	*range = (AddressRange)ADDRESS_RANGE__INIT;
	range->start = builder->mappings[index].start;
	range->size = builder->mappings[index].end - builder->mappings[index].start;
	list[(*count)++] = range;
	return 0;
}

static int extra_name(struct mm_builder *builder, size_t index)
{
	MappingName *name;

	if (!builder->names[index])
		return 0;
	name = dump_arena_take(&builder->arena, sizeof(*name));
	if (!name)
		return -ENOMEM;
	*name = (MappingName)MAPPING_NAME__INIT;
	name->start = builder->mappings[index].start;
	name->size = builder->mappings[index].end - builder->mappings[index].start;
	name->name = (char *)builder->names[index]; /* in the arena; the message is only packed */
	builder->extra.names[builder->extra.n_names++] = name;
	return 0;
}

static int mm_extra(struct mm_builder *builder)
{
	size_t count = builder->count;
	MmExtra *extra = &builder->extra;
	int r = 0;

	extra->sealed = dump_arena_take(&builder->arena, count * sizeof(*extra->sealed));
	extra->lock_on_fault = dump_arena_take(&builder->arena, count * sizeof(*extra->lock_on_fault));
	extra->names = dump_arena_take(&builder->arena, count * sizeof(*extra->names));
	if (!extra->sealed || !extra->lock_on_fault || !extra->names)
		return -ENOMEM;
	for (size_t i = 0; i < count && r == 0; i++) {
		r = extra_range(builder, i, DUMP_VM_SEALED, &extra->n_sealed, extra->sealed);
		if (r == 0)
			r = extra_range(builder, i, DUMP_VM_LOCK_ON_FAULT, &extra->n_lock_on_fault,
					extra->lock_on_fault);
		if (r == 0)
			r = extra_name(builder, i);
	}
	return r;
}

static int mm_numbers(struct mm_builder *builder, const struct dump_process_facts *facts, struct error *error)
{
	_cleanup_buffer_ struct buffer auxv = BUFFER_INIT;
	const struct procfs_stat *stat = &builder->process->stat;
	AddressSpace *message = &builder->message;
	int r;

	message->mm_start_code = stat->start_code;
	message->mm_end_code = stat->end_code;
	message->mm_start_data = stat->start_data;
	message->mm_end_data = stat->end_data;
	message->mm_start_stack = stat->start_stack;
	message->mm_start_brk = stat->start_brk;
	message->mm_brk = facts ? facts->brk : stat->start_brk;
	message->mm_arg_start = stat->arg_start;
	message->mm_arg_end = stat->arg_end;
	message->mm_env_start = stat->env_start;
	message->mm_env_end = stat->env_end;
	if (facts) {
		message->has_dumpable = true;
		message->dumpable = facts->dumpable;
		message->has_thp_disabled = true;
		message->thp_disabled = facts->thp_disabled;
	}
	r = fdio_read_file(builder->process->proc_fd, "auxv", AUXV_MAX, &auxv);
	if (r < 0)
		return error_set_errno(error, r, "cannot read /proc/%d/auxv", builder->process->pid);
	message->n_mm_saved_auxv = auxv.size / sizeof(uint64_t);
	message->mm_saved_auxv = dump_arena_take(&builder->arena, auxv.size);
	if (!message->mm_saved_auxv)
		return error_set_errno(error, -ENOMEM, "cannot keep the auxiliary vector");
	memcpy(message->mm_saved_auxv, auxv.data, message->n_mm_saved_auxv * sizeof(uint64_t));
	return dump_file_link(builder->ctx, builder->process, "exe", &message->exe_file_id, error);
}

static int mm_build(struct mm_builder *builder, const struct dump_process_facts *facts, struct error *error)
{
	/* One mapping may be cut in two around the remote area. */
	size_t room = builder->process->maps.count + 1;
	int r = 0;

	builder->mappings = dump_arena_take(&builder->arena, room * sizeof(*builder->mappings));
	builder->vm_flags = dump_arena_take(&builder->arena, room * sizeof(*builder->vm_flags));
	builder->names = dump_arena_take(&builder->arena, room * sizeof(*builder->names));
	builder->message.vmas = dump_arena_take(&builder->arena, room * sizeof(Mapping *));
	builder->message.aios = dump_arena_take(&builder->arena, room * sizeof(AioRing *));
	if (!builder->mappings || !builder->vm_flags || !builder->names || !builder->message.vmas || !builder->message.aios)
		return error_set_errno(error, -ENOMEM, "cannot list the mappings of PID %d", builder->process->pid);
	array_for_each(map, &builder->process->maps) {
		r = mapping_add_outside(builder, map, error);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < builder->count; i++)
		builder->message.vmas[i] = &builder->mappings[i];
	builder->message.n_vmas = builder->count;
	r = mm_extra(builder);
	if (r < 0)
		return error_set_errno(error, r, "cannot list the mappings of PID %d", builder->process->pid);
	r = dump_guards(builder->process, &builder->arena, &builder->extra, error);
	if (r < 0)
		return r;
	return mm_numbers(builder, facts, error);
}

/* One that shares memory has the same records as its owner, who comes first. */
static int copy_records(struct dump_context *ctx, const struct dump_process *owner, const struct dump_process *process,
			struct error *error)
{
	static const enum image_type types[] = { IMAGE_MM, IMAGE_MM_EXTRA };
	int r = 0;

	for (size_t i = 0; r == 0 && i < 2; i++) {
		const struct image_record *record = image_set_find(ctx->images, types[i], (uint32_t)owner->pid);

		if (!record)
			return error_set(error, -ESRCH, "PID %d, whose memory PID %d has, is gone", owner->pid, process->pid);
		r = image_set_add_bytes(ctx->images, types[i], (uint32_t)process->pid, record->data, record->size, error);
	}
	return r;
}

int dump_mm(struct dump_context *ctx, struct dump_process *process, const struct dump_process_facts *facts,
	    struct error *error)
{
	const struct dump_process *owner = dump_process_owner(ctx, process);
	struct mm_builder builder = {
		.ctx = ctx,
		.process = process,
		.message = ADDRESS_SPACE__INIT,
		.extra = MM_EXTRA__INIT,
	};
	int r = 0;

	if (owner != process)
		return copy_records(ctx, owner, process, error);
	if (!process->look || !process->look->has_flags)
		r = dump_mm_flags_update(process, facts != NULL, error);
	if (r == 0)
		r = mm_build(&builder, facts, error);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_MM, (uint32_t)process->pid, &builder.message.base, error);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_MM_EXTRA, (uint32_t)process->pid, &builder.extra.base, error);
	dump_arena_deinit(&builder.arena);
	return r;
}
