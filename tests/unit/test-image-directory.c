/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: image */
/*
 * Checkpoint directories: what is written is read again; everything that was cut, changed, taken away or does not fit is
 * refused by its name; what crit or CRIU would have written is understood.
 *
 *   test-image-directory write DIR     writes a directory with every kind of image, for tests with crit
 *   test-image-directory read DIR      opens it, prints how many records and pages it has
 */
#include "image-directory-common.h"

#include <sys/mount.h>

/* ---- round trip */

static void assert_same_sets(const struct image_set *one, const struct image_set *other)
{
	assert_int_equal(image_set_count(one), image_set_count(other));
	for (size_t i = 0; i < image_set_count(one); i++) {
		const struct image_record *a = image_set_get(one, i), *b = image_set_get(other, i);

		assert_int_equal(a->type, b->type);
		assert_int_equal(a->id, b->id);
		assert_int_equal(a->size, b->size);
		assert_memory_equal(a->data, b->data, a->size);
	}
}

static void test_round_trip(void **state)
{
	struct image_directory_info info;
	struct image_directory *dir;
	struct image_set *set = full_set();

	make_chain(*state);
	dir = open_good(path_of(*state, "top"));
	assert_same_sets(set, image_directory_set(dir));
	image_directory_describe(dir, &info);
	assert_true(info.sealed && info.native && !info.edited && !info.deduplicated);
	assert_int_equal(info.depth, 2);
	assert_true(info.files > 15 && info.page_bytes > 0 && info.bytes > info.page_bytes);
	assert_int_equal(image_directory_verify(dir, NULL), 0);
	image_directory_free(dir);
	image_set_free(set);
}

static void test_chain_content(void **state)
{
	struct image_directory *dir;

	make_chain(*state);
	dir = open_good(path_of(*state, "top"));
	/* Page n of the process is of the newest directory that wrote it: make_chain() says which. */
	for (uint64_t page = 0; page < CHAIN_PAGES; page++)
		check_page(dir, IMAGE_PAGES_PROCESS, PID, BASE + page * IMAGE_PAGE_SIZE, page, chain_origin(page));
	for (uint64_t page = 0; page < SHARED_PAGES; page++)
		check_page(dir, IMAGE_PAGES_SHARED, SHARED_ID, page * IMAGE_PAGE_SIZE, page, page < 3 ? 3 : 1);
	check_ghost(dir);
	image_directory_free(dir);
}

/* A bit of the fourth MiB: the pages there are refused, one by one and in a large read; the others are not. */
static void check_flipped_chunk(const char *path, uint8_t *buffer, size_t pages)
{
	struct error error = ERROR_INIT;
	struct image_directory *dir;

	flip_bit(path_of(path, "pages-1.img"), (3 << 20) + 5000);
	for (int whole = 0; whole < 2; whole++) {
		_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
		struct image_pages_run run;

		dir = open_good(path);
		assert_int_equal(image_pages_open(dir, IMAGE_PAGES_PROCESS, 1, &reader, NULL), 0);
		assert_int_equal(image_pages_find(reader, BASE, &run), 0);
		assert_int_equal(image_pages_read(reader, &run, 0, 1, buffer, NULL), 0);
		assert_int_equal(image_pages_read(reader, &run, whole ? 0 : 1000, whole ? pages : 1, buffer, &error), -EBADMSG);
		assert_non_null(strstr(error.message, "large/pages-1.img: the bytes from 3145728 to 4194304 have changed"));
		assert_int_equal(image_pages_read(reader, &run, 1024, 1, buffer, NULL), 0);
		image_pages_close(steal_ptr(&reader));
		image_directory_free(dir);
	}
}

