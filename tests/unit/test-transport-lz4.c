/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LZ4: what goes in comes out, damaged blocks do not, and compressing is chosen where it pays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "transport/filter.h"
#include "transport/lz4-meter.h"

#define SOON clock_deadline(20 * CLOCK_S)
#define SIZE (6 * 1024 * 1024 + 123)

enum content { CONTENT_ZERO, CONTENT_RANDOM, CONTENT_MIXED, CONTENTS };

static void fill(uint8_t *data, size_t size, enum content content)
{
	uint32_t x = 99;

	for (size_t i = 0; i < size; i++) {
		x = x * 1664525 + 1013904223;
		if (content == CONTENT_ZERO || (content == CONTENT_MIXED && (i >> 15) % 3))
			data[i] = (uint8_t)(i % 4096 == 0 ? i >> 12 : 0);
		else
			data[i] = (uint8_t)(x >> 24);
	}
}

struct job {
	struct stream *stream;
	const uint8_t *data;
	size_t step; /* bytes a write; every tenth write flushes */
};

static void *write_all(void *argument)
{
	struct job *job = argument;
	intptr_t r = 0;
	int i = 0;

	for (size_t at = 0; at < SIZE && r == 0; at += job->step, i++) {
		size_t n = SIZE - at < job->step ? SIZE - at : job->step;

		r = stream_write_full(job->stream, job->data + at, n, SOON, NULL);
		if (r == 0 && i % 10 == 9)
			r = stream_flush(job->stream, SOON, NULL);
	}
	if (r == 0)
		r = stream_shutdown(job->stream, SOON, NULL);
	return (void *)r;
}

static void transfer(enum stream_lz4_mode mode, enum content content, size_t step, size_t read_step)
{
	struct stream_lz4_statistics statistics;
	uint8_t *data = malloc(SIZE), *got = malloc(SIZE);
	struct stream *a, *b;
	pthread_t thread;
	struct job job;
	void *result;
	size_t at = 0;

	fill(data, SIZE, content);
	assert_int_equal(stream_memory_new(100000, &a, &b, NULL), 0);
	assert_int_equal(stream_lz4_push(&a, mode, NULL), 0);
	assert_int_equal(stream_lz4_push(&b, STREAM_LZ4_NEVER, NULL), 0);
	job = (struct job){ .stream = a, .data = data, .step = step };
	pthread_create(&thread, NULL, write_all, &job);
	while (at < SIZE) {
		size_t n = SIZE - at < read_step ? SIZE - at : read_step;

		assert_int_equal(stream_read_full(b, got + at, n, SOON, NULL), 0);
		at += n;
	}
	assert_int_equal(stream_read(b, got, 1, SOON, NULL), 0);
	pthread_join(thread, &result);
	assert_null(result);
	fill(data, SIZE, content);
	assert_memory_equal(data + 1, got + 1, SIZE - 1);
	statistics = stream_lz4_statistics(a);
	assert_int_equal(statistics.bytes_raw + statistics.bytes_compressible, SIZE);
	if (mode == STREAM_LZ4_ALWAYS && content == CONTENT_ZERO && step > 4096)
		assert_true(statistics.bytes_compressed < SIZE / 50);
	if (mode == STREAM_LZ4_NEVER || content == CONTENT_RANDOM)
		assert_int_equal(statistics.blocks_compressed, 0);
	assert_true(stream_counters(a).wire_out < SIZE + SIZE / 50);
	assert_int_equal(stream_counters(a).wire_out, stream_counters(b).wire_in);
	assert_int_equal(stream_counters(b).raw_in, SIZE);
	stream_free(a);
	stream_free(b);
	free(data);
	free(got);
}

static void test_transfer(void **state)
{
	const size_t steps[] = { 1000, 4104, 262144, 1000000 };
	const size_t read_steps[] = { 777, 65536, 1000000 };

	for (int content = 0; content < CONTENTS; content++)
		for (size_t i = 0; i < 4; i++)
			for (int mode = STREAM_LZ4_AUTO; mode <= STREAM_LZ4_NEVER; mode++)
				transfer((enum stream_lz4_mode)mode, (enum content)content, steps[i],
					 read_steps[i % 3]);
}

