/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The user's program at a turning point. It gets the facts in its environment: PAGESTREAM_EVENT (also as its argument),
 * _SESSION, _PID, _TARGET. It is waited for, at most ten seconds; before the commit less if the user gives up.
 *
 * It is a process group of its own: an interrupt from the terminal is for us, and must not end a hook half-way that says
 * where the process now runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "source.h"
#include "util/cleanup.h"

#define HOOK_MS 10000
#define HOOK_END_MS 1000 /* that it has to end when told to */

static void child(const struct source *source, const char *event)
{
	char session[WIRE_SESSION_TEXT], pid[16];
	sigset_t none;
	const int ignored[] = { SIGPIPE, SIGTSTP, SIGTTOU }; /* by us */
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	setpgid(0, 0);
	wire_session_text(source->session, session);
	snprintf(pid, sizeof(pid), "%d", source->options->pid);
	setenv("PAGESTREAM_EVENT", event, 1);
	setenv("PAGESTREAM_SESSION", session, 1);
	setenv("PAGESTREAM_PID", pid, 1);
	setenv("PAGESTREAM_TARGET", source->options->to, 1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_DFL);
	dup2(nothing, STDIN_FILENO);
	dup2(STDERR_FILENO, STDOUT_FILENO); /* stdout is the summary's */
	execl(source->options->hook, source->options->hook, event, (char *)NULL);
	_exit(127);
}

/* Ends the hook and what it has started. */
static void end_hook(pid_t pid, int pidfd)
{
	kill(-pid, SIGTERM);
	if (poll(&(struct pollfd){ .fd = pidfd, .events = POLLIN }, 1, HOOK_END_MS) == 0)
		kill(-pid, SIGKILL);
}

static int wait_hook(const struct source *source, const char *event, pid_t pid, struct error *error)
{
	_cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd fds[] = {
		{ .fd = pidfd, .events = POLLIN },
		/* Later the hook is a part of what has to be done. */
		{ .fd = source->phase < PHASE_COMMIT ? source->options->cancel_fd : -1, .events = POLLIN },
	};
	siginfo_t info = { 0 };
	int r = 0;

	if (pidfd >= 0 && poll(fds, 2, HOOK_MS) == 0)
		r = error_set(error, -ETIMEDOUT, "hook %s %s did not end within %d s", source->options->hook, event,
			      HOOK_MS / 1000);
	else if (pidfd >= 0 && !fds[0].revents && fds[1].revents)
		r = error_set(error, -ECANCELED, "interrupted in hook %s %s", source->options->hook, event);
	if (r < 0)
		end_hook(pid, pidfd);
	waitid(P_PID, (id_t)pid, &info, WEXITED);
	if (r == 0 && (info.si_code != CLD_EXITED || info.si_status != 0))
		r = error_set(error, -ECANCELED, "hook %s %s failed with status %d", source->options->hook, event,
			      info.si_status);
	return r;
}

int hook_run(const struct source *source, const char *event, struct error *error)
{
	pid_t pid;
	int r;

	if (!source->options->hook)
		return 0;
	log_status_hold(source->log, true);
	pid = fork();
	if (pid == 0)
		child(source, event);
	if (pid > 0)
		setpgid(pid, pid); /* whoever comes first, we or the child */
	r = pid < 0 ? error_set_errno(error, -errno, "cannot start hook %s", source->options->hook) :
		      wait_hook(source, event, pid, error);
	log_status_hold(source->log, false);
	return r;
}
