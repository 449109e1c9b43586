/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages into processes, the list of faults that wait, and how long they waited.
 *
 * A run of pages goes in slices; for each slice the lock is held for reading, all spaces of the source process are
 * looked up, and what they still miss is put in. Several threads may do so with the same pages: the kernel lets one win
 * (EEXIST).
 *
 * When the kernel says EAGAIN, an event of that process waits to be read: the lock is let go so that the fault thread
 * can read it, and the slice is tried again; what is in already is skipped then, since its bits are clear.
 */
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "private.h"

#define RETRY_SPINS 64
#define RETRY_SLEEP_US 50

/* ---- latencies: values below 16 us each have a bucket, then 8 to each power of two. */

static unsigned bucket_of(uint64_t us)
{
	unsigned log, bucket;

	if (us < 16)
		return (unsigned)us;
	log = 63 - (unsigned)__builtin_clzll(us);
	bucket = 16 + (log - 4) * 8 + ((us >> (log - 3)) & 7);
	return bucket < LAZY_HISTOGRAM ? bucket : LAZY_HISTOGRAM - 1;
}

/* Middle of a bucket. */
static uint64_t bucket_value(unsigned bucket)
{
	unsigned log;

	if (bucket < 16)
		return bucket;
	log = 4 + (bucket - 16) / 8;
	return ((UINT64_C(8) + (bucket - 16) % 8) << (log - 3)) + (UINT64_C(1) << (log - 3)) / 2;
}

static void count_latency(struct lazy *lazy, uint64_t us)
{
	uint64_t longest = atomic_load(&lazy->longest_us);

	atomic_fetch_add(&lazy->histogram[bucket_of(us)], 1);
	while (us > longest && !atomic_compare_exchange_weak(&lazy->longest_us, &longest, us))
		;
}

static uint64_t percentile(struct lazy *lazy, uint64_t total, unsigned percent)
{
	uint64_t rank = (total * percent + 99) / 100, seen = 0;

	for (unsigned i = 0; i < LAZY_HISTOGRAM && total > 0; i++) {
		seen += atomic_load(&lazy->histogram[i]);
		if (seen >= rank)
			return bucket_value(i);
	}
	return 0;
}

void lazy_statistics(struct lazy *lazy, struct lazy_statistics *ret)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < LAZY_HISTOGRAM; i++)
		total += atomic_load(&lazy->histogram[i]);
	pthread_rwlock_rdlock(&lazy->lock);
	ret->missing_left = lazy_missing(lazy);
	pthread_rwlock_unlock(&lazy->lock);
	ret->installed = atomic_load(&lazy->installed);
	ret->faults = atomic_load(&lazy->faults);
	ret->zero_filled = atomic_load(&lazy->zero_filled);
	ret->p50_us = percentile(lazy, total, 50);
	ret->p99_us = percentile(lazy, total, 99);
	ret->longest_us = atomic_load(&lazy->longest_us);
}

/* ---- who waits */

int lazy_waiting_add(struct lazy *lazy, const struct lazy_space *space, uint64_t target, uint64_t source)
{
	struct lazy_waiting waiting = {
		.space = space->id,
		.pid = space->source_pid,
		.target = target,
		.source = source,
		.since = clock_now_ns(),
	};
	int r = 0;

	pthread_mutex_lock(&lazy->waiting_lock);
	array_for_each(other, &lazy->waiting) {
		if (other->space == space->id && other->target == target) {
			pthread_mutex_unlock(&lazy->waiting_lock);
			return 0;
		}
	}
	r = array_append(&lazy->waiting, waiting);
	atomic_store(&lazy->waiting_count, lazy->waiting.count);
	pthread_mutex_unlock(&lazy->waiting_lock);
	if (r == 0)
		atomic_fetch_add(&lazy->faults, 1);
	return r;
}

void lazy_waiting_end(struct lazy *lazy, const struct lazy_space *space, uint64_t target, uint64_t size, bool served)
{
	size_t kept = 0;
	int64_t now;

	if (atomic_load(&lazy->waiting_count) == 0)
		return;
	now = clock_now_ns();
	pthread_mutex_lock(&lazy->waiting_lock);
	for (size_t i = 0; i < lazy->waiting.count; i++) {
		const struct lazy_waiting *waiting = &lazy->waiting.items[i];

		if (waiting->space != space->id || waiting->target < target || waiting->target - target >= size)
			lazy->waiting.items[kept++] = *waiting;
		else if (served)
			count_latency(lazy, (uint64_t)(now - waiting->since) / 1000);
	}
	lazy->waiting.count = kept;
	atomic_store(&lazy->waiting_count, kept);
	pthread_mutex_unlock(&lazy->waiting_lock);
}

