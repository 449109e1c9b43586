/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"

#define END_MS 1000 /* that it has to end when told to */

static bool is_set_anew(const char *entry, const char *const variables[])
{
	size_t length = strcspn(entry, "=") + 1;

	for (; *variables; variables++)
		if (strncmp(entry, *variables, length) == 0)
			return true;
	return false;
}

/* Ours and those; the array is the caller's, the strings are borrowed. */
static char **make_environment(const char *const variables[])
{
	size_t count = 0, used = 0;
	char **list;

	while (environ[count])
		count++;
	for (size_t i = 0; variables[i]; i++)
		count++;
	list = calloc(count + 1, sizeof(*list));
	if (!list)
		return NULL;
	for (char **entry = environ; *entry; entry++)
		if (!is_set_anew(*entry, variables))
			list[used++] = *entry;
	for (; *variables; variables++)
		list[used++] = (char *)(uintptr_t)*variables;
	return list;
}

/* As its own group, with the signals of a program that a shell has started. */
static int set_attributes(posix_spawnattr_t *attributes)
{
	const int ignored[] = { SIGPIPE, SIGTSTP, SIGTTOU }; /* by us */
	sigset_t none, defaults;
	int r;

	sigemptyset(&none);
	sigemptyset(&defaults);
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		sigaddset(&defaults, ignored[i]);
	r = posix_spawnattr_setpgroup(attributes, 0);
	if (r == 0)
		r = posix_spawnattr_setsigmask(attributes, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(attributes, &defaults);
	return r ? r : posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
							    POSIX_SPAWN_SETSIGDEF);
}

/* Stdout is our summary's. */
static int set_descriptors(posix_spawn_file_actions_t *actions)
{
	int r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);

	if (r == 0 && fcntl(STDERR_FILENO, F_GETFD) < 0)
		r = posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	return r ? r : posix_spawn_file_actions_adddup2(actions, STDERR_FILENO, STDOUT_FILENO);
}

static int spawn(const char *path, const char *event, char *const environment[], pid_t *ret)
{
	char *const arguments[] = { (char *)(uintptr_t)path, (char *)(uintptr_t)event, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int r = posix_spawn_file_actions_init(&actions);

	if (r)
		return -r;
	r = posix_spawnattr_init(&attributes);
	if (r == 0) {
		r = set_attributes(&attributes);
		if (r == 0)
			r = set_descriptors(&actions);
		if (r == 0)
			r = posix_spawn(ret, path, &actions, &attributes, arguments, environment);
		posix_spawnattr_destroy(&attributes);
	}
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

int program_start(struct program *program, const char *path, const char *event, const char *const variables[],
		  struct error *error)
{
	_cleanup_free_ char **environment = make_environment(variables);
	pid_t pid;
	int r = environment ? spawn(path, event, environment, &pid) : -ENOMEM;

	if (r < 0)
		return error_set_errno(error, r, "cannot start hook %s %s", path, event);
	*program = (struct program){ .path = path, .event = event, .pid = pid, .started = clock_now_ns(),
				     .pidfd = (int)syscall(SYS_pidfd_open, pid, 0) };
	return 0;
}

static int ms_left(const struct program *program, int64_t ms)
{
	return clock_poll_ms(program->started + ms * CLOCK_MS);
}

bool program_has_ended(const struct program *program, int64_t ms)
{
	struct pollfd fd = { .fd = program->pidfd, .events = POLLIN };

	return !program->pid || ms_left(program, ms) == 0 || poll(&fd, 1, 0) != 0;
}

static void end_group(const struct program *program)
{
	kill(-program->pid, SIGTERM);
	if (poll(&(struct pollfd){ .fd = program->pidfd, .events = POLLIN }, 1, END_MS) == 0)
		kill(-program->pid, SIGKILL);
}

int program_wait(struct program *program, int64_t ms, int cancel_fd, struct error *error)
{
	struct pollfd fds[] = { { .fd = program->pidfd, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };
	siginfo_t info = { 0 };
	int n, r = 0;

	if (!program->pid)
		return 0;
	do
		n = program->pidfd >= 0 ? poll(fds, 2, ms_left(program, ms)) : 1;
	while (n < 0 && errno == EINTR);
	if (n == 0)
		r = error_set(error, -ETIMEDOUT, "hook %s %s did not end within %lld s", program->path, program->event,
			      (long long)(ms / 1000));
	else if (program->pidfd >= 0 && !fds[0].revents && fds[1].revents)
		r = error_set(error, -ECANCELED, "interrupted in hook %s %s", program->path, program->event);
	if (r < 0)
		end_group(program);
	waitid(P_PID, (id_t)program->pid, &info, WEXITED);
	if (r == 0 && (info.si_code != CLD_EXITED || info.si_status != 0))
		r = error_set(error, -ECANCELED, "hook %s %s failed with status %d", program->path, program->event,
			      info.si_status);
	cleanup_fd(&program->pidfd);
	program->pid = 0;
	return r;
}
