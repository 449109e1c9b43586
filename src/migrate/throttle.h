/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Slows a tree down, so that pre-copy can overtake what it writes: its cgroup is frozen for a part of every few
 * milliseconds (tracee/freezer.h). A thread of ours does it; the processes notice nothing but that they are slower, and,
 * as with SIGSTOP and SIGCONT, that some calls (epoll_wait(2) is one: signal(7) lists them) may return EINTR.
 *
 * The tree has to be in the freezer's cgroup. Nobody else freezes or thaws it while a throttle is at work. If the program
 * is killed, the cgroup may be left frozen: guardian.c thaws it.
 */
#pragma once

#include "tracee/freezer.h"
#include "util/error.h"

#define THROTTLE_FIRST 20u /* percent of the time that the tree stands still */
#define THROTTLE_STEP 10u
#define THROTTLE_MAX 95u

struct throttle;

/* Starts at `percent`. The freezer is borrowed until throttle_stop(). Does not block. */
int throttle_start(struct freezer *freezer, unsigned percent, struct throttle **ret, struct error *error);

/* From the next slice on; at most THROTTLE_MAX. */
void throttle_set(struct throttle *throttle, unsigned percent);

/* Lets the tree run, and keeps it so until throttle_release(): for work that has to be done inside of it. NULL: nothing. */
void throttle_hold(struct throttle *throttle);
void throttle_release(struct throttle *throttle);

/*
 * Ends it; the tree runs when this returns. Blocks for as long as one write to the cgroup does, some milliseconds at
 * most. Fails when the cgroup could not be frozen or thawed at some time. NULL: nothing.
 */
int throttle_stop(struct throttle *throttle, struct error *error);
