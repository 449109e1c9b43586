/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bottom of most chains: a connected stream socket, non-blocking. Each call tries first and waits in poll(2) only
 * when the kernel has nothing, so a busy link costs one system call a transfer. Writing never raises SIGPIPE.
 */
#include "stream-ops.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

struct stream_socket {
	struct stream base; /* base.fd is owned */
};

static int socket_error(struct stream *stream, int code, const char *what, struct error *error)
{
	if (code == -ECONNRESET || code == -EPIPE)
		return error_set(error, code, "%s has broken off the connection (noticed while %s it)",
				 stream_label(stream), what);
	if (code == -ETIMEDOUT)
		return error_set(error, code, "%s does not answer any more (noticed while %s it)",
				 stream_label(stream), what);
	return error_set_errno(error, code, "%s %s", what, stream_label(stream));
}

static ssize_t socket_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	for (;;) {
		ssize_t n = recv(stream->fd, data, size, 0);
		int r;

		if (n >= 0)
			return n;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return socket_error(stream, -errno, "reading from", error);
		r = stream_wait(stream, stream->fd, POLLIN, deadline, "waiting for data from", error);
		if (r < 0)
			return r;
	}
}

static ssize_t socket_write(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			    struct error *error)
{
	struct msghdr message = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count };

	for (;;) {
		ssize_t n = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
		int r;

		if (n >= 0)
			return n;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return socket_error(stream, -errno, "writing to", error);
		r = stream_wait(stream, stream->fd, POLLOUT, deadline, "sending to", error);
		if (r < 0)
			return r;
	}
}

static int socket_shutdown(struct stream *stream, int64_t deadline, struct error *error)
{
	(void)deadline;
	if (shutdown(stream->fd, SHUT_WR) < 0)
		return socket_error(stream, -errno, "closing the connection to", error);
	return 0;
}

static void socket_free(struct stream *stream)
{
	close(stream->fd);
	free(stream);
}

static const struct stream_ops socket_ops = {
	.read = socket_read,
	.write = socket_write,
	.shutdown = socket_shutdown,
	.free = socket_free,
};

int stream_socket_new(int fd, const char *label, struct stream **ret, struct error *error)
{
	char peer[TCP_ADDRESS_MAX];
	struct stream_socket *stream;
	int flags;

	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_set_errno(error, -errno, "making descriptor %d non-blocking", fd);
	if (!label) {
		tcp_peer_text(fd, peer);
		label = peer;
	}
	stream = calloc(1, sizeof(*stream));
	if (!stream)
		return error_set_errno(error, -ENOMEM, "connection to %s", label);
	stream_init_bottom(&stream->base, &socket_ops, fd, label);
	*ret = &stream->base;
	return 0;
}
