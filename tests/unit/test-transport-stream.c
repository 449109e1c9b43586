/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams in memory and on sockets, deadlines, cancelling, polling, counters, and injected faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/filter.h"
#include "transport/stream.h"

#define SOON clock_deadline(5 * CLOCK_S)
#define BIG (3 * 1024 * 1024 + 17)

/* Each test runs on both kinds of bottom. */
static void make_pair(bool memory, struct stream **a, struct stream **b)
{
	int fds[2];

	if (memory) {
		assert_int_equal(stream_memory_new(64 * 1024, a, b, NULL), 0);
		return;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(stream_socket_new(fds[0], "a", a, NULL), 0);
	assert_int_equal(stream_socket_new(fds[1], NULL, b, NULL), 0);
}

static void fill(uint8_t *data, size_t size)
{
	uint32_t x = 12345;

	for (size_t i = 0; i < size; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (uint8_t)(x >> 24);
	}
}

static void *write_big(void *argument)
{
	struct stream *stream = argument;
	uint8_t *data = malloc(BIG);
	struct iovec iov[200];
	size_t at = 0;
	int r;

	/* Many pieces, some empty, more than fit into one window. */
	fill(data, BIG);
	for (int i = 0; i < 200; i++) {
		iov[i].iov_base = data + at;
		iov[i].iov_len = i == 199 ? BIG - at : (i % 7 == 0 ? 0 : (size_t)i * 100);
		at += iov[i].iov_len;
	}
	r = stream_writev_full(stream, iov, 200, SOON, NULL);
	if (r == 0)
		r = stream_shutdown(stream, SOON, NULL);
	free(data);
	return (void *)(intptr_t)r;
}

static void read_big(struct stream *reader, struct stream *writer)
{
	uint8_t *expected = malloc(BIG), *got = malloc(BIG);
	struct error error = ERROR_INIT;
	pthread_t thread;
	void *result;

	fill(expected, BIG);
	pthread_create(&thread, NULL, write_big, writer);
	assert_int_equal(stream_read_full(reader, got, BIG, SOON, &error), 0);
	assert_memory_equal(expected, got, BIG);
	assert_int_equal(stream_read(reader, got, 1, SOON, &error), 0);
	assert_int_equal(stream_read_full(reader, got, 1, SOON, &error), -ENODATA);
	pthread_join(thread, &result);
	assert_null(result);
	free(expected);
	free(got);
}

static void test_transfer(void **state)
{
	for (int memory = 0; memory < 2; memory++) {
		struct stream_counters counters;
		struct stream *a, *b;

		make_pair(memory, &a, &b);
		read_big(a, b);
		counters = stream_counters(a);
		assert_int_equal(counters.raw_in, BIG);
		assert_int_equal(counters.wire_in, BIG);
		assert_int_equal(stream_counters(b).raw_out, BIG);
		/* The other direction is still open. */
		assert_int_equal(stream_write_full(a, "x", 1, SOON, NULL), 0);
		assert_int_equal(stream_read_full(b, &counters, 1, SOON, NULL), 0);
		stream_free(a);
		stream_free(b);
	}
}

static void test_deadline(void **state)
{
	for (int memory = 0; memory < 2; memory++) {
		struct error error = ERROR_INIT;
		struct stream *a, *b;
		uint8_t *data = calloc(1, BIG);
		int64_t start = clock_now_ns();

		make_pair(memory, &a, &b);
		assert_int_equal(stream_read(a, data, 1, clock_deadline(30 * CLOCK_MS), &error), -ETIMEDOUT);
		assert_true(clock_now_ns() - start >= 30 * CLOCK_MS);
		assert_non_null(strstr(error.message, "timed out"));
		assert_int_equal(stream_read(a, data, 1, STREAM_NOWAIT, NULL), -EAGAIN);
		assert_int_equal(stream_write_full(a, data, BIG, clock_deadline(30 * CLOCK_MS), NULL), -ETIMEDOUT);
		stream_free(a);
		stream_free(b);
		free(data);
	}
}

static void *cancel_later(void *argument)
{
	uint64_t one = 1;

	usleep(30000);
	assert_int_equal(write(*(int *)argument, &one, 8), 8);
	return NULL;
}

static void test_cancel(void **state)
{
	for (int memory = 0; memory < 2; memory++) {
		struct error error = ERROR_INIT;
		int fd = eventfd(0, EFD_CLOEXEC);
		struct rate_bucket *bucket;
		struct stream *a, *b;
		pthread_t thread;
		uint8_t byte;

		make_pair(memory, &a, &b);
		assert_int_equal(rate_bucket_new(10, &bucket, NULL), 0);
		stream_set_cancel(a, fd);
		assert_int_equal(stream_rate_push(&a, bucket, NULL), 0);
		pthread_create(&thread, NULL, cancel_later, &fd);
		assert_int_equal(stream_read(a, &byte, 1, SOON, &error), -ECANCELED);
		assert_non_null(strstr(error.message, "canceled"));
		pthread_join(thread, NULL);
		/* The filter pushed later sees it too: after the burst it would have to wait for a long time. */
		assert_int_equal(stream_write_full(a, "0123456789", 10, SOON, NULL), 0);
		assert_int_equal(stream_write_full(a, "0123456789", 10, SOON, NULL), -ECANCELED);
		stream_free(a);
		stream_free(b);
		rate_bucket_unref(bucket);
		close(fd);
	}
}

static void test_peer_gone(void **state)
{
	for (int memory = 0; memory < 2; memory++) {
		struct error error = ERROR_INIT;
		struct stream *a, *b;
		char text[8];

		make_pair(memory, &a, &b);
		assert_int_equal(stream_write_full(b, "abc", 3, SOON, NULL), 0);
		stream_free(b);
		assert_int_equal(stream_read_full(a, text, 8, SOON, &error), -ECONNRESET);
		assert_non_null(strstr(error.message, "in the middle"));
		assert_int_equal(stream_write_full(a, "abc", 3, SOON, NULL), -EPIPE);
		stream_free(a);
	}
	stream_free(NULL);
}

static void test_poll(void **state)
{
	for (int memory = 0; memory < 2; memory++) {
		struct stream *a, *b;
		struct pollfd poller;
		char text[8];

		make_pair(memory, &a, &b);
		poller = (struct pollfd){ .fd = stream_fd(a), .events = POLLIN };
		assert_false(stream_pending(a));
		assert_int_equal(poll(&poller, 1, 0), 0);
		assert_int_equal(stream_write_full(b, "abc", 3, SOON, NULL), 0);
		assert_int_equal(poll(&poller, 1, 1000), 1);
		assert_int_equal(stream_read(a, text, 8, STREAM_NOWAIT, NULL), 3);
		assert_int_equal(poll(&poller, 1, 0), 0);
		stream_free(b);
		assert_int_equal(poll(&poller, 1, 1000), 1);
		assert_int_equal(stream_read(a, text, 8, STREAM_NOWAIT, NULL), 0);
		stream_free(a);
	}
}

static void test_fault_short(void **state)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	struct stream *a, *b;

	plan.read_max = 997;
	plan.write_max = 1009;
	assert_int_equal(stream_memory_new(4096, &a, &b, NULL), 0);
	assert_int_equal(stream_fault_push(&a, &plan, NULL), 0);
	assert_int_equal(stream_fault_push(&b, &plan, NULL), 0);
	read_big(a, b);
	stream_free(a);
	stream_free(b);
}

