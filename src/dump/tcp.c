/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a TCP connection holds: sequence numbers, both queues, windows and what was negotiated.
 *
 * Model. All of it is told in repair mode (tcp(7), TCP_REPAIR) only, and repair mode is not taken out of: a socket is put into
 * it, asked, and let go of, without the probe that the kernel would send otherwise. It takes some microseconds a connection;
 * who dies in between has left a mark (dump_context.tcp_marks), by which another program finds the socket.
 *
 * Happy path, with the lock on (src/net): enter; windows, sequence numbers, clock; peek at both queues; leave; put
 * SO_REUSEADDR back. The queues are peeked at with urgent data in the line and no offset, whatever the program has set.
 * What has come out of order is not told, and not acknowledged for good: the peer sends it again. An urgent byte is one of the
 * receive queue; where it is, and whether it was read, is found out by the look into that.
 *
 * Failure modes. Data that came between the questions, as nothing kept it off: -EAGAIN.
 */
#include "dump/tcp.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/tcp-repair.h"
#include "util/cleanup.h"
#include "util/procfs.h"
#include "util/sockopt.h"
#include "util/stop-point.h"

#define QUEUE_MAX (32u << 20) /* bytes; a buffer of the kernel is some MiB */
#define TRIES_MAX 10u
#define SEGMENT_MAX (64u << 10)

static int enter(int fd, const struct dump_tcp_mark *before)
{
	int r = image_tcp_set(fd, IMAGE_TCP_REPAIR);

	if (r == 0 && !before->inline_urgent)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	if (r == 0 && before->peek_offset >= 0)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	return r;
}

static int leave(int fd, const struct dump_tcp_mark *before)
{
	int r = image_tcp_set(fd, IMAGE_TCP_QUIET);

	if (r == 0 && before->reuse)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_REUSEADDR, before->reuse);
	if (r == 0 && !before->inline_urgent)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, 0);
	if (r == 0 && before->peek_offset >= 0)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, before->peek_offset);
	return r;
}

int dump_tcp_mend(const struct dump_tcp_mark *mark)
{
	pid_t pid = atomic_load(&mark->pid);
	_cleanup_fd_ int pidfd = pid ? procfs_live_pidfd(pid) : -1;
	_cleanup_fd_ int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, mark->number, 0);
	int r;

	if (pid == 0)
		return 0;
	r = fd < 0 ? -errno : leave(fd, mark);
	/* Moved while there was an urgent byte. Where TCP has no such offset, it was not. */
	if (r == 0 && mark->peek_offset < 0)
		(void)sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	return r;
}

/* The sequence number behind a queue, which is selected for reading. */
static int select_queue(int fd, int queue, uint32_t *ret_next)
{
	int next = 0, r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);

	if (r == 0)
		r = sockopt_read_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &next);
	if (r == 0)
		*ret_next = (uint32_t)next;
	return r;
}

/* The send queue, which is selected: the kernel gives whole segments, of which the first may be acknowledged in part. */
static int peek_written(int fd, uint32_t size, struct buffer *data)
{
	size_t before = data->size;
	uint8_t *place;
	ssize_t got;

	if (size == 0)
		return 0;
	if (size > QUEUE_MAX)
		return -EMSGSIZE;
	place = buffer_extend(data, size + SEGMENT_MAX);
	if (!place)
		return -ENOMEM;
	got = recv(fd, place, size + SEGMENT_MAX, MSG_PEEK | MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	if ((size_t)got < size)
		return -EAGAIN;
	memmove(place, place + ((size_t)got - size), size);
	data->size = before + size;
	return 0;
}

static bool has_unread_urgent(int fd)
{
	struct pollfd urgent = { .fd = fd, .events = POLLPRI };

	return poll(&urgent, 1, 0) > 0 && urgent.revents & POLLPRI;
}

/*
 * The receive queue, which is selected. A look into it ends in front of an urgent byte, unless it begins there: so it shows
 * where that is, and another one shows the rest.
 */
static int peek_received(int fd, TcpStream *message, struct buffer *data)
{
	uint32_t size = message->inq_len;
	int at_mark = 0, r = 0;
	uint8_t *place;
	ssize_t got, more = 0;

	message->has_urgent = message->has_urgent_read = false;
	if (size == 0)
		return 0;
	if (size > QUEUE_MAX)
		return -EMSGSIZE;
	place = buffer_extend(data, size);
	if (!place)
		return -ENOMEM;
	got = recv(fd, place, size, MSG_PEEK | MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	if ((size_t)got < size) {
		r = sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, (int)got);
		if (r == 0 && (more = recv(fd, place + got, size - (size_t)got, MSG_PEEK | MSG_DONTWAIT)) < 0)
			r = -errno;
		if (sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, -1) < 0 || (r == 0 && (size_t)(got + more) < size))
			r = r < 0 ? r : -EAGAIN;
	}
	message->has_urgent = (size_t)got < size || (ioctl(fd, SIOCATMARK, &at_mark) == 0 && at_mark);
	message->urgent = (size_t)got < size ? (uint32_t)got : 0;
	message->has_urgent_read = message->has_urgent;
	message->urgent_read = message->has_urgent && !has_unread_urgent(fd);
	return r;
}

/* A FIN has a sequence number, but is no byte. */
static uint32_t without_fin(uint32_t bytes, bool fin)
{
	return fin && bytes > 0 ? bytes - 1 : bytes;
}

