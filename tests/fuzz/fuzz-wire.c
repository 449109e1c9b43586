/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: pageserver transport proto */
/*
 * What either side takes from the other's frames: each message by its own parser, as wire_expect() is called for it, the
 * header of pages, and ranges as the page server checks them. The first byte chooses.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pageserver/session.h"
#include "transport/wire.h"
#include "wire.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct expected {
	const struct frame_table *table;
	enum wire_type type;
	const ProtobufCMessageDescriptor *message; /* NULL: an empty frame */
} expected[] = {
	{ &wire_table_hello, WIRE_HELLO, &wire_hello__descriptor },
	{ &wire_table_client, WIRE_WELCOME, &wire_welcome__descriptor },
	{ &wire_table_client, WIRE_PREFLIGHT_REPLY, &wire_preflight_reply__descriptor },
	{ &wire_table_client, WIRE_LAID_OUT, &wire_round__descriptor },
	{ &wire_table_client, WIRE_ROUND_DONE, &wire_ranges__descriptor },
	{ &wire_table_client, WIRE_ANSWER, &wire_answer__descriptor },
	{ &wire_table_client, WIRE_COMPLETE, &wire_complete__descriptor },
	{ &wire_table_client, WIRE_PREPARED, NULL },
	{ &wire_table_server, WIRE_PREFLIGHT, &wire_preflight__descriptor },
	{ &wire_table_server, WIRE_DROP, &wire_ranges__descriptor },
	{ &wire_table_pages, WIRE_MARK, &wire_round__descriptor },
};

/* Frames as they are, from a stream. */
static void expect_frames(const struct expected *what, const uint8_t *data, size_t size)
{
	_cleanup_stream_ struct stream *writer = NULL;
	_cleanup_stream_ struct stream *reader = NULL;

	if (stream_memory_new(size + 1, &writer, &reader, NULL) < 0 ||
	    stream_write_full(writer, data, size, STREAM_NOWAIT, NULL) < 0)
		return;
	stream_shutdown(writer, STREAM_NOWAIT, NULL);
	for (int r = 0; r == 0;) {
		ProtobufCMessage *message = NULL;
		struct error error = ERROR_INIT;

		r = wire_expect(reader, what->table, what->type, what->message, &message, STREAM_NOWAIT, &error);
		if (message)
			protobuf_c_message_free_unpacked(message, NULL);
		if (r < 0 && (error.code >= 0 || !error.message[0] || strchr(error.message, '\n')))
			abort();
	}
}

/* Eight bytes a range, of values that are near one another, so that they touch, overlap and run over. */
static void take_ranges(const uint8_t *data, size_t size)
{
	WireRange list[64], *pointers[64];
	session_ranges ranges;
	size_t count = 0;

	for (; size >= 8 && count < 64; data += 8, size -= 8, count++) {
		pointers[count] = &list[count];
		wire_range__init(&list[count]);
		list[count].pid = (int8_t)data[0] % 4;
		list[count].address = (uint64_t)data[1] << (data[2] % 57) | (uint64_t)data[3] << 12;
		list[count].pages = (uint64_t)data[4] << (data[5] % 57) | data[6];
	}
	if (session_ranges_check(pointers, count, &ranges, NULL) == 0) {
		for (size_t i = 1; i < ranges.count; i++) {
			const struct session_range *one = &ranges.items[i - 1], *next = &ranges.items[i];

			if (one->pid == next->pid && one->address + one->pages * WIRE_PAGE > next->address)
				abort();
		}
		array_deinit(&ranges);
	}
}

static void take_pages(const struct buffer *payload)
{
	struct wire_pages_header header;
	const uint8_t *data;

	if (wire_parse_pages(payload, &header, &data, NULL) < 0)
		return;
	if (header.pages < 1 || header.pages > WIRE_RUN_PAGES_MAX || data < payload->data ||
	    data + (header.kind == WIRE_PAGES_DATA ? (size_t)header.pages * WIRE_PAGE : 0) > payload->data + payload->size)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t count = sizeof(expected) / sizeof(expected[0]);
	struct buffer payload = BUFFER_INIT;

	if (!size || buffer_append(&payload, data + 1, size - 1) < 0)
		return 0;
	if (data[0] % (count + 2) < count)
		expect_frames(&expected[data[0] % (count + 2)], data + 1, size - 1);
	else if (data[0] % (count + 2) == count)
		take_ranges(data + 1, size - 1);
	else
		take_pages(&payload);
	buffer_deinit(&payload);
	return 0;
}
