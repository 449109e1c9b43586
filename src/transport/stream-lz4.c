/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LZ4 blocks on a stream, compressed where it pays (lz4-meter.h decides).
 *
 * A block is a header of eight bytes, little-endian { u32 size on the wire, its top bit set if compressed; u32 size
 * of the user's data }, and the data. Blocks are independent of one another: losing the measurement game costs
 * nothing but the block at hand, and neither end keeps a dictionary.
 *
 * Writing. Small pieces gather in `stage` until a block is full or flushed; in the raw way a large write goes out
 * behind a header without being copied. A block that could not be sent whole (STREAM_NOWAIT) stays as `pending`, in
 * stage or packed, and goes before anything else.
 *
 * Reading. Raw data is read to where the caller wants it; a compressed block is gathered whole in `in`, then
 * unpacked there too if there is room for all of it, else into `out`. A header is checked before any memory is
 * taken: neither size above STREAM_LZ4_BLOCK_MAX, raw sizes equal, compressed ones smaller. What does not unpack to
 * just the size that was announced is -EBADMSG. Memory for each direction (512 KiB) is taken when it is first used.
 */
#include <endian.h>
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#include "filter.h"
#include "lz4-meter.h"
#include "stream-ops.h"

#define BLOCK_HEADER 8
#define BLOCK_PACKED (UINT32_C(1) << 31)
#define PACK_MIN 512            /* smaller blocks are not worth the call */
#define DIRECT_MIN (16 * 1024)  /* from here on a raw write is not copied */
#define SAMPLE_SIZE (16 * 1024) /* how much of a block is compressed for a sample */
#define WINDOW_MAX 64

struct stream_lz4 {
	struct stream base;
	enum stream_lz4_mode mode;
	struct lz4_meter meter;
	struct stream_lz4_statistics statistics;

	uint8_t *stage;      /* BLOCK_MAX bytes: what is not in a block yet */
	size_t staged;       /* bytes in stage */
	uint8_t *packed;     /* BLOCK_MAX bytes: compressed block */
	uint8_t out_header[BLOCK_HEADER];
	const uint8_t *body; /* of the pending block: stage or packed; NULL: none is pending */
	size_t body_size;    /* bytes of it */
	size_t body_sent;    /* bytes of header and body that are out */
	int64_t body_pack;   /* time that the compressor took for it */
	int64_t body_write;  /* time that writing has taken so far */

	uint8_t in_header[BLOCK_HEADER];
	size_t in_header_have; /* bytes of the header that have come */
	bool in_packed;        /* the block being read is compressed */
	uint32_t in_raw;       /* its size, unpacked */
	uint32_t in_wire;      /* its size on the wire */
	uint32_t in_have;      /* bytes of it that have come (raw: that were passed on) */
	uint8_t *in;           /* BLOCK_MAX bytes: compressed block */
	uint8_t *out;          /* BLOCK_MAX bytes: unpacked block */
	size_t out_start;      /* first byte of it that was not passed on */
	size_t out_end;        /* end of the bytes in it */
};

static int buffers_get(uint8_t **a, uint8_t **b, struct error *error)
{
	if (!*a)
		*a = malloc(STREAM_LZ4_BLOCK_MAX);
	if (!*b)
		*b = malloc(STREAM_LZ4_BLOCK_MAX);
	if (!*a || !*b)
		return error_set_errno(error, -ENOMEM, "buffers for LZ4");
	return 0;
}

static void header_encode(uint8_t header[BLOCK_HEADER], size_t raw, size_t wire, bool packed)
{
	uint32_t words[2] = { htole32((uint32_t)wire | (packed ? BLOCK_PACKED : 0)), htole32((uint32_t)raw) };

	memcpy(header, words, sizeof(words));
}

/* ---- writing ---- */

static int pack(struct stream_lz4 *lz4, const uint8_t *data, size_t size, size_t room, int64_t *ret_ns)
{
	int64_t start = clock_now_ns();
	int n = LZ4_compress_default((const char *)data, (char *)lz4->packed, (int)size, (int)room);

	*ret_ns = clock_now_ns() - start;
	lz4->statistics.nanoseconds += (uint64_t)*ret_ns;
	return n;
}

static bool sample_is_due(const struct stream_lz4 *lz4)
{
	return lz4->mode == STREAM_LZ4_AUTO && lz4_meter_wants_sample(&lz4->meter, clock_now_ns());
}

/* Tries the compressor on some of the data that is about to be sent raw. */
static void take_sample(struct stream_lz4 *lz4, const uint8_t *data, size_t size)
{
	int64_t ns;
	int n;

	if (size > SAMPLE_SIZE)
		size = SAMPLE_SIZE;
	if (size < PACK_MIN)
		return;
	n = pack(lz4, data, size, STREAM_LZ4_BLOCK_MAX, &ns);
	lz4_meter_sample(&lz4->meter, size, n > 0 ? (size_t)n : size, ns, clock_now_ns());
}

/* The same from the pieces of a direct block, by way of the free part of stage. */
static void take_sample_of(struct stream_lz4 *lz4, const struct iovec *iov, int count)
{
	size_t size = stream_iov_size(iov, count), skip = 0;

	if (lz4->staged > STREAM_LZ4_BLOCK_MAX - SAMPLE_SIZE)
		return;
	/* Not always from the same place: blocks often have a pattern. */
	if (size > SAMPLE_SIZE)
		skip = (size_t)(lz4->base.bytes_out / 4096 * 7919 * 4096 % (size - SAMPLE_SIZE));
	size = stream_iov_copy(lz4->stage + lz4->staged, SAMPLE_SIZE, iov, count, skip);
	take_sample(lz4, lz4->stage + lz4->staged, size);
}

static bool wants_packing(const struct stream_lz4 *lz4)
{
	return lz4->mode == STREAM_LZ4_ALWAYS || (lz4->mode == STREAM_LZ4_AUTO && lz4->meter.way == LZ4_PACKED);
}

static void block_done(struct stream_lz4 *lz4, size_t raw, size_t wire, int64_t pack_ns, int64_t write_ns)
{
	struct stream_lz4_statistics *statistics = &lz4->statistics;

	if (wire < raw) {
		statistics->blocks_compressed++;
		statistics->bytes_compressible += raw;
		statistics->bytes_compressed += wire;
	} else {
		statistics->blocks_raw++;
		statistics->bytes_raw += raw;
	}
	if (lz4->mode == STREAM_LZ4_AUTO && raw >= PACK_MIN)
		lz4_meter_block(&lz4->meter, raw, wire, pack_ns, write_ns, clock_now_ns());
}

/* Makes what is staged the pending block. */
static void block_make(struct stream_lz4 *lz4)
{
	int packed = 0;

	lz4->body_pack = 0;
	lz4->body_write = 0;
	if (wants_packing(lz4) && lz4->staged >= PACK_MIN)
		packed = pack(lz4, lz4->stage, lz4->staged, lz4->staged - 1, &lz4->body_pack);
	else if (sample_is_due(lz4))
		take_sample(lz4, lz4->stage, lz4->staged);
	lz4->body = packed > 0 ? lz4->packed : lz4->stage;
	lz4->body_size = packed > 0 ? (size_t)packed : lz4->staged;
	lz4->body_sent = 0;
	header_encode(lz4->out_header, lz4->staged, lz4->body_size, packed > 0);
}

/* Sends the rest of the pending block, if there is one. */
static int block_send(struct stream_lz4 *lz4, int64_t deadline, struct error *error)
{
	struct iovec all[2] = {
		{ .iov_base = lz4->out_header, .iov_len = BLOCK_HEADER },
		{ .iov_base = (void *)lz4->body, .iov_len = lz4->body_size },
	};
	size_t size = BLOCK_HEADER + lz4->body_size;

	if (!lz4->body)
		return 0;
	while (lz4->body_sent < size) {
		struct iovec window[2];
		int pieces = stream_iov_window(window, 2, all, 2, lz4->body_sent, size);
		int64_t start = clock_now_ns();
		ssize_t n = stream_writev(lz4->base.below, window, pieces, deadline, error);

		lz4->body_write += clock_now_ns() - start;
		if (n < 0)
			return (int)n;
		lz4->body_sent += (size_t)n;
	}
	block_done(lz4, lz4->staged, lz4->body_size, lz4->body_pack, lz4->body_write);
	lz4->body = NULL;
	lz4->staged = 0;
	return 0;
}

/* One raw block of what is staged and the pieces, straight from where they are. */
static ssize_t block_send_direct(struct stream_lz4 *lz4, const struct iovec *iov, int count, int64_t deadline,
				 struct error *error)
{
	size_t staged = lz4->staged, size;
	struct iovec all[WINDOW_MAX + 2];
	int64_t start;
	int pieces, r;

	all[0] = (struct iovec){ .iov_base = lz4->out_header, .iov_len = BLOCK_HEADER };
	all[1] = (struct iovec){ .iov_base = lz4->stage, .iov_len = staged };
	pieces = stream_iov_window(all + 2, WINDOW_MAX, iov, count, 0, STREAM_LZ4_BLOCK_MAX - staged);
	size = stream_iov_size(all + 2, pieces);
	if (sample_is_due(lz4))
		take_sample_of(lz4, all + 2, pieces);
	header_encode(lz4->out_header, staged + size, staged + size, false);
	start = clock_now_ns();
	r = stream_writev_full(lz4->base.below, all, pieces + 2, deadline, error);
	if (r < 0)
		return r;
	lz4->staged = 0;
	block_done(lz4, staged + size, staged + size, 0, clock_now_ns() - start);
	return (ssize_t)size;
}

static ssize_t lz4_write(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			 struct error *error)
{
	struct stream_lz4 *lz4 = (struct stream_lz4 *)stream;
	size_t size = stream_iov_size(iov, count), n;
	int r;

	r = buffers_get(&lz4->stage, &lz4->packed, error);
	if (r == 0)
		r = block_send(lz4, deadline, error);
	if (r < 0)
		return r;
	if (!wants_packing(lz4) && size >= DIRECT_MIN && deadline != STREAM_NOWAIT)
		return block_send_direct(lz4, iov, count, deadline, error);

	n = stream_iov_copy(lz4->stage + lz4->staged, STREAM_LZ4_BLOCK_MAX - lz4->staged, iov, count, 0);
	lz4->staged += n;
	if (lz4->staged == STREAM_LZ4_BLOCK_MAX) {
		block_make(lz4);
		r = block_send(lz4, deadline, error);
		if (r < 0 && r != -EAGAIN)
			return r;
	}
	return (ssize_t)n;
}

static int lz4_flush(struct stream *stream, int64_t deadline, struct error *error)
{
	struct stream_lz4 *lz4 = (struct stream_lz4 *)stream;

	if (!lz4->body && lz4->staged)
		block_make(lz4);
	return block_send(lz4, deadline, error);
}

/* ---- reading ---- */

static int bad_block(struct stream_lz4 *lz4, const char *what, struct error *error)
{
	return error_set(error, -EBADMSG, "damaged data from %s: an LZ4 block %s", stream_label(&lz4->base), what);
}

static int header_check(struct stream_lz4 *lz4, struct error *error)
{
	uint32_t words[2];

	memcpy(words, lz4->in_header, sizeof(words));
	lz4->in_packed = le32toh(words[0]) & BLOCK_PACKED;
	lz4->in_wire = le32toh(words[0]) & ~BLOCK_PACKED;
	lz4->in_raw = le32toh(words[1]);
	lz4->in_have = 0;
	if (!lz4->in_wire || !lz4->in_raw)
		return bad_block(lz4, "is empty", error);
	if (lz4->in_wire > STREAM_LZ4_BLOCK_MAX || lz4->in_raw > STREAM_LZ4_BLOCK_MAX)
		return bad_block(lz4, "is larger than allowed", error);
	if (lz4->in_packed ? lz4->in_wire >= lz4->in_raw : lz4->in_wire != lz4->in_raw)
		return bad_block(lz4, "has sizes that contradict each other", error);
	return 0;
}

/* A read from below in which the end of the data is an error. */
static ssize_t read_below(struct stream_lz4 *lz4, void *data, size_t size, int64_t deadline, struct error *error)
{
	ssize_t n = stream_read(lz4->base.below, data, size, deadline, error);

	if (n == 0)
		return error_set(error, -ECONNRESET, "%s closed the connection in the middle of a block",
				 stream_label(&lz4->base));
	return n;
}

/* 1: a block's header is there; 0: orderly end between two blocks. */
static ssize_t read_header(struct stream_lz4 *lz4, int64_t deadline, struct error *error)
{
	int r;

	while (lz4->in_header_have < BLOCK_HEADER) {
		uint8_t *place = lz4->in_header + lz4->in_header_have;
		size_t left = BLOCK_HEADER - lz4->in_header_have;
		ssize_t n;

		if (lz4->in_header_have)
			n = read_below(lz4, place, left, deadline, error);
		else
			n = stream_read(lz4->base.below, place, left, deadline, error);
		if (n <= 0)
			return n;
		lz4->in_header_have += (size_t)n;
		if (lz4->in_header_have < BLOCK_HEADER)
			continue;
		r = header_check(lz4, error);
		if (r < 0) {
			/* Whoever asks again gets the same answer. */
			lz4->in_raw = lz4->in_wire = 0;
			return r;
		}
	}
	return lz4->in_wire ? 1 : bad_block(lz4, "is not usable", error);
}

static ssize_t read_packed(struct stream_lz4 *lz4, void *data, size_t size, int64_t deadline, struct error *error)
{
	bool direct = size >= lz4->in_raw;
	ssize_t n;
	int r;

	r = buffers_get(&lz4->in, &lz4->out, error);
	if (r < 0)
		return r;
	while (lz4->in_have < lz4->in_wire) {
		n = read_below(lz4, lz4->in + lz4->in_have, lz4->in_wire - lz4->in_have, deadline, error);
		if (n < 0)
			return n;
		lz4->in_have += (uint32_t)n;
	}
	r = LZ4_decompress_safe((const char *)lz4->in, direct ? data : (char *)lz4->out, (int)lz4->in_wire,
				(int)lz4->in_raw);
	if (r != (int)lz4->in_raw)
		return bad_block(lz4, "does not unpack", error);
	lz4->in_header_have = 0;
	if (direct)
		return r;
	memcpy(data, lz4->out, size);
	lz4->out_start = size;
	lz4->out_end = lz4->in_raw;
	return (ssize_t)size;
}

static ssize_t lz4_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	struct stream_lz4 *lz4 = (struct stream_lz4 *)stream;
	ssize_t n;

	if (lz4->out_start < lz4->out_end) {
		if (size > lz4->out_end - lz4->out_start)
			size = lz4->out_end - lz4->out_start;
		memcpy(data, lz4->out + lz4->out_start, size);
		lz4->out_start += size;
		return (ssize_t)size;
	}
	n = read_header(lz4, deadline, error);
	if (n <= 0)
		return n;
	if (lz4->in_packed)
		return read_packed(lz4, data, size, deadline, error);
	if (size > lz4->in_wire - lz4->in_have)
		size = lz4->in_wire - lz4->in_have;
	n = read_below(lz4, data, size, deadline, error);
	if (n < 0)
		return n;
	lz4->in_have += (uint32_t)n;
	if (lz4->in_have == lz4->in_wire)
		lz4->in_header_have = 0;
	return n;
}

