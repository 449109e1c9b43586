/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls with a timeout that are stopped again and again. The kernel goes on with them by restart_syscall(2), which means
 * nothing in another process: a stopped thread must name the call itself each time, and the caller must see neither EINTR nor
 * another duration.
 */
#include "tracee-common.h"

#include <linux/futex.h>

#define PAUSE_MS 300

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* As a C library does it: the number is loaded by an instruction (the function syscall() takes it as an argument). */
static long wait_for_word(uint32_t *word, const struct timespec *time)
{
	register const struct timespec *timeout __asm__("r10") = time;
	long result;

	__asm__ volatile("mov %[nr], %%eax\n\tsyscall"
			 : "=a"(result)
			 : [nr] "i"(SYS_futex), "D"(word), "S"(FUTEX_WAIT_PRIVATE), "d"(0), "r"(timeout)
			 : "rcx", "r11", "memory");
	return result;
}

#define BY_FUNCTION 0x1000 /* with syscall(3) */

static int pause_by(int call)
{
	struct timespec time = { .tv_nsec = PAUSE_MS * 1000000L };
	uint32_t word = 0;

	switch (call) {
	case SYS_clock_nanosleep: return clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
	case SYS_poll: return poll(NULL, 0, PAUSE_MS);
	case SYS_futex | BY_FUNCTION:
		return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time) < 0 && errno == ETIMEDOUT ? 0 : -1;
	default: return wait_for_word(&word, &time) == -ETIMEDOUT ? 0 : -1;
	}
}

static const int calls[] = { SYS_clock_nanosleep, SYS_poll, SYS_futex, SYS_futex | BY_FUNCTION };

static void work_sleeps(void)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int64_t start = now_ms();

		atomic_store(&shared->value, calls[i] & ~BY_FUNCTION);
		if (pause_by(calls[i]) != 0)
			atomic_store(&shared->wrong, calls[i]);
		if (now_ms() - start < PAUSE_MS || now_ms() - start > 3 * PAUSE_MS)
			atomic_store(&shared->wrong, 1000 + calls[i]);
	}
	atomic_store(&shared->stop, 1);
	for (;;)
		pause();
}

static void test_named_each_time(void **state)
{
	pid_t pid = start_victim(work_sleeps);
	struct tracee_options options = { .hints = tracee_hints_new() };
	uint64_t stops = 0, in_calls = 0;

	while (!atomic_load(&shared->stop) && !atomic_load(&shared->wrong)) {
		struct error error = ERROR_INIT;
		struct tracee_process *process;
		struct user_regs_struct regs;
		int call = atomic_load(&shared->value);

		must(tracee_process_stop(pid, &options, DEADLINE, &process, &error), &error);
		regs = process->threads.items[0]->regs;
		tracee_process_release(process);
		if ((int64_t)regs.rax == -516) /* ERESTART_RESTARTBLOCK */
			assert_int_not_equal(regs.orig_rax, SYS_restart_syscall);
		assert_int_not_equal(regs.rax, SYS_restart_syscall);
		stops++;
		in_calls += (int)regs.orig_rax == call || regs.orig_rax == SYS_restart_syscall;
	}
	print_message("%lu stops, %lu of them in the call\n", stops, in_calls);
	assert_int_equal(atomic_load(&shared->wrong), 0);
	assert_true(in_calls > stops / 2);
	end_victim(pid);
	tracee_hints_free(options.hints);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_named_each_time, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
