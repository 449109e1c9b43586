/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "clock.h"

void log_line(const struct log *log, enum log_level level, const char *format, ...)
{
	char line[2048];
	size_t used = 0;
	int saved = errno;
	va_list ap;

	if (!log || log->fd < 0 || level > log->level)
		return;
	if (log->timestamps)
		used += (size_t)snprintf(line, sizeof(line), "[%.6f] ", (double)clock_now_ns() / 1e9);
	if (log->name)
		used += (size_t)snprintf(line + used, sizeof(line) - used, "%s: ", log->name);
	if (level == LOG_WARNING)
		used += (size_t)snprintf(line + used, sizeof(line) - used, "warning: ");
	va_start(ap, format);
	vsnprintf(line + used, sizeof(line) - used - 1, format, ap);
	va_end(ap);
	for (used = 0; line[used]; used++)
		;
	line[used++] = '\n';
	if (write(log->fd, line, used) < 0)
		used = 0; /* there is nowhere left to report it */
	errno = saved;
}
