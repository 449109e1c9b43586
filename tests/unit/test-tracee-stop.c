/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stopping: whole trees, threads and children that come and go meanwhile, stopped and traced
 * processes, bad PIDs. */
#include "tracee-common.h"

#include <sys/ptrace.h>

#define PF_KTHREAD 0x00200000U /* flags of /proc/PID/stat */

/* ---- victims */

static void *thread_work(void *data)
{
	struct timespec pause_time = { .tv_nsec = 1000 * 1000 };

	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		atomic_fetch_add(&shared->counter, 1);
		nanosleep(&pause_time, NULL);
	}
	return NULL;
}

static void start_threads(int count)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < count; i++) {
		if (pthread_create(&thread, &attr, thread_work, NULL) != 0)
			atomic_store(&shared->wrong, 1);
	}
}

static void work_256(void)
{
	start_threads(255);
	thread_work(NULL);
}

static void *thread_short(void *data)
{
	atomic_fetch_add(&shared->counter, 1);
	return NULL;
}

/* Threads are made and end all the time. */
static void work_storm(void)
{
	start_threads(4);
	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		pthread_t threads[8];

		for (int i = 0; i < 8; i++) {
			if (pthread_create(&threads[i], NULL, thread_short, NULL) != 0)
				atomic_store(&shared->wrong, 1);
		}
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
	}
}

/* Children are made and end all the time, each makes one of its own. */
static void work_fork_storm(void)
{
	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		pid_t pid = fork();

		if (pid == 0) {
			pid_t inner = fork();

			atomic_fetch_add(&shared->counter, 1);
			if (inner == 0)
				_exit(3);
			int status = 0;

			if (waitpid(inner, &status, 0) != inner || WEXITSTATUS(status) != 3)
				atomic_store(&shared->wrong, 2);
			_exit(4);
		}
		int status = 0;

		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
		    WEXITSTATUS(status) != 4)
			atomic_store(&shared->wrong, 1);
	}
}

static void work_family(void)
{
	for (int i = 0; i < 3; i++) {
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			start_threads(2);
			if (i == 1 && fork() == 0)
				prctl(PR_SET_PDEATHSIG, SIGKILL);
			thread_work(NULL);
		}
	}
	thread_work(NULL);
}

/* The group leader ends, a thread runs on. */
static void work_leaderless(void)
{
	start_threads(2);
	syscall(SYS_exit, 0);
}

static void work_vfork(void)
{
	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		pid_t pid = vfork();
		int status;

		if (pid == 0) {
			execl("/bin/true", "true", NULL);
			_exit(9);
		}
		if (waitpid(pid, &status, 0) != pid || status != 0)
			atomic_store(&shared->wrong, 1);
		atomic_fetch_add(&shared->counter, 1);
	}
}

/* ---- helpers */

static bool is_stopped(pid_t tid)
{
	struct procfs_stat stat;

	return procfs_read_stat(tid, &stat, NULL) == 0 && stat.state == 't';
}

/* Nothing that belongs to the tree runs, and nothing is missing from it. */
static void check_whole(const struct tracee_tree *tree)
{
	array_for_each (process, &tree->processes) {
		struct procfs_pids tids = { 0 }, children = { 0 };

		assert_int_equal(procfs_read_threads((*process)->pid, &tids, NULL), 0);
		array_for_each (tid, &tids) {
			struct procfs_stat stat;

			if (procfs_read_stat(*tid, &stat, NULL) < 0 || stat.state == 'Z' ||
			    stat.state == 'X')
				continue;
			assert_non_null(tracee_process_find(*process, *tid));
			assert_true(is_stopped(*tid));
		}
		assert_int_equal(procfs_read_children((*process)->pid, &children, NULL), 0);
		array_for_each (child, &children) {
			struct procfs_stat stat;

			if (procfs_read_stat(*child, &stat, NULL) < 0 || stat.state == 'Z' ||
			    stat.state == 'X')
				continue;
			assert_non_null(tracee_tree_find(tree, *child));
		}
		array_deinit(&tids);
		array_deinit(&children);
	}
}

static void stop_often(pid_t pid, int rounds)
{
	struct error error = ERROR_INIT;

	for (int i = 0; i < rounds; i++) {
		struct tracee_tree *tree;
		uint64_t before;
		int64_t result;

		must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
		check_whole(tree);
		before = atomic_load(&shared->counter);
		array_for_each (process, &tree->processes) {
			must(tracee_thread_call((*process)->threads.items[0], DEADLINE, &result,
						&error, SYS_getpid, 0, 0, 0, 0, 0, 0),
			     &error);
			assert_int_equal(result, (*process)->pid);
		}
		assert_int_equal(atomic_load(&shared->counter), before);
		tracee_tree_release(tree);
		check_alive();
	}
}

/* ---- tests */

