/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sessions on pseudo-terminals. This process holds two masters. A child leads a session on the first terminal: it has it
 * open as such and as /dev/tty, a job in the foreground, one in the background, and a child that has given the terminal up.
 * Another child leads a session on the second one and has no descriptor of it, so that its slave is closed.
 *
 * Each of them can tell what it sees of its terminal. A check compares that with what they saw at first, and types an
 * interrupt: it reaches the foreground, and nobody else.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

enum { LEAD = 1, LEAD_CLOSED, SEE, INTERRUPTS, GIVE_UP, FOREGROUND };

enum { FRONT, BACK, WITHOUT, MEMBERS };

struct leader {
	int master; /* inherited */
	int slave, controlling;
	struct victim_peer members[MEMBERS];
	int count; /* of members */
};

struct state {
	struct leader leaders[2];
	struct victim_peer peers[2];
	char seen[2][VICTIM_TEXT_MAX];
};

static volatile sig_atomic_t interrupts;

static void count(int number)
{
	(void)number;
	interrupts++;
}

/* The answer as it is, in `text`. */
static void ask(struct victim_peer *peer, unsigned char request, char text[VICTIM_TEXT_MAX])
{
	struct pollfd pfd = {.fd = peer->from, .events = POLLIN};

	snprintf(text, VICTIM_TEXT_MAX, "PID %d does not answer", (int)peer->pid);
	if (write(peer->to, &request, 1) == 1 && WAIT_FOR(poll(&pfd, 1, 0) == 1, 5000))
		(void)!read(peer->from, text, VICTIM_TEXT_MAX);
}

static void see(int fd, char *text, size_t size)
{
	unsigned device = 0;

	ioctl(fd, TIOCGDEV, &device);
	snprintf(text, size, "[%d: device %x, session %d of %d, foreground %d]", getpid(), device, tcgetsid(fd), getsid(0),
		 tcgetpgrp(fd));
}

static void see_controlling(char *text, size_t size)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY);

	if (fd < 0) {
		snprintf(text, size, "[%d: %m]", getpid());
		return;
	}
	see(fd, text, size);
	close(fd);
}

static void serve_member(void *context, unsigned char request, char *text, size_t size)
{
	int fd;

	(void)context;
	if (request == INTERRUPTS) {
		snprintf(text, size, "%d", (int)interrupts);
		interrupts = 0;
	} else if (request == GIVE_UP) {
		fd = open("/dev/tty", O_RDWR);
		MUST(fd >= 0 && ioctl(fd, TIOCNOTTY) == 0);
		close(fd);
	} else {
		see_controlling(text, size);
	}
}

/* Leads a session on the slave of the master. */
static void lead(struct leader *l)
{
	char name[64];

	MUST(setsid() == getpid());
	MUST(ptsname_r(l->master, name, sizeof(name)) == 0);
	l->slave = open(name, O_RDWR);
	MUST(l->slave >= 0 && tcgetsid(l->slave) == getpid());
}

static void lead_jobs(struct leader *l)
{
	struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
	char text[VICTIM_TEXT_MAX];

	MUST(sigaction(SIGINT, &action, NULL) == 0);
	lead(l);
	l->controlling = open("/dev/tty", O_RDWR | O_NONBLOCK);
	MUST(l->controlling >= 0);
	for (l->count = 0; l->count < MEMBERS; l->count++) {
		victim_peer_fork(&l->members[l->count], serve_member, NULL);
		MUST(setpgid(l->members[l->count].pid, l->members[l->count].pid) == 0);
	}
	ask(&l->members[WITHOUT], GIVE_UP, text);
	MUST(tcsetpgrp(l->slave, l->members[FRONT].pid) == 0);
}

static void serve_leader(void *context, unsigned char request, char *text, size_t size)
{
	struct leader *l = context;
	size_t used;

	if (request == LEAD || request == LEAD_CLOSED) {
		close(l->count); /* the master of the other one */
		if (request == LEAD)
			lead_jobs(l);
		else
			lead(l);
		close(l->master);
		if (request == LEAD_CLOSED)
			close(l->slave);
		return;
	}
	serve_member(NULL, request, text, size);
	used = strlen(text);
	if (request == SEE && l->count) {
		see(l->controlling, text + used, size - used);
		used = strlen(text);
		snprintf(text + used, size - used, " flags %x", fcntl(l->controlling, F_GETFL));
	}
	for (int i = 0; i < l->count; i++) {
		char part[VICTIM_TEXT_MAX];

		ask(&l->members[i], request, part);
		used = strlen(text);
		snprintf(text + used, size - used, " %s", part);
	}
}

static void setup(struct state *s)
{
	char text[VICTIM_TEXT_MAX];

	for (int i = 0; i < 2; i++) {
		s->leaders[i].master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
		MUST(s->leaders[i].master >= 0 && unlockpt(s->leaders[i].master) == 0);
	}
	for (int i = 0; i < 2; i++) {
		s->leaders[i].count = s->leaders[!i].master;
		victim_peer_fork(&s->peers[i], serve_leader, &s->leaders[i]);
		ask(&s->peers[i], i ? LEAD_CLOSED : LEAD, text);
		MUST(text[0] == '\0');
	}
	for (int i = 0; i < 2; i++)
		ask(&s->peers[i], SEE, s->seen[i]);
	MUST(strstr(s->seen[0], "foreground") && strstr(s->seen[1], "foreground"));
}

static bool verify(struct victim *v, void *context)
{
	static const char expected[] = "0 1 0 0";
	struct pollfd look = {.events = POLLIN};
	struct state *s = context;
	char text[VICTIM_TEXT_MAX] = "", echo[64];

	for (int i = 0; i < 2; i++) {
		ask(&s->peers[i], SEE, text);
		CHECK(v, strcmp(text, s->seen[i]) == 0, "terminal %d: %s, not %.150s", i, text, s->seen[i]);
		look.fd = s->leaders[i].master;
		CHECK(v, poll(&look, 1, 0) == i && (i == 0 || look.revents == POLLHUP), "master %d: %x", i,
		      (unsigned)look.revents);
	}
	ask(&s->peers[0], INTERRUPTS, text);
	CHECK(v, strcmp(text, "0 0 0 0") == 0, "interrupts before one was typed: %s", text);
	CHECK(v, write(s->leaders[0].master, "\003", 1) == 1, "cannot type: %m");
	CHECK(v, WAIT_FOR((ask(&s->peers[0], INTERRUPTS, text), text[2] != '0'), 5000), "no interrupt comes: %s", text);
	CHECK(v, strcmp(text, expected) == 0, "interrupts: %s, not %s", text, expected);
	look.fd = s->leaders[0].master;
	CHECK(v, poll(&look, 1, 5000) == 1 && read(look.fd, echo, sizeof(echo)) == 2 && echo[0] == '^', "no echo");
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
