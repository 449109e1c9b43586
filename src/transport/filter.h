/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filters that can be put onto any stream: compression, bandwidth limit, injected faults. TLS is in tls.h. The order
 * that makes sense, from the bottom: socket, (fault), rate, TLS, LZ4: the limit counts what really goes out, and LZ4
 * measures the link as limited.
 *
 * All push functions replace *stream by the new top; on failure *stream is unchanged.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream.h"

/* ---- LZ4 ----
 *
 * Both ends push it. What is written is cut into blocks of at most STREAM_LZ4_BLOCK_MAX bytes, each sent compressed
 * or as it is. Which of the two is decided by measuring: time in the stream below per byte, time of the compressor,
 * ratio. The losing way is tried again every so often. Blocks: docs/protocol.md, and the comment in stream-lz4.c.
 */
#define STREAM_LZ4_BLOCK_MAX (256 * 1024)

enum stream_lz4_mode {
	STREAM_LZ4_AUTO,   /* where it pays */
	STREAM_LZ4_ALWAYS, /* each block that gets smaller by it */
	STREAM_LZ4_NEVER,  /* only raw blocks; the peer's compressed blocks are still read */
};

struct stream_lz4_statistics {
	uint64_t blocks_raw;        /* blocks sent as they are */
	uint64_t blocks_compressed; /* blocks sent compressed */
	uint64_t bytes_raw;         /* bytes in the blocks sent as they are */
	uint64_t bytes_compressible; /* bytes that went into the blocks sent compressed */
	uint64_t bytes_compressed;  /* bytes that these became */
	uint64_t nanoseconds;       /* time spent in the compressor, samples included */
};

int stream_lz4_push(struct stream **stream, enum stream_lz4_mode mode, struct error *error);

/* Of the topmost LZ4 filter in the chain; all zero if there is none. */
struct stream_lz4_statistics stream_lz4_statistics(const struct stream *stream);

/* ---- Bandwidth limit ---- */

struct rate_bucket;

/*
 * A limit in bytes a second (0: none), shared by all streams that it is given to, in any threads. Reference counted:
 * _new() gives one reference, a filter holds its own.
 */
int rate_bucket_new(uint64_t bytes_per_second, struct rate_bucket **ret, struct error *error);
struct rate_bucket *rate_bucket_ref(struct rate_bucket *bucket);
void rate_bucket_unref(struct rate_bucket *bucket);
void rate_bucket_set(struct rate_bucket *bucket, uint64_t bytes_per_second);

/* Limits what is written through this stream; reading is as fast as ever. */
int stream_rate_push(struct stream **stream, struct rate_bucket *bucket, struct error *error);

/* ---- Faults, for tests ---- */

#define STREAM_FAULT_NEVER UINT64_MAX

struct stream_fault_plan {
	uint64_t cut_read_after;  /* bytes let through before reads fail; STREAM_FAULT_NEVER */
	uint64_t cut_write_after; /* bytes let through before writes fail; STREAM_FAULT_NEVER */
	int cut_error;            /* negative errno of a cut; 0: -ECONNRESET; 1: for reads an orderly end */
	uint64_t flip_read_at;    /* position of the byte that is damaged on its way in; STREAM_FAULT_NEVER */
	uint64_t flip_write_at;   /* position of the byte that is damaged on its way out; STREAM_FAULT_NEVER */
	uint8_t flip_mask;        /* bits that are turned over in it; 0: all */
	size_t read_max;          /* most bytes that one read returns; 0: no limit */
	size_t write_max;         /* most bytes that one write takes; 0: no limit */
	int64_t delay_ns;         /* wait before each read and write that may block */
};

#define STREAM_FAULT_PLAN_NONE                                                                                       \
	{                                                                                                            \
		.cut_read_after = STREAM_FAULT_NEVER, .cut_write_after = STREAM_FAULT_NEVER,                         \
		.flip_read_at = STREAM_FAULT_NEVER, .flip_write_at = STREAM_FAULT_NEVER,                             \
	}

/* The plan is copied. */
int stream_fault_push(struct stream **stream, const struct stream_fault_plan *plan, struct error *error);
