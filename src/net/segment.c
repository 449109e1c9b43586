/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A raw socket that brings its own IP header: the kernel finds the way of a packet by the address of sendto(2), which is that
 * of the loopback device, and what comes in there with a way already is not asked whose address it carries.
 */
#include "net/segment.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/checksum.h"
#include "net/lock.h"
#include "util/cleanup.h"

#define HOPS 64

union headers {
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} v4;
	struct {
		struct ip6_hdr ip;
		struct tcphdr tcp;
	} v6;
};

int net_segment_socket(sa_family_t family, uint32_t priority, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	const uint32_t mark = NET_LOCK_MARK;

	if (fd < 0)
		return error_set_errno(error, -errno, "cannot make a raw socket");
	if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &priority, sizeof(priority)) < 0)
		return error_set_errno(error, -errno, "cannot mark packets");
	*ret_fd = steal_fd(&fd);
	return 0;
}

static void fill_tcp(struct tcphdr *tcp, const struct net_segment *segment)
{
	const struct net_tuple *tuple = segment->tuple;
	size_t ip = tuple->family == AF_INET ? 4 : 16;
	uint64_t total = IPPROTO_TCP + sizeof(*tcp) + segment->size;

	*tcp = (struct tcphdr){
		.source = tuple->remote.port, .dest = tuple->local.port, .seq = htonl(segment->sequence),
		.ack_seq = htonl(segment->acknowledged), .doff = sizeof(*tcp) / 4, .ack = 1, .fin = segment->fin,
		.rst = segment->reset, .psh = segment->size > 0, .urg = segment->urgent > 0,
		.window = htons(segment->window), .urg_ptr = htons(segment->urgent),
	};
	total = net_checksum_add(total, tuple->local.ip, ip);
	total = net_checksum_add(total, tuple->remote.ip, ip);
	total = net_checksum_add(total, tcp, sizeof(*tcp));
	tcp->check = net_checksum_fold(net_checksum_add(total, segment->data, segment->size));
}

int net_segment_pass(int fd, sa_family_t family, const uint8_t *packet, size_t size)
{
	struct sockaddr_in loopback4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 loopback6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	const void *to = family == AF_INET ? (const void *)&loopback4 : &loopback6;
	socklen_t to_size = family == AF_INET ? sizeof(loopback4) : sizeof(loopback6);

	return sendto(fd, packet, size, MSG_DONTWAIT, to, to_size) < 0 ? -errno : 0;
}

int net_segment_send(int fd, const struct net_segment *segment)
{
	const struct net_tuple *tuple = segment->tuple;
	struct sockaddr_in loopback4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 loopback6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	union headers headers = { 0 };
	struct iovec parts[2] = { { &headers, 0 }, { (void *)segment->data, segment->size } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	if (segment->size > NET_SEGMENT_MAX)
		return -EMSGSIZE;
	if (tuple->family == AF_INET) {
		headers.v4.ip = (struct iphdr){ .version = 4, .ihl = sizeof(struct iphdr) / 4, .ttl = HOPS,
						.protocol = IPPROTO_TCP,
						.tot_len = htons((uint16_t)(sizeof(headers.v4) + segment->size)) };
		memcpy(&headers.v4.ip.saddr, tuple->remote.ip, 4);
		memcpy(&headers.v4.ip.daddr, tuple->local.ip, 4);
		fill_tcp(&headers.v4.tcp, segment);
		parts[0].iov_len = sizeof(headers.v4);
		message.msg_name = &loopback4;
		message.msg_namelen = sizeof(loopback4);
	} else {
		headers.v6.ip.ip6_flow = htonl(6u << 28);
		headers.v6.ip.ip6_plen = htons((uint16_t)(sizeof(struct tcphdr) + segment->size));
		headers.v6.ip.ip6_nxt = IPPROTO_TCP;
		headers.v6.ip.ip6_hlim = HOPS;
		memcpy(&headers.v6.ip.ip6_src, tuple->remote.ip, 16);
		memcpy(&headers.v6.ip.ip6_dst, tuple->local.ip, 16);
		fill_tcp(&headers.v6.tcp, segment);
		parts[0].iov_len = sizeof(headers.v6);
		message.msg_name = &loopback6;
		message.msg_namelen = sizeof(loopback6);
	}
	return sendmsg(fd, &message, MSG_DONTWAIT) < 0 ? -errno : 0;
}
