/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "wire.pb-c.h"

#define CONTROL_MAX (1u << 20)
#define IMAGE_MAX (64u << 20)                /* IMAGE_RECORD_MAX and its header fit into a frame */
#define RANGES_MAX (32u << 20)               /* some two million ranges */
#define PAGES_MAX (sizeof(struct wire_pages_header) + (size_t)WIRE_RUN_PAGES_MAX * WIRE_PAGE)

static const struct frame_limit client_limits[] = {
	{ WIRE_WELCOME, 4096, "WELCOME" },
	{ WIRE_FAILURE, 8192, "FAILURE" },
	{ WIRE_PREFLIGHT_REPLY, CONTROL_MAX, "PREFLIGHT_REPLY" },
	{ WIRE_LAID_OUT, 64, "LAID_OUT" },
	{ WIRE_ROUND_DONE, RANGES_MAX, "ROUND_DONE" },
	{ WIRE_PREPARED, 0, "PREPARED" },
	{ WIRE_RUNNING, 0, "RUNNING" },
	{ WIRE_ANSWER, 64, "ANSWER" },
	{ WIRE_COMPLETE, 256, "COMPLETE" },
	{ WIRE_FINISHED, 0, "FINISHED" },
};

static const struct frame_limit server_limits[] = {
	{ WIRE_FAILURE, 8192, "FAILURE" },
	{ WIRE_IMAGE, IMAGE_MAX, "IMAGE" },
	{ WIRE_PREFLIGHT, 256, "PREFLIGHT" },
	{ WIRE_LAYOUT, 64, "LAYOUT" },
	{ WIRE_ROUND_END, 64, "ROUND_END" },
	{ WIRE_DROP, RANGES_MAX, "DROP" },
	{ WIRE_PREPARE, RANGES_MAX, "PREPARE" },
	{ WIRE_PACKETS, CONTROL_MAX, "PACKETS" },
	{ WIRE_COMMIT, 0, "COMMIT" },
	{ WIRE_ABORT, 0, "ABORT" },
	{ WIRE_ASK_STATE, 0, "ASK_STATE" },
	{ WIRE_ENDED, 0, "ENDED" },
};

static const struct frame_limit hello_limits[] = {
	{ WIRE_HELLO, 1024, "HELLO" },
};

static const struct frame_limit pages_limits[] = {
	{ WIRE_WELCOME, 4096, "WELCOME" },
	{ WIRE_FAILURE, 8192, "FAILURE" },
	{ WIRE_PAGES, PAGES_MAX, "PAGES" },
	{ WIRE_MARK, 64, "MARK" },
};

static const struct frame_limit request_limits[] = {
	{ WIRE_WELCOME, 4096, "WELCOME" },
	{ WIRE_FAILURE, 8192, "FAILURE" },
	{ WIRE_PAGE_REQUEST, sizeof(struct wire_page_request), "PAGE_REQUEST" },
};

const struct frame_table wire_table_client = FRAME_TABLE(client_limits);
const struct frame_table wire_table_server = FRAME_TABLE(server_limits);
const struct frame_table wire_table_hello = FRAME_TABLE(hello_limits);
const struct frame_table wire_table_pages = FRAME_TABLE(pages_limits);
const struct frame_table wire_table_request = FRAME_TABLE(request_limits);

static void cleanup_pointer(uint8_t **place)
{
	free(*place);
}

int wire_send(struct stream *stream, enum wire_type type, const ProtobufCMessage *message, int64_t deadline,
	      struct error *error)
{
	__attribute__((cleanup(cleanup_pointer))) uint8_t *packed = NULL;
	size_t size = message ? protobuf_c_message_get_packed_size(message) : 0;

	if (size > FRAME_PAYLOAD_MAX)
		return error_set(error, -EMSGSIZE, "%s message of %zu bytes is too large", wire_type_name(type), size);
	if (size) {
		packed = malloc(size);
		if (!packed)
			return error_set(error, -ENOMEM, "out of memory");
		protobuf_c_message_pack(message, packed);
	}
	return frame_send(stream, (uint16_t)type, 0, packed, size, deadline, error);
}

int wire_send_image(struct stream *stream, uint32_t type, uint32_t id, const void *data, size_t size, int64_t deadline,
		    struct error *error)
{
	struct wire_image_header header = { .type = type, .id = id };
	struct iovec iov[] = {
		{ .iov_base = &header, .iov_len = sizeof(header) },
		{ .iov_base = (void *)(uintptr_t)data, .iov_len = size },
	};

	return frame_write(stream, WIRE_IMAGE, 0, iov, 2, deadline, error);
}

void wire_send_failure(struct stream *stream, int code, const char *message)
{
	WireFailure failure = WIRE_FAILURE__INIT;

	failure.code = code < 0 ? -code : code;
	failure.message = (char *)(uintptr_t)message;
	if (wire_send(stream, WIRE_FAILURE, &failure.base, clock_deadline(CLOCK_S), NULL) == 0)
		(void)stream_shutdown(stream, clock_deadline(CLOCK_S), NULL);
}

