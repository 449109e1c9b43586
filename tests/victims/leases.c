/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * leases DIR [PLACE]: a read lease and a write lease, with signals of their own, on files in PLACE, or else in DIR. Two hosts
 * that share a file share its leases, too, and opening it on one breaks that of the other: PLACE is for a directory that they
 * do not share. A check breaks each, hears of it, and takes it again.
 */
#include "victim.h"

#include <fcntl.h>
#include <signal.h>

struct state {
	char place[VICTIM_PATH_MAX];
	int reading, writing; /* the leased files */
};

static volatile sig_atomic_t broken; /* descriptor of the lease that somebody wants to end */

static void on_signal(int number, siginfo_t *info, void *context)
{
	broken = info->si_fd;
}

static int file_open(const struct state *s, const char *name, int flags)
{
	char path[VICTIM_PATH_MAX + 16];

	snprintf(path, sizeof(path), "%s/%s", s->place, name);
	return open(path, flags | O_CLOEXEC, 0644);
}

/* Opens the file in a way that ends the lease, which the holder has to hear of. */
static bool break_check(struct victim *v, struct state *s, const char *name, int fd, int type, int flags)
{
	int other;

	CHECK(v, fcntl(fd, F_GETLEASE) == type, "the lease of %s is %d, not %d", name, fcntl(fd, F_GETLEASE), type);
	broken = -1;
	other = file_open(s, name, flags | O_NONBLOCK);
	CHECK(v, other < 0 && errno == EWOULDBLOCK, "%s could be opened in spite of its lease", name);
	CHECK(v, WAIT_FOR(broken == fd, 5000), "no signal for the lease of %s", name);
	CHECK(v, fcntl(fd, F_SETLEASE, F_UNLCK) == 0, "giving up the lease of %s: %m", name);
	other = file_open(s, name, flags | O_NONBLOCK);
	CHECK(v, other >= 0 && close(other) == 0, "%s cannot be opened without its lease: %m", name);
	/* Giving it up has put the signal back to SIGIO. */
	CHECK(v, fcntl(fd, F_SETSIG, SIGUSR1) == 0 && fcntl(fd, F_SETLEASE, type) == 0, "a new lease of %s: %m", name);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	return break_check(v, s, "reading", s->reading, F_RDLCK, O_WRONLY) &&
	       break_check(v, s, "writing", s->writing, F_WRLCK, O_RDONLY);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	snprintf(s.place, sizeof(s.place), "%s", v.argc > 0 ? v.argv[0] : v.dir);
	MUST(sigaction(SIGUSR1, &action, NULL) == 0);
	MUST(close(file_open(&s, "reading", O_WRONLY | O_CREAT)) == 0);
	s.reading = file_open(&s, "reading", O_RDONLY);
	s.writing = file_open(&s, "writing", O_RDWR | O_CREAT);
	MUST(s.reading >= 0 && s.writing >= 0);
	MUST(fcntl(s.reading, F_SETSIG, SIGUSR1) == 0 && fcntl(s.writing, F_SETSIG, SIGUSR1) == 0);
	if (fcntl(s.reading, F_SETLEASE, F_RDLCK) < 0)
		victim_skip(&v, "no leases on this file system: %m");
	MUST(fcntl(s.writing, F_SETLEASE, F_WRLCK) == 0);
	victim_run(&v, verify, &s);
}