static int read_queues(int fd, bool fin_sent, TcpStream *message, struct buffer *data)
{
	int written = 0, unsent = 0, received = 0, r;

	if (ioctl(fd, SIOCOUTQ, &written) < 0 || ioctl(fd, SIOCOUTQNSD, &unsent) < 0 || ioctl(fd, SIOCINQ, &received) < 0)
		return -errno;
	message->inq_len = (uint32_t)received;
	message->outq_len = without_fin((uint32_t)written, fin_sent);
	message->has_unsq_len = true;
	message->unsq_len = without_fin((uint32_t)unsent, fin_sent);
	message->has_fin_unsent = message->fin_unsent = fin_sent && unsent > 0;
	r = select_queue(fd, TCP_RECV_QUEUE, &message->inq_seq);
	if (r == 0)
		r = peek_received(fd, message, data);
	if (r == 0)
		r = select_queue(fd, TCP_SEND_QUEUE, &message->outq_seq);
	if (r == 0)
		r = peek_written(fd, message->outq_len, data);
	return r;
}

static int read_windows(int fd, TcpStream *message)
{
	struct tcp_repair_window window;
	socklen_t size = sizeof(window);
	int mss = 0, clock = 0, r;

	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &size) < 0)
		return -errno;
	r = sockopt_read_int(fd, IPPROTO_TCP, TCP_MAXSEG, &mss);
	if (r == 0)
		r = sockopt_read_int(fd, IPPROTO_TCP, TCP_TIMESTAMP, &clock);
	message->mss_clamp = (uint32_t)mss;
	message->has_timestamp = true;
	message->timestamp = (uint32_t)clock;
	message->has_snd_wl1 = message->has_snd_wnd = message->has_max_window = true;
	message->has_rcv_wnd = message->has_rcv_wup = true;
	message->snd_wl1 = window.snd_wl1;
	message->snd_wnd = window.snd_wnd;
	message->max_window = window.max_window;
	message->rcv_wnd = window.rcv_wnd;
	message->rcv_wup = window.rcv_wup;
	return r;
}

static void note_options(const struct tcp_info *info, const struct image_socket_options *options, TcpStream *message)
{
	int cork = image_socket_options_other(options, IPPROTO_TCP, TCP_CORK, -1);
	int nodelay = image_socket_options_other(options, IPPROTO_TCP, TCP_NODELAY, -1);

	message->opt_mask = info->tcpi_options;
	message->snd_wscale = info->tcpi_snd_wscale;
	message->has_rcv_wscale = true;
	message->rcv_wscale = info->tcpi_rcv_wscale;
	message->has_cork = cork >= 0;
	message->cork = cork > 0;
	message->has_nodelay = nodelay >= 0;
	message->nodelay = nodelay > 0;
}

enum image_kind dump_tcp_kind(int fd)
{
	char protocol[32] = "";
	socklen_t size = sizeof(protocol) - 1;
	int offset;

	if (image_tcp_is_in_repair(fd))
		return IMAGE_KIND_TCP_REPAIR;
	if (getsockopt(fd, IPPROTO_TCP, TCP_ULP, protocol, &size) == 0 && size > 0 && protocol[0])
		return IMAGE_KIND_TCP_ULP;
	/* peek_received() needs it. */
	if (has_unread_urgent(fd) && sockopt_read_int(fd, SOL_SOCKET, SO_PEEK_OFF, &offset) < 0)
		return IMAGE_KIND_TCP_UNREAD_URGENT;
	return IMAGE_KIND_TCP_CONNECTION;
}

/* What was on its way when the lock came may still change the queues between two questions. */
static int read_all(int fd, bool fin_sent, TcpStream *message, struct buffer *data)
{
	int r = -EAGAIN;

	for (unsigned tries = 0; r == -EAGAIN && tries < TRIES_MAX; tries++) {
		buffer_clear(data);
		r = read_windows(fd, message);
		if (r == 0)
			r = read_queues(fd, fin_sent, message, data);
	}
	return r;
}

int dump_tcp_read(struct dump_tcp_mark *mark, pid_t pid, int number, int fd, const struct tcp_info *info,
		  const struct image_socket_options *options, TcpStream *message, struct buffer *data, struct error *error)
{
	bool fin_sent = info->tcpi_state == TCP_FIN_WAIT1 || info->tcpi_state == TCP_CLOSING ||
			info->tcpi_state == TCP_LAST_ACK;
	struct dump_tcp_mark own;
	int r, left;

	if (!mark)
		mark = &own;
	note_options(info, options, message);
	mark->number = number;
	/* What entering and asking changes. */
	mark->reuse = options->message.reuseaddr;
	mark->inline_urgent = options->message.has_so_oobinline && options->message.so_oobinline;
	/* Before Linux 6.9 TCP has none. */
	mark->peek_offset = image_socket_options_other(options, SOL_SOCKET, SO_PEEK_OFF, -1);
	atomic_store(&mark->pid, pid);
	r = enter(fd, mark);
	stop_point("tcp-repair");
	if (r == 0)
		r = read_all(fd, fin_sent, message, data);
	left = leave(fd, mark);
	atomic_store(&mark->pid, 0);
	if (r == 0)
		r = left;
	if (r == -EPERM)
		return error_set(error, r, "a TCP connection cannot be looked into: CAP_NET_ADMIN is lacking");
	return r < 0 ? error_set_errno(error, r, "reading a TCP connection") : 0;
}
