/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UDP, UDP-Lite, raw and ping sockets.
 *
 * Model. All facts come from the socket itself, but for the peer of a raw or ping socket, which has no port and is in
 * /proc/net/raw or icmp only, and for its multicast groups (multicast.c).
 *
 * At the freeze, the datagrams that wait in a UDP socket are peeked at one after the other, with SO_PEEK_OFF moving through
 * the queue and with their destination told (IP_RECVORIGDSTADDR); both options are put back at once. A datagram without bytes
 * that was peeked at before, by the program or an earlier dump, is passed over by the kernel. What waits in raw and ping
 * sockets, and errors that wait in any (MSG_ERRQUEUE), is lost, as the network may lose it.
 *
 * Failure modes, all blockers: other protocols; a datagram that is being put together (UDP_CORK, MSG_MORE), which nobody can
 * read; packets filtered by eBPF. A program that chooses among sockets of one port (SO_ATTACH_REUSEPORT_CBPF or _EBPF) shows
 * nowhere; it is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dump/datagram.h"
#include "dump/files.h"
#include "image/socket-options.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"
#include "util/sockopt.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define DATAGRAM_MAX ((size_t)1 << 20) /* several of them glued together (UDP_GRO), too */
#define LIST_MAX     ((size_t)4 << 20) /* of /proc/net/raw and icmp */
#define SETTLE_NS    (20 * CLOCK_MS)
#define ERRORS_MAX   8 /* pending ones, each taken by a look */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct facts {
	int domain, type, protocol;
	union address source, destination;
	bool connected;
};

/* What the record points to. */
struct describe {
	InetSocket message;
	IpOptions ip;
	uint32_t source[4], destination[4];
	uint32_t multicast_address;
	char interface[IF_NAMESIZE], multicast[IF_NAMESIZE], unicast[IF_NAMESIZE];
};

static bool match(const struct dump_file *file)
{
	int domain = file->domain, type;

	if (domain != AF_INET && domain != AF_INET6)
		return false;
	type = sockopt_get_int(file->fd, SOL_SOCKET, SO_TYPE, -1);
	return type == SOCK_DGRAM || type == SOCK_RAW;
}

/* ---- facts */

static size_t address_words(const union address *address, uint32_t words[4])
{
	if (address->any.sa_family == AF_INET6) {
		memcpy(words, &address->v6.sin6_addr, 16);
		return 4;
	}
	memcpy(words, &address->v4.sin_addr, 4);
	return 1;
}

static uint16_t address_port(const union address *address)
{
	return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

/* The peer of a raw or ping socket; false when it has none. */
static bool read_listed_peer(const struct dump_file *file, struct facts *facts)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	bool v6 = facts->domain == AF_INET6;
	char inode[32], *line;
	char path[32];

	snprintf(path, sizeof(path), "/proc/net/%s%s", facts->type == SOCK_RAW ? "raw" : "icmp", v6 ? "6" : "");
	if (fdio_read_file(-1, path, LIST_MAX, &text) < 0)
		return false;
	snprintf(inode, sizeof(inode), " %lu ", (unsigned long)file->st.st_ino);
	for (line = strtok((char *)text.data, "\n"); line && !strstr(line, inode); line = strtok(NULL, "\n"))
		;
	if (!line)
		return false;
	facts->destination.any.sa_family = (sa_family_t)facts->domain;
	if (!v6)
		return sscanf(line, "%*s %*s %8x:", &facts->destination.v4.sin_addr.s_addr) == 1 &&
		       facts->destination.v4.sin_addr.s_addr != 0;
	return sscanf(line, "%*s %*s %8x%8x%8x%8x:", &facts->destination.v6.sin6_addr.s6_addr32[0],
		      &facts->destination.v6.sin6_addr.s6_addr32[1], &facts->destination.v6.sin6_addr.s6_addr32[2],
		      &facts->destination.v6.sin6_addr.s6_addr32[3]) == 4 &&
	       !IN6_IS_ADDR_UNSPECIFIED(&facts->destination.v6.sin6_addr);
}

static int read_facts(const struct dump_file *file, struct facts *ret)
{
	socklen_t size = sizeof(ret->source);

	memset(ret, 0, sizeof(*ret));
	ret->domain = sockopt_get_int(file->fd, SOL_SOCKET, SO_DOMAIN, -1);
	ret->type = sockopt_get_int(file->fd, SOL_SOCKET, SO_TYPE, -1);
	ret->protocol = sockopt_get_int(file->fd, SOL_SOCKET, SO_PROTOCOL, -1);
	if (getsockname(file->fd, &ret->source.any, &size) < 0)
		return -errno;
	size = sizeof(ret->destination);
	if (ret->type == SOCK_RAW || ret->protocol == IPPROTO_ICMP || ret->protocol == IPPROTO_ICMPV6)
		ret->connected = read_listed_peer(file, ret);
	else
		ret->connected = getpeername(file->fd, &ret->destination.any, &size) == 0;
	return 0;
}

