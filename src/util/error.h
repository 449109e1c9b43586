/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors that carry a sentence.
 *
 * A fallible call of the engine returns 0 or a negative errno and takes a `struct error *` as its last argument. The
 * place where something goes wrong fills it with error_set(); callers on the way up may put context in front with
 * error_wrap(). The pointer may be NULL where only the code matters. Nothing here blocks or allocates.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>

#define ERROR_MESSAGE_MAX 1024

struct error {
	int code;                        /* negative errno of the first failure; 0: nothing is set */
	char message[ERROR_MESSAGE_MAX]; /* what was wrong, with which object, and what to do; no newline */
};

#define ERROR_INIT { .code = 0, .message = "" }

/* Fills `error` (unless it is set already or NULL) and returns `code`, which must be a negative errno. */
int error_set(struct error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As error_set(), and appends ": " and the text of the errno. */
int error_set_errno(struct error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "format: " before the message that is there; returns the code that is there (or `code` if none is set). */
int error_wrap(struct error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Forgets what is set, so that the object can be used again. */
void error_clear(struct error *error);

/* The message, or the text of `code` where nothing was filled in. Valid as long as `error` is unchanged. */
const char *error_text(const struct error *error, int code);
