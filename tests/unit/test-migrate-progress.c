/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: migrate */
/* How far a migration is: as a line, as an object and back, as a file; and the status line of a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"

#include "migrate/progress.h"
#include "util/log.h"

static const struct progress_facts facts = {
	.phase = PHASE_PRECOPY,
	.round = 12,
	.pages_round = 2097152,
	.pages_done = 123456,
	.rate_bytes_per_s = 1048576 * 500.0,
	.dirty_bytes_per_s = 1048576 * 100.0,
	.throttle_percent = 95,
	.downtime_ms = 20.5,
	.pages_missing = UINT64_C(1) << 40,
	.pages_faulted = 7,
	.elapsed_ms = 3600000,
};

static void test_line(void **state)
{
	struct progress_facts some = facts;
	char text[PROGRESS_TEXT_MAX];

	progress_line(&facts, text);
	assert_string_equal(text, "round 12: 123456/2097152 pages, 500.0 MiB/s (written 100.0), slowed by 95%, "
				  "downtime ~20 ms");
	some.dirty_bytes_per_s = some.downtime_ms = some.throttle_percent = 0;
	progress_line(&some, text);
	assert_string_equal(text, "round 12: 123456/2097152 pages, 500.0 MiB/s");
	some.round = 0;
	progress_line(&some, text);
	assert_string_equal(text, "pre-copy");
	some.phase = PHASE_POSTCOPY;
	progress_line(&some, text);
	assert_string_equal(text, "post-copy: 1099511627776 pages missing, 7 faults, 500.0 MiB/s");
}

static void test_object_and_back(void **state)
{
	struct progress_facts back = { 0 };
	char text[PROGRESS_TEXT_MAX], again[PROGRESS_TEXT_MAX];

	progress_json(&facts, text);
	assert_int_equal(progress_parse(text, &back), 0);
	progress_json(&back, again);
	assert_string_equal(text, again);
	assert_int_equal(back.pages_missing, facts.pages_missing);
	back.round = 99;
	assert_int_equal(progress_parse("", &back), -EPROTO);
	assert_int_equal(progress_parse("{\"phase\": \"nonsense\"}", &back), -EPROTO);
	assert_int_equal(progress_parse("[1, 2", &back), -EPROTO);
	assert_int_equal(back.round, 99);
	assert_int_equal(progress_parse("{\"phase\": \"freeze\", \"round\": -1, \"pages_done\": \"x\"}", &back), 0);
	assert_int_equal(back.phase, PHASE_FREEZE);
	assert_int_equal(back.round, 0);
}

static void test_file(void **state)
{
	const uint8_t session[JOURNAL_SESSION_SIZE] = { 1, 2, 3 };
	char dir[64], text[PROGRESS_TEXT_MAX] = "", wanted[PROGRESS_TEXT_MAX];
	int fd;

	scratch_directory(dir, sizeof(dir), "progress");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(progress_read(fd, session, text), -ENOENT);
	progress_write(fd, session, &facts);
	progress_write(fd, session, &facts);
	progress_json(&facts, wanted);
	assert_int_equal(progress_read(fd, session, text), 0);
	assert_string_equal(text, wanted);
	progress_remove(fd, session);
	progress_remove(fd, session);
	close(fd);
	assert_int_equal(rmdir(dir), 0); /* nothing was left in it */
}

static char *read_terminal(int fd)
{
	static char text[4096];
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	size_t used = 0;

	while (poll(&ready, 1, 50) > 0) {
		ssize_t n = read(fd, text + used, sizeof(text) - 1 - used);

		if (n <= 0)
			break;
		used += (size_t)n;
	}
	text[used] = '\0';
	return text;
}

static void test_status_line(void **state)
{
	struct winsize size = { .ws_row = 24, .ws_col = 11 };
	struct log_status status = LOG_STATUS_INIT;
	struct log log = { .name = "name", .level = LOG_INFO, .status = &status };
	struct log plain = log;
	int master, slave;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
	log.fd = plain.fd = slave;
	plain.status = NULL;
	log_status_draw(&log, "abcdefghijklmnop");
	assert_string_equal(read_terminal(master), "\rabcdefghij\033[K");
	log_info(&log, "said");
	assert_string_equal(read_terminal(master), "\r\033[Kname: said\r\n");
	log_info(&log, "again"); /* there is nothing to take away */
	assert_string_equal(read_terminal(master), "name: again\r\n");
	log_status_draw(&log, "x");
	log_status_hold(&log, true);
	assert_string_equal(read_terminal(master), "\rx\033[K\r\033[K");
	log_status_draw(&log, "y");
	assert_string_equal(read_terminal(master), "");
	log_status_hold(&log, false);
	log_status_draw(&log, "z");
	log_debug(&log, "not at this level");
	assert_string_equal(read_terminal(master), "\rz\033[K");
	log_status_draw(&plain, "a");
	log_status_hold(&plain, true);
	log_info(&plain, "plain");
	assert_string_equal(read_terminal(master), "name: plain\r\n");
	close(slave);
	close(master);
}

/* Ctrl-S: whoever draws does not wait for Ctrl-Q. */
static void test_stopped_terminal(void **state)
{
	struct log_status status = LOG_STATUS_INIT;
	struct log log = { .status = &status };
	int master, slave;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	log.fd = slave;
	assert_int_equal(tcflow(slave, TCOOFF), 0);
	alarm(20);
	for (int i = 0; i < 10000; i++)
		log_status_draw(&log, "0123456789012345678901234567890123456789");
	alarm(0);
	assert_string_equal(read_terminal(master), "");
	assert_int_equal(tcflow(slave, TCOON), 0);
	log_status_draw(&log, "on");
	assert_non_null(strstr(read_terminal(master), "on"));
	close(slave);
	close(master);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_line),
		cmocka_unit_test(test_object_and_back),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_status_line),
		cmocka_unit_test(test_stopped_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
