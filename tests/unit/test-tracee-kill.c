/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracer that is killed with SIGKILL at random moments, again and again, while its victim checks
 * itself: registers, signal mask, alternate stack, descriptors, and what is left in its memory
 * after a guardian has cleaned up.
 */
#include "tracee-common.h"

#define ROUNDS	200
#define THREADS 4

static struct tracee_traces *traces;

/* ---- the victim */

static void check_state(const sigset_t *mask, const stack_t *stack)
{
	sigset_t now;
	stack_t stack_now;

	sigprocmask(SIG_SETMASK, NULL, &now);
	sigaltstack(NULL, &stack_now);
	if (memcmp(&now, mask, 8) != 0)
		atomic_store(&shared->wrong, 1);
	if (stack_now.ss_sp != stack->ss_sp || stack_now.ss_size != stack->ss_size)
		atomic_store(&shared->wrong, 2);
}

/* Registers and vector registers that depend on the thread must survive a long loop. */
static void check_registers(uint64_t seed)
{
	uint64_t in[8], out[8], vectors[8], vectors_out[8];
	uint64_t *saved = out;

	for (unsigned i = 0; i < 8; i++) {
		in[i] = seed * (i + 1);
		vectors[i] = ~seed * (i + 1);
	}
	__asm__ volatile(
		"movdqu 0(%[v]), %%xmm0\n movdqu 16(%[v]), %%xmm6\n movdqu 32(%[v]), %%xmm9\n"
		"movdqu 48(%[v]), %%xmm15\n push %%rbp\n push %[o]\n push %[w]\n"
		"mov 0(%[i]), %%rbx\n mov 8(%[i]), %%r8\n mov 16(%[i]), %%r9\n mov 24(%[i]), "
		"%%r10\n"
		"mov 32(%[i]), %%r12\n mov 40(%[i]), %%r13\n mov 48(%[i]), %%r15\n mov 56(%[i]), "
		"%%rbp\n"
		"mov $20000, %%rcx\n"
		"1: dec %%rcx\n jnz 1b\n"
		"pop %%rsi\n pop %%rax\n"
		"mov %%rbx, 0(%%rax)\n mov %%r8, 8(%%rax)\n mov %%r9, 16(%%rax)\n mov %%r10, "
		"24(%%rax)\n"
		"mov %%r12, 32(%%rax)\n mov %%r13, 40(%%rax)\n mov %%r15, 48(%%rax)\n mov %%rbp, "
		"56(%%rax)\n"
		"pop %%rbp\n"
		"movdqu %%xmm0, 0(%%rsi)\n movdqu %%xmm6, 16(%%rsi)\n movdqu %%xmm9, 32(%%rsi)\n"
		"movdqu %%xmm15, 48(%%rsi)\n"
		: [o] "+a"(saved)
		: [i] "D"(in), [v] "S"(vectors), [w] "d"(vectors_out)
		: "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory",
		  "cc", "xmm0", "xmm6", "xmm9", "xmm15");
	if (memcmp(in, out, sizeof(in)) != 0)
		atomic_store(&shared->wrong, 3);
	if (memcmp(vectors, vectors_out, sizeof(vectors)) != 0)
		atomic_store(&shared->wrong, 4);
}

/* A third of the time in user code, in a call that is restarted, in a quick call. */
static void *thread_victim(void *data)
{
	struct timespec moment = { .tv_nsec = 200 * 1000 };
	uint64_t seed = UINT64_C(0x9e3779b97f4a7c15) * ((uintptr_t)data + 1);
	char space[8192];
	stack_t stack = { .ss_sp = space, .ss_size = sizeof(space) };
	sigset_t mask;
	int fds[2];

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + (int)(uintptr_t)data);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	sigaltstack(&stack, NULL);
	if (pipe2(fds, O_CLOEXEC) < 0)
		atomic_store(&shared->wrong, 5);
	atomic_fetch_add(&shared->ready, 1);
	for (;;) {
		uint64_t got = 0;

		check_registers(seed);
		if (clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL) != 0)
			atomic_store(&shared->wrong, 6);
		if (write(fds[1], &seed, sizeof(seed)) != sizeof(seed) ||
		    read(fds[0], &got, sizeof(got)) != sizeof(got) || got != seed)
			atomic_store(&shared->wrong, 7);
		check_state(&mask, &stack);
		atomic_fetch_add(&shared->counter, 1);
	}
	return NULL;
}

static void work_victim(void)
{
	pthread_t thread;

	for (uintptr_t i = 1; i < THREADS; i++)
		pthread_create(&thread, NULL, thread_victim, (void *)i);
	thread_victim(NULL);
}

/* ---- the tracer */

/* Two batches in each thread; what a descriptor leaves behind when the tracer dies is closed by the
 * undo call. */
