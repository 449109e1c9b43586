/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vforks DIR: a thread that starts programs all the time, by vfork(2), each with an argument that comes back as its exit
 * status. With DIR/hold there, the next child waits before it begins its program, until DIR/hold is gone.
 */
#include "victim.h"

#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/wait.h>

static _Atomic uint64_t started, wrong;
static const char *hold, *held;
static char number[16];

/* In the memory of all: no more than system calls, on this stack. */
__attribute__((noinline)) static pid_t start(void)
{
	static char name[] = "/bin/sh", option[] = "-c", script[] = "exit $0";
	char *const arguments[] = {name, option, script, number, NULL}, *const environment[] = {NULL};
	pid_t pid = vfork();

	if (pid)
		return pid;
	while (access(hold, F_OK) == 0) {
		(void)!symlink("vfork", held);
		usleep(1000);
	}
	execve(name, arguments, environment);
	_exit(127);
}

static void *start_programs(void *argument)
{
	for (;; started++) {
		int status = 0;
		pid_t pid;

		snprintf(number, sizeof(number), "%u", (unsigned)(started % 100));
		pid = start();
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
		    WEXITSTATUS(status) != (int)(started % 100))
			wrong++;
	}
	return argument;
}

static bool verify(struct victim *v, void *context)
{
	uint64_t before = started;

	(void)context;
	CHECK(v, WAIT_FOR(started > before + 3, 10000), "no programs are started any more, after %lu", before);
	CHECK(v, wrong == 0, "%lu of %lu programs ended otherwise", wrong, started);
	return true;
}

int main(int argc, char **argv)
{
	struct victim v;
	pthread_t thread;

	victim_start(&v, argc, argv);
	hold = strdup(victim_path(&v, "hold"));
	held = strdup(victim_path(&v, "held"));
	MUST(pthread_create(&thread, NULL, start_programs, NULL) == 0);
	victim_run(&v, verify, NULL);
}
