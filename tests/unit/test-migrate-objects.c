/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: migrate */
/*
 * Which pages of a shared memory object have to be sent. The "target" is a file here, which gets what the jobs say in the
 * way in which pages_send() and the page server do it, and is compared with the object after each scan.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "dump/shared-memory.h"
#include "migrate/source.h"

#define PAGE 4096
#define PAGES 1500 /* three chunks of 512, the last one not whole */

struct fixture {
	struct dump_context dump;
	struct source source;
	int fd;     /* the object */
	int target; /* what is there of it */
	uint32_t id;
};

static void fixture_init(struct fixture *f)
{
	*f = (struct fixture){ .fd = memfd_create("object", 0), .target = memfd_create("target", 0) };
	f->source.dump = &f->dump;
	assert_true(f->fd >= 0 && f->target >= 0);
	assert_int_equal(ftruncate(f->fd, PAGES * PAGE), 0);
}

static void fixture_deinit(struct fixture *f)
{
	objects_free(f->source.objects);
	dump_shared_free(f->dump.shared);
	close(f->fd);
	close(f->target);
}

/* A layout, without the object if not `present`. */
static void lay_out(struct fixture *f, bool present)
{
	struct error error = ERROR_INIT;
	struct image_set *images;
	struct stat info;

	assert_int_equal(image_set_new(&images), 0);
	f->dump.images = images;
	dump_shared_begin(&f->dump);
	if (present && dump_shared_memfd(&f->dump, f->fd, "/memfd:object (deleted)", &f->id, &error) < 0)
		fail_msg("%s", error.message);
	f->dump.images = NULL;
	image_set_free(images);
	assert_int_equal(fstat(f->fd, &info), 0);
	assert_int_equal(ftruncate(f->target, present ? info.st_size : 0), 0);
}

static void put_page(struct fixture *f, const struct source_job *one, uint64_t size)
{
	uint8_t page[PAGE];
	bool zero = one->zero, held;

	if (!zero)
		assert_int_equal(objects_read(&f->source, one, page), 0);
	zero = zero || (page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0);
	held = objects_note(&f->source, one->shared, one->address, one->zero ? NULL : page, zero);
	if (zero && held)
		assert_int_equal(fallocate(f->target, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)one->address,
					   PAGE),
				 0);
	if (!zero) {
		size_t length = size - one->address < PAGE ? (size_t)(size - one->address) : PAGE;

		assert_true(one->address < size);
		assert_int_equal(pwrite(f->target, page, length, (off_t)one->address), length);
	}
}

/* After a layout of the object with `size` bytes. Returns the pages that were to be sent. */
static uint64_t scan_and_send(struct fixture *f, bool frozen, uint64_t size)
{
	struct error error = ERROR_INIT;
	struct source_jobs jobs = { 0 };

	if (objects_scan(&f->source, frozen, &jobs, &error) < 0)
		fail_msg("%s", error.message);
	array_for_each(job, &jobs.list)
		for (uint64_t i = 0; i < job->pages; i++) {
			struct source_job one = *job;

			assert_int_equal(job->shared, f->id);
			one.address += i * PAGE;
			one.pages = 1;
			put_page(f, &one, size);
		}
	array_deinit(&jobs.list);
	return jobs.pages;
}

/* A layout, a scan, and all is the same there. */
static uint64_t move(struct fixture *f, bool frozen)
{
	uint8_t ours[PAGE], theirs[PAGE];
	struct stat info;
	uint64_t sent;

	lay_out(f, true);
	assert_int_equal(fstat(f->fd, &info), 0);
	sent = scan_and_send(f, frozen, (uint64_t)info.st_size);
	for (off_t at = 0; at < info.st_size; at += PAGE) {
		ssize_t got = pread(f->fd, ours, PAGE, at);

		assert_int_equal(pread(f->target, theirs, PAGE, at), got);
		if (memcmp(ours, theirs, (size_t)got) != 0)
			fail_msg("page %lld is wrong", (long long)(at / PAGE));
	}
	return sent;
}

static void fill(const struct fixture *f, unsigned page, char with)
{
	uint8_t bytes[PAGE];

	memset(bytes, with, sizeof(bytes));
	assert_int_equal(pwrite(f->fd, bytes, PAGE, (off_t)page * PAGE), PAGE);
}

