/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far a migration is: as a line for people, and as a file beside the journal (SESSION.progress, a JSON object) that
 * `migrate status` reads while migrate runs. The file is replaced several times a second and goes with its migrate.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/journal.h"
#include "phase.h"
#include "util/error.h"

#define PROGRESS_TEXT_MAX 512u

struct progress_facts {
	enum phase phase;
	unsigned round;            /* 0: none yet */
	uint64_t pages_round;      /* that the round has to send, and */
	uint64_t pages_done;       /* that it has sent */
	double rate_bytes_per_s;   /* of sending, over the last second or so */
	double dirty_bytes_per_s;  /* written by the tree, before this round; 0: not known */
	unsigned throttle_percent; /* of its time that the tree is made to stand still */
	double downtime_ms;        /* that is expected; 0: not known */
	uint64_t pages_missing;    /* post-copy: still here, and */
	uint64_t pages_faulted;    /* asked for by a fault */
	uint64_t elapsed_ms;       /* since the start */
};

/* What is known as one line, without newline; what is not yet is left out. */
void progress_line(const struct progress_facts *facts, char text[PROGRESS_TEXT_MAX]);

/* The same as a JSON object. */
void progress_json(const struct progress_facts *facts, char text[PROGRESS_TEXT_MAX]);
int progress_parse(const char *text, struct progress_facts *ret);

/* The session's file. Nothing is done about failures: it is there for who looks. */
void progress_write(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], const struct progress_facts *facts);
void progress_remove(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE]);
/* -ENOENT: none. */
int progress_read(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], char text[PROGRESS_TEXT_MAX]);
