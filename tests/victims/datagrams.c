/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UDP and UDP-Lite sockets with datagrams that wait, each from the sender that it came from; multicast groups with source
 * filters; raw sockets with filters; a locked classic BPF filter; many options.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#define GROUP_V4 "239.7.7.7"
#define GROUP_V6 "ff02::7777"
#define RAW_FILTER 1 /* ICMP_FILTER of level SOL_RAW: a bit for each type that does not come */
#ifndef UDPLITE_SEND_CSCOV
#define UDPLITE_SEND_CSCOV 10
#endif

enum { SENDERS = 2 };

struct state {
	int senders[SENDERS]; /* bound */
	int four;	      /* 127.0.0.1, with datagrams of both */
	int both;	      /* IPv6 and mapped IPv4 */
	int six_sender;
	int connected;	      /* to senders[0] */
	int lite, lite_sender;
	int groups_v4, groups_v6;
	int raw, raw_v6;
	int filtered;	      /* takes only what begins with 'y' */
	unsigned round;
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static void set(int fd, int level, int name, int value)
{
	MUST(setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

static int get(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? -1 : value;
}

static int udp(int family, int protocol, bool any)
{
	union address address = {.any.sa_family = (sa_family_t)family};
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, protocol);

	MUST(fd >= 0);
	if (family == AF_INET)
		address.v4.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
	else if (!any)
		address.v6.sin6_addr = in6addr_loopback;
	MUST(bind(fd, &address.any, family == AF_INET ? sizeof(address.v4) : sizeof(address.v6)) == 0);
	return fd;
}

static unsigned short port(int fd)
{
	union address address;
	socklen_t size = sizeof(address);

	return getsockname(fd, &address.any, &size) < 0 ? 0 : address.v4.sin_port;
}

static void send_to(int from, int family, int to, const char *text)
{
	union address address = {.any.sa_family = (sa_family_t)family};

	if (family == AF_INET)
		address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		address.v6.sin6_addr = in6addr_loopback;
	address.v4.sin_port = port(to);
	MUST(sendto(from, text, strlen(text), 0, &address.any, family == AF_INET ? sizeof(address.v4) : sizeof(address.v6)) ==
	     (ssize_t)strlen(text));
}

/* The text, from that sender. */
static bool take(struct victim *v, int fd, const char *text, int sender)
{
	union address from;
	socklen_t size = sizeof(from);
	char data[64] = "";
	ssize_t got = recvfrom(fd, data, sizeof(data) - 1, MSG_DONTWAIT, &from.any, &size);

	CHECK(v, got == (ssize_t)strlen(text) && strcmp(data, text) == 0, "'%s' for '%s' (%zd: %m)", data, text, got);
	CHECK(v, from.v4.sin_port == port(sender), "'%s' came from port %d, not %d", text, ntohs(from.v4.sin_port),
	      ntohs(port(sender)));
	return true;
}

/* ---- queues */

static void fill(struct state *s)
{
	send_to(s->senders[0], AF_INET, s->four, "first");
	send_to(s->senders[1], AF_INET, s->four, "");
	send_to(s->senders[1], AF_INET, s->four, "third");
	send_to(s->senders[1], AF_INET, s->both, "mapped");
	send_to(s->six_sender, AF_INET6, s->both, "six");
	send_to(s->senders[0], AF_INET, s->connected, "by the peer");
	send_to(s->lite_sender, AF_INET, s->lite, "lite");
	send_to(s->senders[0], AF_INET, s->filtered, "no");
	send_to(s->senders[0], AF_INET, s->filtered, "yes");
}

static bool take_all(struct victim *v, struct state *s)
{
	if (!take(v, s->four, "first", s->senders[0]) || !take(v, s->four, "", s->senders[1]) ||
	    !take(v, s->four, "third", s->senders[1]) || !take(v, s->both, "mapped", s->senders[1]) ||
	    !take(v, s->both, "six", s->six_sender) || !take(v, s->connected, "by the peer", s->senders[0]) ||
	    !take(v, s->lite, "lite", s->lite_sender) || !take(v, s->filtered, "yes", s->senders[0]))
		return false;
	for (int i = 0; i < 5; i++)
		CHECK(v,
		      recv(((int[]){s->four, s->both, s->connected, s->lite, s->filtered})[i], &(char){0}, 1,
			   MSG_DONTWAIT) < 0,
		      "socket %d has more than was sent", i);
	return true;
}

/* ---- groups */

static void group_address(const char *text, struct sockaddr_storage *ret)
{
	union address *address = (union address *)ret;

	memset(ret, 0, sizeof(*ret));
	if (strchr(text, ':')) {
		ret->ss_family = AF_INET6;
		MUST(inet_pton(AF_INET6, text, &address->v6.sin6_addr) == 1);
	} else {
		ret->ss_family = AF_INET;
		MUST(inet_pton(AF_INET, text, &address->v4.sin_addr) == 1);
	}
}

static void join(int fd, const char *group, const char *blocked)
{
	struct group_source_req source = {.gsr_interface = if_nametoindex("lo")};
	struct group_req request = {.gr_interface = if_nametoindex("lo")};
	int level = strchr(group, ':') ? IPPROTO_IPV6 : IPPROTO_IP;

	group_address(group, &request.gr_group);
	MUST(setsockopt(fd, level, MCAST_JOIN_GROUP, &request, sizeof(request)) == 0);
	source.gsr_group = request.gr_group;
	group_address(blocked, &source.gsr_source);
	MUST(setsockopt(fd, level, MCAST_BLOCK_SOURCE, &source, sizeof(source)) == 0);
}

static bool group_check(struct victim *v, int fd, const char *group, const char *blocked)
{
	union {
		struct group_filter filter;
		char room[GROUP_FILTER_SIZE(4)];
	} query = {.filter = {.gf_interface = if_nametoindex("lo"), .gf_numsrc = 4}};
	socklen_t size = sizeof(query);
	struct sockaddr_storage wanted;
	union address *one = (union address *)&wanted, *other = (union address *)&query.filter.gf_slist[0];

	group_address(group, &query.filter.gf_group);
	group_address(blocked, &wanted);
	CHECK(v, getsockopt(fd, strchr(group, ':') ? IPPROTO_IPV6 : IPPROTO_IP, MCAST_MSFILTER, &query, &size) == 0,
	      "%s: not a member: %m", group);
	CHECK(v, query.filter.gf_fmode == MCAST_EXCLUDE && query.filter.gf_numsrc == 1, "%s: mode %u, %u sources", group,
	      query.filter.gf_fmode, query.filter.gf_numsrc);
	CHECK(v,
	      wanted.ss_family == AF_INET ? one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr :
					    memcmp(&one->v6.sin6_addr, &other->v6.sin6_addr, 16) == 0,
	      "%s: another source is blocked", group);
	return true;
}

/* ---- raw */

static void setup_raw(struct state *s)
{
	struct sockaddr_in lo = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint32_t filter = ~(1U << ICMP_ECHOREPLY);
	struct icmp6_filter filter_v6;

	s->raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	s->raw_v6 = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
	MUST(s->raw >= 0 && s->raw_v6 >= 0);
	MUST(setsockopt(s->raw, SOL_RAW, RAW_FILTER, &filter, sizeof(filter)) == 0);
	ICMP6_FILTER_SETBLOCKALL(&filter_v6);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter_v6);
	MUST(setsockopt(s->raw_v6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter_v6, sizeof(filter_v6)) == 0);
	MUST(bind(s->raw, (struct sockaddr *)&lo, sizeof(lo)) == 0 && connect(s->raw, (struct sockaddr *)&lo, sizeof(lo)) == 0);
	set(s->raw, IPPROTO_IP, IP_TTL, 77);
}

/* An echo comes back; the request itself is filtered out. */
static bool raw_check(struct victim *v, struct state *s)
{
	struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.id = htons(4711)};
	unsigned char data[128] = "";
	struct icmp6_filter filter;
	socklen_t size = sizeof(filter);
	ssize_t got = -1;

