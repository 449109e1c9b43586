/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. Sending a byte raw costs r (time in the write below: copying, encrypting, waiting for the link). Packing it
 * costs c in the compressor, and what it becomes (its ratio) takes its share of the link meanwhile: at best
 * max(c, ratio * r), at worst the sum, depending on how much of the link's work goes on beside us.
 *
 * So predictions only say what is worth a trial; what decides is the measured cost of a byte each way. Raw is where
 * it begins. Every SAMPLE_BLOCKS blocks a piece of one is compressed to keep c and the ratio up to date, whatever way
 * is in use; if the best case beats r clearly, packing is tried. In the packed way, the link's cost per byte is seen
 * only from below (it works while we compress); if raw at that cost would win, raw is tried. A trial first lets the
 * buffers below settle, then measures; the loser is tried again after a pause, which doubles with each loss.
 */
#include "lz4-meter.h"

#include "util/clock.h"

#define SAMPLE_BLOCKS 32
#define SAMPLE_NS (100 * CLOCK_MS)
#define SETTLE_BYTES (UINT64_C(6) << 20)
#define SETTLE_NS (150 * CLOCK_MS)
#define MEASURE_BYTES (UINT64_C(6) << 20)
#define MEASURE_NS (150 * CLOCK_MS)
#define RETRY_MIN_NS (500 * CLOCK_MS)
#define RETRY_MAX_NS (8 * CLOCK_S)
#define CLEARLY 0.9
#define HOPELESS 0.97
#define WEIGHT 0.125

static void average(double *value, double sample)
{
	*value = *value == 0 ? sample : *value + (sample - *value) * WEIGHT;
}

static double larger(double a, double b)
{
	return a > b ? a : b;
}

void lz4_meter_init(struct lz4_meter *meter)
{
	*meter = (struct lz4_meter){ .way = LZ4_RAW, .backoff = RETRY_MIN_NS };
}

static void change_way(struct lz4_meter *meter, bool trial, int64_t now)
{
	meter->way = meter->way == LZ4_RAW ? LZ4_PACKED : LZ4_RAW;
	meter->trial = trial;
	meter->way_bytes = 0;
	meter->way_ns = 0;
	meter->settle_bytes = SETTLE_BYTES;
	meter->settle_until = now + SETTLE_NS;
	if (trial) {
		meter->cost[meter->way] = 0;
		meter->link = 0;
	}
}

bool lz4_meter_wants_sample(const struct lz4_meter *meter, int64_t now)
{
	return meter->way == LZ4_RAW && (!meter->sampled || meter->blocks >= SAMPLE_BLOCKS || now >= meter->sample_at);
}

void lz4_meter_sample(struct lz4_meter *meter, size_t bytes, size_t packed, int64_t pack_ns, int64_t now)
{
	average(&meter->pack, (double)pack_ns / (double)bytes);
	average(&meter->ratio, (double)packed / (double)bytes);
	meter->sampled = true;
	meter->blocks = 0;
	meter->sample_at = now + SAMPLE_NS;
}

static bool other_is_worth_a_trial(const struct lz4_meter *meter)
{
	double cost = meter->cost[meter->way];

	if (meter->way == LZ4_RAW)
		return meter->sampled && larger(meter->pack, meter->ratio * cost) < cost * CLEARLY;
	return meter->link < cost * CLEARLY;
}

/* The measured part of a trial is over: stay, or go back and wait longer before the next. */
static void judge(struct lz4_meter *meter, int64_t now)
{
	enum lz4_way other = meter->way == LZ4_RAW ? LZ4_PACKED : LZ4_RAW;
	bool won = meter->cost[meter->way] < meter->cost[other] * CLEARLY;

	meter->trial = false;
	if (won) {
		meter->backoff = RETRY_MIN_NS;
	} else {
		change_way(meter, false, now);
		meter->backoff = meter->backoff * 2 < RETRY_MAX_NS ? meter->backoff * 2 : RETRY_MAX_NS;
	}
	meter->retry_at = now + meter->backoff;
}

void lz4_meter_block(struct lz4_meter *meter, size_t bytes, size_t wire, int64_t pack_ns, int64_t write_ns,
		     int64_t now)
{
	meter->blocks++;
	if (meter->way == LZ4_PACKED)
		lz4_meter_sample(meter, bytes, wire, pack_ns, now);
	if (meter->settle_bytes > bytes && now < meter->settle_until) {
		meter->settle_bytes -= bytes;
		return;
	}
	meter->settle_bytes = 0;
	meter->way_bytes += bytes;
	meter->way_ns += pack_ns + write_ns;
	if (meter->trial)
		meter->cost[meter->way] = (double)meter->way_ns / (double)meter->way_bytes;
	else
		average(&meter->cost[meter->way], (double)(pack_ns + write_ns) / (double)bytes);
	if (meter->way == LZ4_PACKED)
		average(&meter->link, (double)write_ns / (double)wire);

	if (meter->way == LZ4_PACKED && meter->ratio > HOPELESS) {
		change_way(meter, false, now);
		meter->retry_at = now + RETRY_MIN_NS;
		return;
	}
	if (meter->way_bytes < MEASURE_BYTES && meter->way_ns < MEASURE_NS)
		return;
	if (meter->trial)
		judge(meter, now);
	else if (now >= meter->retry_at && other_is_worth_a_trial(meter))
		change_way(meter, true, now);
}
