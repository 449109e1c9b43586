/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For the tests of src/lazy: a victim whose pages are missing, a source that has them, and threads that bring the two
 * together. Each page's content tells its number; those with number % 7 == 3 are zero on the source, and those with
 * number % 4 == 0 are not missing but zero from the start.
 */
#pragma once

#include "tracee-common.h"

#include <sys/ptrace.h>
#include <sys/resource.h>

#include "lazy/lazy.h"
#include "transport/frame.h"
#include "transport/wire.h"

#define REGION_PAGES 2048u
#define PAGE 4096u

static uint8_t *region; /* same address here and in victims; never touched here */

struct source {
	struct stream *stream; /* the source's end */
	struct stream *other;  /* the target's end */
	pid_t pid;             /* whose pages */
	unsigned answers;      /* after so many it hangs up; 0: never */
	unsigned delay_us;     /* before each answer */
	_Atomic unsigned requests;
	pthread_t thread;
};

struct runner {
	struct lazy *lazy;
	struct stream *stream;
	int cancel_fd;
	int result;
	struct error error;
	pthread_t thread;
};

struct pusher {
	struct lazy *lazy;
	pid_t pid;
	int result;
	struct error error;
	pthread_t thread;
};

static inline uint64_t page_word(size_t page)
{
	return page % 4 == 0 || page % 7 == 3 ? 0 : UINT64_C(0x9e3779b97f4a7c15) * (page + 1);
}

static inline void fill_page(size_t page, uint64_t *data)
{
	for (size_t i = 0; i < PAGE / 8; i++)
		data[i] = page_word(page);
}

/* In the victim: is the page at `data` what it should be? */
static inline void check_page(const void *data, uint64_t word)
{
	const volatile uint64_t *words = data;

	if (words[0] != word || words[100] != word || words[511] != word)
		atomic_store(&shared->wrong, 1);
}

static inline void check_all(void)
{
	for (size_t i = 0; i < REGION_PAGES; i++) {
		size_t page = i * 1031 % REGION_PAGES;

		check_page(region + page * PAGE, page_word(page));
	}
}

static inline int lazy_setup(void **state)
{
	setup(state);
	region = mmap(NULL, (REGION_PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(region, MAP_FAILED);
	region += PAGE;
	assert_int_equal(mprotect(region, REGION_PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	return 0;
}

static inline int lazy_teardown(void **state)
{
	munmap(region - PAGE, (REGION_PAGES + 2) * PAGE);
	return teardown(state);
}

/* For the beginning of a victim's work. */
static inline void wait_for_go(void)
{
	signal(SIGBUS, SIG_DFL); /* the test's framework has a handler */
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		__builtin_ia32_pause();
}

/* Stops the victim as a shell, adds it, lets it go. */
static inline void add_victim(struct lazy *lazy, pid_t pid)
{
	static struct lazy_run runs[REGION_PAGES];
	struct error error = ERROR_INIT;
	struct tracee_process *process = NULL;
	siginfo_t info;
	size_t count = 0;

	assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL), 0);
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED | __WALL), 0);
	must(tracee_process_adopt(pid, 0, NULL, DEADLINE, &process, &error), &error);
	for (size_t i = 1; i < REGION_PAGES; i += 4)
		runs[count++] = (struct lazy_run){ (uintptr_t)region + i * PAGE, 3 };
	must(lazy_add(lazy, process, runs, count, NULL, DEADLINE, &error), &error);
	must(tracee_process_finish(process, DEADLINE, &error), &error);
	must(tracee_process_keep(process, &error), &error);
	tracee_process_detach(process);
}

static inline int answer(struct source *source, const struct wire_page_request *request, struct error *error)
{
	static _Thread_local uint64_t data[PAGE / 8];
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < request->pages; i++) {
		size_t page = (request->address - (uintptr_t)region) / PAGE + i;
		struct wire_pages_header header = {
			.pid = (uint32_t)source->pid,
			.address = request->address + i * PAGE,
			.pages = 1,
			.kind = page_word(page) ? WIRE_PAGES_DATA : WIRE_PAGES_ZERO,
		};

		if (page >= REGION_PAGES || page % 4 == 0)
			return error_set(error, -EPROTO, "page %zu was not missing", page);
		fill_page(page, data);
		r = wire_send_pages(source->stream, &header, data, DEADLINE, error);
	}
	return r < 0 ? r : stream_flush(source->stream, DEADLINE, error);
}

