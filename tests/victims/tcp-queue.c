/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listens on a port of all addresses, IPv4 too, and accepts nobody before there is a file DIR/accept. Then it says to each its
 * number, in the order in which they are accepted, and echoes. Arguments: PORT, and "group": two sockets listen there
 * (SO_REUSEPORT), and the number is preceded by that of the socket. While nobody is accepted, a check wants as many to wait as
 * the file DIR/waiting says, and at each socket as many as at the first check.
 */
#include "victim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#define MAX 64

struct state {
	struct pollfd fds[MAX + 2]; /* the listeners first */
	nfds_t listeners, count;
	bool accepting;
	bool counted;
	uint32_t waiting[2]; /* at each, at the first check */
};

static int open_listener(long port, bool group)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	MUST(fd >= 0 && setsockopt(fd, SOL_SOCKET, group ? SO_REUSEPORT : SO_REUSEADDR, &one, sizeof(one)) == 0);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, MAX / 2) == 0);
	return fd;
}

static void accept_all(struct state *s, nfds_t listener)
{
	char text[32];
	int fd, length;

	while (s->count < MAX && (fd = accept4(s->fds[listener].fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		length = snprintf(text, sizeof(text), "%d %d\n", (int)listener, (int)(s->count - s->listeners));
		(void)!send(fd, text, (size_t)length, MSG_NOSIGNAL);
		s->fds[s->count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
}

/* What waits in the socket's buffers is little: nothing is kept. */
static void echo(struct pollfd *peer)
{
	char data[4096];
	ssize_t got = recv(peer->fd, data, sizeof(data), 0);

	if (got > 0 && send(peer->fd, data, (size_t)got, MSG_NOSIGNAL) == got)
		return;
	if (got < 0 && errno == EAGAIN)
		return;
	close(peer->fd);
	peer->fd = -1;
}

static void turn(struct victim *v, struct state *s)
{
	if (!s->accepting && access(victim_path(v, "accept"), F_OK) == 0)
		s->accepting = true;
	if (poll(s->fds, s->count, 2) <= 0)
		return;
	for (nfds_t i = s->listeners; i < s->count; i++)
		if (s->fds[i].revents)
			echo(&s->fds[i]);
	for (nfds_t i = 0; s->accepting && i < s->listeners; i++)
		accept_all(s, i);
	if (!s->accepting)
		victim_sleep_us(2000);
}

/* The queues are as long as they shall be. */
static bool verify(struct victim *v, struct state *s)
{
	char text[32] = "";
	long waiting = 0;

	if (s->accepting || victim_slurp(victim_path(v, "waiting"), text, sizeof(text)) <= 0)
		return true;
	for (nfds_t i = 0; i < s->listeners; i++) {
		struct tcp_info info;
		socklen_t size = sizeof(info);

		CHECK(v, getsockopt(s->fds[i].fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0, "TCP_INFO: %s", strerror(errno));
		waiting += info.tcpi_unacked;
		if (!s->counted)
			s->waiting[i] = info.tcpi_unacked;
		CHECK(v, s->waiting[i] == info.tcpi_unacked, "%u connections wait at socket %d, not %u", info.tcpi_unacked,
		      (int)i, s->waiting[i]);
		CHECK(v, info.tcpi_sacked == MAX / 2, "a backlog of %u", info.tcpi_sacked);
	}
	s->counted = true;
	CHECK(v, waiting == atol(text), "%ld connections wait, not %s", waiting, text);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	s.listeners = s.count = victim_arg_is(&v, "group") ? 2 : 1;
	for (nfds_t i = 0; i < s.listeners; i++)
		s.fds[i] = (struct pollfd){ .fd = open_listener(victim_arg(&v, 0, 7070), s.listeners > 1), .events = POLLIN };
	victim_ready(&v);
	for (;;) {
		turn(&v, &s);
		if (victim_asked(&v))
			victim_answer(&v, verify(&v, &s));
	}
}
