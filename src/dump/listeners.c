/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections that begin, or end. Between the first packet of a connection and accept(2) it belongs to the listening socket,
 * and can be moved only with some ado (accept-queue.c), or not at all; its peer, which may have sent already, would be reset.
 * So for a moment before the freeze nobody new is let in: the lock drops first packets (their senders try again in a second,
 * and meet the target), handshakes that are under way come to their end, and the program, which still runs, accepts what
 * waits.
 *
 * A connection that the program has closed, and whose last bytes are not acknowledged, belongs to nobody but the kernel of
 * this host, and stays here: that, too, is waited for.
 *
 * Happy path. Engage the listeners that the preflight has met; then, again and again: what waits, by TCP_INFO; what is on its
 * way, by sock_diag(7).
 *
 * Failure modes. What has not settled by the deadline is left to the freeze, and what that takes to be put back is made now. A
 * peer that has vanished in the midst of a handshake, or that does not read the end of a connection, is not waited for; the
 * latter is reset if its address moves. With TCP_DEFER_ACCEPT a handshake is under way, for this host, until the peer sends
 * something: that is a blocker.
 */
#include <errno.h>
#include <linux/inet_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/sock-diag.h"
#include "net/lock.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define LOOK_NS 500000

/* One of them, open in this process too. */
struct listener {
	struct dump_listener *noted; /* borrowed */
	int fd;			     /* owned */
	uint16_t port;		     /* network byte order */
	bool handshake;		     /* one is under way */
};

struct listeners {
	ARRAY(struct listener) list;
	struct net_tuples tuples;
	bool coming; /* a handshake with one of them is under way, or the end of a connection */
};

static void listeners_deinit(struct listeners *listeners)
{
	array_for_each (listener, &listeners->list)
		close(listener->fd);
	array_deinit(&listeners->list);
	net_tuples_deinit(&listeners->tuples);
}

static int read_info(int fd, struct tcp_info *ret)
{
	socklen_t size = sizeof(*ret);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, ret, &size) < 0 ? -errno : 0;
}

/* 0 also when the program has closed it meanwhile. */
static int open_one(const struct dump_context *ctx, struct listeners *listeners, struct dump_listener *noted)
{
	struct listener listener = { .noted = noted };
	const struct dump_process *process = dump_context_find(ctx, noted->pid); /* its PID may be another's by now */
	_cleanup_fd_ int fd = process ? (int)syscall(SYS_pidfd_getfd, dump_process_pidfd(process), noted->number, 0) : -1;
	struct sockaddr_in6 address = { 0 };
	socklen_t size = sizeof(address), v6only_size = sizeof(int);
	struct tcp_info info = { 0 };
	int v6only = 0, r;

	if (fd < 0 || read_info(fd, &info) < 0 || info.tcpi_state != TCP_LISTEN ||
	    getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return 0;
	(void)getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, &v6only_size);
	r = net_tuples_add_listening(&listeners->tuples, (struct sockaddr *)&address, v6only);
	listener.port = address.sin6_port; /* in the same place for IPv4 */
	listener.fd = fd;
	if (r == 0)
		r = array_append(&listeners->list, listener);
	if (r == 0)
		fd = -1;
	return r;
}

static int take_message(struct nlmsghdr *header, void *argument)
{
	const struct inet_diag_msg *diag = nlmsg_data(header);
	struct listeners *listeners = argument;

	if (diag->idiag_state != TCP_SYN_RECV && diag->idiag_inode != 0)
		return 0;
	array_for_each (listener, &listeners->list) {
		if (listener->port != diag->id.idiag_sport)
			continue;
		listener->handshake |= diag->idiag_state == TCP_SYN_RECV;
		listeners->coming = true;
	}
	return 0;
}

static int look_for_halves(struct listeners *listeners, uint8_t family, struct error *error)
{
	struct inet_diag_req_v2 request = { .sdiag_family = family,
					    .sdiag_protocol = IPPROTO_TCP,
					    .idiag_states = 1 << TCP_SYN_RECV | 1 << TCP_FIN_WAIT1 |
							    1 << TCP_CLOSING | 1 << TCP_LAST_ACK };

	return dump_sock_diag(&request, sizeof(request), true, take_message, listeners, "the TCP sockets of this host", error);
}

/* 1: nothing waits, and nothing is on its way. */
static int is_settled(struct listeners *listeners, struct error *error)
{
	int r;

	array_for_each (listener, &listeners->list) {
		struct tcp_info info = { 0 };

		listener->handshake = false;
		r = read_info(listener->fd, &info);
		if (r < 0)
			return error_set_errno(error, r, "looking at what waits to be accepted");
		if (info.tcpi_state == TCP_LISTEN && info.tcpi_unacked > 0)
			return 0;
	}
	listeners->coming = false;
	r = look_for_halves(listeners, AF_INET, error);
	if (r == 0)
		r = look_for_halves(listeners, AF_INET6, error);
	return r < 0 ? r : !listeners->coming;
}

static int settle(struct dump_context *ctx, struct listeners *listeners, int64_t deadline, struct error *error)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };
	int r = net_lock_engage(ctx->lock, &listeners->tuples, error);

	if (r < 0)
		return r;
	while ((r = is_settled(listeners, error)) == 0 && clock_now_ns() < deadline)
		nanosleep(&pause, NULL);
	array_for_each (listener, &listeners->list) {
		struct tcp_info info = { 0 };
		int defers = 0;
		socklen_t size = sizeof(defers);

		(void)getsockopt(listener->fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defers, &size);
		listener->noted->holds_back = listener->handshake && defers > 0;
		if (read_info(listener->fd, &info) == 0 && info.tcpi_state == TCP_LISTEN && info.tcpi_unacked > 0)
			dump_accept_queue_prepare(ctx);
	}
	return r < 0 ? r : 0;
}

int dump_listeners_settle(struct dump_context *ctx, int64_t deadline, struct error *error)
{
	struct listeners listeners = { 0 };
	int r = 0;

	if (!ctx->lock || !ctx->files || ctx->options->tcp_close)
		return 0;
	array_for_each (listener, &ctx->files->listeners)
		if (r == 0)
			r = open_one(ctx, &listeners, listener);
	if (r < 0)
		error_set_errno(error, r, "opening the listening sockets");
	else if (listeners.list.count > 0)
		r = settle(ctx, &listeners, deadline, error);
	listeners_deinit(&listeners);
	return r;
}

int dump_listener_note(struct dump_files *files, pid_t pid, int number)
{
	const struct dump_listener listener = { .pid = pid, .number = number };

	array_for_each (known, &files->listeners)
		if (known->pid == pid && known->number == number)
			return 0;
	return array_append(&files->listeners, listener);
}

bool dump_listener_holds_back(const struct dump_files *files, pid_t pid, int number)
{
	array_for_each (known, &files->listeners)
		if (known->pid == pid && known->number == number)
			return known->holds_back;
	return false;
}
