/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bandwidth limit. A bucket is one point in time: `next`, at which the link is free again. Who writes n bytes
 * books n / rate behind it and waits for the beginning of his booking, so several streams share the rate in the order
 * in which they come. An idle link earns at most BURST_NS of credit. Writes are cut into pieces of about PIECE_NS,
 * so that nobody books the link for long.
 *
 * A wait that ends early (deadline, cancel) leaves its booking where it is: the bytes count as sent. That only
 * matters to a session that is being given up.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "filter.h"
#include "stream-ops.h"

#define BURST_NS (20 * CLOCK_MS)
#define PIECE_NS (5 * CLOCK_MS)
#define PIECE_MIN 1024
#define PIECE_MAX (256 * 1024)
#define PIECE_IOV 64

struct rate_bucket {
	atomic_int references;
	pthread_mutex_t lock; /* guards the rest */
	uint64_t rate;        /* bytes a second; 0: no limit */
	int64_t next;         /* when the link is free for the next booking */
};

struct stream_rate {
	struct stream base;
	struct rate_bucket *bucket; /* a reference */
};

int rate_bucket_new(uint64_t bytes_per_second, struct rate_bucket **ret, struct error *error)
{
	struct rate_bucket *bucket = calloc(1, sizeof(*bucket));

	if (!bucket)
		return error_set_errno(error, -ENOMEM, "bandwidth limit");
	atomic_init(&bucket->references, 1);
	pthread_mutex_init(&bucket->lock, NULL);
	bucket->rate = bytes_per_second;
	*ret = bucket;
	return 0;
}

struct rate_bucket *rate_bucket_ref(struct rate_bucket *bucket)
{
	atomic_fetch_add(&bucket->references, 1);
	return bucket;
}

void rate_bucket_unref(struct rate_bucket *bucket)
{
	if (!bucket || atomic_fetch_sub(&bucket->references, 1) != 1)
		return;
	pthread_mutex_destroy(&bucket->lock);
	free(bucket);
}

void rate_bucket_set(struct rate_bucket *bucket, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&bucket->lock);
	bucket->rate = bytes_per_second;
	bucket->next = 0;
	pthread_mutex_unlock(&bucket->lock);
}

static int64_t time_of(uint64_t bytes, uint64_t rate)
{
	return (int64_t)((double)bytes / (double)rate * (double)CLOCK_S);
}

/* How many of `size` bytes to write at once. */
static size_t bucket_piece(struct rate_bucket *bucket, size_t size)
{
	uint64_t piece;

	pthread_mutex_lock(&bucket->lock);
	piece = bucket->rate / (CLOCK_S / PIECE_NS);
	if (bucket->rate == 0)
		piece = size;
	else if (piece < PIECE_MIN)
		piece = PIECE_MIN;
	else if (piece > PIECE_MAX)
		piece = PIECE_MAX;
	pthread_mutex_unlock(&bucket->lock);
	return piece < size ? (size_t)piece : size;
}

/* Books `size` bytes; returns when they may go. With `now_or_never` books only what may go now; else 0. */
static int64_t bucket_book(struct rate_bucket *bucket, size_t size, bool now_or_never)
{
	int64_t now = clock_now_ns(), start = now;

	pthread_mutex_lock(&bucket->lock);
	if (bucket->rate) {
		start = bucket->next > now - BURST_NS ? bucket->next : now - BURST_NS;
		if (now_or_never && start > now)
			start = 0;
		else
			bucket->next = start + time_of(size, bucket->rate);
	}
	pthread_mutex_unlock(&bucket->lock);
	return start;
}

/* Gives back the part of a booking that was not written. */
static void bucket_return(struct rate_bucket *bucket, size_t size)
{
	pthread_mutex_lock(&bucket->lock);
	if (bucket->rate)
		bucket->next -= time_of(size, bucket->rate);
	pthread_mutex_unlock(&bucket->lock);
}

static int rate_wait(struct stream *stream, int64_t start, int64_t deadline, struct error *error)
{
	int64_t until = start < deadline ? start : deadline;
	int r;

	if (start <= clock_now_ns())
		return 0;
	r = stream_wait(stream, -1, 0, until, "limiting the bandwidth to", NULL);
	if (r == -ETIMEDOUT && until == start)
		return 0;
	if (r == -ECANCELED)
		return error_set(error, r, "canceled while sending to %s", stream_label(stream));
	return error_set(error, r, "timed out while sending to %s (bandwidth is limited)", stream_label(stream));
}

static ssize_t rate_write(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			  struct error *error)
{
	struct stream_rate *rate = (struct stream_rate *)stream;
	size_t size = bucket_piece(rate->bucket, stream_iov_size(iov, count));
	bool now = deadline == STREAM_NOWAIT;
	struct iovec window[PIECE_IOV];
	int64_t start;
	ssize_t n;
	int pieces, r;

	pieces = stream_iov_window(window, PIECE_IOV, iov, count, 0, size);
	size = stream_iov_size(window, pieces);
	start = bucket_book(rate->bucket, size, now);
	if (start == 0)
		return -EAGAIN;
	r = now ? 0 : rate_wait(stream, start, deadline, error);
	if (r < 0)
		return r;
	n = stream_writev(stream->below, window, pieces, deadline, error);
	bucket_return(rate->bucket, n < 0 ? size : size - (size_t)n);
	return n;
}

static ssize_t rate_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	return stream_read(stream->below, data, size, deadline, error);
}

static void rate_free(struct stream *stream)
{
	struct stream_rate *rate = (struct stream_rate *)stream;

	rate_bucket_unref(rate->bucket);
	free(rate);
}

static const struct stream_ops rate_ops = {
	.read = rate_read,
	.write = rate_write,
	.free = rate_free,
};

int stream_rate_push(struct stream **stream, struct rate_bucket *bucket, struct error *error)
{
	struct stream_rate *rate = calloc(1, sizeof(*rate));

	if (!rate)
		return error_set_errno(error, -ENOMEM, "bandwidth limit");
	rate->bucket = rate_bucket_ref(bucket);
	stream_init_filter(&rate->base, &rate_ops, stream);
	return 0;
}
