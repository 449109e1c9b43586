/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. Into the queue of a listening socket leads only a handshake, and the kernel chooses the numbers of its side. But it
 * also takes the end of a handshake that it has not kept anything of (a SYN cookie), with the numbers that the packet says; and
 * a BPF program may vouch for such a packet and say what was negotiated (queue-program.h). So one packet that we make, as the
 * peer would have sent it, puts the connection there; its data follows in the same way, then its end.
 *
 * Happy path, with the connection's packets stopped by a lock. The listener is told to take any address as its own
 * (IP_TRANSPARENT, only where the address is not on this host yet: the new socket keeps that), to stand for itself alone
 * (SO_REUSEPORT), and to have room. The first packet; then as much data as the kernel takes, by what sock_diag(7) says
 * of the queue; what it had not room for is sent again from there.
 *
 * Failure modes. A packet filter of the host's drops what comes from the loopback device with that mark, or the queue is full
 * (net.core.somaxconn): nothing comes in, -ETIMEDOUT. Link-local addresses belong to an interface: -EADDRNOTAVAIL.
 */
#include "net/queue.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "net/lock.h"
#include "net/queue-program.h"
#include "net/segment.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/sockopt.h"

#define WAIT_NS (2 * CLOCK_S)
#define AGAIN_NS (20 * CLOCK_MS) /* without progress: what was sent is sent again */
#define LOOK_NS 50000

struct net_queue {
	struct net_queue_program program;
	int raw[2]; /* IPv4, IPv6; owned, -1: not made yet, as the next */
	int diag;   /* owned */
};

/* What the listener is while connections are put in, and what it was. */
struct listener {
	int fd;
	int reuse_port, transparent; /* of before */
	uint32_t waiting;	     /* now */
	uint32_t room;		     /* of before */
};

static struct net_queue *make(void)
{
	struct net_queue *queue = calloc(1, sizeof(*queue));

	if (queue)
		*queue = (struct net_queue){ .program = NET_QUEUE_PROGRAM_INIT, .raw = { -1, -1 }, .diag = -1 };
	return queue;
}

int net_queue_new(struct net_queue **ret, struct error *error)
{
	struct net_queue *queue = make();
	int r = queue ? net_queue_program_load(&queue->program, NET_LOCK_MARK, error) :
			error_set(error, -ENOMEM, "out of memory");

	if (r < 0)
		net_queue_free(queue);
	else
		*ret = queue;
	return r;
}

int net_queue_clone(const struct net_queue *other, struct net_queue **ret, struct error *error)
{
	struct net_queue *queue = make();
	int r = queue ? net_queue_program_clone(&other->program, &queue->program, error) :
			error_set(error, -ENOMEM, "out of memory");

	if (r < 0)
		net_queue_free(queue);
	else
		*ret = queue;
	return r;
}

void net_queue_free(struct net_queue *queue)
{
	if (!queue)
		return;
	net_queue_program_deinit(&queue->program);
	for (size_t i = 0; i < 2; i++)
		if (queue->raw[i] >= 0)
			close(queue->raw[i]);
	if (queue->diag >= 0)
		close(queue->diag);
	free(queue);
}

/* ---- what there is */

/* Bytes that were received and not read; -ENOENT: there is no such connection. */
static int64_t look(const struct net_queue *queue, const struct net_tuple *tuple)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} question = {
		.header = { .nlmsg_len = sizeof(question), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.request = { .sdiag_family = (uint8_t)tuple->family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = UINT32_MAX,
			     .id = { .idiag_sport = tuple->local.port, .idiag_dport = tuple->remote.port,
				     .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } },
	};
	char text[4096] __attribute__((aligned(8)));
	const struct nlmsghdr *answer = (const struct nlmsghdr *)text;
	const struct inet_diag_msg *found = NLMSG_DATA(answer);
	ssize_t got;

	memcpy(question.request.id.idiag_src, tuple->local.ip, sizeof(tuple->local.ip));
	memcpy(question.request.id.idiag_dst, tuple->remote.ip, sizeof(tuple->remote.ip));
	if (send(queue->diag, &question, sizeof(question), 0) < 0)
		return -errno;
	got = recv(queue->diag, text, sizeof(text), 0);
	if (got < 0)
		return -errno;
	if (!NLMSG_OK(answer, (size_t)got) || answer->nlmsg_type == NLMSG_ERROR)
		return -ENOENT;
	/* The kernel may tell of the listener in place of a connection that there is not. */
	if (found->idiag_state == TCP_LISTEN || found->id.idiag_dport != tuple->remote.port)
		return -ENOENT;
	return found->idiag_rqueue;
}

