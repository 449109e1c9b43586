/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all streams have in common: the loops over partial reads and writes, counters, flushing from the top of the
 * chain to its bottom, and the wait that knows of deadlines and cancelling.
 *
 * Every call goes through the wrappers here, at each level of the chain; a filter's op calls the wrapper of the
 * stream below. So each level has its own byte counts: the top's are the user's bytes, the bottom's those on the
 * wire.
 */
#include "stream-ops.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_MAX 64

void stream_init_bottom(struct stream *stream, const struct stream_ops *ops, int fd, const char *label)
{
	stream->ops = ops;
	stream->fd = fd;
	stream->cancel_fd = -1;
	snprintf(stream->label, sizeof(stream->label), "%s", label);
}

void stream_init_filter(struct stream *stream, const struct stream_ops *ops, struct stream **top)
{
	stream->ops = ops;
	stream->fd = (*top)->fd;
	stream->cancel_fd = (*top)->cancel_fd;
	stream->below = *top;
	*top = stream;
}

void stream_free(struct stream *stream)
{
	while (stream) {
		struct stream *below = stream->below;

		stream->ops->free(stream);
		stream = below;
	}
}

ssize_t stream_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	ssize_t n;
	int r;

	if (!size)
		return 0;
	if (stream->unflushed && deadline != STREAM_NOWAIT) {
		r = stream_flush(stream, deadline, error);
		if (r < 0)
			return r;
	}
	n = stream->ops->read(stream, data, size, deadline, error);
	if (n > 0)
		stream->bytes_in += (uint64_t)n;
	return n;
}

int stream_read_full(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = stream_read(stream, (char *)data + done, size - done, deadline, error);

		if (n < 0)
			return (int)n;
		if (n == 0 && done == 0)
			return error_set(error, -ENODATA, "%s has closed the connection", stream_label(stream));
		if (n == 0)
			return error_set(error, -ECONNRESET, "%s closed the connection in the middle of a message",
					 stream_label(stream));
		done += (size_t)n;
	}
	return 0;
}

ssize_t stream_writev(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
		      struct error *error)
{
	ssize_t n;

	if (!stream_iov_size(iov, count))
		return 0;
	stream->unflushed = true;
	n = stream->ops->write(stream, iov, count, deadline, error);
	if (n > 0)
		stream->bytes_out += (uint64_t)n;
	return n;
}

int stream_writev_full(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
		       struct error *error)
{
	size_t size = stream_iov_size(iov, count), done = 0;
	struct iovec window[WINDOW_MAX];

	while (done < size) {
		int pieces = stream_iov_window(window, WINDOW_MAX, iov, count, done, size);
		ssize_t n = stream_writev(stream, window, pieces, deadline, error);

		if (n < 0)
			return (int)n;
		done += (size_t)n;
	}
	return 0;
}

int stream_write_full(struct stream *stream, const void *data, size_t size, int64_t deadline, struct error *error)
{
	struct iovec iov = { .iov_base = (void *)data, .iov_len = size };

	return stream_writev_full(stream, &iov, 1, deadline, error);
}

int stream_flush(struct stream *stream, int64_t deadline, struct error *error)
{
	for (; stream; stream = stream->below) {
		int r;

		if (!stream->unflushed)
			continue;
		r = stream->ops->flush ? stream->ops->flush(stream, deadline, error) : 0;
		if (r < 0)
			return r;
		stream->unflushed = false;
	}
	return 0;
}

int stream_shutdown(struct stream *stream, int64_t deadline, struct error *error)
{
	for (; stream; stream = stream->below) {
		int r = stream_flush(stream, deadline, error);

		if (r == 0 && stream->ops->shutdown)
			r = stream->ops->shutdown(stream, deadline, error);
		if (r < 0)
			return r;
	}
	return 0;
}

int stream_fd(const struct stream *stream)
{
	return stream->fd;
}

bool stream_pending(const struct stream *stream)
{
	for (; stream; stream = stream->below)
		if (stream->ops->pending && stream->ops->pending(stream))
			return true;
	return false;
}

void stream_set_cancel(struct stream *stream, int fd)
{
	for (; stream; stream = stream->below)
		stream->cancel_fd = fd;
}

struct stream_counters stream_counters(const struct stream *stream)
{
	struct stream_counters counters = { .raw_in = stream->bytes_in, .raw_out = stream->bytes_out };

	while (stream->below)
		stream = stream->below;
	counters.wire_in = stream->bytes_in;
	counters.wire_out = stream->bytes_out;
	return counters;
}

const char *stream_label(const struct stream *stream)
{
	while (stream->below)
		stream = stream->below;
	return stream->label;
}

const struct stream *stream_find(const struct stream *stream, const struct stream_ops *ops)
{
	while (stream && stream->ops != ops)
		stream = stream->below;
	return stream;
}

int stream_wait(struct stream *stream, int fd, short events, int64_t deadline, const char *what, struct error *error)
{
	struct pollfd polls[2] = {
		{ .fd = fd, .events = events },
		{ .fd = stream->cancel_fd, .events = POLLIN },
	};

	if (deadline == STREAM_NOWAIT)
		return -EAGAIN;
	for (;;) {
		int left = clock_poll_ms(deadline);
		int r = poll(polls, 2, left);

		if (r < 0 && errno != EINTR)
			return error_set_errno(error, -errno, "waiting for %s", stream_label(stream));
		if (r > 0 && polls[1].revents)
			return error_set(error, -ECANCELED, "canceled while %s %s", what, stream_label(stream));
		if (r > 0)
			return 0;
		if (left == 0)
			return error_set(error, -ETIMEDOUT, "timed out while %s %s", what, stream_label(stream));
	}
}

size_t stream_iov_size(const struct iovec *iov, int count)
{
	size_t size = 0;

	for (int i = 0; i < count; i++)
		size += iov[i].iov_len;
	return size;
}

int stream_iov_window(struct iovec *window, int max, const struct iovec *iov, int count, size_t skip, size_t limit)
{
	int used = 0;

	for (int i = 0; i < count && used < max && limit; i++) {
		size_t length = iov[i].iov_len;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		length -= skip;
		if (length > limit)
			length = limit;
		window[used].iov_base = (char *)iov[i].iov_base + skip;
		window[used].iov_len = length;
		used++;
		limit -= length;
		skip = 0;
	}
	return used;
}

size_t stream_iov_copy(void *place, size_t limit, const struct iovec *iov, int count, size_t skip)
{
	size_t done = 0;

	for (int i = 0; i < count && done < limit; i++) {
		size_t length = iov[i].iov_len;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		length -= skip;
		if (length > limit - done)
			length = limit - done;
		memcpy((char *)place + done, (char *)iov[i].iov_base + skip, length);
		done += length;
		skip = 0;
	}
	return done;
}
