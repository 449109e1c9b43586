/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packet sockets: bound to an interface, with options, a membership, a filter; one of a fanout group; one not bound. */
#include "victim.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

struct state {
	int bound, spread, fresh, sender;
	int fanout; /* as the kernel tells it */
	unsigned short port;
	unsigned round;
};

static int get(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_PACKET, name, &value, &size) < 0 ? -1 : value;
}

static void set(int fd, int name, int value)
{
	MUST(setsockopt(fd, SOL_PACKET, name, &value, sizeof(value)) == 0);
}

static int packet(int type, const char *interface)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
	int fd = socket(AF_PACKET, type | SOCK_CLOEXEC, 0);

	MUST(fd >= 0);
	address.sll_ifindex = (int)if_nametoindex(interface);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	return fd;
}

/* Only UDP: byte 9 of the IP header. */
static void filter_udp(int fd)
{
	struct sock_filter code[] = {
		{BPF_LD | BPF_B | BPF_ABS, 0, 0, 9},
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, IPPROTO_UDP},
		{BPF_RET | BPF_K, 0, 0, 0xffff},
		{BPF_RET | BPF_K, 0, 0, 0},
	};
	struct sock_fprog program = {4, code};

	MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0);
}

static void setup(struct state *s)
{
	struct packet_mreq membership = {.mr_ifindex = (int)if_nametoindex("lo"), .mr_type = PACKET_MR_ALLMULTI};
	struct sockaddr_in lo = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(lo);

	s->bound = packet(SOCK_DGRAM, "lo");
	filter_udp(s->bound);
	set(s->bound, PACKET_AUXDATA, 1);
	set(s->bound, PACKET_VERSION, TPACKET_V2);
	MUST(setsockopt(s->bound, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof(membership)) == 0);
	s->spread = packet(SOCK_RAW, "lo");
	set(s->spread, PACKET_FANOUT, (getpid() & 0xffff) | PACKET_FANOUT_LB << 16);
	s->fanout = get(s->spread, PACKET_FANOUT);
	s->fresh = socket(AF_PACKET, SOCK_RAW, 0);
	s->sender = socket(AF_INET, SOCK_DGRAM, 0);
	MUST(s->fresh >= 0 && s->sender >= 0 && bind(s->sender, (struct sockaddr *)&lo, sizeof(lo)) == 0 &&
	     getsockname(s->sender, (struct sockaddr *)&lo, &size) == 0 &&
	     connect(s->sender, (struct sockaddr *)&lo, sizeof(lo)) == 0);
}

/* Does the text come in? Behind the headers of IP and UDP, and that of the interface. */
static bool comes(int fd, size_t at, const char *text)
{
	char data[2048];
	ssize_t got;

	while ((got = recv(fd, data, sizeof(data), MSG_DONTWAIT)) >= 0)
		if ((size_t)got == at + strlen(text) && memcmp(data + at, text, strlen(text)) == 0)
			return true;
	return false;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct sockaddr_ll name = {0};
	socklen_t size = sizeof(name);
	char text[32];

	snprintf(text, sizeof(text), "round %u", ++s->round);
	CHECK(v, send(s->sender, text, strlen(text), 0) == (ssize_t)strlen(text), "send: %m");
	CHECK(v, WAIT_FOR(comes(s->bound, 28, text), 2000), "nothing came to the bound socket");
	CHECK(v, WAIT_FOR(comes(s->spread, 42, text), 2000), "nothing came to the group");
	CHECK(v, getsockname(s->bound, (struct sockaddr *)&name, &size) == 0 && name.sll_ifindex == (int)if_nametoindex("lo") &&
	      name.sll_protocol == htons(ETH_P_IP), "bound to interface %d", name.sll_ifindex);
	CHECK(v, get(s->bound, PACKET_AUXDATA) == 1 && get(s->bound, PACKET_VERSION) == TPACKET_V2, "options differ");
	CHECK(v, get(s->spread, PACKET_FANOUT) == s->fanout, "fanout %#x, not %#x", get(s->spread, PACKET_FANOUT), s->fanout);
	size = sizeof(name);
	CHECK(v, getsockname(s->fresh, (struct sockaddr *)&name, &size) == 0 && name.sll_protocol == 0,
	      "the fresh one is bound");
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
