/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests of descriptors: a child process with some objects open is described, killed, and its
 * descriptors are installed in a second child that stands in for a shell. No test harness
 * descriptor is open in either.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
/* cmocka wants the four above. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scratch.h"

#include "dump/dump.h"
#include "dump/files.h"
#include "dump/parts.h"
#include "dump/shared-memory.h"
#include "image/image.h"
#include "restore/files.h"
#include "restore/parts.h"
#include "restore/restore.h"
#include "tracee/tracee.h"

#define CHILD_CHECK(condition)                       \
	do {                                         \
		if (!(condition))                    \
			_exit(100 + __LINE__ % 100); \
	} while (0)

/* One move of descriptors. */
struct move {
	struct dump_options dump_options;
	struct restore_options restore_options;
	struct dump_context source;
	struct dump_process source_process;
	struct dump_process *source_list[1];
	struct image_set *images;
	struct restore_tree target;
	struct restore_process target_process;
	struct restore_process *target_list[1];
	int target_pidfd;
	char directory[64]; /* temporary, for the files of the test */
};

static inline pid_t move_spawn(void (*setup)(const char *directory), const char *directory)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close_range(0, UINT32_MAX, 0);
		if (setup)
			setup(directory);
		raise(SIGSTOP);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	if (!WIFSTOPPED(status))
		fail_msg("setting up the child failed: status %#x (line %d)", status,
			 WEXITSTATUS(status) - 100);
	return pid;
}

static inline void move_begin(struct move *move, void (*setup)(const char *directory))
{
	char path[64];
	pid_t pid;

	memset(move, 0, sizeof(*move));
	scratch_directory(move->directory, sizeof(move->directory), "test-files");
	pid = move_spawn(setup, move->directory);
	move->source_process.pid = move->source_process.live = pid;
	move->source_process.files_id = (uint32_t)pid;
	move->source_process.live = pid;
	move->source_process.thread_pidfd = -1;
	move->source_process.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	snprintf(path, sizeof(path), "/proc/%d", pid);
	move->source_process.proc_fd = open(path, O_PATH | O_CLOEXEC);
	assert_true(move->source_process.pidfd >= 0 && move->source_process.proc_fd >= 0);
	move->source_list[0] = &move->source_process;
	assert_int_equal(pidmap_put(&move->source.by_pid, (uint32_t)pid, &move->source_process), 0);
	move->source.options = &move->dump_options;
	move->source.root = pid;
	move->source.processes.items = move->source_list;
	move->source.processes.count = 1;
	move->source.deadline = CLOCK_FOREVER;
	move->source.lockless = true; /* but for tests that set a lock */
	image_blockers_init(&move->source.blockers);
}

/* One pass over the descriptors; `frozen`: as at the freeze. */
static inline void move_dump(struct move *move, bool frozen)
{
	struct error error = ERROR_INIT;
	int r;

	image_set_free(move->images);
	assert_int_equal(image_set_new(&move->images), 0);
	move->source.images = move->images;
	if (frozen && tracee_process_stop(move->source_process.pid, NULL, CLOCK_FOREVER,
					  &move->source_process.tracee, &error) < 0)
		fail_msg("stop: %s", error.message);
	dump_files_begin(&move->source);
	dump_shared_begin(&move->source);
	r = dump_files_collect(&move->source, &error);
	tracee_process_release(move->source_process.tracee);
	move->source_process.tracee = NULL;
	if (r < 0)
		fail_msg("dump: %s", error.message);
}

static inline void move_expect_no_blockers(const struct move *move)
{
	array_for_each (blocker, &move->source.blockers.list)
		fail_msg("blocker: %s: %s (%s)", blocker->object, blocker->cause, blocker->remedy);
}

static inline bool move_has_blocker(const struct move *move, const char *part)
{
	array_for_each (blocker, &move->source.blockers.list)
		if (strstr(blocker->object, part) || strstr(blocker->cause, part))
			return true;
	return false;
}

