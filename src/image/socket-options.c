/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. A message has fields for the options that CRIU knows and a list of {level, name, value}
 * for the others; the latter are the table `others` below. Plain integers among the former are the
 * table `plain`, by field. The rest (times, linger, device, filter) has code of its own.
 *
 * Buffer sizes: the kernel doubles what it is told and, once told, no longer tunes the buffer
 * itself. So the size is set as half of what was read, past the limits of sysctl, and SO_BUF_LOCK
 * (Linux 5.15) brings back who may change it.
 *
 * Failure modes: an option that the target's kernel refuses is an error that names level and
 * number.
 */
#include "image/socket-options.h"
#include "util/sockopt.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/icmp.h>
#include <linux/in6.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 /* Linux 6.5 */
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif
#ifndef UDPLITE_SEND_CSCOV
#define UDPLITE_SEND_CSCOV 10
#define UDPLITE_RECV_CSCOV 11
#endif
#ifndef ICMP6_FILTER
#define ICMP6_FILTER 1
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

struct plain_option {
	int level;
	int name;
	size_t value; /* offset of the field */
	size_t has;   /* offset of its flag */
};

#define PLAIN(level, name, field)                                                                 \
	{                                                                                         \
		level, name, offsetof(SocketOptions, field), offsetof(SocketOptions, has_##field) \
	}

/* Integers that have a field and are set before bind(2). */
static const struct plain_option plain[] = {
	PLAIN(SOL_SOCKET, SO_REUSEPORT, so_reuseport),
	PLAIN(SOL_SOCKET, SO_MARK, so_mark),
	PLAIN(SOL_SOCKET, SO_RCVLOWAT, so_rcvlowat),
	PLAIN(SOL_SOCKET, SO_PASSSEC, so_passsec),
	PLAIN(SOL_SOCKET, SO_DONTROUTE, so_dontroute),
	PLAIN(SOL_SOCKET, SO_NO_CHECK, so_no_check),
	PLAIN(SOL_SOCKET, SO_BROADCAST, so_broadcast),
	PLAIN(SOL_SOCKET, SO_OOBINLINE, so_oobinline),
	PLAIN(SOL_SOCKET, SO_KEEPALIVE, so_keepalive),
	PLAIN(IPPROTO_TCP, TCP_KEEPCNT, tcp_keepcnt),
	PLAIN(IPPROTO_TCP, TCP_KEEPIDLE, tcp_keepidle),
	PLAIN(IPPROTO_TCP, TCP_KEEPINTVL, tcp_keepintvl),
};

struct other_option {
	int level;
	int name;
	bool datagram; /* not for streams, where it tells of the first packet and cannot be set */
};

static const struct other_option others[] = {
	{ SOL_SOCKET, SO_TIMESTAMP, false },
	{ SOL_SOCKET, SO_TIMESTAMPNS, false },
	{ SOL_SOCKET, SO_TIMESTAMPING, false },
	{ SOL_SOCKET, SO_RXQ_OVFL, false },
	{ SOL_SOCKET, SO_BUSY_POLL, false },
	{ SOL_SOCKET, SO_ZEROCOPY, false },
	{ SOL_SOCKET, SO_MAX_PACING_RATE, false },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, false },
	{ SOL_SOCKET, SO_PEEK_OFF, false },
	{ SOL_SOCKET, SO_PASSPIDFD, false },
	{ SOL_SOCKET, SO_PASSRIGHTS, false },
	{ SOL_SOCKET, SO_LOCK_FILTER, false },
	{ SOL_SOCKET, SO_PREFER_BUSY_POLL, false },
	{ SOL_SOCKET, SO_WIFI_STATUS, false },
	{ SOL_SOCKET, SO_NOFCS, false },
	{ IPPROTO_TCP, TCP_NODELAY, false },
	{ IPPROTO_TCP, TCP_CORK, false },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, false },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, false },
	{ IPPROTO_TCP, TCP_SYNCNT, false },
	{ IPPROTO_TCP, TCP_LINGER2, false },
	{ IPPROTO_TCP, TCP_CONGESTION, false },
	{ IPPROTO_TCP, TCP_FASTOPEN, false },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, false },
	{ IPPROTO_TCP, TCP_SAVE_SYN, false },
	{ IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, false },
	{ IPPROTO_IP, IP_TOS, false },
	{ IPPROTO_IP, IP_TTL, false },
	{ IPPROTO_IP, IP_MINTTL, false },
	{ IPPROTO_IP, IP_MTU_DISCOVER, false },
	{ IPPROTO_IP, IP_RECVERR, false },
	{ IPPROTO_IP, IP_PKTINFO, false },
	{ IPPROTO_IP, IP_RECVTTL, false },
	{ IPPROTO_IP, IP_RECVTOS, false },
	{ IPPROTO_IP, IP_RECVORIGDSTADDR, false },
	{ IPPROTO_IP, IP_TRANSPARENT, false },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, false },
	{ IPPROTO_IP, IP_MULTICAST_TTL, true },
	{ IPPROTO_IP, IP_MULTICAST_LOOP, true },
	{ IPPROTO_IP, IP_MULTICAST_ALL, true },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, false },
	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, true },
	{ IPPROTO_IPV6, IPV6_MULTICAST_LOOP, true },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, false },
	{ IPPROTO_IPV6, IPV6_RECVERR, false },
	{ IPPROTO_IPV6, IPV6_RECVPKTINFO, false },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, false },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS, false },
	{ IPPROTO_IPV6, IPV6_TCLASS, false },
	{ IPPROTO_IPV6, IPV6_TRANSPARENT, false },
	{ IPPROTO_IP, IP_RECVOPTS, true },
	{ IPPROTO_IP, IP_RETOPTS, true },
	{ IPPROTO_IP, IP_PASSSEC, true },
	{ IPPROTO_IP, IP_CHECKSUM, true },
	{ IPPROTO_IP, IP_NODEFRAG, true },
	{ IPPROTO_IP, IP_RECVFRAGSIZE, true },
	{ IPPROTO_IP, IP_HDRINCL, true },
	{ IPPROTO_IPV6, IPV6_2292PKTINFO, true },
	{ IPPROTO_IPV6, IPV6_RECVHOPOPTS, true },
	{ IPPROTO_IPV6, IPV6_RECVRTHDR, true },
	{ IPPROTO_IPV6, IPV6_RECVDSTOPTS, true },
	{ IPPROTO_IPV6, IPV6_RECVPATHMTU, true },
	{ IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, true },
	{ IPPROTO_IPV6, IPV6_RECVFRAGSIZE, true },
	{ IPPROTO_IPV6, IPV6_DONTFRAG, true },
	{ IPPROTO_IPV6, IPV6_MULTICAST_ALL, true },
	{ IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, true },
	{ IPPROTO_IPV6, IPV6_MINHOPCOUNT, true },
	{ IPPROTO_IPV6, IPV6_FREEBIND, true },
	{ IPPROTO_UDP, UDP_CORK, true },
	{ IPPROTO_UDP, UDP_ENCAP, true },
	{ IPPROTO_UDP, UDP_NO_CHECK6_TX, true },
	{ IPPROTO_UDP, UDP_NO_CHECK6_RX, true },
	{ IPPROTO_UDP, UDP_SEGMENT, true },
	{ IPPROTO_UDP, UDP_GRO, true },
	{ IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, true },
	{ IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, true },
	{ SOL_RAW, ICMP_FILTER, true },
	{ IPPROTO_ICMPV6, ICMP6_FILTER, true },
	{ SOL_NETLINK, NETLINK_PKTINFO, true },
	{ SOL_NETLINK, NETLINK_BROADCAST_ERROR, true },
	{ SOL_NETLINK, NETLINK_NO_ENOBUFS, true },
	{ SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, true },
	{ SOL_NETLINK, NETLINK_CAP_ACK, true },
	{ SOL_NETLINK, NETLINK_EXT_ACK, true },
	{ SOL_NETLINK, NETLINK_GET_STRICT_CHK, true },
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
_Static_assert(COUNT(others) <= IMAGE_SOCKET_OTHERS_MAX, "room for all options");

