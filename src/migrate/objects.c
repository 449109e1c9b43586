/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content that is not pages of a process: shared memory objects and deleted files. It is written through any number of
 * mappings, of processes that come and go between two looks, and through write(2), which no tracker sees. So for each page
 * that was sent its hash is kept, and a page is dirty when it hashes differently now: one pass over the memory, at some
 * 10 GB/s, in place of a send.
 *
 * Model. An object is cut into chunks of 512 pages; a chunk is there when the object had data in it at some look. A page of
 * it is a hole on the target that nothing is known of, a hole there because it is zeros here, or has the content whose
 * hash is kept. Whatever is sent is hashed from the very bytes that go out: a page that is written while it is read is
 * found different by the next look. Size, here and there, is what the object's record of the round says; bytes behind it
 * count as zeros on both sides. Holes are never read.
 *
 * Happy path: objects_scan() after the layout of a round, by several threads; the jobs go to pages_send(), which calls
 * objects_read() and objects_note() for each page. The last scan is the one of the stopped tree: its jobs are what is left.
 *
 * The hash (XXH3, 128 bits) is keyed with random bytes, so that nobody can choose two contents that look alike; it never
 * leaves this process.
 *
 * Failure modes: no memory; an object that cannot be read.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "dump/shared-memory.h"
#include "source.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGE UINT64_C(4096)
#define CHUNK_PAGES 512u
#define CHUNK (CHUNK_PAGES * PAGE)
#define READ_PAGES 32u /* at a time: they stay in the cache between the copy and the hash */
#define THREADS_MAX 8
#define CHUNKS_A_THREAD 4 /* fewer are not worth one */

enum page_state {
	PAGE_UNKNOWN = 0, /* a hole on the target */
	PAGE_ZERO,        /* the same, and zeros here */
	PAGE_CONTENT,     /* the target has what `hash` is of */
};

enum page_verdict {
	VERDICT_SAME = 0,
	VERDICT_DIRTY,
	VERDICT_GONE, /* a hole here, content there */
};

struct object_chunk {
	uint64_t key;                 /* offset / CHUNK */
	XXH128_hash_t hash[CHUNK_PAGES];
	uint8_t state[CHUNK_PAGES];   /* enum page_state */
	uint8_t verdict[CHUNK_PAGES]; /* enum page_verdict, of the present scan */
};

struct object {
	ARRAY(struct object_chunk *) chunks; /* owned; by key */
};

struct objects {
	ARRAY(struct object) list;       /* by id - 1 */
	uint8_t secret[XXH3_SECRET_SIZE_MIN]; /* key of the hashes */
	XXH128_hash_t zero;              /* of a page of zeros */
};

/* A chunk to be looked at. */
struct task {
	const struct dump_shared_object *object;
	struct object_chunk *chunk;
};

struct scan {
	const struct objects *objects;
	ARRAY(struct task) tasks;
	atomic_size_t next;  /* index of the next task */
	_Atomic int failed;  /* first error */
};

static XXH128_hash_t hash_page(const struct objects *objects, const uint8_t *page)
{
	return XXH3_128bits_withSecret(page, PAGE, objects->secret, sizeof(objects->secret));
}

static void object_clear(struct object *object)
{
	array_for_each(chunk, &object->chunks)
		free(*chunk);
	array_deinit(&object->chunks);
}

void objects_free(struct objects *objects)
{
	if (!objects)
		return;
	array_for_each(object, &objects->list)
		object_clear(object);
	array_deinit(&objects->list);
	free(objects);
}

static int objects_new(struct objects **ret, struct error *error)
{
	static const uint8_t zeros[PAGE];
	struct objects *objects = calloc(1, sizeof(*objects));
	int r;

	if (!objects)
		return error_set(error, -ENOMEM, "out of memory");
	r = wire_random(objects->secret, sizeof(objects->secret), error);
	if (r < 0) {
		free(objects);
		return r;
	}
	objects->zero = hash_page(objects, zeros);
	*ret = objects;
	return 0;
}

