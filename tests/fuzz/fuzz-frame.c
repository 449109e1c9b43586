/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: transport */
/*
 * Feeds bytes, as they might come from a peer, to the parsers of the transport: frames as they are, and frames inside
 * of LZ4 blocks. The first byte chooses which, and in pieces of what size they arrive.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "transport/filter.h"
#include "transport/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct frame_limit limits[] = {
	{ 1, 64, "SMALL" },
	{ 2, 0, "EMPTY" },
	{ 3, 1024 * 1024, "LARGE" },
};

static void read_frames(struct stream *stream)
{
	const struct frame_table table = FRAME_TABLE(limits);
	struct frame_reader reader;

	frame_reader_init(&reader, &table);
	while (frame_reader_next(&reader, stream, STREAM_NOWAIT, NULL) == 0)
		if (reader.frame.size != reader.payload.size)
			abort();
	frame_reader_deinit(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	_cleanup_stream_ struct stream *writer = NULL;
	_cleanup_stream_ struct stream *reader = NULL;

	if (!size || stream_memory_new(size, &writer, &reader, NULL) < 0)
		return 0;
	plan.read_max = data[0] >> 1;
	if (stream_fault_push(&reader, &plan, NULL) < 0)
		return 0;
	if ((data[0] & 1) && stream_lz4_push(&reader, STREAM_LZ4_NEVER, NULL) < 0)
		return 0;
	if (stream_write_full(writer, data + 1, size - 1, STREAM_NOWAIT, NULL) == 0)
		stream_shutdown(writer, STREAM_NOWAIT, NULL);
	read_frames(reader);
	return 0;
}