	echo.checksum = (uint16_t)~(ICMP_ECHO + htons(4711));
	CHECK(v, send(s->raw, &echo, sizeof(echo), 0) == sizeof(echo), "raw: send: %m");
	CHECK(v, WAIT_FOR((got = recv(s->raw, data, sizeof(data), MSG_DONTWAIT)) > 0, 2000), "raw: no answer");
	CHECK(v, got == 28 && data[20] == ICMP_ECHOREPLY, "raw: %zd bytes, type %d", got, data[20]);
	CHECK(v, get(s->raw, IPPROTO_IP, IP_TTL) == 77, "raw: TTL is %d", get(s->raw, IPPROTO_IP, IP_TTL));
	CHECK(v,
	      getsockopt(s->raw_v6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, &size) == 0 &&
		      ICMP6_FILTER_WILLPASS(ICMP6_ECHO_REPLY, &filter) && ICMP6_FILTER_WILLBLOCK(ICMP6_ECHO_REQUEST, &filter),
	      "raw, IPv6: the filter differs");
	return true;
}

/* ---- all of it */

static void setup_filter(struct state *s)
{
	struct sock_filter code[] = {
		{BPF_LD | BPF_B | BPF_ABS, 0, 0, 8}, /* behind the header of UDP */
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'y'},
		{BPF_RET | BPF_K, 0, 0, 0xffff},
		{BPF_RET | BPF_K, 0, 0, 0},
	};
	struct sock_fprog program = {4, code};

	s->filtered = udp(AF_INET, 0, false);
	MUST(setsockopt(s->filtered, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0);
	set(s->filtered, SOL_SOCKET, SO_LOCK_FILTER, 1);
}