static void test_256_threads(void **state)
{
	pid_t pid = start_victim(work_256);
	struct error error = ERROR_INIT;
	int64_t best_stop = INT64_MAX, best_batch = INT64_MAX, best_release = INT64_MAX;
	struct tracee_batch *batches[256];

	wait_ready(256);
	for (int i = 0; i < 256; i++) {
		batches[i] = tracee_batch_new();
		for (int j = 0; j < 10; j++)
			tracee_batch_call(batches[i], SYS_gettid);
	}
	for (int i = 0; i < 10; i++) {
		struct tracee_tree *tree;
		int64_t times[4];

		times[0] = clock_now_ns();
		must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
		times[1] = clock_now_ns();
		assert_int_equal(tree->processes.items[0]->threads.count, 256);
		must(tracee_batch_run_many(tree->processes.items[0]->threads.items, batches, 256,
					   DEADLINE, &error),
		     &error);
		times[2] = clock_now_ns();
		tracee_tree_release(tree);
		times[3] = clock_now_ns();
		best_stop = times[1] - times[0] < best_stop ? times[1] - times[0] : best_stop;
		best_batch = times[2] - times[1] < best_batch ? times[2] - times[1] : best_batch;
		best_release = times[3] - times[2] < best_release ? times[3] - times[2]
								  : best_release;
	}
	print_message(
		"256 threads: stop %lld us, a batch of 10 calls in each %lld us, release %lld us\n",
		(long long)best_stop / 1000, (long long)best_batch / 1000,
		(long long)best_release / 1000);
	for (int i = 0; i < 256; i++)
		tracee_batch_free(batches[i]);
	check_alive();
	end_victim(pid);
}

static void test_one_thread_times(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	int64_t best = INT64_MAX, total = 0;

	wait_ready(1);
	for (int i = 0; i < 50; i++) {
		struct tracee_process *process;
		int64_t result, begin = clock_now_ns(), spent;

		must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
		must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error,
					SYS_getpid, 0, 0, 0, 0, 0, 0),
		     &error);
		tracee_process_release(process);
		spent = clock_now_ns() - begin;
		best = spent < best ? spent : best;
		total += spent;
	}
	print_message("one thread: stop, one batch, release: best %lld us, mean %lld us\n",
		      (long long)best / 1000, (long long)total / 50000);
	end_victim(pid);
}

static void test_thread_storm(void **state)
{
	pid_t pid = start_victim(work_storm);

	wait_ready(5);
	stop_often(pid, 40);
	end_victim(pid);
}

static void test_fork_storm(void **state)
{
	pid_t pid = start_victim(work_fork_storm);

	wait_ready(1);
	stop_often(pid, 40);
	end_victim(pid);
}

static void test_vfork(void **state)
{
	pid_t pid = start_victim(work_vfork);

	wait_ready(1);
	stop_often(pid, 20);
	end_victim(pid);
}

static void test_family(void **state)
{
	pid_t pid = start_victim(work_family);
	struct error error = ERROR_INIT;
	struct tracee_tree *tree;

	wait_ready(11);
	must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
	assert_int_equal(tree->processes.count, 5);
	assert_int_equal(tree->processes.items[0]->pid, pid);
	assert_ptr_equal(tree->processes.items[4]->parent, tree->processes.items[2]);
	check_whole(tree);
	tracee_tree_release(tree);
	check_alive();
	end_victim(pid);
}

static void test_leaderless(void **state)
{
	pid_t pid = start_victim(work_leaderless);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	int64_t result;

	wait_ready(2);
	usleep(20000);
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	assert_true(process->leader_dead);
	must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error, SYS_getpid, 0,
				0, 0, 0, 0, 0),
	     &error);
	assert_int_equal(result, pid);
	tracee_process_release(process);
	stop_often(pid, 3);
	end_victim(pid);
}

/* A process stopped by SIGSTOP is used and stays stopped. */
static void test_group_stop(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct tracee_tree *tree;
	struct procfs_stat stat;
	int64_t result;
	uint64_t before;

	wait_ready(1);
	kill(pid, SIGSTOP);
	usleep(20000);
	must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
	assert_true(tree->processes.items[0]->threads.items[0]->group_stopped);
	must(tracee_thread_call(tree->processes.items[0]->threads.items[0], DEADLINE, &result,
				&error, SYS_getpid, 0, 0, 0, 0, 0, 0),
	     &error);
	assert_int_equal(result, pid);
	tracee_tree_release(tree);
	usleep(20000);
	before = atomic_load(&shared->counter);
	usleep(20000);
	assert_int_equal(atomic_load(&shared->counter), before);
	assert_int_equal(procfs_read_stat(pid, &stat, NULL), 0);
	assert_int_equal(stat.state, 'T');
	kill(pid, SIGCONT);
	check_alive();
	end_victim(pid);
}

