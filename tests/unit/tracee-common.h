/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Forked victims for the tests of src/tracee: what they share with the test, how they start, are
 * checked and end. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs these in front */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tracee/tracee.h"
#include "util/procfs.h"

#define DEADLINE clock_deadline(5 * CLOCK_S)

/* What victims and the test share. */
struct shared {
	_Atomic uint64_t counter; /* grows as long as the victim works */
	_Atomic int wrong;	  /* set by a victim that finds itself changed */
	_Atomic int signals;	  /* handled by the victim */
	_Atomic int ready;	  /* threads that have started */
	_Atomic int stop;	  /* asks the victim to end */
	_Atomic int value;	  /* a result of the victim */
};

static struct shared *shared;

static inline int setup(void **state)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	assert_ptr_not_equal(shared, MAP_FAILED);
	return 0;
}

static inline int teardown(void **state)
{
	munmap(shared, sizeof(*shared));
	return 0;
}

static inline pid_t start_victim(void (*work)(void))
{
	pid_t pid;

	memset((void *)shared, 0, sizeof(*shared));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "victim");
		work();
		_exit(0);
	}
	return pid;
}

static inline void wait_ready(int threads)
{
	for (int i = 0; i < 5000 && atomic_load(&shared->ready) < threads; i++)
		usleep(1000);
	assert_int_equal(atomic_load(&shared->ready), threads);
}

static inline void end_victim(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(atomic_load(&shared->wrong), 0);
}

/* The victim still works and has found nothing wrong. */
static inline void check_alive(void)
{
	uint64_t before = atomic_load(&shared->counter);

	for (int i = 0; i < 3000 && atomic_load(&shared->counter) == before; i++)
		usleep(1000);
	assert_true(atomic_load(&shared->counter) > before);
	assert_int_equal(atomic_load(&shared->wrong), 0);
}

static inline void must(int r, const struct error *error)
{
	if (r < 0)
		fail_msg("%s", error_text(error, r));
}

static inline char *read_maps_text(pid_t pid)
{
	static char text[2][1 << 16];
	static int which;
	char path[64];
	size_t n;
	FILE *file;

	which = !which;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	file = fopen(path, "re");
	assert_non_null(file);
	n = fread(text[which], 1, sizeof(text[which]) - 1, file);
	fclose(file);
	text[which][n] = '\0';
	return text[which];
}

/* ---- victims */

static inline void work_count(void)
{
	atomic_fetch_add(&shared->ready, 1);
	for (;;)
		atomic_fetch_add(&shared->counter, 1);
}

static inline void work_pause(void)
{
	atomic_fetch_add(&shared->ready, 1);
	for (;;)
		pause();
}