static void test_large_reads(void **state)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	const size_t pages = 1100; /* four chunks and a part */
	uint8_t *all = malloc(pages * IMAGE_PAGE_SIZE), *read = malloc(pages * IMAGE_PAGE_SIZE);
	struct image_pages_writer *writer;
	struct image_directory *dir;
	struct image_pages_run run;

	for (size_t i = 0; i < pages; i++)
		fill_page(all + i * IMAGE_PAGE_SIZE, i, 9);
	memset(all + 300 * IMAGE_PAGE_SIZE, 0, 300 * IMAGE_PAGE_SIZE);
	dir = create_good(path_of(*state, "large"), NULL);
	assert_int_equal(image_pages_begin(dir, IMAGE_PAGES_PROCESS, 1, &writer, NULL), 0);
	assert_int_equal(image_pages_add(writer, BASE, 300, all, NULL), 0);
	assert_int_equal(image_pages_add_zero(writer, BASE + 300 * IMAGE_PAGE_SIZE, 300, NULL), 0);
	assert_int_equal(image_pages_add(writer, BASE + 600 * IMAGE_PAGE_SIZE, 500, all + 600 * IMAGE_PAGE_SIZE, NULL), 0);
	assert_int_equal(image_pages_end(writer, NULL), 0);
	seal_good(dir);
	dir = open_good(path_of(*state, "large"));
	assert_int_equal(image_pages_open(dir, IMAGE_PAGES_PROCESS, 1, &reader, NULL), 0);
	assert_int_equal(image_pages_count(reader), pages);
	assert_int_equal(image_pages_next(reader, &run, NULL), 1);
	assert_int_equal(run.pages, pages);
	/* One page in a chunk first, then the chunk is known. */
	assert_int_equal(image_pages_read(reader, &run, 700, 1, read, NULL), 0);
	assert_memory_equal(read, all + 700 * IMAGE_PAGE_SIZE, IMAGE_PAGE_SIZE);
	assert_int_equal(image_pages_read(reader, &run, 0, pages, read, NULL), 0);
	assert_memory_equal(read, all, pages * IMAGE_PAGE_SIZE);
	assert_int_equal(image_pages_read(reader, &run, 1, pages, read, NULL), -EINVAL);
	assert_int_equal(image_pages_next(reader, &run, NULL), 0);
	image_pages_close(steal_ptr(&reader));
	image_directory_free(dir);
	check_flipped_chunk(path_of(*state, "large"), read, pages);
	free(all);
	free(read);
}

static void test_zero_runs(void **state)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	struct image_pages_writer *writer;
	struct image_pages_run run;
	struct image_directory *dir = create_good(path_of(*state, "zero"), NULL);

	assert_int_equal(image_pages_begin(dir, IMAGE_PAGES_PROCESS, 1, &writer, NULL), 0);
	assert_int_equal(image_pages_add_zero(writer, BASE, 1000, NULL), 0);
	assert_int_equal(image_pages_end(writer, NULL), 0);
	seal_good(dir);
	dir = open_good(path_of(*state, "zero"));
	assert_int_equal(image_pages_open(dir, IMAGE_PAGES_PROCESS, 1, &reader, NULL), 0);
	assert_int_equal(image_pages_next(reader, &run, NULL), 1);
	assert_true(run.zero);
	assert_int_equal(run.pages, 1000);
	assert_int_equal(image_pages_open(dir, IMAGE_PAGES_PROCESS, 2, &reader, NULL), -ENOENT);
	image_pages_close(steal_ptr(&reader));
	image_directory_free(dir);
}

/* ---- writing goes wrong */

static void test_order(void **state)
{
	uint8_t page[IMAGE_PAGE_SIZE] = { 1 };
	struct image_pages_writer *writer;
	struct error error = ERROR_INIT;
	struct image_directory *dir = create_good(path_of(*state, "order"), NULL);

	assert_int_equal(image_pages_begin(dir, IMAGE_PAGES_PROCESS, 1, &writer, NULL), 0);
	assert_int_equal(image_pages_add(writer, BASE + IMAGE_PAGE_SIZE, 1, page, NULL), 0);
	assert_int_equal(image_pages_add(writer, BASE, 1, page, &error), -EINVAL);
	assert_non_null(strstr(error.message, "order/pagemap-1.img"));
	/* It stays wrong. */
	assert_int_equal(image_pages_add(writer, BASE + 9 * IMAGE_PAGE_SIZE, 1, page, NULL), -EINVAL);
	assert_int_equal(image_pages_end(writer, NULL), -EINVAL);
	assert_int_equal(image_pages_begin(dir, IMAGE_PAGES_PROCESS, 2, &writer, NULL), 0);
	assert_int_equal(image_pages_add_in_parent(writer, BASE, 1, NULL), -EINVAL);
	assert_int_equal(image_pages_end(writer, NULL), -EINVAL);
	image_directory_discard(dir);
	assert_int_equal(access(path_of(*state, "order"), F_OK), -1);
}

