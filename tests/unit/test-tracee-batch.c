/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Batches in forked victims: results, references, bytes, failures, deadlines, and nothing changed
 * afterwards. */
#include "tracee-common.h"

/* Fills all registers and vector registers, spins, and compares. */
static void work_registers(void)
{
	uint64_t in[16], out[16];
	uint64_t vectors[32], vectors_out[32];

	for (int i = 0; i < 16; i++)
		in[i] = UINT64_C(0x1111111111111111) * (unsigned)i;
	for (int i = 0; i < 32; i++)
		vectors[i] = UINT64_C(0x0123456789abcdef) + (unsigned)i;
	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		uint64_t *saved = out;

		__asm__ volatile("movdqu 0(%[v]), %%xmm0\n movdqu 16(%[v]), %%xmm1\n movdqu "
				 "32(%[v]), %%xmm7\n"
				 "movdqu 48(%[v]), %%xmm15\n"
				 "push %%rbp\n push %[o]\n push %[w]\n"
				 "mov 8(%[i]), %%rbx\n mov 16(%[i]), %%r8\n mov 24(%[i]), %%r9\n "
				 "mov 32(%[i]), %%r10\n"
				 "mov 40(%[i]), %%r12\n mov 48(%[i]), %%r13\n mov 56(%[i]), "
				 "%%r14\n mov 64(%[i]), %%r15\n"
				 "mov 72(%[i]), %%rbp\n mov 80(%[i]), %%rdx\n"
				 "mov $200000, %%rcx\n"
				 "1: dec %%rcx\n jnz 1b\n"
				 "pop %%rsi\n pop %%rax\n"
				 "mov %%rbx, 8(%%rax)\n mov %%r8, 16(%%rax)\n mov %%r9, "
				 "24(%%rax)\n mov %%r10, 32(%%rax)\n"
				 "mov %%r12, 40(%%rax)\n mov %%r13, 48(%%rax)\n mov %%r14, "
				 "56(%%rax)\n mov %%r15, 64(%%rax)\n"
				 "mov %%rbp, 72(%%rax)\n mov %%rdx, 80(%%rax)\n"
				 "pop %%rbp\n"
				 "movdqu %%xmm0, 0(%%rsi)\n movdqu %%xmm1, 16(%%rsi)\n movdqu "
				 "%%xmm7, 32(%%rsi)\n"
				 "movdqu %%xmm15, 48(%%rsi)\n"
				 : [o] "+a"(saved)
				 : [i] "D"(in), [v] "S"(vectors), [w] "d"(vectors_out)
				 : "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
				   "r15", "memory", "cc", "xmm0", "xmm1", "xmm7", "xmm15");
		if (memcmp(in + 1, out + 1, 10 * sizeof(uint64_t)) != 0 ||
		    memcmp(vectors, vectors_out, 64) != 0)
			atomic_store(&shared->wrong, 1);
		atomic_fetch_add(&shared->counter, 1);
	}
}

static void *thread_count(void *data)
{
	volatile char *mine = data;

	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		atomic_fetch_add(&shared->counter, 1);
		(*mine)++;
		usleep(1000);
	}
	return NULL;
}

static void work_threads(void)
{
	static char places[64];
	pthread_t thread;

	for (int i = 0; i < 31; i++)
		pthread_create(&thread, NULL, thread_count, places + i);
	thread_count(places + 31);
}

/* ---- tests */

static void test_results(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_batch *batch;
	uint64_t space, name;
	int pid_at, open_at, dup_at;
	char maps[1 << 16];

	wait_ready(1);
	strcpy(maps, read_maps_text(pid));
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	assert_int_equal(process->threads.count, 1);
	batch = tracee_batch_new();
	name = tracee_batch_string(batch, "/proc/self/comm");
	space = tracee_batch_space(batch, 64);
	pid_at = tracee_batch_call(batch, SYS_getpid);
	open_at = tracee_batch_call(batch, SYS_openat, AT_FDCWD, name, O_RDONLY);
	dup_at = tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(open_at), 77, O_CLOEXEC);
	tracee_batch_call(batch, SYS_read, 77, space, 64);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(open_at));
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(dup_at));
	for (int round = 0; round < 3; round++) {
		must(tracee_batch_run(process->threads.items[0], batch, DEADLINE, &error), &error);
		assert_int_equal(tracee_batch_result(batch, pid_at), pid);
		assert_int_equal(tracee_batch_result(batch, dup_at), 77);
		assert_memory_equal(tracee_batch_output(batch, space), "victim\n", 7);
	}
	tracee_batch_free(batch);
	tracee_process_release(process);
	assert_string_equal(read_maps_text(pid), maps);
	check_alive();
	end_victim(pid);
}

