/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pipes with data in them: plain, non-blocking, in packet mode, big and full, without a reader,
 * without a writer, and many. A check takes out what is in, to the byte and the packet, sees the
 * end behave, and fills it again.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>

#define MANY 60
#define BIG (512 << 10)

enum { PLAIN, NONBLOCKING, PACKETS, FULL, KINDS };

struct state {
	int pipes[KINDS][2];
	int many[MANY][2];
	int no_reader;	/* write end */
	int no_writer;	/* read end, with data before the end of file */
	int emptied;	/* the same when its data is out */
	uint64_t round; /* seed of what is in the pipes */
};

static bool put(int fd, size_t size, uint64_t seed)
{
	static unsigned char data[BIG];

	victim_fill(data, size, seed);
	return write(fd, data, size) == (ssize_t)size;
}

static bool take(struct victim *v, int fd, size_t size, uint64_t seed, const char *what)
{
	static unsigned char data[BIG];
	int waiting = -1;
	size_t got = 0;

	CHECK(v, ioctl(fd, FIONREAD, &waiting) == 0 && waiting == (int)size,
	      "%s: %d bytes wait, not %zu", what, waiting, size);
	while (got < size) {
		ssize_t part = read(fd, data + got, size - got);

		CHECK(v, part > 0, "%s: read: %zd (%m)", what, part);
		got += (size_t)part;
	}
	CHECK(v, victim_differs(data, size, seed) < 0, "%s: byte %zd is wrong", what,
	      victim_differs(data, size, seed));
	return true;
}

static void fill(struct state *s)
{
	uint64_t seed = ++s->round * 1000;

	MUST(put(s->pipes[PLAIN][1], 5000, seed + 1) &&
	     put(s->pipes[NONBLOCKING][1], 100, seed + 2));
	MUST(put(s->pipes[PACKETS][1], 10, seed + 3) && put(s->pipes[PACKETS][1], 1, seed + 4) &&
	     put(s->pipes[PACKETS][1], 3000, seed + 5));
	MUST(put(s->pipes[FULL][1], BIG, seed + 6));
	for (int i = 0; i < MANY; i++)
		MUST(put(s->many[i][1], (size_t)i + 1, seed + 100 + (uint64_t)i));
}

static void lonely_setup(struct state *s)
{
	int ends[2];

	MUST(pipe(ends) == 0 && close(ends[0]) == 0);
	s->no_reader = ends[1];
	MUST(pipe(ends) == 0 && put(ends[1], 4321, 9) && close(ends[1]) == 0);
	s->no_writer = ends[0];
	MUST(pipe(ends) == 0 && close(ends[1]) == 0);
	s->emptied = ends[0];
}

static void setup(struct state *s)
{
	MUST(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	MUST(pipe(s->pipes[PLAIN]) == 0 &&
	     pipe2(s->pipes[NONBLOCKING], O_NONBLOCK | O_CLOEXEC) == 0);
	MUST(pipe2(s->pipes[PACKETS], O_DIRECT) == 0 && pipe2(s->pipes[FULL], O_NONBLOCK) == 0);
	MUST(fcntl(s->pipes[FULL][0], F_SETPIPE_SZ, BIG) == BIG);
	for (int i = 0; i < MANY; i++)
		MUST(pipe(s->many[i]) == 0);
	lonely_setup(s);
	fill(s);
}

static bool packets_check(struct victim *v, struct state *s, uint64_t seed)
{
	static const size_t sizes[] = {10, 1, 3000};
	unsigned char packet[4096];

	for (int i = 0; i < 3; i++) {
		ssize_t got = read(s->pipes[PACKETS][0], packet, sizeof(packet));

		CHECK(v, got == (ssize_t)sizes[i], "packet %d has %zd bytes, not %zu", i, got,
		      sizes[i]);
		CHECK(v, victim_differs(packet, sizes[i], seed + 3 + (uint64_t)i) < 0,
		      "packet %d is wrong", i);
	}
	CHECK(v, fcntl(s->pipes[PACKETS][1], F_GETFL) & O_DIRECT,
	      "the packet pipe is not in packet mode");
	return true;
}

static bool lonely_check(struct victim *v, struct state *s)
{
	struct pollfd pfd = {.fd = s->no_reader, .events = POLLOUT};
	char byte;

	CHECK(v, write(s->no_reader, "x", 1) < 0 && errno == EPIPE,
	      "a pipe without a reader takes data");
	CHECK(v, poll(&pfd, 1, 0) == 1 && pfd.revents & POLLERR,
	      "a pipe without a reader: poll says %x", (unsigned int)pfd.revents);
	if (!take(v, s->no_writer, 4321, 9, "pipe without a writer"))
		return false;
	CHECK(v, read(s->no_writer, &byte, 1) == 0, "a pipe without a writer has no end");
	CHECK(v, read(s->emptied, &byte, 1) == 0, "an empty pipe without a writer has no end");
	close(s->no_reader);
	close(s->no_writer);
	close(s->emptied);
	lonely_setup(s);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	uint64_t seed = s->round * 1000;
	char byte = 0;

	CHECK(v, fcntl(s->pipes[FULL][1], F_GETPIPE_SZ) == BIG, "the big pipe's size is %d",
	      fcntl(s->pipes[FULL][1], F_GETPIPE_SZ));
	CHECK(v, write(s->pipes[FULL][1], &byte, 1) < 0 && errno == EAGAIN,
	      "the full pipe takes more");
	CHECK(v,
	      fcntl(s->pipes[NONBLOCKING][0], F_GETFL) == (O_RDONLY | O_NONBLOCK) &&
		      fcntl(s->pipes[NONBLOCKING][0], F_GETFD) == FD_CLOEXEC,
	      "the non-blocking pipe's flags differ");
	CHECK(v,
	      fcntl(s->pipes[PLAIN][0], F_GETFL) == O_RDONLY &&
		      fcntl(s->pipes[PLAIN][1], F_GETFL) == O_WRONLY,
	      "the plain pipe's flags differ");
	if (!take(v, s->pipes[PLAIN][0], 5000, seed + 1, "plain pipe") ||
	    !take(v, s->pipes[NONBLOCKING][0], 100, seed + 2, "non-blocking pipe") ||
	    !packets_check(v, s, seed) || !take(v, s->pipes[FULL][0], BIG, seed + 6, "full pipe") ||
	    !lonely_check(v, s))
		return false;
	CHECK(v, read(s->pipes[NONBLOCKING][0], &byte, 1) < 0 && errno == EAGAIN,
	      "the empty non-blocking pipe: %m");
	for (int i = 0; i < MANY; i++)
		if (!take(v, s->many[i][0], (size_t)i + 1, seed + 100 + (uint64_t)i,
			  "one of many pipes"))
			return false;
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