static void test_not_destroyed(void **state)
{
	struct error error = ERROR_INIT;
	struct image_directory *dir;
	struct image_set *set = full_set();

	make_chain(*state);
	assert_int_equal(image_directory_create(path_of(*state, "top"), NULL, &dir, &error), -ENOTEMPTY);
	assert_non_null(strstr(error.message, "holds a checkpoint already"));
	dir = open_good(path_of(*state, "top"));
	assert_same_sets(set, image_directory_set(dir));
	image_directory_free(dir);
	image_set_free(set);
	error_clear(&error);
	assert_int_equal(image_directory_create(path_of(*state, "no/such"), NULL, &dir, &error), -ENOENT);
	assert_non_null(strstr(error.message, "no/such"));
}

static void test_incomplete(void **state)
{
	struct error error = ERROR_INIT;
	struct image_directory *dir = create_good(path_of(*state, "half"), NULL);
	struct image_set *set = full_set();

	write_pages(dir, 1);
	image_directory_free(dir);
	assert_int_equal(image_directory_open(path_of(*state, "half"), &dir, &error), -ENODATA);
	assert_non_null(strstr(error.message, "half: the checkpoint is incomplete"));

	dir = create_good(path_of(*state, "almost"), NULL);
	write_pages(dir, 1);
	assert_int_equal(image_directory_write_set(dir, set, NULL), 0);
	image_directory_free(dir);
	assert_int_equal(image_directory_open(path_of(*state, "almost"), &dir, NULL), -ENODATA);
	image_set_free(set);

	assert_int_equal(mkdir(path_of(*state, "empty"), 0700), 0);
	error_clear(&error);
	assert_int_equal(image_directory_open(path_of(*state, "empty"), &dir, &error), -ENOENT);
	assert_non_null(strstr(error.message, "holds no checkpoint"));
	assert_int_equal(image_directory_open(path_of(*state, "absent"), &dir, NULL), -ENOENT);
}

/* A file system of 256 KiB: every step may be the one that finds it full. */
static void test_disk_full(void **state)
{
	char *mount_point = path_of(*state, "small");
	struct image_directory *dir;
	struct image_set *set = full_set();
	struct image_pages_writer *writer;
	struct error error = ERROR_INIT;
	uint8_t *data = calloc(128, IMAGE_PAGE_SIZE);
	int r;

	assert_int_equal(mkdir(mount_point, 0700), 0);
	if (mount("tmpfs", mount_point, "tmpfs", 0, "size=256k") < 0) {
		print_message("cannot mount a small tmpfs: %s\n", strerror(errno));
		skip();
	}
	memset(data, 7, 128 * IMAGE_PAGE_SIZE);
	dir = create_good(path_of(*state, "small/d"), NULL);
	assert_int_equal(image_pages_begin(dir, IMAGE_PAGES_PROCESS, PID, &writer, NULL), 0);
	r = image_pages_add(writer, BASE, 128, data, &error);
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(error.message, "small/d/pages-1.img: cannot write: No space left on device"));
	assert_int_equal(image_pages_end(writer, NULL), -ENOSPC);
	assert_true(image_directory_write_set(dir, set, NULL) < 0);
	image_directory_free(dir);
	assert_int_equal(image_directory_open(path_of(*state, "small/d"), &dir, NULL), -ENODATA);
	assert_int_equal(umount(mount_point), 0);
	image_set_free(set);
	free(data);
}

/* ---- damage */