/* An iovec that points at other bytes of the batch. */
static void test_pointers(void **state)
{
	pid_t pid = start_victim(work_pause);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_batch *batch = tracee_batch_new();
	struct iovec iov[2] = { { NULL, 3 }, { NULL, 4 } };
	uint64_t token, pipes, out;
	int write_at, read_at, fds[2];

	wait_ready(1);
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	pipes = tracee_batch_space(batch, 8);
	tracee_batch_call(batch, SYS_pipe2, pipes, 0);
	must(tracee_batch_run(process->threads.items[0], batch, DEADLINE, &error), &error);
	memcpy(fds, tracee_batch_output(batch, pipes), sizeof(fds));
	tracee_batch_clear(batch);
	token = tracee_batch_data(batch, iov, sizeof(iov));
	tracee_batch_point(batch, token, tracee_batch_data(batch, "abc", 3));
	tracee_batch_point(batch, token + sizeof(iov[0]), tracee_batch_data(batch, "defg", 4));
	out = tracee_batch_space(batch, 16);
	write_at = tracee_batch_call(batch, SYS_writev, fds[1], token, 2);
	read_at = tracee_batch_call(batch, SYS_read, fds[0], out, 16);
	tracee_batch_call(batch, SYS_close, fds[0]);
	tracee_batch_call(batch, SYS_close, fds[1]);
	must(tracee_batch_run(process->threads.items[0], batch, DEADLINE, &error), &error);
	assert_int_equal(tracee_batch_result(batch, write_at), 7);
	assert_int_equal(tracee_batch_result(batch, read_at), 7);
	assert_memory_equal(tracee_batch_output(batch, out), "abcdefg", 7);
	tracee_batch_free(batch);
	tracee_process_release(process);
	end_victim(pid);
}

static void test_failing_call(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_batch *batch = tracee_batch_new();
	char expected[128];
	int may_fail, fails, not_reached, r;
	int64_t result;

	wait_ready(1);
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	may_fail = tracee_batch_try(batch, SYS_close, 999);
	fails = tracee_batch_call(batch, SYS_openat, AT_FDCWD,
				  tracee_batch_string(batch, "/does/not/exist"), O_RDONLY);
	not_reached = tracee_batch_call(batch, SYS_getpid);
	r = tracee_batch_run(process->threads.items[0], batch, DEADLINE, &error);
	assert_int_equal(r, -ENOENT);
	snprintf(expected, sizeof(expected), "PID %d: openat: No such file or directory", pid);
	assert_string_equal(error.message, expected);
	assert_int_equal(tracee_batch_result(batch, may_fail), -EBADF);
	assert_int_equal(tracee_batch_result(batch, fails), -ENOENT);
	assert_int_equal(tracee_batch_result(batch, not_reached), -ECANCELED);
	error_clear(&error);
	must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error, SYS_getppid,
				0, 0, 0, 0, 0, 0),
	     &error);
	assert_int_equal(result, getpid());
	tracee_batch_free(batch);
	tracee_process_release(process);
	check_alive();
	end_victim(pid);
}

static void test_deadline(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_batch *batch = tracee_batch_new();
	int64_t result;
	int r;

	wait_ready(1);
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	tracee_batch_call(batch, SYS_getpid);
	tracee_batch_call(batch, SYS_pause);
	r = tracee_batch_run(process->threads.items[0], batch, clock_deadline(30 * CLOCK_MS),
			     &error);
	assert_int_equal(r, -ETIMEDOUT);
	assert_non_null(strstr(error.message, "pause did not return in time"));
	error_clear(&error);
	must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error, SYS_getpid, 0,
				0, 0, 0, 0, 0),
	     &error);
	assert_int_equal(result, pid);
	tracee_batch_free(batch);
	tracee_process_release(process);
	check_alive();
	end_victim(pid);
}

static void test_registers_unchanged(void **state)
{
	pid_t pid = start_victim(work_registers);
	struct error error = ERROR_INIT;

	wait_ready(1);
	for (int i = 0; i < 200; i++) {
		struct tracee_process *process;
		int64_t result;

		must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
		must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error,
					SYS_gettid, 0, 0, 0, 0, 0, 0),
		     &error);
		assert_int_equal(result, pid);
		tracee_process_release(process);
	}
	check_alive();
	end_victim(pid);
}

