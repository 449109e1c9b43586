/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "connection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "ask.h"
#include "session.h"
#include "util/cleanup.h"

struct connection {
	struct registry *registry;   /* borrowed */
	struct tls_server *tls;      /* owned; NULL after the handshake */
	struct stream *stream;       /* owned; NULL before the handshake is done, and when handed over */
	struct frame_reader reader;  /* of the HELLO */
	char peer[TCP_ADDRESS_MAX];  /* address */
	int fd;                      /* the socket; owned by tls or stream */
};

int connection_new(struct registry *registry, struct tls_context *tls, int fd, const char *peer,
		   struct connection **ret, struct error *error)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	int r;

	if (!connection)
		return error_set_errno(error, -ENOMEM, "cannot accept a connection");
	connection->registry = registry;
	connection->fd = fd;
	snprintf(connection->peer, sizeof(connection->peer), "%s", peer);
	frame_reader_init(&connection->reader, &wire_table_hello);
	r = tls_server_new(tls, fd, &connection->tls, error);
	if (r < 0) {
		free(connection);
		return r;
	}
	*ret = connection;
	return 0;
}

void connection_free(struct connection *connection)
{
	if (!connection)
		return;
	frame_reader_deinit(&connection->reader);
	tls_server_free(connection->tls);
	stream_free(connection->stream);
	free(connection);
}

const char *connection_peer(const struct connection *connection)
{
	return connection->peer;
}

void connection_refuse(struct connection *connection, int code, const char *message)
{
	if (connection->stream)
		wire_send_failure(connection->stream, code, message);
}

static int check_name(const struct connection *connection, struct error *error)
{
	const struct pageserver_options *options = connection->registry->options;
	const struct tls_peer *peer = tls_stream_peer(connection->stream);

	for (size_t i = 0; i < options->allow_count; i++)
		if (peer && tls_peer_is(peer, options->allow[i]))
			return 0;
	if (options->allow_count == 0)
		return 0;
	return error_set(error, -EACCES, "'%s' may not use this page server; pageserver --allow names who may",
			 peer && peer->common_name ? peer->common_name : "?");
}

static int check_hello(const WireHello *hello, struct error *error)
{
	if (hello->version != WIRE_VERSION)
		return error_set(error, -EPROTO, "the source speaks version %u of the protocol, this page server version %u",
				 hello->version, WIRE_VERSION);
	if (hello->session.len != WIRE_SESSION_SIZE)
		return error_set(error, -EPROTO, "a session id of %zu bytes is no session id", hello->session.len);
	return 0;
}

static int join(struct connection *connection, const WireHello *hello, struct error *error)
{
	struct session *session = registry_find(connection->registry, hello->session.data);
	int r;

	if (!session)
		return error_set(error, -ENOENT, "there is no such session");
	if (!hello->has_token || !session_token_is(session, hello->token.data, hello->token.len))
		r = error_set(error, -EACCES, "the stream does not belong to the session");
	else if (hello->role == WIRE_BULK)
		r = session_join_bulk(session, hello->index, &connection->stream, error);
	else
		r = session_join_urgent(session, &connection->stream, error);
	registry_put(connection->registry, session);
	return r;
}

static int hand_over(struct connection *connection, const WireHello *hello, struct error *error)
{
	switch (hello->role) {
	case WIRE_CONTROL:
		return session_open(connection->registry, &connection->stream, hello->session.data, connection->peer,
				    error);
	case WIRE_URGENT:
	case WIRE_BULK:
		return join(connection, hello, error);
	case WIRE_ASK:
		return ask_start(connection->registry, &connection->stream, hello->session.data,
				 hello->has_token ? hello->token.data : NULL, hello->token.len, error);
	default:
		return error_set(error, -EPROTO, "a stream cannot have role %u", hello->role);
	}
}

static int read_hello(struct connection *connection, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	int r = frame_reader_next(&connection->reader, connection->stream, STREAM_NOWAIT, error);

	if (r == -EAGAIN)
		return CONNECTION_WANTS_READ;
	if (r == 0)
		r = wire_unpack(&connection->reader.payload, &wire_hello__descriptor, &base, error);
	if (r == 0)
		r = check_hello((const WireHello *)base, error);
	if (r == 0)
		r = check_name(connection, error);
	if (r == 0)
		r = hand_over(connection, (const WireHello *)base, error);
	if (r < 0)
		connection_refuse(connection, r, error_text(error, r));
	return r;
}

int connection_step(struct connection *connection, struct error *error)
{
	int r;

	if (connection->tls) {
		r = tls_server_handshake(connection->tls, error);
		if (r == TLS_WANTS_READ)
			return CONNECTION_WANTS_READ;
		if (r == TLS_WANTS_WRITE)
			return CONNECTION_WANTS_WRITE;
		if (r < 0)
			return r;
		connection->stream = tls_server_stream(connection->tls);
		tls_server_free(steal_ptr(&connection->tls));
	}
	return read_hello(connection, error);
}
