/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump */
/*
 * The kernel's memory: what is known of a thread from elsewhere is found there, too; and what is nowhere is said to be nowhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "dump/io-uring.h"
#include "dump/kernel.h"

struct reader {
	struct dump_kernel *memory;
	struct dump_kernel_types *types;
};

static int setup(void **state)
{
	static struct reader reader;
	struct error error = ERROR_INIT;

	*state = &reader;
	if (dump_kernel_open(&reader.memory, &error) < 0 || dump_kernel_types_read(&reader.types, &error) < 0)
		printf("cannot run here: %s\n", error.message);
	return 0;
}

static int teardown(void **state)
{
	struct reader *reader = *state;

	dump_kernel_free(reader->memory);
	dump_kernel_types_free(reader->types);
	return 0;
}

static struct reader *wanted(void **state)
{
	struct reader *reader = *state;

	if (!reader->memory || !reader->types)
		skip();
	return reader;
}

static void test_own_name(void **state)
{
	struct reader *reader = wanted(state);
	struct dump_kernel_member member;
	char name[16] = "";
	uint64_t task = 0;

	assert_int_equal(prctl(PR_SET_NAME, "kernel-reader"), 0);
	assert_int_equal(dump_kernel_task(reader->memory, &task), 0);
	assert_true(dump_kernel_types_find(reader->types, "task_struct", "comm", &member));
	assert_int_equal(dump_kernel_read(reader->memory, task + member.offset, name, sizeof(name)), 0);
	assert_string_equal(name, "kernel-reader");
}

static void test_nothing_there(void **state)
{
	struct reader *reader = wanted(state);
	uint64_t value = 7;

	assert_true(dump_kernel_read(reader->memory, 0, &value, sizeof(value)) < 0);
	assert_true(dump_kernel_read(reader->memory, UINT64_C(0xffffa00000000000), &value, sizeof(value)) < 0);
	assert_true(dump_kernel_read(reader->memory, (uintptr_t)&value, &value, sizeof(value)) < 0);
	assert_true(dump_kernel_read(reader->memory, 1, &value, DUMP_KERNEL_READ_MAX + 1) < 0);
	assert_int_equal(value, 7);
}

static void test_members(void **state)
{
	struct reader *reader = wanted(state);
	struct dump_kernel_member member = { .offset = 7 }, outer, inner;

	assert_false(dump_kernel_types_find(reader->types, "task_struct", "no_such_member", &member));
	assert_false(dump_kernel_types_find(reader->types, "no_such_struct", "comm", &member));
	assert_false(dump_kernel_types_find(reader->types, "task_struct", "pid.none", &member));
	assert_false(dump_kernel_types_find(reader->types, "task_struct", "", &member));
	assert_int_equal(member.offset, 7);
	assert_int_equal(dump_kernel_types_size(reader->types, "no_such_struct"), 0);
	assert_true(dump_kernel_types_find(reader->types, "task_struct", "thread", &outer));
	assert_true(dump_kernel_types_find(reader->types, "task_struct", "thread.sp", &inner));
	assert_true(inner.offset > outer.offset);
	assert_int_equal(inner.size, 8);
	/* In a structure without a name. */
	assert_true(dump_kernel_types_find(reader->types, "page", "private", &member));
	assert_int_equal(dump_kernel_types_size(reader->types, "list_head"), 16);
}

static void test_own_file(void **state)
{
	struct error error = ERROR_INIT;
	struct dump_ring_kernel *kernel = NULL;
	uint64_t file = 0, again = 0, other = 0, data, inode = 0;
	FILE *open = tmpfile();
	struct stat st;
	int fd, copy;

	wanted(state);
	if (dump_ring_kernel_open(&kernel, &error) < 0) {
		printf("cannot run here: %s\n", error.message);
		fclose(open);
		skip();
	}
	fd = fileno(open);
	copy = dup(fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(dump_ring_kernel_file(kernel, fd, &file, &data), 0);
	assert_int_equal(dump_ring_kernel_file(kernel, copy, &again, &data), 0);
	assert_int_equal(dump_ring_kernel_file(kernel, STDOUT_FILENO, &other, &data), 0);
	assert_true(file == again && file != other);
	assert_int_equal(dump_ring_kernel_inode(kernel, file, &inode), 0);
	assert_int_equal(inode, st.st_ino);
	close(copy);
	assert_true(dump_ring_kernel_file(kernel, copy, &again, &data) < 0);
	fclose(open);
	dump_ring_kernel_free(kernel);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_name),
		cmocka_unit_test(test_nothing_there),
		cmocka_unit_test(test_members),
		cmocka_unit_test(test_own_file),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