static bool is_known(const struct facts *facts)
{
	return facts->type == SOCK_RAW || facts->protocol == IPPROTO_UDP || facts->protocol == IPPROTO_UDPLITE ||
	       facts->protocol == IPPROTO_ICMP || facts->protocol == IPPROTO_ICMPV6;
}

/* Is something being put together? What has left and waits in the kernel counts as well, so it gets some time. */
static bool is_corked(int fd)
{
	int64_t end = clock_deadline(SETTLE_NS);
	int unsent = 0;

	while (ioctl(fd, SIOCOUTQ, &unsent) == 0 && unsent > 0) {
		if (sockopt_get_int(fd, IPPROTO_UDP, UDP_CORK, -1) > 0 || clock_now_ns() > end)
			return true;
		usleep(200);
	}
	return false;
}

/* ---- what waits */

struct received {
	union address source, destination;
	size_t size, segment; /* 0: it is one datagram */
};

static void take_control(struct msghdr *header, struct received *ret)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		int segment;

		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR)
			memcpy(&ret->destination.v4, CMSG_DATA(c), sizeof(ret->destination.v4));
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR)
			memcpy(&ret->destination.v6, CMSG_DATA(c), sizeof(ret->destination.v6));
		if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
			memcpy(&segment, CMSG_DATA(c), sizeof(segment));
			ret->segment = segment > 0 ? (size_t)segment : 0;
		}
	}
}

static int add_datagram(struct dump_context *ctx, uint32_t id, const struct received *received, uint8_t *data, size_t size,
			struct error *error)
{
	Datagram message = DATAGRAM__INIT;
	uint32_t source[4], destination[4];
	size_t words = address_words(&received->source, source);

	message.family = received->source.any.sa_family;
	message.source_port = address_port(&received->source);
	/* A mapped address of an IPv6 socket. */
	if (words == 4 && IN6_IS_ADDR_V4MAPPED(&received->source.v6.sin6_addr)) {
		message.family = AF_INET;
		source[0] = source[3];
		words = 1;
	}
	message.source.data = (uint8_t *)source;
	message.source.len = words * 4;
	message.destination.data = (uint8_t *)destination;
	message.destination.len = 4 * address_words(&received->destination, destination);
	message.data.data = data;
	message.data.len = size;
	return image_set_add(ctx->images, IMAGE_DATAGRAM, id, &message.base, error);
}

/* SO_PEEK_OFF is set. */
static int walk_queue(struct dump_context *ctx, const struct dump_file *file, uint8_t *data, struct error *error)
{
	for (int errors = 0; errors < ERRORS_MAX;) {
		union {
			struct cmsghdr align;
			char bytes[1024];
		} control;
		struct received received = { .segment = 0 };
		struct iovec vector = { .iov_base = data, .iov_len = DATAGRAM_MAX };
		struct msghdr header = { .msg_name = &received.source,
					 .msg_namelen = sizeof(received.source),
					 .msg_iov = &vector,
					 .msg_iovlen = 1,
					 .msg_control = &control,
					 .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(file->fd, &header, MSG_PEEK | MSG_DONTWAIT);
		size_t at = 0, step;
		int r = 0;

		/* A pending error is taken by asking. It tells of a datagram that was lost, as may be. */
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0) {
			errors++;
			continue;
		}
		take_control(&header, &received);
		step = received.segment ? received.segment : (size_t)n;
		do {
			size_t size = (size_t)n - at < step ? (size_t)n - at : step;

			r = add_datagram(ctx, file->id, &received, data + at, size, error);
			at += size;
		} while (r == 0 && at < (size_t)n);
		if (r < 0)
			return r;
	}
	return 0;
}

