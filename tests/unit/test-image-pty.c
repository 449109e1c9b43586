/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: image util proto */
/*
 * What lies in a pseudo-terminal: each case is set up in three pairs. One is left alone; from the second everything is taken
 * and put back; the third gets what was taken from the second. Then all three are read, and all that is seen there must be
 * equal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "image/pty-queue.h"

#define TRANSCRIPT_MAX (1 << 18)
#define WAIT_MS 2000

struct pair {
	int master, slave;
};

typedef void setup_fn(const struct pair *pair);

static struct pair pair_open(void)
{
	struct pair pair = { .master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK) };

	assert_true(pair.master >= 0);
	assert_int_equal(unlockpt(pair.master), 0);
	pair.slave = ioctl(pair.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	assert_true(pair.slave >= 0);
	return pair;
}

static void pair_close(const struct pair *pair)
{
	close(pair->slave);
	close(pair->master);
}

static void type(const struct pair *pair, const void *data, size_t size)
{
	assert_int_equal(write(pair->master, data, size), (ssize_t)size);
}

static void type_text(const struct pair *pair, const char *text)
{
	type(pair, text, strlen(text));
}

static void print(const struct pair *pair, const void *data, size_t size)
{
	assert_int_equal(write(pair->slave, data, size), (ssize_t)size);
}

static void change(const struct pair *pair, tcflag_t iflag, tcflag_t oflag, tcflag_t lflag)
{
	struct termios termios;

	assert_int_equal(tcgetattr(pair->slave, &termios), 0);
	termios.c_iflag = iflag;
	termios.c_oflag = oflag;
	termios.c_lflag = lflag;
	assert_int_equal(tcsetattr(pair->slave, TCSANOW, &termios), 0);
}

static void make_raw(const struct pair *pair)
{
	struct termios termios;

	assert_int_equal(tcgetattr(pair->slave, &termios), 0);
	cfmakeraw(&termios);
	assert_int_equal(tcsetattr(pair->slave, TCSANOW, &termios), 0);
}

static void packet_mode(const struct pair *pair)
{
	static const int on = 1;

	assert_int_equal(ioctl(pair->master, TIOCPKT, &on), 0);
}

/* Waits until the kernel's worker is through: so many bytes have come out of the master, as echo or otherwise. */
static void wait_output(const struct pair *pair, int size)
{
	int there = 0;

	for (int i = 0; i < WAIT_MS && there < size; i++) {
		assert_int_equal(ioctl(pair->master, FIONREAD, &there), 0);
		usleep(there < size ? 1000 : 0);
	}
	assert_true(there >= size);
}

/* Or in, so that the slave could read it. */
static void wait_input(const struct pair *pair, int size)
{
	int there = 0;

	for (int i = 0; i < WAIT_MS && there < size; i++) {
		assert_int_equal(ioctl(pair->slave, FIONREAD, &there), 0);
		usleep(there < size ? 1000 : 0);
	}
	assert_true(there >= size);
}

/* Waits until the slave takes output, or none: a character of flow control has had its effect. */
static void wait_flow(const struct pair *pair, bool runs)
{
	struct pollfd look = { .fd = pair->slave, .events = POLLOUT };

	for (int i = 0; i < WAIT_MS; i++) {
		if ((poll(&look, 1, 0) == 1 && look.revents & POLLOUT) == runs)
			return;
		usleep(1000);
	}
	fail_msg("the terminal is %sstopped", runs ? "" : "not ");
}

/* ---- what is to be seen */

struct transcript {
	char text[TRANSCRIPT_MAX];
	size_t size;
};

__attribute__((format(printf, 2, 3))) static void add(struct transcript *to, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	to->size += (size_t)vsnprintf(to->text + to->size, sizeof(to->text) - to->size, format, arguments);
	va_end(arguments);
	assert_true(to->size < sizeof(to->text));
}