static void read_room(int fd, uint32_t *ret_waiting, uint32_t *ret_room)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	(void)getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
	*ret_waiting = info.tcpi_unacked;
	*ret_room = info.tcpi_sacked;
}

static bool is_here(const struct net_tuple *tuple)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	_cleanup_fd_ int fd = -1;

	if (tuple->family != AF_INET)
		return true; /* nobody asks */
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	memcpy(&address.sin_addr, tuple->local.ip, 4);
	return fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno != EADDRNOTAVAIL;
}

/* ---- the listener */

static int open_up(struct listener *listener, const struct net_tuple *tuple, struct error *error)
{
	int r = 0;

	listener->reuse_port = sockopt_get_int(listener->fd, SOL_SOCKET, SO_REUSEPORT, 0);
	listener->transparent = sockopt_get_int(listener->fd, IPPROTO_IP, IP_TRANSPARENT, 0);
	read_room(listener->fd, &listener->waiting, &listener->room);
	if (listener->reuse_port)
		r = sockopt_set_int(listener->fd, SOL_SOCKET, SO_REUSEPORT, 0);
	if (r == 0 && !listener->transparent && !is_here(tuple))
		r = sockopt_set_int(listener->fd, IPPROTO_IP, IP_TRANSPARENT, 1);
	if (r == 0 && listener->waiting > listener->room && listen(listener->fd, (int)listener->waiting) < 0)
		r = -errno;
	return r < 0 ? error_set_errno(error, r, "preparing a listening socket") : 0;
}

static void close_again(const struct listener *listener)
{
	if (listener->reuse_port)
		(void)sockopt_set_int(listener->fd, SOL_SOCKET, SO_REUSEPORT, listener->reuse_port);
	if (!listener->transparent)
		(void)sockopt_set_int(listener->fd, IPPROTO_IP, IP_TRANSPARENT, 0);
	if (listener->waiting > listener->room)
		(void)listen(listener->fd, (int)listener->room);
}

/* ---- packets */

static void rest(void)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };

	nanosleep(&pause, NULL);
}

static struct net_queue_attributes attributes_of(const struct net_waiting *waiting)
{
	return (struct net_queue_attributes){
		.clock = waiting->clock, .mss = waiting->mss, .snd_wscale = waiting->send_scale,
		.rcv_wscale = waiting->receive_scale, .ecn_ok = waiting->ecn, .wscale_ok = waiting->scales,
		.sack_ok = waiting->sacks, .tstamp_ok = waiting->timestamps, .usec_ts_ok = waiting->microseconds,
	};
}

static struct net_segment segment_of(const struct net_waiting *waiting)
{
	uint32_t window = waiting->window >> (waiting->scales ? waiting->send_scale : 0);

	return (struct net_segment){ .tuple = &waiting->tuple, .sequence = waiting->received, .acknowledged = waiting->sent,
				     .window = window > UINT16_MAX ? UINT16_MAX : (uint16_t)window };
}

/* The end of the handshake, without data. */
static int put_first(struct net_queue *queue, int raw, int listener, const struct net_waiting *waiting, struct error *error)
{
	const struct net_queue_attributes attributes = attributes_of(waiting);
	const struct net_segment segment = segment_of(waiting);
	int64_t deadline = clock_deadline(WAIT_NS), found = -ENOENT;
	int r = net_queue_program_arm(&queue->program, listener, &attributes);

	if (r == 0)
		r = net_segment_send(raw, &segment);
	if (r < 0)
		return error_set_errno(error, r, "sending a packet to ourselves");
	while ((r = net_queue_program_result(&queue->program)) == -EINPROGRESS && clock_now_ns() < deadline)
		rest();
	if (r < 0)
		return error_set_errno(error, r, "the kernel does not take a connection that waits");
	while ((found = look(queue, &waiting->tuple)) == -ENOENT && clock_now_ns() < deadline)
		rest();
	if (found == -ENOENT)
		return error_set(error, -ETIMEDOUT, "a connection has not come into the queue of its listening socket: is it "
				 "full (net.core.somaxconn), or are packets of the loopback device filtered?");
	return found < 0 ? error_set_errno(error, (int)found, "looking at a connection that waits") : 0;
}

