/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether compressing pays, from measurements that it is given: pure arithmetic, no clock and no compressor
 * of its own, so that tests can play it any link. Times in nanoseconds, costs in nanoseconds per byte of the user's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lz4_way {
	LZ4_RAW,
	LZ4_PACKED,
};

struct lz4_meter {
	enum lz4_way way;      /* what the next block is sent as */
	double cost[2];        /* by way: time in compressor and link below per byte; moving average */
	double link;           /* time in the link below per byte on it while packing; moving average */
	double pack;           /* time in the compressor per byte; moving average */
	double ratio;          /* bytes after compressing per byte; moving average */
	bool sampled;          /* pack and ratio are known */
	bool trial;            /* the way was changed lately and has to show that it is better */
	uint64_t way_bytes;    /* bytes sent since the way was changed, settling not counted */
	int64_t way_ns;        /* time taken by these */
	uint64_t settle_bytes; /* bytes still to go before the trial is measured: the buffers below are as before */
	int64_t settle_until;  /* or the time at which that begins, whichever comes first */
	uint32_t blocks;       /* blocks since the last sample */
	int64_t sample_at;     /* when the next sample is due, if fewer blocks have gone */
	int64_t retry_at;      /* when the other way may be tried again */
	int64_t backoff;       /* how long the next lost trial is paid for */
};

void lz4_meter_init(struct lz4_meter *meter);

/* Whether the compressor should be tried on a piece of the next block; then tell with lz4_meter_sample(). */
bool lz4_meter_wants_sample(const struct lz4_meter *meter, int64_t now);
void lz4_meter_sample(struct lz4_meter *meter, size_t bytes, size_t packed, int64_t pack_ns, int64_t now);

/* A block has been sent: `bytes` of the user's as `wire` bytes. `way` is meter->way, even if it did not shrink. */
void lz4_meter_block(struct lz4_meter *meter, size_t bytes, size_t wire, int64_t pack_ns, int64_t write_ns,
		     int64_t now);
