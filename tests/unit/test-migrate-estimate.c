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

/* A round whose scan follows the one before at once. */
static void add_round(struct estimate *estimate, uint64_t pages, int64_t ns)
{
	const struct estimate_times times = {
		.layout = MS,
		.scan = MS / 100,
		.send = ns,
		.since = estimate->rounds ? estimate->last_ns + MS : 0,
	};

	estimate_round(estimate, pages, &times);
}

static void test_idle_ends_after_two(void **state)
{
	struct estimate estimate = { .limit_ns = 10 * MS };

	add_round(&estimate, 100000, 400 * MS);
	assert_int_equal(estimate_next(&estimate), ESTIMATE_ROUND);
	assert_true(estimate_downtime_ns(&estimate) == 0);
	add_round(&estimate, 0, MS / 10);
	assert_int_equal(estimate_next(&estimate), ESTIMATE_FREEZE);
}

static void test_shrinking_goes_on_until_it_fits(void **state)
{
	struct estimate estimate = { .limit_ns = 10 * MS };
	uint64_t pages = 100000;
	unsigned rounds = 0;

	while (estimate_next(&estimate) == ESTIMATE_ROUND && rounds < 20) {
		add_round(&estimate, pages, (int64_t)pages * 4000);
		pages /= 4;
		rounds++;
	}
	assert_in_range(rounds, 3, 8);
	assert_int_equal(estimate_next(&estimate), ESTIMATE_FREEZE);
	assert_int_equal(estimate.throttle, 0);
	assert_true(estimate_downtime_ns(&estimate) < 10 * MS);
}

static void test_hybrid_gives_up_sooner(void **state)
{
	struct estimate hybrid = { .limit_ns = MS, .hybrid = true }, precopy = { .limit_ns = MS };

	for (int i = 0; i < 3; i++) {
		add_round(&hybrid, 50000, 200 * MS);
		add_round(&precopy, 50000, 200 * MS);
	}
	assert_int_equal(estimate_next(&hybrid), ESTIMATE_FREEZE);
	assert_int_equal(estimate_next(&precopy), ESTIMATE_SLOWER);
}

/*
 * A tree that writes 1000 pages/ms when it runs, over a link of 500 pages/ms. What is left
 * of its speed at a throttle is (100 - throttle) per cent, but never less than `floor` pages/ms.
 */
static enum estimate_next simulate(struct estimate *estimate, double floor, unsigned *ret_rounds)
{
	enum estimate_next next = ESTIMATE_ROUND;
	double pages = 500000;

	for (*ret_rounds = 0; *ret_rounds < 100 && (next == ESTIMATE_ROUND || next == ESTIMATE_SLOWER); ++*ret_rounds) {
		double ms = pages / 500 + 1, rate;

		add_round(estimate, (uint64_t)pages, (int64_t)(ms * (double)MS));
		next = estimate_next(estimate);
		rate = 1000.0 * (100 - estimate->throttle) / 100;
		pages = (rate > floor ? rate : floor) * (ms + 1);
		if (pages > 500000)
			pages = 500000;
	}
	return next;
}

static void test_writer_is_slowed_until_it_fits(void **state)
{
	struct estimate estimate = { .limit_ns = 40 * MS, .ceiling_ns = 40 * MS };
	unsigned rounds;

	assert_int_equal(simulate(&estimate, 0, &rounds), ESTIMATE_FREEZE);
	assert_in_range(estimate.throttle, 60, 95);
	assert_true(rounds < 40);
	assert_true(estimate_downtime_ns(&estimate) < 40 * MS);
	assert_true(estimate.free_per_ns > estimate.dirty_per_ns);
}

static void test_writer_that_cannot_be_slowed_is_never_moved(void **state)
{
	struct estimate estimate = { .limit_ns = 40 * MS, .ceiling_ns = 40 * MS };
	unsigned rounds;

	assert_int_equal(simulate(&estimate, 600, &rounds), ESTIMATE_NEVER);
	assert_int_equal(estimate.throttle, 95);
	assert_in_range(rounds, ESTIMATE_SLOWEST_MAX, 40);
	assert_true(estimate_downtime_ns(&estimate) > 40 * MS);
}

static void test_ceiling_lies_above_the_limit(void **state)
{
	struct estimate estimate = { .limit_ns = 40 * MS, .ceiling_ns = 100000 * MS };
	unsigned rounds;

	assert_int_equal(simulate(&estimate, 600, &rounds), ESTIMATE_FREEZE);
	assert_int_equal(estimate.throttle, 95);
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
		cmocka_unit_test(test_writer_is_slowed_until_it_fits),
		cmocka_unit_test(test_writer_that_cannot_be_slowed_is_never_moved),
		cmocka_unit_test(test_ceiling_lies_above_the_limit),
		cmocka_unit_test(test_phases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