/* Written without waiting, into a way that takes little at a time. */
static void test_nowait(void **state)
{
	uint8_t *data = malloc(SIZE), *got = malloc(SIZE);
	size_t sent = 0, received = 0;
	bool flushed = false;
	struct stream *a, *b;

	fill(data, SIZE, CONTENT_MIXED);
	assert_int_equal(stream_memory_new(5000, &a, &b, NULL), 0);
	assert_int_equal(stream_lz4_push(&a, STREAM_LZ4_ALWAYS, NULL), 0);
	assert_int_equal(stream_lz4_push(&b, STREAM_LZ4_ALWAYS, NULL), 0);
	while (received < SIZE) {
		struct iovec iov = { .iov_base = data + sent, .iov_len = SIZE - sent };
		ssize_t n = stream_writev(a, &iov, 1, STREAM_NOWAIT, NULL);

		assert_true(n >= 0 || n == -EAGAIN);
		sent += n > 0 ? (size_t)n : 0;
		if (sent == SIZE && !flushed)
			flushed = stream_flush(a, STREAM_NOWAIT, NULL) == 0;
		n = stream_read(b, got + received, SIZE - received, STREAM_NOWAIT, NULL);
		assert_true(n > 0 || n == -EAGAIN);
		received += n > 0 ? (size_t)n : 0;
	}
	assert_memory_equal(data, got, SIZE);
	stream_free(a);
	stream_free(b);
	free(data);
	free(got);
}

static void expect_bad(const void *bytes, size_t size, int code)
{
	struct error error = ERROR_INIT;
	struct stream *a, *b;
	uint8_t got[4096];
	ssize_t n;

	assert_int_equal(stream_memory_new(1 << 20, &a, &b, NULL), 0);
	assert_int_equal(stream_lz4_push(&b, STREAM_LZ4_AUTO, NULL), 0);
	assert_int_equal(stream_write_full(a, bytes, size, SOON, NULL), 0);
	stream_free(a);
	n = stream_read(b, got, sizeof(got), SOON, &error);
	assert_int_equal(n, code);
	assert_int_equal(error.code, code);
	stream_free(b);
}

static void test_bad_blocks(void **state)
{
	expect_bad("\0\0\0\0\0\0\0\0", 8, -EBADMSG);
	expect_bad("\0\0\0\0\1\0\0\0", 8, -EBADMSG);
	expect_bad("\1\0\4\0\1\0\4\0", 8, -EBADMSG);         /* 256 KiB and a byte */
	expect_bad("\4\0\0\0\5\0\0\0abcd", 12, -EBADMSG);    /* raw, sizes differ */
	expect_bad("\5\0\0\200\5\0\0\0abcde", 13, -EBADMSG); /* packed, and not smaller */
	expect_bad("\4\0\0\200\20\0\0\0zzzz", 12, -EBADMSG); /* not LZ4 */
	expect_bad("\4\0\0\200\20\0\0\0zz", 10, -ECONNRESET);
	expect_bad("\4\0\0", 3, -ECONNRESET);
}

/* ---- the decision, on simulated links ---- */

struct link {
	double ns_per_byte;  /* of the link below */
	double pack;         /* of the compressor */
	double ratio;        /* of the data */
	double overlap;      /* how much of the link's work goes on while we compress, 0 to 1 */
	int64_t now;         /* simulated clock */
	uint64_t raw_blocks; /* sent as they are */
	uint64_t blocks;     /* all */
};

static void run(struct lz4_meter *meter, struct link *link, int64_t ns)
{
	const size_t bytes = 256 * 1024;
	int64_t end = link->now + ns;

	link->raw_blocks = link->blocks = 0;
	while (link->now < end) {
		bool packed = meter->way == LZ4_PACKED;
		int64_t pack = packed ? (int64_t)((double)bytes * link->pack) : 0;
		size_t wire = packed ? (size_t)((double)bytes * link->ratio) : bytes;
		int64_t write = (int64_t)((double)wire * link->ns_per_byte - (double)pack * link->overlap);

		if (lz4_meter_wants_sample(meter, link->now)) {
			lz4_meter_sample(meter, 16384, (size_t)(16384 * link->ratio), (int64_t)(16384 * link->pack),
					 link->now);
			link->now += (int64_t)(16384 * link->pack);
		}
		if (write < (int64_t)((double)wire * 0.2))
			write = (int64_t)((double)wire * 0.2);
		link->now += pack + write;
		lz4_meter_block(meter, bytes, wire, pack, write, link->now);
		link->blocks++;
		link->raw_blocks += !packed;
	}
}