static void work_on(struct tracee_process *process)
{
	struct tracee_batch *batches[THREADS];
	struct error error = ERROR_INIT;
	size_t count = process->threads.count < THREADS ? process->threads.count : THREADS;

	for (size_t i = 0; i < count; i++) {
		int fd;

		batches[i] = tracee_batch_new();
		fd = tracee_batch_call(batches[i], SYS_eventfd2, 0, O_CLOEXEC);
		tracee_batch_call(batches[i], SYS_gettid);
		tracee_batch_undo(batches[i], SYS_close, TRACEE_RESULT(fd));
	}
	if (tracee_batch_run_many(process->threads.items, batches, count, DEADLINE, &error) < 0)
		atomic_store(&shared->wrong, 20);
	for (size_t i = 0; i < count; i++) {
		int64_t fd = tracee_batch_result(batches[i], 0);

		/* the undo call stays as long as the next batch has not taken its place: the same
		 * call closes the descriptor */
		tracee_batch_clear(batches[i]);
		tracee_batch_call(batches[i], SYS_close, fd);
	}
	if (tracee_batch_run_many(process->threads.items, batches, count, DEADLINE, &error) < 0)
		atomic_store(&shared->wrong, 21);
	for (size_t i = 0; i < count; i++)
		tracee_batch_free(batches[i]);
}

static void trace_on_and_on(pid_t pid)
{
	const struct tracee_options options = { .traces = traces };

	for (unsigned i = 0;; i++) {
		struct error error = ERROR_INIT;
		struct tracee_process *process;
		struct tracee_tree *tree;
		int r;

		if (i % 2) {
			r = tracee_process_stop(pid, &options, DEADLINE, &process, &error);
			if (r == 0) {
				work_on(process);
				tracee_process_release(process);
			}
		} else {
			r = tracee_tree_stop(pid, &options, DEADLINE, &tree, &error);
			if (r == 0) {
				work_on(tree->processes.items[0]);
				tracee_tree_release(tree);
			}
		}
		if (r < 0 && r != -EBUSY) {
			fprintf(stderr, "%s\n", error_text(&error, r));
			atomic_store(&shared->wrong, 22);
		}
		atomic_fetch_add(&shared->signals, 1);
	}
}

static int count_fds(pid_t pid)
{
	char path[64], link[64];
	int count = 0;

	for (int fd = 0; fd < 200; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
		count += readlink(path, link, sizeof(link)) > 0;
	}
	return count;
}

/* What was noted, as another program learns it from a journal. */
static void clean_from_notes(void)
{
	struct error error = ERROR_INIT;
	struct tracee_traces *notes;
	size_t position = 0;
	uint64_t address, size;
	pid_t pid;

	must(tracee_traces_new(8, &notes, &error), &error);
	while (tracee_traces_next(traces, &position, &pid, &address, &size))
		assert_int_equal(tracee_traces_add(notes, pid, address, size), 0);
	assert_int_equal(tracee_traces_count(notes), tracee_traces_count(traces));
	must(tracee_traces_clean(notes, DEADLINE, &error), &error);
	tracee_traces_free(notes);
}

/* ---- the test */

static void kill_at_random(pid_t pid, int rounds, bool clean)
{
	struct error error = ERROR_INIT;
	char before[1 << 16];
	int fds = count_fds(pid), left = 0;

	strcpy(before, read_maps_text(pid));
	srand(4711);
	for (int i = 0; i < rounds; i++) {
		pid_t tracer = fork();

		assert_true(tracer >= 0);
		if (tracer == 0)
			trace_on_and_on(pid);
		usleep((useconds_t)(rand() % 6000));
		kill(tracer, SIGKILL);
		assert_int_equal(waitpid(tracer, NULL, 0), tracer);
		if (atomic_load(&shared->wrong))
			fail_msg("round %d: the victim says %d", i, atomic_load(&shared->wrong));
		if (clean) {
			left += tracee_traces_count(traces) > 0;
			if (i % 2)
				clean_from_notes();
			must(tracee_traces_clean(traces, DEADLINE, &error), &error);
			assert_int_equal(tracee_traces_count(traces), 0);
			if (strcmp(read_maps_text(pid), before) != 0) {
				fprintf(stderr, "round %d: before\n%s\nafter\n%s", i, before,
					read_maps_text(pid));
				fail();
			}
		}
		check_alive();
		assert_int_equal(count_fds(pid), fds);
	}
	print_message("%d tracers killed, %d of them with an area in place; %d stops\n", rounds,
		      left, atomic_load(&shared->signals));
}

static void test_killed_tracer(void **state)
{
	struct error error = ERROR_INIT;
	pid_t pid;

	must(tracee_traces_new(8, &traces, &error), &error);
	pid = start_victim(work_victim);
	wait_ready(THREADS);
	kill_at_random(pid, ROUNDS, true);
	end_victim(pid);
	tracee_traces_free(traces);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_killed_tracer, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