static int dump_queue(struct dump_context *ctx, const struct dump_file *file, const struct facts *facts,
		      struct error *error)
{
	_cleanup_free_ uint8_t *data = malloc(DATAGRAM_MAX);
	int before = sockopt_get_int(file->fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	int v4 = sockopt_get_int(file->fd, IPPROTO_IP, IP_RECVORIGDSTADDR, -1);
	int v6 = facts->domain == AF_INET6 ? sockopt_get_int(file->fd, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, -1) : -1;
	int r;

	if (!data)
		return error_set(error, -ENOMEM, "no memory for datagrams");
	(void)sockopt_set_int(file->fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 1);
	if (facts->domain == AF_INET6)
		(void)sockopt_set_int(file->fd, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1);
	r = sockopt_set_int(file->fd, SOL_SOCKET, SO_PEEK_OFF, 0);
	r = r < 0 ? error_set_errno(error, r, "SO_PEEK_OFF") : walk_queue(ctx, file, data, error);
	(void)sockopt_set_int(file->fd, SOL_SOCKET, SO_PEEK_OFF, before);
	(void)sockopt_set_int(file->fd, IPPROTO_IP, IP_RECVORIGDSTADDR, v4 > 0);
	if (facts->domain == AF_INET6)
		(void)sockopt_set_int(file->fd, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, v6 > 0);
	return r;
}

/* ---- the record */

static char *interface_name(int index, char name[IF_NAMESIZE])
{
	return index > 0 ? if_indextoname((unsigned)index, name) : NULL;
}

static void fill_interfaces(const struct dump_file *file, const struct facts *facts, struct describe *describe)
{
	InetSocket *message = &describe->message;
	struct in_addr address = { 0 };
	socklen_t size = sizeof(address);

	if (getsockopt(file->fd, IPPROTO_IP, IP_MULTICAST_IF, &address, &size) == 0 && address.s_addr) {
		describe->multicast_address = address.s_addr;
		message->has_multicast_address = 1;
		message->multicast_address.data = (uint8_t *)&describe->multicast_address;
		message->multicast_address.len = sizeof(describe->multicast_address);
	}
	if (facts->domain == AF_INET6) {
		message->multicast_interface =
			interface_name(sockopt_get_int(file->fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, -1), describe->multicast);
		message->unicast_interface =
			interface_name((int)ntohl((uint32_t)sockopt_get_int(file->fd, IPPROTO_IPV6, IPV6_UNICAST_IF, -1)),
				       describe->unicast);
	} else {
		message->unicast_interface =
			interface_name((int)ntohl((uint32_t)sockopt_get_int(file->fd, IPPROTO_IP, IP_UNICAST_IF, -1)),
				       describe->unicast);
	}
}

static void fill_message(const struct dump_file *file, const struct facts *facts, struct describe *describe)
{
	InetSocket *message = &describe->message;

	inet_socket__init(message);
	ip_options__init(&describe->ip);
	message->id = file->id;
	message->ino = (uint32_t)file->st.st_ino;
	message->family = (uint32_t)facts->domain;
	message->type = (uint32_t)facts->type;
	message->proto = (uint32_t)facts->protocol;
	message->state = facts->connected ? TCP_ESTABLISHED : TCP_CLOSE;
	/* That of a raw socket is its protocol. */
	message->src_port = facts->type == SOCK_RAW ? 0 : address_port(&facts->source);
	message->flags = file->flags;
	message->src_addr = describe->source;
	message->n_src_addr = address_words(&facts->source, describe->source);
	if (facts->connected) {
		message->dst_port = address_port(&facts->destination);
		message->dst_addr = describe->destination;
		message->n_dst_addr = address_words(&facts->destination, describe->destination);
	}
	if (facts->domain == AF_INET6) {
		message->has_v6only = 1;
		message->v6only = sockopt_get_int(file->fd, IPPROTO_IPV6, IPV6_V6ONLY, -1) > 0;
		message->ifname = interface_name((int)facts->source.v6.sin6_scope_id, describe->interface);
	}
	describe->ip.has_freebind = 1;
	describe->ip.freebind = sockopt_get_int(file->fd, IPPROTO_IP, IP_FREEBIND, -1) > 0;
	message->ip_opts = &describe->ip;
	fill_interfaces(file, facts, describe);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct image_socket_options *options = NULL;
	struct dump_arena arena = { 0 };
	OpenFile open = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	struct describe describe;
	struct facts facts;
	int r;

	r = read_facts(file, &facts);
	if (r < 0)
		return error_set_errno(error, r, "looking at a socket");
	if (!is_known(&facts)) {
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_OTHER);
		return 0;
	}
	if (file->frozen && facts.type == SOCK_DGRAM && is_corked(file->fd))
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_UDP_CORKED);
	fill_message(file, &facts, &describe);
	r = dump_socket_options(ctx, file, facts.domain, facts.type, facts.protocol, &options, error);
	if (r != 0)
		return r < 0 ? r : 0;
	r = dump_multicast(file->fd, facts.domain, &arena, &describe.message, error);
	if (r == 0) {
		describe.message.fown = &owner;
		describe.message.opts = &options->message;
		open.type = FILE_TYPE__FILE_INET_SOCKET;
		open.id = file->id;
		open.isk = &describe.message;
		r = dump_file_add(ctx, &open, error);
	}
	dump_arena_deinit(&arena);
	if (r == 0 && file->frozen && (facts.protocol == IPPROTO_UDP || facts.protocol == IPPROTO_UDPLITE) &&
	    facts.type == SOCK_DGRAM)
		r = dump_queue(ctx, file, &facts, error);
	return r;
}

const struct dump_file_kind dump_kind_datagram = {
	.name = "datagram socket",
	.type = FILE_TYPE__FILE_INET_SOCKET,
	.match = match,
	.dump = dump,
};
