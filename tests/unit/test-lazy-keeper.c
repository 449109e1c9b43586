/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: tracee transport */
/* The keeper, and the end of processes whose missing pages nobody can bring any more. */
#include "lazy-common.h"
#include "scratch.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "lazy/private.h"

static char directory[64];
static char socket_path[80];

static int group_setup(void **state)
{
	scratch_directory(directory, sizeof(directory), "lazy-keeper");
	snprintf(socket_path, sizeof(socket_path), "%s/keeper", directory);
	return 0;
}

static int group_teardown(void **state)
{
	return rmdir(directory);
}

static void *touch_thread(void *argument)
{
	size_t first = (size_t)(uintptr_t)argument;

	for (size_t page = first; page < REGION_PAGES; page += 4)
		check_page(region + page * PAGE, page_word(page));
	atomic_fetch_add(&shared->value, 1);
	return NULL;
}

/* Four threads read, one of them only what is zero; emptied pages must stay empty; then a fork reads all. */
static void work(void)
{
	pthread_t threads[4];
	int status;
	pid_t pid;

	wait_for_go();
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, touch_thread, (void *)i);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	pid = fork();
	if (pid == 0) {
		check_all();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	check_all();
	atomic_store(&shared->value, 10);
	pause();
}

struct server {
	pid_t pid;    /* of the process that plays the pageserver */
	pid_t victim; /* its child; ours after its end, thanks to the subreaper */
	pid_t keeper;
};

/* A pageserver that answers some faults, and then does nothing more. */
static void __attribute__((noreturn)) serve(int report, unsigned answers, bool early)
{
	struct error error = ERROR_INIT;
	struct source source = { .answers = answers };
	struct server server = { .pid = getpid() };
	struct lazy *lazy;

	server.victim = fork();
	if (server.victim == 0) {
		work();
		_exit(0);
	}
	wait_ready(1);
	must(lazy_new(NULL, &lazy, &error), &error);
	if (early)
		must(lazy_keeper_start(lazy, socket_path, &server.keeper, &error), &error);
	add_victim(lazy, server.victim);
	if (!early)
		must(lazy_keeper_start(lazy, socket_path, &server.keeper, &error), &error);
	source_start(&source, server.victim);
	atomic_store(&shared->stop, 1);
	if (lazy_run_faults(lazy, source.other, -1, &error) == 0)
		_exit(1);
	if (write(report, &server, sizeof(server)) != sizeof(server))
		_exit(1);
	for (;;)
		pause();
}

static struct server start_server(unsigned answers, bool early)
{
	struct server server;
	int fds[2];
	pid_t pid;

