/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Byte streams: a bottom (socket, memory) and a chain of filters on it (rate limit, TLS, LZ4, faults). Whoever holds
 * the top sees only this interface; what is underneath is never an `if` at a caller.
 *
 * Ownership: a filter owns what is below it, so stream_free() of the top frees the chain and closes the descriptor.
 * The constructors of filters are called stream_X_push(): they put a filter onto *stream and replace *stream by the
 * new top; on failure *stream is as it was.
 *
 * Threads: a stream (all of its chain, both directions) is used by one thread at a time. The two ends of a memory
 * pair are two streams. The exception is the descriptor given to stream_set_cancel(), which anybody may signal.
 *
 * Blocking: calls that may block take a deadline (util/clock.h): after it they answer -ETIMEDOUT. STREAM_NOWAIT never
 * blocks: -EAGAIN, and the error is not filled in. Writes may be held back until stream_flush(); a blocking
 * read flushes first what is held back, so that a question is never left unsent by the one who waits for its answer.
 * Nobody may rely on the peer's reading: two ends that only write to one another block until the deadline.
 *
 * Errors: -ETIMEDOUT (deadline, or the link is dead: see tcp.h), -ECANCELED, -ECONNRESET (the peer is gone, without
 * goodbye), -EPIPE (writing to a peer that is gone), -EPROTO (what came is not what the filter speaks), -EBADMSG
 * (damaged data). The end of the peer's data (its stream_shutdown()) is 0 from stream_read().
 * A read that failed with -ETIMEDOUT, -ECANCELED or -EAGAIN has consumed nothing. After a failed write (other than
 * -EAGAIN from stream_writev()) an unknown part has been sent: give the stream up.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "util/clock.h"
#include "util/error.h"

/* As a deadline: do not wait at all. */
#define STREAM_NOWAIT INT64_MIN

struct stream;

struct stream_counters {
	uint64_t raw_in;   /* bytes that the user of the top has read */
	uint64_t raw_out;  /* bytes that the user of the top has written */
	uint64_t wire_in;  /* bytes that came in at the bottom: after compression and encryption by the peer */
	uint64_t wire_out; /* bytes that went out at the bottom */
};

/*
 * A stream on a connected stream socket. Takes `fd` on success and makes it non-blocking; on failure `fd` is still
 * the caller's. `label` says in error messages who the peer is; NULL: the peer's address.
 */
int stream_socket_new(int fd, const char *label, struct stream **ret, struct error *error);

/*
 * Two connected streams that live in memory; each may be used by its own thread. At most `capacity` bytes are on the
 * way in each direction, then a writer blocks. Freeing one end is an orderly close for the other.
 */
int stream_memory_new(size_t capacity, struct stream **ret_a, struct stream **ret_b, struct error *error);

/* Says goodbye to nobody: call stream_shutdown() first where the peer shall see an orderly end. NULL is allowed. */
void stream_free(struct stream *stream);

/* Reads 1 to `size` bytes. 0: the peer has ended its data in an orderly way (or `size` is 0). */
ssize_t stream_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error);

/* Reads exactly `size` bytes; -ENODATA if the data ended before the first, -ECONNRESET if it ended in the middle. */
int stream_read_full(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error);

/* Takes at least one byte, unless there are none. Returns how many. */
ssize_t stream_writev(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
		      struct error *error);

/* Takes all of it. Not for STREAM_NOWAIT. */
int stream_writev_full(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
		       struct error *error);
int stream_write_full(struct stream *stream, const void *data, size_t size, int64_t deadline, struct error *error);

/* Sends what the chain holds back. With STREAM_NOWAIT -EAGAIN says that some of it is still there: again when
 * stream_fd() is writable. */
int stream_flush(struct stream *stream, int64_t deadline, struct error *error);

/* Flushes and tells the peer in an orderly (TLS: authenticated) way that no more data comes. Reading goes on. */
int stream_shutdown(struct stream *stream, int64_t deadline, struct error *error);

/*
 * For poll(2): wait for POLLIN on stream_fd() only if stream_pending() is false; then read with STREAM_NOWAIT until
 * -EAGAIN. stream_pending() is true while a filter may hold data that the descriptor knows nothing of. The descriptor
 * stays the stream's; the one of a memory stream is for polling only.
 */
int stream_fd(const struct stream *stream);
bool stream_pending(const struct stream *stream);

/*
 * While `fd` (an eventfd, say; borrowed; -1: none) is readable, calls that would block return -ECANCELED instead.
 * Counts for the whole chain and for the filters pushed later. Calls that need not wait do not look at it.
 */
void stream_set_cancel(struct stream *stream, int fd);

struct stream_counters stream_counters(const struct stream *stream);

/* Who the peer is, for messages. Valid as long as the stream. */
const char *stream_label(const struct stream *stream);

static inline void cleanup_stream(struct stream **stream)
{
	stream_free(*stream);
}

#define _cleanup_stream_ __attribute__((cleanup(cleanup_stream)))
