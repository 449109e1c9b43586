/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. A netlink socket is bound to a group of nfnetlink_log: packets that a rule logs to that group wait in its buffer, one
 * message each. They are delivered through the loopback device by a raw socket (segment.h says why that works), with their
 * checksums made anew, as what was captured may still wait for a network card to do that.
 *
 * Whoever delivers packets for others could say anything in their name: so only those are delivered that belong to the sockets
 * of the lock.
 *
 * Failure modes. A group that is taken: the next one. A packet that was damaged, cut off or merged beyond what IP can say, or
 * that has IPv6 extension headers, is passed over: its sender will send it again.
 */
#include "net/held.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>

#include "net/checksum.h"
#include "net/segment.h"
#include "util/cleanup.h"

#define GROUPS 40000u /* of 65536; which one is the first to be tried depends on the program */
#define TRIES 64u
#define BUFFER_SIZE (4u << 20) /* of the socket: the kernel counts what a packet takes, not its bytes */
#define MESSAGE_MAX (72u << 10)

struct net_held {
	int fd;	       /* owned */
	uint8_t *room; /* for one message; owned */
};

/* ---- keeping */

struct config {
	struct nlmsghdr header;
	struct nfgenmsg general;
	struct nlattr command_header;
	struct nfulnl_msg_config_cmd command;
	uint8_t command_rest[3];
	struct nlattr mode_header;
	struct nfulnl_msg_config_mode mode;
	uint8_t mode_rest[2];
	struct nlattr threshold_header;
	uint32_t threshold;
};

static int bind_group(int fd, uint16_t group)
{
	struct config config = {
		.header = { .nlmsg_len = sizeof(config), .nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.general = { .version = NFNETLINK_V0, .res_id = htons(group) },
		.command_header = { NLA_HDRLEN + sizeof(config.command), NFULA_CFG_CMD },
		.command = { NFULNL_CFG_CMD_BIND },
		.mode_header = { NLA_HDRLEN + sizeof(config.mode), NFULA_CFG_MODE },
		.mode = { .copy_range = htonl(UINT16_MAX), .copy_mode = NFULNL_COPY_PACKET },
		.threshold_header = { NLA_HDRLEN + sizeof(config.threshold), NFULA_CFG_QTHRESH },
		.threshold = htonl(1), /* otherwise messages come together, a second later */
	};
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		uint8_t rest[sizeof(config)];
	} answer;

	_Static_assert(sizeof(config) == 48, "attributes are aligned");
	if (sendto(fd, &config, sizeof(config), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	if (recv(fd, &answer, sizeof(answer), 0) < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) ||
	    answer.header.nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	return answer.error.error;
}

static int find_group(int fd, uint16_t *ret_group)
{
	int r = -EBUSY;

	for (unsigned i = 0; i < TRIES && (r == -EBUSY || r == -EPERM); i++) {
		*ret_group = (uint16_t)(1 + ((unsigned)getpid() * TRIES + i) % GROUPS);
		r = bind_group(fd, *ret_group);
	}
	return r;
}

int net_held_new(struct net_held **ret, uint16_t *ret_group, struct error *error)
{
	_cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	const int size = BUFFER_SIZE, on = 1;
	struct net_held *held;
	uint16_t group = 0;
	int r = fd < 0 ? -errno : find_group(fd, &group);

	if (r == -EINVAL || r == -EPROTONOSUPPORT)
		r = -EOPNOTSUPP;
	if (r < 0)
		return error_set_errno(error, r, "the kernel does not keep what it drops (nfnetlink_log)");
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on));
	held = calloc(1, sizeof(*held));
	if (held)
		held->room = malloc(MESSAGE_MAX);
	if (!held || !held->room) {
		free(held);
		return error_set(error, -ENOMEM, "out of memory");
	}
	held->fd = steal_fd(&fd);
	*ret = held;
	*ret_group = group;
	return 0;
}

void net_held_free(struct net_held *held)
{
	if (!held)
		return;
	close(held->fd);
	free(held->room);
	free(held);
}

static int add_packet(struct buffer *packets, const void *data, size_t size)
{
	uint32_t length = (uint32_t)size;

	if (packets->size + sizeof(length) + size > NET_HELD_MAX)
		return 0;
	if (buffer_reserve(packets, sizeof(length) + size) < 0)
		return -ENOMEM;
	(void)buffer_append(packets, &length, sizeof(length));
	return buffer_append(packets, data, size);
}

static int take_message(const struct nlmsghdr *header, struct buffer *packets)
{
	size_t skip = NLMSG_LENGTH(sizeof(struct nfgenmsg));

	if (header->nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET))
		return 0;
	while (skip + NLA_HDRLEN <= header->nlmsg_len) {
		const struct nlattr *attribute = (const void *)((const uint8_t *)header + skip);

		if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > header->nlmsg_len - skip)
			return 0;
		if ((attribute->nla_type & NLA_TYPE_MASK) == NFULA_PAYLOAD)
			return add_packet(packets, (const uint8_t *)attribute + NLA_HDRLEN,
					  attribute->nla_len - (size_t)NLA_HDRLEN);
		skip += NLA_ALIGN(attribute->nla_len);
	}
	return 0;
}

