/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Allocations that fail when a test says so. For tests whose name ends with -out-of-memory: they are linked with
 * --wrap for each function below, so that calls from our own libraries (not from those of others) come here. Counted
 * in the thread that walks. Include cmocka.h and what it needs first.
 */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

#define OOM_NEVER SIZE_MAX

static __thread size_t oom_left = OOM_NEVER; /* allocations that still succeed */
static __thread bool oom_hit;                /* one has failed */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *place, size_t size);
void *__real_reallocarray(void *place, size_t count, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *place, size_t size);
void *__wrap_reallocarray(void *place, size_t count, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);
int __wrap_vasprintf(char **ret, const char *format, va_list arguments);
int __wrap_asprintf(char **ret, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __real_vasprintf(char **ret, const char *format, va_list arguments);

/* One fails, and those behind it work: what comes after a failure must clean up, not fail again by chance. */
static inline bool oom_now(void)
{
	if (oom_left == OOM_NEVER)
		return false;
	if (oom_left > 0) {
		oom_left--;
		return false;
	}
	oom_left = OOM_NEVER;
	oom_hit = true;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return oom_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return oom_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *place, size_t size)
{
	return oom_now() ? NULL : __real_realloc(place, size);
}

void *__wrap_reallocarray(void *place, size_t count, size_t size)
{
	return oom_now() ? NULL : __real_reallocarray(place, count, size);
}

char *__wrap_strdup(const char *text)
{
	return oom_now() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t size)
{
	return oom_now() ? NULL : __real_strndup(text, size);
}

int __wrap_vasprintf(char **ret, const char *format, va_list arguments)
{
	if (!oom_now())
		return __real_vasprintf(ret, format, arguments);
	*ret = (char *)(uintptr_t)0xdead; /* undefined, asprintf(3) says: nobody may look */
	return -1;
}

int __wrap_asprintf(char **ret, const char *format, ...)
{
	va_list arguments;
	int n;

	va_start(arguments, format);
	n = __wrap_vasprintf(ret, format, arguments);
	va_end(arguments);
	return n;
}

/*
 * Runs the operation with its first allocation failing, then with its second, and so on until none is left (from the
 * 200th on every seventh: they are of the same loops). It returns 0 or -ENOMEM, and then an error that says so; it frees
 * what it made, and sees to it that outputs are untouched.
 */
static inline void oom_walk(const char *name, int (*operation)(void *data, struct error *error), void *data)
{
	for (size_t n = 0;; n += n < 200 ? 1 : 7) {
		struct error error = ERROR_INIT;
		bool hit;
		int r;

		oom_hit = false;
		oom_left = n;
		r = operation(data, &error);
		oom_left = OOM_NEVER;
		hit = oom_hit;
		if (r != (hit ? -ENOMEM : 0) && !(hit && r == 0))
			fail_msg("%s: allocation %zu failed, and it returns %d (%s)", name, n, r, error_text(&error, r));
		if (r < 0 && !strstr(error_text(&error, r), "memory"))
			fail_msg("%s: allocation %zu failed, and it says '%s'", name, n, error_text(&error, r));
		if (!hit) {
			print_message("  %s: %zu allocations\n", name, n);
			return;
		}
	}
}
