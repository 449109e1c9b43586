/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pseudo-terminals with something in them: input in lines with one that is still open, input without lines, over what the
 * line discipline holds, output that nobody has read, output that was stopped, and news for a master in packet mode. A check
 * takes all of it out, to the byte, and fills it again.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#define MUCH 6000 /* over 4095: the rest waits to be translated */

struct pair {
	int master, slave;
};

struct state {
	struct pair lines, raw, full, stopped, packets, closed;
};

static const char typed[] = "first\rsecond\n\004no newline\004open lonx\177g";
static const char echoed[] = "first\r\nsecond\r\nno newlineopen lonx\b \bg";

static void open_pair(struct pair *pair)
{
	pair->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	MUST(pair->master >= 0 && unlockpt(pair->master) == 0);
	pair->slave = ioctl(pair->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
	MUST(pair->slave >= 0);
}

static void make_raw(const struct pair *pair)
{
	struct termios settings;

	MUST(tcgetattr(pair->slave, &settings) == 0);
	cfmakeraw(&settings);
	settings.c_iflag |= INLCR;
	MUST(tcsetattr(pair->slave, TCSANOW, &settings) == 0);
}

static void put(int fd, const void *data, size_t size)
{
	MUST(write(fd, data, size) == (ssize_t)size);
}

static bool takes_output(const struct pair *pair)
{
	struct pollfd look = {.fd = pair->slave, .events = POLLOUT};

	return poll(&look, 1, 0) == 1;
}

static int waiting(int fd)
{
	int there = 0;

	ioctl(fd, FIONREAD, &there);
	return there;
}

static void fill(struct state *s)
{
	static char data[MUCH];
	int on = 1, off = 0;

	put(s->lines.slave, "printed\n", 8);
	put(s->lines.master, typed, sizeof(typed) - 1);
	MUST(WAIT_FOR(waiting(s->lines.master) == (int)sizeof(echoed) - 1 + 9, 5000));
	put(s->raw.master, "a\nb\003", 4);
	MUST(WAIT_FOR(waiting(s->raw.slave) == 4, 5000));
	memset(data, '\n', sizeof(data));
	put(s->full.master, data, sizeof(data));
	MUST(WAIT_FOR(waiting(s->full.slave) == 4095, 5000));
	put(s->stopped.slave, "before", 6);
	put(s->stopped.master, "\023", 1);
	MUST(WAIT_FOR(!takes_output(&s->stopped), 5000));
	MUST(ioctl(s->packets.master, TIOCPKT, &off) == 0 && ioctl(s->packets.master, TIOCPKT, &on) == 0);
	MUST(tcflow(s->packets.slave, TCOOFF) == 0 && tcflow(s->packets.slave, TCOON) == 0);
	put(s->packets.slave, "packet", 6);
	MUST(WAIT_FOR(waiting(s->packets.master) == 6, 5000));
	/* The slave is closed: typed input waits for whoever opens it next. */
	s->closed.slave = ioctl(s->closed.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
	MUST(s->closed.slave >= 0);
	put(s->closed.slave, "bye", 3);
	put(s->closed.master, "next\n", 5);
	MUST(WAIT_FOR(waiting(s->closed.master) == 3 + 6, 5000));
	MUST(close(s->closed.slave) == 0);
}

static void setup(struct state *s)
{
	open_pair(&s->lines);
	open_pair(&s->raw);
	make_raw(&s->raw);
	open_pair(&s->full);
	make_raw(&s->full);
	open_pair(&s->stopped);
	open_pair(&s->packets);
	open_pair(&s->closed);
	MUST(close(s->closed.slave) == 0);
	fill(s);
}

/* One read gives this; NULL: nothing is there. */
static bool gives(struct victim *v, int fd, const char *expected, size_t size, const char *what)
{
	char data[256];
	ssize_t n = read(fd, data, sizeof(data));

	if (!expected) {
		CHECK(v, n < 0 && (errno == EAGAIN || errno == EIO), "%s: %zd bytes too many", what, n);
		return true;
	}
	CHECK(v, n == (ssize_t)size, "%s: %zd bytes, not %zu (%m)", what, n, size);
	CHECK(v, memcmp(data, expected, size) == 0, "%s: '%.*s', not '%.*s'", what, (int)n, data, (int)size, expected);
	return true;
}

static bool lines_check(struct victim *v, const struct pair *pair)
{
	char all[128];

	snprintf(all, sizeof(all), "printed\r\n%s", echoed);
	if (!gives(v, pair->master, all, strlen(all), "output and echo") || !gives(v, pair->slave, "first\n", 6, "line") ||
	    !gives(v, pair->slave, "second\n", 7, "line") || !gives(v, pair->slave, "", 0, "EOF") ||
	    !gives(v, pair->slave, "no newline", 10, "line that EOF ended") ||
	    !gives(v, pair->slave, NULL, 0, "open line"))
		return false;
	put(pair->master, "\177\177ne\n", 5);
	CHECK(v, WAIT_FOR(waiting(pair->slave) > 0, 5000), "the open line cannot be sent off");
	return gives(v, pair->slave, "open lone\n", 10, "open line");
}

static bool full_check(struct victim *v, const struct pair *pair)
{
	static char data[2 * MUCH];
	size_t got = 0;
	ssize_t n;

	while ((n = read(pair->slave, data + got, sizeof(data) - got)) > 0)
		got += (size_t)n;
	CHECK(v, got == MUCH, "of much input %zu bytes are there", got);
	for (size_t i = 0; i < got; i++)
		CHECK(v, data[i] == '\r', "byte %zu of much input is %02x", i, data[i]);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct pollfd look = {.fd = s->closed.master, .events = POLLIN};
	char drop[64];

	if (!lines_check(v, &s->lines) || !gives(v, s->raw.slave, "a\rb\003", 4, "input without lines") ||
	    !full_check(v, &s->full))
		return false;
	CHECK(v, !takes_output(&s->stopped), "stopped output goes on");
	if (!gives(v, s->stopped.master, "before", 6, "output before the stop"))
		return false;
	put(s->stopped.master, "\021", 1);
	CHECK(v, WAIT_FOR(takes_output(&s->stopped), 5000), "output cannot be started again");
	if (!gives(v, s->packets.master, "\010", 1, "status") || !gives(v, s->packets.master, "\0packet", 7, "packet"))
		return false;
	CHECK(v, poll(&look, 1, 0) == 1 && look.revents & POLLHUP, "a closed slave does not show");
	if (!gives(v, s->closed.master, "byenext\r\n", 9, "output of a closed slave") ||
	    !gives(v, s->closed.master, NULL, 0, "output of a closed slave"))
		return false;
	s->closed.slave = ioctl(s->closed.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (!gives(v, s->closed.slave, "next\n", 5, "input for a closed slave"))
		return false;
	close(s->closed.slave);
	while (read(s->lines.master, drop, sizeof(drop)) > 0 || read(s->closed.master, drop, sizeof(drop)) > 0)
		;
	fill(s);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
