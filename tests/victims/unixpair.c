/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX socket pairs: stream, datagram and seqpacket, each with data queued in both directions; a
 * stream half shut down with data before the end; one end closed; buffer sizes, timeouts and
 * SO_PASSCRED; one pair with an end in a child.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { STREAM, DATAGRAM, SEQPACKET, KINDS };
enum { ASK_ECHO = 1 };

struct state {
	int pairs[KINDS][2];
	int half[2];	    /* [0] has shut its writing down, with data still on the way to [1] */
	int widowed;	    /* its peer was closed after writing */
	int with_child[2];  /* [1] is used by the child only */
	int sndbuf, rcvbuf; /* of pairs[STREAM][0], as the kernel gives them back */
	uint64_t round;	    /* seed of what is queued */
	struct victim_peer child;
};

static const int types[KINDS] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
static const char *const names[KINDS] = {"stream", "datagram", "seqpacket"};
static const size_t sizes[3] = {10, 3000, 1};

static bool put(int fd, size_t size, uint64_t seed)
{
	unsigned char data[8192];

	victim_fill(data, size, seed);
	return send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static bool take(struct victim *v, int fd, size_t size, uint64_t seed, const char *what)
{
	unsigned char data[8192];
	ssize_t got = recv(fd, data, sizeof(data), MSG_DONTWAIT);

	CHECK(v, got == (ssize_t)size, "%s: %zd bytes, not %zu", what, got, size);
	CHECK(v, victim_differs(data, size, seed) < 0, "%s: content is wrong", what);
	return true;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	unsigned char data[64];
	ssize_t got;

	if (request != ASK_ECHO)
		return;
	got = recv(s->with_child[1], data, sizeof(data), MSG_DONTWAIT);
	if (got != 20 || victim_differs(data, 20, 1) >= 0)
		snprintf(text, size, "pair with the parent: %zd bytes, or wrong ones", got);
	else if (!put(s->with_child[1], 30, 2))
		snprintf(text, size, "pair with the parent: cannot answer");
}

static void fill(struct state *s)
{
	uint64_t seed = ++s->round * 1000;

	for (int kind = 0; kind < KINDS; kind++)
		for (int side = 0; side < 2; side++)
			for (int i = 0; i < 3; i++)
				MUST(put(s->pairs[kind][side], sizes[i],
					 seed + (uint64_t)(kind * 100 + side * 10 + i)));
	MUST(put(s->with_child[0], 20, 1));
}

static void lonely_setup(struct state *s)
{
	int pair[2];

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s->half) == 0);
	MUST(put(s->half[0], 500, 7) && shutdown(s->half[0], SHUT_WR) == 0 &&
	     put(s->half[1], 400, 8));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	MUST(put(pair[0], 300, 9) && close(pair[0]) == 0);
	s->widowed = pair[1];
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	getsockopt(fd, SOL_SOCKET, name, &value, &size);
	return value;
}