/* One batch in each of 32 threads at the same time, twice; a larger one makes the area grow. */
static void test_many(void **state)
{
	pid_t pid = start_victim(work_threads);
	struct error error = ERROR_INIT;
	struct tracee_tree *tree;
	struct tracee_process *process;
	struct tracee_batch *batches[32];
	char *maps, *big = calloc(1, 200000);
	uint64_t space[32];
	char before[1 << 16];

	wait_ready(32);
	maps = read_maps_text(pid);
	strcpy(before, maps);
	must(tracee_tree_stop(pid, NULL, DEADLINE, &tree, &error), &error);
	process = tree->processes.items[0];
	assert_int_equal(process->threads.count, 32);
	for (int i = 0; i < 32; i++) {
		batches[i] = tracee_batch_new();
		space[i] = tracee_batch_space(batches[i], sizeof(stack_t));
		tracee_batch_call(batches[i], SYS_gettid);
		tracee_batch_call(batches[i], SYS_sigaltstack, 0, space[i]);
	}
	for (int round = 0; round < 3; round++) {
		if (round == 2)
			tracee_batch_data(batches[7], big, 200000);
		must(tracee_batch_run_many(process->threads.items, batches, 32, DEADLINE, &error),
		     &error);
		for (int i = 0; i < 32; i++) {
			const stack_t *stack = tracee_batch_output(batches[i], space[i]);

			assert_int_equal(tracee_batch_result(batches[i], 0),
					 process->threads.items[i]->tid);
			assert_int_equal(stack->ss_flags & SS_ONSTACK, 0);
		}
	}
	for (int i = 0; i < 32; i++)
		tracee_batch_free(batches[i]);
	free(big);
	tracee_tree_release(tree);
	assert_string_equal(read_maps_text(pid), before);
	check_alive();
	end_victim(pid);
}

/* ---- signals */

static void on_signal(int sig)
{
	atomic_fetch_add(&shared->signals, 1);
}

static void work_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &action, NULL);
	work_count();
}

/* All signals that could end a batch are handled by the victim: none of them may be used, none
 * lost. */
static void work_all_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGURG, &action, NULL);
	sigaction(SIGWINCH, &action, NULL);
	sigaction(SIGCHLD, &action, NULL);
	sigaction(SIGCONT, &action, NULL);
	work_count();
}

/* They are blocked and read from a descriptor instead. */
static void work_signalfd(void)
{
	struct signalfd_siginfo info;
	sigset_t all;
	int fd;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	fd = signalfd(-1, &all, SFD_NONBLOCK);
	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		atomic_fetch_add(&shared->counter, 1);
		if (read(fd, &info, sizeof(info)) == sizeof(info))
			atomic_fetch_add(&shared->signals, 1);
	}
}

static void run_and_signal(pid_t pid, int sig, int rounds)
{
	struct error error = ERROR_INIT;
	struct timespec pause = { .tv_nsec = 100 * 1000 };
	struct tracee_batch *batch = tracee_batch_new();

	/* long enough for the signal to arrive in the middle */
	for (int i = 0; i < 30; i++)
		tracee_batch_call(batch, SYS_nanosleep,
				  tracee_batch_data(batch, &pause, sizeof(pause)), 0);
	for (int i = 1; i <= rounds; i++) {
		struct tracee_process *process;
		pid_t sender;
		int status;

		must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
		sender = fork();
		if (sender == 0) {
			usleep(1000);
			_exit(kill(pid, sig));
		}
		must(tracee_batch_run(process->threads.items[0], batch, DEADLINE, &error), &error);
		for (size_t j = 0; j < tracee_batch_count(batch); j++)
			assert_int_equal(tracee_batch_result(batch, (int)j), 0);
		assert_int_equal(waitpid(sender, &status, 0), sender);
		tracee_process_release(process);
		for (int j = 0; j < 2000 && atomic_load(&shared->signals) < i; j++)
			usleep(1000);
		assert_int_equal(atomic_load(&shared->signals), i);
	}
	tracee_batch_free(batch);
	check_alive();
}

static void test_signal_in_stub(void **state)
{
	pid_t pid = start_victim(work_signals);

	wait_ready(1);
	run_and_signal(pid, SIGUSR1, 10);
	end_victim(pid);
}

static void test_signal_ending_batches_handled(void **state)
{
	pid_t pid = start_victim(work_all_signals);

	wait_ready(1);
	run_and_signal(pid, SIGURG, 5);
	end_victim(pid);
}

