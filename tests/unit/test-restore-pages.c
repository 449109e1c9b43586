/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: restore tracee image util proto */
/* Many ranges of a process dropped at once: with one call for many, and on kernels that refuse it one by one. */
#include "tracee-common.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "restore/restore.h"

#define PAGE        4096u
#define RANGES      2600u /* more than two vectors of 1024, and a part of one */
#define REGION_SIZE ((size_t)RANGES * 2 * PAGE)
#define REFUSE_AT   1500u /* no mapping from this range on, where a test wants that */

static uint8_t *region; /* same address here and in the victim: every other page of it is dropped */

static uint8_t value_of(size_t page)
{
	return (uint8_t)(page % 255 + 1);
}

static void fill(void)
{
	for (size_t page = 0; page < (size_t)RANGES * 2; page++)
		memset(region + page * PAGE, value_of(page), PAGE);
}

static void work_plain(void)
{
	fill();
	work_pause();
}

/* As a kernel does that knows process_madvise(2), but not for this. */
static void work_refused(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_madvise, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(1);
	work_plain();
}

static void work_hole(void)
{
	fill();
	if (munmap(region + (size_t)REFUSE_AT * 2 * PAGE, PAGE) < 0)
		_exit(1);
	work_pause();
}

static int region_setup(void **state)
{
	setup(state);
	region = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(region, MAP_FAILED);
	return 0;
}

static int region_teardown(void **state)
{
	munmap(region, REGION_SIZE);
	return teardown(state);
}

/* Drops every other page of the victim, and hands it over, still stopped. */
static int drop(pid_t pid, struct tracee_process **ret, struct error *error)
{
	static struct restore_range ranges[RANGES];
	struct restore_tree tree = { .deadline = DEADLINE };
	struct restore_process process = { .pid = pid };
	siginfo_t info;

	assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL), 0);
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED | __WALL), 0);
	must(tracee_process_adopt(pid, 0, NULL, DEADLINE, &process.tracee, error), error);
	for (size_t i = 0; i < RANGES; i++)
		ranges[i] = (struct restore_range){ .start = (uintptr_t)region + i * 2 * PAGE, .size = PAGE };
	*ret = process.tracee;
	return restore_pages_drop(&tree, &process, ranges, RANGES, error);
}

static void release(struct tracee_process *process)
{
	struct error error = ERROR_INIT;

	must(tracee_process_finish(process, DEADLINE, &error), &error);
	must(tracee_process_keep(process, &error), &error);
	tracee_process_detach(process);
}

static void check_pages(struct tracee_process *process)
{
	struct error error = ERROR_INIT;
	uint8_t data[PAGE];

	for (size_t page = 0; page < (size_t)RANGES * 2; page++) {
		uint8_t wanted = page % 2 == 0 ? 0 : value_of(page);

		must(tracee_process_read(process, (uintptr_t)region + page * PAGE, data, PAGE, &error), &error);
		if (data[0] != wanted || data[PAGE - 1] != wanted)
			fail_msg("page %zu has %u instead of %u", page, data[0], wanted);
	}
}

static void drop_all(void (*work)(void))
{
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	pid_t pid = start_victim(work);

	wait_ready(1);
	must(drop(pid, &process, &error), &error);
	check_pages(process);
	release(process);
	end_victim(pid);
}

static void test_together(void **state)
{
	drop_all(work_plain);
}

static void test_one_by_one(void **state)
{
	drop_all(work_refused);
}

/* What cannot be dropped is an error, not passed over. */
static void test_hole(void **state)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	pid_t pid = start_victim(work_hole);

	wait_ready(1);
	assert_true(drop(pid, &process, &error) < 0);
	error_clear(&error);
	release(process);
	end_victim(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_together, region_setup, region_teardown),
		cmocka_unit_test_setup_teardown(test_one_by_one, region_setup, region_teardown),
		cmocka_unit_test_setup_teardown(test_hole, region_setup, region_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