static bool is_inet(int domain)
{
	return domain == AF_INET || domain == AF_INET6;
}

/* Sockets of datagrams for ICMP. */
static bool is_ping(int protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* Does a socket of this kind know options of this level? */
static bool level_applies(int level, int domain, int type, int protocol)
{
	switch (level) {
	case IPPROTO_TCP:
		return is_inet(domain) && type == SOCK_STREAM &&
		       (protocol == IPPROTO_TCP || protocol == 0);
	case IPPROTO_UDP:
		return is_inet(domain) && type == SOCK_DGRAM && protocol != IPPROTO_UDPLITE && !is_ping(protocol);
	case IPPROTO_UDPLITE:
		return is_inet(domain) && protocol == IPPROTO_UDPLITE && type == SOCK_DGRAM;
	case SOL_RAW:
		return domain == AF_INET && type == SOCK_RAW && protocol == IPPROTO_ICMP;
	case IPPROTO_ICMPV6:
		return domain == AF_INET6 && type == SOCK_RAW && protocol == IPPROTO_ICMPV6;
	case SOL_NETLINK:
		return domain == AF_NETLINK;
	case IPPROTO_IP:
		return is_inet(domain);
	case IPPROTO_IPV6:
		return domain == AF_INET6;
	}
	return true;
}

static void read_plain(int fd, int domain, int type, int protocol, const SocketOptions *reference,
		       SocketOptions *message)
{
	for (size_t i = 0; i < COUNT(plain); i++) {
		const uint8_t *usual = (const uint8_t *)reference;
		uint8_t *base = (uint8_t *)message;
		int value;

		if (!level_applies(plain[i].level, domain, type, protocol))
			continue;
		value = sockopt_get_int(fd, plain[i].level, plain[i].name, -1);
		if (value < 0 || (usual && *(const int *)(usual + plain[i].value) == value))
			continue;
		*(protobuf_c_boolean *)(base + plain[i].has) = 1;
		*(uint32_t *)(base + plain[i].value) = (uint32_t)value;
	}
}

static void read_others(int fd, int domain, int type, int protocol,
			const struct image_socket_options *reference,
			struct image_socket_options *ret)
{
	SocketOptions *message = &ret->message;

	message->others = ret->other_pointers;
	for (size_t i = 0; i < COUNT(others); i++) {
		socklen_t size = sizeof(ret->values[i]);
		SocketOption *option;

		ret->sizes[i] = 0;
		if (!level_applies(others[i].level, domain, type, protocol) ||
		    (others[i].datagram && type == SOCK_STREAM))
			continue;
		memset(ret->values[i], 0, sizeof(ret->values[i]));
		if (getsockopt(fd, others[i].level, others[i].name, ret->values[i], &size) < 0)
			continue;
		ret->sizes[i] = size;
		if (reference && reference->sizes[i] == size &&
		    memcmp(reference->values[i], ret->values[i], size) == 0)
			continue;
		option = &ret->others[message->n_others];
		socket_option__init(option);
		option->level = (uint32_t)others[i].level;
		option->name = (uint32_t)others[i].name;
		option->value.data = ret->values[i];
		option->value.len = size;
		ret->other_pointers[message->n_others++] = option;
	}
}

static int read_filter(int fd, struct image_socket_options *ret, struct error *error)
{
	socklen_t count = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0)
		return error_set(error, -EOPNOTSUPP, "an eBPF program filters its packets");
	if (count == 0)
		return 0;
	/* Both are of eight bytes: an instruction is a word of the message. */
	ret->filter = calloc(count, sizeof(*ret->filter));
	if (!ret->filter)
		return error_set(error, -ENOMEM, "no memory for the filter of a socket");
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, ret->filter, &count) < 0)
		return error_set_errno(error, -errno, "reading the filter of a socket");
	ret->message.n_so_filter = count;
	ret->message.so_filter = ret->filter;
	return 0;
}

