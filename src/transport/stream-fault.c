/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Injected faults, for tests: cuts the connection after a number of bytes, damages a byte, makes reads and writes
 * short, delays them. Writes pass through a copy, because a damaged byte must not be the caller's.
 */
#include <errno.h>
#include <stdlib.h>

#include "filter.h"
#include "stream-ops.h"

#define FAULT_COPY_MAX (64 * 1024)

struct stream_fault {
	struct stream base;
	struct stream_fault_plan plan;
	uint64_t read_done;           /* bytes that were let through to the reader */
	uint64_t write_done;          /* bytes that were let through to below */
	uint8_t copy[FAULT_COPY_MAX]; /* what is being written */
};

static int fault_delay(struct stream *stream, int64_t deadline, struct error *error)
{
	struct stream_fault *fault = (struct stream_fault *)stream;
	int64_t end = clock_deadline(fault->plan.delay_ns);
	int r;

	if (!fault->plan.delay_ns || deadline == STREAM_NOWAIT)
		return 0;
	if (end > deadline)
		return stream_wait(stream, -1, 0, deadline, "waiting for", error);
	r = stream_wait(stream, -1, 0, end, "waiting for", NULL);
	return r == -ETIMEDOUT ? 0 : error_set(error, r, "canceled while waiting for %s", stream_label(stream));
}

static int fault_cut(struct stream_fault *fault, const char *what, struct error *error)
{
	int code = fault->plan.cut_error < 0 ? fault->plan.cut_error : -ECONNRESET;

	return error_set_errno(error, code, "injected fault while %s %s", what, stream_label(&fault->base));
}

/* The part of `size` bytes, the first of them at `done`, that goes through before the cut and in one call. */
static size_t fault_part(size_t size, uint64_t done, uint64_t cut_after, size_t max)
{
	if (max && size > max)
		size = max;
	if (size > cut_after - done)
		size = (size_t)(cut_after - done);
	return size;
}

static void fault_flip(struct stream_fault *fault, uint8_t *data, size_t size, uint64_t done, uint64_t at)
{
	if (at >= done && at - done < size)
		data[at - done] ^= fault->plan.flip_mask ? fault->plan.flip_mask : 0xff;
}

static ssize_t fault_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	struct stream_fault *fault = (struct stream_fault *)stream;
	ssize_t n;
	int r;

	r = fault_delay(stream, deadline, error);
	if (r < 0)
		return r;
	size = fault_part(size, fault->read_done, fault->plan.cut_read_after, fault->plan.read_max);
	if (!size)
		return fault->plan.cut_error == 1 ? 0 : fault_cut(fault, "reading from", error);
	n = stream_read(stream->below, data, size, deadline, error);
	if (n <= 0)
		return n;
	fault_flip(fault, data, (size_t)n, fault->read_done, fault->plan.flip_read_at);
	fault->read_done += (uint64_t)n;
	return n;
}

static ssize_t fault_write(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			   struct error *error)
{
	struct stream_fault *fault = (struct stream_fault *)stream;
	struct iovec piece = { .iov_base = fault->copy };
	size_t size;
	ssize_t n;
	int r;

	r = fault_delay(stream, deadline, error);
	if (r < 0)
		return r;
	size = fault_part(FAULT_COPY_MAX, fault->write_done, fault->plan.cut_write_after, fault->plan.write_max);
	if (!size)
		return fault_cut(fault, "writing to", error);
	piece.iov_len = stream_iov_copy(fault->copy, size, iov, count, 0);
	fault_flip(fault, fault->copy, piece.iov_len, fault->write_done, fault->plan.flip_write_at);
	n = stream_writev(stream->below, &piece, 1, deadline, error);
	if (n > 0)
		fault->write_done += (uint64_t)n;
	return n;
}

static void fault_free(struct stream *stream)
{
	free(stream);
}

static const struct stream_ops fault_ops = {
	.read = fault_read,
	.write = fault_write,
	.free = fault_free,
};

int stream_fault_push(struct stream **stream, const struct stream_fault_plan *plan, struct error *error)
{
	struct stream_fault *fault = calloc(1, sizeof(*fault));

	if (!fault)
		return error_set_errno(error, -ENOMEM, "injected faults");
	fault->plan = *plan;
	stream_init_filter(&fault->base, &fault_ops, stream);
	return 0;
}