static void test_fault_cut(void **state)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	struct error error = ERROR_INIT;
	struct stream *a, *b;
	char text[8];

	plan.cut_write_after = 5;
	plan.cut_read_after = 3;
	plan.delay_ns = 20 * CLOCK_MS;
	assert_int_equal(stream_memory_new(4096, &a, &b, NULL), 0);
	assert_int_equal(stream_fault_push(&a, &plan, NULL), 0);
	assert_int_equal(stream_write_full(a, "01234567", 8, SOON, &error), -ECONNRESET);
	assert_non_null(strstr(error.message, "injected"));
	assert_int_equal(stream_read_full(b, text, 5, SOON, NULL), 0);
	assert_memory_equal(text, "01234", 5);
	assert_int_equal(stream_write_full(b, "abcd", 4, SOON, NULL), 0);
	assert_int_equal(stream_read(a, text, 8, clock_deadline(5 * CLOCK_MS), NULL), -ETIMEDOUT);
	assert_int_equal(stream_read(a, text, 8, SOON, NULL), 3);
	assert_int_equal(stream_read(a, text, 8, SOON, NULL), -ECONNRESET);
	stream_free(a);
	stream_free(b);

	plan = (struct stream_fault_plan)STREAM_FAULT_PLAN_NONE;
	plan.cut_error = 1;
	plan.cut_read_after = 0;
	assert_int_equal(stream_memory_new(4096, &a, &b, NULL), 0);
	assert_int_equal(stream_fault_push(&a, &plan, NULL), 0);
	assert_int_equal(stream_read(a, text, 8, SOON, NULL), 0);
	stream_free(a);
	stream_free(b);
}

