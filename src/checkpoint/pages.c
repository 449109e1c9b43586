/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages from the directory to their places. The runs of a page map are cut into jobs of at most a MiB, which two threads
 * take in turn; each has readers of its own. A page of a child that is equal to what the child has from its parent already
 * is left alone, so that they go on sharing it; what the child has from its parent and must not have is dropped.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "image/mapping.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "private.h"
#include "util/cleanup.h"
#include "util/pageset.h"

#define PAGE IMAGE_PAGE_SIZE
#define JOB_PAGES UINT64_C(256) /* a MiB */
#define THREADS 2u
#define THREAD_PAGES_MIN 2048u /* less is not worth a second thread */

/* A page map that is read, by each thread with a reader of its own. */
struct source {
	enum image_pages_kind kind;
	uint32_t id;
	struct restore_process *process;              /* NULL: shared memory or a deleted file */
	struct image_pages_reader *readers[THREADS];  /* owned */
};

struct job {
	struct source *source; /* borrowed */
	uint64_t address;
	uint64_t pages;
};

struct fill {
	struct checkpoint *checkpoint;
	ARRAY(struct source *) sources; /* owned */
	ARRAY(struct job) jobs;
	uint64_t pages;                 /* in all jobs */
	atomic_size_t next;             /* job */
	atomic_uint_least64_t written, shared;
	pthread_mutex_t lock;
	_Atomic int failed;             /* first error; set under the lock */
	struct error error;             /* its text */
};

struct worker {
	struct fill *fill;
	unsigned index;
	pthread_t thread;
	uint8_t data[JOB_PAGES * PAGE];
	uint8_t there[JOB_PAGES * PAGE]; /* what a child has from its parent */
};

static void fill_deinit(struct fill *fill)
{
	array_for_each(source, &fill->sources) {
		for (unsigned i = 0; i < THREADS; i++)
			image_pages_close((*source)->readers[i]);
		free(*source);
	}
	array_deinit(&fill->sources);
	array_deinit(&fill->jobs);
	pthread_mutex_destroy(&fill->lock);
}

/* ---- jobs */

static int write_run(struct fill *fill, const struct source *source, uint64_t address, const uint8_t *data, uint64_t pages,
		     struct error *error)
{
	if (!pages)
		return 0;
	atomic_fetch_add(&fill->written, pages);
	return source->process ? restore_pages_write(source->process, address, data, pages * PAGE, error) :
				 restore_shared_write(fill->checkpoint->tree, source->id, address, data, pages * PAGE, error);
}

/* Writes what differs from what is there. process_vm_readv(2) would make a copy of each page that it reads. */
static int write_changes(struct worker *worker, const struct job *job, struct error *error)
{
	const struct source *source = job->source;
	uint64_t first = 0;
	int r = 0;

	if (tracee_process_read(source->process->tracee, job->address, worker->there, job->pages * PAGE, NULL) < 0)
		return write_run(worker->fill, source, job->address, worker->data, job->pages, error);
	for (uint64_t i = 0; r == 0 && i <= job->pages; i++) {
		if (i < job->pages && memcmp(worker->data + i * PAGE, worker->there + i * PAGE, PAGE) != 0)
			continue;
		r = write_run(worker->fill, source, job->address + first * PAGE, worker->data + first * PAGE, i - first,
			      error);
		atomic_fetch_add(&worker->fill->shared, i < job->pages);
		first = i + 1;
	}
	return r;
}

static int do_job(struct worker *worker, const struct job *job, struct error *error)
{
	struct image_pages_reader *reader = job->source->readers[worker->index];
	struct image_pages_run run;
	int r = image_pages_find(reader, job->address, &run);

	if (r < 0)
		return error_set(error, -EPROTO, "%s: a page map has changed while it was read",
				 worker->fill->checkpoint->options->path);
	r = image_pages_read(reader, &run, (job->address - run.address) / PAGE, job->pages, worker->data, error);
	if (r < 0)
		return r;
	return job->source->process && job->source->process->parent ?
		       write_changes(worker, job, error) :
		       write_run(worker->fill, job->source, job->address, worker->data, job->pages, error);
}

static void *worker_run(void *argument)
{
	struct worker *worker = argument;
	struct fill *fill = worker->fill;
	size_t index;

	while (!fill->failed && (index = atomic_fetch_add(&fill->next, 1)) < fill->jobs.count) {
		struct error error = ERROR_INIT;
		int r = do_job(worker, &fill->jobs.items[index], &error);

		if (r == 0)
			continue;
		pthread_mutex_lock(&fill->lock);
		if (!fill->failed) {
			fill->failed = r;
			fill->error = error;
		}
		pthread_mutex_unlock(&fill->lock);
	}
	return NULL;
}

