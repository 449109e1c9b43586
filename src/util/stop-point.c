/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stop-point.h"

#ifdef PAGESTREAM_STOP_POINTS

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VARIABLE "PAGESTREAM_STOP_AT"

void stop_point(const char *format, ...)
{
	const char *wanted = getenv(VARIABLE);
	char name[64];
	va_list arguments;

	if (!wanted)
		return;
	va_start(arguments, format);
	vsnprintf(name, sizeof(name), format, arguments);
	va_end(arguments);
	if (strcmp(name, wanted) != 0)
		return;
	unsetenv(VARIABLE);
	/* To this thread: it does not go on for a moment while another one takes the signal. */
	raise(SIGSTOP);
}

int64_t stop_point_wait(int64_t wait)
{
	const char *hurry = getenv("PAGESTREAM_HURRY");
	long divisor = hurry ? strtol(hurry, NULL, 10) : 1;

	return divisor > 1 ? wait / divisor : wait;
}

#else

void stop_point(const char *format, ...)
{
}

int64_t stop_point_wait(int64_t wait)
{
	return wait;
}

#endif
