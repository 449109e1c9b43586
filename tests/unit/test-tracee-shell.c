/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shells: adopted, moved, multiplied by clone3 under wanted PIDs, given their final state, let go;
 * dying with the tracer. */
#include "tracee-common.h"

#include <sys/ptrace.h>

#define STACK_SIZE 65536

static char stacks[4][STACK_SIZE] __attribute__((aligned(64)));

/* What the final state lets a thread do: tell what it sees, then count. */
static void __attribute__((noreturn)) thread_entry(uint64_t number)
{
	uint64_t vector;
	sigset_t mask;

	__asm__ volatile("movq %%xmm3, %0" : "=r"(vector));
	if (vector != UINT64_C(0xabcd000000000000) + number)
		atomic_store(&shared->wrong, 1);
	/* no C library calls on this stack: its thread pointer is another thread's */
	__asm__ volatile("syscall"
			 :
			 : "a"(SYS_rt_sigprocmask), "D"(SIG_SETMASK), "S"(NULL), "d"(&mask),
			   "r"((uint64_t)8)
			 : "rcx", "r11", "memory");
	atomic_fetch_add(&shared->ready, 1);
	for (;;)
		atomic_fetch_add(&shared->counter, number ? 1 : 0);
}

static struct tracee_process *new_shell(pid_t *ret_pid)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process = NULL;
	siginfo_t info;
	pid_t pid = start_victim(work_pause);

	wait_ready(1);
	atomic_store(&shared->ready, 0);
	assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL), 0);
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED | __WALL), 0);
	must(tracee_process_adopt(pid, 0x10000000, NULL, DEADLINE, &process, &error), &error);
	*ret_pid = pid;
	return process;
}

static int64_t call(struct tracee_thread *thread, long nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	struct error error = ERROR_INIT;
	int64_t result = 0;

	must(tracee_thread_call(thread, DEADLINE, &result, &error, nr, a0, a1, a2, 0, 0, 0),
	     &error);
	return result;
}

static void aim(struct tracee_thread *thread, unsigned number)
{
	struct error error = ERROR_INIT;
	struct user_regs_struct regs = thread->regs;
	static uint8_t xstate[TRACEE_XSTATE_MAX];
	uint64_t value = UINT64_C(0xabcd000000000000) + number, bv;
	size_t size;

	regs.rip = (uint64_t)(uintptr_t)thread_entry;
	regs.rdi = number;
	regs.rsp = (uint64_t)(uintptr_t)(stacks[number] + STACK_SIZE - 8);
	regs.orig_rax = UINT64_MAX;
	tracee_thread_set_regs(thread, &regs);
	tracee_thread_set_sigmask(thread, UINT64_C(1) << number);
	must(tracee_thread_get_xstate(thread, xstate, sizeof(xstate), &size, &error), &error);
	memcpy(xstate + 160 + 3 * 16, &value, sizeof(value));
	memcpy(&bv, xstate + 512, sizeof(bv));
	bv |= 3;
	memcpy(xstate + 512, &bv, sizeof(bv));
	must(tracee_thread_set_xstate(thread, xstate, size, &error), &error);
}

static uint64_t read_blocked(pid_t tid)
{
	char value[32];

	assert_int_equal(procfs_read_status(tid, "SigBlk", value, sizeof(value), NULL), 0);
	return strtoull(value, NULL, 16);
}

/* A PID that is free now. */
static pid_t free_pid(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	return pid + 300;
}

