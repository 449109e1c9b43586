/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/* Files, pipes and locks, moved from one child process to another. */
#include "files-common.h"
#include "pidfd.pb-c.h"
#include "restore/file-kind.h"
#include "restore/file-lock.h"

#include <sys/file.h>

static void expect_read(int fd, const char *text)
{
	char data[256] = { 0 };

	assert_int_equal(read(fd, data, sizeof(data) - 1), (ssize_t)strlen(text));
	assert_string_equal(data, text);
}

static void join(char *path, size_t size, const char *directory, const char *name)
{
	snprintf(path, size, "%s/%s", directory, name);
}

/* ---- files */

static void setup_files(const char *directory)
{
	char path[128];
	int fd;

	join(path, sizeof(path), directory, "log");
	CHILD_CHECK(open("/dev/null", O_RDONLY) == 0);
	CHILD_CHECK((fd = open(path, O_RDWR | O_CREAT, 0644)) == 1);
	CHILD_CHECK(write(fd, "hello world", 11) == 11);
	CHILD_CHECK(lseek(fd, 6, SEEK_SET) == 6);
	CHILD_CHECK(dup(fd) == 2);
	CHILD_CHECK(open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC) == 3);
	CHILD_CHECK(open(directory, O_RDONLY | O_DIRECTORY) == 4);
	CHILD_CHECK(open(path, O_PATH) == 5);
	CHILD_CHECK(dup2(1, 900) == 900);
}

static void test_files(void **state)
{
	struct move move;
	int a, b;

	move_all(&move, setup_files);
	a = move_fd(&move, 1);
	b = move_fd(&move, 2);
	expect_read(a, "world");
	assert_int_equal(lseek(b, 0, SEEK_CUR), 11);
	assert_false(move_cloexec(&move, 1));
	assert_true(move_cloexec(&move, 3));
	close(a);
	close(b);
	a = move_fd(&move, 3);
	assert_int_equal(fcntl(a, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK),
			 O_WRONLY | O_APPEND | O_NONBLOCK);
	close(a);
	a = move_fd(&move, 5);
	assert_true(fcntl(a, F_GETFL) & O_PATH);
	close(a);
	a = move_fd(&move, 900);
	assert_int_equal(lseek(a, 0, SEEK_CUR), 11);
	close(a);
	assert_int_equal(move_fd(&move, 6), -1);
	assert_int_equal(move_fd(&move, 899), -1);
	move_end(&move);
}

static void test_changed_file(void **state)
{
	struct image_blockers blockers;
	struct error error = ERROR_INIT;
	char path[128];
	struct move move;

	move_begin(&move, setup_files);
	move_dump(&move, true);
	join(path, sizeof(path), move.directory, "log");
	assert_int_equal(truncate(path, 3), 0);
	image_blockers_init(&blockers);
	/* The tree has it open for writing and it is newer here: that may come right. */
	assert_int_equal(restore_files_check(move.images, true, &blockers, &error), 0);
	assert_true(image_blockers_empty(&blockers));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(restore_files_check(move.images, true, &blockers, &error), 0);
	assert_int_equal(blockers.list.count, 1);
	assert_non_null(strstr(blockers.list.items[0].cause, "missing"));
	image_blockers_deinit(&blockers);
	move_kill_source(&move);
	move_shell(&move);
	assert_int_equal(move_apply(&move, &error), -ESTALE);
	assert_non_null(strstr(error.message, "log is missing on the restoring host"));
	move_end(&move);
}

static void setup_deleted(const char *directory)
{
	char path[128];
	int fd;

	join(path, sizeof(path), directory, "gone");
	CHILD_CHECK((fd = open(path, O_RDWR | O_CREAT, 0640)) == 0);
	CHILD_CHECK(write(fd, "ghost content", 13) == 13);
	CHILD_CHECK(pwrite(fd, "end", 3, 5 << 20) == 3);
	CHILD_CHECK(open(path, O_RDONLY) == 1);
	CHILD_CHECK(unlink(path) == 0);
	join(path, sizeof(path), directory, "odd (deleted)");
	CHILD_CHECK((fd = open(path, O_RDWR | O_CREAT, 0640)) == 2);
	CHILD_CHECK(write(fd, "odd", 3) == 3);
	CHILD_CHECK(lseek(fd, 0, SEEK_SET) == 0);
}

