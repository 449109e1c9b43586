/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For those who write a stream or a filter; users include stream.h. A stream is a struct that starts with `struct
 * stream`. The wrappers of stream.c keep the counters, flush before blocking reads and go on after partial writes, so
 * filters call stream_read() and its kin on `below`, never its ops.
 */
#pragma once

#include "stream.h"

#define STREAM_LABEL_MAX 96

struct stream_ops {
	/* 1 to `size` bytes (size > 0), 0 at the orderly end, or a negative errno. */
	ssize_t (*read)(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error);
	/* Takes 1 byte or more of the pieces (which are not all empty), or a negative errno. */
	ssize_t (*write)(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			 struct error *error);
	/* Hands what this filter holds back to `below`, and does not flush that: stream_flush() does. NULL: nothing. */
	int (*flush)(struct stream *stream, int64_t deadline, struct error *error);
	/* Says that no more comes, by what is flushed afterwards; then `below` is shut down. NULL: nothing to say. */
	int (*shutdown)(struct stream *stream, int64_t deadline, struct error *error);
	/* Whether this stream alone holds bytes that a read might give. NULL: it never does. */
	bool (*pending)(const struct stream *stream);
	/* Frees what the stream itself holds and the struct; `below` is freed by stream_free(). */
	void (*free)(struct stream *stream);
};

struct stream {
	const struct stream_ops *ops; /* which kind it is; also its identity for the lookups by kind */
	struct stream *below;         /* owned; NULL at the bottom */
	uint64_t bytes_in;            /* read through this stream */
	uint64_t bytes_out;           /* written through this stream */
	int fd;                       /* for poll(2); borrowed from the bottom */
	int cancel_fd;                /* borrowed; -1: none; the same in the whole chain */
	bool unflushed;               /* written to since the last flush */
	char label[STREAM_LABEL_MAX]; /* who the peer is; the bottom's counts */
};

/* Makes `stream` a filter on *top, and the new *top. */
void stream_init_filter(struct stream *stream, const struct stream_ops *ops, struct stream **top);
void stream_init_bottom(struct stream *stream, const struct stream_ops *ops, int fd, const char *label);

/* The topmost stream of the chain with these ops; NULL. */
const struct stream *stream_find(const struct stream *stream, const struct stream_ops *ops);

/*
 * Waits for `events` on `fd` (-1: only for time to pass) until the deadline. 0, -EAGAIN (STREAM_NOWAIT), -ETIMEDOUT,
 * -ECANCELED; `what` completes "timed out ...".
 */
int stream_wait(struct stream *stream, int fd, short events, int64_t deadline, const char *what, struct error *error);

/* Bytes in the pieces. */
size_t stream_iov_size(const struct iovec *iov, int count);

/* Copies at most `limit` bytes, `skip` bytes into the pieces, to `place`; returns how many. */
size_t stream_iov_copy(void *place, size_t limit, const struct iovec *iov, int count, size_t skip);

/*
 * Fills `window` (of `max` pieces) with the part of the pieces that begins `skip` bytes in and is at most `limit`
 * bytes long; returns the number of pieces, none of them empty.
 */
int stream_iov_window(struct iovec *window, int max, const struct iovec *iov, int count, size_t skip, size_t limit);
