/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UDP, UDP-Lite, raw and ping sockets.
 *
 * Model. A socket is made as it was: options, bind, groups, connect. Then each datagram that waited is sent to it once more,
 * through the loopback interface, as a whole packet with the addresses of the original (a raw socket with a header of its
 * own): its sender is who it was. This happens before the next socket is made, so that no other one of the same port takes it,
 * and before the socket is bound to an interface.
 *
 * A datagram whose destination is no address of this host goes to the loopback address; a socket that is bound to such an
 * address (which a hook moves later) loses what waited, as the network may lose it.
 *
 * A socket for ping(8) may only be made by members of the groups in net.ipv4.ping_group_range: this thread becomes one for it.
 *
 * Failure modes: address in use; an interface that is not here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/socket-options.h"
#include "pagestream-files.pb-c.h"
#include "restore/datagram.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/sockopt.h"

#define PING_GROUPS "/proc/sys/net/ipv4/ping_group_range"
#define QUEUE_BUFFER (16 << 20) /* bytes, while the queue is filled */
#define HOPS 64

/* ---- the socket */

static bool is_ping(const InetSocket *message)
{
	return message->type == SOCK_DGRAM && (message->proto == IPPROTO_ICMP || message->proto == IPPROTO_ICMPV6);
}

/* Makes it as a member of a group that may. */
static int new_ping(const InetSocket *message)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	gid_t own = getegid();
	unsigned first, last;
	int fd;

	fd = socket((int)message->family, SOCK_DGRAM | SOCK_CLOEXEC, (int)message->proto);
	if (fd >= 0 || errno != EACCES)
		return fd < 0 ? -errno : fd;
	if (fdio_read_file(-1, PING_GROUPS, 64, &text) < 0 || sscanf((char *)text.data, "%u %u", &first, &last) != 2 ||
	    first > last)
		return -EACCES;
	/* Of this thread alone. */
	if (syscall(SYS_setresgid, -1, first, -1) < 0)
		return -errno;
	fd = socket((int)message->family, SOCK_DGRAM | SOCK_CLOEXEC, (int)message->proto);
	if (fd < 0)
		fd = -errno;
	(void)syscall(SYS_setresgid, -1, own, -1);
	return fd;
}

static int new_socket(const InetSocket *message, struct error *error)
{
	int fd;

	if ((message->family != AF_INET && message->family != AF_INET6) ||
	    (message->type != SOCK_DGRAM && message->type != SOCK_RAW))
		return error_set(error, -EPROTO, "socket of family %u and type %u", message->family, message->type);
	if (is_ping(message))
		fd = new_ping(message);
	else
		fd = socket((int)message->family, (int)message->type | SOCK_CLOEXEC, (int)message->proto);
	if (fd == -1 && !is_ping(message))
		fd = -errno;
	if (fd == -EACCES)
		return error_set(error, fd, "no group may make sockets for ping here (net.ipv4.ping_group_range)");
	return fd < 0 ? error_set_errno(error, fd, "making a socket") : fd;
}

static int find_interface(const char *name, unsigned *ret, struct error *error)
{
	*ret = if_nametoindex(name);
	return *ret == 0 ? error_set(error, -ENODEV, "there is no interface %s", name) : 0;
}

/* ---- multicast */

static bool fill_address(const ProtobufCBinaryData *bytes, struct sockaddr_storage *ret)
{
	*ret = (struct sockaddr_storage){ .ss_family = bytes->len == 16 ? AF_INET6 : AF_INET };
	if (bytes->len == 16)
		memcpy(&((struct sockaddr_in6 *)ret)->sin6_addr, bytes->data, 16);
	else if (bytes->len == 4)
		memcpy(&((struct sockaddr_in *)ret)->sin_addr, bytes->data, 4);
	return bytes->len == 16 || bytes->len == 4;
}

static int join(int fd, const MulticastGroup *group, struct error *error)
{
	int level = group->group.len == 16 ? IPPROTO_IPV6 : IPPROTO_IP, r = 0;
	_cleanup_free_ struct group_filter *filter = calloc(1, GROUP_FILTER_SIZE(group->n_sources + 1));
	struct group_req request = { 0 };
	unsigned index = 0;

	if (!filter)
		return error_set(error, -ENOMEM, "no memory for a multicast group");
	r = find_interface(group->interface, &index, error);
	if (r < 0)
		return r;
	request.gr_interface = filter->gf_interface = index;
	filter->gf_fmode = group->exclude ? MCAST_EXCLUDE : MCAST_INCLUDE;
	filter->gf_numsrc = (uint32_t)group->n_sources;
	if (!fill_address(&group->group, &filter->gf_group))
		r = -EPROTO;
	for (size_t i = 0; r == 0 && i < group->n_sources; i++)
		r = fill_address(&group->sources[i], &filter->gf_slist[i]) ? 0 : -EPROTO;
	request.gr_group = filter->gf_group;
	if (r == 0 && setsockopt(fd, level, MCAST_JOIN_GROUP, &request, sizeof(request)) < 0)
		r = -errno;
	if (r == 0 && (group->n_sources > 0 || !group->exclude) &&
	    setsockopt(fd, level, MCAST_MSFILTER, filter, (socklen_t)GROUP_FILTER_SIZE(filter->gf_numsrc)) < 0)
		r = -errno;
	return r < 0 ? error_set_errno(error, r, "joining a multicast group on %s", group->interface) : 0;
}

