/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pseudo-terminals that move with the tree: those whose masters it holds. pty.c; tty.c has the descriptors. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "dump/file-kind.h"
#include "image/pty-queue.h"
#include "pstree.pb-c.h"

/*
 * Looks for masters among the descriptors of all processes, when a terminal controls one of them. For the records of the
 * tree, which come before those of descriptors. `records`: adds an IMAGE_TTY_INFO of each master that was found.
 */
int dump_ptys_find(struct dump_context *ctx, bool records, struct error *error);
/* Whether that look has found the master of this device (as /proc/PID/stat has it). */
bool dump_pty_moves(const struct dump_context *ctx, int device);
/* Which of those terminals controls the process. */
void dump_pty_controlling(const struct dump_context *ctx, const struct dump_process *process, TreeProcess *message);

/* Notes a master, or an open slave, of this collection. Keeps a copy of the descriptor. */
int dump_pty_note(struct dump_context *ctx, const struct dump_file *file, uint32_t index, bool master, struct error *error);
/* What lies in a terminal: pty-copy.c. */
struct dump_pty_copy {
	int master; /* set by the caller; borrowed */
	int result; /* 0 or a negative errno */
	struct image_pty_queue queue;
};

/*
 * `count` copies, zeroed; to be freed with the same count. dump_pty_copies_run() fills them in, from terminals that nobody uses
 * meanwhile, and blocks for some 0.2 ms each.
 */
int dump_pty_copies_new(size_t count, struct dump_pty_copy **ret, struct error *error);
int dump_pty_copies_run(struct dump_pty_copy *copies, size_t count, struct error *error);
void dump_pty_copies_free(struct dump_pty_copy *copies, size_t count);

/* Whether a master of this collection was noted; when all descriptors were. */
bool dump_pty_is_noted(const struct dump_context *ctx, uint32_t index);
/* Whether that descriptor of another process, by its link and what it is, leads to an end of one: its number, or -1. */
int dump_pty_of_other(const struct dump_context *ctx, pid_t pid, int number, const char *link, const struct stat *info);
/* The records of all of them; when all descriptors were noted. */
int dump_ptys_finish(struct dump_context *ctx, struct error *error);