static void add_read(struct transcript *to, const char *name, const uint8_t *data, ssize_t n)
{
	add(to, "%s: %zd:", name, n);
	for (ssize_t i = 0; i < n; i++)
		add(to, " %02x", data[i]);
	add(to, "\n");
}

static void add_settings(struct transcript *to, const struct pair *pair)
{
	struct termios termios;
	int packet = 0, waiting = 0;

	assert_int_equal(tcgetattr(pair->slave, &termios), 0);
	assert_int_equal(ioctl(pair->master, TIOCGPKT, &packet), 0);
	assert_int_equal(ioctl(pair->slave, FIONREAD, &waiting), 0);
	add(to, "settings %x %x %x %x, packets %d, waiting %d\n", termios.c_iflag, termios.c_oflag, termios.c_cflag,
	    termios.c_lflag, packet, waiting);
	for (int i = 0; i < NCCS; i++)
		add(to, " %02x", termios.c_cc[i]);
	add(to, "\n");
}

/* Packets are told apart, bytes are not: how many a read gives is a matter of luck. */
static void add_output(struct transcript *to, const struct pair *pair, bool packets)
{
	struct pollfd look = { .fd = pair->master, .events = POLLIN | POLLPRI };
	static uint8_t all[TRANSCRIPT_MAX / 4];
	ssize_t size = 0;

	/* Twice: an echo that found no room comes when something is written. */
	for (int i = 0; i < 2; i++) {
		while (poll(&look, 1, 0) == 1 && look.revents & POLLIN) {
			uint8_t data[8192];
			ssize_t n = read(pair->master, data, sizeof(data)), skip = packets ? 1 : 0;

			assert_true(n > 0);
			if (packets && data[0])
				add(to, "status %02x\n", data[0]);
			memcpy(all + size, data + skip, (size_t)(n - skip));
			size += n - skip;
		}
		assert_true(write(pair->slave, "", 0) <= 0);
	}
	add_read(to, "output", all, size);
}

static void add_input(struct transcript *to, const struct pair *pair)
{
	struct termios termios;
	uint8_t data[16384];
	ssize_t n, total = 0;

	assert_int_equal(tcgetattr(pair->slave, &termios), 0);
	if (termios.c_lflag & ICANON) {
		while ((n = read(pair->slave, data, sizeof(data))) >= 0 && to->size < TRANSCRIPT_MAX / 2)
			add_read(to, "line", data, n);
		/* The line that is open can still be changed, and sent off. */
		if (termios.c_cc[VERASE]) {
			struct pollfd look = { .fd = pair->slave, .events = POLLIN };
			uint8_t typed[3] = { termios.c_cc[VERASE], '!', '\n' };

			type(pair, typed, sizeof(typed));
			assert_true(poll(&look, 1, WAIT_MS) >= 0);
			n = read(pair->slave, data, sizeof(data));
			add_read(to, "last", data, n);
		}
		return;
	}
	while ((n = read(pair->slave, data + total, sizeof(data) - (size_t)total)) > 0)
		total += n;
	add_read(to, "input", data, total);
}

static char *look(const struct pair *pair)
{
	struct transcript *to = calloc(1, sizeof(*to));
	struct pollfd writable = { .fd = pair->slave, .events = POLLOUT };
	int packets = 0;

	assert_non_null(to);
	add_settings(to, pair);
	assert_int_equal(ioctl(pair->master, TIOCGPKT, &packets), 0);
	add_output(to, pair, packets);
	add(to, "takes output: %d\n", poll(&writable, 1, 0) == 1);
	add_input(to, pair);
	/* The start of it undoes a call, and not what was typed; an echo that had to wait comes. */
	assert_int_equal(tcflow(pair->slave, TCOON), 0);
	add(to, "takes output after a call: %d\n", poll(&writable, 1, 0) == 1);
	add_output(to, pair, packets);
	return (char *)to;
}

