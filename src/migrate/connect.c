/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening the streams of a session: TCP, rate limit, TLS, HELLO, and LZ4 on bulk streams once the target has welcomed us. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "source.h"
#include "transport/tcp.h"
#include "util/cleanup.h"
#include "util/parse.h"
#include "wire.pb-c.h"

static int say_hello(struct source *source, struct stream *stream, enum wire_role role, uint32_t index,
		     int64_t deadline, struct error *error)
{
	WireHello hello = WIRE_HELLO__INIT;
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	hello.version = WIRE_VERSION;
	hello.session = (ProtobufCBinaryData){ WIRE_SESSION_SIZE, source->session };
	hello.role = role;
	hello.host = host;
	if (role == WIRE_BULK) {
		hello.has_index = 1;
		hello.index = index;
	}
	if (role != WIRE_CONTROL) {
		hello.has_token = 1;
		hello.token = (ProtobufCBinaryData){ WIRE_TOKEN_SIZE, source->token };
	}
	return wire_send(stream, WIRE_HELLO, &hello.base, deadline, error);
}

static int take_welcome(struct source *source, struct stream *stream, enum wire_role role, int64_t deadline,
			struct error *error)
{
	const struct frame_table *table = role == WIRE_URGENT ? &wire_table_request :
					  role == WIRE_BULK   ? &wire_table_pages :
								&wire_table_client;
	_cleanup_message_ WireWelcome *welcome = NULL;
	int r;

	r = wire_expect(stream, table, WIRE_WELCOME, &wire_welcome__descriptor,
			(ProtobufCMessage **)(void *)&welcome, deadline, error);
	if (r < 0)
		return r;
	if (welcome->version != WIRE_VERSION)
		return error_set(error, -EPROTO, "%s speaks version %u of the protocol, we speak %u", stream_label(stream),
				 welcome->version, WIRE_VERSION);
	if (role == WIRE_CONTROL) {
		if (!welcome->has_token || welcome->token.len != WIRE_TOKEN_SIZE)
			return error_set(error, -EPROTO, "%s gave no token for the session", stream_label(stream));
		memcpy(source->token, welcome->token.data, WIRE_TOKEN_SIZE);
	}
	if (welcome->boot_id)
		snprintf(source->target_boot, sizeof(source->target_boot), "%s", welcome->boot_id);
	return 0;
}

int source_open_stream(struct source *source, enum wire_role role, uint32_t index, int64_t deadline,
		       struct stream **ret, struct error *error)
{
	/* A target that lays out memory leaves bulk data unread for a while. */
	const struct tcp_options options = { .dead_after_ms = role == WIRE_BULK ? 15000 : 0 };
	_cleanup_stream_ struct stream *stream = NULL;
	_cleanup_fd_ int fd = -1;
	int cancel_fd = phase_is_before_commit(source->phase) ? source->options->cancel_fd : -1;
	int r;

	r = tcp_connect(source->options->to, &options, deadline, cancel_fd, &fd, error);
	if (r == 0)
		r = stream_socket_new(fd, source->options->to, &stream, error);
	if (r < 0)
		return r;
	(void)steal_fd(&fd);
	stream_set_cancel(stream, cancel_fd);
	if (source->bucket && role == WIRE_BULK)
		r = stream_rate_push(&stream, source->bucket, error);
	if (r == 0)
		r = tls_client_push(&stream, source->tls, source->server_name, deadline, error);
	if (r == 0)
		r = say_hello(source, stream, role, index, deadline, error);
	if (r == 0)
		r = take_welcome(source, stream, role, deadline, error);
	if (r == 0 && role == WIRE_BULK)
		r = stream_lz4_push(&stream, STREAM_LZ4_AUTO, error);
	if (r < 0)
		return r;
	*ret = steal_ptr(&stream);
	return 0;
}

int source_connect(struct source *source, struct error *error)
{
	struct parse_address address;
	int r;

	r = parse_host_port(source->options->to, 0, &address, error);
	if (r < 0)
		return r;
	snprintf(source->server_name, sizeof(source->server_name), "%s", address.host);
	r = tls_context_new(TLS_CLIENT, source->options->tls_dir, &source->tls, error);
	if (r == 0 && source->options->max_bandwidth)
		r = rate_bucket_new(source->options->max_bandwidth, &source->bucket, error);
	if (r == 0)
		r = source_open_stream(source, WIRE_CONTROL, 0, clock_deadline(SOURCE_CONNECT_NS), &source->control, error);
	return r;
}

int source_connect_streams(struct source *source, struct error *error)
{
	int64_t deadline = clock_deadline(SOURCE_CONNECT_NS);
	int r;

	r = source_open_stream(source, WIRE_URGENT, 0, deadline, &source->urgent, error);
	for (uint32_t i = 0; r == 0 && i < source->options->streams; i++) {
		r = source_open_stream(source, WIRE_BULK, i, deadline, &source->bulk[i], error);
		if (r == 0)
			source->bulk_count++;
	}
	return r;
}

uint64_t source_bytes_sent(const struct source *source)
{
	uint64_t sum = source->closed_wire;

	if (source->control)
		sum += stream_counters(source->control).wire_out;
	if (source->urgent)
		sum += stream_counters(source->urgent).wire_out;
	for (uint32_t i = 0; i < source->bulk_count; i++)
		if (source->bulk[i])
			sum += stream_counters(source->bulk[i]).wire_out;
	return sum;
}

static void close_stream(struct source *source, struct stream **stream)
{
	struct stream_counters counters;

	if (!*stream)
		return;
	(void)stream_shutdown(*stream, clock_deadline(CLOCK_S / 5), NULL); /* goodbye, if somebody listens */
	counters = stream_counters(*stream);
	source->closed_wire += counters.wire_out;
	source->closed_raw += counters.raw_out;
	stream_free(*stream);
	*stream = NULL;
}

void source_close_streams(struct source *source)
{
	close_stream(source, &source->control);
	close_stream(source, &source->urgent);
	for (uint32_t i = 0; i < source->bulk_count; i++)
		close_stream(source, &source->bulk[i]);
	source->bulk_count = 0;
}