static void setup(struct state *s)
{
	union address peer = {.any.sa_family = AF_INET};
	struct in_addr lo = {htonl(INADDR_LOOPBACK)};

	for (int i = 0; i < SENDERS; i++)
		s->senders[i] = udp(AF_INET, 0, false);
	s->four = udp(AF_INET, 0, false);
	s->both = udp(AF_INET6, 0, true);
	s->six_sender = udp(AF_INET6, 0, false);
	s->connected = udp(AF_INET, 0, true);
	peer.v4.sin_addr = lo;
	peer.v4.sin_port = port(s->senders[0]);
	MUST(connect(s->connected, &peer.any, sizeof(peer.v4)) == 0);
	s->lite = udp(AF_INET, IPPROTO_UDPLITE, false);
	s->lite_sender = udp(AF_INET, IPPROTO_UDPLITE, false);
	set(s->lite, IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, 8);
	set(s->four, IPPROTO_IP, IP_RECVTTL, 1);
	set(s->four, IPPROTO_UDP, UDP_SEGMENT, 1200);
	set(s->both, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1);
	s->groups_v4 = udp(AF_INET, 0, true);
	s->groups_v6 = udp(AF_INET6, 0, true);
	join(s->groups_v4, GROUP_V4, "192.0.2.1");
	join(s->groups_v6, GROUP_V6, "2001:db8::1");
	MUST(setsockopt(s->groups_v4, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof(lo)) == 0);
	set(s->groups_v6, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)if_nametoindex("lo"));
	setup_raw(s);
	setup_filter(s);
	fill(s);
}

static bool options_check(struct victim *v, struct state *s)
{
	struct in_addr multicast = {0};
	socklen_t size = sizeof(multicast);

	CHECK(v, get(s->lite, IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV) == 8, "UDPLITE_SEND_CSCOV");
	CHECK(v, get(s->four, IPPROTO_IP, IP_RECVTTL) == 1 && get(s->four, IPPROTO_UDP, UDP_SEGMENT) == 1200,
	      "IP_RECVTTL or UDP_SEGMENT");
	CHECK(v, get(s->four, IPPROTO_IP, IP_RECVORIGDSTADDR) == 0 && get(s->four, SOL_SOCKET, SO_PEEK_OFF) == -1,
	      "an option of the dump stayed");
	CHECK(v, get(s->both, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR) == 1 && get(s->both, IPPROTO_IPV6, IPV6_V6ONLY) == 0,
	      "IPV6_RECVORIGDSTADDR or IPV6_V6ONLY");
	CHECK(v,
	      getsockopt(s->groups_v4, IPPROTO_IP, IP_MULTICAST_IF, &multicast, &size) == 0 &&
		      multicast.s_addr == htonl(INADDR_LOOPBACK),
	      "IP_MULTICAST_IF");
	CHECK(v, get(s->groups_v6, IPPROTO_IPV6, IPV6_MULTICAST_IF) == (int)if_nametoindex("lo"), "IPV6_MULTICAST_IF");
	CHECK(v, get(s->filtered, SOL_SOCKET, SO_LOCK_FILTER) == 1, "SO_LOCK_FILTER");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (!take_all(v, s) || !options_check(v, s) || !group_check(v, s->groups_v4, GROUP_V4, "192.0.2.1") ||
	    !group_check(v, s->groups_v6, GROUP_V6, "2001:db8::1") || !raw_check(v, s))
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