static int set_interfaces(int fd, const InetSocket *message, struct error *error)
{
	bool v6 = message->family == AF_INET6;
	unsigned index;
	int r = 0;

	for (size_t i = 0; r == 0 && i < message->n_groups; i++)
		r = join(fd, message->groups[i], error);
	if (r == 0 && message->multicast_interface) {
		r = find_interface(message->multicast_interface, &index, error);
		if (r == 0)
			(void)sockopt_set_int(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)index);
	}
	if (r == 0 && message->unicast_interface) {
		r = find_interface(message->unicast_interface, &index, error);
		if (r == 0)
			(void)sockopt_set_int(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_UNICAST_IF : IP_UNICAST_IF,
				      (int)htonl(index));
	}
	if (r == 0 && message->multicast_address.len == sizeof(struct in_addr) &&
	    setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, message->multicast_address.data, sizeof(struct in_addr)) < 0)
		r = error_set_errno(error, -errno, "choosing the interface for multicast");
	return r;
}

/* ---- what waited */

/* One packet, ready to be sent. */
struct packet {
	uint8_t *data; /* IP header, then that of UDP, then the bytes; owned */
	size_t size;
	int family;
	union restore_address to;
};

static uint64_t add_words(uint64_t sum, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i + 1 < size; i += 2)
		sum += (uint64_t)data[i] << 8 | data[i + 1];
	return size % 2 ? sum + ((uint64_t)data[size - 1] << 8) : sum;
}

/* Over all of `size` bytes and both addresses (RFC 768, 8200, 3828). */
static uint16_t checksum(const uint8_t *addresses, size_t address_size, uint8_t protocol, const uint8_t *data, size_t size)
{
	uint64_t sum = add_words(size + protocol, addresses, address_size);

	sum = add_words(sum, data, size);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)(sum == 0xffff ? 0xffff : ~sum));
}

static void *put_ip_header(struct packet *packet, const InetSocket *socket, const Datagram *message, const uint8_t *destination,
			   size_t payload)
{
	struct iphdr *v4 = (struct iphdr *)packet->data;
	struct ip6_hdr *v6 = (struct ip6_hdr *)packet->data;

	if (packet->family == AF_INET) {
		*v4 = (struct iphdr){ .version = 4, .ihl = 5, .ttl = HOPS, .protocol = (uint8_t)socket->proto };
		v4->tot_len = htons((uint16_t)(sizeof(*v4) + payload));
		memcpy(&v4->saddr, message->source.data, 4);
		memcpy(&v4->daddr, destination, 4);
		return v4 + 1;
	}
	*v6 = (struct ip6_hdr){ .ip6_hlim = HOPS, .ip6_nxt = (uint8_t)socket->proto };
	v6->ip6_vfc = 0x60;
	v6->ip6_plen = htons((uint16_t)payload);
	memcpy(&v6->ip6_src, message->source.data, 16);
	memcpy(&v6->ip6_dst, destination, 16);
	return v6 + 1;
}

static int build(const InetSocket *socket, const Datagram *message, const uint8_t *destination, struct packet *ret)
{
	size_t head = message->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ip6_hdr);
	size_t address = message->family == AF_INET ? 4 : 16, payload = sizeof(struct udphdr) + message->data.len;
	struct udphdr *udp;

	if (head + payload > UINT16_MAX)
		return -EMSGSIZE;
	*ret = (struct packet){ .size = head + payload, .family = (int)message->family };
	ret->data = calloc(1, ret->size);
	if (!ret->data)
		return -ENOMEM;
	udp = put_ip_header(ret, socket, message, destination, payload);
	udp->source = htons((uint16_t)message->source_port);
	udp->dest = htons((uint16_t)socket->src_port);
	/* UDP-Lite has here how much its checksum covers. */
	udp->len = htons((uint16_t)payload);
	memcpy(udp + 1, message->data.data, message->data.len);
	/* Both addresses lie one behind the other in each header. */
	udp->check = checksum(ret->family == AF_INET ? ret->data + offsetof(struct iphdr, saddr) :
						       ret->data + offsetof(struct ip6_hdr, ip6_src),
			      2 * address, (uint8_t)socket->proto, (uint8_t *)udp, payload);
	if (ret->family == AF_INET) {
		ret->to.v4 = (struct sockaddr_in){ .sin_family = AF_INET };
		memcpy(&ret->to.v4.sin_addr, destination, 4);
	} else {
		ret->to.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6 };
		memcpy(&ret->to.v6.sin6_addr, destination, 16);
	}
	return 0;
}