static void test_deleted(void **state)
{
	struct move move;
	struct stat a_stat, b_stat;
	char data[16] = { 0 };
	int a, b;

	move_all(&move, setup_deleted);
	a = move_fd(&move, 0);
	b = move_fd(&move, 1);
	assert_int_equal(fstat(a, &a_stat), 0);
	assert_int_equal(fstat(b, &b_stat), 0);
	assert_int_equal(a_stat.st_ino, b_stat.st_ino);
	assert_int_equal(a_stat.st_size, (5 << 20) + 3);
	assert_int_equal(a_stat.st_nlink, 0);
	assert_int_equal(a_stat.st_mode & 07777, 0640);
	assert_int_equal(lseek(a, 0, SEEK_CUR), 13);
	assert_int_equal(read(b, data, 13), 13);
	assert_string_equal(data, "ghost content");
	assert_int_equal(pread(a, data, 3, 5 << 20), 3);
	assert_memory_equal(data, "end", 3);
	assert_true(write(b, "x", 1) < 0);
	close(a);
	close(b);
	a = move_fd(&move, 2);
	expect_read(a, "odd");
	close(a);
	move_end(&move);
}

/* ---- pipes */

static void setup_pipes(const char *directory)
{
	char path[128];
	int ends[2];

	CHILD_CHECK(pipe(ends) == 0); /* 0, 1 */
	CHILD_CHECK(fcntl(1, F_SETPIPE_SZ, 8192) == 8192);
	CHILD_CHECK(write(1, "unread", 6) == 6);
	CHILD_CHECK(pipe2(ends, O_DIRECT | O_NONBLOCK) == 0); /* 2, 3 */
	CHILD_CHECK(write(3, "one", 3) == 3);
	CHILD_CHECK(write(3, "two", 3) == 3);
	CHILD_CHECK(pipe(ends) == 0); /* 4, 5 */
	CHILD_CHECK(write(5, "last", 4) == 4);
	CHILD_CHECK(close(5) == 0);
	join(path, sizeof(path), directory, "fifo");
	CHILD_CHECK(mkfifo(path, 0600) == 0);
	CHILD_CHECK(open(path, O_RDWR) == 5);
	CHILD_CHECK(write(5, "fifo data", 9) == 9);
	CHILD_CHECK(open("/proc/self/fd/1", O_WRONLY) == 6);
}

static void test_pipes(void **state)
{
	struct move move;
	char data[16];
	int a, b;

	move_all(&move, setup_pipes);
	a = move_fd(&move, 0);
	b = move_fd(&move, 1);
	assert_int_equal(fcntl(a, F_GETPIPE_SZ), 8192);
	assert_int_equal(fcntl(b, F_GETFL), O_WRONLY);
	expect_read(a, "unread");
	assert_int_equal(write(b, "more", 4), 4);
	expect_read(a, "more");
	close(b);
	b = move_fd(&move, 6);
	assert_int_equal(write(b, "third", 5), 5);
	expect_read(a, "third");
	close(a);
	close(b);
	a = move_fd(&move, 2);
	b = move_fd(&move, 3);
	assert_true(fcntl(b, F_GETFL) & O_DIRECT);
	assert_int_equal(write(b, "three", 5), 5);
	expect_read(a, "one");
	expect_read(a, "two");
	expect_read(a, "three");
	assert_int_equal(read(a, data, sizeof(data)), -1);
	assert_int_equal(errno, EAGAIN);
	close(a);
	close(b);
	a = move_fd(&move, 4);
	expect_read(a, "last");
	assert_int_equal(read(a, data, sizeof(data)), 0);
	close(a);
	a = move_fd(&move, 5);
	expect_read(a, "fifo data");
	close(a);
	move_end(&move);
}

/* ---- what cannot be moved */

static int outside_pipe[2];

