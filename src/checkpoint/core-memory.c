/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of a process as segments of a core. A page of a mapping is looked for among the pages of the process, then in
 * the object that is mapped, if the checkpoint holds that (shared memory, deleted files). What neither has is in a file, or
 * zeros.
 *
 * Each mapping becomes segments with and without content. In a file's mapping every gap is a segment without content, so
 * that the debugger looks into the file. Elsewhere a gap reads as zeros, and only a large one is worth a segment: it would
 * be a hole, but the size of files has a limit, and address spaces are larger.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core-private.h"
#include "image/mapping.h"
#include "image/memory-owner.h"

#define GAP_MAX UINT64_C(0x100000) /* bytes */
#define NOTHING SIZE_MAX

static int no_memory(struct error *error)
{
	return error_set_errno(error, -ENOMEM, "cannot list the memory of a process");
}

/* ---- objects */

static int object_load(struct core_process *process, struct core_object *object, struct error *error)
{
	struct image_pages_run run;
	struct error missing = ERROR_INIT;
	int r = image_pages_open(process->dir, object->kind, object->id, &object->reader, &missing);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return error_set(error, r, "%s", error_text(&missing, r));
	while ((r = image_pages_next(object->reader, &run, error)) > 0)
		if (array_append(&object->runs, run) < 0)
			return no_memory(error);
	return r;
}

/* The index of an object, which is read when it is asked for first. */
static int object_get(struct core_process *process, enum image_pages_kind kind, uint32_t id, size_t *ret, struct error *error)
{
	struct core_object object = { .kind = kind, .id = id };

	for (size_t i = 0; i < process->objects.count; i++)
		if (process->objects.items[i].kind == kind && process->objects.items[i].id == id) {
			*ret = i;
			return 0;
		}
	if (array_append(&process->objects, object) < 0)
		return no_memory(error);
	*ret = process->objects.count - 1;
	return object_load(process, &process->objects.items[*ret], error);
}

const struct core_file *core_memory_file(const struct core_process *process, const Mapping *mapping)
{
	size_t low = 0, high = process->files.count;

	if (!(mapping->status & (MAPPING_FILE_PRIVATE | MAPPING_FILE_SHARED)) || mapping->status & MAPPING_MEMFD)
		return NULL;
	while (low < high) {
		size_t middle = (low + high) / 2;

		if (process->files.items[middle].id < mapping->shmid)
			low = middle + 1;
		else
			high = middle;
	}
	return low < process->files.count && process->files.items[low].id == mapping->shmid ? &process->files.items[low] : NULL;
}

/* The object behind a mapping, or NOTHING. */
static int base_of(struct core_process *process, const Mapping *mapping, size_t *ret, struct error *error)
{
	const struct core_file *file = core_memory_file(process, mapping);

	*ret = NOTHING;
	if (mapping->status & (MAPPING_MEMFD | MAPPING_ANON_SHARED))
		return object_get(process, IMAGE_PAGES_SHARED, (uint32_t)mapping->shmid, ret, error);
	if (file && file->ghost)
		return object_get(process, IMAGE_PAGES_GHOST, file->ghost, ret, error);
	return 0;
}

/* ---- pieces */

