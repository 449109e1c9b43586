/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pseudo-terminals of one process: a pair with settings of its own and several open files of its slave, with a gap in the
 * numbers below it; a master whose slave nobody has opened; one whose slave was closed; a slave whose master is gone; a pair in
 * packet mode. A check looks at all settings, sends bytes both ways and sees the ends behave.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#define UID 1234
#define GID 5

struct pair {
	int master;
	int slave;
	char name[64];
};

struct state {
	struct pair set;     /* with settings */
	int reader, writer;  /* more open files of its slave */
	struct termios settings;
	struct pair locked;  /* its slave was never open */
	struct pair closed;  /* its slave was open */
	struct pair orphan;  /* its master is closed */
	struct pair packets;
};

static const struct winsize size = {.ws_row = 33, .ws_col = 101, .ws_xpixel = 7, .ws_ypixel = 9};

static void open_master(struct pair *pair, bool unlock)
{
	int locked = !unlock;

	pair->slave = -1;
	pair->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	MUST(pair->master >= 0 && ioctl(pair->master, TIOCSPTLCK, &locked) == 0);
	MUST(ptsname_r(pair->master, pair->name, sizeof(pair->name)) == 0);
}

static void open_pair(struct pair *pair)
{
	open_master(pair, true);
	pair->slave = open(pair->name, O_RDWR | O_NOCTTY);
	MUST(pair->slave >= 0);
}