static bool lz4_pending(const struct stream *stream)
{
	const struct stream_lz4 *lz4 = (const struct stream_lz4 *)stream;

	return lz4->out_start < lz4->out_end;
}

static void lz4_free(struct stream *stream)
{
	struct stream_lz4 *lz4 = (struct stream_lz4 *)stream;

	free(lz4->stage);
	free(lz4->packed);
	free(lz4->in);
	free(lz4->out);
	free(lz4);
}

static const struct stream_ops lz4_ops = {
	.read = lz4_read,
	.write = lz4_write,
	.flush = lz4_flush,
	.pending = lz4_pending,
	.free = lz4_free,
};

int stream_lz4_push(struct stream **stream, enum stream_lz4_mode mode, struct error *error)
{
	struct stream_lz4 *lz4 = calloc(1, sizeof(*lz4));

	if (!lz4)
		return error_set_errno(error, -ENOMEM, "LZ4");
	lz4->mode = mode;
	lz4_meter_init(&lz4->meter);
	stream_init_filter(&lz4->base, &lz4_ops, stream);
	return 0;
}

struct stream_lz4_statistics stream_lz4_statistics(const struct stream *stream)
{
	const struct stream *found = stream_find(stream, &lz4_ops);

	if (!found)
		return (struct stream_lz4_statistics){ 0 };
	return ((const struct stream_lz4 *)found)->statistics;
}
