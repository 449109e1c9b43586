/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: tracee transport */
/* Processes that read, fork, move, unmap and empty their memory while pages of it are missing. */
#include "lazy-common.h"

#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* linux/mman.h of 6.13 */
#define MADV_GUARD_REMOVE  103
#endif

struct move {
	struct lazy *lazy;
	struct source source;
	struct runner runner;
	pid_t pid;
};

/* Starts a victim with missing pages and whoever answers its faults. */
static void begin(struct move *move, void (*work)(void), unsigned delay_us)
{
	struct error error = ERROR_INIT;

	memset(move, 0, sizeof(*move));
	move->pid = start_victim(work);
	wait_ready(1);
	must(lazy_new(NULL, &move->lazy, &error), &error);
	add_victim(move->lazy, move->pid);
	move->source.delay_us = delay_us;
	source_start(&move->source, move->pid);
	runner_start(&move->runner, move->lazy, move->source.other, -1);
	atomic_store(&shared->stop, 1);
}

/* Waits until nothing is missing. */
static void finish(struct move *move)
{
	struct lazy_statistics statistics;

	pthread_join(move->runner.thread, NULL);
	must(move->runner.result, &move->runner.error);
	lazy_statistics(move->lazy, &statistics);
	assert_int_equal(statistics.missing_left, 0);
	print_message("%lu faults, p50 %lu us, p99 %lu us, %lu installed, %lu zero-filled\n",
		      (unsigned long)statistics.faults, (unsigned long)statistics.p50_us,
		      (unsigned long)statistics.p99_us, (unsigned long)statistics.installed,
		      (unsigned long)statistics.zero_filled);
	lazy_free(move->lazy);
	source_end(&move->source);
}

static void end(struct move *move, int value)
{
	wait_value(value);
	finish(move);
	check_no_trace(move->pid);
	end_victim(move->pid);
}

static void *read_thread(void *argument)
{
	unsigned seed = (unsigned)(uintptr_t)argument;

	for (int i = 0; i < 4000; i++) {
		size_t page = (size_t)rand_r(&seed) % REGION_PAGES;

		check_page(region + page * PAGE, page_word(page));
	}
	return NULL;
}

static void work_read(void)
{
	pthread_t threads[4];

	wait_for_go();
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, read_thread, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	check_all();
	atomic_store(&shared->value, 1);
	pause();
}

static void test_read(void **state)
{
	struct move move;

	begin(&move, work_read, 0);
	end(&move, 1);
}

static void test_read_and_push(void **state)
{
	struct pusher pushers[2];
	struct move move;

	begin(&move, work_read, 100);
	for (int i = 0; i < 2; i++)
		pusher_start(&pushers[i], move.lazy, move.pid);
	for (int i = 0; i < 2; i++)
		pusher_end(&pushers[i]);
	end(&move, 1);
}

/* The kernel reads missing pages for the process. */
static void work_kernel_reads(void)
{
	uint64_t data[PAGE / 8];
	int fds[2];

	wait_for_go();
	if (pipe(fds) < 0)
		_exit(1);
	for (size_t page = 0; page < REGION_PAGES; page++) {
		if (write(fds[1], region + page * PAGE, PAGE) != PAGE || read(fds[0], data, PAGE) != PAGE)
			atomic_store(&shared->wrong, 3);
		check_page(data, page_word(page));
	}
	atomic_store(&shared->value, 1);
	pause();
}

static void test_kernel_reads(void **state)
{
	struct move move;

	begin(&move, work_kernel_reads, 0);
	end(&move, 1);
}

/* Child and grandchild, each writing its own copy while the others read. */
static void family(int depth)
{
	pid_t pid = depth > 0 ? fork() : 0;
	int status = 0;

	if (depth > 0 && pid == 0) {
		family(depth - 1);
		_exit(0);
	}
	for (size_t page = (size_t)depth; page < REGION_PAGES; page += 5) {
		check_page(region + page * PAGE, page_word(page));
		memset(region + page * PAGE, depth + 1, PAGE);
	}
	for (size_t page = 0; page < REGION_PAGES; page++) {
		bool own = page >= (size_t)depth && (page - (size_t)depth) % 5 == 0;
		uint64_t word = page_word(page);

		if (own)
			memset(&word, depth + 1, sizeof(word));
		check_page(region + page * PAGE, word);
	}
	if (depth > 0 && (waitpid(pid, &status, 0) != pid || status != 0))
		atomic_store(&shared->wrong, 4);
}

static void work_fork(void)
{
	wait_for_go();
	for (size_t page = 0; page < 100; page++)
		check_page(region + page * PAGE, page_word(page));
	family(2);
	atomic_store(&shared->value, 1);
	pause();
}