static void compare(const char *name, const char *one, const char *other)
{
	size_t at = 0;

	while (one[at] && one[at] == other[at])
		at++;
	if (one[at] || other[at])
		fail_msg("%s differs at %zu, '%.40s' and not '%.40s':\n%.300s\nand not\n%.300s", name, at, other + at, one + at,
			 other + (at > 100 ? at - 100 : 0), one + (at > 100 ? at - 100 : 0));
}

static void run(setup_fn *setup)
{
	struct pair left = pair_open(), copied = pair_open(), given = pair_open();
	struct image_pty_queue *queue = calloc(1, sizeof(*queue));
	char *seen[3];

	assert_non_null(queue);
	setup(&left);
	setup(&copied);
	assert_int_equal(image_pty_take(copied.master, copied.slave, queue), 0);
	assert_int_equal(image_pty_put(copied.master, copied.slave, queue), 0);
	assert_int_equal(image_terminal_write(given.slave, &queue->settings), 0);
	assert_int_equal(image_pty_put(given.master, given.slave, queue), 0);
	seen[0] = look(&left);
	seen[1] = look(&copied);
	seen[2] = look(&given);
	compare("what was put back", seen[0], seen[1]);
	compare("what was given", seen[0], seen[2]);
	for (int i = 0; i < 3; i++)
		free(seen[i]);
	free(queue);
	pair_close(&left);
	pair_close(&copied);
	pair_close(&given);
}

/* ---- cases */

static void nothing(const struct pair *pair)
{
}

static void lines(const struct pair *pair)
{
	type_text(pair, "one\rtwo\n\n\004three\004four\005\026\004\026\n five\nopen line");
	wait_output(pair, 40);
}

static void open_line(const struct pair *pair)
{
	type_text(pair, "abcx\177d");
}

static void only_ends(const struct pair *pair)
{
	type_text(pair, "\004\004");
}

/* Characters that put_lines() quotes, and others that mean something elsewhere. */
static void all_bytes(const struct pair *pair)
{
	char data[255 * 2 + 2];
	size_t size = 0;

	change(pair, 0, OPOST | ONLCR, ICANON | IEXTEN);
	for (int i = 0; i < 255; i++) {
		data[size++] = 026;
		data[size++] = (char)i;
	}
	type(pair, data, size);
	type_text(pair, "\n\026\001\026\023\026\021x");
}

static void own_characters(const struct pair *pair)
{
	struct termios termios;

	assert_int_equal(tcgetattr(pair->slave, &termios), 0);
	termios.c_cc[VEOF] = 'e';
	termios.c_cc[VEOL] = ';';
	termios.c_cc[VEOL2] = ':';
	termios.c_cc[VERASE] = 0;
	assert_int_equal(tcsetattr(pair->slave, TCSANOW, &termios), 0);
	type_text(pair, "first;second:thirdexx;fourth");
}

static void raw(const struct pair *pair)
{
	char data[256];

	make_raw(pair);
	for (int i = 0; i < 256; i++)
		data[i] = (char)i;
	type(pair, data, sizeof(data));
}

/* Typed in lines, and then the mode was left and entered again: the open line counts as sent off. */
static void pushed(const struct pair *pair)
{
	struct termios termios;

	type_text(pair, "line\nopen");
	wait_output(pair, 6 + 4);
	assert_int_equal(tcgetattr(pair->slave, &termios), 0);
	termios.c_lflag &= ~(tcflag_t)ICANON;
	assert_int_equal(tcsetattr(pair->slave, TCSANOW, &termios), 0);
	termios.c_lflag |= ICANON;
	assert_int_equal(tcsetattr(pair->slave, TCSANOW, &termios), 0);
}

/* Over 4095 bytes: the rest is translated only when it is read. */
static void raw_and_full(const struct pair *pair)
{
	char data[1000];

	make_raw(pair);
	change(pair, INLCR, 0, 0);
	memset(data, '\n', sizeof(data));
	for (int i = 0; i < 6; i++)
		type(pair, data, sizeof(data));
	for (int waiting = 0; waiting < 4095;)
		assert_int_equal(ioctl(pair->slave, FIONREAD, &waiting), 0);
}

