/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: migrate */
/* When pre-copy ends, and which phase may follow which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migrate/estimate.h"
#include "migrate/phase.h"

#define MS INT64_C(1000000)

static void test_idle_ends_after_two(void **state)
{
	struct estimate estimate = { .limit_ns = 10 * MS };

	estimate_round(&estimate, 100000, 400 * MS);
	assert_false(estimate_enough(&estimate));
	estimate_round(&estimate, 0, MS / 10);
	assert_true(estimate_enough(&estimate));
}

static void test_shrinking_goes_on_until_it_fits(void **state)
{
	struct estimate estimate = { .limit_ns = 10 * MS };
	uint64_t pages = 100000;
	unsigned rounds = 0;

	while (!estimate_enough(&estimate) && rounds < 20) {
		estimate_round(&estimate, pages, (int64_t)pages * 4000);
		pages /= 4;
		rounds++;
	}
	assert_in_range(rounds, 3, 8);
}

static void test_hybrid_gives_up_sooner(void **state)
{
	struct estimate hybrid = { .limit_ns = MS, .hybrid = true }, precopy = { .limit_ns = MS };

	for (int i = 0; i < 3; i++) {
		estimate_round(&hybrid, 50000, 200 * MS);
		estimate_round(&precopy, 50000, 200 * MS);
	}
	assert_true(estimate_enough(&hybrid));
	assert_false(estimate_enough(&precopy));
	for (int i = 0; i < 40; i++)
		estimate_round(&precopy, 50000, 200 * MS);
	assert_true(estimate_enough(&precopy));
}

static void test_phases(void **state)
{
	for (int phase = PHASE_START; phase < PHASE_COMMIT; phase++) {
		assert_true(phase_allows((enum phase)phase, PHASE_ROLLBACK));
		assert_true(phase_is_before_commit((enum phase)phase));
	}
	assert_false(phase_allows(PHASE_COMMIT, PHASE_ROLLBACK));
	assert_false(phase_allows(PHASE_POSTCOPY, PHASE_ROLLBACK));
	assert_true(phase_allows(PHASE_DOUBT, PHASE_ROLLBACK));
	assert_false(phase_is_before_commit(PHASE_COMMIT));
	assert_false(phase_allows(PHASE_PRECOPY, PHASE_COMMIT));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_idle_ends_after_two),
		cmocka_unit_test(test_shrinking_goes_on_until_it_fits),
		cmocka_unit_test(test_hybrid_gives_up_sooner),
		cmocka_unit_test(test_phases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