static void test_fork(void **state)
{
	struct pusher pusher;
	struct move move;

	begin(&move, work_fork, 50);
	pusher_start(&pusher, move.lazy, move.pid);
	pusher_end(&pusher);
	end(&move, 1);
}

/* Where the pages of 256 are now, after some have been moved. */
static void check_range(const uint8_t *at, size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++)
		check_page(at + i * PAGE, page_word(first + i));
}

static uint8_t *move_range(void *from, size_t pages, size_t new_pages, void *to)
{
	uint8_t *at = mremap(from, pages * PAGE, new_pages * PAGE, MREMAP_MAYMOVE | (to ? MREMAP_FIXED : 0), to);

	if (at == MAP_FAILED)
		atomic_store(&shared->wrong, 5);
	return at;
}

static void work_mremap(void)
{
	uint8_t *place = mmap(NULL, 1024 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *there, *grown;

	wait_for_go();
	check_page(region + 301 * PAGE, page_word(301));
	/* out of the middle, then a part of that back into the hole of another page order */
	there = move_range(region + 256 * PAGE, 256, 256, place);
	check_range(there + 100 * PAGE, 356, 10);
	move_range(there + 10 * PAGE, 100, 100, region + 300 * PAGE);
	check_range(region + 300 * PAGE, 266, 100);
	check_range(there, 256, 10);
	check_range(there + 110 * PAGE, 366, 146);
	/* shrunk on the way; then grown: what is new is zero */
	there = move_range(region + 512 * PAGE, 200, 100, place + 512 * PAGE);
	check_range(there + 50 * PAGE, 562, 50);
	grown = move_range(region + 1024 * PAGE, 100, 300, NULL);
	for (size_t i = 100; i < 300; i++)
		check_page(grown + i * PAGE, 0);
	check_range(grown, 1024, 100);
	check_range(there, 512, 50);
	/* over pages that are missing themselves */
	move_range(region + 1536 * PAGE, 64, 64, region + 1800 * PAGE);
	check_range(region + 1800 * PAGE, 1536, 64);
	check_range(region + 1864 * PAGE, 1864, 184);
	check_range(region, 0, 256);
	check_range(region + 712 * PAGE, 712, 312);
	atomic_store(&shared->value, 1);
	/* the rest is still to come, where it was */
	check_range(region + 1124 * PAGE, 1124, 412);
	check_range(region + 1600 * PAGE, 1600, 200);
	atomic_store(&shared->value, 2);
	pause();
}

static void test_mremap(void **state)
{
	struct pusher pusher;
	struct move move;

	begin(&move, work_mremap, 20);
	wait_value(2);
	pusher_start(&pusher, move.lazy, move.pid);
	pusher_end(&pusher);
	end(&move, 2);
}

/* The same while pages come by themselves: events and installs get in each other's way. */
static void test_mremap_pushed(void **state)
{
	struct pusher pushers[2];
	struct move move;

	begin(&move, work_mremap, 20);
	for (int i = 0; i < 2; i++)
		pusher_start(&pushers[i], move.lazy, move.pid);
	for (int i = 0; i < 2; i++)
		pusher_end(&pushers[i]);
	end(&move, 2);
}

static void work_unmap(void)
{
	wait_for_go();
	for (size_t page = 0; page < REGION_PAGES; page++) {
		uint8_t *at = region + page * PAGE;

		switch (page % 16) {
		case 2: /* emptied: zeros, whatever comes later */
			if (madvise(at, PAGE, MADV_DONTNEED) < 0)
				atomic_store(&shared->wrong, 6);
			break;
		case 6: /* unmapped, and mapped anew */
			if (munmap(at, PAGE) < 0 || mmap(at, PAGE, PROT_READ | PROT_WRITE,
							 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
				atomic_store(&shared->wrong, 7);
			break;
		case 9: /* read, emptied */
			check_page(at, page_word(page));
			madvise(at, PAGE, MADV_DONTNEED);
			break;
		case 13: /* another protection makes it another mapping */
			mprotect(at, PAGE, PROT_READ);
			break;
		}
	}
	for (size_t page = 0; page < REGION_PAGES; page++) {
		bool empty = page % 16 == 2 || page % 16 == 6 || page % 16 == 9;

		check_page(region + page * PAGE, empty ? 0 : page_word(page));
	}
	atomic_store(&shared->value, 1);
	pause();
}

static void test_unmap(void **state)
{
	struct move move;

	begin(&move, work_unmap, 0);
	end(&move, 1);
}

static void test_unmap_pushed(void **state)
{
	struct pusher pushers[2];
	struct move move;

	begin(&move, work_unmap, 0);
	for (int i = 0; i < 2; i++)
		pusher_start(&pushers[i], move.lazy, move.pid);
	for (int i = 0; i < 2; i++)
		pusher_end(&pushers[i]);
	end(&move, 1);
}

/* The source hangs up again and again in the middle of it. */
static void test_broken_stream(void **state)
{
	struct error error = ERROR_INIT;
	int rounds = 0, r = -1;
	struct lazy *lazy;
	pid_t pid = start_victim(work_read);

	wait_ready(1);
	must(lazy_new(NULL, &lazy, &error), &error);
	add_victim(lazy, pid);
	atomic_store(&shared->stop, 1);
	while (r < 0 && rounds < 40) {
		struct source source = { .answers = 20 };

		if (rounds > 30)
			source.answers = 0;
		source_start(&source, pid);
		error_clear(&error);
		r = lazy_run_faults(lazy, source.other, -1, &error);
		source_end(&source);
		rounds++;
	}
	must(r, &error);
	assert_true(rounds > 3);
	wait_value(1);
	check_no_trace(pid);
	lazy_free(lazy);
	end_victim(pid);
}

static void test_cancel(void **state)
{
	struct error error = ERROR_INIT;
	uint64_t one = 1;
	struct move move;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], &one, 1), 1);
	move.pid = start_victim(work_read);
	wait_ready(1);
	must(lazy_new(NULL, &move.lazy, &error), &error);
	add_victim(move.lazy, move.pid);
	assert_int_equal(lazy_run_faults(move.lazy, NULL, fds[0], &error), -ECANCELED);
	atomic_store(&shared->stop, 1);
	/* Without a stream, with pushed pages alone. */
	runner_start(&move.runner, move.lazy, NULL, -1);
	error_clear(&error);
	for (size_t page = 0; page < REGION_PAGES; page++) {
		uint64_t data[PAGE / 8];

		fill_page(page, data);
		must(lazy_install(move.lazy, move.pid, (uintptr_t)region + page * PAGE, page_word(page) ? data : NULL,
				  1, &error),
		     &error);
	}
	pthread_join(move.runner.thread, NULL);
	must(move.runner.result, &move.runner.error);
	wait_value(1);
	check_no_trace(move.pid);
	lazy_free(move.lazy);
	end_victim(move.pid);
	close(fds[0]);
	close(fds[1]);
}