static void lines_and_full(const struct pair *pair)
{
	char line[100];

	change(pair, ICRNL, 0, ICANON | IEXTEN);
	memset(line, 'x', sizeof(line));
	line[99] = '\r';
	for (int i = 0; i < 60; i++) {
		line[0] = (char)('A' + i);
		type(pair, line, sizeof(line));
	}
	for (int waiting = 0; waiting < 4000;)
		assert_int_equal(ioctl(pair->slave, FIONREAD, &waiting), 0);
}

static void output(const struct pair *pair)
{
	print(pair, "out\nput\t.", 9);
	type_text(pair, "echo\003x");
	for (int i = 0, there = 0; i < WAIT_MS && there != 3; i++) { /* "^Cx": the signal has flushed the rest */
		assert_int_equal(ioctl(pair->master, FIONREAD, &there), 0);
		usleep(1000);
	}
}

static void output_full(const struct pair *pair)
{
	char data[256];

	memset(data, 'o', sizeof(data));
	data[100] = '\n';
	for (int i = 0; i < 40; i++)
		print(pair, data, sizeof(data));
	for (int failed = 0; failed < 100;) {
		failed = write(pair->slave, data, sizeof(data)) > 0 ? 0 : failed + 1;
		usleep(failed ? 100 : 0);
	}
	type_text(pair, "late\n");
	wait_input(pair, 5);
}

static void stopped_by_char(const struct pair *pair)
{
	print(pair, "before", 6);
	type_text(pair, "in");
	wait_output(pair, 6 + 2);
	type_text(pair, "\023");
	wait_flow(pair, false);
}

static void stopped_by_call(const struct pair *pair)
{
	type_text(pair, "in\n");
	wait_output(pair, 4);
	assert_int_equal(tcflow(pair->slave, TCOOFF), 0);
}

static void packets(const struct pair *pair)
{
	packet_mode(pair);
	print(pair, "out", 3);
	type_text(pair, "in\n");
	wait_output(pair, 3 + 4);
}

static void packets_stopped(const struct pair *pair)
{
	packet_mode(pair);
	type_text(pair, "in");
	wait_output(pair, 2);
	type_text(pair, "\023");
	wait_flow(pair, false);
}

static void packets_stopped_told(const struct pair *pair)
{
	uint8_t status;

	packets_stopped(pair);
	assert_int_equal(read(pair->master, &status, 1), 1);
	assert_int_equal(status, TIOCPKT_STOP);
}

static void packets_started(const struct pair *pair)
{
	packet_mode(pair);
	assert_int_equal(tcflow(pair->slave, TCOOFF), 0);
	assert_int_equal(tcflow(pair->slave, TCOON), 0);
	print(pair, "out", 3);
}

static void packets_flow_off(const struct pair *pair)
{
	packet_mode(pair);
	change(pair, ICRNL, OPOST, ICANON | ECHO);
	type_text(pair, "in");
	wait_output(pair, 2);
}

static void packets_flow_on(const struct pair *pair)
{
	change(pair, ICRNL, OPOST, ICANON);
	packet_mode(pair);
	change(pair, ICRNL | IXON, OPOST, ICANON);
	type_text(pair, "in\n");
	wait_input(pair, 3);
}

static void extended(const struct pair *pair)
{
	change(pair, ICRNL, OPOST, ICANON | ECHO | EXTPROC);
	type_text(pair, "some\nmore");
	wait_input(pair, 9);
}

/* What the worker of the kernel is late with is not shown by the one that is left alone, so all wait for it. */
static void run_case(void **state)
{
	run((setup_fn *)*state);
}