static inline void *source_main(void *argument)
{
	struct source *source = argument;
	struct buffer payload = BUFFER_INIT;
	struct error error = ERROR_INIT;
	struct frame frame;
	int r = 0;

	while (r == 0) {
		r = frame_read(source->stream, &wire_table_request, &frame, &payload, clock_deadline(20 * CLOCK_S),
			       &error);
		if (r == 0 && payload.size != sizeof(struct wire_page_request))
			r = -EPROTO;
		if (r == 0 && source->answers > 0 && atomic_load(&source->requests) >= source->answers)
			break;
		if (r == 0 && source->delay_us)
			usleep(source->delay_us);
		if (r == 0)
			r = answer(source, (const void *)payload.data, &error);
		if (r == 0)
			atomic_fetch_add(&source->requests, 1);
	}
	if (r < 0 && r != -ENODATA && r != -ECONNRESET && r != -EPIPE) {
		print_message("source: %s\n", error_text(&error, r));
		atomic_store(&shared->wrong, 2);
	}
	stream_free(source->stream);
	buffer_deinit(&payload);
	return NULL;
}

static inline void source_start(struct source *source, pid_t pid)
{
	struct error error = ERROR_INIT;

	source->pid = pid;
	must(stream_memory_new(1 << 20, &source->stream, &source->other, &error), &error);
	assert_int_equal(pthread_create(&source->thread, NULL, source_main, source), 0);
}

static inline void source_end(struct source *source)
{
	stream_free(source->other);
	pthread_join(source->thread, NULL);
}

static inline void *runner_main(void *argument)
{
	struct runner *runner = argument;

	runner->result = lazy_run_faults(runner->lazy, runner->stream, runner->cancel_fd, &runner->error);
	return NULL;
}

static inline void runner_start(struct runner *runner, struct lazy *lazy, struct stream *stream, int cancel_fd)
{
	*runner = (struct runner){ .lazy = lazy, .stream = stream, .cancel_fd = cancel_fd };
	assert_int_equal(pthread_create(&runner->thread, NULL, runner_main, runner), 0);
}

static inline void *pusher_main(void *argument)
{
	static _Thread_local uint64_t data[64 * PAGE / 8];
	struct pusher *pusher = argument;

	for (size_t page = 0; page < REGION_PAGES && pusher->result == 0; page += 64) {
		for (size_t i = 0; i < 64; i++)
			fill_page(page + i, data + i * PAGE / 8);
		pusher->result = lazy_install(pusher->lazy, pusher->pid, (uintptr_t)region + page * PAGE, data, 64,
					      &pusher->error);
		usleep(200);
	}
	return NULL;
}

static inline void pusher_start(struct pusher *pusher, struct lazy *lazy, pid_t pid)
{
	*pusher = (struct pusher){ .lazy = lazy, .pid = pid };
	assert_int_equal(pthread_create(&pusher->thread, NULL, pusher_main, pusher), 0);
}

static inline void pusher_end(struct pusher *pusher)
{
	pthread_join(pusher->thread, NULL);
	must(pusher->result, &pusher->error);
}

/* Until the victim says how far it is; fails when something is wrong meanwhile. */
static inline void wait_value(int value)
{
	for (int i = 0; i < 10000 && atomic_load(&shared->value) < value && !atomic_load(&shared->wrong); i++)
		usleep(1000);
	assert_int_equal(atomic_load(&shared->wrong), 0);
	assert_true(atomic_load(&shared->value) >= value);
}

/* Nothing of a userfaultfd in the process: no descriptor, no registered mapping. */
static inline void check_no_trace(pid_t pid)
{
	char path[64], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "ls -l /proc/%d/fd | grep -q userfaultfd", pid);
	assert_int_not_equal(system(path), 0);
	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, "VmFlags:", 8) == 0)
			assert_null(strstr(line, " um"));
	fclose(file);
}
