/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mappings, and which of their pages are where. Page maps are read through the chain; when there is no chain, since the
 * directory cannot be opened, the page map of this directory alone is read, which says as much of where pages are.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "ghost-file.pb-c.h"
#include "image/decode.h"
#include "image/mapping.h"
#include "image/memory-owner.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "regfile.pb-c.h"
#include "show-private.h"
#include "util/cleanup.h"

/* Pages of an object: {"pages", "pages_here", "pages_parents", "pages_zero"} within [start, end). */
struct show_runs {
	struct show_run {
		uint64_t address, pages;
		bool here, zero;
	} *items;
	size_t count;
	size_t capacity;
};

#define FLAG_PARENT 1 /* PagemapEntry.flags */

/* ---- page maps */

static int keep_run(void *context, const struct image_decoded *entry)
{
	const PagemapEntry *message = (const PagemapEntry *)entry->message;
	struct show_runs *runs = context;
	struct show_run run;

	if (message->base.descriptor != &pagemap_entry__descriptor)
		return 0;
	run = (struct show_run){ .address = message->vaddr, .pages = message->nr_pages,
				 .here = !(message->flags & FLAG_PARENT) && !message->in_parent };
	return array_append(runs, run);
}

static int load_file(struct show *show, enum image_pages_kind kind, uint32_t id, struct show_runs *ret, struct error *error)
{
	_cleanup_free_ char *path = NULL;
	int r;

	if (kind == IMAGE_PAGES_GHOST)
		return 0;
	if (asprintf(&path, "%s/pagemap-%s%u.img", show->path, kind == IMAGE_PAGES_SHARED ? "shmem-" : "", id) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	r = image_decode_file(path, keep_run, ret, error);
	return r == -ENOENT ? 0 : r;
}

static int load_chain(struct show *show, enum image_pages_kind kind, uint32_t id, struct show_runs *ret, struct error *error)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	struct image_pages_run run;
	int r = image_pages_open(show->dir, kind, id, &reader, error);

	if (r == -ENOENT)
		return 0;
	while (r >= 0 && (r = image_pages_next(reader, &run, error)) > 0) {
		struct show_run item = { run.address, run.pages, run.level == 0, run.zero };

		if (array_append(ret, item) < 0)
			return -ENOMEM;
	}
	return r;
}

static void load_runs(struct show *show, enum image_pages_kind kind, uint32_t id, struct show_runs *ret)
{
	struct error error = ERROR_INIT;
	int r = show->dir ? load_chain(show, kind, id, ret, &error) : load_file(show, kind, id, ret, &error);

	if (r < 0)
		show_problem(show, error_text(&error, r));
}

