/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listening TCP sockets, IPv4 and IPv6, with options that an accepted connection inherits. A check
 * connects to each from within, talks, and looks at options, address and backlog. One more socket
 * is bound but does not listen yet.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum { PLAIN, DEFERRED, SIX, BOUND, SOCKETS };

struct setting {
	int level, name, value;
	int found; /* as the kernel gave it back at first */
};

struct state {
	int fds[SOCKETS];
	struct sockaddr_storage names[SOCKETS];
	socklen_t sizes[SOCKETS];
	struct setting settings[SOCKETS][8];
};

static const char *const what[SOCKETS] = {"plain", "deferred", "IPv6", "bound only"};
static const int backlogs[SOCKETS] = {17, 128, 5, -1};

static const struct setting settings[SOCKETS][8] = {
	[PLAIN] = {{SOL_SOCKET, SO_REUSEADDR, 1, 0},
		   {SOL_SOCKET, SO_KEEPALIVE, 1, 0},
		   {IPPROTO_TCP, TCP_NODELAY, 1, 0},
		   {IPPROTO_TCP, TCP_KEEPIDLE, 77, 0},
		   {IPPROTO_TCP, TCP_KEEPINTVL, 11, 0},
		   {IPPROTO_TCP, TCP_USER_TIMEOUT, 30000, 0},
		   {SOL_SOCKET, SO_RCVBUF, 100000, 0}},
	[DEFERRED] = {{IPPROTO_TCP, TCP_DEFER_ACCEPT, 3, 0},
		      {SOL_SOCKET, SO_REUSEPORT, 1, 0},
		      /* In this order: setting the one changes the other. */
		      {IPPROTO_IP, IP_TOS, 0x10, 0},
		      {SOL_SOCKET, SO_PRIORITY, 3, 0}},
	[SIX] = {{IPPROTO_IPV6, IPV6_V6ONLY, 1, 0},
		 {SOL_SOCKET, SO_REUSEADDR, 1, 0},
		 {SOL_SOCKET, SO_SNDBUF, 60000, 0}},
	[BOUND] = {{SOL_SOCKET, SO_REUSEADDR, 1, 0}},
};

static bool open_one(struct state *s, int i)
{
	struct sockaddr_in four = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr *address = i == SIX ? (struct sockaddr *)&six : (struct sockaddr *)&four;
	int fd = socket(address->sa_family, SOCK_STREAM | (i == PLAIN ? SOCK_NONBLOCK : 0), 0);

	if (fd < 0)
		return false;
	for (int k = 0; settings[i][k].name != 0; k++) {
		struct setting *one = &s->settings[i][k];
		socklen_t size = sizeof(one->found);

		*one = settings[i][k];
		MUST(setsockopt(fd, one->level, one->name, &one->value, sizeof(one->value)) == 0);
		MUST(getsockopt(fd, one->level, one->name, &one->found, &size) == 0);
	}
	if (bind(fd, address, i == SIX ? sizeof(six) : sizeof(four)) < 0) {
		close(fd);
		return false;
	}
	MUST(backlogs[i] < 0 || listen(fd, backlogs[i]) == 0);
	s->sizes[i] = sizeof(s->names[i]);
	MUST(getsockname(fd, (struct sockaddr *)&s->names[i], &s->sizes[i]) == 0);
	s->fds[i] = fd;
	return true;
}

static bool options_check(struct victim *v, struct state *s, int i)
{
	struct sockaddr_storage name = {0};
	socklen_t size = sizeof(name);
	struct tcp_info info;

	CHECK(v,
	      getsockname(s->fds[i], (struct sockaddr *)&name, &size) == 0 && size == s->sizes[i] &&
		      memcmp(&name, &s->names[i], size) == 0,
	      "%s: another address", what[i]);
	for (int k = 0; s->settings[i][k].name != 0; k++) {
		struct setting *one = &s->settings[i][k];
		int value = -1;

		size = sizeof(value);
		CHECK(v,
		      getsockopt(s->fds[i], one->level, one->name, &value, &size) == 0 &&
			      value == one->found,
		      "%s: option %d/%d is %d, not %d", what[i], one->level, one->name, value,
		      one->found);
	}
	size = sizeof(info);
	CHECK(v, getsockopt(s->fds[i], IPPROTO_TCP, TCP_INFO, &info, &size) == 0,
	      "%s: TCP_INFO: %m", what[i]);
	/* A listener tells its backlog there. */
	CHECK(v, backlogs[i] < 0 || (int)info.tcpi_sacked == backlogs[i], "%s: backlog is %u",
	      what[i], info.tcpi_sacked);
	CHECK(v, !!(fcntl(s->fds[i], F_GETFL) & O_NONBLOCK) == (i == PLAIN), "%s: flags differ",
	      what[i]);
	return true;
}

static bool talk(struct victim *v, int client, int listener, const char *name,
		 const struct sockaddr *to, socklen_t size)
{
	int server = -1, value = 0;
	socklen_t length = sizeof(value);
	char text[8] = "";

	CHECK(v, connect(client, to, size) == 0, "%s: connect: %m", name);
	CHECK(v, send(client, "hello", 5, 0) == 5, "%s: send: %m", name);
	CHECK(v, WAIT_FOR((server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0, 5000),
	      "%s: accept: %m", name);
	if (recv(server, text, 5, MSG_WAITALL) != 5 || strcmp(text, "hello") != 0)
		victim_fail(v, "%s: received '%s'", name, text);
	else if (send(server, "world", 5, 0) != 5 || recv(client, text, 5, MSG_WAITALL) != 5 ||
		 strcmp(text, "world") != 0)
		victim_fail(v, "%s: answered '%s'", name, text);
	else if (strcmp(name, "plain") == 0 &&
		 (getsockopt(server, IPPROTO_TCP, TCP_NODELAY, &value, &length) < 0 || value == 0))
		victim_fail(v, "%s: TCP_NODELAY is not inherited", name);
	close(server);
	return v->reason[0] == '\0';
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	for (int i = 0; i < SOCKETS; i++) {
		int client;
		bool good;

		if (s->fds[i] < 0)
			continue;
		if (!options_check(v, s, i))
			return false;
		client = socket(s->names[i].ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(v, client >= 0, "socket: %m");
		if (backlogs[i] < 0)
			good = connect(client, (struct sockaddr *)&s->names[i], s->sizes[i]) < 0 ||
			       victim_fail(v, "%s: it listens", what[i]);
		else
			good = talk(v, client, s->fds[i], what[i], (struct sockaddr *)&s->names[i],
				    s->sizes[i]);
		close(client);
		if (!good)
			return false;
	}
	if (s->fds[SIX] < 0)
		victim_note(v, "ipv6=unavailable");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	for (int i = 0; i < SOCKETS; i++) {
		s.fds[i] = -1;
		MUST(open_one(&s, i) || i == SIX);
	}
	victim_run(&v, verify, &s);
}