/* The first run of an object that ends behind an address. */
static size_t run_from(const struct core_object *object, uint64_t address)
{
	size_t low = 0, high = object->runs.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct image_pages_run *run = &object->runs.items[middle];

		if (run->address + run->pages * IMAGE_PAGE_SIZE <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The next piece of an object within [start, end) of the address space; `shift` is what its own addresses are behind
 * those. False: there is none.
 */
static bool next_piece(const struct core_process *process, size_t index, uint64_t shift, uint64_t start, uint64_t end,
		       struct core_piece *ret)
{
	const struct core_object *object = &process->objects.items[index];
	size_t number = run_from(object, start + shift);
	const struct image_pages_run *run = number < object->runs.count ? &object->runs.items[number] : NULL;
	uint64_t from, to;

	if (start >= end || !run || run->address >= end + shift)
		return false;
	from = run->address > start + shift ? run->address : start + shift;
	to = run->address + run->pages * IMAGE_PAGE_SIZE;
	to = to < end + shift ? to : end + shift;
	*ret = (struct core_piece){ from - shift, (to - from) / IMAGE_PAGE_SIZE, index, number,
				    (from - run->address) / IMAGE_PAGE_SIZE };
	return true;
}

static uint64_t piece_end(const struct core_piece *piece)
{
	return piece->address + piece->pages * IMAGE_PAGE_SIZE;
}

static int collect_pieces(struct core_process *process, const Mapping *mapping, struct error *error)
{
	uint64_t at = mapping->start;
	size_t base;
	int r = base_of(process, mapping, &base, error);

	while (r == 0 && at < mapping->end) {
		struct core_piece own, piece;
		bool has_own = (mapping->status & MAPPING_HAS_PAGES || mapping->status & MAPPING_VDSO) &&
			       next_piece(process, 0, 0, at, mapping->end, &own);
		uint64_t limit = has_own ? own.address : mapping->end;

		while (base != NOTHING && next_piece(process, base, mapping->pgoff - mapping->start, at, limit, &piece)) {
			if (array_append(&process->pieces, piece) < 0)
				return no_memory(error);
			at = piece_end(&piece);
		}
		if (has_own && array_append(&process->pieces, own) < 0)
			return no_memory(error);
		at = has_own ? piece_end(&own) : mapping->end;
	}
	return r;
}

/* The vDSO is no memory of the process; that of this kernel is as good if it is the same. */
static int collect_vdso(struct core_process *process, const Mapping *mapping, size_t first, struct error *error)
{
	uint64_t size = mapping->end - mapping->start;
	struct core_piece piece = { mapping->start, size / IMAGE_PAGE_SIZE, NOTHING, 0, 0 };

	if (!(mapping->status & MAPPING_VDSO) || process->pieces.count > first || !process->vdso || process->vdso_size > size)
		return 0;
	piece.pages = process->vdso_size / IMAGE_PAGE_SIZE;
	return array_append(&process->pieces, piece) < 0 ? no_memory(error) : 0;
}

/* ---- segments */

static int add_segment(struct core_process *process, const Mapping *mapping, uint64_t start, uint64_t end, bool content,
		       struct error *error)
{
	struct core_segment segment = { .start = start, .size = end - start, .content = content, .prot = mapping->prot };

	if (start == end)
		return 0;
	return array_append(&process->segments, segment) < 0 ? no_memory(error) : 0;
}

static int make_segments(struct core_process *process, const Mapping *mapping, size_t first, struct error *error)
{
	const struct core_file *file = core_memory_file(process, mapping);
	uint64_t gap = file && !file->ghost ? 0 : GAP_MAX, at = mapping->start;
	size_t i = first;
	int r = 0;

	while (r == 0 && i < process->pieces.count) {
		uint64_t start = process->pieces.items[i].address, end = piece_end(&process->pieces.items[i]);

		for (i++; i < process->pieces.count && process->pieces.items[i].address - end <= gap; i++)
			end = piece_end(&process->pieces.items[i]);
		r = add_segment(process, mapping, at, start, false, error);
		if (r == 0)
			r = add_segment(process, mapping, start, end, true, error);
		at = end;
	}
	return r < 0 ? r : add_segment(process, mapping, at, mapping->end, false, error);
}

int core_memory_collect(struct core_process *process, struct error *error)
{
	size_t own;
	int r = object_get(process, IMAGE_PAGES_PROCESS, image_memory_owner(process->set, process->tree->pid), &own, error);

	for (size_t i = 0; r == 0 && i < process->mm->n_vmas; i++) {
		const Mapping *mapping = process->mm->vmas[i];
		size_t first = process->pieces.count;

		if (mapping->status & MAPPING_VSYSCALL || mapping->status & MAPPING_GUARD)
			continue;
		r = collect_pieces(process, mapping, error);
		if (r == 0)
			r = collect_vdso(process, mapping, first, error);
		if (r == 0)
			r = make_segments(process, mapping, first, error);
	}
	return r;
}

/* ---- content */

const struct core_piece *core_memory_find(const struct core_process *process, uint64_t address)
{
	size_t low = 0, high = process->pieces.count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (piece_end(&process->pieces.items[middle]) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == process->pieces.count || process->pieces.items[low].address > address)
		return NULL;
	return &process->pieces.items[low];
}

bool core_memory_is_zero(const struct core_process *process, const struct core_piece *piece)
{
	return piece->object != NOTHING && process->objects.items[piece->object].runs.items[piece->run].zero;
}

int core_memory_read(struct core_process *process, const struct core_piece *piece, uint64_t first, uint64_t pages,
		     uint8_t *buffer, struct error *error)
{
	const struct core_object *object = &process->objects.items[piece->object];

	if (piece->object == NOTHING) {
		memcpy(buffer, process->vdso + first * IMAGE_PAGE_SIZE, pages * IMAGE_PAGE_SIZE);
		return 0;
	}
	return image_pages_read(object->reader, &object->runs.items[piece->run], piece->first + first, pages, buffer, error);
}
