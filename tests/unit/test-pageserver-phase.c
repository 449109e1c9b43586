/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "pageserver/phase.h"

static void only_prepared_can_be_committed(void **state)
{
	for (int from = 0; from < PHASE_COUNT; from++)
		assert_int_equal(phase_may_follow((enum phase)from, PHASE_COMMITTED), from == PHASE_PREPARED);
}

static void aborted_is_for_ever(void **state)
{
	for (int to = 0; to < PHASE_COUNT; to++)
		assert_false(phase_may_follow(PHASE_ABORTED, (enum phase)to));
}

static void what_runs_cannot_be_aborted(void **state)
{
	static const enum phase runs[] = { PHASE_RUNNING, PHASE_COMPLETE, PHASE_FINISHED };

	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		assert_false(phase_may_follow(runs[i], PHASE_ABORTED));
}

static void before_the_commit_all_can_be_aborted(void **state)
{
	for (int from = 0; from < PHASE_COUNT; from++)
		if (PHASE_BEFORE_COMMIT & PHASE_BIT(from))
			assert_true(phase_may_follow((enum phase)from, PHASE_ABORTED));
}

static void unknown_phases_go_nowhere(void **state)
{
	assert_false(phase_may_follow(PHASE_COUNT, PHASE_NEW));
	assert_false(phase_may_follow(PHASE_NEW, PHASE_COUNT));
	assert_string_equal(phase_name(PHASE_COUNT), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_prepared_can_be_committed),
		cmocka_unit_test(aborted_is_for_ever),
		cmocka_unit_test(what_runs_cannot_be_aborted),
		cmocka_unit_test(before_the_commit_all_can_be_aborted),
		cmocka_unit_test(unknown_phases_go_nowhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
