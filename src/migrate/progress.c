/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "progress.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "transport/wire.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define MIB (1024.0 * 1024.0)
#define NAME_MAX_LENGTH (WIRE_SESSION_TEXT + 16)

__attribute__((format(printf, 2, 3))) static void append(char text[PROGRESS_TEXT_MAX], const char *format, ...)
{
	size_t used = strlen(text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(text + used, PROGRESS_TEXT_MAX - used, format, ap);
	va_end(ap);
}

void progress_line(const struct progress_facts *facts, char text[PROGRESS_TEXT_MAX])
{
	snprintf(text, PROGRESS_TEXT_MAX, "%s", phase_name(facts->phase));
	if (facts->phase == PHASE_POSTCOPY) {
		append(text, ": %" PRIu64 " pages missing, %" PRIu64 " faults, %.1f MiB/s", facts->pages_missing,
		       facts->pages_faulted, facts->rate_bytes_per_s / MIB);
	} else if (facts->phase == PHASE_PRECOPY && facts->round) {
		/* Short, so that 80 columns hold it. */
		snprintf(text, PROGRESS_TEXT_MAX, "round %u: %" PRIu64 "/%" PRIu64 " pages, %.1f MiB/s", facts->round,
			 facts->pages_done, facts->pages_round, facts->rate_bytes_per_s / MIB);
		if (facts->dirty_bytes_per_s > 0)
			append(text, " (written %.1f)", facts->dirty_bytes_per_s / MIB);
		if (facts->throttle_percent)
			append(text, ", slowed by %u%%", facts->throttle_percent);
		if (facts->downtime_ms > 0)
			append(text, ", downtime ~%.0f ms", facts->downtime_ms);
	}
}

void progress_json(const struct progress_facts *facts, char text[PROGRESS_TEXT_MAX])
{
	snprintf(text, PROGRESS_TEXT_MAX,
		 "{\"phase\": \"%s\", \"round\": %u, \"pages_round\": %" PRIu64 ", \"pages_done\": %" PRIu64
		 ", \"rate_bytes_per_s\": %.0f, \"dirty_bytes_per_s\": %.0f, \"throttle_percent\": %u, "
		 "\"expected_downtime_ms\": %.3f, \"pages_missing\": %" PRIu64 ", \"pages_faulted\": %" PRIu64
		 ", \"elapsed_ms\": %" PRIu64 "}\n",
		 phase_name(facts->phase), facts->round, facts->pages_round, facts->pages_done, facts->rate_bytes_per_s,
		 facts->dirty_bytes_per_s, facts->throttle_percent, facts->downtime_ms, facts->pages_missing,
		 facts->pages_faulted, facts->elapsed_ms);
}

static uint64_t number(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

int progress_parse(const char *text, struct progress_facts *ret)
{
	json_t *object = json_loads(text, 0, NULL);
	const char *name = json_string_value(json_object_get(object, "phase"));
	struct progress_facts facts = { .phase = PHASE_COUNT };

	for (int phase = 0; name && phase < PHASE_COUNT; phase++)
		if (strcmp(name, phase_name((enum phase)phase)) == 0)
			facts.phase = (enum phase)phase;
	facts.round = (unsigned)number(object, "round");
	facts.pages_round = number(object, "pages_round");
	facts.pages_done = number(object, "pages_done");
	facts.rate_bytes_per_s = (double)number(object, "rate_bytes_per_s");
	facts.dirty_bytes_per_s = (double)number(object, "dirty_bytes_per_s");
	facts.throttle_percent = (unsigned)number(object, "throttle_percent");
	facts.downtime_ms = json_number_value(json_object_get(object, "expected_downtime_ms"));
	facts.pages_missing = number(object, "pages_missing");
	facts.pages_faulted = number(object, "pages_faulted");
	facts.elapsed_ms = number(object, "elapsed_ms");
	json_decref(object);
	if (facts.phase == PHASE_COUNT)
		return -EPROTO;
	*ret = facts;
	return 0;
}

static void make_name(const uint8_t session[JOURNAL_SESSION_SIZE], const char *suffix, char name[NAME_MAX_LENGTH])
{
	char digits[WIRE_SESSION_TEXT];

	wire_session_text(session, digits);
	snprintf(name, NAME_MAX_LENGTH, "%s%s", digits, suffix);
}

void progress_write(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], const struct progress_facts *facts)
{
	char name[NAME_MAX_LENGTH], fresh[NAME_MAX_LENGTH], text[PROGRESS_TEXT_MAX];
	_cleanup_fd_ int fd = -1;

	make_name(session, ".progress", name);
	make_name(session, ".progress.new", fresh);
	progress_json(facts, text);
	fd = openat(dir_fd, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || renameat(dir_fd, fresh, dir_fd, name) < 0)
		unlinkat(dir_fd, fresh, 0);
}

void progress_remove(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE])
{
	char name[NAME_MAX_LENGTH];

	make_name(session, ".progress", name);
	unlinkat(dir_fd, name, 0);
	make_name(session, ".progress.new", name);
	unlinkat(dir_fd, name, 0);
}

int progress_read(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], char text[PROGRESS_TEXT_MAX])
{
	_cleanup_buffer_ struct buffer data = BUFFER_INIT;
	char name[NAME_MAX_LENGTH];
	int r;

	make_name(session, ".progress", name);
	r = fdio_read_file(dir_fd, name, PROGRESS_TEXT_MAX - 1, &data);
	if (r < 0)
		return r;
	snprintf(text, PROGRESS_TEXT_MAX, "%s", (const char *)data.data);
	return 0;
}