int image_socket_options_read(int fd, int domain, int type, int protocol,
			      const struct image_socket_options *reference,
			      struct image_socket_options *ret, struct error *error)
{
	SocketOptions *message = &ret->message;
	struct linger linger = { 0 };
	struct timeval time = { 0 };
	socklen_t size;
	int value;

	socket_options__init(message);
	ret->filter = NULL;
	ret->device[0] = '\0';
	message->so_sndbuf = (uint32_t)sockopt_get_int(fd, SOL_SOCKET, SO_SNDBUF, 0);
	message->so_rcvbuf = (uint32_t)sockopt_get_int(fd, SOL_SOCKET, SO_RCVBUF, 0);
	size = sizeof(time);
	if (getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, &size) == 0) {
		message->so_snd_tmo_sec = (uint64_t)time.tv_sec;
		message->so_snd_tmo_usec = (uint64_t)time.tv_usec;
	}
	size = sizeof(time);
	if (getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &size) == 0) {
		message->so_rcv_tmo_sec = (uint64_t)time.tv_sec;
		message->so_rcv_tmo_usec = (uint64_t)time.tv_usec;
	}
	message->has_reuseaddr = 1;
	message->reuseaddr = sockopt_get_int(fd, SOL_SOCKET, SO_REUSEADDR, 0) != 0;
	message->has_so_passcred = 1;
	message->so_passcred = sockopt_get_int(fd, SOL_SOCKET, SO_PASSCRED, 0) != 0;
	message->has_so_priority = 1;
	message->so_priority = (uint32_t)sockopt_get_int(fd, SOL_SOCKET, SO_PRIORITY, 0);
	size = sizeof(linger);
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff) {
		message->has_so_linger = 1;
		message->so_linger = (uint32_t)linger.l_linger;
	}
	value = sockopt_get_int(fd, SOL_SOCKET, SO_BUF_LOCK, -1);
	message->has_so_buf_lock = value >= 0;
	message->so_buf_lock = value >= 0 ? (uint32_t)value : 0;
	size = sizeof(ret->device);
	if (domain != AF_UNIX &&
	    getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, ret->device, &size) == 0 && ret->device[0])
		message->so_bound_dev = ret->device;
	read_plain(fd, domain, type, protocol, reference ? &reference->message : NULL, message);
	read_others(fd, domain, type, protocol, reference, ret);
	return read_filter(fd, ret, error);
}

