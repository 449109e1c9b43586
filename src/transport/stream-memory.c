/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two connected streams in memory, for tests and fuzzers: no network, no kernel buffers, and yet the same behaviour
 * as a socket, back pressure and polling included.
 *
 * Each direction is a ring of bytes with two eventfds that mirror its state: `readable` is signalled while there are
 * bytes or the writer has closed, `writable` while there is room or the reader is gone. One lock guards the pair;
 * waiting is done in poll(2) on the eventfds, outside of the lock. The pair is freed with its second end.
 */
#include "stream-ops.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct pipe_way {
	uint8_t *data;    /* ring of `capacity` bytes */
	size_t capacity;  /* most bytes on the way */
	size_t start;     /* position of the oldest byte */
	size_t size;      /* bytes on the way */
	int readable;     /* eventfd */
	int writable;     /* eventfd */
	bool writer_done; /* no more bytes will come */
	bool reader_gone; /* nobody will take them */
};

struct memory_pair {
	pthread_mutex_t lock;   /* guards all that follows */
	struct pipe_way way[2]; /* way[i] is read by end i, written by the other */
	int users;              /* ends not yet freed */
};

struct stream_memory {
	struct stream base;
	struct memory_pair *pair; /* shared; freed by the last end */
	int end;                  /* 0 or 1 */
};

static void event_set(int fd, bool on)
{
	uint64_t value = 1;
	ssize_t n;

	/* Both are non-blocking: a full counter stays set, an empty one stays clear. */
	if (on)
		n = write(fd, &value, sizeof(value));
	else
		n = read(fd, &value, sizeof(value));
	(void)n;
}

static void way_signal(struct pipe_way *way)
{
	event_set(way->readable, way->size || way->writer_done);
	event_set(way->writable, way->size < way->capacity || way->reader_gone);
}

static size_t way_take(struct pipe_way *way, void *data, size_t size)
{
	size_t first;

	if (size > way->size)
		size = way->size;
	first = way->capacity - way->start;
	if (first > size)
		first = size;
	memcpy(data, way->data + way->start, first);
	memcpy((char *)data + first, way->data, size - first);
	way->start = (way->start + size) % way->capacity;
	way->size -= size;
	return size;
}

static void way_put(struct pipe_way *way, const void *data, size_t size)
{
	size_t end = (way->start + way->size) % way->capacity;
	size_t first = way->capacity - end;

	if (first > size)
		first = size;
	memcpy(way->data + end, data, first);
	memcpy(way->data, (const char *)data + first, size - first);
	way->size += size;
}

static ssize_t memory_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	struct stream_memory *memory = (struct stream_memory *)stream;
	struct pipe_way *way = &memory->pair->way[memory->end];

	for (;;) {
		size_t n;
		bool done;
		int r;

		pthread_mutex_lock(&memory->pair->lock);
		n = way_take(way, data, size);
		done = way->writer_done;
		way_signal(way);
		pthread_mutex_unlock(&memory->pair->lock);
		if (n || done)
			return (ssize_t)n;
		r = stream_wait(stream, way->readable, POLLIN, deadline, "waiting for data from", error);
		if (r < 0)
			return r;
	}
}

static ssize_t memory_write(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			    struct error *error)
{
	struct stream_memory *memory = (struct stream_memory *)stream;
	struct pipe_way *way = &memory->pair->way[1 - memory->end];

	for (;;) {
		size_t n = 0;
		bool gone;
		int r;

		pthread_mutex_lock(&memory->pair->lock);
		gone = way->reader_gone || way->writer_done;
		for (int i = 0; i < count && !gone; i++) {
			size_t room = way->capacity - way->size;
			size_t length = iov[i].iov_len < room ? iov[i].iov_len : room;

			if (length)
				way_put(way, iov[i].iov_base, length);
			n += length;
		}
		way_signal(way);
		pthread_mutex_unlock(&memory->pair->lock);
		if (gone)
			return error_set(error, -EPIPE, "%s has closed the connection", stream_label(stream));
		if (n)
			return (ssize_t)n;
		r = stream_wait(stream, way->writable, POLLIN, deadline, "sending to", error);
		if (r < 0)
			return r;
	}
}

static int memory_shutdown(struct stream *stream, int64_t deadline, struct error *error)
{
	struct stream_memory *memory = (struct stream_memory *)stream;
	struct pipe_way *way = &memory->pair->way[1 - memory->end];

	(void)deadline;
	(void)error;
	pthread_mutex_lock(&memory->pair->lock);
	way->writer_done = true;
	way_signal(way);
	pthread_mutex_unlock(&memory->pair->lock);
	return 0;
}

static void pair_free(struct memory_pair *pair)
{
	for (int i = 0; i < 2; i++) {
		free(pair->way[i].data);
		if (pair->way[i].readable >= 0)
			close(pair->way[i].readable);
		if (pair->way[i].writable >= 0)
			close(pair->way[i].writable);
	}
	pthread_mutex_destroy(&pair->lock);
	free(pair);
}

static void memory_free(struct stream *stream)
{
	struct stream_memory *memory = (struct stream_memory *)stream;
	struct memory_pair *pair = memory->pair;
	bool last;

	memory_shutdown(stream, STREAM_NOWAIT, NULL);
	pthread_mutex_lock(&pair->lock);
	pair->way[memory->end].reader_gone = true;
	way_signal(&pair->way[memory->end]);
	last = --pair->users == 0;
	pthread_mutex_unlock(&pair->lock);
	if (last)
		pair_free(pair);
	free(memory);
}

static const struct stream_ops memory_ops = {
	.read = memory_read,
	.write = memory_write,
	.shutdown = memory_shutdown,
	.free = memory_free,
};

static int pair_new(size_t capacity, struct memory_pair **ret)
{
	struct memory_pair *pair = calloc(1, sizeof(*pair));
	bool bad = false;

	if (!pair)
		return -ENOMEM;
	pthread_mutex_init(&pair->lock, NULL);
	pair->users = 2;
	for (int i = 0; i < 2; i++) {
		struct pipe_way *way = &pair->way[i];

		way->capacity = capacity;
		way->data = malloc(capacity);
		way->readable = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		way->writable = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
		bad |= !way->data || way->readable < 0 || way->writable < 0;
	}
	if (bad) {
		pair_free(pair);
		return -ENOMEM;
	}
	*ret = pair;
	return 0;
}

int stream_memory_new(size_t capacity, struct stream **ret_a, struct stream **ret_b, struct error *error)
{
	struct stream_memory *a = calloc(1, sizeof(*a));
	struct stream_memory *b = calloc(1, sizeof(*b));
	struct memory_pair *pair;

	if (!a || !b || pair_new(capacity ? capacity : 1, &pair) < 0) {
		free(a);
		free(b);
		return error_set_errno(error, -ENOMEM, "connection in memory");
	}
	a->pair = b->pair = pair;
	b->end = 1;
	stream_init_bottom(&a->base, &memory_ops, pair->way[0].readable, "the other end in memory");
	stream_init_bottom(&b->base, &memory_ops, pair->way[1].readable, "the other end in memory");
	*ret_a = &a->base;
	*ret_b = &b->base;
	return 0;
}
