/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UDP sockets: bound, connected to one another, unbound, IPv6; with options. Datagrams that wait
 * may be lost on the way, as they may on any network, so none wait; those sent after the move
 * arrive.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { BOUND, CONNECTED_A, CONNECTED_B, SIX, UNBOUND, SOCKETS };

struct setting {
	int level, name, value;
	int found; /* as the kernel gave it back at first */
};

struct state {
	int fds[SOCKETS];
	struct sockaddr_storage names[SOCKETS], peers[SOCKETS];
	socklen_t sizes[SOCKETS], peer_sizes[SOCKETS];
	struct setting settings[SOCKETS][8];
};

static const char *const what[SOCKETS] = {"bound", "connected", "connected back", "IPv6",
					  "unbound"};

static const struct setting settings[SOCKETS][8] = {
	[BOUND] = {{SOL_SOCKET, SO_REUSEADDR, 1, 0},
		   {SOL_SOCKET, SO_BROADCAST, 1, 0},
		   {SOL_SOCKET, SO_RCVBUF, 90000, 0},
		   {IPPROTO_IP, IP_TOS, 0x08, 0},
		   {IPPROTO_IP, IP_TTL, 33, 0},
		   {IPPROTO_IP, IP_PKTINFO, 1, 0}},
	[CONNECTED_A] = {{SOL_SOCKET, SO_SNDBUF, 50000, 0},
			 {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, 0}},
	[CONNECTED_B] = {{SOL_SOCKET, SO_TIMESTAMP, 1, 0}, {IPPROTO_IP, IP_RECVERR, 1, 0}},
	[SIX] = {{IPPROTO_IPV6, IPV6_V6ONLY, 1, 0}, {SOL_SOCKET, SO_REUSEPORT, 1, 0}},
};

static bool open_one(struct state *s, int i)
{
	struct sockaddr_in four = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr *address = i == SIX ? (struct sockaddr *)&six : (struct sockaddr *)&four;
	int fd = socket(address->sa_family, SOCK_DGRAM | (i == BOUND ? SOCK_NONBLOCK : 0), 0);

	if (fd < 0)
		return false;
	for (int k = 0; settings[i][k].name != 0; k++) {
		struct setting *one = &s->settings[i][k];
		socklen_t size = sizeof(one->found);

		*one = settings[i][k];
		MUST(setsockopt(fd, one->level, one->name, &one->value, sizeof(one->value)) == 0);
		MUST(getsockopt(fd, one->level, one->name, &one->found, &size) == 0);
	}
	if (i != UNBOUND && bind(fd, address, i == SIX ? sizeof(six) : sizeof(four)) < 0) {
		close(fd);
		return false;
	}
	s->sizes[i] = sizeof(s->names[i]);
	MUST(getsockname(fd, (struct sockaddr *)&s->names[i], &s->sizes[i]) == 0);
	s->fds[i] = fd;
	return true;
}

static void setup(struct state *s)
{
	for (int i = 0; i < SOCKETS; i++) {
		s->fds[i] = -1;
		MUST(open_one(s, i) || i == SIX);
	}
	for (int i = CONNECTED_A; i <= CONNECTED_B; i++) {
		int other = i == CONNECTED_A ? CONNECTED_B : CONNECTED_A;

		MUST(connect(s->fds[i], (struct sockaddr *)&s->names[other], s->sizes[other]) == 0);
		s->peers[i] = s->names[other];
		s->peer_sizes[i] = s->sizes[other];
	}
}

static bool options_check(struct victim *v, struct state *s, int i)
{
	struct sockaddr_storage name = {0};
	socklen_t size = sizeof(name);

	CHECK(v,
	      getsockname(s->fds[i], (struct sockaddr *)&name, &size) == 0 && size == s->sizes[i] &&
		      memcmp(&name, &s->names[i], size) == 0,
	      "%s: another address", what[i]);
	memset(&name, 0, sizeof(name));
	size = sizeof(name);
	if (s->peer_sizes[i] == 0)
		CHECK(v, getpeername(s->fds[i], (struct sockaddr *)&name, &size) < 0,
		      "%s: it is connected", what[i]);
	else
		CHECK(v,
		      getpeername(s->fds[i], (struct sockaddr *)&name, &size) == 0 &&
			      size == s->peer_sizes[i] && memcmp(&name, &s->peers[i], size) == 0,
		      "%s: another peer", what[i]);
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
	CHECK(v, !!(fcntl(s->fds[i], F_GETFL) & O_NONBLOCK) == (i == BOUND), "%s: flags differ",
	      what[i]);
	return true;
}

static bool arrives(struct victim *v, int fd, const char *wanted, const char *name)
{
	char text[16] = "";

	CHECK(v, WAIT_FOR(recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT) >= 0, 2000),
	      "%s: nothing arrives", name);
	CHECK(v, strcmp(text, wanted) == 0, "%s: '%s' arrives", name, text);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	int sender;

	for (int i = 0; i < SOCKETS; i++)
		if (s->fds[i] >= 0 && !options_check(v, s, i))
			return false;
	CHECK(v,
	      send(s->fds[CONNECTED_A], "there", 5, 0) == 5 &&
		      send(s->fds[CONNECTED_B], "back", 4, 0) == 4,
	      "send: %m");
	if (!arrives(v, s->fds[CONNECTED_B], "there", "connected") ||
	    !arrives(v, s->fds[CONNECTED_A], "back", "connected back"))
		return false;
	/* A connected socket takes nothing from others. */
	sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(v, sender >= 0, "socket: %m");
	sendto(sender, "stranger", 8, 0, (struct sockaddr *)&s->names[CONNECTED_A],
	       s->sizes[CONNECTED_A]);
	sendto(sender, "hello", 5, 0, (struct sockaddr *)&s->names[BOUND], s->sizes[BOUND]);
	close(sender);
	if (!arrives(v, s->fds[BOUND], "hello", "bound"))
		return false;
	CHECK(v, recv(s->fds[CONNECTED_A], (char[1]){0}, 1, MSG_DONTWAIT) < 0,
	      "connected: it takes from strangers");
	if (s->fds[SIX] >= 0) {
		CHECK(v,
		      sendto(s->fds[SIX], "six", 3, 0, (struct sockaddr *)&s->names[SIX],
			     s->sizes[SIX]) == 3,
		      "IPv6: %m");
		if (!arrives(v, s->fds[SIX], "six", "IPv6"))
			return false;
	} else {
		victim_note(v, "ipv6=unavailable");
	}
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