/* What each file of the chain is called, with the directory before it. */
static size_t all_files(const char *base, char names[64][128])
{
	static const char *const directories[] = { "one", "two", "top" };
	size_t count = 0;

	for (size_t i = 0; i < 3; i++) {
		char path[256];
		DIR *list;
		struct dirent *entry;

		snprintf(path, sizeof(path), "%s/%s", base, directories[i]);
		list = opendir(path);
		assert_non_null(list);
		while ((entry = readdir(list)))
			if (entry->d_type == DT_REG) {
				assert_true(count < 64);
				snprintf(names[count++], 128, "%s/%.100s", directories[i], entry->d_name);
			}
		closedir(list);
	}
	return count;
}

/* Opens the top and reads all: the first error, which must name the file. */
static int use_all(const char *base, struct error *error)
{
	struct image_directory *dir;
	char path[256];
	int r;

	snprintf(path, sizeof(path), "%s/top", base);
	r = image_directory_open(path, &dir, error);
	if (r < 0)
		return r;
	r = read_everything(dir, error);
	image_directory_free(dir);
	return r;
}

static void expect_named(const char *base, const char *name, const char *what)
{
	struct error error = ERROR_INIT;
	int r = use_all(base, &error);

	if (r >= 0)
		fail_msg("%s %s, and nobody noticed", name, what);
	/* An absent seal is told of its directory. */
	if (!strstr(error.message, name) && !strstr(error.message, "incomplete"))
		fail_msg("%s %s, and the error is: %s", name, what, error.message);
}

static void test_flipped_bits(void **state)
{
	char names[64][128];
	size_t count, sizes[64];

	make_chain(*state);
	count = all_files(*state, names);
	assert_true(count > 25);
	for (size_t i = 0; i < count; i++)
		sizes[i] = file_size(path_of(*state, names[i]));
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < 5 && sizes[i] > 0; k++) {
			size_t at = sizes[i] * k / 5;

			flip_bit(path_of(*state, names[i]), at);
			expect_named(*state, names[i], "was changed");
			flip_bit(path_of(*state, names[i]), at);
		}
	assert_int_equal(use_all(*state, NULL), 0);
}

static void test_truncation(void **state)
{
	char names[64][128];
	size_t count;

	make_chain(*state);
	count = all_files(*state, names);
	for (size_t i = 0; i < count; i++) {
		size_t size = file_size(path_of(*state, names[i]));
		uint8_t *content = read_all(path_of(*state, names[i]), size);
		/* An empty seal is a message to us, not a damage. */
		size_t cuts[] = { strstr(names[i], ".seal") ? 1 : 0, 3, 5, 9, size / 2, size - 1 };

		for (size_t k = 0; k < 6; k++) {
			if (cuts[k] >= size)
				continue;
			assert_int_equal(truncate(path_of(*state, names[i]), (off_t)cuts[k]), 0);
			expect_named(*state, names[i], "was cut");
			write_all(path_of(*state, names[i]), content, size);
		}
		assert_int_equal(unlink(path_of(*state, names[i])), 0);
		expect_named(*state, names[i], "was removed");
		write_all(path_of(*state, names[i]), content, size);
		free(content);
	}
	write_all(path_of(*state, "top/fdinfo-77.img"), "x", 1);
	expect_named(*state, "top/fdinfo-77.img", "was added");
	unlink(path_of(*state, "top/fdinfo-77.img"));
	assert_int_equal(use_all(*state, NULL), 0);
}

