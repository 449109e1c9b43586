/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sending pages. Jobs are cut into runs of up to 64 pages; each bulk stream has a worker that takes the next run, reads it
 * from the process (which may be running), looks at each page, and sends what it is: content, zeros, or the hash of
 * content that the target has at another place. One stream needs no thread: its worker is the caller.
 *
 * What the target may have already is found by a quick hash (xxh3) in a table of pages sent; it goes out as SHA-256, and
 * the target compares before it uses its copy. A page that was rewritten meanwhile is rejected by the target and comes
 * with the next round. A table entry is only used by the stream that made it, or in a later round: otherwise the copy may
 * not be there yet.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "source.h"
#include "util/fdio.h"
#include "wire.pb-c.h"

#define PAGE UINT64_C(4096)
#define DEDUP_SLOTS (1u << 18) /* 6 MiB: pages of the last GiB sent */

struct dedup_slot {
	uint64_t hash; /* xxh3; 0: empty */
	uint64_t address;
	uint32_t pid;
	uint16_t stream; /* that sent it */
	uint16_t round;
};

struct dedup {
	struct dedup_slot slots[DEDUP_SLOTS];
};

struct dedup *dedup_new(void)
{
	return calloc(1, sizeof(struct dedup));
}

void dedup_free(struct dedup *dedup)
{
	free(dedup);
}

struct work {
	struct source *source;
	const struct source_jobs *jobs;
	size_t job;         /* next job, and */
	uint64_t done;      /* pages of it that are taken; both under source->lock */
	bool may_hash;
	int64_t deadline;
	int failed;         /* first error; under source->lock */
	struct error error; /* its text */
};

struct worker {
	struct work *work;
	uint16_t index; /* of its stream */
	pthread_t thread;
	uint8_t data[WIRE_RUN_PAGES_MAX * WIRE_PAGE];
};

/* Takes the next run; false when there is none. */
static bool take(struct work *work, struct source_job *ret)
{
	bool found = false;

	pthread_mutex_lock(&work->source->lock);
	while (!found && !work->failed && work->job < work->jobs->list.count) {
		const struct source_job *job = &work->jobs->list.items[work->job];
		uint64_t left = job->pages - work->done;

		if (!left) {
			work->job++;
			work->done = 0;
			continue;
		}
		*ret = *job;
		ret->address += work->done * PAGE;
		ret->pages = left < WIRE_RUN_PAGES_MAX ? left : WIRE_RUN_PAGES_MAX;
		work->done += ret->pages;
		work->source->watch.pages_done += job->zero ? 0 : ret->pages;
		work->source->watch.pages_taken += job->zero ? 0 : ret->pages;
		found = true;
	}
	pthread_mutex_unlock(&work->source->lock);
	return found;
}

/*
 * process_vm_readv(2) pins what it reads, and before a page is pinned that is shared with another process since a fork,
 * the kernel makes a copy: to read the tree's memory would cost the source as much again.
 */
static bool is_unshared(const struct source_memory *memory, uint64_t address, uint64_t pages)
{
	uint64_t entries[WIRE_RUN_PAGES_MAX];

	if (!memory->may_share)
		return true;
	if (fdio_pread(memory->map_fd, entries, pages * 8, address / PAGE * 8) != (ssize_t)(pages * 8))
		return false;
	for (uint64_t i = 0; i < pages; i++)
		if (!(entries[i] & SOURCE_PM_EXCLUSIVE))
			return false;
	return true;
}

int pages_read(const struct source_memory *memory, uint64_t address, uint64_t pages, uint8_t *data)
{
	struct iovec local = { .iov_base = data, .iov_len = pages * PAGE };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)address, .iov_len = pages * PAGE };

	if (is_unshared(memory, address, pages) &&
	    process_vm_readv(memory->pid, &local, 1, &remote, 1, 0) == (ssize_t)(pages * PAGE))
		return 0;
	/* Half as fast, but it does not pin, and reads PROT_NONE as well. */
	return fdio_pread(memory->mem_fd, data, pages * PAGE, address) == (ssize_t)(pages * PAGE) ? 0 : -EFAULT;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static int send_run(struct worker *worker, const struct source_job *job, uint64_t first, uint64_t count, uint32_t kind,
		    const void *data)
{
	struct wire_pages_header header = {
		.pid = (uint32_t)job->pid,
		.shared = job->shared,
		.address = job->address + first * PAGE,
		.pages = (uint32_t)count,
		.kind = kind,
	};

	if (!count)
		return 0;
	return worker->work->source->destination->pages(worker->work->source, worker->index, &header, data,
							worker->work->deadline, &worker->work->error);
}