int image_socket_options_other(const struct image_socket_options *options, int level, int name, int fallback)
{
	int value;

	for (size_t i = 0; i < COUNT(others); i++) {
		if (others[i].level != level || others[i].name != name || options->sizes[i] < sizeof(value))
			continue;
		memcpy(&value, options->values[i], sizeof(value));
		return value;
	}
	return fallback;
}

void image_socket_options_deinit(struct image_socket_options *options)
{
	free(options->filter);
	options->filter = NULL;
}

static int set_option(int fd, int level, int name, const void *value, size_t size,
		      struct error *error)
{
	if (setsockopt(fd, level, name, value, (socklen_t)size) < 0)
		return error_set_errno(error, -errno, "socket option %d of level %d", name, level);
	return 0;
}

static int set_int(int fd, int level, int name, int value, struct error *error)
{
	if (sockopt_get_int(fd, level, name, ~value) == value)
		return 0;
	return set_option(fd, level, name, &value, sizeof(value), error);
}

/* Set last, as it changes what may be put into the queue. */
static bool is_late(const SocketOption *option)
{
	return option->level == SOL_SOCKET &&
	       (option->name == SO_PEEK_OFF || option->name == SO_PASSPIDFD || option->name == SO_PASSRIGHTS ||
		option->name == SO_LOCK_FILTER);
}

