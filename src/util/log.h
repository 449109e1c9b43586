/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where messages go. One `struct log` is made by main() and passed down; libraries write at debug level only, the
 * top-level caller reports a failure once. Lines are written with a single write(2), so that threads do not mix them.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

enum log_level {
	LOG_ERROR,
	LOG_WARNING,
	LOG_INFO,
	LOG_DEBUG,
};

/*
 * The last line of a terminal, which is drawn anew in place as things change. It is taken away before any other line is
 * written.
 */
struct log_status {
	pthread_mutex_t lock;
	bool shown; /* it is on the terminal */
	bool held;  /* it stays away */
};

#define LOG_STATUS_INIT { .lock = PTHREAD_MUTEX_INITIALIZER }

struct log {
	enum log_level level; /* messages above this level are dropped */
	int fd;               /* borrowed; -1 drops everything */
	const char *name;     /* program name in front of each line; borrowed */
	bool timestamps;      /* monotonic seconds in front of each line, for debugging */
	struct log_status *status; /* borrowed; NULL: `fd` is no terminal, there is no such line */
};

/* Writes one line; `log` may be NULL (drops it). Keeps errno. */
void log_line(const struct log *log, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Draws the status line, cut to the width of the terminal. Does nothing where there is none, while it is held, and while
 * the terminal takes no output: this never blocks.
 */
void log_status_draw(const struct log *log, const char *text);
/* Takes the status line away and keeps it away: somebody else writes to the terminal. */
void log_status_hold(const struct log *log, bool held);

#define log_error(log, ...)   log_line((log), LOG_ERROR, __VA_ARGS__)
#define log_warning(log, ...) log_line((log), LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_line((log), LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_line((log), LOG_DEBUG, __VA_ARGS__)