/* The next one; an urgent byte is the first of its own. */
static struct net_segment next_segment(const struct net_waiting *waiting, uint32_t done)
{
	struct net_segment segment = segment_of(waiting);
	size_t left = waiting->size - done;

	segment.sequence += done;
	segment.data = waiting->data + done;
	if (waiting->has_urgent && done < waiting->urgent)
		left = waiting->urgent - done;
	segment.urgent = waiting->has_urgent && done == waiting->urgent;
	segment.size = left < NET_SEGMENT_MAX ? left : NET_SEGMENT_MAX;
	return segment;
}

/* All that fits is sent, and sent again from where the kernel is, when it does not go on. */
static int put_data(struct net_queue *queue, int raw, const struct net_waiting *waiting, struct error *error)
{
	int64_t deadline = clock_deadline(WAIT_NS), sent_at = 0, there;
	uint32_t done = UINT32_MAX;

	while ((there = look(queue, &waiting->tuple)) >= 0 && (uint64_t)there < waiting->size) {
		struct net_segment segment;
		int r;

		if (clock_now_ns() >= deadline)
			return error_set(error, -ETIMEDOUT, "of %zu bytes of a connection that waits the kernel takes %lld",
					 waiting->size, (long long)there);
		if ((uint32_t)there == done && clock_now_ns() < sent_at + AGAIN_NS) {
			rest();
			continue;
		}
		done = (uint32_t)there;
		sent_at = clock_now_ns();
		segment = next_segment(waiting, done);
		r = net_segment_send(raw, &segment);
		if (r < 0)
			return error_set_errno(error, r, "sending a packet to ourselves");
	}
	return there < 0 ? error_set_errno(error, (int)there, "looking at a connection that waits") : 0;
}

/* Sent once: all data before it has come the same way, and nothing would tell of an end that has not. */
static int put_end(struct net_queue *queue, int raw, const struct net_waiting *waiting, struct error *error)
{
	struct net_segment segment = segment_of(waiting);
	int r;

	segment.sequence += (uint32_t)waiting->size;
	segment.fin = waiting->finished;
	r = waiting->finished ? net_segment_send(raw, &segment) : 0;
	if (r == 0 && waiting->reset) {
		segment.sequence += waiting->finished;
		segment.fin = false;
		segment.reset = true;
		r = net_segment_send(raw, &segment);
	}
	return r < 0 ? error_set_errno(error, r, "sending a packet to ourselves") : 0;
}

static bool is_link_local(const struct net_tuple *tuple)
{
	return tuple->family == AF_INET6 && tuple->remote.ip[0] == 0xfe && (tuple->remote.ip[1] & 0xc0) == 0x80;
}

/* What belongs to a network namespace. */
static int begin(struct net_queue *queue, sa_family_t family, struct error *error)
{
	int *raw = &queue->raw[family == AF_INET6], r = net_queue_program_attach(&queue->program, error);

	if (r == 0 && queue->diag < 0)
		queue->diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (r == 0 && queue->diag < 0)
		r = error_set_errno(error, -errno, "cannot ask for sockets");
	return r == 0 && *raw < 0 ? net_segment_socket(family, queue->program.cookie, raw, error) : r;
}

int net_queue_put(struct net_queue *queue, int listener, const struct net_waiting *waiting, struct error *error)
{
	const struct net_tuple *tuple = &waiting->tuple;
	struct listener place = { .fd = listener };
	int raw, r;

	if (is_link_local(tuple))
		return error_set(error, -EADDRNOTAVAIL, "a connection that waits belongs to an interface of its own");
	r = begin(queue, tuple->family, error);
	if (r < 0)
		return r;
	raw = queue->raw[tuple->family == AF_INET6];
	r = open_up(&place, tuple, error);
	if (r == 0)
		r = put_first(queue, raw, listener, waiting, error);
	net_queue_program_disarm(&queue->program);
	close_again(&place);
	if (r == 0)
		r = put_data(queue, raw, waiting, error);
	return r < 0 ? r : put_end(queue, raw, waiting, error);
}
