/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pseudo-terminals that came with the tree, pty.c. In order: check in the preflight; prepare in each layout, control for each
 * leader of a session in it; fill before descriptors are opened; open for each of them; finish after process groups.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/blockers.h"
#include "image/pty-queue.h"
#include "restore/parts.h"
#include "tty.pb-c.h"

#define RESTORE_PTY_MASTER "/dev/ptmx"

struct restore_ptys;

struct restore_pty {
	uint32_t index;
	int fd;                 /* the master, owned */
	TerminalInfo *master;   /* of the newest set, owned */
	TerminalInfo *slave;    /* likewise; NULL before the last layout */
};

/* Lists pseudo-terminals that cannot be made here. */
int restore_ptys_check(const struct image_set *images, struct image_blockers *blockers, struct error *error);

/* Makes those of tree->images that are not there yet, and closes those that are not wanted any more. */
int restore_ptys_prepare(struct restore_tree *tree, struct error *error);

/* Brings the leader of a session to its terminal; `wanted` -1: to none. Before processes are cloned from it. */
int restore_pty_control(struct restore_tree *tree, struct restore_process *leader, int wanted, struct error *error);

/* Settings, and what lay in each. */
int restore_ptys_fill(struct restore_tree *tree, struct error *error);
/* pty-fill.c: the same of one. `queue` is room for it. */
int restore_pty_fill(struct restore_tree *tree, const struct restore_pty *pty, struct image_pty_queue *queue,
		     struct error *error);
/* The open file of a terminal that moved: its descriptor, or a negative errno. */
int restore_pty_open(struct restore_tree *tree, const TerminalFile *message, struct error *error);
int restore_ptys_finish(struct restore_tree *tree, struct error *error);
void restore_ptys_free(struct restore_ptys *ptys);

/*
 * pty-check.c: does the record describe the master of a pair that moves? And is there one for a terminal of that id, or its
 * other end?
 */
bool restore_pty_is_master(const TerminalInfo *info);
int restore_pty_has_master(const struct image_set *images, uint32_t id, struct error *error);
