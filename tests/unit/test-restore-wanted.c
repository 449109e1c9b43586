/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of processes that no source sends: they come from the network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "mm.pb-c.h"
#include "pstree.pb-c.h"
#include "restore/layout.h"

struct entry {
	uint32_t pid, ppid;
	bool has_memory;
};

static int read_list(const struct entry *entries, size_t count)
{
	struct restore_wanted wanted = { 0 };
	struct restore_tree tree = { 0 };
	struct error error = ERROR_INIT;
	struct image_set *images;
	int r;

	assert_int_equal(image_set_new(&images), 0);
	for (size_t i = 0; i < count; i++) {
		TreeProcess process = TREE_PROCESS__INIT;
		uint32_t thread = entries[i].pid;

		process.pid = entries[i].pid;
		process.ppid = entries[i].ppid;
		process.pgid = process.sid = entries[0].pid;
		process.threads = &thread;
		process.n_threads = 1;
		assert_int_equal(image_set_add(images, IMAGE_PSTREE, 0, &process.base, &error), 0);
		if (entries[i].has_memory)
			assert_int_equal(image_set_add_bytes(images, IMAGE_MM, entries[i].pid, "", 0, &error), 0);
	}
	tree.images = images;
	r = restore_wanted_read(&tree, &wanted, &error);
	assert_true(r == 0 || error.code == r);
	restore_wanted_deinit(&wanted);
	image_set_free(images);
	return r;
}

static void test_right(void **state)
{
	const struct entry list[] = { { 100, 0, true }, { 101, 100, true }, { 102, 101, false } };

	assert_int_equal(read_list(list, 3), 0);
}

static void test_root_has_ended(void **state)
{
	const struct entry list[] = { { 100, 0, false }, { 101, 100, true } };

	assert_int_equal(read_list(list, 1), -EPROTO);
	assert_int_equal(read_list(list, 2), -EPROTO);
}

static void test_child_of_one_that_has_ended(void **state)
{
	const struct entry list[] = { { 100, 0, true }, { 101, 100, false }, { 102, 101, true } };

	assert_int_equal(read_list(list, 2), 0);
	assert_int_equal(read_list(list, 3), -EPROTO);
}

static void test_no_pid(void **state)
{
	const struct entry none[] = { { 100, 0, true }, { 0, 100, false } };
	const struct entry all[] = { { 100, 0, true }, { UINT32_MAX, 100, false } }; /* as kill(2) counts */

	assert_int_equal(read_list(none, 2), -EPROTO);
	assert_int_equal(read_list(all, 2), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_right),
		cmocka_unit_test(test_root_has_ended),
		cmocka_unit_test(test_child_of_one_that_has_ended),
		cmocka_unit_test(test_no_pid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