static uint64_t allocated(int fd)
{
	struct stat info;

	assert_int_equal(fstat(fd, &info), 0);
	return (uint64_t)info.st_blocks * 512 / PAGE;
}

static void test_only_what_differs(void **state)
{
	struct fixture f;

	fixture_init(&f);
	for (unsigned page = 0; page < PAGES; page += 2)
		fill(&f, page, 'a');
	assert_int_equal(move(&f, false), PAGES / 2);
	assert_int_equal(move(&f, false), 0);
	fill(&f, 0, 'b');
	fill(&f, 511, 'b');
	fill(&f, 512, 'b');
	fill(&f, PAGES - 1, 'b');
	fill(&f, 1000, 'a'); /* written, with what it had */
	assert_int_equal(move(&f, true), 4);
	assert_int_equal(move(&f, true), 0);
	/* Neither side got pages where it had none. */
	assert_int_equal(allocated(f.fd), PAGES / 2 + 2);
	assert_int_equal(allocated(f.target), PAGES / 2 + 2);
	fixture_deinit(&f);
}

static void test_zeros_and_holes(void **state)
{
	struct fixture f;

	fixture_init(&f);
	for (unsigned page = 0; page < 100; page++)
		fill(&f, page, page < 50 ? 'a' : 0);
	assert_int_equal(move(&f, false), 100);
	assert_int_equal(allocated(f.target), 50);
	assert_int_equal(move(&f, false), 0);
	fill(&f, 60, 'b');
	fill(&f, 10, 0);
	assert_int_equal(fallocate(f.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 20 * PAGE, 10 * PAGE), 0);
	assert_int_equal(move(&f, false), 2);
	assert_int_equal(allocated(f.target), 40);
	fill(&f, 20, 'a'); /* what it had before it was a hole */
	assert_int_equal(move(&f, true), 1);
	assert_int_equal(move(&f, true), 0);
	fixture_deinit(&f);
}

static void test_size(void **state)
{
	struct fixture f;

	fixture_init(&f);
	for (unsigned page = 0; page < PAGES; page++)
		fill(&f, page, 'a');
	assert_int_equal(move(&f, false), PAGES);
	/* Cut in the middle of a page, which is another one by that; grown again, with the same bytes as before. */
	assert_int_equal(ftruncate(f.fd, 700 * PAGE + 100), 0);
	assert_int_equal(move(&f, false), 1);
	assert_int_equal(move(&f, false), 0);
	for (unsigned page = 700; page < PAGES; page++)
		fill(&f, page, 'a');
	assert_int_equal(move(&f, true), PAGES - 700);
	assert_int_equal(ftruncate(f.fd, 0), 0);
	assert_int_equal(move(&f, true), 0);
	assert_int_equal(ftruncate(f.fd, PAGE), 0);
	fill(&f, 0, 'a');
	assert_int_equal(move(&f, true), 1);
	fixture_deinit(&f);
}

/* Grown between the layout and the look: the target has the size of the layout. */
static void test_grows_meanwhile(void **state)
{
	struct fixture f;

	fixture_init(&f);
	assert_int_equal(ftruncate(f.fd, 0), 0);
	assert_int_equal(pwrite(f.fd, "abc", 3, 0), 3);
	lay_out(&f, true);
	fill(&f, 0, 'a');
	fill(&f, 1, 'b');
	assert_int_equal(scan_and_send(&f, false, 3), 1);
	assert_int_equal(move(&f, true), 2);
	assert_int_equal(move(&f, true), 0);
	fixture_deinit(&f);
}

/* An object that was gone for a round is a new one for the target. */
static void test_gone_and_back(void **state)
{
	struct source_jobs jobs = { 0 };
	struct error error = ERROR_INIT;
	struct fixture f;
	uint32_t id;

	fixture_init(&f);
	fill(&f, 3, 'a');
	assert_int_equal(move(&f, false), 1);
	id = f.id;
	lay_out(&f, false);
	assert_int_equal(objects_scan(&f.source, false, &jobs, &error), 0);
	assert_int_equal(jobs.list.count, 0);
	assert_int_equal(move(&f, false), 1);
	assert_int_not_equal(f.id, id);
	fixture_deinit(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_only_what_differs),
		cmocka_unit_test(test_zeros_and_holes),
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_grows_meanwhile),
		cmocka_unit_test(test_gone_and_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
