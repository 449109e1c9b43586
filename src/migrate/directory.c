/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A directory as the destination. The pages of a page map lie in its pages file in order of address, so a page that is sent
 * again cannot take its old place: each round of pre-copy is a directory of its own, the parent of the next, and the last
 * one says of every page whether it is in it or in its parent.
 *
 *   images      a new directory; what has been unmapped since is forgotten
 *   pages       into it, by address; in front of each run, the pages between that the parents hold
 *   round_end   what the parents hold behind the last run; then it is sealed, but for the last one
 *   complete    the last one: deleted files, the records, the seal
 *
 * With a checkpoint of an earlier time as parent, what has changed since is found by comparing each page with it: trackers
 * of written pages end with the program that uses them.
 *
 * The content of deleted files has no parents in the format: it is kept in unnamed files until the end.
 */
#include "directory.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content.h"
#include "dump/shared-memory.h"
#include "image/directory.h"
#include "image/mapping.h"
#include "inventory.pb-c.h"
#include "mm.pb-c.h"
#include "source.h"
#include "util/cleanup.h"

#define PAGE IMAGE_PAGE_SIZE
#define ROUND_NAME "%s/" IMAGE_ROUND_NAME

/* A process, shared memory object or deleted file, and what of it has been written. */
struct object {
	enum image_pages_kind kind;
	uint32_t id;
	struct pageset held;                /* pages that the directories so far have */
	struct image_pages_writer *writer;  /* of the present one; NULL: nothing added yet */
	struct image_pages_reader *before;  /* of the earlier checkpoint; NULL: it has none, or is not compared any more */
	uint64_t cursor;                    /* first page that is not settled in the present one */
	int content_fd;                     /* deleted files: their content by offset; -1: none */
	AddressSpace *mm;                   /* of the round; owned; NULL: not needed so far */
	size_t mapping;                     /* of those, the first that does not end before the cursor */
	bool seen;                          /* during a refresh */
};

struct directory {
	const char *path;
	const char *parent_path;             /* of the user's; NULL: none */
	bool rounds;
	struct image_directory *parent;      /* opened, for comparing; NULL: none */
	ARRAY(struct image_directory *) written; /* by round; the last one is the present one */
	ARRAY(struct object) objects;
	uint64_t bytes;                      /* of pages, written so far */
	bool made;     /* `path` itself is ours */
	bool complete;
};

/* ---- objects */

static void forget_mappings(struct object *object)
{
	if (object->mm)
		address_space__free_unpacked(steal_ptr(&object->mm), NULL);
	object->mapping = 0;
}

static void object_deinit(struct object *object)
{
	forget_mappings(object);
	image_pages_end(object->writer, NULL);
	image_pages_close(object->before);
	pageset_deinit(&object->held);
	cleanup_fd(&object->content_fd);
}

static struct object *object_find(struct directory *directory, enum image_pages_kind kind, uint32_t id)
{
	array_for_each(object, &directory->objects)
		if (object->kind == kind && object->id == id)
			return object;
	return NULL;
}

static int object_get(struct directory *directory, enum image_pages_kind kind, uint32_t id, struct object **ret,
		      struct error *error)
{
	struct object fresh = { .kind = kind, .id = id, .content_fd = -1 };
	int r = 0;

	*ret = object_find(directory, kind, id);
	if (*ret)
		return 0;
	if (kind == IMAGE_PAGES_GHOST)
		r = content_open(directory->path, &fresh.content_fd, error);
	else if (directory->parent && directory->written.count == 1)
		r = image_pages_open(directory->parent, kind, id, &fresh.before, error);
	if (r == -ENOENT && kind != IMAGE_PAGES_GHOST) { /* it is new */
		error_clear(error);
		r = 0;
	}
	if (r == 0 && array_append(&directory->objects, fresh) < 0)
		r = error_set(error, -ENOMEM, "out of memory");
	if (r < 0) {
		object_deinit(&fresh);
		return r;
	}
	*ret = &directory->objects.items[directory->objects.count - 1];
	return 0;
}

static bool is_ghost(const struct source *source, const struct wire_pages_header *header)
{
	return !header->pid && dump_shared_get(source->dump, header->shared - 1)->ghost;
}

static int object_of_header(struct source *source, const struct wire_pages_header *header, struct object **ret,
			    struct error *error)
{
	enum image_pages_kind kind = header->pid ? IMAGE_PAGES_PROCESS :
				     is_ghost(source, header) ? IMAGE_PAGES_GHOST : IMAGE_PAGES_SHARED;