/* Is it an address of this host's own? A packet to any other one would leave it. */
static bool is_own(int family, const uint8_t *bytes)
{
	union restore_address address = { .any = { .sa_family = (sa_family_t)family } };
	_cleanup_fd_ int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (family == AF_INET)
		memcpy(&address.v4.sin_addr, bytes, 4);
	else
		memcpy(&address.v6.sin6_addr, bytes, 16);
	if (family == AF_INET ? IN_MULTICAST(ntohl(address.v4.sin_addr.s_addr)) ||
					address.v4.sin_addr.s_addr == INADDR_BROADCAST :
				IN6_IS_ADDR_MULTICAST(&address.v6.sin6_addr))
		return false;
	return fd >= 0 && bind(fd, &address.any, family == AF_INET ? sizeof(address.v4) : sizeof(address.v6)) == 0;
}

static bool is_bound_to_any(const InetSocket *message)
{
	for (size_t i = 0; i < message->n_src_addr; i++)
		if (message->src_addr[i] != 0)
			return false;
	return true;
}

/* Sends it; what cannot be delivered is lost. */
static int inject(const InetSocket *socket_message, const Datagram *message, const int raw[2], struct error *error)
{
	static const uint8_t loopback_v4[4] = { 127, 0, 0, 1 }, loopback_v6[16] = { [15] = 1 };
	size_t length = message->family == AF_INET6 ? 16 : 4;
	const uint8_t *destination = message->destination.data;
	struct packet packet;
	int r;

	if (message->source.len != length || message->destination.len != length ||
	    (message->family != AF_INET && message->family != AF_INET6))
		return error_set(error, -EPROTO, "a datagram that waited is damaged");
	if (!is_own((int)message->family, destination)) {
		if (!is_bound_to_any(socket_message))
			return 0;
		destination = length == 4 ? loopback_v4 : loopback_v6;
	}
	r = build(socket_message, message, destination, &packet);
	if (r == -ENOMEM)
		return error_set(error, r, "no memory for a datagram");
	if (r < 0)
		return 0;
	(void)sendto(raw[packet.family == AF_INET6], packet.data, packet.size, MSG_DONTWAIT, &packet.to.any,
		     packet.family == AF_INET ? sizeof(packet.to.v4) : sizeof(packet.to.v6));
	free(packet.data);
	return 0;
}

static int fill_queue(int fd, const struct image_set *images, uint32_t id, const InetSocket *socket_message,
		      struct error *error)
{
	const struct image_record *record;
	int raw[2] = { -1, -1 }, r = 0;
	size_t cursor = 0;

	while (r == 0 && (record = image_set_next(images, IMAGE_DATAGRAM, id, &cursor))) {
		_cleanup_message_ Datagram *message = NULL;

		if (raw[0] < 0) {
			raw[0] = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
			raw[1] = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
			(void)sockopt_set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BUFFER);
			if (socket_message->opts->so_bound_dev)
				(void)setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0);
		}
		r = image_unpack(record, datagram, &message, error);
		if (r == 0)
			r = inject(socket_message, message, raw, error);
	}
	for (int i = 0; i < 2; i++)
		if (raw[i] >= 0)
			close(raw[i]);
	if (r == 0 && raw[0] >= 0 && socket_message->opts->so_bound_dev &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, socket_message->opts->so_bound_dev,
		       (socklen_t)strlen(socket_message->opts->so_bound_dev) + 1) < 0)
		r = error_set_errno(error, -errno, "binding a socket to the interface %s",
				    socket_message->opts->so_bound_dev);
	return r;
}

/* ---- all of it */

static int connect_peer(int fd, const InetSocket *message, struct error *error)
{
	union restore_address address;
	socklen_t size;

	if (message->n_dst_addr == 0)
		return 0;
	size = restore_inet_address(message, true, &address);
	if (size == 0)
		return error_set(error, -EPROTO, "a socket's peer is damaged");
	if (connect(fd, &address.any, size) < 0)
		return error_set_errno(error, -errno, "connecting a socket of datagrams");
	return 0;
}

int restore_datagram_make(const InetSocket *message, const struct image_set *images, uint32_t id, int *ret_fd,
			  struct error *error)
{
	_cleanup_fd_ int fd = new_socket(message, error);
	int r;

	if (fd < 0)
		return fd;
	r = image_socket_options_write(fd, message->opts, error);
	if (r == 0 && (message->src_port != 0 || !is_bound_to_any(message)))
		r = restore_inet_bind(fd, message, error);
	if (r == 0)
		r = set_interfaces(fd, message, error);
	if (r == 0)
		r = connect_peer(fd, message, error);
	if (r == 0 && images)
		r = fill_queue(fd, images, id, message, error);
	if (r == 0)
		r = image_socket_options_finish(fd, message->opts, error);
	if (r == 0)
		*ret_fd = steal_fd(&fd);
	return r;
}
