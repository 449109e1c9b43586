/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: migrate tracee */
/* A tree that is slowed down gets its share of the time, can be made to run for a while, and runs at the end. */
#include "tracee-common.h"

#include "migrate/throttle.h"

static struct freezer *new_freezer(pid_t pid)
{
	struct error error = ERROR_INIT;
	struct freezer *freezer = NULL;
	char name[64];
	int r;

	snprintf(name, sizeof(name), "pagestream-throttle-%d", getpid());
	r = freezer_new(name, pid, &freezer, &error);
	if (r == -EOPNOTSUPP || r == -EACCES || r == -EROFS) {
		print_message("skipped: %s\n", error.message);
		skip();
	}
	must(r, &error);
	must(freezer_add(freezer, pid, &error), &error);
	return freezer;
}

/* Processor time of the victim as a share of the next `ms`. */
static double share(pid_t pid, int ms)
{
	clockid_t clock;
	struct timespec began, ended;
	int64_t start = clock_now_ns(), passed;

	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	clock_gettime(clock, &began);
	usleep((useconds_t)ms * 1000);
	clock_gettime(clock, &ended);
	passed = clock_now_ns() - start;
	return (double)((ended.tv_sec - began.tv_sec) * CLOCK_S + ended.tv_nsec - began.tv_nsec) / (double)passed;
}

static void test_share(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct freezer *freezer;
	struct throttle *throttle;
	double half, little, held;

	wait_ready(1);
	freezer = new_freezer(pid);
	must(throttle_start(freezer, 50, &throttle, &error), &error);
	half = share(pid, 500);
	throttle_set(throttle, 100); /* never more than THROTTLE_MAX */
	usleep(20000);
	little = share(pid, 500);
	throttle_hold(throttle);
	held = share(pid, 200);
	throttle_release(throttle);
	must(throttle_stop(throttle, &error), &error);
	print_message("share of the time at 50%%: %.2f, at most: %.2f, held: %.2f\n", half, little, held);
	/* Other programs may take from it, but it gets no more than this. */
	assert_true(half < 0.65);
	assert_true(little > 0 && little < 0.2 && little < half);
	assert_true(held > little * 2);
	assert_int_equal(freezer_is_frozen(freezer, &error), 0);
	check_alive();
	must(freezer_remove(freezer, DEADLINE, &error), &error);
	freezer_free(freezer);
	end_victim(pid);
}

static void test_cgroup_that_is_gone(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct freezer *freezer;
	struct throttle *throttle;

	wait_ready(1);
	freezer = new_freezer(pid);
	must(freezer_remove(freezer, DEADLINE, &error), &error);
	must(throttle_start(freezer, 50, &throttle, &error), &error);
	usleep(30000);
	assert_int_equal(throttle_stop(throttle, &error), -ENOENT);
	check_alive();
	assert_int_equal(throttle_stop(NULL, &error), 0);
	freezer_free(freezer);
	end_victim(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_share, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cgroup_that_is_gone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
