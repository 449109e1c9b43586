/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: util */
/* Sets of pages against a plain array of the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "util/pageset.h"

#define PAGES 5000u
#define BASE UINT64_C(0x7f0000000) /* pages are far from zero */

static void test_against_an_array(void **state)
{
	struct pageset set = { 0 }, copy = { 0 };
	static bool model[PAGES];
	unsigned seed = 7;

	for (int step = 0; step < 2000; step++) {
		uint64_t first = (unsigned)rand_r(&seed) % PAGES, count = (unsigned)rand_r(&seed) % 700;
		bool add = (unsigned)rand_r(&seed) % 2;

		if (first + count > PAGES)
			count = PAGES - first;
		for (uint64_t i = first; i < first + count; i++)
			model[i] = add;
		if (add)
			assert_int_equal(pageset_add(&set, BASE + first, count), 0);
		else
			pageset_remove(&set, BASE + first, count);
	}
	assert_int_equal(pageset_copy(&copy, &set), 0);
	for (uint64_t at = 0, page; at < PAGES; at = page - BASE) {
		uint64_t n = pageset_next(&copy, BASE + at, 64, &page);

		if (!n)
			page = BASE + PAGES;
		for (uint64_t i = at; i < page - BASE; i++)
			assert_false(model[i]);
		for (uint64_t i = 0; i < n; i++)
			assert_true(model[page - BASE + i] && pageset_has(&set, page + i));
		page += n;
	}
	pageset_deinit(&set);
	pageset_deinit(&copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_an_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
