/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where messages go. One `struct log` is made by main() and passed down; libraries write at debug level only, the
 * top-level caller reports a failure once. Lines are written with a single write(2), so that threads do not mix them.
 */
#pragma once

#include <stdbool.h>

enum log_level {
	LOG_ERROR,
	LOG_WARNING,
	LOG_INFO,
	LOG_DEBUG,
};

struct log {
	enum log_level level; /* messages above this level are dropped */
	int fd;               /* borrowed; -1 drops everything */
	const char *name;     /* program name in front of each line; borrowed */
	bool timestamps;      /* monotonic seconds in front of each line, for debugging */
};

/* Writes one line; `log` may be NULL (drops it). Keeps errno. */
void log_line(const struct log *log, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(log, ...)   log_line((log), LOG_ERROR, __VA_ARGS__)
#define log_warning(log, ...) log_line((log), LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_line((log), LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_line((log), LOG_DEBUG, __VA_ARGS__)