	memset((void *)shared, 0, sizeof(*shared));
	assert_int_equal(pipe(fds), 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (pid == 0)
		serve(fds[1], answers, early);
	assert_int_equal(read(fds[0], &server, sizeof(server)), sizeof(server));
	close(fds[0]);
	close(fds[1]);
	return server;
}

static void kill_server(const struct server *server)
{
	kill(server->pid, SIGKILL);
	assert_int_equal(waitpid(server->pid, NULL, 0), server->pid);
}

static void test_server_killed(void **state)
{
	for (unsigned answers = 0; answers < 60; answers += 20) {
		struct server server = start_server(answers + 1, answers > 0);
		struct error error = ERROR_INIT;
		struct source source = { .answers = 0 };
		struct runner runner;
		struct lazy *lazy;
		struct stat st;

		assert_int_equal(stat(socket_path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		kill_server(&server);
		usleep(20000);
		assert_true(atomic_load(&shared->value) < 10);
		must(lazy_keeper_fetch(NULL, socket_path, &lazy, &error), &error);
		source_start(&source, server.victim);
		runner_start(&runner, lazy, source.other, -1);
		pthread_join(runner.thread, NULL);
		must(runner.result, &runner.error);
		wait_value(10);
		check_no_trace(server.victim);
		lazy_free(lazy);
		source_end(&source);
		end_victim(server.victim);
		assert_true(waitpid(server.keeper, NULL, 0) == server.keeper);
		assert_int_equal(stat(socket_path, &st), -1);
	}
}

/* ---- a server that is killed right after it has read an event */

enum { DO_FORK, DO_REMAP, DO_REMOVE, DO_UNMAP, DO_COUNT };
static int action; /* what the victim does, set before it is forked */

#define DONE_PAGES 64u /* to so many pages */

static void check_rest(const uint8_t *place)
{
	for (size_t page = DONE_PAGES; page < REGION_PAGES; page++)
		check_page(place + page * PAGE, page_word(page));
}

static void check_zeros(void)
{
	for (size_t page = 0; page < DONE_PAGES; page++)
		check_page(region + page * PAGE, 0);
}

static void work_action(void)
{
	const size_t size = DONE_PAGES * PAGE;
	uint8_t *place;
	int status = 0;
	pid_t pid;

	wait_for_go();
	switch (action) {
	case DO_FORK:
		pid = fork();
		check_all();
		if (pid == 0)
			_exit(0);
		if (waitpid(pid, &status, 0) != pid || status != 0)
			atomic_store(&shared->wrong, 5);
		break;
	case DO_REMAP:
		place = mmap(NULL, REGION_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		place = mremap(region, REGION_PAGES * PAGE, REGION_PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
		check_rest(place);
		break;
	case DO_REMOVE:
		madvise(region, size, MADV_DONTNEED);
		check_zeros();
		check_rest(region);
		break;
	default:
		munmap(region, size);
		mmap(region, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		check_zeros();
		check_rest(region);
	}
	atomic_store(&shared->value, 10);
	pause();
}

/* Reads as the fault thread does, and does no more. `alone`: as if no event had been on its way when it looked. */
static void __attribute__((noreturn)) serve_until_event(int report, bool alone)
{
	struct error error = ERROR_INIT;
	struct server server = { .pid = getpid() };
	struct lazy_space *space;
	struct pollfd look;
	struct lazy *lazy;
	ssize_t n;

	server.victim = fork();
	if (server.victim == 0) {
		work_action();
		_exit(0);
	}
	wait_ready(1);
	must(lazy_new(NULL, &lazy, &error), &error);
	must(lazy_keeper_start(lazy, socket_path, &server.keeper, &error), &error);
	add_victim(lazy, server.victim);
	space = lazy->spaces.items[0];
	look = (struct pollfd){ .fd = space->uffd, .events = POLLIN };
	atomic_store(&shared->stop, 1);
	if (poll(&look, 1, 10000) != 1 || !lazy_userfault_changing(space->uffd))
		_exit(1);
	space->log->batch++;
	if (alone)
		n = read(space->uffd, space->log->messages, sizeof(space->log->messages));
	else
		n = lazy_link_read(lazy, space);
	if (n <= 0 || write(report, &server, sizeof(server)) != sizeof(server))
		_exit(1);
	kill(getpid(), SIGKILL);
	_exit(1);
}

static struct server start_until_event(bool alone)
{
	struct server server;
	int fds[2];
	pid_t pid;

	memset((void *)shared, 0, sizeof(*shared));
	assert_int_equal(pipe(fds), 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (pid == 0)
		serve_until_event(fds[1], alone);
	assert_int_equal(read(fds[0], &server, sizeof(server)), sizeof(server));
	assert_int_equal(waitpid(server.pid, NULL, 0), server.pid);
	close(fds[0]);
	close(fds[1]);
	return server;
}

static void go_on_after_event(bool alone)
{
	struct server server = start_until_event(alone);
	struct source source = { .answers = 0 };
	struct error error = ERROR_INIT;
	struct runner runner;
	struct lazy *lazy;

	must(lazy_keeper_fetch(NULL, socket_path, &lazy, &error), &error);
	source_start(&source, server.victim);
	runner_start(&runner, lazy, source.other, -1);
	wait_value(10);
	/* What nobody reads is missing still: the end of the process ends it. */
	if (action != DO_FORK)
		end_victim(server.victim);
	pthread_join(runner.thread, NULL);
	must(runner.result, &runner.error);
	if (action == DO_FORK) {
		check_no_trace(server.victim);
		end_victim(server.victim);
	}
	lazy_free(lazy);
	source_end(&source);
	assert_int_equal(waitpid(server.keeper, NULL, 0), server.keeper);
}

static void test_killed_with_event(void **state)
{
	for (action = 0; action < DO_COUNT; action++) {
		go_on_after_event(false);
		if (action != DO_FORK)
			go_on_after_event(true);
	}
}

/* The child's userfaultfd has died with the server: the tree is ended at once, not only when a successor looks. */
static void test_killed_with_fork(void **state)
{
	struct server server;
	int status;

	action = DO_FORK;
	server = start_until_event(true);
	assert_int_equal(waitpid(server.victim, &status, 0), server.victim);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(waitpid(server.keeper, &status, 0), server.keeper);
	assert_int_equal(atomic_load(&shared->value), 0);
}

/* A server that leaves in an orderly way, twice, then one that does the work. */
static void test_leave(void **state)
{
	struct server server = start_server(5, true);
	struct error error = ERROR_INIT;
	struct lazy *lazy;

	kill_server(&server);
	for (int i = 0; i < 3; i++) {
		struct source source = { .answers = i < 2 ? 5 : 0 };
		int r;

		must(lazy_keeper_fetch(NULL, socket_path, &lazy, &error), &error);
		source_start(&source, server.victim);
		r = lazy_run_faults(lazy, source.other, -1, &error);
		assert_true(i < 2 ? r == -ECONNRESET || r == -EPIPE : r == 0);
		error_clear(&error);
		source_end(&source);
		lazy_leave(lazy);
	}
	wait_value(10);
	end_victim(server.victim);
	waitpid(server.keeper, NULL, 0);
	assert_int_equal(lazy_keeper_fetch(NULL, socket_path, &lazy, &error), -ENOENT);
}

static void test_keeper_told_to_end(void **state)
{
	struct server server = start_server(10, true);
	int status;

	kill_server(&server);
	kill(server.keeper, SIGTERM);
	assert_int_equal(waitpid(server.victim, &status, 0), server.victim);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(waitpid(server.keeper, &status, 0), server.keeper);
	assert_true(WIFEXITED(status));
	assert_int_equal(atomic_load(&shared->wrong), 0);
}

/* Without a server, and then without processes: the keeper has nothing to wait for. */
static void test_keeper_alone(void **state)
{
	struct server server = start_server(10, false);

	kill_server(&server);
	end_victim(server.victim);
	assert_int_equal(waitpid(server.keeper, NULL, 0), server.keeper);
}

static void test_free_kills(void **state)
{
	struct error error = ERROR_INIT;
	struct lazy *lazy;
	pid_t pid = start_victim(work);

	wait_ready(1);
	must(lazy_new(NULL, &lazy, &error), &error);
	add_victim(lazy, pid);
	atomic_store(&shared->stop, 1);
	usleep(10000);
	lazy_free(lazy);
	end_victim(pid);
}

static bool has_poison(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	int r = ioctl(fd, UFFDIO_API, &api);

	close(fd);
	return r == 0 && api.features & (1 << 14);
}

static char state_of(pid_t pid)
{
	struct procfs_stat stat;

	return procfs_read_stat(pid, &stat, NULL) < 0 ? 0 : stat.state;
}

/* Or the next victim would inherit them. */
static void close_held(void)
{
	char path[64], link[64];

	for (int fd = 3; fd < 256; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, link, sizeof(link) - 1);
		if (n > 0 && memmem(link, (size_t)n, "userfaultfd", 11))
			close(fd);
	}
}

/* Before Linux 6.6 who is not killed hangs at the first missing page for as long as this program holds its userfaultfd. */
static void end_hanging(pid_t pid)
{
	for (int i = 0; i < 5000 && state_of(pid) == 'R'; i++)
		usleep(1000);
	assert_int_equal(atomic_load(&shared->value), 0);
	kill(pid, SIGKILL);
	close_held();
}

/* A child that nobody knows: forked, and its parent gone, before anybody looked. It reads after that. */
static void work_hide(void)
{
	wait_for_go();
	if (fork() != 0) {
		for (;;)
			pause();
	}
	if (fork() != 0)
		_exit(0);
	atomic_store(&shared->ready, getpid());
	while (atomic_load(&shared->stop) != 2)
		__builtin_ia32_pause();
	check_all();
	atomic_store(&shared->value, 1);
	_exit(0);
}

static void test_free_hidden(void **state)
{
	struct error error = ERROR_INIT;
	struct source source = { .answers = 0 };
	struct runner runner;
	struct lazy *lazy;
	pid_t pid, hidden;
	int cancel[2], status;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	assert_int_equal(pipe(cancel), 0);
	pid = start_victim(work_hide);
	wait_ready(1);
	must(lazy_new(NULL, &lazy, &error), &error);
	add_victim(lazy, pid);
	source_start(&source, pid);
	runner_start(&runner, lazy, source.other, cancel[0]);
	atomic_store(&shared->stop, 1);
	for (int i = 0; i < 5000 && atomic_load(&shared->ready) <= 1; i++)
		usleep(1000);
	hidden = atomic_load(&shared->ready);
	assert_int_equal(write(cancel[1], "", 1), 1);
	pthread_join(runner.thread, NULL);
	assert_int_equal(runner.result, -ECANCELED);
	source_end(&source);
	lazy_free(lazy);
	/* Either it was found and killed, or it gets SIGBUS for its first missing page. */
	atomic_store(&shared->stop, 2);
	if (!has_poison())
		end_hanging(hidden);
	assert_int_equal(waitpid(hidden, &status, 0), hidden);
	assert_true(WIFSIGNALED(status));
	print_message("the hidden child ended by signal %d\n", WTERMSIG(status));
	assert_int_equal(atomic_load(&shared->value), 0);
	end_victim(pid);
	close(cancel[0]);
	close(cancel[1]);
}

static void work_later(void)
{
	signal(SIGBUS, SIG_DFL);
	atomic_fetch_add(&shared->ready, 1);
	while (atomic_load(&shared->stop) != 2)
		__builtin_ia32_pause();
	check_page(region, page_word(0));
	atomic_store(&shared->value, 1);
	check_page(region + PAGE, page_word(1));
	atomic_store(&shared->value, 2);
	_exit(0);
}

/* One that cannot be killed, because nobody knows it: SIGBUS for what is missing, zeros for what is zero. */
static void test_free_poisons(void **state)
{
	struct error error = ERROR_INIT;
	struct lazy *lazy;
	pid_t pid = start_victim(work_later);
	int status;

	wait_ready(1);
	must(lazy_new(NULL, &lazy, &error), &error);
	add_victim(lazy, pid);
	close(lazy->victims.items[0].pidfd);
	lazy->victims.count = 0;
	lazy_free(lazy);
	atomic_store(&shared->stop, 2);
	if (!has_poison()) {
		end_hanging(pid);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		return;
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	assert_int_equal(atomic_load(&shared->value), 1);
	assert_int_equal(atomic_load(&shared->wrong), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_free_kills, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_free_hidden, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_free_poisons, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_server_killed, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_killed_with_event, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_killed_with_fork, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_leave, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_keeper_told_to_end, lazy_setup, lazy_teardown),
		cmocka_unit_test_setup_teardown(test_keeper_alone, lazy_setup, lazy_teardown),
	};

	lazy_keeper_enter(argc, argv);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
