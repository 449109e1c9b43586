/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frames: whole, in pieces, cut off, too large, unknown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/filter.h"
#include "transport/frame.h"

#define SOON clock_deadline(5 * CLOCK_S)

enum { TYPE_HELLO = 1, TYPE_PAGES = 0x1234, TYPE_EMPTY = 9 };

static const struct frame_limit limits[] = {
	{ TYPE_HELLO, 16, "HELLO" },
	{ TYPE_PAGES, 100000, "PAGES" },
	{ TYPE_EMPTY, 0, "EMPTY" },
};
static const struct frame_table table = FRAME_TABLE(limits);

struct ends {
	struct stream *a;
	struct stream *b;
};

static int setup(void **state)
{
	struct ends *ends = calloc(1, sizeof(*ends));

	*state = ends;
	return stream_memory_new(1 << 20, &ends->a, &ends->b, NULL);
}

static int teardown(void **state)
{
	struct ends *ends = *state;

	stream_free(ends->a);
	stream_free(ends->b);
	free(ends);
	return 0;
}

static void test_round_trip(void **state)
{
	struct ends *ends = *state;
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	uint8_t pages[8192];
	struct iovec iov[2] = { { pages, 4096 }, { pages + 4096, 4096 } };
	struct frame frame;

	memset(pages, 0x5a, sizeof(pages));
	assert_int_equal(frame_send(ends->a, TYPE_HELLO, 0, "hello", 5, SOON, NULL), 0);
	assert_int_equal(frame_send(ends->a, TYPE_EMPTY, 7, NULL, 0, SOON, NULL), 0);
	assert_int_equal(frame_write(ends->a, TYPE_PAGES, 0x8001, iov, 2, SOON, NULL), 0);
	assert_int_equal(stream_shutdown(ends->a, SOON, NULL), 0);

	assert_int_equal(frame_read(ends->b, &table, &frame, &payload, SOON, NULL), 0);
	assert_int_equal(frame.type, TYPE_HELLO);
	assert_int_equal(payload.size, 5);
	assert_memory_equal(payload.data, "hello", 5);
	assert_int_equal(frame_read(ends->b, &table, &frame, &payload, SOON, NULL), 0);
	assert_int_equal(frame.type, TYPE_EMPTY);
	assert_int_equal(frame.flags, 7);
	assert_int_equal(payload.size, 0);
	assert_int_equal(frame_read_header(ends->b, &table, &frame, SOON, NULL), 0);
	assert_int_equal(frame.type, TYPE_PAGES);
	assert_int_equal(frame.flags, 0x8001);
	assert_int_equal(frame.size, 8192);
	memset(pages, 0, sizeof(pages));
	assert_int_equal(stream_read_full(ends->b, pages, frame.size, SOON, NULL), 0);
	assert_int_equal(pages[8191], 0x5a);
	assert_int_equal(frame_read(ends->b, &table, &frame, &payload, SOON, NULL), -ENODATA);
}

static void test_encoding(void **state)
{
	const struct frame frame = { .size = 0x01020304, .type = 0x0506, .flags = 0x0708 };
	uint8_t bytes[FRAME_HEADER_SIZE];

	frame_header_encode(&frame, bytes);
	assert_memory_equal(bytes, "\x04\x03\x02\x01\x06\x05\x08\x07", 8);
}

static void test_too_large(void **state)
{
	struct ends *ends = *state;
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	struct error error = ERROR_INIT;
	struct frame frame;

	assert_int_equal(stream_write_full(ends->a, "\xff\xff\xff\xff\x34\x12\0\0", 8, SOON, NULL), 0);
	assert_int_equal(frame_read(ends->b, &table, &frame, &payload, SOON, &error), -EMSGSIZE);
	assert_non_null(strstr(error.message, "PAGES of 4294967295 bytes; 100000 are allowed"));
	assert_null(payload.data);
}

static void test_unknown(void **state)
{
	struct ends *ends = *state;
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	struct error error = ERROR_INIT;
	struct frame frame;

	assert_int_equal(frame_send(ends->a, 77, 0, "x", 1, SOON, NULL), 0);
	assert_int_equal(frame_read(ends->b, &table, &frame, &payload, SOON, &error), -EPROTO);
	assert_non_null(strstr(error.message, "77"));
}

static void test_too_large_to_send(void **state)
{
	struct ends *ends = *state;
	struct iovec iov = { .iov_base = NULL, .iov_len = (size_t)FRAME_PAYLOAD_MAX + 1 };

	assert_int_equal(frame_write(ends->a, TYPE_PAGES, 0, &iov, 1, SOON, NULL), -EMSGSIZE);
}

/* At every place where a frame can be cut. */
static void test_truncated(void **state)
{
	uint8_t bytes[FRAME_HEADER_SIZE + 5] = "\5\0\0\0\1\0\0\0hello";

	for (size_t cut = 0; cut < sizeof(bytes); cut++) {
		_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
		_cleanup_stream_ struct stream *a = NULL;
		_cleanup_stream_ struct stream *b = NULL;
		struct frame frame;

		assert_int_equal(stream_memory_new(64, &a, &b, NULL), 0);
		assert_int_equal(stream_write_full(a, bytes, cut, SOON, NULL), 0);
		assert_int_equal(stream_shutdown(a, SOON, NULL), 0);
		assert_int_equal(frame_read(b, &table, &frame, &payload, SOON, NULL), cut ? -ECONNRESET : -ENODATA);
	}
}

/* A byte at a time, as a poll loop may see it. */
static void test_incremental(void **state)
{
	struct ends *ends = *state;
	const uint8_t bytes[] = "\5\0\0\0\1\0\0\0hello\0\0\0\0\11\0\0\0\1\0\0\0\1\0\0\0!";
	const size_t size = sizeof(bytes) - 1;
	struct frame_reader reader;
	struct buffer taken;
	int frames = 0;

	frame_reader_init(&reader, &table);
	for (size_t i = 0; i < size; i++) {
		int r;

		assert_int_equal(frame_reader_next(&reader, ends->b, STREAM_NOWAIT, NULL), -EAGAIN);
		assert_int_equal(stream_write_full(ends->a, bytes + i, 1, SOON, NULL), 0);
		r = frame_reader_next(&reader, ends->b, STREAM_NOWAIT, NULL);
		if (i != 12 && i != 20 && i != 29) {
			assert_int_equal(r, -EAGAIN);
			continue;
		}
		assert_int_equal(r, 0);
		frames++;
		if (frames == 1) {
			/* Taking the payload away leaves the reader usable. */
			taken = reader.payload;
			reader.payload = (struct buffer)BUFFER_INIT;
			assert_int_equal(taken.size, 5);
			buffer_deinit(&taken);
		}
		if (frames == 3)
			assert_memory_equal(reader.payload.data, "!", 1);
	}
	assert_int_equal(frames, 3);
	assert_int_equal(frame_reader_next(&reader, ends->b, clock_deadline(CLOCK_MS), NULL), -ETIMEDOUT);
	assert_int_equal(stream_shutdown(ends->a, SOON, NULL), 0);
	assert_int_equal(frame_reader_next(&reader, ends->b, STREAM_NOWAIT, NULL), -ENODATA);
	frame_reader_deinit(&reader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test(test_encoding),
		cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_large_to_send, setup, teardown),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test_setup_teardown(test_incremental, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
