/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/*
 * Each allocation fails once while a child process is looked at, stopped, asked and described, and while an address space
 * is planned: no crash, no leak, an error; and each time the child runs on as it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/dump.h"
#include "image/mapping.h"
#include "out-of-memory.h"
#include "restore/mm.h"
#include "restore/restore.h"
#include "tracee/tracee.h"
#include "util/clock.h"

#define SOON clock_deadline(10 * CLOCK_S)

static const struct dump_options dump_options = { .tcp_close = false };
static const struct restore_options restore_options = { .tcp_close = false };

struct child {
	pid_t pid;
	volatile uint64_t *ticks; /* shared memory: the child counts */
	size_t maps;              /* mappings that it has, to see that nothing stays in it */
};

static size_t count_maps(pid_t pid)
{
	struct procfs_maps maps;
	size_t count;

	assert_int_equal(procfs_read_maps(pid, &maps, NULL), 0);
	count = maps.count;
	procfs_maps_deinit(&maps);
	return count;
}

static void child_start(struct child *child)
{
	child->ticks = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(child->ticks, MAP_FAILED);
	child->pid = fork();
	if (child->pid == 0) {
		int ends[2];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close_range(0, UINT32_MAX, 0); /* the test's own cannot be moved */
		if (setsid() < 0 || pipe(ends) < 0 || eventfd(3, 0) < 0 || write(ends[1], "unread", 6) != 6)
			_exit(1);
		for (;;) {
			++*child->ticks;
			usleep(200);
		}
	}
	while (!*child->ticks)
		usleep(200);
	child->maps = count_maps(child->pid);
}

static void child_end(struct child *child)
{
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
	munmap((void *)(uintptr_t)child->ticks, 4096);
}

/* It runs on, and nothing of ours is in it. */
static void child_check(const struct child *child)
{
	uint64_t ticks = *child->ticks;
	int64_t deadline = SOON;
	char tracer[16];

	while (*child->ticks < ticks + 2 && clock_now_ns() < deadline)
		usleep(200);
	assert_true(*child->ticks >= ticks + 2);
	assert_int_equal(procfs_read_status(child->pid, "TracerPid", tracer, sizeof(tracer), NULL), 0);
	assert_string_equal(tracer, "0");
	assert_int_equal(count_maps(child->pid), child->maps);
}

static int look(void *data, struct error *error)
{
	const struct child *child = data;
	struct dump_context *dump = NULL;
	struct image_set *images = NULL;
	int r;

	r = dump_context_new(child->pid, &dump_options, NULL, &dump, error);
	assert_int_equal(dump != NULL, r == 0);
	if (r == 0)
		r = image_set_new(&images);
	if (r == 0)
		r = dump_preflight(dump, images, error);
	if (r == 0 && dump->blockers.incomplete)
		r = -ENOMEM;
	image_set_free(images);
	dump_context_free(dump);
	return r;
}

static int stop_and_describe(void *data, struct error *error)
{
	const struct child *child = data;
	struct tracee_tree *stopped = NULL;
	struct dump_context *dump = NULL;
	struct image_set *images = NULL;
	int r;

	r = dump_context_new(child->pid, &dump_options, NULL, &dump, error);
	if (r == 0)
		r = image_set_new(&images);
	if (r == 0)
		r = tracee_tree_stop(child->pid, NULL, SOON, &stopped, error);
	assert_int_equal(stopped != NULL, r == 0);
	if (r == 0) {
		dump->deadline = SOON;
		r = dump_frozen(dump, stopped, images, error);
	}
	tracee_tree_release(stopped);
	image_set_free(images);
	dump_context_free(dump);
	oom_left = OOM_NEVER;
	child_check(child);
	return r;
}

