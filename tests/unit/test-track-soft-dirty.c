/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The probe, and the soft-dirty tracker: all of it where the kernel has soft-dirty bits (Debian's 6.1, say), else what
 * does not depend on them.
 */
#include "test-track-child.h"

#include "util/array.h"

#define SIZE    (64 * PAGE)
#define CONTENT (TRACK_WRITTEN | TRACK_PRESENT)

static int setup(void **state)
{
	static struct child child;
	struct error error = ERROR_INIT;

	child = child_start();
	if (track_open(child.pid, TRACK_SOFT_DIRTY, -1, &child.track, &error) < 0)
		fail_msg("%s", error.message);
	*state = &child;
	return 0;
}

static int teardown(void **state)
{
	child_end(*state);
	return 0;
}

/* The child only runs while it answers: it is stopped as far as the tracker is concerned. */
static void stopped_round(struct child *child, uint64_t at, struct track_runs *runs)
{
	struct procfs_maps maps = { 0 };
	struct error error = ERROR_INIT;

	assert_int_equal(procfs_read_maps(child->pid, &maps, &error), 0);
	if (track_update(child->track, &maps, TRACK_STOPPED, &error) < 0)
		fail_msg("%s", error.message);
	procfs_maps_deinit(&maps);
	child_scan(child, at, SIZE, TRACK_PROTECT, runs);
}

static bool has_bits(void)
{
	struct error error = ERROR_INIT;
	int r = track_probe_kind(TRACK_SOFT_DIRTY, &error);

	if (r < 0)
		print_message("%s\n", error.message);
	return r == 0;
}

static void test_probe(void **state)
{
	enum track_kind kind = (enum track_kind)-1;
	struct error error = ERROR_INIT;
	int r = track_probe(&kind, &error);

	(void)state;
	if (r < 0) {
		assert_int_equal(r, -EOPNOTSUPP);
		assert_non_null(strstr(error.message, "soft-dirty"));
		assert_non_null(strstr(error.message, "pagemap-scan"));
		return;
	}
	print_message("%s\n", track_kind_name(kind));
	assert_int_equal(track_probe_kind(kind, &error), 0);
	if (kind == TRACK_SOFT_DIRTY)
		assert_true(track_probe_kind(TRACK_PAGEMAP_SCAN, &error) < 0);
}

/* Independent of bits: the first round has all, and presence is told. */
static void test_first_round(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, SIZE, 0);

	child_call(*state, do_write, at, 10, 2);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 10);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 10);
	child_present(*state, at, SIZE, &runs);
	assert_page(&runs, at + 2 * PAGE, TRACK_PRESENT);
	child_absent(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, 0), 54);
	child_round(*state, at, SIZE, &runs);
	child_scan(*state, at, SIZE, TRACK_ALL, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), 10);
	assert_true(track_wants_stop(((struct child *)*state)->track, &(struct procfs_maps){ 0 }));
	track_runs_deinit(&runs);
}

static void test_rounds(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, SIZE, 0);

	if (!has_bits())
		skip();
	child_call(*state, do_write, at, SIZE / PAGE, 1);
	stopped_round(*state, at, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), SIZE / PAGE);
	stopped_round(*state, at, &runs);
	assert_int_equal(runs.count, 0);
	/* Without a stop the bits add up ... */
	child_call(*state, do_write, at + 3 * PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 1);
	child_call(*state, do_write, at + 5 * PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 2);
	/* ... until one clears them, which keeps what has not been reported. */
	child_call(*state, do_write, at + 7 * PAGE, 1, 1);
	stopped_round(*state, at, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 3);
	assert_page(&runs, at + 7 * PAGE, CONTENT);
	child_call(*state, do_write, at + 9 * PAGE, 1, 1);
	stopped_round(*state, at, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, at + 9 * PAGE, CONTENT);
	track_runs_deinit(&runs);
}

static void test_new_mapping(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, SIZE, 0);

	if (!has_bits())
		skip();
	child_call(*state, do_write, at, SIZE / PAGE, 1);
	stopped_round(*state, at, &runs);
	stopped_round(*state, at, &runs);
	child_call(*state, do_unmap, at + 8 * PAGE, 8 * PAGE, 0);
	child_call(*state, do_map, at + 8 * PAGE, 8 * PAGE, 0);
	child_call(*state, do_read, at + 9 * PAGE, 2, 1);
	stopped_round(*state, at, &runs);
	/* The kernel merges the new mapping with its neighbours, and then the whole of it counts as new. */
	assert_page(&runs, at + 9 * PAGE, CONTENT);
	assert_page(&runs, at + 10 * PAGE, CONTENT);
	assert_page(&runs, at + 8 * PAGE, 0);
	child_absent(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, 0), 6);
	track_runs_deinit(&runs);
}

