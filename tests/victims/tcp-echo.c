/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Echoes what comes in over TCP, on a port of all addresses, IPv4 too: arguments PORT and, to hold back more than a
 * connection's buffers take, BYTES a second (0: any); a third one, 1, ends the main thread and leaves the work to another. The
 * peer knows what it has sent, so it is the one who checks; a check of this program asks for no connection that has ended
 * otherwise than by its end.
 */
#include "victim.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECTIONS_MAX 8192
#define BUFFER 65536

struct connection {
	char *data; /* read and not written yet */
	size_t size, done;
	bool ended; /* nothing more comes */
};

struct state {
	struct pollfd fds[CONNECTIONS_MAX + 1]; /* the listener first */
	struct connection connections[CONNECTIONS_MAX + 1];
	nfds_t count;
	int64_t rate, sent_in, since; /* bytes a second, 0: as fast as it goes */
	char failure[200];
};

static void open_listener(struct state *s, long port)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	MUST(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 4096) == 0);
	s->fds[0] = (struct pollfd){ .fd = fd, .events = POLLIN };
	s->count = 1;
}

static void accept_all(struct state *s)
{
	int fd;

	while (s->count <= CONNECTIONS_MAX && (fd = accept4(s->fds[0].fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		s->fds[s->count] = (struct pollfd){ .fd = fd, .events = POLLIN };
		s->connections[s->count++] = (struct connection){ .data = malloc(BUFFER) };
	}
}

static void drop(struct state *s, nfds_t i)
{
	close(s->fds[i].fd);
	free(s->connections[i].data);
	s->fds[i] = s->fds[--s->count];
	s->connections[i] = s->connections[s->count];
}

/* True while the rate allows more. */
static bool may_send(struct state *s)
{
	int64_t now = victim_now_ns(CLOCK_MONOTONIC);

	if (now - s->since > 100000000) {
		s->since = now;
		s->sent_in = 0;
	}
	return !s->rate || s->sent_in < s->rate / 10;
}

static bool failed(struct state *s, const char *what)
{
	if (errno == EAGAIN)
		return false;
	if (!s->failure[0])
		snprintf(s->failure, sizeof(s->failure), "%s: %s", what, strerror(errno));
	return true;
}

/* False when the connection is over. */
static bool serve(struct state *s, nfds_t i)
{
	struct connection *c = &s->connections[i];
	ssize_t n;

	if (c->done == c->size && !c->ended) {
		n = recv(s->fds[i].fd, c->data, BUFFER, 0);
		if (n < 0)
			return !failed(s, "recv");
		c->ended = n == 0;
		c->size = (size_t)n;
		c->done = 0;
	}
	if (c->done < c->size && may_send(s)) {
		n = send(s->fds[i].fd, c->data + c->done, c->size - c->done, MSG_NOSIGNAL);
		if (n < 0)
			return !failed(s, "send");
		c->done += (size_t)n;
		s->sent_in += n;
	}
	return c->done < c->size || !c->ended;
}

static void turn(struct state *s)
{
	for (nfds_t i = 1; i < s->count; i++)
		s->fds[i].events = s->connections[i].done < s->connections[i].size ? (may_send(s) ? POLLOUT : 0) : POLLIN;
	if (poll(s->fds, s->count, 2) <= 0)
		return;
	for (nfds_t i = s->count; i-- > 1;)
		if (s->fds[i].revents && !serve(s, i))
			drop(s, i);
	if (s->fds[0].revents)
		accept_all(s);
}

static struct victim victim;

static void *work(void *argument)
{
	static struct state s;

	s.rate = victim_arg(&victim, 1, 0);
	open_listener(&s, victim_arg(&victim, 0, 7070));
	victim_ready(&victim);
	for (;;) {
		turn(&s);
		if (!victim_asked(&victim))
			continue;
		if (s.failure[0])
			victim_fail(&victim, "%s", s.failure);
		victim_note(&victim, "connections=%u", (unsigned)s.count - 1);
		victim_answer(&victim, !s.failure[0]);
	}
	return argument;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	victim_start(&victim, argc, argv);
	if (victim_arg(&victim, 2, 0) == 0)
		work(NULL);
	MUST(pthread_create(&thread, NULL, work, NULL) == 0);
	pthread_exit(NULL);
}