static int run_batch(void *data, struct error *error)
{
	const struct child *child = data;
	struct tracee_tree *stopped = NULL;
	struct tracee_batch *batch = tracee_batch_new();
	int r = batch ? tracee_tree_stop(child->pid, NULL, SOON, &stopped, error) : -ENOMEM;

	if (r == 0) {
		int own = tracee_batch_call(batch, SYS_getpid);

		for (int i = 0; i < 30; i++)
			tracee_batch_call(batch, SYS_access, tracee_batch_string(batch, "/"), F_OK);
		r = tracee_batch_run(stopped->processes.items[0]->threads.items[0], batch, SOON, error);
		if (r == 0)
			assert_int_equal(tracee_batch_result(batch, own), child->pid);
	}
	tracee_batch_free(batch);
	tracee_tree_release(stopped);
	oom_left = OOM_NEVER;
	child_check(child);
	return r;
}

static void test_child(void **state)
{
	struct child child;

	child_start(&child);
	oom_walk("preflight", look, &child);
	oom_walk("batch", run_batch, &child);
	oom_walk("stop and dump", stop_and_describe, &child);
	child_end(&child);
}

/* ---- a tree of shells */

struct past {
	pid_t pid;                /* of a process that has ended */
	struct image_set *images; /* what it was */
};

/* The second layout is of the same tree: what is there stays. */
static int lay_out(void *data, struct error *error)
{
	const struct past *past = data;
	struct restore_tree *tree = NULL;
	struct procfs_stat stat;
	int r;

	r = restore_tree_new(&restore_options, NULL, &tree, error);
	if (r == 0) {
		tree->deadline = SOON;
		r = restore_tree_layout(tree, past->images, error);
	}
	if (r == 0)
		r = restore_tree_layout(tree, past->images, error);
	if (r == 0)
		assert_non_null(restore_tree_find(tree, past->pid));
	restore_tree_free(tree);
	oom_left = OOM_NEVER;
	/* Orphans come to the test, which stands for init here. */
	for (int64_t deadline = SOON; procfs_read_stat(past->pid, &stat, NULL) == 0 && clock_now_ns() < deadline;)
		if (waitpid(past->pid, NULL, __WALL | WNOHANG) == 0)
			usleep(200);
	assert_int_equal(procfs_read_stat(past->pid, &stat, NULL), -ESRCH);
	return r;
}

static void test_layout(void **state)
{
	struct dump_context *dump;
	struct child child;
	struct past past;

	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	child_start(&child);
	past.pid = child.pid;
	assert_int_equal(image_set_new(&past.images), 0);
	assert_int_equal(dump_context_new(child.pid, &dump_options, NULL, &dump, NULL), 0);
	assert_int_equal(dump_layout(dump, past.images, NULL), 0);
	dump_context_free(dump);
	child_end(&child);
	oom_walk("layout", lay_out, &past);
	image_set_free(past.images);
}

/* ---- plans */

static int plan(void *data, struct error *error)
{
	struct restore_segment now[30], wanted[30];
	struct restore_segments now_list = { .items = now, .count = 30 }, wanted_list = { .items = wanted, .count = 30 };
	struct restore_plan result = { 0 };
	int r;

	for (uint64_t i = 0; i < 30; i++) {
		now[i] = (struct restore_segment){ .start = i * 0x4000, .end = i * 0x4000 + 0x3000, .prot = PROT_READ,
						   .flags = MAP_PRIVATE | MAP_ANONYMOUS,
						   .status = MAPPING_REGULAR | MAPPING_ANON_PRIVATE };
		wanted[i] = now[i];
		wanted[i].end -= 0x1000 * (i % 2);
		wanted[i].prot |= i % 3 ? PROT_WRITE : 0;
	}
	r = restore_plan_make(&now_list, &wanted_list, &result);
	array_deinit(&result.steps);
	return r;
}

static int new_tree(void *data, struct error *error)
{
	struct restore_tree *tree = NULL;
	int r = restore_tree_new(&restore_options, NULL, &tree, error);

	assert_int_equal(tree != NULL, r == 0);
	restore_tree_free(tree);
	return r;
}

static void test_plan(void **state)
{
	oom_walk("plan", plan, NULL);
	oom_walk("tree", new_tree, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan),
		cmocka_unit_test(test_child),
		cmocka_unit_test(test_layout),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
