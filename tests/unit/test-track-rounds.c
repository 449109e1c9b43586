/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whole pre-copies with the pagemap-scan tracker: a writer goes on, rounds copy what was reported, and in the end the
 * copy must equal the original. Also: what a scan costs, and that nothing is left when tracking ends.
 */
#include "test-track-child.h"

#include <time.h>

#include "tracee/tracee.h"
#include "util/array.h"

#define CONTENT (TRACK_WRITTEN | TRACK_PRESENT)
#define PAGES   16384UL
#define SIZE    (PAGES * PAGE)

/* Shared by writer and test. */
struct shared {
	volatile uint64_t stop;            /* set: the writer answers */
	volatile uint64_t counters[PAGES]; /* writes begun to each page */
};

static struct shared *shared;

static int setup(void **state)
{
	static struct child child;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	child = child_start();
	*state = &child;
	return 0;
}

static int teardown(void **state)
{
	child_end(*state);
	munmap(shared, sizeof(*shared));
	return 0;
}

static uint64_t next_random(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random;
}

/* Writes at random until told to stop, now and then drops a page, or puts a new mapping over some. */
static uint64_t do_random(uint64_t at, uint64_t with_drops, uint64_t with_maps)
{
	uint64_t random = 88172645463325252u, writes = 0;

	while (!shared->stop) {
		uint64_t page = next_random(&random) % PAGES, what = next_random(&random) % 1024;
		uint64_t *word = (uint64_t *)(at + page * PAGE) + next_random(&random) % 512;

		if (with_drops && what == 0) {
			madvise((void *)(at + page * PAGE), PAGE, MADV_DONTNEED);
			continue;
		}
		if (with_maps && what == 1 && page < PAGES - 8) {
			do_map(at + page * PAGE, 8 * PAGE, 0);
			continue;
		}
		__atomic_fetch_add(&shared->counters[page], 1, __ATOMIC_SEQ_CST);
		*(volatile uint64_t *)word = random;
		writes++;
	}
	return writes;
}

static void copy_run(struct child *child, uint64_t at, const struct track_run *run, uint8_t *copy)
{
	struct iovec local = { .iov_base = copy + (run->start - at), .iov_len = run->pages * PAGE };
	struct iovec remote = { .iov_base = (void *)run->start, .iov_len = run->pages * PAGE };

	if (run->flags & TRACK_ZERO)
		memset(local.iov_base, 0, local.iov_len);
	else
		assert_int_equal(process_vm_readv(child->pid, &local, 1, &remote, 1, 0), (ssize_t)local.iov_len);
}

static void copy_runs(struct child *child, uint64_t at, const struct track_runs *runs, uint8_t *copy)
{
	for (size_t i = 0; i < runs->count; i++)
		if (runs->items[i].flags & TRACK_WRITTEN)
			copy_run(child, at, &runs->items[i], copy);
}

/* What is absent reads as zeros. */
static void drop_absent(uint64_t at, const struct track_runs *absent, uint8_t *copy)
{
	for (size_t i = 0; i < absent->count; i++)
		memset(copy + (absent->items[i].start - at), 0, absent->items[i].pages * PAGE);
}

static void assert_copy(struct child *child, uint64_t at, const uint8_t *copy)
{
	uint8_t *now = malloc(SIZE);
	struct track_run all = { .start = at, .pages = PAGES };

	copy_run(child, at, &all, now);
	for (uint64_t page = 0; page < PAGES; page++)
		if (memcmp(now + page * PAGE, copy + page * PAGE, PAGE) != 0)
			fail_msg("page %lu differs", (unsigned long)page);
	free(now);
}