	return object_get(source->directory, kind, header->pid ? header->pid : header->shared, ret, error);
}

/* ---- one round */

static int writer_get(struct directory *directory, struct object *object, struct error *error)
{
	struct image_directory *now = directory->written.items[directory->written.count - 1];

	return object->writer ? 0 : image_pages_begin(now, object->kind, object->id, &object->writer, error);
}

/* Pages from the cursor up to page number `end` that the parents hold are left there. */
static int settle(struct directory *directory, struct object *object, uint64_t end, struct error *error)
{
	uint64_t page = object->cursor, found, n;
	int r = 0;

	while (r == 0 && page < end && (n = pageset_next(&object->held, page, end - page, &found)) && found < end) {
		if (n > end - found)
			n = end - found;
		r = writer_get(directory, object, error);
		if (r == 0)
			r = image_pages_add_in_parent(object->writer, found * PAGE, n, error);
		page = found + n;
	}
	object->cursor = end;
	return r;
}

/* 1 if the earlier checkpoint has the same at this address, 0 if not. */
static int is_as_before(struct object *object, uint64_t address, const uint8_t *data, struct error *error)
{
	struct image_pages_run run;
	uint8_t page[PAGE];
	int r;

	if (!object->before || image_pages_find(object->before, address, &run) < 0)
		return 0;
	r = image_pages_read(object->before, &run, (address - run.address) / PAGE, 1, page, error);
	return r < 0 ? r : memcmp(page, data, PAGE) == 0;
}

/* Neighbours that are alike, new or as before, go in one call. */
static int add_pages(struct directory *directory, struct object *object, uint64_t address, uint64_t pages,
		     const uint8_t *data, struct error *error)
{
	uint64_t first = 0;
	int r = writer_get(directory, object, error), was = 0;

	for (uint64_t i = 0; r == 0 && i <= pages; i++) {
		int is = i < pages ? is_as_before(object, address + i * PAGE, data + i * PAGE, error) : !was;

		if (is < 0)
			return is;
		if (i && is != was) {
			if (was)
				r = image_pages_add_in_parent(object->writer, address + first * PAGE, i - first, error);
			else
				r = image_pages_add(object->writer, address + first * PAGE, i - first, data + first * PAGE,
						    error);
			directory->bytes += was ? 0 : (i - first) * PAGE;
			first = i;
		}
		was = is;
	}
	return r;
}

/* A page that is not there is read as zeros, but in a private mapping of a file as that file. */
static int zeros_count(struct source *source, struct object *object, uint64_t address, bool *ret, struct error *error)
{
	const struct image_record *record = image_set_find(source->images, IMAGE_MM, object->id);
	const Mapping *mapping;
	int r = 0;

	*ret = false;
	if (object->kind != IMAGE_PAGES_PROCESS || !record)
		return 0;
	if (!object->mm)
		r = image_unpack(record, address_space, &object->mm, error);
	if (r < 0)
		return r;
	while (object->mapping < object->mm->n_vmas && object->mm->vmas[object->mapping]->end <= address)
		object->mapping++;
	mapping = object->mapping < object->mm->n_vmas ? object->mm->vmas[object->mapping] : NULL;
	*ret = mapping && mapping->start <= address && mapping->status & MAPPING_FILE_PRIVATE;
	return 0;
}

static int add_zeros(struct directory *directory, struct object *object, uint64_t address, uint64_t pages, struct error *error)
{
	static const uint8_t zeros[PAGE];
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < pages; i++)
		r = add_pages(directory, object, address + i * PAGE, 1, zeros, error);
	return r;
}