/* True if the page went into `ret` as a copy of one that the target has. Notes it for later ones otherwise. */
static bool find_copy(struct worker *worker, const struct source_job *job, uint64_t address, const uint8_t *page,
		      struct wire_page_copy *ret)
{
	struct source *source = worker->work->source;
	uint64_t hash = XXH3_64bits(page, PAGE) | 1;
	struct dedup_slot *slot = &source->dedup->slots[hash >> 8 & (DEDUP_SLOTS - 1)];
	bool found;

	pthread_mutex_lock(&source->lock);
	found = slot->hash == hash && (slot->stream == worker->index || slot->round != (uint16_t)source->round);
	*ret = (struct wire_page_copy){ .address = slot->address, .pid = slot->pid };
	if (!found)
		*slot = (struct dedup_slot){ .hash = hash, .address = address, .pid = (uint32_t)job->pid,
					     .stream = worker->index, .round = (uint16_t)source->round };
	pthread_mutex_unlock(&source->lock);
	return found && wire_hash(page, PAGE, ret->hash) == 0;
}

/* What the counts and the set of held pages learn from a run that was sent. */
struct tally {
	uint64_t sent, zero, copies, resent;
};

static int account(struct source *source, const struct source_job *job, struct source_memory *memory,
		   const struct tally *tally)
{
	int r = 0;

	pthread_mutex_lock(&source->lock);
	source->summary->pages_sent += tally->sent;
	source->summary->pages_zero += tally->zero;
	source->summary->pages_deduplicated += tally->copies;
	source->summary->pages_resent += tally->resent;
	if (memory) {
		for (uint64_t i = 0; i < job->pages; i++)
			source->summary->pages_resent += pageset_has(&memory->held, job->address / PAGE + i);
		r = pageset_add(&memory->held, job->address / PAGE, job->pages);
	}
	pthread_mutex_unlock(&source->lock);
	return r;
}

/* Sends the pages in worker->data, neighbours of one kind together. */
static int send_pages(struct worker *worker, const struct source_job *job, struct source_memory *memory)
{
	struct tally tally = { 0 };
	uint64_t first = 0;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < job->pages; i++) {
		const uint8_t *page = worker->data + i * PAGE;
		struct wire_page_copy copy;
		bool zero = is_zero(page);

		if (!zero && (!worker->work->may_hash || !memory ||
			      !find_copy(worker, job, job->address + i * PAGE, page, &copy)))
			continue;
		r = send_run(worker, job, first, i - first, WIRE_PAGES_DATA, worker->data + first * PAGE);
		tally.sent += i - first;
		tally.zero += zero;
		tally.copies += !zero;
		if (r == 0)
			r = send_run(worker, job, i, 1, zero ? WIRE_PAGES_ZERO : WIRE_PAGES_HASH, zero ? NULL : &copy);
		first = i + 1;
	}
	if (r == 0 && first < job->pages) {
		r = send_run(worker, job, first, job->pages - first, WIRE_PAGES_DATA, worker->data + first * PAGE);
		tally.sent += job->pages - first;
	}
	return r < 0 ? r : account(worker->work->source, job, memory, &tally);
}

/* Zero pages are sent only where the target has something else. */
static int send_zero(struct worker *worker, const struct source_job *job, struct source_memory *memory)
{
	uint64_t page = job->address / PAGE, end = page + job->pages;
	int r = 0;

	while (r == 0 && page < end) {
		uint64_t found, n;

		pthread_mutex_lock(&worker->work->source->lock);
		n = pageset_next(&memory->held, page, WIRE_RUN_PAGES_MAX, &found);
		pthread_mutex_unlock(&worker->work->source->lock);
		if (!n || found >= end)
			break;
		if (n > end - found)
			n = end - found;
		r = send_run(worker, job, found - job->address / PAGE, n, WIRE_PAGES_ZERO, NULL);
		page = found + n;
	}
	return r;
}

