/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames on a stream. The blocking frame_read() is a frame_reader that is not kept: there is one parser. The header
 * is checked when its eighth byte is there; only then memory is taken, as much as the payload needs.
 */
#include "frame.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "stream-ops.h"

void frame_header_encode(const struct frame *frame, uint8_t bytes[FRAME_HEADER_SIZE])
{
	uint32_t size = htole32(frame->size);
	uint16_t type = htole16(frame->type);
	uint16_t flags = htole16(frame->flags);

	memcpy(bytes, &size, 4);
	memcpy(bytes + 4, &type, 2);
	memcpy(bytes + 6, &flags, 2);
}

int frame_header_decode(const uint8_t bytes[FRAME_HEADER_SIZE], const struct frame_table *table, struct frame *ret,
			struct error *error)
{
	const struct frame_limit *limit = NULL;
	struct frame frame;

	memcpy(&frame.size, bytes, 4);
	memcpy(&frame.type, bytes + 4, 2);
	memcpy(&frame.flags, bytes + 6, 2);
	frame.size = le32toh(frame.size);
	frame.type = le16toh(frame.type);
	frame.flags = le16toh(frame.flags);

	for (size_t i = 0; i < table->count && !limit; i++)
		if (table->limits[i].type == frame.type)
			limit = &table->limits[i];
	if (!limit)
		return error_set(error, -EPROTO, "a frame of type %u, which is unknown or not expected here", frame.type);
	if (frame.size > limit->max)
		return error_set(error, -EMSGSIZE, "a frame %s of %u bytes; %u are allowed", limit->name, frame.size,
				 limit->max);
	*ret = frame;
	return 0;
}

int frame_write(struct stream *stream, uint16_t type, uint16_t flags, const struct iovec *iov, int count,
		int64_t deadline, struct error *error)
{
	size_t size = stream_iov_size(iov, count);
	struct frame frame = { .size = (uint32_t)size, .type = type, .flags = flags };
	uint8_t header[FRAME_HEADER_SIZE];
	struct iovec all[FRAME_IOV_MAX + 1];

	if (size > FRAME_PAYLOAD_MAX || count > FRAME_IOV_MAX)
		return error_set(error, -EMSGSIZE, "a frame of type %u with %zu bytes in %d pieces is too large to send",
				 type, size, count);
	frame_header_encode(&frame, header);
	all[0] = (struct iovec){ .iov_base = header, .iov_len = sizeof(header) };
	if (count)
		memcpy(all + 1, iov, (size_t)count * sizeof(*iov));
	return stream_writev_full(stream, all, count + 1, deadline, error);
}

int frame_send(struct stream *stream, uint16_t type, uint16_t flags, const void *data, size_t size, int64_t deadline,
	       struct error *error)
{
	struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
	int r;

	r = frame_write(stream, type, flags, &iov, 1, deadline, error);
	if (r < 0)
		return r;
	return stream_flush(stream, deadline, error);
}

int frame_read_header(struct stream *stream, const struct frame_table *table, struct frame *ret, int64_t deadline,
		      struct error *error)
{
	uint8_t header[FRAME_HEADER_SIZE];
	int r;

	r = stream_read_full(stream, header, sizeof(header), deadline, error);
	if (r < 0)
		return r;
	r = frame_header_decode(header, table, ret, error);
	if (r < 0)
		return error_wrap(error, r, "from %s", stream_label(stream));
	return 0;
}

int frame_read(struct stream *stream, const struct frame_table *table, struct frame *ret, struct buffer *payload,
	       int64_t deadline, struct error *error)
{
	struct frame_reader reader;
	int r;

	frame_reader_init(&reader, table);
	reader.payload = *payload;
	r = frame_reader_next(&reader, stream, deadline, error);
	*payload = reader.payload;
	if (r < 0)
		return r;
	*ret = reader.frame;
	return 0;
}

void frame_reader_init(struct frame_reader *reader, const struct frame_table *table)
{
	*reader = (struct frame_reader){ .table = *table };
}

void frame_reader_deinit(struct frame_reader *reader)
{
	buffer_deinit(&reader->payload);
	reader->header_have = 0;
}

/* One more piece of the frame into `place`. Returns the bytes read, or a negative errno. */
static ssize_t read_more(struct frame_reader *reader, struct stream *stream, void *place, size_t size,
			 int64_t deadline, struct error *error)
{
	ssize_t n = stream_read(stream, place, size, deadline, error);

	if (n != 0)
		return n;
	if (reader->header_have == 0)
		return error_set(error, -ENODATA, "%s has closed the connection", stream_label(stream));
	return error_set(error, -ECONNRESET, "%s closed the connection in the middle of a frame",
			 stream_label(stream));
}

/* The header, whole and checked, and room for the payload. */
static int read_header(struct frame_reader *reader, struct stream *stream, int64_t deadline, struct error *error)
{
	int r;

	while (reader->header_have < FRAME_HEADER_SIZE) {
		ssize_t n = read_more(reader, stream, reader->header + reader->header_have,
				      FRAME_HEADER_SIZE - reader->header_have, deadline, error);

		if (n < 0)
			return (int)n;
		reader->header_have += (size_t)n;
	}
	r = frame_header_decode(reader->header, &reader->table, &reader->frame, error);
	if (r < 0)
		return error_wrap(error, r, "from %s", stream_label(stream));
	buffer_clear(&reader->payload);
	if (buffer_reserve(&reader->payload, reader->frame.size) < 0)
		return error_set_errno(error, -ENOMEM, "payload of %u bytes", reader->frame.size);
	reader->in_payload = true;
	return 0;
}

int frame_reader_next(struct frame_reader *reader, struct stream *stream, int64_t deadline, struct error *error)
{
	struct buffer *payload = &reader->payload;

	if (!reader->in_payload) {
		int r = read_header(reader, stream, deadline, error);

		if (r < 0)
			return r;
	}
	while (payload->size < reader->frame.size) {
		ssize_t n = read_more(reader, stream, payload->data + payload->size,
				      reader->frame.size - payload->size, deadline, error);

		if (n < 0)
			return (int)n;
		payload->size += (size_t)n;
	}
	reader->in_payload = false;
	reader->header_have = 0;
	return 0;
}