static int pages(struct source *source, uint32_t stream, const struct wire_pages_header *header, const void *data,
		 int64_t deadline, struct error *error)
{
	struct directory *directory = source->directory;
	uint64_t page = header->address / PAGE;
	bool counts = header->kind == WIRE_PAGES_DATA;
	struct object *object;
	int r;

	if (!directory->rounds && is_ghost(source, header))
		return 0; /* of a pre-dump nothing would read it */
	r = object_of_header(source, header, &object, error);
	if (r == 0 && object->kind == IMAGE_PAGES_GHOST) {
		directory->bytes += header->kind == WIRE_PAGES_DATA ? header->pages * PAGE : 0;
		return content_keep(object->content_fd, header, data, error);
	}
	if (r == 0)
		r = settle(directory, object, page, error);
	if (r == 0 && counts)
		r = add_pages(directory, object, header->address, header->pages, data, error);
	else if (r == 0)
		r = zeros_count(source, object, header->address, &counts, error);
	if (r == 0 && counts && header->kind == WIRE_PAGES_ZERO)
		r = add_zeros(directory, object, header->address, header->pages, error);
	if (r < 0)
		return r;
	object->cursor = page + header->pages;
	pageset_remove(&object->held, page, header->pages);
	if (counts && pageset_add(&object->held, page, header->pages) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	return 0;
}

/* ---- what is gone */

static void forget(struct object *object, uint64_t from, uint64_t to)
{
	if (to > from)
		pageset_remove(&object->held, from / PAGE, (to - from) / PAGE);
}

static int forget_unmapped(struct source *source, struct object *object, const struct image_record *record,
			   struct error *error)
{
	_cleanup_message_ AddressSpace *mm = NULL;
	uint64_t at = 0;
	int r = image_unpack(record, address_space, &mm, error);

	for (size_t i = 0; r == 0 && i < mm->n_vmas; i++) {
		if (!(mm->vmas[i]->status & MAPPING_HAS_PAGES))
			continue;
		forget(object, at, mm->vmas[i]->start);
		at = mm->vmas[i]->end;
	}
	if (r == 0)
		forget(object, at, UINT64_C(1) << 47);
	return r;
}

/* Objects that are gone leave the list; of the others what is gone is forgotten. */
static int refresh(struct source *source, struct error *error)
{
	struct directory *directory = source->directory;
	size_t kept = 0;
	int r = 0;

	array_for_each(object, &directory->objects) {
		const struct image_record *record = NULL;

		object->cursor = 0;
		forget_mappings(object);
		if (object->kind == IMAGE_PAGES_PROCESS) {
			record = image_set_find(source->images, IMAGE_MM, object->id);
			if (r == 0 && record)
				r = forget_unmapped(source, object, record, error);
			object->seen = record != NULL;
		} else {
			const struct dump_shared_object *shared = dump_shared_get(source->dump, object->id - 1);

			object->seen = shared->present;
			forget(object, (shared->size + PAGE - 1) / PAGE * PAGE, UINT64_C(1) << 47);
		}
		if (object->seen)
			directory->objects.items[kept++] = *object;
		else
			object_deinit(object);
	}
	directory->objects.count = kept;
	return r;
}

/* ---- operations */

/* The process that a checkpoint is of: two of one chain have to be of the same. */
static int check_parent(const struct source *source, struct error *error)
{
	const struct directory *directory = source->directory;
	const struct image_record *record;
	_cleanup_message_ Inventory *inventory = NULL;
	char boot[JOURNAL_BOOT_ID_MAX] = "";
	int r;

	if (!directory->parent)
		return 0;
	record = image_set_find(image_directory_set(directory->parent), IMAGE_INVENTORY, 0);
	if (!record)
		return error_set(error, -EINVAL, "%s is no checkpoint that another one can build upon", directory->parent_path);
	r = image_unpack(record, inventory, &inventory, error);
	if (r < 0)
		return r;
	if (!inventory->root)
		return error_set(error, -EINVAL, "%s does not say which process it is of: begin a chain of checkpoints anew",
				 directory->parent_path);
	journal_boot_id(boot, NULL);
	if (inventory->root->pid != (uint32_t)source->dump->root || strcmp(inventory->root->boot_id, boot) != 0 ||
	    inventory->root->start_time != source->dump->processes.items[0]->stat.start_time)
		return error_set(error, -EINVAL, "%s is of another process (PID %u, begun at another time) than PID %d",
				 directory->parent_path, inventory->root->pid, source->dump->root);
	return 0;
}

/* What is made at the freeze is tried now: nothing is begun where a checkpoint is already. */
static int check(struct source *source, struct error *error)
{
	struct image_directory *tried = NULL;
	int r = check_parent(source, error);

	if (r == 0)
		r = image_directory_create(source->directory->path, NULL, &tried, error);
	if (r == 0)
		image_directory_discard(tried);
	source->dump->target_queues = true; /* whoever restores it will see */
	return r;
}

static int images(struct source *source, bool frozen, uint32_t depth, int64_t deadline, struct error *error)
{
	struct directory *directory = source->directory;
	struct image_directory *now = NULL;
	unsigned round = (unsigned)directory->written.count;
	char path[PATH_MAX], parent[PATH_MAX];
	const char *parent_path = directory->parent_path;
	int r = refresh(source, error);

	if (r < 0)
		return r;
	snprintf(parent, sizeof(parent), ROUND_NAME, directory->path, round);
	if (round)
		parent_path = parent;
	snprintf(path, sizeof(path), ROUND_NAME, directory->path, round + 1);
	if (directory->rounds && round == 0) {
		directory->made = mkdir(directory->path, 0700) == 0;
		if (!directory->made && errno != EEXIST)
			return error_set_errno(error, -errno, "%s", directory->path);
	}
	r = image_directory_create(directory->rounds && !frozen ? path : directory->path, parent_path, &now, error);
	if (r == 0 && array_append(&directory->written, now) < 0) {
		image_directory_discard(now);
		r = error_set(error, -ENOMEM, "out of memory");
	}
	return r;
}

static int laid_out(struct source *source, int64_t deadline, struct error *error)
{
	return 0;
}

/* A round that more follow is complete here; the last one is when the records are. */
static int round_end(struct source *source, int64_t deadline, struct error *error)
{
	struct directory *directory = source->directory;
	struct image_directory *now = directory->written.items[directory->written.count - 1];
	int r = 0;

	array_for_each(object, &directory->objects) {
		if (r == 0 && object->kind != IMAGE_PAGES_GHOST)
			r = settle(directory, object, UINT64_MAX / PAGE, error);
		if (r == 0)
			r = image_pages_end(steal_ptr(&object->writer), error);
		image_pages_close(steal_ptr(&object->before));
	}
	if (r == 0 && directory->rounds && source->phase == PHASE_PRECOPY)
		r = image_directory_seal(now, error);
	return r;
}

static int round_done(struct source *source, struct source_jobs *rejected, int64_t deadline, struct error *error)
{
	return 0;
}

static int drop(struct source *source, const struct source_jobs *drops, int64_t deadline, struct error *error)
{
	array_for_each(job, &drops->list) {
		struct object *object = object_find(source->directory, IMAGE_PAGES_PROCESS, (uint32_t)job->pid);

		if (object)
			pageset_remove(&object->held, job->address / PAGE, job->pages);
	}
	return 0;
}

static int prepare(struct source *source, const struct source_jobs *late, int64_t deadline, struct error *error)
{
	return 0;
}

static int prepared(struct source *source, int64_t deadline, struct error *error)
{
	return 0;
}

/* What was written goes with directory_free(). */
static void give_up(struct source *source)
{
}

static uint64_t bytes(const struct source *source)
{
	return source->directory->bytes;
}

const struct destination_operations destination_directory = {
	.check = check,
	.images = images,
	.laid_out = laid_out,
	.pages = pages,
	.round_end = round_end,
	.round_done = round_done,
	.drop = drop,
	.prepare = prepare,
	.prepared = prepared,
	.abort = give_up,
	.bytes = bytes,
};

/* ---- beginning and end */

int directory_new(const char *path, const char *parent, bool rounds, struct directory **ret, struct error *error)
{
	struct directory *directory = calloc(1, sizeof(*directory));
	int r;

	if (!directory)
		return error_set(error, -ENOMEM, "out of memory");
	directory->path = path;
	directory->parent_path = parent;
	directory->rounds = rounds;
	r = parent ? image_directory_open(parent, &directory->parent, error) : 0;
	if (r < 0) {
		free(directory);
		return r;
	}
	*ret = directory;
	return 0;
}

void directory_free(struct directory *directory)
{
	if (!directory)
		return;
	array_for_each(object, &directory->objects)
		object_deinit(object);
	array_deinit(&directory->objects);
	for (size_t i = directory->written.count; i-- > 0;) {
		if (directory->complete)
			image_directory_free(directory->written.items[i]);
		else
			image_directory_discard(directory->written.items[i]);
	}
	array_deinit(&directory->written);
	if (directory->made && !directory->complete)
		rmdir(directory->path);
	image_directory_free(directory->parent);
	free(directory);
}

int directory_complete(struct source *source, struct error *error)
{
	struct directory *directory = source->directory;
	struct image_directory *now = directory->written.items[directory->written.count - 1];
	int r = 0;

	array_for_each(object, &directory->objects)
		if (r == 0 && object->kind == IMAGE_PAGES_GHOST)
			r = content_copy(object->content_fd, now, object->id, error);
	if (r == 0)
		r = image_directory_write_set(now, source->images, error);
	if (r == 0)
		r = image_directory_seal(now, error);
	directory->complete = r == 0;
	return r;
}