static int raw_percent(const struct link *link)
{
	return (int)(100 * link->raw_blocks / link->blocks);
}

static void test_meter(void **state)
{
	for (int overlap = 0; overlap < 2; overlap++) {
		struct link fast = { .ns_per_byte = 0.8, .pack = 1.7, .ratio = 0.3, .overlap = overlap };
		struct link slow = { .ns_per_byte = 9, .pack = 1.7, .ratio = 0.3, .overlap = overlap };
		struct link random = { .ns_per_byte = 9, .pack = 1.7, .ratio = 1, .overlap = overlap };
		struct link crawl = { .ns_per_byte = 1000, .pack = 1.7, .ratio = 0.5, .overlap = overlap };
		struct lz4_meter meter;

		lz4_meter_init(&meter);
		run(&meter, &fast, 10 * CLOCK_S);
		assert_true(raw_percent(&fast) >= 98);

		lz4_meter_init(&meter);
		run(&meter, &slow, CLOCK_S);
		run(&meter, &slow, 10 * CLOCK_S);
		assert_true(raw_percent(&slow) <= 5);

		/* The data becomes incompressible, and later compressible again. */
		random.now = slow.now;
		run(&meter, &random, 2 * CLOCK_S);
		run(&meter, &random, 10 * CLOCK_S);
		assert_true(raw_percent(&random) >= 95);
		slow.now = random.now;
		run(&meter, &slow, 3 * CLOCK_S);
		run(&meter, &slow, 10 * CLOCK_S);
		assert_true(raw_percent(&slow) <= 5);

		/* The link becomes fast: back to raw. */
		fast.now = slow.now;
		run(&meter, &fast, 10 * CLOCK_S);
		run(&meter, &fast, 10 * CLOCK_S);
		assert_true(raw_percent(&fast) >= 90);

		lz4_meter_init(&meter);
		run(&meter, &crawl, 5 * CLOCK_S);
		run(&meter, &crawl, 20 * CLOCK_S);
		assert_true(raw_percent(&crawl) <= 5);
	}
}

static void *drain(void *argument)
{
	static uint8_t data[262144];

	while (stream_read(argument, data, sizeof(data), SOON, NULL) > 0)
		;
	return NULL;
}

/* In earnest: compressible data over a limited link goes out faster than the limit. */
static void test_auto_on_slow_link(void **state)
{
	struct stream_lz4_statistics statistics;
	struct rate_bucket *bucket;
	struct stream *a, *b;
	uint8_t *data = malloc(262144);
	pthread_t thread;
	int64_t end;

	assert_int_equal(rate_bucket_new(40000000, &bucket, NULL), 0);
	assert_int_equal(stream_memory_new(1 << 20, &a, &b, NULL), 0);
	assert_int_equal(stream_rate_push(&a, bucket, NULL), 0);
	assert_int_equal(stream_lz4_push(&a, STREAM_LZ4_AUTO, NULL), 0);
	assert_int_equal(stream_lz4_push(&b, STREAM_LZ4_AUTO, NULL), 0);
	fill(data, 262144, CONTENT_MIXED);
	pthread_create(&thread, NULL, drain, b);
	end = clock_deadline(1500 * CLOCK_MS);
	while (clock_now_ns() < end)
		assert_int_equal(stream_write_full(a, data, 262144, SOON, NULL), 0);
	assert_int_equal(stream_shutdown(a, SOON, NULL), 0);
	pthread_join(thread, NULL);
	statistics = stream_lz4_statistics(a);
	print_message("blocks: %d raw, %d compressed\n", (int)statistics.blocks_raw, (int)statistics.blocks_compressed);
	assert_true(statistics.blocks_compressed > statistics.blocks_raw);
	stream_free(a);
	stream_free(b);
	rate_bucket_unref(bucket);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_transfer),   cmocka_unit_test(test_nowait),
		cmocka_unit_test(test_bad_blocks), cmocka_unit_test(test_meter),
		cmocka_unit_test(test_auto_on_slow_link),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