static void setup_blocked(const char *directory)
{
	char path[128], other[128];
	int fd;

	CHILD_CHECK(open("/dev/ptmx", O_RDONLY | O_NOCTTY) == 0);
	join(path, sizeof(path), directory, "a");
	join(other, sizeof(other), directory, "other");
	CHILD_CHECK(mkdir(other, 0700) == 0);
	join(other, sizeof(other), directory, "other/b");
	CHILD_CHECK((fd = open(path, O_RDWR | O_CREAT, 0600)) == 1);
	CHILD_CHECK(link(path, other) == 0 && unlink(path) == 0);
	CHILD_CHECK(socket(AF_VSOCK, SOCK_STREAM, 0) == 2);
	CHILD_CHECK(open("/proc/1/status", O_RDONLY) == 3);
	CHILD_CHECK(syscall(SYS_pidfd_open, getppid(), 0) == 4);
	CHILD_CHECK(open(directory, O_RDONLY | O_DIRECTORY) == 5);
	CHILD_CHECK(mkdir(path, 0700) == 0);
	CHILD_CHECK(open(path, O_RDONLY | O_DIRECTORY) == 6);
	CHILD_CHECK(rmdir(path) == 0);
}

static void test_blockers(void **state)
{
	struct move move;
	int vsock = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (vsock < 0) {
		print_message("this kernel has no AF_VSOCK\n");
		skip();
	}
	close(vsock);
	move_begin(&move, setup_blocked);
	for (int frozen = 0; frozen <= 1; frozen++) {
		move_dump(&move, frozen);
		assert_true(move_has_blocker(&move, "fd 0 -> /dev/"));
		assert_true(move_has_blocker(&move, "reading or writing only"));
		assert_false(move_has_blocker(&move, "the name that it still has")); /* found */
		assert_true(move_has_blocker(&move, "AF_VSOCK") || move_has_blocker(&move, "virtual machine"));
		assert_true(move_has_blocker(&move, "fd 3 -> /proc/1/status"));
		assert_true(move_has_blocker(&move, "pidfd"));
		assert_true(move_has_blocker(&move, "under its path any more"));
		assert_int_equal(move.source.blockers.list.count, 5);
	}
	move_end(&move);
}

static void setup_large_ghost(const char *directory)
{
	char path[128];

	join(path, sizeof(path), directory, "large");
	CHILD_CHECK(open(path, O_RDWR | O_CREAT, 0600) == 0);
	CHILD_CHECK(ftruncate(0, 8192) == 0);
	CHILD_CHECK(unlink(path) == 0);
}

/* The limit counts the size, and the blocker says all that one needs to know. */
static void test_ghost_limit(void **state)
{
	const struct image_blocker *blocker;
	struct move move;

	move_begin(&move, setup_large_ghost);
	move.dump_options.ghost_limit = 8192;
	move_dump(&move, false);
	move_expect_no_blockers(&move);
	move.dump_options.ghost_limit = 8191;
	move_dump(&move, true);
	assert_int_equal(move.source.blockers.list.count, 1);
	blocker = move.source.blockers.list.items;
	assert_non_null(strstr(blocker->object, "/large"));
	assert_non_null(strstr(blocker->cause, "8192 bytes"));
	assert_non_null(strstr(blocker->cause, "8191"));
	assert_non_null(strstr(blocker->remedy, "--ghost-limit"));
	move_end(&move);
}

static void setup_outside(const char *directory)
{
	/* The parent's end, fetched again by /proc, since everything was closed. */
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), outside_pipe[0]);
	CHILD_CHECK(open(path, O_RDONLY) == 0);
}

static void test_outside_pipe(void **state)
{
	struct move move;

	assert_int_equal(pipe2(outside_pipe, O_CLOEXEC), 0);
	move_begin(&move, setup_outside);
	move_dump(&move, false);
	assert_true(move_has_blocker(&move, "the writing end is held by a process outside"));
	move_end(&move);
	close(outside_pipe[0]);
	close(outside_pipe[1]);
}

/* ---- records that are not as they should be */