/* Index of the first chunk with that key or a higher one. */
static size_t chunk_place(const struct object *object, uint64_t key)
{
	size_t low = 0, high = object->chunks.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (object->chunks.items[middle]->key < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int chunk_make(struct object *object, uint64_t key)
{
	size_t place = chunk_place(object, key);
	struct object_chunk *chunk;

	if (place < object->chunks.count && object->chunks.items[place]->key == key)
		return 0;
	chunk = calloc(1, sizeof(*chunk));
	if (!chunk || array_append(&object->chunks, chunk) < 0) {
		free(chunk);
		return -ENOMEM;
	}
	memmove(&object->chunks.items[place + 1], &object->chunks.items[place],
		(object->chunks.count - 1 - place) * sizeof(chunk));
	object->chunks.items[place] = chunk;
	chunk->key = key;
	return 0;
}

/* The target cuts the object to its size, too. */
static void object_cut(struct object *object, uint64_t size)
{
	uint64_t pages = (size + PAGE - 1) / PAGE;

	while (object->chunks.count) {
		struct object_chunk *last = object->chunks.items[object->chunks.count - 1];
		uint64_t first = last->key * CHUNK_PAGES;

		if (first < pages) {
			if (pages - first < CHUNK_PAGES)
				memset(last->state + (pages - first), PAGE_UNKNOWN, CHUNK_PAGES - (pages - first));
			return;
		}
		free(last);
		object->chunks.count--;
	}
}

/* Whole pages; what lies behind the end is zeros. */
static int read_object(const struct dump_shared_object *from, uint64_t offset, uint64_t pages, uint8_t *data)
{
	uint64_t size = pages * PAGE, inside = offset < from->size ? from->size - offset : 0;
	ssize_t got = fdio_pread(from->fd, data, inside < size ? inside : size, offset);

	if (got < 0)
		return (int)got;
	memset(data + got, 0, size - (size_t)got);
	if (from->tail && inside <= size && inside)
		memcpy(data + inside - PAGE, from->tail, PAGE);
	return 0;
}

/* The first data at or behind `at`; -ENXIO: there is none. A file system that cannot tell has data everywhere. */
static int seek_data(int fd, uint64_t at, uint64_t *ret)
{
	off_t found = lseek(fd, (off_t)at, SEEK_DATA);

	if (found < 0 && errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	*ret = found < 0 ? at : (uint64_t)found;
	return 0;
}

/* What a thread has found last: data from `start` to `end` of the object with that id. */
struct extent {
	uint32_t id;
	uint64_t start, end;
};

/*
 * Which pages of a chunk have data: sets them to true. SEEK_HOLE looks up to the next hole, however far that is, so what it
 * found is used for the chunks that follow. A page that has become a hole since reads as zeros.
 */
static int find_data(const struct task *task, struct extent *found, bool data[CHUNK_PAGES])
{
	uint64_t start = task->chunk->key * CHUNK, end = start + CHUNK;
	int fd = task->object->fd;

	if (end > task->object->size)
		end = task->object->size;
	for (uint64_t at = start; at < end;) {
		uint64_t first = at;

		if (found->id != task->object->id || at < found->start || at >= found->end) {
			off_t hole;
			int r = seek_data(fd, at, &first);

			if (r < 0)
				return r == -ENXIO ? 0 : r;
			hole = lseek(fd, (off_t)first, SEEK_HOLE);
			*found = (struct extent){ .id = task->object->id, .start = first,
						  .end = hole > (off_t)first ? (uint64_t)hole : task->object->size };
		}
		at = found->end < end ? found->end : end;
		for (uint64_t page = first / PAGE; page * PAGE < at; page++)
			data[page % CHUNK_PAGES] = true;
	}
	return 0;
}

static enum page_verdict judge(const struct objects *objects, const struct object_chunk *chunk, unsigned page,
			       const uint8_t *bytes)
{
	XXH128_hash_t hash = hash_page(objects, bytes);
	bool same = XXH128_isEqual(hash, chunk->state[page] == PAGE_ZERO ? objects->zero : chunk->hash[page]);

	return same ? VERDICT_SAME : VERDICT_DIRTY;
}

static int scan_chunk(const struct objects *objects, const struct task *task, struct extent *found, uint8_t *buffer)
{
	struct object_chunk *chunk = task->chunk;
	bool data[CHUNK_PAGES] = { false };
	int r = find_data(task, found, data);

	for (unsigned page = 0; r == 0 && page < CHUNK_PAGES;) {
		unsigned count = 0;

		while (page + count < CHUNK_PAGES && count < READ_PAGES && data[page + count] &&
		       chunk->state[page + count] != PAGE_UNKNOWN)
			count++;
		if (!count) {
			chunk->verdict[page] = data[page] ? VERDICT_DIRTY
							  : chunk->state[page] == PAGE_CONTENT ? VERDICT_GONE : VERDICT_SAME;
			page++;
			continue;
		}
		r = read_object(task->object, chunk->key * CHUNK + page * PAGE, count, buffer);
		for (unsigned i = 0; r == 0 && i < count; i++)
			chunk->verdict[page + i] = judge(objects, chunk, page + i, buffer + i * PAGE);
		page += count;
	}
	return r;
}

static void *scan_run(void *data)
{
	struct scan *scan = data;
	_cleanup_free_ uint8_t *buffer = malloc(READ_PAGES * PAGE);
	struct extent found = { 0 };
	size_t index;

	if (!buffer)
		scan->failed = -ENOMEM;
	while (!scan->failed && (index = atomic_fetch_add(&scan->next, 1)) < scan->tasks.count) {
		int r = scan_chunk(scan->objects, &scan->tasks.items[index], &found, buffer);

		if (r < 0)
			scan->failed = r;
	}
	return NULL;
}

/* With the tree stopped, all processors; while it runs, half of them are left to it. */
static void scan_all(struct scan *scan, bool frozen)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	size_t wanted = (size_t)(frozen ? processors : processors / 2), started = 0;
	pthread_t threads[THREADS_MAX];

	if (wanted > scan->tasks.count / CHUNKS_A_THREAD)
		wanted = scan->tasks.count / CHUNKS_A_THREAD;
	while (started + 1 < wanted && started < THREADS_MAX &&
	       pthread_create(&threads[started], NULL, scan_run, scan) == 0)
		started++;
	scan_run(scan);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

/* Chunks with data, and those that had some. */
static int list_tasks(struct scan *scan, struct object *object, const struct dump_shared_object *from)
{
	uint64_t at = 0, data = 0;
	int r = 0;

	while (at < from->size && (r = seek_data(from->fd, at, &data)) == 0 && data < from->size) {
		if (chunk_make(object, data / CHUNK) < 0)
			return -ENOMEM;
		at = (data / CHUNK + 1) * CHUNK;
	}
	if (r < 0 && r != -ENXIO)
		return r;
	array_for_each(chunk, &object->chunks) {
		struct task task = { .object = from, .chunk = *chunk };

		if (array_append(&scan->tasks, task) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* Neighbours with one verdict become one job. */
static int add_jobs(const struct scan *scan, struct source_jobs *jobs)
{
	struct source_job *last = NULL;

	array_for_each(task, &scan->tasks)
		for (unsigned page = 0; page < CHUNK_PAGES; page++) {
			enum page_verdict verdict = task->chunk->verdict[page];
			struct source_job job = { .shared = task->object->id, .pages = 1, .zero = verdict == VERDICT_GONE,
						  .address = task->chunk->key * CHUNK + page * PAGE };

			if (verdict == VERDICT_SAME)
				continue;
			jobs->pages += !job.zero;
			if (last && last->shared == job.shared && last->zero == job.zero &&
			    last->address + last->pages * PAGE == job.address) {
				last->pages++;
				continue;
			}
			if (array_append(&jobs->list, job) < 0)
				return -ENOMEM;
			last = &jobs->list.items[jobs->list.count - 1];
		}
	return 0;
}

int objects_scan(struct source *source, bool frozen, struct source_jobs *jobs, struct error *error)
{
	struct scan scan = { 0 };
	int r = source->objects ? 0 : objects_new(&source->objects, error);

	if (r < 0)
		return r;
	scan.objects = source->objects;
	for (size_t i = 0; r == 0 && i < dump_shared_count(source->dump); i++) {
		const struct dump_shared_object *from = dump_shared_get(source->dump, i);
		struct object empty = { 0 };

		if (i >= source->objects->list.count)
			r = array_append(&source->objects->list, empty);
		if (r == 0 && from->present) {
			object_cut(&source->objects->list.items[i], from->size);
			r = list_tasks(&scan, &source->objects->list.items[i], from);
		} else if (r == 0) {
			object_clear(&source->objects->list.items[i]);
		}
	}
	if (r == 0) {
		scan_all(&scan, frozen);
		r = scan.failed;
	}
	if (r == 0)
		r = add_jobs(&scan, jobs);
	array_deinit(&scan.tasks);
	return r < 0 ? error_set_errno(error, r, "cannot look at shared memory") : 0;
}

int objects_read(struct source *source, const struct source_job *job, uint8_t *data)
{
	return read_object(dump_shared_get(source->dump, job->shared - 1), job->address, job->pages, data);
}

bool objects_note(struct source *source, uint32_t id, uint64_t offset, const uint8_t *page, bool zero)
{
	const struct object *object = &source->objects->list.items[id - 1];
	struct object_chunk *chunk = object->chunks.items[chunk_place(object, offset / CHUNK)];
	unsigned index = offset / PAGE % CHUNK_PAGES;
	bool held = chunk->state[index] == PAGE_CONTENT;

	if (!zero)
		chunk->hash[index] = hash_page(source->objects, page);
	chunk->state[index] = !zero ? PAGE_CONTENT : page ? PAGE_ZERO : PAGE_UNKNOWN;
	return held;
}