/* The same without a seal: nothing may crash, be read behind its end or hang; cuts in the middle are found. */
static void test_damage_unsealed(void **state)
{
	char names[64][128];
	size_t count, found = 0;

	make_chain(*state);
	for (const char *const *d = (const char *const[]){ "one", "two", "top", NULL }; *d; d++) {
		char name[64];

		snprintf(name, sizeof(name), "%s/pagestream.seal", *d);
		assert_int_equal(truncate(path_of(*state, name), 0), 0);
	}
	assert_int_equal(use_all(*state, NULL), 0);
	count = all_files(*state, names);
	for (size_t i = 0; i < count; i++) {
		size_t size = file_size(path_of(*state, names[i]));
		uint8_t *content = read_all(path_of(*state, names[i]), size);

		for (size_t at = 0; at < size; at += 1 + size / 40) {
			flip_bit(path_of(*state, names[i]), at);
			found += use_all(*state, NULL) < 0;
			write_all(path_of(*state, names[i]), content, size);
			assert_int_equal(truncate(path_of(*state, names[i]), (off_t)at), 0);
			found += use_all(*state, NULL) < 0;
			write_all(path_of(*state, names[i]), content, size);
		}
		free(content);
	}
	assert_true(found > 200);
	assert_int_equal(use_all(*state, NULL), 0);
}

/* ---- chains */

static void test_chain_errors(void **state)
{
	struct error error = ERROR_INIT;
	struct image_directory *dir;

	make_chain(*state);
	/* The middle has gone. */
	assert_int_equal(rename(path_of(*state, "two"), path_of(*state, "elsewhere")), 0);
	assert_int_equal(image_directory_open(path_of(*state, "top"), &dir, &error), -ENOENT);
	assert_non_null(strstr(error.message, "/two"));
	/* Another directory is in its place. */
	error_clear(&error);
	dir = create_good(path_of(*state, "two"), NULL);
	write_pages(dir, 5);
	seal_good(dir);
	assert_int_equal(image_directory_open(path_of(*state, "top"), &dir, &error), -EPROTO);
	assert_non_null(strstr(error.message, "is not the directory that this one was built upon"));
	/* A circle. */
	error_clear(&error);
	remove_tree(path_of(*state, "two"));
	assert_int_equal(rename(path_of(*state, "elsewhere"), path_of(*state, "two")), 0);
	assert_int_equal(unlink(path_of(*state, "one/parent")), -1);
	assert_int_equal(symlink("../top", path_of(*state, "one/parent")), 0);
	assert_int_equal(image_directory_open(path_of(*state, "top"), &dir, &error), -ELOOP);
	/* A page that the parent lacks. */
	error_clear(&error);
	dir = create_good(path_of(*state, "child"), path_of(*state, "single"));
	write_missing(dir);
	seal_good(dir);
	dir = open_good(path_of(*state, "child"));
	assert_int_equal(read_everything(dir, &error), -EPROTO);
	assert_non_null(strstr(error.message, "which does not have them"));
	image_directory_free(dir);
}

static void test_moved_chain(void **state)
{
	struct image_directory *dir;

	make_chain(*state);
	assert_int_equal(mkdir(path_of(*state, "new"), 0700), 0);
	for (const char *const *d = (const char *const[]){ "one", "two", "top", NULL }; *d; d++) {
		char name[64];

		snprintf(name, sizeof(name), "new/%s", *d);
		assert_int_equal(rename(path_of(*state, *d), path_of(*state, name)), 0);
	}
	dir = open_good(path_of(*state, "new/top"));
	assert_int_equal(read_everything(dir, NULL), 0);
	image_directory_free(dir);
}

