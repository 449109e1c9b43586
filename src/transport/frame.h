/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames: what a stream carries. A header of eight bytes, little-endian { u32 payload size, u16 type, u16 flags },
 * and the payload. The receiver passes a table of the types that it accepts here and now, each with the largest
 * payload; a header that names another type (-EPROTO) or a larger payload (-EMSGSIZE) is refused before anything is
 * allocated. After an error of that kind the stream has no frame boundaries any more: give it up.
 *
 * Blocking and further errors: as stream.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "stream.h"
#include "util/buffer.h"

#define FRAME_HEADER_SIZE 8

/* Most that a caller can put into one frame_write(); tables should stay far below. */
#define FRAME_PAYLOAD_MAX (64u * 1024 * 1024)

struct frame_limit {
	uint16_t type;    /* as in the header */
	uint32_t max;     /* largest payload in bytes */
	const char *name; /* for messages: "HELLO" */
};

struct frame_table {
	const struct frame_limit *limits; /* borrowed, constant; in any order */
	size_t count;                     /* number of limits */
};

/* Makes a table from a constant array. */
#define FRAME_TABLE(array) { .limits = (array), .count = sizeof(array) / sizeof((array)[0]) }

struct frame {
	uint32_t size;  /* bytes of payload */
	uint16_t type;  /* which message; one of the table */
	uint16_t flags; /* the meaning belongs to the type */
};

void frame_header_encode(const struct frame *frame, uint8_t bytes[FRAME_HEADER_SIZE]);

/* Checks against `table`: -EPROTO, -EMSGSIZE. */
int frame_header_decode(const uint8_t bytes[FRAME_HEADER_SIZE], const struct frame_table *table, struct frame *ret,
			struct error *error);

/* The payload is the `count` (at most FRAME_IOV_MAX) pieces one after the other. Does not flush. */
#define FRAME_IOV_MAX 1023
int frame_write(struct stream *stream, uint16_t type, uint16_t flags, const struct iovec *iov, int count,
		int64_t deadline, struct error *error);

/* frame_write() of one piece, and stream_flush(): for messages that somebody waits for. */
int frame_send(struct stream *stream, uint16_t type, uint16_t flags, const void *data, size_t size, int64_t deadline,
	       struct error *error);

/*
 * Reads one whole frame; `payload` (the caller's; its old content is dropped, its memory used again) then holds
 * frame.size bytes. -ENODATA: the peer has ended its data, between two frames. -ECONNRESET: within one. If it fails
 * otherwise the boundary may be lost; who wants to go on after -ETIMEDOUT uses a frame_reader.
 */
int frame_read(struct stream *stream, const struct frame_table *table, struct frame *ret, struct buffer *payload,
	       int64_t deadline, struct error *error);

/* Reads only the header: the caller takes the payload with stream_read_full(), to where he wants it. */
int frame_read_header(struct stream *stream, const struct frame_table *table, struct frame *ret, int64_t deadline,
		      struct error *error);

/* Keeps a frame that has come in part, so that a poll loop can read what is there and come back. */
struct frame_reader {
	struct frame_table table;          /* what is accepted; may be replaced between two frames */
	uint8_t header[FRAME_HEADER_SIZE]; /* as far as it has come */
	size_t header_have;                /* bytes of the header that are there */
	struct frame frame;                /* decoded header, once that is complete */
	bool in_payload;                   /* the header is complete, the payload is not */
	struct buffer payload;             /* payload as far as it has come: payload.size bytes of it */
};

/* The reader starts empty; `table`'s limits are borrowed. Allocates nothing yet. */
void frame_reader_init(struct frame_reader *reader, const struct frame_table *table);
void frame_reader_deinit(struct frame_reader *reader);

/*
 * Goes on with the frame that is under way. 0: it is complete, in reader->frame and reader->payload, both valid until
 * the next call (the caller may take the payload's memory by copying the struct buffer and zeroing the one here).
 * With STREAM_NOWAIT, -EAGAIN: no more for now. -ENODATA and others as frame_read(); -ETIMEDOUT loses nothing.
 */
int frame_reader_next(struct frame_reader *reader, struct stream *stream, int64_t deadline, struct error *error);