/* ---- putting in */

static void done_with(struct lazy *lazy, struct lazy_space *space, uint64_t source, uint64_t target, uint64_t pages)
{
	if (lazy_space_clear(space, source, pages))
		lazy_wake(lazy);
	lazy_waiting_end(lazy, space, target, pages * LAZY_PAGE, true);
}

/*
 * Puts up to `pages` pages, all missing and side by side, into one space. Returns how many are dealt with: there, or
 * with no place any more.
 */
static int64_t put_run(struct lazy *lazy, struct lazy_space *space, uint64_t source, const uint8_t *data,
		       uint64_t pages, struct error *error)
{
	uint64_t target, room, clear, guarded = 0;
	int64_t r;

	if (!lazy_space_locate(space, source, &target, &room)) {
		if (lazy_space_clear(space, source, 1))
			lazy_wake(lazy);
		return 1;
	}
	pages = pages < room ? pages : room;
	clear = data ? lazy_guards_look(space, target, pages, &guarded) : pages;
	if (clear == 0) {
		done_with(lazy, space, source, target, guarded);
		lazy_userfault_wake(space->uffd, target, guarded * LAZY_PAGE);
		return (int64_t)guarded;
	}
	pages = clear;
	r = lazy_guards_put(space, target, data, pages);
	if (r == -ENOENT && pages > 1) /* the run may lie across two mappings */
		r = lazy_userfault_put(space->uffd, target, data, 1);
	if (r > 0) {
		atomic_fetch_add(&lazy->installed, (uint64_t)r);
		done_with(lazy, space, source, target, (uint64_t)r);
		return r;
	}
	switch (r) {
	case -EEXIST:
	case -ENOENT:
		done_with(lazy, space, source, target, 1);
		lazy_userfault_wake(space->uffd, target, LAZY_PAGE);
		return 1;
	case -ESRCH:
		atomic_store(&space->gone, true);
		lazy_wake(lazy);
		return (int64_t)pages;
	case -EAGAIN:
		return r;
	default:
		return error_set_errno(error, (int)r, "PID %d: cannot put a page at 0x%lx", space->pid,
				       (unsigned long)target);
	}
}

static int install_space(struct lazy *lazy, struct lazy_space *space, uint64_t source, const uint8_t *data,
			 size_t pages, struct error *error)
{
	size_t page = 0;

	while (page < pages && !atomic_load(&space->gone)) {
		uint64_t address = source + page * LAZY_PAGE;
		uint64_t run = lazy_space_missing_run(space, address, pages - page);
		int64_t r;

		if (run == 0) {
			page++;
			continue;
		}
		r = put_run(lazy, space, address, data ? data + page * LAZY_PAGE : NULL, run, error);
		if (r < 0)
			return (int)r;
		page += (size_t)r;
	}
	return 0;
}

int lazy_install_slice(struct lazy *lazy, pid_t source_pid, uint64_t source, const void *data, size_t pages,
		       struct error *error)
{
	int r = 0;

	pthread_rwlock_rdlock(&lazy->lock);
	if (atomic_load(&lazy->lost))
		r = error_set(error, -ENOTRECOVERABLE, "it is not known any more where pages belong");
	for (size_t i = 0; r == 0 && i < lazy->spaces.count; i++) {
		struct lazy_space *space = lazy->spaces.items[i];

		if (space->source_pid == source_pid && !atomic_load(&space->gone))
			r = install_space(lazy, space, source, data, pages, error);
	}
	pthread_rwlock_unlock(&lazy->lock);
	return r;
}

int lazy_install(struct lazy *lazy, pid_t source_pid, uint64_t source_address, const void *data, size_t pages,
		 struct error *error)
{
	const uint8_t *from = data;
	unsigned tries = 0;

	if (source_address % LAZY_PAGE)
		return error_set(error, -EINVAL, "0x%lx is not the address of a page", (unsigned long)source_address);
	while (pages > 0) {
		size_t slice = pages < LAZY_SLICE_PAGES ? pages : LAZY_SLICE_PAGES;
		int r = lazy_install_slice(lazy, source_pid, source_address, from, slice, error);

		if (r == -EAGAIN) {
			if (tries++ < RETRY_SPINS)
				sched_yield();
			else
				usleep(RETRY_SLEEP_US);
			continue;
		}
		if (r < 0)
			return r;
		tries = 0;
		pages -= slice;
		source_address += slice * LAZY_PAGE;
		if (from)
			from += slice * LAZY_PAGE;
	}
	return 0;
}