static void precopy(struct child *child, uint64_t with_drops, uint64_t with_maps)
{
	struct track_runs runs = { 0 };
	uint8_t *copy = calloc(PAGES, PAGE);
	uint64_t at = child_call(child, do_map, 0, SIZE, 0), reported = 0, writes, last;
	int round;

	child_begin(child, do_random, at, with_drops, with_maps);
	for (round = 0; round < 40; round++) {
		/* Reading a range whose mapping is just being replaced may fail; a round that does is given up. */
		child_round(child, at, SIZE, &runs);
		reported += track_runs_pages(&runs, CONTENT);
		copy_runs(child, at, &runs, copy);
		usleep(1000 * (round % 5));
	}
	shared->stop = 1;
	writes = child_answer(child);
	child_update(child);
	child_scan(child, at, SIZE, 0, &runs);
	last = track_runs_pages(&runs, CONTENT);
	copy_runs(child, at, &runs, copy);
	child_absent(child, at, SIZE, &runs);
	drop_absent(at, &runs, copy);
	assert_copy(child, at, copy);
	print_message("%lu writes to %lu pages, %d rounds reported %lu, the last %lu\n", (unsigned long)writes, PAGES,
		      round, (unsigned long)reported, (unsigned long)last);
	track_runs_deinit(&runs);
	free(copy);
}

static void test_precopy(void **state)
{
	child_track(*state);
	precopy(*state, 0, 0);
}

static void test_precopy_with_drops(void **state)
{
	child_track(*state);
	precopy(*state, 1, 0);
}

/* Here a copy of a page may fail with the page being unmapped for an instant: MAP_FIXED replaces in one step. */
static void test_precopy_with_new_mappings(void **state)
{
	child_track(*state);
	precopy(*state, 1, 1);
}

/* No page is reported that was not written since the scan before. */
static void test_nothing_else(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };
	uint64_t *before = calloc(PAGES, sizeof(*before)), *after = calloc(PAGES, sizeof(*after));
	uint64_t at = child_call(child, do_map, 0, SIZE, 0);

	child_call(child, do_write, at, PAGES, 1);
	child_track(child);
	child_round(child, at, SIZE, &runs);
	child_begin(child, do_random, at, 0, 0);
	for (int round = 0; round < 50; round++) {
		for (uint64_t page = 0; page < PAGES; page++)
			after[page] = shared->counters[page];
		child_round(child, at, SIZE, &runs);
		/* The writer counts first: one write may have been counted before the last scan and done after it. */
		for (uint64_t page = 0, early = 0; page < PAGES; page++)
			if (runs_flags(&runs, at + page * PAGE) && shared->counters[page] == before[page] && early++)
				fail_msg("round %d: page %lu was not written", round, (unsigned long)page);
		memcpy(before, after, PAGES * sizeof(*before));
		if (round == 10)
			break;
	}
	shared->stop = 1;
	child_answer(child);
	track_runs_deinit(&runs);
	free(before);
	free(after);
}

static uint64_t do_neighbours(uint64_t at, uint64_t b, uint64_t c)
{
	(void)b, (void)c;
	for (int i = 0; i < 8; i++)
		do_map(at + (uint64_t)i * 4 * PAGE, 4 * PAGE, 0);
	return at;
}

static void test_stop_leaves_no_trace(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };
	uint64_t at = child_call(child, do_map, 0, SIZE, 0);
	char *before, *after;

	/* A hole for mappings to come. */
	child_call(child, do_unmap, at + 64 * PAGE, 64 * PAGE, 0);
	child_call(child, do_write, at, 64, 1);
	child_call(child, do_protect, at + 8 * PAGE, 8 * PAGE, PROT_READ);
	before = child_maps(child);
	child_track(child);
	child_round(child, at, 64 * PAGE, &runs);
	after = child_maps(child);
	assert_string_equal(before, after);
	free(before);
	free(after);
	track_stop(child->track);
	child->track = NULL;

	/* The same new neighbours with and without tracking. */
	child_call(child, do_neighbours, at + 64 * PAGE, 0, 0);
	before = child_maps(child);
	child_call(child, do_unmap, at + 64 * PAGE, 64 * PAGE, 0);
	child_track(child);
	child_round(child, at, SIZE, &runs);
	child_call(child, do_neighbours, at + 64 * PAGE, 0, 0);
	child_round(child, at, SIZE, &runs);
	track_stop(child->track);
	child->track = NULL;
	after = child_maps(child);
	assert_string_equal(before, after);
	free(before);
	free(after);
	track_runs_deinit(&runs);
}