/* A page of zeros that is a hole on the target, too, is not sent. */
enum object_part {
	OBJECT_NOTHING,
	OBJECT_ZERO = WIRE_PAGES_ZERO,
	OBJECT_DATA = WIRE_PAGES_DATA,
};

static enum object_part object_part(struct worker *worker, const struct source_job *job, uint64_t index, struct tally *tally)
{
	const uint8_t *page = job->zero ? NULL : worker->data + index * PAGE;
	bool zero = !page || is_zero(page);
	bool held = objects_note(worker->work->source, job->shared, job->address + index * PAGE, page, zero);

	tally->sent += !zero;
	tally->zero += zero;
	tally->resent += held && !zero;
	return !zero ? OBJECT_DATA : held ? OBJECT_ZERO : OBJECT_NOTHING;
}

static int send_object(struct worker *worker, const struct source_job *job)
{
	struct source *source = worker->work->source;
	enum object_part part = OBJECT_NOTHING;
	struct tally tally = { 0 };
	uint64_t first = 0;
	int r = job->zero ? 0 : objects_read(source, job, worker->data);

	if (r < 0)
		return error_set_errno(&worker->work->error, r, "cannot read shared memory");
	for (uint64_t i = 0; r == 0 && i <= job->pages; i++) {
		enum object_part next = OBJECT_NOTHING;

		if (i < job->pages)
			next = object_part(worker, job, i, &tally);
		if (i < job->pages && next == part)
			continue;
		if (part != OBJECT_NOTHING)
			r = send_run(worker, job, first, i - first, part, worker->data + first * PAGE);
		first = i;
		part = next;
	}
	return r < 0 ? r : account(source, job, NULL, &tally);
}

static int send_job(struct worker *worker, const struct source_job *job)
{
	struct source *source = worker->work->source;
	struct source_memory *memory = job->pid ? memory_find(source, job->pid) : NULL;
	int r;

	if (!job->pid)
		return send_object(worker, job);
	if (job->zero)
		return memory ? send_zero(worker, job, memory) : 0;
	r = memory ? pages_read(memory, job->address, job->pages, worker->data) : -ESRCH;
	if (r == 0)
		return send_pages(worker, job, memory);
	/* No next round will tell what this was. */
	if (job->pages == 1 && source->stopped)
		return error_set(&worker->work->error, -EIO, "the page at 0x%llx of PID %d cannot be read",
				 (unsigned long long)job->address, job->pid);
	/* Unmapped, or made a guard, since the scan: the next round knows. Around a hole there may be pages. */
	for (uint64_t i = 0; job->pages > 1 && i < job->pages; i++) {
		const struct source_job one = { .pid = job->pid, .address = job->address + i * PAGE, .pages = 1 };

		r = send_job(worker, &one);
		if (r < 0)
			return r;
	}
	return 0;
}

static void *worker_run(void *data)
{
	struct worker *worker = data;
	struct work *work = worker->work;
	struct source_job job;

	while (take(work, &job)) {
		int r = send_job(worker, &job);

		if (r == 0)
			continue;
		pthread_mutex_lock(&work->source->lock);
		if (!work->failed)
			work->failed = r;
		pthread_mutex_unlock(&work->source->lock);
	}
	return NULL;
}

int pages_send(struct source *source, const struct source_jobs *jobs, bool may_hash, int64_t deadline,
	       struct error *error)
{
	struct work work = { .source = source, .jobs = jobs, .may_hash = may_hash && source->dedup, .deadline = deadline };
	struct worker *workers = calloc(source->bulk_count, sizeof(*workers));
	uint32_t started = 1;

	if (!workers)
		return error_set(error, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < source->bulk_count; i++) {
		workers[i].work = &work;
		workers[i].index = (uint16_t)i;
	}
	/* A few pages are not worth a thread. */
	while (started < source->bulk_count && jobs->pages > 1024 &&
	       pthread_create(&workers[started].thread, NULL, worker_run, &workers[started]) == 0)
		started++;
	worker_run(&workers[0]);
	for (uint32_t i = 1; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	free(workers);
	if (work.failed)
		return error_set(error, work.failed, "%s", error_text(&work.error, work.failed));
	return 0;
}