static void test_signal_ending_batches_waited_for(void **state)
{
	pid_t pid = start_victim(work_signalfd);

	wait_ready(1);
	run_and_signal(pid, SIGURG, 10);
	end_victim(pid);
}

/* The signal comes before the stop and is blocked there: it stays pending, once. */
static void test_pending(void **state)
{
	pid_t pid = start_victim(work_pause);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_siginfos infos = { 0 };
	int64_t result;
	union sigval value = { .sival_int = 4711 };

	wait_ready(1);
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	assert_int_equal(sigqueue(pid, SIGRTMIN + 3, value), 0);
	assert_int_equal(sigqueue(pid, SIGRTMIN + 3, value), 0);
	assert_int_equal(syscall(SYS_tgkill, pid, pid, SIGURG), 0);
	must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error, SYS_getpid, 0,
				0, 0, 0, 0, 0),
	     &error);
	must(tracee_thread_peek_signals(process->threads.items[0], true, &infos, &error), &error);
	assert_int_equal(infos.count, 2);
	assert_int_equal(infos.items[1].si_signo, SIGRTMIN + 3);
	assert_int_equal(infos.items[1].si_value.sival_int, 4711);
	array_clear(&infos);
	must(tracee_thread_peek_signals(process->threads.items[0], false, &infos, &error), &error);
	assert_int_equal(infos.count, 1);
	assert_int_equal(infos.items[0].si_signo, SIGURG);
	array_deinit(&infos);
	kill(pid, SIGKILL);
	tracee_process_release(process);
	waitpid(pid, NULL, 0);
}

/* ---- system calls that were interrupted */

static void work_nanosleep(void)
{
	struct timespec half = { .tv_nsec = 300 * 1000 * 1000 };
	int64_t begin = clock_now_ns();

	atomic_fetch_add(&shared->ready, 1);
	if (nanosleep(&half, NULL) != 0)
		atomic_store(&shared->wrong, errno);
	atomic_store(&shared->value, (int)((clock_now_ns() - begin) / CLOCK_MS));
	for (;;)
		pause();
}

static void test_sleep_goes_on(void **state)
{
	pid_t pid = start_victim(work_nanosleep);
	struct error error = ERROR_INIT;

	wait_ready(1);
	for (int i = 0; i < 20; i++) {
		struct tracee_process *process;
		int64_t result;

		must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
		must(tracee_thread_call(process->threads.items[0], DEADLINE, &result, &error,
					SYS_getpid, 0, 0, 0, 0, 0, 0),
		     &error);
		tracee_process_release(process);
		usleep(10000);
	}
	for (int i = 0; i < 1000 && !atomic_load(&shared->value); i++)
		usleep(1000);
	/* the remaining time is kept: it does not start anew at each stop */
	assert_in_range(atomic_load(&shared->value), 300, 400);
	end_victim(pid);
}

/* ---- 32-bit, undo, move */

static void count_undo(struct tracee_process *process, void *data)
{
	int64_t result = 0;

	assert_non_null(process);
	assert_int_equal(tracee_thread_call(process->threads.items[0], DEADLINE, &result, NULL,
					    SYS_getpid, 0, 0, 0, 0, 0, 0),
			 0);
	assert_int_equal(result, process->pid);
	*(int *)data = *(int *)data * 10 + 1;
}

static void count_undo_two(struct tracee_process *process, void *data)
{
	*(int *)data = *(int *)data * 10 + 2;
}

static void test_undo_order(void **state)
{
	pid_t pid = start_victim(work_count);
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	int order = 0, dropped = 0;

	wait_ready(1);
	must(tracee_process_stop(pid, NULL, DEADLINE, &process, &error), &error);
	assert_int_equal(tracee_process_add_undo(process, count_undo, &order), 0);
	assert_int_equal(tracee_process_add_undo(process, count_undo_two, &dropped), 0);
	assert_int_equal(tracee_process_add_undo(process, count_undo_two, &order), 0);
	tracee_process_drop_undo(process, count_undo_two, &dropped);
	tracee_process_release(process);
	assert_int_equal(order, 21);
	assert_int_equal(dropped, 0);
	check_alive();
	end_victim(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_results, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pointers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failing_call, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(test_registers_unchanged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signal_in_stub, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signal_ending_batches_handled, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_signal_ending_batches_waited_for, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_pending, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sleep_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_undo_order, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