/* Records of a peer that lies. What comes of reading them, and of opening the file. */
static void try_record(OpenFile *message, int wanted_of_reading, int wanted_of_opening)
{
	struct error error = ERROR_INIT;
	struct move move;

	message->id = 7;
	move_begin(&move, NULL);
	move_shell(&move);
	assert_int_equal(image_set_new(&move.images), 0);
	assert_int_equal(image_set_add(move.images, IMAGE_FILES, 0, &message->base, &error), 0);
	move.target.images = move.images;
	assert_int_equal(restore_files_prepare(&move.target, move.images, &error), wanted_of_reading);
	if (wanted_of_reading == 0)
		assert_int_equal(restore_file_open(&move.target, restore_file_find(move.target.files, 7), &error),
				 wanted_of_opening);
	move_end(&move);
}

static void test_false_records(void **state)
{
	FileOwner owner = FILE_OWNER__INIT;
	OpenFile file = OPEN_FILE__INIT;
	PidFd ended = PID_FD__INIT;

	/* Signals that end nobody. */
	file.type = FILE_TYPE__FILE_PIDFD;
	file.pidfd = &ended;
	ended.fown = &owner;
	ended.nspid = -1;
	ended.has_status = 1;
	for (ended.status = 0; ended.status < 128; ended.status++)
		try_record(&file, 0, ended.status >= SIGSTOP && ended.status <= SIGTTOU ? -EPROTO : 0);
	/* A message queue that is no file. */
	file.has_queue = 1;
	try_record(&file, -EPROTO, 0);
}

/* ---- locks */

static void setup_locks(const char *directory)
{
	char path[128];

	join(path, sizeof(path), directory, "locked");
	CHILD_CHECK(open(path, O_RDWR | O_CREAT, 0600) == 0);
	CHILD_CHECK(flock(0, LOCK_EX) == 0);
}

static void test_locks(void **state)
{
	struct move move;
	char path[128];
	int fd;

	move_all(&move, setup_locks);
	join(path, sizeof(path), move.directory, "locked");
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(errno, EWOULDBLOCK);
	close(fd);
	move_end(&move);
}

static void setup_posix_lock(const char *directory)
{
	struct flock range = { .l_type = F_WRLCK, .l_start = 100, .l_len = 10 };
	char path[128];

	join(path, sizeof(path), directory, "locked");
	CHILD_CHECK(open(path, O_RDWR | O_CREAT, 0600) == 0);
	CHILD_CHECK(fcntl(0, F_OFD_SETLK, &range) == 0);
}

/* The source still holds the lock when the target asks for it. */
static void test_lock_later(void **state)
{
	struct flock range = { .l_type = F_WRLCK, .l_start = 105, .l_len = 1 };
	struct error error = ERROR_INIT;
	struct restore_locks *locks;
	char path[128];
	size_t left = 0;
	struct move move;
	int fd;

	move_begin(&move, setup_posix_lock);
	move_dump(&move, true);
	move_shell(&move);
	if (move_apply(&move, &error) < 0)
		fail_msg("restore: %s", error.message);
	locks = restore_locks_steal(&move.target);
	assert_non_null(locks);
	/* The go: from now on it runs. */
	assert_int_equal(tracee_process_finish(move.target_process.tracee, CLOCK_FOREVER, &error),
			 0);
	assert_int_equal(tracee_process_keep(move.target_process.tracee, &error), 0);
	tracee_process_detach(move.target_process.tracee);
	move.target_process.tracee = NULL;
	assert_int_equal(restore_locks_take(locks, CLOCK_FOREVER, &left, &error), 0);
	assert_int_equal(left, 1);
	move_kill_source(&move);
	assert_int_equal(restore_locks_take(locks, CLOCK_FOREVER, &left, &error), 0);
	assert_int_equal(left, 0);
	restore_locks_free(locks);
	join(path, sizeof(path), move.directory, "locked");
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_SETLK, &range), -1);
	close(fd);
	move_end(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_files),	 cmocka_unit_test(test_changed_file),
		cmocka_unit_test(test_deleted),	 cmocka_unit_test(test_pipes),
		cmocka_unit_test(test_blockers), cmocka_unit_test(test_outside_pipe),
		cmocka_unit_test(test_locks),	 cmocka_unit_test(test_lock_later),
		cmocka_unit_test(test_ghost_limit), cmocka_unit_test(test_false_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