static void test_fault_flip(void **state)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	struct stream *a, *b;
	const char source[] = "01234567";
	char text[8];

	plan.flip_write_at = 2;
	plan.flip_mask = 1;
	assert_int_equal(stream_memory_new(4096, &a, &b, NULL), 0);
	assert_int_equal(stream_fault_push(&a, &plan, NULL), 0);
	assert_int_equal(stream_write_full(a, source, 8, SOON, NULL), 0);
	assert_int_equal(stream_read_full(b, text, 8, SOON, NULL), 0);
	assert_memory_equal(text, "01334567", 8);
	assert_string_equal(source, "01234567");
	stream_free(a);
	stream_free(b);
}

static void *write_limited(void *argument)
{
	struct stream *stream = argument;
	uint8_t data[10000] = { 0 };
	intptr_t r = 0;

	for (int i = 0; i < 200 && r == 0; i++)
		r = stream_write_full(stream, data, sizeof(data), SOON, NULL);
	stream_shutdown(stream, SOON, NULL);
	return (void *)r;
}

static void *read_all(void *argument)
{
	uint8_t data[65536];

	while (stream_read(argument, data, sizeof(data), SOON, NULL) > 0)
		;
	return NULL;
}

/* Milliseconds for two streams of 2 MB each that share 8 MB/s. */
static int limited_transfer(void)
{
	struct rate_bucket *bucket;
	struct stream *writers[2], *readers[2];
	pthread_t threads[4];
	int64_t start, taken;
	void *result;

	assert_int_equal(rate_bucket_new(8000000, &bucket, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(stream_memory_new(1 << 20, &writers[i], &readers[i], NULL), 0);
		assert_int_equal(stream_rate_push(&writers[i], bucket, NULL), 0);
	}
	rate_bucket_unref(bucket);
	start = clock_now_ns();
	for (int i = 0; i < 2; i++) {
		pthread_create(&threads[i], NULL, write_limited, writers[i]);
		pthread_create(&threads[2 + i], NULL, read_all, readers[i]);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &result);
		assert_null(result);
	}
	taken = (clock_now_ns() - start) / CLOCK_MS;
	print_message("4 MB at 8 MB/s took %d ms\n", (int)taken);
	for (int i = 0; i < 2; i++) {
		stream_free(writers[i]);
		stream_free(readers[i]);
	}
	return (int)taken;
}

/* Half a second, give or take a tenth. Never less; more only if the machine had something else to do each time. */
static void test_rate(void **state)
{
	int taken = 0;

	for (int i = 0; i < 5; i++) {
		taken = limited_transfer();
		assert_true(taken >= 450);
		if (taken <= 550)
			return;
	}
	fail_msg("%d ms", taken);
}

static void test_rate_nowait(void **state)
{
	struct rate_bucket *bucket;
	struct stream *a, *b;
	uint8_t data[4096] = { 0 };
	struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
	ssize_t n = 0;

	assert_int_equal(rate_bucket_new(100000, &bucket, NULL), 0);
	assert_int_equal(stream_memory_new(1 << 20, &a, &b, NULL), 0);
	assert_int_equal(stream_rate_push(&a, bucket, NULL), 0);
	for (int i = 0; i < 100 && n >= 0; i++)
		n = stream_writev(a, &iov, 1, STREAM_NOWAIT, NULL);
	assert_int_equal(n, -EAGAIN);
	rate_bucket_set(bucket, 0);
	assert_int_equal(stream_writev(a, &iov, 1, STREAM_NOWAIT, NULL), sizeof(data));
	rate_bucket_unref(bucket);
	stream_free(a);
	stream_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_transfer),    cmocka_unit_test(test_deadline),  cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_peer_gone),   cmocka_unit_test(test_poll),      cmocka_unit_test(test_fault_short),
		cmocka_unit_test(test_fault_cut),   cmocka_unit_test(test_fault_flip), cmocka_unit_test(test_rate),
		cmocka_unit_test(test_rate_nowait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