static void setup(struct state *s)
{
	struct timeval limit = {.tv_sec = 3, .tv_usec = 500000};
	int one = 1, size = 50000;

	for (int kind = 0; kind < KINDS; kind++)
		MUST(socketpair(AF_UNIX,
				types[kind] | (kind == STREAM ? SOCK_NONBLOCK : 0) |
					(kind == DATAGRAM ? SOCK_CLOEXEC : 0),
				0, s->pairs[kind]) == 0);
	MUST(setsockopt(s->pairs[STREAM][0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
	size = 70000;
	MUST(setsockopt(s->pairs[STREAM][0], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) == 0);
	MUST(setsockopt(s->pairs[DATAGRAM][1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) == 0);
	MUST(setsockopt(s->pairs[SEQPACKET][0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) ==
	     0);
	s->sndbuf = option(s->pairs[STREAM][0], SO_SNDBUF);
	s->rcvbuf = option(s->pairs[STREAM][0], SO_RCVBUF);
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s->with_child) == 0);
	victim_peer_fork(&s->child, child_serve, s);
	MUST(close(s->with_child[1]) == 0);
	lonely_setup(s);
	fill(s);
}

static bool options_check(struct victim *v, struct state *s)
{
	struct timeval limit = {0};
	socklen_t size = sizeof(limit);

	CHECK(v,
	      option(s->pairs[STREAM][0], SO_SNDBUF) == s->sndbuf &&
		      option(s->pairs[STREAM][0], SO_RCVBUF) == s->rcvbuf,
	      "buffers are %d and %d, not %d and %d", option(s->pairs[STREAM][0], SO_SNDBUF),
	      option(s->pairs[STREAM][0], SO_RCVBUF), s->sndbuf, s->rcvbuf);
	CHECK(v,
	      option(s->pairs[DATAGRAM][1], SO_PASSCRED) == 1 &&
		      option(s->pairs[DATAGRAM][0], SO_PASSCRED) == 0,
	      "SO_PASSCRED is %d and %d", option(s->pairs[DATAGRAM][0], SO_PASSCRED),
	      option(s->pairs[DATAGRAM][1], SO_PASSCRED));
	CHECK(v,
	      getsockopt(s->pairs[SEQPACKET][0], SOL_SOCKET, SO_RCVTIMEO, &limit, &size) == 0 &&
		      limit.tv_sec == 3,
	      "SO_RCVTIMEO is %ld s", (long)limit.tv_sec);
	for (int kind = 0; kind < KINDS; kind++) {
		CHECK(v, option(s->pairs[kind][0], SO_TYPE) == types[kind], "%s: another type",
		      names[kind]);
		CHECK(v,
		      !!(fcntl(s->pairs[kind][0], F_GETFL) & O_NONBLOCK) == (kind == STREAM) &&
			      fcntl(s->pairs[kind][1], F_GETFD) ==
				      (kind == DATAGRAM ? FD_CLOEXEC : 0),
		      "%s: flags differ", names[kind]);
	}
	return true;
}

static bool credentials_check(struct victim *v, struct state *s)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char data[16];
	struct iovec part = {data, sizeof(data)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	struct ucred sender;

	CHECK(v, send(s->pairs[DATAGRAM][0], "who", 3, 0) == 3, "send: %m");
	CHECK(v, recvmsg(s->pairs[DATAGRAM][1], &message, MSG_DONTWAIT) == 3, "recvmsg: %m");
	CHECK(v, message.msg_controllen > 0 && control.header.cmsg_type == SCM_CREDENTIALS,
	      "no credentials came");
	memcpy(&sender, CMSG_DATA(&control.header), sizeof(sender));
	CHECK(v, sender.pid == getpid() && sender.uid == getuid(), "credentials of PID %d",
	      (int)sender.pid);
	return true;
}

static bool lonely_check(struct victim *v, struct state *s)
{
	char byte;

	if (!take(v, s->half[1], 500, 7, "half shut down") ||
	    !take(v, s->half[0], 400, 8, "half shut down, other way"))
		return false;
	CHECK(v, recv(s->half[1], &byte, 1, 0) == 0, "half shut down: no end of file");
	CHECK(v, send(s->half[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE,
	      "half shut down: can write");
	CHECK(v, put(s->half[1], 10, 3), "half shut down: the open way is closed");
	if (!take(v, s->half[0], 10, 3, "half shut down, new data") ||
	    !take(v, s->widowed, 300, 9, "peer closed"))
		return false;
	CHECK(v, recv(s->widowed, &byte, 1, 0) == 0, "peer closed: no end of file");
	CHECK(v, send(s->widowed, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE,
	      "peer closed: can write");
	close(s->half[0]);
	close(s->half[1]);
	close(s->widowed);
	lonely_setup(s);
	return true;
}

/* A stream gives what waits in one piece, so it is taken apart here. */
static bool stream_take(struct victim *v, int fd, uint64_t seed)
{
	unsigned char data[8192];
	ssize_t got = recv(fd, data, sizeof(data), MSG_DONTWAIT);
	size_t at = 0;

	CHECK(v, got == 3011, "stream: %zd bytes, not 3011", got);
	for (int i = 0; i < 3; at += sizes[i++])
		CHECK(v, victim_differs(data + at, sizes[i], seed + (uint64_t)i) < 0,
		      "stream: part %d is wrong", i);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	uint64_t seed = s->round * 1000;

	if (!options_check(v, s))
		return false;
	for (int kind = 0; kind < KINDS; kind++)
		for (int side = 0; side < 2; side++) {
			uint64_t part = seed + (uint64_t)(kind * 100 + side * 10);

			if (kind == STREAM && !stream_take(v, s->pairs[kind][!side], part))
				return false;
			for (int i = 0; kind != STREAM && i < 3; i++)
				if (!take(v, s->pairs[kind][!side], sizes[i], part + (uint64_t)i,
					  names[kind]))
					return false;
		}
	if (!credentials_check(v, s) || !lonely_check(v, s) ||
	    !victim_peer_ask(v, &s->child, ASK_ECHO) ||
	    !take(v, s->with_child[0], 30, 2, "the child's answer"))
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
