/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "clock.h"

#define CLEAR_LINE "\r\033[K"
#define WIDTH_UNKNOWN 80
#define WIDTH_MAX 400

void log_line(const struct log *log, enum log_level level, const char *format, ...)
{
	char line[2048];
	size_t used = 0;
	int saved = errno;
	va_list ap;

	if (!log || log->fd < 0 || level > log->level)
		return;
	if (log->status) {
		pthread_mutex_lock(&log->status->lock);
		if (log->status->shown)
			used += (size_t)snprintf(line, sizeof(line), CLEAR_LINE);
		log->status->shown = false;
	}
	if (log->timestamps)
		used += (size_t)snprintf(line + used, sizeof(line) - used, "[%.6f] ", (double)clock_now_ns() / 1e9);
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
	if (log->status)
		pthread_mutex_unlock(&log->status->lock);
	errno = saved;
}

void log_status_draw(const struct log *log, const char *text)
{
	struct winsize size = { 0 };
	struct pollfd ready;
	char line[512];
	int width, used;

	if (!log || !log->status)
		return;
	ready = (struct pollfd){ .fd = log->fd, .events = POLLOUT };
	pthread_mutex_lock(&log->status->lock);
	if (!log->status->held && poll(&ready, 1, 0) == 1 && ready.revents == POLLOUT) {
		/* The last column stays free: some terminals wrap there. */
		width = ioctl(log->fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : WIDTH_UNKNOWN - 1;
		used = snprintf(line, sizeof(line), "\r%.*s\033[K", width < WIDTH_MAX ? width : WIDTH_MAX, text);
		log->status->shown = write(log->fd, line, (size_t)used) == used;
	}
	pthread_mutex_unlock(&log->status->lock);
}

void log_status_hold(const struct log *log, bool held)
{
	if (!log || !log->status)
		return;
	pthread_mutex_lock(&log->status->lock);
	log->status->held = held;
	if (held && log->status->shown && write(log->fd, CLEAR_LINE, strlen(CLEAR_LINE)) > 0)
		log->status->shown = false;
	pthread_mutex_unlock(&log->status->lock);
}
