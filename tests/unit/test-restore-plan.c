/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: restore tracee image util proto */
/* The steps from one layout of an address space to another. Needs no privileges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above. */
#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#include "image/mapping.h"
#include "restore/mm.h"

#define PAGE UINT64_C(4096)

static struct restore_segment anonymous(uint64_t first, uint64_t last, uint32_t prot)
{
	return (struct restore_segment){
		.start = first * PAGE,
		.end = last * PAGE,
		.prot = prot,
		.flags = MAP_PRIVATE | MAP_ANONYMOUS,
		.status = MAPPING_REGULAR | MAPPING_ANON_PRIVATE,
	};
}

static struct restore_segment file(uint64_t first, uint64_t last, uint32_t id, uint64_t page)
{
	return (struct restore_segment){
		.start = first * PAGE,
		.end = last * PAGE,
		.pgoff = page * PAGE,
		.prot = PROT_READ,
		.flags = MAP_PRIVATE,
		.status = MAPPING_REGULAR | MAPPING_FILE_PRIVATE,
		.shmid = id,
	};
}

static struct restore_plan plan(struct restore_segment *now, size_t now_count, struct restore_segment *wanted,
				size_t wanted_count)
{
	struct restore_segments now_list = { .items = now, .count = now_count };
	struct restore_segments wanted_list = { .items = wanted, .count = wanted_count };
	struct restore_plan result = { 0 };

	assert_int_equal(restore_plan_make(&now_list, &wanted_list, &result), 0);
	return result;
}

static void expect_step(const struct restore_plan *steps, size_t index, enum restore_step_kind kind, uint64_t first,
			uint64_t last)
{
	assert_true(index < steps->steps.count);
	assert_int_equal(steps->steps.items[index].kind, kind);
	assert_int_equal(steps->steps.items[index].start, first * PAGE);
	assert_int_equal(steps->steps.items[index].end, last * PAGE);
}

static void test_nothing_to_do(void **state)
{
	struct restore_segment now[] = { anonymous(1, 5, PROT_READ), file(5, 9, 3, 2) };
	struct restore_segment split[] = { anonymous(1, 2, PROT_READ), anonymous(2, 5, PROT_READ), file(5, 6, 3, 2),
					   file(6, 9, 3, 3) };
	struct restore_plan steps = plan(now, 2, split, 4);

	assert_int_equal(steps.steps.count, 0);
	array_deinit(&steps.steps);
}

static void test_grow_and_shrink(void **state)
{
	struct restore_segment now[] = { anonymous(10, 20, PROT_READ) };
	struct restore_segment wanted[] = { anonymous(8, 15, PROT_READ), anonymous(30, 31, PROT_READ) };
	struct restore_plan steps = plan(now, 1, wanted, 2);

	assert_int_equal(steps.steps.count, 3);
	expect_step(&steps, 0, RESTORE_STEP_MAP, 8, 10);
	expect_step(&steps, 1, RESTORE_STEP_UNMAP, 15, 20);
	expect_step(&steps, 2, RESTORE_STEP_MAP, 30, 31);
	array_deinit(&steps.steps);
}

static void test_protect_keeps_pages(void **state)
{
	struct restore_segment now[] = { anonymous(10, 20, PROT_READ) };
	struct restore_segment wanted[] = { anonymous(10, 12, PROT_READ), anonymous(12, 20, PROT_NONE) };
	struct restore_plan steps = plan(now, 1, wanted, 2);

	assert_int_equal(steps.steps.count, 1);
	expect_step(&steps, 0, RESTORE_STEP_PROTECT, 12, 20);
	array_deinit(&steps.steps);
}

static void test_other_backing_is_replaced(void **state)
{
	struct restore_segment now[] = { file(10, 20, 3, 0), file(20, 22, 4, 0), file(22, 24, 5, 0) };
	struct restore_segment wanted[] = { file(10, 20, 3, 1), anonymous(20, 22, PROT_READ), file(22, 24, 6, 0) };
	struct restore_plan steps = plan(now, 3, wanted, 3);

	assert_int_equal(steps.steps.count, 4);
	expect_step(&steps, 0, RESTORE_STEP_UNMAP, 10, 24);
	expect_step(&steps, 1, RESTORE_STEP_MAP, 10, 20);
	expect_step(&steps, 2, RESTORE_STEP_MAP, 20, 22);
	expect_step(&steps, 3, RESTORE_STEP_MAP, 22, 24);
	array_deinit(&steps.steps);
}

static void test_foreign_memory_goes(void **state)
{
	struct restore_segment now[] = { { .start = 16 * PAGE, .end = 17 * PAGE } };
	struct restore_segment wanted[] = { anonymous(16, 17, PROT_READ) };
	struct restore_plan steps = plan(now, 1, wanted, 1);

	assert_int_equal(steps.steps.count, 2);
	expect_step(&steps, 0, RESTORE_STEP_UNMAP, 16, 17);
	expect_step(&steps, 1, RESTORE_STEP_MAP, 16, 17);
	array_deinit(&steps.steps);
}

static void test_advice_changes(void **state)
{
	struct restore_segment now[] = { anonymous(1, 9, PROT_READ) };
	struct restore_segment wanted[] = { anonymous(1, 3, PROT_READ), anonymous(3, 9, PROT_READ) };
	struct restore_plan steps;

	now[0].madv = UINT64_C(1) << MADV_DONTDUMP;
	wanted[1].madv = now[0].madv;
	steps = plan(now, 1, wanted, 2);
	assert_int_equal(steps.steps.count, 1);
	expect_step(&steps, 0, RESTORE_STEP_ADVISE, 1, 3);
	assert_int_equal(steps.steps.items[0].advice_now, UINT64_C(1) << MADV_DONTDUMP);
	array_deinit(&steps.steps);
}

static void test_gap(void **state)
{
	struct restore_segment low[] = { { .start = PAGE, .end = UINT64_C(0x100000001000) } };
	struct restore_segment high[] = { { .start = UINT64_C(0x200000000000), .end = UINT64_C(0x7ffffffff000) } };
	struct restore_segments low_list = { .items = low, .count = 1 }, high_list = { .items = high, .count = 1 };
	const struct restore_segments *lists[] = { &low_list, &high_list };
	uint64_t gap = restore_plan_gap(lists, 2, 100 * PAGE);

	assert_true(gap >= low[0].end && gap + 100 * PAGE <= high[0].start);
	assert_int_equal(gap % PAGE, 0);
	high[0].start = low[0].end + 10 * PAGE;
	low[0].start = 0;
	assert_int_equal(restore_plan_gap(lists, 2, 100 * PAGE), 0);
	assert_int_equal(restore_plan_gap(lists, 2, 10 * PAGE), low[0].end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_to_do),		cmocka_unit_test(test_grow_and_shrink),
		cmocka_unit_test(test_protect_keeps_pages),	cmocka_unit_test(test_other_backing_is_replaced),
		cmocka_unit_test(test_foreign_memory_goes),	cmocka_unit_test(test_advice_changes),
		cmocka_unit_test(test_gap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
