/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/*
 * Processes moved onto the spot where they are, and trees that are laid out beside their living source under other PIDs.
 * Needs root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above. */
#include <cmocka.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "move-common.h"
#include "pstree.pb-c.h"

#define PATH_MAX_HERE 128
#define PID_SHIFT     7000 /* between a source's PIDs and those of its twin */
#define PID_MIDDLE    16000 /* kernel.pid_max is 32768 at least: upwards from below, downwards from above */
#define WAIT_MS       5000

/* What a victim writes to its file, over and over. */
struct report {
	uint64_t rounds;   /* of the main thread */
	uint64_t threads[3];
	uint64_t broken;   /* a thread found something wrong */
	uint64_t command;  /* the last one done */
};

struct victim {
	char path[PATH_MAX_HERE]; /* of its report */
	char order[PATH_MAX_HERE + 8]; /* of the file with the command to it */
	pid_t pid;
};

static const struct dump_options dump_options = { .tcp_close = false };
static const struct restore_options restore_options = { .tcp_close = false };

static struct report shared_report; /* in the victim: counters of its threads */
static __thread uint64_t own_counter;

static void pause_ms(long ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static void *count(void *argument)
{
	uint64_t *place = argument;

	for (;;) {
		if (*place != own_counter)
			shared_report.broken++;
		own_counter++;
		*place = own_counter;
		pause_ms(1);
	}
	return NULL;
}

static void *wait_for_end(void *argument)
{
	volatile bool *end = argument;

	while (!*end)
		pause_ms(1);
	return NULL;
}

/* Does what the order file says: 1 map memory and start a thread, 2 end both again. */
static void obey(const char *order)
{
	static volatile bool end;
	static void *memory;
	static pthread_t thread;
	uint64_t command = 0;
	int fd = open(order, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!read(fd, &command, sizeof(command));
		close(fd);
	}
	if (command == shared_report.command)
		return;
	if (command == 1) {
		memory = mmap((void *)UINT64_C(0x300000000000), 1 << 20, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		memset(memory, 0x5a, 1 << 20);
		pthread_create(&thread, NULL, wait_for_end, (void *)&end);
	} else {
		end = true;
		pthread_join(thread, NULL);
		munmap(memory, 1 << 20);
	}
	shared_report.command = command;
}

static void victim_main(const struct victim *victim, int threads)
{
	pthread_t thread;
	int null, fd;

	syscall(SYS_close_range, 0u, ~0u, 0);
	setsid();
	null = open("/dev/null", O_RDWR);
	dup(null);
	dup(null);
	fd = open(victim->path, O_RDWR | O_CREAT, 0600);
	for (int i = 0; i < threads; i++)
		pthread_create(&thread, NULL, count, &shared_report.threads[i]);
	for (;;) {
		obey(victim->order);
		shared_report.rounds++;
		(void)!pwrite(fd, &shared_report, sizeof(shared_report), 0);
		pause_ms(1);
	}
}

static struct report look(const struct victim *victim)
{
	struct report report = { 0 };
	int fd = open(victim->path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!read(fd, &report, sizeof(report));
		close(fd);
	}
	return report;
}

static void wait_for_rounds(const struct victim *victim, uint64_t rounds)
{
	for (int i = 0; i < WAIT_MS && look(victim).rounds < rounds; i++)
		pause_ms(1);
	assert_true(look(victim).rounds >= rounds);
}

static void order(const struct victim *victim, uint64_t command)
{
	int fd = open(victim->order, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, &command, sizeof(command)), sizeof(command));
	close(fd);
	for (int i = 0; i < WAIT_MS && look(victim).command != command; i++)
		pause_ms(1);
	assert_int_equal(look(victim).command, command);
}

static void victim_start(struct victim *victim, int threads)
{
	/* Not in /tmp, which may be in memory: then the file itself would have to go along. */
	snprintf(victim->path, sizeof(victim->path), "%s/pagestream-move-%d-%d",
		 access("/var/tmp", W_OK) == 0 ? "/var/tmp" : "", getpid(), rand());
	snprintf(victim->order, sizeof(victim->order), "%s-order", victim->path);
	victim->pid = fork();
	assert_true(victim->pid >= 0);
	if (victim->pid == 0)
		victim_main(victim, threads);
	wait_for_rounds(victim, 3);
}

static void victim_end(struct victim *victim)
{
	kill(victim->pid, SIGKILL);
	waitpid(victim->pid, NULL, __WALL);
	unlink(victim->path);
	unlink(victim->order);
}

#define assert_ok(call, error)                                                                                       \
	do {                                                                                                         \
		int result_ = (call);                                                                                \
		if (result_ < 0)                                                                                     \
			fail_msg("%s: %s", #call, error_text((error), result_));                                     \
	} while (0)

/* Counters go on where they were, thread-local memory included, move after move. */
static void test_threads_go_on(void **state)
{
	struct victim victim;
	struct report before = { 0 }, after;

	victim_start(&victim, 3);
	for (int i = 0; i < 3; i++) {
		struct move move = { .began = clock_now_ns() };
		struct error error = ERROR_INIT;

		before = look(&victim);
		assert_ok(move_all(&move, victim.pid, &dump_options, &restore_options, &error), &error);
		move_deinit(&move);
		wait_for_rounds(&victim, before.rounds + 5);
		after = look(&victim);
		for (int waited = 0; waited < WAIT_MS && (after.threads[0] == before.threads[0] ||
							  after.threads[2] == before.threads[2]); waited++) {
			pause_ms(1);
			after = look(&victim);
		}
		assert_int_equal(after.broken, 0);
		assert_true(after.threads[0] > before.threads[0] && after.threads[2] > before.threads[2]);
	}
	victim_end(&victim);
}

/* ---- twins: images of a living process under other numbers */

static pid_t twin_id(uint32_t id)
{
	if (id == 0)
		return 0;
	return (pid_t)(id < PID_MIDDLE ? id + PID_SHIFT : id - PID_SHIFT);
}

static void add_twin_process(struct image_set *twin, const struct image_record *record)
{
	struct error error = ERROR_INIT;
	TreeProcess *process = NULL;

	assert_ok(image_unpack(record, tree_process, &process, &error), &error);
	process->pid = (uint32_t)twin_id(process->pid);
	process->ppid = (uint32_t)twin_id(process->ppid);
	process->pgid = (uint32_t)twin_id(process->pgid);
	process->sid = (uint32_t)twin_id(process->sid);
	for (size_t i = 0; i < process->n_threads; i++)
		process->threads[i] = (uint32_t)twin_id(process->threads[i]);
	assert_ok(image_set_add(twin, IMAGE_PSTREE, 0, &process->base, &error), &error);
	protobuf_c_message_free_unpacked(&process->base, NULL);
}

static struct image_set *layout_of_twin(struct dump_context *dump)
{
	struct image_set *images, *twin;
	struct error error = ERROR_INIT;

	assert_int_equal(image_set_new(&images), 0);
	assert_int_equal(image_set_new(&twin), 0);
	assert_ok(dump_layout(dump, images, &error), &error);
	for (size_t i = 0; i < image_set_count(images); i++) {
		const struct image_record *record = image_set_get(images, i);

		if (record->type == IMAGE_PSTREE)
			add_twin_process(twin, record);
		else
			assert_ok(image_set_add_bytes(twin, record->type, (uint32_t)twin_id(record->id), record->data,
						      record->size, &error),
				  &error);
	}
	image_set_free(images);
	return twin;
}

static void expect_alive(pid_t pid, bool alive)
{
	struct procfs_stat stat;

	assert_int_equal(procfs_read_stat(pid, &stat, NULL) == 0 && stat.state != 'Z', alive);
}

static size_t thread_count(pid_t pid)
{
	struct procfs_pids threads = { 0 };
	size_t number;

	assert_int_equal(procfs_read_threads(pid, &threads, NULL), 0);
	number = threads.count;
	array_deinit(&threads);
	return number;
}

static bool has_mapping(pid_t pid, uint64_t address)
{
	struct procfs_maps maps;
	bool found;

	assert_int_equal(procfs_read_maps(pid, &maps, NULL), 0);
	found = procfs_maps_find(&maps, address) != NULL;
	procfs_maps_deinit(&maps);
	return found;
}

static void layout_round(struct dump_context *dump, struct restore_tree *tree)
{
	struct image_set *images = layout_of_twin(dump);
	struct error error = ERROR_INIT;

	assert_ok(restore_tree_layout(tree, images, &error), &error);
	image_set_free(images);
}

/* Mappings and threads come and go with the source; pages of mappings that stay are kept. */
static void test_layout_follows(void **state)
{
	static uint8_t page[4096], read_back[4096];
	struct victim victim;
	struct dump_context *dump;
	struct restore_tree *tree;
	struct restore_process *twin;
	struct error error = ERROR_INIT;
	struct restore_range range = { .start = UINT64_C(0x300000001000), .size = 4096 };

	victim_start(&victim, 1);
	assert_ok(dump_context_new(victim.pid, &dump_options, NULL, &dump, &error), &error);
	assert_ok(restore_tree_new(&restore_options, NULL, &tree, &error), &error);
	layout_round(dump, tree);
	twin = restore_tree_find(tree, twin_id((uint32_t)victim.pid));
	assert_non_null(twin);
	assert_true(twin->created);
	assert_int_equal(thread_count(twin->pid), 2);
	assert_false(has_mapping(twin->pid, range.start));

	order(&victim, 1);
	layout_round(dump, tree);
	assert_false(twin->created);
	assert_int_equal(thread_count(twin->pid), 3);
	assert_true(has_mapping(twin->pid, range.start));
	memset(page, 7, sizeof(page));
	assert_ok(restore_pages_write(twin, range.start, page, sizeof(page), &error), &error);
	layout_round(dump, tree);
	assert_ok(tracee_process_read(twin->tracee, range.start, read_back, sizeof(read_back), &error), &error);
	assert_memory_equal(page, read_back, sizeof(page));
	assert_ok(restore_pages_drop(tree, twin, &range, 1, &error), &error);
	memset(page, 0, sizeof(page));
	assert_ok(tracee_process_read(twin->tracee, range.start, read_back, sizeof(read_back), &error), &error);
	assert_memory_equal(page, read_back, sizeof(page));

	order(&victim, 2);
	layout_round(dump, tree);
	assert_int_equal(thread_count(twin->pid), 2);
	assert_false(has_mapping(twin->pid, range.start));

	restore_tree_free(tree);
	expect_alive(twin_id((uint32_t)victim.pid), false);
	expect_alive(victim.pid, true);
	dump_context_free(dump);
	victim_end(&victim);
}

/* A chain of four processes, the first of which adopts the others' orphans; `pids` gets their PIDs. */
static void chain_start(pid_t pids[4])
{
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	pids[0] = fork();
	if (pids[0] == 0) {
		int null = open("/dev/null", O_RDWR);

		for (int i = 0; i < 3; i++) /* what the test was started with may be files in memory */
			dup2(null, i);
		close(null);
		signal(SIGCHLD, SIG_IGN);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		for (int depth = 0; depth < 4; depth++) {
			pid_t own = getpid();

			if (write(fds[1], &own, sizeof(own)) != sizeof(own))
				_exit(1);
			if (depth == 3 || fork() != 0)
				break;
			signal(SIGCHLD, SIG_IGN);
		}
		close(fds[0]);
		close(fds[1]);
		for (;;)
			pause();
	}
	for (int i = 0; i < 4; i++)
		assert_int_equal(read(fds[0], &pids[i], sizeof(pids[i])), sizeof(pids[i]));
	close(fds[0]);
	close(fds[1]);
}

static void wait_for_parent(pid_t pid, pid_t parent)
{
	struct procfs_stat stat = { 0 };

	for (int i = 0; i < WAIT_MS && stat.ppid != parent; i++) {
		assert_int_equal(procfs_read_stat(pid, &stat, NULL), 0);
		pause_ms(1);
	}
	assert_int_equal(stat.ppid, parent);
}

/* A process gets another parent: it and what is below it are made anew, and nothing points at what was. */
static void test_layout_follows_orphans(void **state)
{
	struct dump_context *dump;
	struct restore_tree *tree;
	struct error error = ERROR_INIT;
	struct restore_process *twins[4];
	pid_t pids[4];

	chain_start(pids);
	assert_ok(dump_context_new(pids[0], &dump_options, NULL, &dump, &error), &error);
	assert_ok(restore_tree_new(&restore_options, NULL, &tree, &error), &error);
	layout_round(dump, tree);
	assert_int_equal(tree->processes.count, 4);
	kill(pids[1], SIGKILL);
	wait_for_parent(pids[2], pids[0]);
	for (int round = 0; round < 2; round++) {
		layout_round(dump, tree);
		assert_int_equal(tree->processes.count, 3);
		for (int i = 0; i < 4; i++)
			twins[i] = restore_tree_find(tree, twin_id((uint32_t)pids[i]));
		assert_null(twins[1]);
		assert_ptr_equal(twins[2]->parent, twins[0]);
		assert_ptr_equal(twins[3]->parent, twins[2]);
		expect_alive(twins[3]->pid, true);
		wait_for_parent(twins[3]->pid, twins[2]->pid);
	}
	restore_tree_free(tree);
	dump_context_free(dump);
	for (int i = 3; i >= 0; i--)
		kill(pids[i], SIGKILL);
	assert_int_equal(waitpid(pids[0], NULL, 0), pids[0]);
}

static void test_number_in_use(void **state)
{
	struct victim victim;
	struct dump_context *dump;
	struct restore_tree *tree;
	struct image_set *images;
	struct image_blockers blockers;
	struct error error = ERROR_INIT;

	victim_start(&victim, 0);
	assert_int_equal(image_set_new(&images), 0);
	assert_ok(dump_context_new(victim.pid, &dump_options, NULL, &dump, &error), &error);
	assert_ok(dump_preflight(dump, images, &error), &error);
	image_blockers_init(&blockers);
	assert_ok(restore_check(images, &blockers, &error), &error);
	assert_int_equal(blockers.list.count, 1);
	assert_int_equal(blockers.list.items[0].pid, victim.pid);
	image_blockers_deinit(&blockers);

	assert_ok(restore_tree_new(&restore_options, NULL, &tree, &error), &error);
	assert_int_equal(restore_tree_layout(tree, images, &error), -EEXIST);
	assert_non_null(strstr(error.message, "in use on the restoring host"));
	restore_tree_free(tree);
	dump_context_free(dump);
	image_set_free(images);
	victim_end(&victim);
}

/* Who builds a tree takes it along when killed. */
static void test_shells_die_with_their_tracer(void **state)
{
	struct victim victim;
	struct dump_context *dump;
	struct error error = ERROR_INIT;
	pid_t builder;

	victim_start(&victim, 2);
	assert_ok(dump_context_new(victim.pid, &dump_options, NULL, &dump, &error), &error);
	builder = fork();
	if (builder == 0) {
		struct restore_tree *tree;

		if (restore_tree_new(&restore_options, NULL, &tree, NULL) < 0)
			_exit(1);
		layout_round(dump, tree);
		expect_alive(twin_id((uint32_t)victim.pid), true);
		kill(getpid(), SIGKILL);
	}
	waitpid(builder, NULL, 0);
	for (int i = 0; i < WAIT_MS; i++) {
		struct procfs_stat stat;

		waitpid(twin_id((uint32_t)victim.pid), NULL, __WALL | WNOHANG);
		if (procfs_read_stat(twin_id((uint32_t)victim.pid), &stat, NULL) < 0)
			break;
		pause_ms(1);
	}
	expect_alive(twin_id((uint32_t)victim.pid), false);
	dump_context_free(dump);
	victim_end(&victim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_go_on),
		cmocka_unit_test(test_layout_follows),
		cmocka_unit_test(test_layout_follows_orphans),
		cmocka_unit_test(test_number_in_use),
		cmocka_unit_test(test_shells_die_with_their_tracer),
	};

	if (geteuid() != 0) {
		puts("skipped: making processes with chosen PIDs needs root");
		return 77;
	}
	/* What is moved is ours to wait for again. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