/* ---- guards: of missing and other pages, seen by write(2) as EFAULT */

static bool is_guarded(size_t page)
{
	return page % 16 >= 4 && page % 16 < 10;
}

static void check_guards(int fd)
{
	for (size_t page = 0; page < REGION_PAGES; page++) {
		uint8_t *at = region + page * PAGE;
		bool refused = write(fd, at, 1) < 0;

		if (refused != is_guarded(page))
			atomic_store(&shared->wrong, 10);
		if (!refused)
			check_page(at, page_word(page));
		else if (page % 16 == 6 && madvise(at, PAGE, MADV_GUARD_REMOVE) == 0)
			check_page(at, 0);
	}
}

static void work_guards(void)
{
	int fd = memfd_create("sink", 0);
	pid_t child;
	int status;

	wait_for_go();
	for (size_t page = 0; page < REGION_PAGES; page++)
		if (is_guarded(page) && madvise(region + page * PAGE, PAGE, MADV_GUARD_INSTALL) < 0)
			atomic_store(&shared->wrong, 11);
	child = fork();
	if (child == 0) {
		check_page(region + PAGE, page_word(1));
		atomic_fetch_add(&shared->value, 1);
		while (atomic_load(&shared->value) < 3)
			usleep(1000);
		check_guards(fd);
		_exit(0);
	}
	atomic_fetch_add(&shared->value, 1);
	while (atomic_load(&shared->value) < 3)
		usleep(1000);
	check_guards(fd);
	waitpid(child, &status, 0);
	atomic_store(&shared->value, status == 0 ? 4 : 0);
	pause();
}

static void test_guards(void **state)
{
	struct pusher pusher;
	struct move move;

	if (madvise(region, PAGE, MADV_GUARD_INSTALL) < 0) {
		print_message("the kernel has no MADV_GUARD_INSTALL\n");
		skip();
	}
	madvise(region, PAGE, MADV_GUARD_REMOVE);
	begin(&move, work_guards, 0);
	wait_value(2);
	pusher_start(&pusher, move.lazy, move.pid);
	pusher_end(&pusher);
	atomic_store(&shared->value, 3);
	end(&move, 4);
}

static void test_killed(void **state)
{
	struct move move;

	begin(&move, work_read, 2000);
	usleep(50000);
	end_victim(move.pid);
	finish(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_read, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_read_and_push, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_kernel_reads, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_fork, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_mremap, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_mremap_pushed, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_unmap, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_unmap_pushed, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_broken_stream, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_cancel, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_guards, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_killed, lazy_setup, lazy_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