static int write_others(int fd, const SocketOptions *options, bool late, struct error *error)
{
	for (size_t i = 0; i < options->n_others; i++) {
		const SocketOption *option = options->others[i];
		uint8_t now[IMAGE_SOCKET_VALUE_MAX] = { 0 };
		socklen_t size = sizeof(now);
		int r;

		if (is_late(option) != late)
			continue;
		if (option->value.len > sizeof(now))
			return error_set(error, -EPROTO, "value of socket option %u is too long",
					 option->name);
		if (getsockopt(fd, (int)option->level, (int)option->name, now, &size) == 0 &&
		    size == option->value.len && memcmp(now, option->value.data, size) == 0)
			continue;
		r = set_option(fd, (int)option->level, (int)option->name, option->value.data,
			       option->value.len, error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_filter(int fd, const SocketOptions *options, struct error *error)
{
	struct sock_fprog program = { .len = (unsigned short)options->n_so_filter,
				      .filter = (struct sock_filter *)options->so_filter };

	if (options->n_so_filter == 0)
		return 0;
	if (options->n_so_filter > BPF_MAXINSNS)
		return error_set(error, -EPROTO, "a socket filter of %zu instructions",
				 options->n_so_filter);
	return set_option(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program), error);
}

static int write_times(int fd, const SocketOptions *options, struct error *error)
{
	struct timeval send = { .tv_sec = (time_t)options->so_snd_tmo_sec,
				.tv_usec = (suseconds_t)options->so_snd_tmo_usec };
	struct timeval receive = { .tv_sec = (time_t)options->so_rcv_tmo_sec,
				   .tv_usec = (suseconds_t)options->so_rcv_tmo_usec };
	int r = 0;

	if (send.tv_sec || send.tv_usec)
		r = set_option(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof(send), error);
	if (r == 0 && (receive.tv_sec || receive.tv_usec))
		r = set_option(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive), error);
	return r;
}

int image_socket_options_write(int fd, const SocketOptions *options, struct error *error)
{
	int r;

	for (size_t i = 0; i < COUNT(plain); i++) {
		const uint8_t *base = (const uint8_t *)options;

		if (!*(const protobuf_c_boolean *)(base + plain[i].has))
			continue;
		r = set_int(fd, plain[i].level, plain[i].name,
			    *(const int *)(base + plain[i].value), error);
		if (r < 0)
			return r;
	}
	if (options->so_bound_dev) {
		r = set_option(fd, SOL_SOCKET, SO_BINDTODEVICE, options->so_bound_dev,
			       strlen(options->so_bound_dev) + 1, error);
		if (r < 0)
			return error_wrap(error, r, "binding a socket to the interface %s",
					  options->so_bound_dev);
	}
	r = write_others(fd, options, false, error);
	if (r == 0)
		r = write_times(fd, options, error);
	if (r == 0)
		r = write_filter(fd, options, error);
	if (r == 0 && options->has_so_priority)
		r = set_int(fd, SOL_SOCKET, SO_PRIORITY, (int)options->so_priority, error);
	return r;
}

static int write_buffer(int fd, int name, int force, uint32_t wanted, struct error *error)
{
	int half = (int)(wanted / 2);

	if (wanted == 0 || sockopt_get_int(fd, SOL_SOCKET, name, 0) == (int)wanted)
		return 0;
	return set_option(fd, SOL_SOCKET, force, &half, sizeof(half), error);
}

int image_socket_options_finish_connection(int fd, const SocketOptions *options, struct error *error)
{
	int r;

	r = write_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, options->so_sndbuf, error);
	if (r == 0)
		r = write_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, options->so_rcvbuf, error);
	if (r == 0 && options->has_so_buf_lock)
		r = set_int(fd, SOL_SOCKET, SO_BUF_LOCK, (int)options->so_buf_lock, error);
	if (r == 0 &&
	    options->so_passcred) /* other kinds of socket refuse it, even to switch it off */
		r = set_int(fd, SOL_SOCKET, SO_PASSCRED, options->so_passcred, error);
	if (r == 0)
		r = write_others(fd, options, true, error);
	if (r == 0 && options->has_so_linger) {
		struct linger linger = { .l_onoff = 1, .l_linger = (int)options->so_linger };

		r = set_option(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger), error);
	}
	return r;
}

int image_socket_options_finish(int fd, const SocketOptions *options, struct error *error)
{
	int r = image_socket_options_finish_connection(fd, options, error);

	if (r == 0 && options->has_reuseaddr)
		r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, options->reuseaddr, error);
	return r;
}
