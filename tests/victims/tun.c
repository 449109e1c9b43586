/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues of /dev/net/tun: a TUN interface with addresses, a persistent TAP with two queues, one of them switched off, a
 * descriptor that is attached to none. A check sends through the interface and reads the packet.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define TUN_NAME "victim-tun"
#define TAP_NAME "victim-tap"
#define ADDRESS "10.77.7.1"
#define OTHER "10.77.7.2"

struct state {
	int tun, queues[2], loose, sender;
};

static int queue(struct victim *v, const char *name, int mode)
{
	struct ifreq request = {.ifr_flags = (short)mode};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	if (fd < 0)
		victim_skip(v, "/dev/net/tun: %s", strerror(errno));
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	MUST(!name[0] || ioctl(fd, TUNSETIFF, &request) == 0);
	return fd;
}

static void set_up(int fd, const char *name)
{
	struct ifreq request = {.ifr_mtu = 1400};
	struct sockaddr_in address = {.sin_family = AF_INET};

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	MUST(ioctl(fd, SIOCSIFMTU, &request) == 0);
	inet_pton(AF_INET, ADDRESS, &address.sin_addr);
	memcpy(&request.ifr_addr, &address, sizeof(address));
	MUST(ioctl(fd, SIOCSIFADDR, &request) == 0);
	inet_pton(AF_INET, "255.255.255.0", &address.sin_addr);
	memcpy(&request.ifr_netmask, &address, sizeof(address));
	MUST(ioctl(fd, SIOCSIFNETMASK, &request) == 0);
	MUST(ioctl(fd, SIOCGIFFLAGS, &request) == 0);
	request.ifr_flags |= IFF_UP;
	MUST(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
}

static void setup(struct victim *v, struct state *s)
{
	struct ifreq request = {.ifr_flags = IFF_DETACH_QUEUE};

	s->tun = queue(v, TUN_NAME, IFF_TUN | IFF_NO_PI);
	s->sender = socket(AF_INET, SOCK_DGRAM, 0);
	set_up(s->sender, TUN_NAME);
	for (int i = 0; i < 2; i++)
		s->queues[i] = queue(v, TAP_NAME, IFF_TAP | IFF_MULTI_QUEUE | IFF_VNET_HDR);
	MUST(ioctl(s->queues[0], TUNSETOWNER, 1234) == 0 && ioctl(s->queues[0], TUNSETPERSIST, 1) == 0);
	MUST(ioctl(s->queues[1], TUNSETQUEUE, &request) == 0);
	s->loose = queue(v, "", 0);
}

/* A datagram to the other end of the tunnel; neighbours and routers are asked for meanwhile. */
static bool arrives(int fd, const char *text)
{
	char data[2048];
	ssize_t got;

	while ((got = read(fd, data, sizeof(data))) > 0)
		if ((size_t)got == 28 + strlen(text) && memcmp(data + 28, text, strlen(text)) == 0)
			return true;
	return false;
}

static bool check_modes(struct victim *v, struct state *s)
{
	struct ifreq request = {0};
	int size = 0;

	CHECK(v, ioctl(s->tun, TUNGETIFF, &request) == 0 && strcmp(request.ifr_name, TUN_NAME) == 0 &&
	      (request.ifr_flags & (IFF_TUN | IFF_NO_PI)) == (IFF_TUN | IFF_NO_PI), "the TUN: '%s', mode %#x", request.ifr_name,
	      (unsigned)request.ifr_flags);
	for (int i = 0; i < 2; i++)
		CHECK(v, ioctl(s->queues[i], TUNGETIFF, &request) == 0 && strcmp(request.ifr_name, TAP_NAME) == 0 &&
		      request.ifr_flags & IFF_TAP && request.ifr_flags & IFF_PERSIST &&
		      !!(request.ifr_flags & IFF_DETACH_QUEUE) == (i == 1), "queue %d: '%s', mode %#x", i, request.ifr_name,
		      (unsigned)request.ifr_flags);
	CHECK(v, ioctl(s->queues[0], TUNGETVNETHDRSZ, &size) == 0 && size == 10, "a header of %d bytes", size);
	CHECK(v, ioctl(s->loose, TUNGETIFF, &request) < 0 && errno == EBADFD, "the loose one is attached");
	CHECK(v, fcntl(s->tun, F_GETFL) & O_NONBLOCK, "it blocks");
	snprintf(request.ifr_name, sizeof(request.ifr_name), TUN_NAME);
	CHECK(v, ioctl(s->sender, SIOCGIFMTU, &request) == 0 && request.ifr_mtu == 1400, "MTU %d", request.ifr_mtu);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
	struct state *s = context;
	char text[32];

	if (!check_modes(v, s))
		return false;
	inet_pton(AF_INET, OTHER, &to.sin_addr);
	snprintf(text, sizeof(text), "through it %ld", v->number);
	CHECK(v, sendto(s->sender, text, strlen(text), 0, (struct sockaddr *)&to, sizeof(to)) == (ssize_t)strlen(text),
	      "sendto: %m");
	CHECK(v, WAIT_FOR(arrives(s->tun, text), 2000), "nothing came out of the tunnel");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
