/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands in the way of a move: one list, filled by `dump` on the source and by `restore` on the target, printed by
 * the caller all at once. A list owns its strings. It is not locked; nothing here blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "util/array.h"
#include "util/log.h"

struct image_blocker {
	pid_t pid;    /* process concerned; 0: the tree or the host */
	char *kind;   /* kind of object: "descriptor", "mapping", "thread", "PID", ... */
	char *object; /* which one: "fd 7 -> /dev/tty1", "7f00...-7f01... [aio]" */
	char *cause;  /* why it cannot be moved */
	char *remedy; /* what the user can do */
};

/* What is not in the way, and should be known: it is not taken along. */
struct image_note {
	pid_t pid;  /* the first process that it holds for */
	char *text; /* "cgroup /a/b: the copy is put..." */
};

struct image_blockers {
	ARRAY(struct image_blocker) list;
	ARRAY(struct image_note) notes;
	bool incomplete; /* there was no memory for an entry: the list blocks even when it looks empty */
};

void image_blockers_init(struct image_blockers *blockers);
void image_blockers_deinit(struct image_blockers *blockers);

/*
 * Adds an entry unless an equal one is there (several rounds of collecting find the same objects). `object` is a format
 * string, its arguments come last. Never fails: without memory the list is marked incomplete.
 */
void image_blockers_add(struct image_blockers *blockers, pid_t pid, const char *kind, const char *cause,
			const char *remedy, const char *object, ...) __attribute__((format(printf, 6, 7)));

/* Adds a note unless there is one of that text. Without memory there is none. */
void image_blockers_note(struct image_blockers *blockers, pid_t pid, const char *text, ...)
	__attribute__((format(printf, 3, 4)));
/* Logs the notes. */
void image_blockers_log_notes(const struct image_blockers *blockers, const struct log *log);

/* Logs them as errors, a line each, numbered. */
void image_blockers_log(const struct image_blockers *blockers, const struct log *log);

static inline bool image_blockers_empty(const struct image_blockers *blockers)
{
	return blockers->list.count == 0 && !blockers->incomplete;
}