/* Through a stop of one thread, as the migration does it. */
static void test_start(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };
	struct tracee_process *process;
	struct error error = ERROR_INIT;
	uint64_t at = child_call(child, do_map, 0, SIZE, 0);
	char *before = child_maps(child), *after, path[64];
	int64_t start = clock_now_ns();

	child_call(child, do_write, at, 10, 1);
	if (tracee_process_stop(child->pid, NULL, clock_deadline(5 * CLOCK_S), &process, &error) < 0)
		fail_msg("%s", error.message);
	if (track_start(process, TRACK_PAGEMAP_SCAN, &child->track, &error) < 0)
		fail_msg("%s", error.message);
	tracee_process_release(process);
	print_message("stop, take the userfaultfd, release: %ld us\n", (long)(clock_now_ns() - start) / 1000);
	after = child_maps(child);
	assert_string_equal(before, after);
	/* No descriptor of ours is left. */
	for (int fd = 0; fd < 64; fd++) {
		char target[64];

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", child->pid, fd);
		if (fdio_readlink(AT_FDCWD, path, target, sizeof(target)) == 0)
			assert_null(strstr(target, "userfaultfd"));
	}
	child_round(child, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 10);
	child_call(child, do_write, at + 5 * PAGE, 1, 1);
	child_round(child, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 1);
	track_runs_deinit(&runs);
	free(before);
	free(after);
}

static void timed_scan(struct child *child, uint64_t at, uint64_t size, unsigned int flags, const char *what)
{
	struct track_runs runs = { 0 };
	int64_t start = clock_now_ns();

	child_scan(child, at, size, flags, &runs);
	print_message("  %-36s %6ld us, %lu pages in %lu runs\n", what, (long)(clock_now_ns() - start) / 1000,
		      (unsigned long)track_runs_pages(&runs, 0), (unsigned long)runs.count);
	track_runs_deinit(&runs);
}

static void timed_absent(struct child *child, uint64_t at, uint64_t size)
{
	struct track_runs runs = { 0 };
	struct error error = ERROR_INIT;
	int64_t start = clock_now_ns();

	assert_int_equal(track_absent(child->track, at, at + size, &runs, &error), 0);
	print_message("  %-36s %6ld us\n", "absent", (long)(clock_now_ns() - start) / 1000);
	assert_int_equal(runs.count, 0);
	track_runs_deinit(&runs);
}

static void test_times(void **state)
{
	struct child *child = *state;
	uint64_t size = 256 << 20, pages = size / PAGE, at = child_call(child, do_map, 0, size, 0);
	int64_t start;

	child_call(child, do_write, at, pages, 1);
	child_track(child);
	start = clock_now_ns();
	child_update(child);
	print_message("256 MiB of 4 KiB pages:\n  %-36s %6ld us\n", "first update, with reading of maps",
		      (long)(clock_now_ns() - start) / 1000);
	timed_scan(child, at, size, TRACK_PROTECT, "protect, all new");
	start = clock_now_ns();
	child_update(child);
	print_message("  %-36s %6ld us\n", "next update, likewise", (long)(clock_now_ns() - start) / 1000);
	timed_scan(child, at, size, TRACK_PROTECT, "protect, clean");
	timed_scan(child, at, size, 0, "look, clean");
	timed_absent(child, at, size);
	timed_scan(child, at, size, TRACK_ALL, "all, clean");
	start = clock_now_ns();
	child_call(child, do_write, at, pages, 1);
	print_message("  %-36s %6ld ns\n", "a first write to a page", (long)(clock_now_ns() - start) / (long)pages);
	timed_scan(child, at, size, TRACK_PROTECT, "protect, all written");
	child_call(child, do_write, at, pages / 10, 10);
	timed_scan(child, at, size, TRACK_ALL, "all, every tenth written");
	timed_scan(child, at, size, TRACK_PROTECT, "protect, every tenth written");
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_precopy),
		CASE(test_precopy_with_drops),
		CASE(test_precopy_with_new_mappings),
		CASE(test_nothing_else),
		CASE(test_stop_leaves_no_trace),
		CASE(test_start),
		CASE(test_times),
	};
	enum track_kind kind;

	if (track_probe(&kind, NULL) < 0 || kind != TRACK_PAGEMAP_SCAN) {
		printf("1..0 # SKIP this kernel has no asynchronous write protection with PAGEMAP_SCAN\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
