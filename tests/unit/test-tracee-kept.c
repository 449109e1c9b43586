/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Remote areas that stay between two stops: found again, hidden, lost by execve(2), and taken away in the end. */
#include "tracee-common.h"

static struct tracee_traces *traces;
static struct tracee_hints *hints;

static void work_quietly(void)
{
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		atomic_fetch_add(&shared->counter, 1);
		usleep(100);
	}
	execl("/bin/sleep", "sleep", "100", NULL);
}

/* One batch in a stop of its own; where the area was. */
static uint64_t stop_once(pid_t pid, bool keep)
{
	const struct tracee_options options = { .traces = traces, .hints = hints, .keep_areas = keep };
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	uint64_t address;
	int64_t result;

	must(tracee_process_stop(pid, &options, DEADLINE, &process, &error), &error);
	must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error, SYS_getpid, 0, 0, 0, 0, 0, 0), &error);
	assert_int_equal(result, pid);
	address = process->area_address;
	assert_true(address > 0);
	tracee_process_release(process);
	return address;
}

static bool has_mapping(pid_t pid, uint64_t address, bool as_user)
{
	struct error error = ERROR_INIT;
	struct procfs_maps maps = { 0 };
	bool has;

	must(as_user ? tracee_read_maps(pid, -1, &maps, &error) : procfs_read_maps(pid, &maps, &error), &error);
	has = procfs_maps_find(&maps, address) != NULL;
	procfs_maps_deinit(&maps);
	return has;
}

static pid_t start(void)
{
	struct error error = ERROR_INIT;
	pid_t pid = start_victim(work_quietly);

	wait_ready(1);
	must(tracee_traces_new(8, &traces, &error), &error);
	hints = tracee_hints_new();
	assert_non_null(hints);
	return pid;
}

static void end(pid_t pid)
{
	end_victim(pid);
	tracee_hints_free(hints);
	tracee_traces_free(traces);
}

static void test_stays_and_goes(void **state)
{
	pid_t pid = start();
	char before[1 << 16];
	uint64_t address;

	snprintf(before, sizeof(before), "%s", read_maps_text(pid));
	address = stop_once(pid, true);
	check_alive();
	assert_true(has_mapping(pid, address, false));
	assert_true(has_mapping(pid, address + 4096, false));
	assert_int_equal(tracee_traces_count(traces), 1);

	assert_int_equal(stop_once(pid, true), address);
	assert_int_equal(tracee_traces_count(traces), 1);
	assert_int_equal(stop_once(pid, false), address);
	assert_int_equal(tracee_traces_count(traces), 0);
	check_alive();
	assert_string_equal(read_maps_text(pid), before);
	end(pid);
}

static void test_is_hidden(void **state)
{
	struct error error = ERROR_INIT;
	struct procfs_maps maps = { 0 }, seen = { 0 };
	pid_t pid = start();
	uint64_t address;

	must(procfs_read_maps(pid, &maps, &error), &error);
	address = stop_once(pid, true);
	assert_false(has_mapping(pid, address, true));
	assert_false(has_mapping(pid, address + 4096, true));
	must(tracee_read_maps(pid, -1, &seen, &error), &error);
	assert_int_equal(seen.count, maps.count);
	for (size_t i = 0; i < maps.count; i++)
		assert_int_equal(seen.items[i].start, maps.items[i].start);
	procfs_maps_deinit(&maps);
	procfs_maps_deinit(&seen);
	end(pid);
}

static void test_program_execs(void **state)
{
	pid_t pid = start();
	struct procfs_stat stat = { .comm = "" };
	uint64_t address, other;

	address = stop_once(pid, true);
	atomic_store(&shared->stop, 1);
	for (int i = 0; i < 5000 && strcmp(stat.comm, "sleep") != 0; i++) {
		usleep(1000);
		assert_int_equal(procfs_read_stat(pid, &stat, NULL), 0);
	}
	assert_string_equal(stat.comm, "sleep");
	assert_false(has_mapping(pid, address, false));
	other = stop_once(pid, true);
	assert_int_equal(tracee_traces_count(traces), 1);
	assert_true(has_mapping(pid, other, false));
	assert_int_equal(stop_once(pid, false), other);
	assert_int_equal(tracee_traces_count(traces), 0);
	end(pid);
}

static void test_is_cleaned(void **state)
{
	struct error error = ERROR_INIT;
	pid_t pid = start();
	char before[1 << 16];

	snprintf(before, sizeof(before), "%s", read_maps_text(pid));
	stop_once(pid, true);
	must(tracee_traces_clean(traces, DEADLINE, &error), &error);
	assert_int_equal(tracee_traces_count(traces), 0);
	assert_string_equal(read_maps_text(pid), before);
	check_alive();
	end(pid);
}

static void test_grows(void **state)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	pid_t pid = start();
	uint64_t address = stop_once(pid, true);

	must(tracee_process_stop(pid, &(struct tracee_options){ traces, hints, false }, DEADLINE, &process, &error), &error);
	assert_int_equal(process->area_address, address);
	must(tracee_process_reserve_area(process, 100, 4096, DEADLINE, &error), &error);
	assert_int_equal(tracee_traces_count(traces), 1);
	tracee_process_release(process);
	assert_int_equal(tracee_traces_count(traces), 0);
	end(pid);
}

static void test_process_ends(void **state)
{
	pid_t pid = start();

	stop_once(pid, true);
	tracee_hints_prune(hints);
	assert_int_equal(tracee_traces_count(traces), 1);
	end_victim(pid);
	tracee_hints_prune(hints);
	assert_int_equal(tracee_traces_count(traces), 0);
	tracee_hints_free(hints);
	tracee_traces_free(traces);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_stays_and_goes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_is_hidden, setup, teardown),
		cmocka_unit_test_setup_teardown(test_program_execs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_is_cleaned, setup, teardown),
		cmocka_unit_test_setup_teardown(test_grows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_process_ends, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