int wire_unpack(const struct buffer *payload, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret,
		struct error *error)
{
	ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, NULL, payload->size, payload->data);

	if (!message)
		return error_set(error, -EPROTO, "%zu bytes received are no %s message", payload->size,
				 descriptor->short_name);
	*ret = message;
	return 0;
}

static int peer_failed(const struct buffer *payload, struct stream *stream, struct error *error)
{
	WireFailure *failure = NULL;
	int r;

	r = wire_unpack(payload, &wire_failure__descriptor, (ProtobufCMessage **)(void *)&failure, error);
	if (r < 0)
		return r;
	r = failure->code > 0 && failure->code < 4096 ? -failure->code : -EPROTO;
	error_set(error, r, "%s says: %s", stream_label(stream), failure->message);
	wire_failure__free_unpacked(failure, NULL);
	return r;
}

int wire_expect(struct stream *stream, const struct frame_table *table, enum wire_type type,
		const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret, int64_t deadline,
		struct error *error)
{
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	struct frame frame;
	int r;

	r = frame_read(stream, table, &frame, &payload, deadline, error);
	if (r == -ENODATA)
		return error_set(error, -ECONNRESET, "%s closed the connection", stream_label(stream));
	if (r < 0)
		return r;
	if (frame.type == WIRE_FAILURE)
		return peer_failed(&payload, stream, error);
	if (frame.type != type)
		return error_set(error, -EPROTO, "%s sent %s where %s was due", stream_label(stream),
				 wire_type_name(frame.type), wire_type_name(type));
	return descriptor ? wire_unpack(&payload, descriptor, ret, error) : 0;
}

static size_t pages_data_size(const struct wire_pages_header *header)
{
	switch (header->kind) {
	case WIRE_PAGES_DATA: return (size_t)header->pages * WIRE_PAGE;
	case WIRE_PAGES_ZERO: return 0;
	case WIRE_PAGES_HASH: return sizeof(struct wire_page_copy);
	default: return SIZE_MAX;
	}
}

int wire_send_pages(struct stream *stream, const struct wire_pages_header *header, const void *data, int64_t deadline,
		    struct error *error)
{
	struct iovec iov[] = {
		{ .iov_base = (void *)(uintptr_t)header, .iov_len = sizeof(*header) },
		{ .iov_base = (void *)(uintptr_t)data, .iov_len = pages_data_size(header) },
	};

	return frame_write(stream, WIRE_PAGES, 0, iov, iov[1].iov_len ? 2 : 1, deadline, error);
}

int wire_parse_pages(const struct buffer *payload, struct wire_pages_header *ret, const uint8_t **ret_data,
		     struct error *error)
{
	struct wire_pages_header header;

	if (payload->size < sizeof(header))
		return error_set(error, -EPROTO, "a PAGES frame has no header: %zu bytes", payload->size);
	memcpy(&header, payload->data, sizeof(header));
	if (header.pages < 1 || header.pages > WIRE_RUN_PAGES_MAX || header.address % WIRE_PAGE ||
	    (header.kind == WIRE_PAGES_HASH && header.pages != 1) ||
	    header.address > UINT64_MAX - (uint64_t)header.pages * WIRE_PAGE)
		return error_set(error, -EPROTO, "a PAGES frame names %u pages at 0x%llx, kind %u", header.pages,
				 (unsigned long long)header.address, header.kind);
	if (payload->size - sizeof(header) != pages_data_size(&header))
		return error_set(error, -EPROTO, "a PAGES frame of kind %u for %u pages has %zu bytes", header.kind,
				 header.pages, payload->size);
	*ret = header;
	*ret_data = payload->data + sizeof(header);
	return 0;
}

const char *wire_type_name(unsigned type)
{
	static const struct frame_table *const tables[] = { &wire_table_client, &wire_table_server, &wire_table_hello,
							    &wire_table_pages, &wire_table_request };

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (size_t j = 0; j < tables[i]->count; j++)
			if (tables[i]->limits[j].type == type)
				return tables[i]->limits[j].name;
	return "an unknown frame";
}

void wire_session_text(const uint8_t session[WIRE_SESSION_SIZE], char ret[WIRE_SESSION_TEXT])
{
	for (size_t i = 0; i < WIRE_SESSION_SIZE; i++)
		snprintf(ret + 2 * i, 3, "%02x", session[i]);
}

int wire_session_parse(const char *text, uint8_t ret[WIRE_SESSION_SIZE], struct error *error)
{
	uint8_t session[WIRE_SESSION_SIZE];

	for (size_t i = 0; i < 2 * WIRE_SESSION_SIZE; i++) {
		static const char digits[] = "0123456789abcdef";
		const char *digit = text[i] ? strchr(digits, text[i]) : NULL;

		if (!digit || strlen(text) != 2 * WIRE_SESSION_SIZE)
			return error_set(error, -EINVAL, "'%s' is not a session: `migrate status` lists them", text);
		session[i / 2] = (uint8_t)((i % 2 ? session[i / 2] << 4 : 0) | (digit - digits));
	}
	memcpy(ret, session, sizeof(session));
	return 0;
}

int wire_random(void *data, size_t size, struct error *error)
{
	if (getrandom(data, size, 0) != (ssize_t)size)
		return error_set_errno(error, errno ? -errno : -EIO, "cannot get random bytes");
	return 0;
}