static int run_jobs(struct fill *fill, struct error *error)
{
	unsigned wanted = fill->pages < THREAD_PAGES_MIN ? 1 : THREADS, started = 1;
	struct worker *workers = calloc(wanted, sizeof(*workers));

	if (!workers)
		return error_set(error, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < wanted; i++) {
		workers[i].fill = fill;
		workers[i].index = i;
	}
	while (started < wanted && pthread_create(&workers[started].thread, NULL, worker_run, &workers[started]) == 0)
		started++;
	worker_run(&workers[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	free(workers);
	fill->checkpoint->summary->pages += fill->written;
	fill->checkpoint->summary->pages_shared += fill->shared;
	return fill->failed < 0 ? error_set(error, fill->failed, "%s", error_text(&fill->error, fill->failed)) : 0;
}

/* ---- what there is to do */

/* NULL in `ret`: the directory has no pages of it. */
static int add_source(struct fill *fill, enum image_pages_kind kind, uint32_t id, struct restore_process *process,
		      struct source **ret, struct error *error)
{
	struct source *source = calloc(1, sizeof(*source));
	int r = 0;

	if (!source || array_append(&fill->sources, source) < 0) {
		free(source);
		return error_set(error, -ENOMEM, "out of memory");
	}
	source->kind = kind;
	source->id = id;
	source->process = process;
	for (unsigned i = 0; r == 0 && i < THREADS; i++)
		r = image_pages_open(fill->checkpoint->directory, kind, id, &source->readers[i], error);
	*ret = r == 0 ? source : NULL;
	if (r == -ENOENT) {
		error_clear(error);
		r = 0;
	}
	return r;
}

/*
 * Pages of one run, from its page number `first` on. Cut where a MiB of the file ends: the directory checks whole MiB, and a
 * job that is just that is read once.
 */
static int add_job(struct fill *fill, struct source *source, const struct image_pages_run *run, uint64_t first,
		   uint64_t pages, struct error *error)
{
	for (uint64_t i = 0, n; i < pages; i += n) {
		uint64_t inside = (run->offset / PAGE + first + i) % JOB_PAGES;
		struct job job = { .source = source, .address = run->address + (first + i) * PAGE };

		n = JOB_PAGES - inside < pages - i ? JOB_PAGES - inside : pages - i;
		job.pages = n;
		if (array_append(&fill->jobs, job) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	fill->pages += pages;
	return 0;
}

/* Some pages of a run may be able to wait: what cannot becomes jobs. */
static int add_parts(struct fill *fill, struct source *source, const struct image_pages_run *run, struct error *error)
{
	struct checkpoint_lazy *lazy = source->process ? fill->checkpoint->lazy : NULL;
	uint64_t first = 0;
	bool was = false;
	int r = 0;

	if (!lazy)
		return add_job(fill, source, run, 0, run->pages, error);
	for (uint64_t i = 0; r == 0 && i <= run->pages; i++) {
		bool is = i < run->pages ? checkpoint_lazy_may_wait(lazy, source->process->pid, run->address + i * PAGE) : !was;

		if (i && is != was) {
			if (was)
				r = checkpoint_lazy_note(lazy, source->process->pid, run->address + first * PAGE, i - first,
							 error);
			else
				r = add_job(fill, source, run, first, i - first, error);
			first = i;
		}
		was = is;
	}
	return r;
}

static int add_jobs(struct fill *fill, struct source *source, struct error *error)
{
	struct image_pages_run run;
	int r;

	while ((r = image_pages_next(source->readers[0], &run, error)) > 0) {
		r = add_parts(fill, source, &run, error);
		if (r < 0)
			return r;
	}
	return r;
}

/* ---- what a child must not have */

static int read_set(struct checkpoint *checkpoint, pid_t pid, struct pageset *set, struct error *error)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	struct image_pages_run run;
	int r = image_pages_open(checkpoint->directory, IMAGE_PAGES_PROCESS, (uint32_t)pid, &reader, error);

	if (r == -ENOENT) {
		error_clear(error);
		return 0;
	}
	while (r >= 0 && (r = image_pages_next(reader, &run, error)) > 0)
		if (pageset_add(set, run.address / PAGE, run.pages) < 0)
			r = error_set(error, -ENOMEM, "out of memory");
	return r;
}

typedef ARRAY(struct restore_range) range_list;

/* A child and its parent, whose copy it begins as. */
struct family {
	struct checkpoint_lazy *lazy; /* borrowed; NULL: no page waits */
	pid_t pid, parent_pid;
	struct pageset own, parent;   /* pages in the directory */
};

/* Whether the child has the parent's page and must not: it has none, or gets it later, and only what is missing comes later. */
static bool is_foreign(struct family *family, uint64_t page)
{
	if (family->lazy && checkpoint_lazy_may_wait(family->lazy, family->parent_pid, page * PAGE))
		return false; /* the parent has not got it yet */
	return !pageset_has(&family->own, page) ||
	       (family->lazy && checkpoint_lazy_may_wait(family->lazy, family->pid, page * PAGE));
}

static int list_foreign(struct family *family, const Mapping *mapping, range_list *ranges)
{
	uint64_t page = mapping->start / PAGE, end = mapping->end / PAGE, found, n;
	struct restore_range *last = NULL;

	while (page < end && (n = pageset_next(&family->parent, page, end - page, &found)) && found < end) {
		for (page = found; page < found + n && page < end; page++) {
			struct restore_range range = { .start = page * PAGE, .size = PAGE };

			if (!is_foreign(family, page))
				continue;
			if (last && last->start + last->size == range.start) {
				last->size += PAGE;
				continue;
			}
			if (array_append(ranges, range) < 0)
				return -ENOMEM;
			last = &ranges->items[ranges->count - 1];
		}
	}
	return 0;
}

static int drop_foreign(struct checkpoint *checkpoint, struct restore_process *process, struct error *error)
{
	const struct image_set *images = image_directory_set(checkpoint->directory);
	const struct image_record *record = image_set_find(images, IMAGE_MM, (uint32_t)process->pid);
	_cleanup_message_ AddressSpace *mm = NULL;
	struct family family = { .lazy = checkpoint->lazy, .pid = process->pid,
				 .parent_pid = process->parent->owner ? process->parent->owner->pid : process->parent->pid };
	range_list ranges = { 0 };
	int r = record ? image_unpack(record, address_space, &mm, error) : 0;

	if (r == 0 && record)
		r = read_set(checkpoint, family.parent_pid, &family.parent, error);
	if (r == 0 && record)
		r = read_set(checkpoint, family.pid, &family.own, error);
	for (size_t i = 0; r == 0 && record && i < mm->n_vmas; i++)
		if (mm->vmas[i]->status & MAPPING_HAS_PAGES && list_foreign(&family, mm->vmas[i], &ranges) < 0)
			r = error_set(error, -ENOMEM, "out of memory");
	if (r == 0 && ranges.count)
		r = restore_pages_drop(checkpoint->tree, process, ranges.items, ranges.count, error);
	array_deinit(&ranges);
	pageset_deinit(&family.own);
	pageset_deinit(&family.parent);
	return r;
}

/* ---- */

int checkpoint_fill_processes(struct checkpoint *checkpoint, struct error *error)
{
	struct fill fill = { .checkpoint = checkpoint, .lock = PTHREAD_MUTEX_INITIALIZER };
	int r = 0;

	array_for_each(place, &checkpoint->tree->processes) {
		struct restore_process *process = *place;
		struct source *source = NULL;

		if (r < 0 || !process->created || process->owner)
			continue;
		if (process->parent)
			r = drop_foreign(checkpoint, process, error);
		if (r == 0)
			r = add_source(&fill, IMAGE_PAGES_PROCESS, (uint32_t)process->pid, process, &source, error);
		if (r == 0 && source)
			r = add_jobs(&fill, source, error);
	}
	if (r == 0)
		r = run_jobs(&fill, error);
	fill_deinit(&fill);
	return r;
}

int checkpoint_fill_objects(struct checkpoint *checkpoint, struct error *error)
{
	static const struct {
		enum image_type type;
		enum image_pages_kind kind;
	} kinds[] = { { IMAGE_SHARED_MEMORY, IMAGE_PAGES_SHARED }, { IMAGE_GHOST_FILE, IMAGE_PAGES_GHOST } };
	const struct image_set *images = image_directory_set(checkpoint->directory);
	struct fill fill = { .checkpoint = checkpoint, .lock = PTHREAD_MUTEX_INITIALIZER };
	const struct image_record *record;
	int r = 0;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t cursor = 0;

		while (r == 0 && (record = image_set_next(images, kinds[i].type, IMAGE_ANY, &cursor))) {
			_cleanup_message_ SharedMemory *memory = NULL;
			struct source *source = NULL;
			uint32_t id = record->id;

			if (kinds[i].type == IMAGE_SHARED_MEMORY) {
				r = image_unpack(record, shared_memory, &memory, error);
				id = r == 0 ? memory->id : 0;
			}
			if (r == 0)
				r = add_source(&fill, kinds[i].kind, id, NULL, &source, error);
			if (r == 0 && source)
				r = add_jobs(&fill, source, error);
		}
	}
	if (r == 0)
		r = run_jobs(&fill, error);
	fill_deinit(&fill);
	return r;
}
