/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Programs of the user's that are run at some event: hooks. Such a program gets one argument, its environment is ours with
 * more variables, it reads nothing, and what it prints goes to our stderr. It is a process group of its own: an interrupt
 * from the terminal is for us, and must not end half-way a hook that says where something runs.
 *
 * Safe in a program with threads. Linux 5.4 (pidfd_open).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct program {
	const char *path;  /* borrowed */
	const char *event; /* its argument; borrowed */
	pid_t pid;         /* 0: none runs, or it has been waited for */
	int pidfd;         /* owned while it runs */
	int64_t started;   /* clock_now_ns() then */
};

/* `variables` are NAME=VALUE and end with a NULL. Does not wait; whoever starts it must call program_wait(). */
int program_start(struct program *program, const char *path, const char *event, const char *const variables[],
		  struct error *error);

/*
 * Waits for its end, for `ms` from its start on; without one it is ended, with all that is in its group (-ETIMEDOUT). So it is
 * when `cancel_fd` becomes readable (-ECANCELED; -1: nothing cancels). -ECANCELED also when its status is not 0. Success where
 * none runs.
 */
int program_wait(struct program *program, int64_t ms, int cancel_fd, struct error *error);

/* Whether program_wait() would return at once. */
bool program_has_ended(const struct program *program, int64_t ms);
