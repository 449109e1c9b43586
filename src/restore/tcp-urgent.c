/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An urgent byte has no way into a socket but by a segment that says so: one is made, as from the peer, and put in between what
 * comes before and behind it by repair mode. The socket acknowledges it, which the lock keeps from the peer.
 *
 * Failure modes: a socket that is bound to an interface does not see what comes from the loopback device: -ETIMEDOUT.
 */
#include "restore/tcp-urgent.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "net/segment.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/sockopt.h"

#define WAIT_NS (2 * CLOCK_S)
#define AGAIN_MS 20

static int read_sequence(int fd, int queue, uint32_t *ret)
{
	int next = 0, r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);

	if (r == 0)
		r = sockopt_read_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &next);
	if (r == 0)
		*ret = (uint32_t)next;
	return r;
}

/* The window of the peer stays unknown, and is 0: tcp.c counts on that. */
static int open_window(int fd, uint32_t received)
{
	const struct tcp_repair_window window = { .snd_wl1 = received, .rcv_wnd = UINT16_MAX, .rcv_wup = received };

	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)) < 0 ? -errno : 0;
}

static int send_until_there(int fd, int raw, const struct net_segment *segment)
{
	struct pollfd look = { .fd = fd, .events = POLLPRI };
	int64_t deadline = clock_deadline(WAIT_NS);

	do {
		int r = net_segment_send(raw, segment);

		if (r < 0)
			return r;
		if (poll(&look, 1, AGAIN_MS) > 0 && look.revents & POLLPRI)
			return 0;
	} while (clock_now_ns() < deadline);
	return -ETIMEDOUT;
}

static int consume(int fd)
{
	int in_line = 0, r = sockopt_read_int(fd, SOL_SOCKET, SO_OOBINLINE, &in_line);
	uint8_t byte;

	if (r == 0)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, 0);
	if (r == 0 && recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT) != 1)
		r = -EPROTO;
	if (r == 0 && in_line)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	return r;
}

int restore_tcp_put_urgent(int fd, uint8_t byte, bool read, struct error *error)
{
	struct net_segment segment = { .urgent = 1, .data = &byte, .size = 1 };
	struct net_tuples tuples = { 0 };
	_cleanup_fd_ int raw = -1;
	int r = net_tuples_add_socket(&tuples, fd);

	if (r == 0)
		r = read_sequence(fd, TCP_SEND_QUEUE, &segment.acknowledged);
	if (r == 0)
		r = read_sequence(fd, TCP_RECV_QUEUE, &segment.sequence);
	if (r == 0)
		r = open_window(fd, segment.sequence);
	if (r == 0)
		r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
	if (r < 0) {
		net_tuples_deinit(&tuples);
		return error_set_errno(error, r, "looking at a connection with urgent data");
	}
	segment.tuple = &tuples.list.items[0];
	r = net_segment_socket(segment.tuple->family, 0, &raw, error);
	if (r == 0 && (r = send_until_there(fd, raw, &segment)) < 0)
		error_set_errno(error, r, "putting an urgent byte into a connection");
	if (r == 0 && read && (r = consume(fd)) < 0)
		error_set_errno(error, r, "reading an urgent byte of a connection");
	net_tuples_deinit(&tuples);
	return r;
}