static void test_pagemap_errors(void **state)
{
	static const struct {
		struct map_line lines[3];
		const char *message;
	} cases[] = {
		{ { { BASE, 2, 4 }, { BASE + 4096, 1, 4 } }, "overlaps" },
		{ { { BASE + 8192, 1, 4 }, { BASE, 1, 4 } }, "out of order" },
		{ { { BASE, 1, 4 }, { BASE + 8192, 3, 4 } }, "too short" },
		{ { { BASE, 1, 4 } }, "too long" },
		{ { { BASE + 1, 2, 4 } }, "cannot be" },
		{ { { UINT64_C(0xfffffffffffff000), 2, 4 } }, "cannot be" },
		{ { { BASE, 2, 16 } }, "flags" },
		{ { { BASE, 2, 2 } }, "page server" },
		{ { { BASE, 2, 1 } }, "which does not have them" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct error error = ERROR_INIT;
		struct image_directory *dir;

		criu_directory(path_of(*state, "criu"), cases[i].lines, 3, 2);
		dir = open_good(path_of(*state, "criu"));
		assert_true(read_everything(dir, &error) < 0);
		if (!strstr(error.message, cases[i].message) || !strstr(error.message, "criu/pag"))
			fail_msg("case %zu: %s", i, error.message);
		image_directory_free(dir);
		remove_tree(path_of(*state, "criu"));
	}
}

static void test_dedup(void **state)
{
	struct image_directory_info info;
	struct image_directory *dir;
	struct error error = ERROR_INIT;
	uint64_t freed = 0, again = 0;
	struct image_pages_reader *reader;

	make_chain(*state);
	dir = open_good(path_of(*state, "top"));
	assert_int_equal(image_directory_dedup(dir, &freed, &error), 0);
	/* Counted by make_chain()'s rule: of "one" what "two" or "top" wrote, of "two" what "top" wrote. */
	assert_int_equal(freed, dedup_pages() * IMAGE_PAGE_SIZE);
	image_directory_free(dir);
	dir = open_good(path_of(*state, "top"));
	for (uint64_t page = 0; page < CHAIN_PAGES; page++)
		check_page(dir, IMAGE_PAGES_PROCESS, PID, BASE + page * IMAGE_PAGE_SIZE, page, chain_origin(page));
	check_ghost(dir);
	assert_int_equal(image_directory_verify(dir, &error), 0);
	assert_int_equal(image_directory_dedup(dir, &again, &error), 0);
	image_directory_free(dir);
	dir = open_good(path_of(*state, "one"));
	image_directory_describe(dir, &info);
	assert_true(info.deduplicated);
	image_directory_free(dir);
	assert_int_equal(image_directory_create(path_of(*state, "late"), path_of(*state, "one"), &dir, &error), -EPROTO);
	assert_non_null(strstr(error.message, "dedup"));
	/* "two" lies between: its pages in "one" are gone. What builds upon "top" has all. */
	dir = open_good(path_of(*state, "two"));
	error_clear(&error);
	assert_int_equal(image_pages_open(dir, IMAGE_PAGES_PROCESS, PID, &reader, &error), -EPROTO);
	assert_non_null(strstr(error.message, "dedup"));
	assert_int_equal(image_directory_dedup(dir, &again, NULL), -EPROTO);
	image_directory_free(dir);
	seal_good(create_good(path_of(*state, "late"), path_of(*state, "top")));
	dir = open_good(path_of(*state, "late"));
	assert_int_equal(image_directory_check_hollow(dir, NULL), 0);
	image_directory_free(dir);
}

/* Two that build upon one: what the first has taken out of it, the second cannot read any more. */
static void test_dedup_branch(void **state)
{
	struct image_pages_reader *reader;
	struct image_directory *dir;
	struct error error = ERROR_INIT;
	uint64_t freed = 0;

	make_chain(*state);
	seal_good(create_good(path_of(*state, "branch"), path_of(*state, "two")));
	dir = open_good(path_of(*state, "top"));
	assert_int_equal(image_directory_dedup(dir, &freed, NULL), 0);
	image_directory_free(dir);
	dir = open_good(path_of(*state, "branch"));
	assert_int_equal(image_pages_open(dir, IMAGE_PAGES_PROCESS, PID, &reader, &error), -EPROTO);
	assert_non_null(strstr(error.message, "branch: a dedup"));
	image_directory_free(dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_chain_content, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_large_reads, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_zero_runs, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_order, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_not_destroyed, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_incomplete, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_disk_full, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_flipped_bits, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_truncation, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_damage_unsealed, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_chain_errors, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_moved_chain, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_pagemap_errors, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_dedup, make_base, remove_base),
		cmocka_unit_test_setup_teardown(test_dedup_branch, make_base, remove_base),
	};

	if (argc == 3 && strcmp(argv[1], "write") == 0)
		return write_sample(argv[2]);
	if (argc == 3 && strcmp(argv[1], "read") == 0)
		return read_sample(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