static size_t first_behind(const struct show_runs *runs, uint64_t address)
{
	size_t low = 0, high = runs->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (runs->items[middle].address + runs->items[middle].pages * IMAGE_PAGE_SIZE <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static json_t *count_pages(const struct show_runs *runs, uint64_t start, uint64_t end)
{
	uint64_t here = 0, parents = 0, zero = 0;

	for (size_t i = first_behind(runs, start); i < runs->count && runs->items[i].address < end; i++) {
		const struct show_run *run = &runs->items[i];
		uint64_t from = run->address > start ? run->address : start, to = run->address + run->pages * IMAGE_PAGE_SIZE;
		uint64_t pages = ((to < end ? to : end) - from) / IMAGE_PAGE_SIZE;

		*(run->here ? &here : &parents) += pages;
		zero += run->zero ? pages : 0;
	}
	return json_pack("{s:I, s:I, s:I}", "here", (json_int_t)here, "parents", (json_int_t)parents, "zero", (json_int_t)zero);
}

/* ---- mappings */

static const char *kind_of(const Mapping *mapping)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} kinds[] = {
		{ MAPPING_VSYSCALL, "vsyscall" }, { MAPPING_VDSO, "vdso" }, { MAPPING_VVAR, "vvar" },
		{ MAPPING_GUARD, "guard" }, { MAPPING_HEAP, "heap" }, { MAPPING_STACK, "stack" },
		{ MAPPING_MEMFD, "memfd" }, { MAPPING_SYSV, "system v" }, { MAPPING_SOCKET, "socket ring" },
		{ MAPPING_AIO, "aio ring" }, { MAPPING_IO_URING, "io_uring" },
		{ MAPPING_FILE_PRIVATE, "file" }, { MAPPING_FILE_SHARED, "file" },
		{ MAPPING_ANON_SHARED, "shared memory" }, { MAPPING_ANON_PRIVATE, "anonymous" },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (mapping->status & kinds[i].bit)
			return kinds[i].name;
	return "unknown";
}

static json_t *show_mapping(struct show *show, const Mapping *mapping, const MmExtra *extra, const struct show_runs *runs)
{
	bool is_object = mapping->status & (MAPPING_MEMFD | MAPPING_ANON_SHARED);
	bool is_file = mapping->status & (MAPPING_FILE_PRIVATE | MAPPING_FILE_SHARED) && !is_object;
	const OpenFile *file = is_file ? show_file(show, mapping->shmid) : NULL;
	char prot[5];
	json_t *object;

	snprintf(prot, sizeof(prot), "%c%c%c%c", mapping->prot & PROT_READ ? 'r' : '-', mapping->prot & PROT_WRITE ? 'w' : '-',
		 mapping->prot & PROT_EXEC ? 'x' : '-', mapping->flags & MAP_SHARED ? 's' : 'p');
	object = json_pack("{s:o, s:o, s:I, s:s, s:s}", "start", show_address(mapping->start), "end",
			   show_address(mapping->end), "bytes", (json_int_t)(mapping->end - mapping->start), "protection",
			   prot, "kind", kind_of(mapping));
	if (file && file->reg)
		json_object_set_new(object, "file", show_text(file->reg->name, strlen(file->reg->name)));
	if (file || is_object)
		json_object_set_new(object, "offset", show_number(mapping->pgoff));
	if (is_object)
		json_object_set_new(object, "object", show_number(mapping->shmid));
	for (size_t i = 0; extra && i < extra->n_names; i++)
		if (extra->names[i]->start <= mapping->start && mapping->start < extra->names[i]->start + extra->names[i]->size)
			json_object_set_new(object, "name", show_text(extra->names[i]->name, strlen(extra->names[i]->name)));
	if (mapping->status & (MAPPING_HAS_PAGES | MAPPING_VDSO))
		json_object_set_new(object, "pages", count_pages(runs, mapping->start, mapping->end));
	return object;
}

json_t *show_memory(struct show *show, uint32_t pid)
{
	_cleanup_message_ AddressSpace *mm = show_unpack(show, image_set_find(show->set, IMAGE_MM, pid),
							 &address_space__descriptor);
	_cleanup_message_ MmExtra *extra = show_unpack(show, image_set_find(show->set, IMAGE_MM_EXTRA, pid),
						       &mm_extra__descriptor);
	struct show_runs runs = { 0 };
	json_t *mappings;
	uint64_t bytes = 0;
	json_t *memory;

	if (!mm)
		return json_null();
	mappings = json_array();
	load_runs(show, IMAGE_PAGES_PROCESS, image_memory_owner(show->set, pid), &runs);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		json_array_append_new(mappings, show_mapping(show, mm->vmas[i], extra, &runs));
		bytes += mm->vmas[i]->end - mm->vmas[i]->start;
	}
	memory = json_pack("{s:o, s:o, s:o}", "bytes", show_number(bytes), "pages", count_pages(&runs, 0, UINT64_MAX),
			   "mappings", mappings);
	array_deinit(&runs);
	return memory;
}

/* ---- objects */

/* With who owns it. */
static json_t *show_object(uint32_t id, const char *kind, uint64_t bytes, uint32_t uid, uint32_t gid, uint32_t mode)
{
	return json_pack("{s:I, s:s, s:o, s:I, s:I, s:I}", "id", (json_int_t)id, "kind", kind, "bytes", show_number(bytes),
			 "uid", (json_int_t)uid, "gid", (json_int_t)gid, "mode", (json_int_t)mode);
}

static json_t *show_shared(struct show *show, const SharedMemory *message)
{
	struct show_runs runs = { 0 };
	json_t *object = show_object(message->id, message->memfd ? "memfd" : "shared memory", message->size, message->uid,
				     message->gid, message->mode);

	if (message->name)
		json_object_set_new(object, "name", show_text(message->name, strlen(message->name)));
	load_runs(show, IMAGE_PAGES_SHARED, message->id, &runs);
	json_object_set_new(object, "pages", count_pages(&runs, 0, UINT64_MAX));
	array_deinit(&runs);
	return object;
}

/* The path that a deleted file had. */
static void add_ghost_path(struct show *show, uint32_t id, json_t *object)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		_cleanup_message_ RemapPath *remap = show_unpack(show, record, &remap_path__descriptor);
		const OpenFile *file = remap && remap->remap_id == id ? show_file(show, remap->orig_id) : NULL;

		if (file && file->reg) {
			json_object_set_new(object, "path", show_text(file->reg->name, strlen(file->reg->name)));
			return;
		}
	}
}

json_t *show_objects(struct show *show)
{
	const struct image_record *record;
	json_t *list = json_array();
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_SHARED_MEMORY, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SharedMemory *message = show_unpack(show, record, &shared_memory__descriptor);

		if (message)
			json_array_append_new(list, show_shared(show, message));
	}
	cursor = 0;
	while ((record = image_set_next(show->set, IMAGE_GHOST_FILE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ GhostFile *ghost = show_unpack(show, record, &ghost_file__descriptor);
		json_t *object;

		if (!ghost)
			continue;
		object = show_object(record->id, "deleted file", ghost->size, ghost->uid, ghost->gid, ghost->mode);
		add_ghost_path(show, record->id, object);
		json_array_append_new(list, object);
	}
	return list;
}
