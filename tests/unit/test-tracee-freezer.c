/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The freezer: costs, and a tree that stays frozen when the tracer that had stopped it is killed.
 */
#include "tracee-common.h"

#include "tracee/freezer.h"

static void name_it(char *name, size_t size)
{
	snprintf(name, size, "pagestream-test-%d", getpid());
}

static void check_still(void)
{
	uint64_t before;

	usleep(5000);
	before = atomic_load(&shared->counter);
	usleep(50000);
	assert_int_equal(atomic_load(&shared->counter), before);
}

static struct freezer *new_freezer(pid_t pid)
{
	struct error error = ERROR_INIT;
	struct freezer *freezer = NULL;
	char name[64];
	int r;

	name_it(name, sizeof(name));
	r = freezer_new(name, pid, &freezer, &error);
	if (r == -EOPNOTSUPP || r == -EACCES || r == -EROFS) {
		print_message("skipped: %s\n", error.message);
		skip();
	}
	must(r, &error);
	return freezer;
}

static char *read_cgroup(pid_t pid)
{
	static char text[2][4096];
	static int which;
	char path[64];
	FILE *file;

	which = !which;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	file = fopen(path, "re");
	assert_non_null(file);
	text[which][fread(text[which], 1, sizeof(text[which]) - 1, file)] = '\0';
	fclose(file);
	return text[which];
}

static void test_freeze_and_thaw(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct freezer *freezer;
	char cgroup[4096];
	int64_t times[8];

	wait_ready(1);
	strcpy(cgroup, read_cgroup(pid));
	times[0] = clock_now_ns();
	freezer = new_freezer(pid);
	times[1] = clock_now_ns();
	must(freezer_add(freezer, pid, &error), &error);
	times[2] = clock_now_ns();
	assert_int_equal(freezer_is_frozen(freezer, &error), 0);
	check_alive();
	times[3] = clock_now_ns();
	must(freezer_freeze(freezer, true, DEADLINE, &error), &error);
	times[4] = clock_now_ns();
	assert_int_equal(freezer_is_frozen(freezer, &error), 1);
	check_still();
	times[5] = clock_now_ns();
	must(freezer_thaw(freezer, DEADLINE, &error), &error);
	times[6] = clock_now_ns();
	check_alive();
	times[7] = clock_now_ns();
	must(freezer_restore(freezer, pid, &error), &error);
	print_message(
		"cgroup made %lld us, process moved %lld us, frozen %lld us, thawed %lld us, moved "
		"back %lld us\n",
		(long long)(times[1] - times[0]) / 1000, (long long)(times[2] - times[1]) / 1000,
		(long long)(times[4] - times[3]) / 1000, (long long)(times[6] - times[5]) / 1000,
		(long long)(clock_now_ns() - times[7]) / 1000);
	assert_string_equal(read_cgroup(pid), cgroup);
	must(freezer_remove(freezer, DEADLINE, &error), &error);
	freezer_free(freezer);
	end_victim(pid);
}

/* Frozen first: it can be seized, stopped and killed, but runs nothing. */
static void test_stop_frozen(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct freezer *freezer;
	struct tracee_tree *tree;
	uint64_t word;

	wait_ready(1);
	freezer = new_freezer(pid);
	must(freezer_add(freezer, pid, &error), &error);
	must(freezer_freeze(freezer, true, DEADLINE, &error), &error);
	must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
	must(tracee_process_read(tree->processes.items[0],
				 tree->processes.items[0]->threads.items[0]->regs.rsp, &word,
				 sizeof(word), &error),
	     &error);
	tracee_tree_release(tree);
	check_still();
	assert_int_equal(freezer_is_frozen(freezer, &error), 1);
	end_victim(pid);
	must(freezer_remove(freezer, DEADLINE, &error), &error);
	freezer_free(freezer);
}

/* What is frozen can be ended, and so its cgroup removed. */
static void test_kill_frozen(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct freezer *freezer;
	int status;

	wait_ready(1);
	freezer = new_freezer(pid);
	must(freezer_add(freezer, pid, &error), &error);
	must(freezer_freeze(freezer, true, DEADLINE, &error), &error);
	must(freezer_kill(freezer, &error), &error);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	must(freezer_remove(freezer, DEADLINE, &error), &error);
	freezer_free(freezer);
}

/* Stopped by ptrace, then frozen, then the tracer is killed: it stays frozen, and runs on when it
 * is thawed. */
static void test_outlives_tracer(void **state)
{
	pid_t pid = start_victim(work_count), tracer;
	struct error error = ERROR_INIT;
	struct freezer *freezer, *again;
	int64_t times[2], result;
	char name[64], path[4096], byte;
	int fds[2];

	wait_ready(1);
	name_it(name, sizeof(name));
	freezer = new_freezer(pid);
	must(freezer_add(freezer, pid, &error), &error);
	assert_int_equal(pipe(fds), 0);
	tracer = fork();
	if (tracer == 0) {
		struct tracee_tree *tree;

		must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
		must(tracee_thread_call(tree->processes.items[0]->threads.items[0], DEADLINE,
					&result, &error, SYS_getpid, 0, 0, 0, 0, 0, 0),
		     &error);
		times[0] = clock_now_ns();
		must(freezer_freeze(freezer, true, DEADLINE, &error), &error);
		times[1] = clock_now_ns();
		print_message("stopped by ptrace, frozen in %lld us\n",
			      (long long)(times[1] - times[0]) / 1000);
		if (write(fds[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	assert_int_equal(read(fds[0], &byte, 1), 1);
	check_still();
	kill(tracer, SIGKILL);
	assert_int_equal(waitpid(tracer, NULL, 0), tracer);
	check_still();
	assert_int_equal(freezer_is_frozen(freezer, &error), 1);
	snprintf(path, sizeof(path), "%s", freezer_path(freezer));
	freezer_free(freezer);

	/* whoever comes next finds the cgroup by its path, or by its name */
	must(freezer_open(path, &again, &error), &error);
	assert_int_equal(freezer_is_frozen(again, &error), 1);
	assert_string_equal(freezer_path(again), path);
	freezer_free(again);
	must(freezer_new(name, getpid(), &again, &error), &error);
	assert_int_equal(freezer_is_frozen(again, &error), 1);
	must(freezer_thaw(again, DEADLINE, &error), &error);
	check_alive();
	must(freezer_remove(again, DEADLINE, &error), &error);
	freezer_free(again);
	assert_int_equal(freezer_open(path, &again, &error), -ENOENT);
	check_alive();
	close(fds[0]);
	close(fds[1]);
	end_victim(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_freeze_and_thaw, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_frozen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kill_frozen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_outlives_tracer, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