int net_held_take(struct net_held *held, struct buffer *packets)
{
	int r = 0;

	for (;;) {
		ssize_t size = recv(held->fd, held->room, MESSAGE_MAX, MSG_DONTWAIT);
		struct nlmsghdr *header = (struct nlmsghdr *)(void *)held->room;

		if (size < 0 && (errno == EINTR || errno == ENOBUFS))
			continue;
		if (size <= 0)
			return r;
		for (unsigned left = (unsigned)size; r == 0 && NLMSG_OK(header, left); header = NLMSG_NEXT(header, left))
			r = take_message(header, packets);
	}
}

/* ---- giving */

static bool same_end(const struct net_end *a, const struct net_end *b)
{
	return a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

static bool is_meant(const struct net_tuples *tuples, const struct net_tuple *packet, bool first)
{
	array_for_each (tuple, &tuples->list) {
		if (tuple->family != packet->family)
			continue;
		if (tuple->kind == NET_TUPLE_CONNECTION && same_end(&tuple->local, &packet->local) &&
		    same_end(&tuple->remote, &packet->remote))
			return true;
		if (first && tuple->kind == NET_TUPLE_LISTENING && same_end(&tuple->local, &packet->local))
			return true;
		if (first && tuple->kind == NET_TUPLE_LISTENING_ANY && tuple->local.port == packet->local.port)
			return true;
	}
	return false;
}

/* Where the TCP header begins, and between whom the packet goes; 0: it cannot be delivered. */
static size_t read_ip(const uint8_t *packet, size_t size, struct net_tuple *ret)
{
	const struct ip6_hdr *v6 = (const void *)packet;
	const struct iphdr *v4 = (const void *)packet;

	if (size >= sizeof(*v4) && v4->version == 4) {
		if (v4->protocol != IPPROTO_TCP || ntohs(v4->tot_len) != size || v4->ihl < 5 ||
		    v4->frag_off & htons(IP_MF | IP_OFFMASK))
			return 0;
		ret->family = AF_INET;
		memcpy(ret->remote.ip, &v4->saddr, 4);
		memcpy(ret->local.ip, &v4->daddr, 4);
		return v4->ihl * 4u;
	}
	if (size < sizeof(*v6) || packet[0] >> 4 != 6 || v6->ip6_nxt != IPPROTO_TCP ||
	    ntohs(v6->ip6_plen) != size - sizeof(*v6))
		return 0;
	ret->family = AF_INET6;
	memcpy(ret->remote.ip, &v6->ip6_src, 16);
	memcpy(ret->local.ip, &v6->ip6_dst, 16);
	return sizeof(*v6);
}

static void make_checksum(const struct net_tuple *tuple, struct tcphdr *tcp, size_t size)
{
	size_t ip = tuple->family == AF_INET ? 4 : 16;
	uint64_t sum = IPPROTO_TCP + size;

	tcp->check = 0;
	sum = net_checksum_add(sum, tuple->local.ip, ip);
	sum = net_checksum_add(sum, tuple->remote.ip, ip);
	tcp->check = net_checksum_fold(net_checksum_add(sum, tcp, size));
}

/* 1: delivered. 0: passed over. `fds`: for IPv4 and IPv6, opened when they are needed. `packet` is aligned. */
static int give(uint8_t *packet, size_t size, const struct net_tuples *tuples, int fds[2], struct error *error)
{
	struct net_tuple tuple = { .kind = NET_TUPLE_CONNECTION };
	size_t start = read_ip(packet, size, &tuple);
	struct tcphdr *tcp = (struct tcphdr *)(void *)(packet + start);
	int *fd = &fds[tuple.family == AF_INET6];
	int r = 0;

	if (start == 0 || size < start + sizeof(*tcp) || tcp->doff * 4u < sizeof(*tcp) || size < start + tcp->doff * 4u)
		return 0;
	tuple.local.port = tcp->dest;
	tuple.remote.port = tcp->source;
	if (!is_meant(tuples, &tuple, tcp->syn && !tcp->ack))
		return 0;
	make_checksum(&tuple, tcp, size - start);
	if (*fd < 0)
		r = net_segment_socket(tuple.family, 0, fd, error);
	return r < 0 ? r : net_segment_pass(*fd, tuple.family, packet, size) == 0;
}

int net_held_give(const uint8_t *packets, size_t size, const struct net_tuples *tuples, struct error *error)
{
	_cleanup_free_ uint8_t *packet = size ? malloc(NET_HELD_MAX) : NULL;
	int fds[2] = { -1, -1 }, count = 0, r = 0;
	uint32_t length;

	if (size && !packet)
		return error_set(error, -ENOMEM, "out of memory");
	for (size_t at = 0; r >= 0 && at + sizeof(length) <= size; at += sizeof(length) + length) {
		memcpy(&length, packets + at, sizeof(length));
		if (length > size - at - sizeof(length) || length > NET_HELD_MAX)
			break;
		memcpy(packet, packets + at + sizeof(length), length);
		r = give(packet, length, tuples, fds, error);
		count += r > 0;
	}
	cleanup_fd(&fds[0]);
	cleanup_fd(&fds[1]);
	return r < 0 ? r : count;
}
