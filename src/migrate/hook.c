/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The user's program at a turning point. It gets the facts in its environment: PAGESTREAM_EVENT (also as its argument),
 * _SESSION, _PID, _TARGET. It is waited for, at most ten seconds.
 */
#include <errno.h>
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

static void child(const struct source *source, const char *event)
{
	char session[WIRE_SESSION_TEXT], pid[16];
	sigset_t none;

	wire_session_text(source->session, session);
	snprintf(pid, sizeof(pid), "%d", source->options->pid);
	setenv("PAGESTREAM_EVENT", event, 1);
	setenv("PAGESTREAM_SESSION", session, 1);
	setenv("PAGESTREAM_PID", pid, 1);
	setenv("PAGESTREAM_TARGET", source->options->to, 1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(STDERR_FILENO, STDOUT_FILENO); /* stdout is the summary's */
	execl(source->options->hook, source->options->hook, event, (char *)NULL);
	_exit(127);
}

int hook_run(const struct source *source, const char *event, struct error *error)
{
	_cleanup_fd_ int pidfd = -1;
	siginfo_t info = { 0 };
	pid_t pid;

	if (!source->options->hook)
		return 0;
	pid = fork();
	if (pid < 0)
		return error_set_errno(error, -errno, "cannot start hook %s", source->options->hook);
	if (pid == 0)
		child(source, event);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd >= 0 && poll(&(struct pollfd){ .fd = pidfd, .events = POLLIN }, 1, HOOK_MS) == 0) {
		kill(pid, SIGKILL);
		waitid(P_PID, (id_t)pid, &info, WEXITED);
		return error_set(error, -ETIMEDOUT, "hook %s %s did not end within %d s", source->options->hook, event,
				 HOOK_MS / 1000);
	}
	waitid(P_PID, (id_t)pid, &info, WEXITED);
	if (info.si_code != CLD_EXITED || info.si_status != 0)
		return error_set(error, -ECANCELED, "hook %s %s failed with status %d", source->options->hook, event,
				 info.si_status);
	return 0;
}