/* Flushes have a price (see pty-queue.c), but they and what comes after them are told. */
static void test_flushes(void **state)
{
	struct pair pair = pair_open();
	struct image_pty_queue *queue = calloc(1, sizeof(*queue));
	uint8_t data[16] = "";

	packet_mode(&pair);
	assert_int_equal(tcflush(pair.slave, TCIOFLUSH), 0);
	print(&pair, "after", 5);
	type_text(&pair, "typed");
	wait_output(&pair, 5 + 5);
	assert_int_equal(image_pty_take(pair.master, pair.slave, queue), 0);
	assert_int_equal(queue->packet_status, TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE);
	assert_int_equal(image_pty_put(pair.master, pair.slave, queue), 0);
	assert_int_equal(read(pair.master, data, sizeof(data)), 1);
	assert_int_equal(data[0] & (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE | TIOCPKT_STOP),
			 TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE);
	assert_int_equal(read(pair.master, data, sizeof(data)), 6 + 5);
	assert_memory_equal(data, "\0after" "typed", 6 + 5);
	free(queue);
	pair_close(&pair);
}

static void test_locked_settings(void **state)
{
	struct pair pair = pair_open();
	struct image_pty_queue *queue = calloc(1, sizeof(*queue));
	struct image_terminal_settings lock = { .lflag = ICANON | ECHO }, now;
	char data[16] = "";

	assert_int_equal(image_terminal_write_lock(pair.master, &lock), 0);
	type_text(&pair, "held\nopen");
	wait_output(&pair, 6 + 4);
	assert_int_equal(image_pty_take(pair.master, pair.slave, queue), 0);
	assert_int_equal(queue->input_size, 9);
	assert_int_equal(image_pty_put(pair.master, pair.slave, queue), 0);
	assert_int_equal(read(pair.slave, data, sizeof(data)), 5);
	assert_int_equal(image_terminal_read_lock(pair.slave, &now), 0);
	assert_memory_equal(&now, &lock, sizeof(now));
	free(queue);
	pair_close(&pair);
}

/* More than there is room for: it fails, and the terminal nevertheless is in its own mode again. */
static void test_too_much(void **state)
{
	struct pair pair = pair_open();
	struct image_pty_queue *queue = calloc(1, sizeof(*queue));
	struct image_terminal_settings lock = { .lflag = ECHO }, before, now;
	int packet = 0;

	packet_mode(&pair);
	assert_int_equal(image_terminal_write_lock(pair.master, &lock), 0);
	assert_int_equal(image_terminal_read(pair.slave, &before), 0);
	assert_int_equal(image_pty_take(pair.master, pair.slave, queue), 0);
	queue->output_size = sizeof(queue->output);
	assert_int_equal(image_pty_put(pair.master, pair.slave, queue), -ENOSPC);
	assert_int_equal(image_terminal_read(pair.slave, &now), 0);
	assert_memory_equal(&now, &before, sizeof(now));
	assert_int_equal(image_terminal_read_lock(pair.slave, &now), 0);
	assert_memory_equal(&now, &lock, sizeof(now));
	assert_int_equal(ioctl(pair.master, TIOCGPKT, &packet), 0);
	assert_int_equal(packet, 1);
	free(queue);
	pair_close(&pair);
}

#define CASE(function) { #function, run_case, NULL, NULL, (void *)(uintptr_t)(function) }

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(nothing),
		CASE(lines),
		CASE(open_line),
		CASE(only_ends),
		CASE(all_bytes),
		CASE(own_characters),
		CASE(raw),
		CASE(pushed),
		CASE(raw_and_full),
		CASE(lines_and_full),
		CASE(output),
		CASE(output_full),
		CASE(stopped_by_char),
		CASE(stopped_by_call),
		CASE(packets),
		CASE(packets_stopped),
		CASE(packets_stopped_told),
		CASE(packets_started),
		CASE(packets_flow_off),
		CASE(packets_flow_on),
		CASE(extended),
		cmocka_unit_test(test_flushes),
		cmocka_unit_test(test_locked_settings),
		cmocka_unit_test(test_too_much),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
