/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections of the program to itself, over IPv4, IPv6, and IPv4 by an IPv6 socket: queues filled in both directions,
 * one end shut down, options set. A check reads all that was written, byte by byte what it should be, and fills the queues
 * again.
 */
#include "victim.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

enum { FULL, SIX, MAPPED, HALF, SMALL, PAIRS };

#define CHUNK 4096

struct end {
	int fd;
	uint64_t written, read; /* bytes since the start */
};

struct state {
	struct end ends[PAIRS][2];
};

static const char *const what[PAIRS] = { "full", "IPv6", "mapped", "half closed", "small" };

static const struct {
	int level, name, value;
} settings[] = {
	{ IPPROTO_TCP, TCP_NODELAY, 1 },      { IPPROTO_TCP, TCP_KEEPIDLE, 77 },  { IPPROTO_TCP, TCP_KEEPINTVL, 11 },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, 60000 }, { SOL_SOCKET, SO_KEEPALIVE, 1 },    { SOL_SOCKET, SO_OOBINLINE, 1 },
	{ SOL_SOCKET, SO_REUSEADDR, 1 },      { IPPROTO_TCP, TCP_LINGER2, 17 },   { IPPROTO_TCP, TCP_NOTSENT_LOWAT, 100000 },
};

static void fill(uint8_t *data, size_t size, uint64_t position, int seed)
{
	for (size_t i = 0; i < size; i++)
		data[i] = (uint8_t)((position + i) * 2654435761u >> 13 ^ (unsigned)seed);
}

static void connect_pair(struct state *s, int i)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	bool is_six = i == SIX || i == MAPPED;
	struct sockaddr *address = is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four;
	socklen_t size = is_six ? sizeof(six) : sizeof(four);
	int listener = socket(address->sa_family, SOCK_STREAM, 0);

	if (i == MAPPED) {
		memset(&six.sin6_addr, 0, 10);
		six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
		memcpy(&six.sin6_addr.s6_addr[12], &four.sin_addr, 4);
	}
	MUST(listener >= 0 && bind(listener, address, size) == 0 && listen(listener, 1) == 0);
	MUST(getsockname(listener, address, &size) == 0);
	s->ends[i][0].fd = socket(address->sa_family, SOCK_STREAM, 0);
	MUST(connect(s->ends[i][0].fd, address, size) == 0);
	s->ends[i][1].fd = accept(listener, NULL, NULL);
	MUST(s->ends[i][1].fd >= 0);
	close(listener);
	for (int k = 0; k < 2; k++)
		MUST(fcntl(s->ends[i][k].fd, F_SETFL, O_NONBLOCK) == 0);
}

/* Until the queues are full, or for a small pair there is something in them. */
static void write_some(struct state *s, int i, int k)
{
	struct end *end = &s->ends[i][k];
	uint8_t data[CHUNK];
	size_t most = i == SMALL ? 100 : i == HALF ? 5000 : SIZE_MAX;

	for (size_t done = 0; done < most;) {
		size_t size = most - done < sizeof(data) ? most - done : sizeof(data);
		ssize_t n;

		fill(data, size, end->written, i * 2 + k);
		n = send(end->fd, data, size, MSG_NOSIGNAL);
		if (n <= 0)
			break;
		end->written += (uint64_t)n;
		done += (size_t)n;
	}
}

static bool read_all(struct victim *v, struct state *s, int i, int k)
{
	struct end *end = &s->ends[i][k], *other = &s->ends[i][!k];
	uint8_t data[CHUNK], wanted[CHUNK];

	while (end->read < other->written) {
		ssize_t n = 0;

		CHECK(v, WAIT_FOR((n = recv(end->fd, data, sizeof(data), 0)) >= 0 || errno != EAGAIN, 10000),
		      "%s: end %d: nothing comes, %llu of %llu bytes read", what[i], k, (unsigned long long)end->read,
		      (unsigned long long)other->written);
		CHECK(v, n > 0, "%s: end %d: %s after %llu bytes", what[i], k, n < 0 ? strerror(errno) : "the end",
		      (unsigned long long)end->read);
		fill(wanted, (size_t)n, end->read, i * 2 + !k);
		CHECK(v, memcmp(data, wanted, (size_t)n) == 0, "%s: end %d: wrong bytes from %llu on", what[i], k,
		      (unsigned long long)end->read);
		end->read += (uint64_t)n;
	}
	return true;
}

static bool check_options(struct victim *v, struct state *s)
{
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		int value = -1;
		socklen_t size = sizeof(value);

		CHECK(v, getsockopt(s->ends[SMALL][0].fd, settings[i].level, settings[i].name, &value, &size) == 0 &&
			      value == settings[i].value,
		      "option %d/%d is %d, not %d", settings[i].level, settings[i].name, value, settings[i].value);
	}
	return true;
}

static bool check_half(struct victim *v, struct state *s)
{
	char byte;
	int r = -1;

	CHECK(v, WAIT_FOR((r = (int)recv(s->ends[HALF][1].fd, &byte, 1, MSG_PEEK)) >= 0 || errno != EAGAIN, 5000) && r == 0,
	      "half closed: the end is not there: %d %m", r);
	CHECK(v, send(s->ends[HALF][0].fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "half closed: it can be written to");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (!check_options(v, s))
		return false;
	for (int i = 0; i < PAIRS; i++)
		for (int k = 0; k < 2; k++) {
			if (!read_all(v, s, i, k))
				return false;
			if (i != HALF || k == 1)
				write_some(s, i, k);
		}
	return check_half(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	for (int i = 0; i < PAIRS; i++) {
		connect_pair(&s, i);
		for (int k = 0; k < 2; k++)
			write_some(&s, i, k);
	}
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		MUST(setsockopt(s.ends[SMALL][0].fd, settings[i].level, settings[i].name, &settings[i].value,
				sizeof(settings[i].value)) == 0);
	MUST(shutdown(s.ends[HALF][0].fd, SHUT_WR) == 0);
	victim_run(&v, verify, &s);
}