/* SIGSTOP and SIGCONT while it is stopped by us take effect at release. */
static void test_stop_signal_meanwhile(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct tracee_tree *tree;
	struct procfs_stat stat;
	int64_t result;

	wait_ready(1);
	must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
	kill(pid, SIGSTOP);
	must(tracee_thread_call(tree->processes.items[0]->threads.items[0], DEADLINE, &result,
				&error, SYS_getpid, 0, 0, 0, 0, 0, 0),
	     &error);
	assert_int_equal(result, pid);
	tracee_tree_release(tree);
	usleep(20000);
	assert_int_equal(procfs_read_stat(pid, &stat, NULL), 0);
	assert_int_equal(stat.state, 'T');
	kill(pid, SIGCONT);
	check_alive();
	end_victim(pid);
}

static void on_alarm(int sig)
{
	atomic_fetch_add(&shared->signals, 1);
}

/* A storm of signals with a handler: each that was sent arrives. */
static void work_real_time(void)
{
	struct sigaction action = { .sa_handler = on_alarm };

	sigaction(SIGRTMIN, &action, NULL);
	work_count();
}

static void test_signal_storm(void **state)
{
	pid_t pid = start_victim(work_real_time);
	union sigval none = { 0 };
	pid_t sender;
	int status;

	wait_ready(1);
	sender = fork();
	if (sender == 0) {
		for (int i = 0; i < 20000; i++) {
			while (sigqueue(pid, SIGRTMIN, none) < 0)
				usleep(10);
		}
		_exit(0);
	}
	stop_often(pid, 200);
	assert_int_equal(waitpid(sender, &status, 0), sender);
	for (int i = 0; i < 2000 && atomic_load(&shared->signals) < 20000; i++)
		usleep(1000);
	assert_int_equal(atomic_load(&shared->signals), 20000);
	end_victim(pid);
}

static void expect_failure(pid_t pid, int code, const char *text)
{
	struct error error = ERROR_INIT;
	struct tracee_tree *tree = NULL;
	struct tracee_process *process = NULL;

	assert_int_equal(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), code);
	if (!strstr(error.message, text))
		fail_msg("'%s' lacks '%s'", error.message, text);
	error_clear(&error);
	assert_int_equal(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), code);
	assert_null(tree);
	assert_null(process);
}

/* The child runs on in the parent's memory; the parent waits for its execve or end, which only SIGKILL interrupts. */
static void work_long_vfork(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		atomic_fetch_add(&shared->ready, 1);
		while (!atomic_load(&shared->stop))
			atomic_fetch_add(&shared->counter, 1);
		_exit(0);
	}
	pause();
}

static void test_does_not_stop(void **state)
{
	pid_t pid = start_victim(work_long_vfork);
	struct error error = ERROR_INIT;
	struct tracee_process *process;

	wait_ready(1);
	assert_int_equal(tracee_process_stop(pid, NULL, clock_deadline(20 * CLOCK_MS), &process, &error), -ETIMEDOUT);
	print_message("%s\n", error.message);
	assert_non_null(strstr(error.message, "did not stop in time"));
	assert_non_null(strstr(error.message, "(victim)"));
	assert_non_null(strstr(error.message, "state D"));
	atomic_store(&shared->stop, 1);
	end_victim(pid);
}

/* PID 2 is one, but not in a PID namespace of our own, such as a container's. */
static void test_kernel_thread(void **state)
{
	struct procfs_stat stat;

	if (procfs_read_stat(2, &stat, NULL) < 0 || !(stat.flags & PF_KTHREAD)) {
		print_message("no thread of the kernel is visible here\n");
		skip();
	}
	expect_failure(2, -EPERM, "kernel thread");
}

static void test_bad_pids(void **state)
{
	pid_t zombie = fork(), tracer, pid;
	int fds[2];
	char byte;

	if (zombie == 0)
		_exit(0);
	usleep(20000);
	expect_failure(zombie, -ESRCH, "zombie");
	waitpid(zombie, NULL, 0);
	expect_failure(zombie, -ESRCH, "no process");
	expect_failure(getpid(), -EINVAL, "itself");

	pid = start_victim(work_count);
	wait_ready(1);
	assert_int_equal(pipe(fds), 0);
	tracer = fork();
	if (tracer == 0) {
		if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0 && write(fds[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(fds[0], &byte, 1), 1);
	expect_failure(pid, -EBUSY, "is traced by PID");
	kill(tracer, SIGKILL);
	waitpid(tracer, NULL, 0);
	close(fds[0]);
	close(fds[1]);
	check_alive();
	end_victim(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_thread_times, setup, teardown),
		cmocka_unit_test_setup_teardown(test_256_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_thread_storm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fork_storm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vfork, setup, teardown),
		cmocka_unit_test_setup_teardown(test_family, setup, teardown),
		cmocka_unit_test_setup_teardown(test_leaderless, setup, teardown),
		cmocka_unit_test_setup_teardown(test_group_stop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_signal_meanwhile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signal_storm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_does_not_stop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kernel_thread, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_pids, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