static void test_build(void **state)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process, *child;
	struct tracee_thread *thread, *unwanted;
	pid_t pid, wanted = free_pid();
	char maps[1 << 16];

	process = new_shell(&pid);
	strcpy(maps, read_maps_text(pid));
	assert_int_equal(call(process->threads.items[0], SYS_getpid, 0, 0, 0), pid);
	assert_int_equal(process->area_address, 0x10000000);
	must(tracee_process_move_area(process, 0x20000000, DEADLINE, &error), &error);
	assert_int_equal(call(process->threads.items[0], SYS_getpid, 0, 0, 0), pid);
	assert_null(strstr(read_maps_text(pid), "\n10000000-"));
	must(tracee_process_reserve_area(process, 4, 100000, DEADLINE, &error), &error);
	assert_int_equal(process->area_address, 0x20000000);
	assert_true(process->area_size >= tracee_area_size(4, 100000));

	must(tracee_thread_clone(process->threads.items[0], wanted, DEADLINE, &thread, &error),
	     &error);
	assert_int_equal(thread->tid, wanted);
	assert_int_equal(call(thread, SYS_gettid, 0, 0, 0), wanted);
	must(tracee_thread_clone(thread, 0, DEADLINE, &unwanted, &error), &error);
	assert_int_equal(tracee_thread_clone(thread, wanted, DEADLINE, &unwanted, &error), -EEXIST);
	assert_non_null(strstr(error.message, "is in use"));
	error_clear(&error);
	assert_int_equal(process->threads.count, 3);
	must(tracee_thread_end(unwanted, DEADLINE, &error), &error);
	assert_int_equal(process->threads.count, 2);

	must(tracee_process_clone(process->threads.items[0], wanted + 1, 0, SIGCHLD, DEADLINE,
				  &child, &error),
	     &error);
	assert_int_equal(child->pid, wanted + 1);
	assert_int_equal(call(child->threads.items[0], SYS_getpid, 0, 0, 0), wanted + 1);
	assert_int_equal(call(child->threads.items[0], SYS_getppid, 0, 0, 0), pid);

	aim(process->threads.items[0], 0);
	aim(thread, 1);
	aim(child->threads.items[0], 2);
	assert_int_equal(call(thread, SYS_gettid, 0, 0, 0), wanted);
	must(tracee_process_finish(process, DEADLINE, &error), &error);
	must(tracee_process_finish(child, DEADLINE, &error), &error);
	assert_string_equal(read_maps_text(pid), maps);
	assert_string_equal(read_maps_text(child->pid), maps);
	must(tracee_process_keep(process, &error), &error);
	must(tracee_process_keep(child, &error), &error);
	tracee_process_detach(child);
	tracee_process_detach(process);
	wait_ready(3);
	check_alive();
	assert_int_equal(read_blocked(pid), 1);
	assert_int_equal(read_blocked(wanted), 2);
	assert_int_equal(read_blocked(wanted + 1), 4);
	kill(wanted + 1, SIGKILL);
	end_victim(pid);
}

/* Many threads, and a batch in each. */
static void test_many_threads(void **state)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_thread *thread;
	struct tracee_batch *batches[256];
	int64_t times[4];
	pid_t pid;

	process = new_shell(&pid);
	times[0] = clock_now_ns();
	must(tracee_process_reserve_area(process, 256, 4096, DEADLINE, &error), &error);
	for (int i = 1; i < 256; i++)
		must(tracee_thread_clone(process->threads.items[0], 0, DEADLINE, &thread, &error),
		     &error);
	times[1] = clock_now_ns();
	for (int i = 0; i < 256; i++) {
		batches[i] = tracee_batch_new();
		tracee_batch_call(batches[i], SYS_gettid);
	}
	must(tracee_batch_run_many(process->threads.items, batches, 256, DEADLINE, &error), &error);
	times[2] = clock_now_ns();
	for (int i = 0; i < 256; i++) {
		assert_int_equal(tracee_batch_result(batches[i], 0),
				 process->threads.items[i]->tid);
		tracee_batch_free(batches[i]);
	}
	must(tracee_process_finish(process, DEADLINE, &error), &error);
	times[3] = clock_now_ns();
	print_message("255 threads made in %lld us, a batch in each %lld us, finished in %lld us\n",
		      (long long)(times[1] - times[0]) / 1000,
		      (long long)(times[2] - times[1]) / 1000,
		      (long long)(times[3] - times[2]) / 1000);
	tracee_process_release(process);
	waitpid(pid, NULL, 0);
}

/* Not finished, not kept: release ends it. */
static void test_release_kills(void **state)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct tracee_thread *thread;
	int status;
	pid_t pid;

	process = new_shell(&pid);
	must(tracee_thread_clone(process->threads.items[0], 0, DEADLINE, &thread, &error), &error);
	tracee_process_release(process);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The tracer dies before and after keep. */
static void tracer_dies(bool keep, int *ret_runs)
{
	pid_t tracer, pid;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	tracer = fork();
	if (tracer == 0) {
		struct tracee_process *process = new_shell(&pid);
		struct error error = ERROR_INIT;

		call(process->threads.items[0], SYS_getpid, 0, 0, 0);
		/* the victim is a child of the tracer: it must not end because its parent does */
		call(process->threads.items[0], SYS_prctl, PR_SET_PDEATHSIG, 0, 0);
		aim(process->threads.items[0], 1);
		must(tracee_process_finish(process, DEADLINE, &error), &error);
		if (keep)
			must(tracee_process_keep(process, &error), &error);
		if (write(fds[1], &pid, sizeof(pid)) != sizeof(pid))
			_exit(1);
		pause();
	}
	assert_int_equal(read(fds[0], &pid, sizeof(pid)), sizeof(pid));
	kill(tracer, SIGKILL);
	waitpid(tracer, NULL, 0);
	usleep(30000);
	*ret_runs = atomic_load(&shared->ready);
	kill(pid, SIGKILL);
	close(fds[0]);
	close(fds[1]);
}

static void test_tracer_dies(void **state)
{
	int runs = -1;

	memset((void *)shared, 0, sizeof(*shared));
	tracer_dies(false, &runs);
	assert_int_equal(runs, 0);
	tracer_dies(true, &runs);
	assert_int_equal(runs, 1);
	assert_int_equal(atomic_load(&shared->wrong), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_build, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_release_kills, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tracer_dies, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
