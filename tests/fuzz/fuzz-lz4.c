/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: transport */
/*
 * The LZ4 filter: what one side writes in some pieces the other reads in other pieces, compressed or not; with damage on
 * the way, and then no more and no other bytes than up to an error come out. Bytes that no filter of ours has made are
 * fuzz-frame's.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "transport/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct choice {
	uint8_t mode;    /* enum stream_lz4_mode */
	uint8_t repeat;  /* how often the data is written */
	uint8_t piece;   /* bytes of a write, 0: all */
	uint8_t damage;  /* 0: none */
	uint16_t place;  /* where */
};

static int write_all(struct stream **writer, const struct choice *choice, const uint8_t *data, size_t size)
{
	int r = stream_lz4_push(writer, choice->mode % 3 == 0 ? STREAM_LZ4_AUTO :
					choice->mode % 3 == 1 ? STREAM_LZ4_ALWAYS : STREAM_LZ4_NEVER, NULL);

	for (unsigned i = 0; r == 0 && i <= choice->repeat; i++)
		for (size_t done = 0, piece; r == 0 && done < size; done += piece) {
			piece = choice->piece && choice->piece < size - done ? choice->piece : size - done;
			r = stream_write_full(*writer, data + done, piece, clock_deadline(CLOCK_S), NULL);
		}
	return r == 0 ? stream_shutdown(*writer, clock_deadline(CLOCK_S), NULL) : r;
}

static void read_all(struct stream *reader, const struct choice *choice, const uint8_t *data, size_t size)
{
	uint64_t position = 0, total = (uint64_t)size * (choice->repeat + 1u);
	uint8_t place[777];
	ssize_t n;

	while ((n = stream_read(reader, place, sizeof(place), STREAM_NOWAIT, NULL)) > 0)
		for (ssize_t i = 0; i < n; i++, position++)
			if (!choice->damage && (position >= total || place[i] != data[position % size]))
				abort();
	if (!choice->damage && (n < 0 || position != total))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	_cleanup_stream_ struct stream *writer = NULL;
	_cleanup_stream_ struct stream *reader = NULL;
	struct choice choice;

	if (size <= sizeof(choice) || size > 4096)
		return 0;
	memcpy(&choice, data, sizeof(choice));
	data += sizeof(choice);
	size -= sizeof(choice);
	if (choice.damage) {
		plan.flip_read_at = choice.place;
		plan.flip_mask = choice.damage;
	}
	if (stream_memory_new(4 << 20, &writer, &reader, NULL) < 0 || stream_fault_push(&reader, &plan, NULL) < 0 ||
	    stream_lz4_push(&reader, STREAM_LZ4_NEVER, NULL) < 0)
		return 0;
	if (write_all(&writer, &choice, data, size) == 0)
		read_all(reader, &choice, data, size);
	return 0;
}
