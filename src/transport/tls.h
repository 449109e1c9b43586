/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS 1.3 with certificates on both sides, as a filter on any stream (OpenSSL 3). Nothing older, no resumption, no
 * unauthenticated peer. The client checks the server's name against the subject alternative names of its certificate
 * (never the common name) and the key usage serverAuth; the server demands a certificate of the same CA with
 * clientAuth. What the client may do is then the caller's decision, by tls_peer_is().
 *
 * A directory holds ca.pem (whom to believe), and server.pem, server-key.pem or client.pem, client-key.pem; keys.h
 * makes them.
 *
 * TLS 1.3 lets a client finish its handshake before the server has looked at its certificate: that the server refuses
 * it shows at the client's first read (or write) afterwards, as -EACCES with the reason that the server gave.
 *
 * Errors: -EACCES (a certificate is missing, refused or wrong), -EPROTO (not TLS, or no common version), those of
 * stream.h, and what opening the files gives. All with a sentence.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream.h"
#include "util/array.h"

#define TLS_DIR_DEFAULT "/etc/pagestream/tls"

enum tls_role {
	TLS_CLIENT, /* migrate */
	TLS_SERVER, /* pageserver */
};

struct tls_context;
struct tls_server;

struct tls_peer {
	char *common_name;   /* of the certificate's subject; "" if it has none */
	ARRAY(char *) names; /* DNS names and IP addresses (as text) of its subject alternative names */
};

/*
 * Reads certificate, key and CA of `role`. Refused: a file that is missing (the message says to run `migrate keys`),
 * a key that others than its owner may read, one that does not belong to the certificate, a certificate that has
 * expired or is for the other role. Reads files, so it may block on the disk. The streams made from a context hold
 * references; it may be used by several threads.
 */
int tls_context_new(enum tls_role role, const char *dir, struct tls_context **ret, struct error *error);
struct tls_context *tls_context_ref(struct tls_context *context);
void tls_context_unref(struct tls_context *context);

/* Seconds until the own certificate expires, for a warning. */
int64_t tls_context_expires_in(const struct tls_context *context);

/* Client: handshake over *stream (a connected one), whose peer must prove to be `server_name` (DNS name or IP). */
int tls_client_push(struct stream **stream, struct tls_context *context, const char *server_name, int64_t deadline,
		    struct error *error);

/*
 * Server: the handshake in steps that never block, for an event loop. tls_server_new() takes the connected socket on
 * success only. Call tls_server_handshake() until it is TLS_DONE, waiting in between for the socket as told.
 * The caller limits how long it may take. tls_server_stream() hands the finished stream over, once; then (or at any
 * time before) tls_server_free() frees what is left, the socket included if the stream was not taken.
 */
enum tls_step {
	TLS_DONE = 0,
	TLS_WANTS_READ = 1,
	TLS_WANTS_WRITE = 2,
};

int tls_server_new(struct tls_context *context, int fd, struct tls_server **ret, struct error *error);
/* The same over any stream; *stream is taken and set to NULL on success. */
int tls_server_new_stream(struct tls_context *context, struct stream **stream, struct tls_server **ret,
			  struct error *error);
/* An enum tls_step or a negative errno (the client has then been told why, as far as that could be done). */
int tls_server_handshake(struct tls_server *server, struct error *error);
/* The same in one blocking call. */
int tls_server_handshake_wait(struct tls_server *server, int64_t deadline, struct error *error);
int tls_server_fd(const struct tls_server *server);
struct stream *tls_server_stream(struct tls_server *server);
void tls_server_free(struct tls_server *server);

/* Who the other side has proved to be, by the topmost TLS filter; NULL without one. Valid as long as the stream. */
const struct tls_peer *tls_stream_peer(const struct stream *stream);
/* Whether `name` is the common name or one of the alternative names. Case does not matter; no wildcards. */
bool tls_peer_is(const struct tls_peer *peer, const char *name);