static uint64_t do_map_program(uint64_t a, uint64_t b, uint64_t c)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	void *at = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	(void)a, (void)b, (void)c;
	close(fd);
	return (uint64_t)(uintptr_t)at;
}

/* No write sets a bit: reading brings in the page of zeros, or the file's. */
static void test_dropped_and_read(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, SIZE, 0);
	uint64_t file = child_call(*state, do_map_program, 0, 0, 0);

	if (!has_bits())
		skip();
	child_call(*state, do_write, at, SIZE / PAGE, 1);
	child_call(*state, do_write, file, 8, 1);
	stopped_round(*state, at, &runs);
	child_scan(*state, file, 8 * PAGE, TRACK_PROTECT, &runs);
	stopped_round(*state, at, &runs);
	child_scan(*state, file, 8 * PAGE, TRACK_PROTECT, &runs);
	assert_int_equal(runs.count, 0);
	child_call(*state, do_madvise, at + PAGE, 3 * PAGE, MADV_DONTNEED);
	child_call(*state, do_madvise, file + PAGE, PAGE, MADV_DONTNEED);
	child_call(*state, do_read, at + 2 * PAGE, 1, 1);
	child_call(*state, do_read, file + PAGE, 1, 1);
	stopped_round(*state, at, &runs);
	assert_int_equal(track_runs_pages(&runs, 0), 1);
	assert_page(&runs, at + 2 * PAGE, CONTENT);
	child_scan(*state, file, 8 * PAGE, TRACK_PROTECT, &runs);
	assert_int_equal(track_runs_pages(&runs, 0), 1);
	assert_page(&runs, file + PAGE, CONTENT | TRACK_FILE);
	stopped_round(*state, at, &runs);
	assert_int_equal(runs.count, 0);
	track_runs_deinit(&runs);
}

#define TABLE (UINT64_C(2) << 20) /* what one page table covers */

static uint64_t do_move(uint64_t from, uint64_t to, uint64_t size)
{
	return mremap((void *)from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to) == (void *)to;
}

/* Whole page tables are moved without a look at their entries. */
static void test_moved_tables(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, 5 * TABLE, 0);
	uint64_t from = (at + TABLE - 1) / TABLE * TABLE, to = from + 2 * TABLE;

	if (!has_bits())
		skip();
	child_call(*state, do_write, from, 4 * TABLE / PAGE, 1);
	stopped_round(*state, at, &runs);
	child_scan(*state, at, 5 * TABLE, TRACK_PROTECT, &runs);
	stopped_round(*state, at, &runs);
	child_scan(*state, at, 5 * TABLE, TRACK_PROTECT, &runs);
	assert_int_equal(runs.count, 0);
	assert_true(child_call(*state, do_move, from, to, 2 * TABLE));
	stopped_round(*state, at, &runs);
	child_scan(*state, to, 2 * TABLE, TRACK_PROTECT, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 2 * TABLE / PAGE);
	track_runs_deinit(&runs);
}

/* What a scan did not cover stays pending over a clearing update. */
static void test_pending_in_parts(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };
	uint64_t at = child_call(child, do_map, 0, SIZE, 0);

	if (!has_bits())
		skip();
	child_call(child, do_write, at, SIZE / PAGE, 1);
	stopped_round(child, at, &runs);
	stopped_round(child, at, &runs);
	child_call(child, do_write, at, 20, 2);
	stopped_round(child, at + SIZE, &runs);
	stopped_round(child, at + SIZE, &runs);
	child_scan(child, at, 10 * PAGE, TRACK_PROTECT, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 5);
	child_scan(child, at, SIZE, TRACK_PROTECT, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 15);
	child_scan(child, at, SIZE, TRACK_PROTECT, &runs);
	assert_int_equal(runs.count, 0);
	track_runs_deinit(&runs);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe), CASE(test_first_round),      CASE(test_rounds),
		CASE(test_new_mapping),       CASE(test_pending_in_parts), CASE(test_dropped_and_read),
		CASE(test_moved_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