static void setup_settings(struct state *s)
{
	MUST(tcgetattr(s->set.slave, &s->settings) == 0);
	cfmakeraw(&s->settings);
	s->settings.c_iflag |= INLCR;
	s->settings.c_oflag |= OPOST | ONLCR;
	s->settings.c_cc[VMIN] = 3;
	s->settings.c_cc[VTIME] = 7;
	s->settings.c_cc[VINTR] = 'q';
	cfsetspeed(&s->settings, B19200);
	MUST(tcsetattr(s->set.slave, TCSANOW, &s->settings) == 0);
	MUST(tcgetattr(s->set.slave, &s->settings) == 0);
	MUST(ioctl(s->set.master, TIOCSWINSZ, &size) == 0);
	MUST(ioctl(s->set.slave, TIOCEXCL) == 0);
	MUST(fchown(s->set.slave, UID, GID) == 0 && fchmod(s->set.slave, 0624) == 0);
	s->reader = open(s->set.name, O_RDONLY | O_NOCTTY | O_NONBLOCK);
	s->writer = ioctl(s->set.master, TIOCGPTPEER, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	MUST(s->reader >= 0 && s->writer >= 0);
}

static void setup(struct state *s)
{
	struct pair gap;
	int on = 1;

	open_pair(&gap);
	open_pair(&s->set);
	MUST(close(gap.slave) == 0 && close(gap.master) == 0);
	setup_settings(s);
	open_pair(&s->packets);
	MUST(ioctl(s->packets.master, TIOCPKT, &on) == 0);
	open_master(&s->locked, false);
	open_pair(&s->closed);
	MUST(close(s->closed.slave) == 0);
	open_pair(&s->orphan);
	MUST(close(s->orphan.master) == 0);
}

/* What goes in at one end comes out at the other. */
static bool passes(struct victim *v, int from, int to, const char *text, const char *expected, const char *what)
{
	struct pollfd look = {.fd = to, .events = POLLIN};
	size_t want = strlen(expected), got = 0;
	char data[64] = "";

	CHECK(v, write(from, text, strlen(text)) == (ssize_t)strlen(text), "%s: write: %m", what);
	while (got < want) {
		ssize_t n;

		CHECK(v, poll(&look, 1, 5000) == 1 && look.revents & POLLIN, "%s: nothing comes after '%s'", what, data);
		n = read(to, data + got, sizeof(data) - 1 - got);
		CHECK(v, n > 0, "%s: read: %zd (%m)", what, n);
		got += (size_t)n;
	}
	CHECK(v, got == want && memcmp(data, expected, want) == 0, "%s: '%s', not '%s'", what, data, expected);
	return true;
}

static bool settings_check(struct victim *v, struct state *s)
{
	struct termios now;
	struct winsize window;
	struct stat st, path;
	char name[64];
	int exclusive = 0;

	CHECK(v, ptsname_r(s->set.master, name, sizeof(name)) == 0 && strcmp(name, s->set.name) == 0, "it is %s, not %s", name,
	      s->set.name);
	CHECK(v, ttyname_r(s->set.slave, name, sizeof(name)) == 0 && strcmp(name, s->set.name) == 0, "the slave is %s, not %s",
	      name, s->set.name);
	CHECK(v, tcgetattr(s->set.slave, &now) == 0 && memcmp(&now, &s->settings, sizeof(now)) == 0, "the settings differ");
	CHECK(v, ioctl(s->set.slave, TIOCGWINSZ, &window) == 0 && memcmp(&window, &size, sizeof(size)) == 0,
	      "the size is %u x %u", window.ws_row, window.ws_col);
	CHECK(v, ioctl(s->set.slave, TIOCGEXCL, &exclusive) == 0 && exclusive, "it is not exclusive any more");
	CHECK(v, fstat(s->set.slave, &st) == 0 && stat(s->set.name, &path) == 0 && st.st_rdev == path.st_rdev,
	      "the file is another device");
	CHECK(v, st.st_uid == UID && st.st_gid == GID && (st.st_mode & 07777) == 0624, "owner %u:%u, mode %o", st.st_uid,
	      st.st_gid, st.st_mode);
	CHECK(v,
	      (fcntl(s->reader, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDONLY | O_NONBLOCK) &&
		      (fcntl(s->writer, F_GETFL) & O_ACCMODE) == O_WRONLY,
	      "flags of the slaves: %x %x", fcntl(s->reader, F_GETFL), fcntl(s->writer, F_GETFL));
	CHECK(v, fcntl(s->writer, F_GETFD) == FD_CLOEXEC && fcntl(s->reader, F_GETFD) == 0, "close-on-exec differs");
	return passes(v, s->writer, s->set.master, "a\nb", "a\r\nb", "out of the slave") &&
	       passes(v, s->set.master, s->reader, "x\ny", "x\ry", "into the slave");
}

static bool ends_check(struct victim *v, struct state *s)
{
	struct pollfd look = {.fd = s->locked.master, .events = POLLIN};
	int locked = 0;
	char byte;

	CHECK(v, ioctl(s->locked.master, TIOCGPTLCK, &locked) == 0 && locked, "it is not locked any more");
	CHECK(v, open(s->locked.name, O_RDWR | O_NOCTTY) < 0 && errno == EIO, "a locked slave: %m");
	CHECK(v, poll(&look, 1, 0) == 0, "a slave that was never open counts as closed: %x", (unsigned)look.revents);
	look.fd = s->closed.master;
	CHECK(v, poll(&look, 1, 0) == 1 && look.revents & POLLHUP, "a closed slave does not show: %x", (unsigned)look.revents);
	CHECK(v, read(s->closed.master, &byte, 1) < 0 && errno == EIO, "reading behind a closed slave: %m");
	look.fd = s->orphan.slave;
	CHECK(v, poll(&look, 1, 0) == 1 && look.revents & POLLHUP, "a slave without its master: %x", (unsigned)look.revents);
	CHECK(v, read(s->orphan.slave, &byte, 1) == 0, "reading without a master: %m");
	CHECK(v, write(s->orphan.slave, "x", 1) < 0 && errno == EIO, "writing without a master: %m");
	return true;
}

static bool packets_check(struct victim *v, struct state *s)
{
	char data[8];

	CHECK(v, write(s->packets.slave, "p", 1) == 1, "write: %m");
	CHECK(v, read(s->packets.master, data, sizeof(data)) == 2 && data[0] == TIOCPKT_DATA && data[1] == 'p',
	      "packet mode is off");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	return settings_check(v, s) && ends_check(v, s) && packets_check(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
