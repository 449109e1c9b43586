/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who begins and who waits: the client's handshake in one call, the server's in steps for an event loop. What a step
 * does is in stream-tls.c.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "tls-internal.h"
#include "util/cleanup.h"

struct tls_server {
	struct stream *stream; /* a stream_tls; NULL when it was handed over */
	bool failed;           /* the handshake did: the client has been told */
};

/* ---- client ---- */

static int expect_name(struct stream_tls *tls, const char *name, struct error *error)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);
	uint8_t address[16];
	int r;

	tls->expected_name = strdup(name);
	if (!tls->expected_name)
		return error_set_errno(error, -ENOMEM, "TLS connection");
	if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1) {
		r = X509_VERIFY_PARAM_set1_ip_asc(param, name);
	} else {
		X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
						       X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
		r = X509_VERIFY_PARAM_set1_host(param, name, 0) && SSL_set_tlsext_host_name(tls->ssl, name);
	}
	if (r != 1 || !*name)
		return error_set(error, -EINVAL, "'%s' cannot be the name of a server", name);
	return 0;
}

int tls_client_push(struct stream **stream, struct tls_context *context, const char *server_name, int64_t deadline,
		    struct error *error)
{
	struct stream *below = *stream;
	struct stream_tls *tls;
	int r;

	r = stream_tls_new(context, &tls, error);
	if (r < 0)
		return r;
	stream_tls_push(stream, tls);
	SSL_set_connect_state(tls->ssl);
	r = expect_name(tls, server_name, error);
	if (r == 0)
		r = stream_tls_handshake(tls, deadline, error);
	if (r == 0)
		r = stream_flush(below, deadline, error);
	if (r != 0) {
		stream_tls_free(tls);
		*stream = below;
	}
	return r;
}

/* ---- server ---- */

static int server_alloc(struct tls_context *context, struct tls_server **ret, struct stream_tls **ret_tls,
			struct error *error)
{
	struct tls_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return error_set_errno(error, -ENOMEM, "TLS connection");
	r = stream_tls_new(context, ret_tls, error);
	if (r < 0) {
		free(server);
		return r;
	}
	SSL_set_accept_state((*ret_tls)->ssl);
	*ret = server;
	return 0;
}

int tls_server_new_stream(struct tls_context *context, struct stream **stream, struct tls_server **ret,
			  struct error *error)
{
	struct stream_tls *tls;
	int r;

	r = server_alloc(context, ret, &tls, error);
	if (r < 0)
		return r;
	stream_tls_push(stream, tls);
	(*ret)->stream = steal_ptr(stream);
	return 0;
}

int tls_server_new(struct tls_context *context, int fd, struct tls_server **ret, struct error *error)
{
	struct tls_server *server;
	struct stream_tls *tls;
	int r;

	r = server_alloc(context, &server, &tls, error);
	if (r < 0)
		return r;
	r = stream_socket_new(fd, NULL, &server->stream, error);
	if (r < 0) {
		stream_tls_free(tls);
		free(server);
		return r;
	}
	stream_tls_push(&server->stream, tls);
	*ret = server;
	return 0;
}

int tls_server_handshake(struct tls_server *server, struct error *error)
{
	int r = stream_tls_handshake((struct stream_tls *)server->stream, STREAM_NOWAIT, error);

	server->failed = r < 0;
	return r;
}

int tls_server_handshake_wait(struct tls_server *server, int64_t deadline, struct error *error)
{
	int r = stream_tls_handshake((struct stream_tls *)server->stream, deadline, error);

	server->failed = r < 0;
	if (r == 0)
		r = stream_flush(server->stream->below, deadline, error);
	return r;
}

int tls_server_fd(const struct tls_server *server)
{
	return stream_fd(server->stream);
}

struct stream *tls_server_stream(struct tls_server *server)
{
	return steal_ptr(&server->stream);
}

/* Closing a socket with unread bytes resets it, and the reset may overtake the alert: take in what is there first. */
static void let_alert_arrive(struct stream *below)
{
	uint8_t dropped[4096];

	stream_shutdown(below, STREAM_NOWAIT, NULL);
	for (int i = 0; i < 16; i++)
		if (stream_read(below, dropped, sizeof(dropped), STREAM_NOWAIT, NULL) <= 0)
			break;
}

void tls_server_free(struct tls_server *server)
{
	if (!server)
		return;
	if (server->stream && server->failed)
		let_alert_arrive(server->stream->below);
	stream_free(server->stream);
	free(server);
}