static inline void move_kill_source(struct move *move)
{
	kill(move->source_process.pid, SIGKILL);
	waitpid(move->source_process.pid, NULL, 0);
}

static inline void move_shell(struct move *move)
{
	struct error error = ERROR_INIT;
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0, 0), 0);
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	assert_int_equal(waitpid(pid, &status, __WALL), pid);
	move->target_process.pid = pid;
	move->target_process.files_id = move->source_process.files_id;
	if (tracee_process_adopt(pid, 0, NULL, CLOCK_FOREVER, &move->target_process.tracee,
				 &error) < 0)
		fail_msg("adopt: %s", error.message);
	move->target_list[0] = &move->target_process;
	move->target.options = &move->restore_options;
	move->target.processes.items = move->target_list;
	move->target.processes.count = 1;
	move->target.deadline = CLOCK_FOREVER;
	move->target_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
}

/* What of memfds and deleted files has data. */
static inline int move_content(struct move *move, struct error *error)
{
	int r = 0;

	for (size_t i = 0; i < dump_shared_count(&move->source); i++) {
		const struct dump_shared_object *object = dump_shared_get(&move->source, i);
		uint8_t page[4096];
		off_t at = 0;

		while (r == 0 && (at = lseek(object->fd, at, SEEK_DATA)) >= 0) {
			ssize_t got = pread(object->fd, page, sizeof(page), at);

			r = restore_shared_write(&move->target, object->id, (uint64_t)at, page, (size_t)got, error);
			at += got;
		}
	}
	return r;
}

static inline int move_apply(struct move *move, struct error *error)
{
	int r;

	move->target.images = move->images;
	r = restore_files_prepare(&move->target, move->images, error);
	if (r == 0)
		r = restore_shared_prepare(&move->target, move->images, error);
	if (r == 0)
		r = move_content(move, error);
	if (r == 0)
		r = restore_files_apply(&move->target, move->images, error);
	if (r == 0)
		r = restore_files_commit(&move->target, error);
	return r;
}

/* The whole way; afterwards move_fd() gives the moved descriptors. */
static inline void move_all(struct move *move, void (*setup)(const char *directory))
{
	struct error error = ERROR_INIT;

	move_begin(move, setup);
	move_dump(move, false);
	move_expect_no_blockers(move);
	move_dump(move, true);
	move_expect_no_blockers(move);
	move_kill_source(move);
	move_shell(move);
	if (move_apply(move, &error) < 0)
		fail_msg("restore: %s", error.message);
}

/* A copy of the moved descriptor `number`; -1 when there is none. */
static inline int move_fd(const struct move *move, int number)
{
	return (int)syscall(SYS_pidfd_getfd, move->target_pidfd, number, 0);
}

static inline bool move_cloexec(const struct move *move, int number)
{
	char path[64], line[128];
	unsigned int flags = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", move->target_process.pid, number);
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		(void)sscanf(line, "flags: %o", &flags);
	fclose(file);
	return flags & O_CLOEXEC;
}

static inline void move_end(struct move *move)
{
	char command[128];

	if (move->source_process.pid) {
		kill(move->source_process.pid, SIGKILL);
		waitpid(move->source_process.pid, NULL, 0);
	}
	if (move->target_process.pid) {
		restore_files_free(move->target.files);
		restore_shared_free(move->target.shared);
		tracee_process_release(move->target_process.tracee);
		kill(move->target_process.pid, SIGKILL);
		waitpid(move->target_process.pid, NULL, 0);
		close(move->target_pidfd);
	}
	dump_files_free(move->source.files);
	dump_shared_free(move->source.shared);
	pidmap_deinit(&move->source.by_pid);
	image_blockers_deinit(&move->source.blockers);
	image_set_free(move->images);
	close(move->source_process.pidfd);
	dump_process_forget_status(&move->source_process);
	close(move->source_process.proc_fd);
	snprintf(command, sizeof(command), "rm -rf '%s'", move->directory);
	assert_int_equal(system(command), 0);
}
