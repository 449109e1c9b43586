/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared by the files that are TLS: tls-context.c (own files), tls-peer.c (the other side's certificate, and
 * reasons), stream-tls.c (the filter), tls-handshake.c (the two roles).
 */
#pragma once

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <stdatomic.h>

#include "stream-ops.h"
#include "tls.h"
#include "util/buffer.h"

#define TLS_REASON_MAX 512
#define TLS_TIME_MAX 32

struct tls_context {
	atomic_int references;
	enum tls_role role;
	SSL_CTX *ssl_context;   /* owned */
	BIO_METHOD *bio_method; /* owned; reads and writes the stream below */
	int64_t expires;        /* when the own certificate does, in seconds of the wall clock */
};

struct stream_tls {
	struct stream base;
	struct tls_context *context; /* a reference */
	SSL *ssl;                    /* owned */
	struct tls_peer *peer;       /* owned; NULL until the handshake is done */
	char *expected_name;         /* owned; client: who the server must be; NULL on servers */
	char reason[TLS_REASON_MAX]; /* why the peer's certificate was refused; "": it was not */

	struct buffer wire;     /* encrypted bytes that are not sent yet */
	size_t wire_sent;       /* of these, bytes that are */
	uint8_t *stage;         /* one record's worth of plain bytes, so that small writes share records; or NULL */
	size_t staged;          /* bytes in stage */
	uint64_t key_bytes;     /* written under the present key */

	int64_t deadline;       /* of the read that OpenSSL is doing for us */
	struct error below;     /* what the stream below said in it */
	int below_code;         /* and its code; 0: nothing */
	uint64_t received;      /* bytes that came from below */
	uint8_t first_byte;     /* the first of them: tells TLS from plain bytes */
	bool drained;           /* OpenSSL has asked for more bytes since the last that it gave out */
	bool ended;             /* the peer said goodbye */
	bool finished;          /* the handshake is complete */
};

/* The filter of an SSL's connection, set with SSL_set_app_data(). */
static inline struct stream_tls *tls_of(const SSL *ssl)
{
	return SSL_get_app_data(ssl);
}

/* A filter that is not on any stream yet: then stream_tls_free() frees it. Pushing cannot fail. */
int stream_tls_new(struct tls_context *context, struct stream_tls **ret, struct error *error);
void stream_tls_push(struct stream **stream, struct stream_tls *tls);
void stream_tls_free(struct stream_tls *tls);

/* A step of the handshake, or with a deadline all of it: an enum tls_step or a negative errno. */
int stream_tls_handshake(struct stream_tls *tls, int64_t deadline, struct error *error);

/* The operations of the BIO between OpenSSL and a stream_tls; freed with BIO_meth_free(). NULL: no memory. */
BIO_METHOD *tls_bio_method_new(void);

/* Checks what OpenSSL does not: key usage present, and writes down the reason of a refusal. An SSL_verify_cb. */
int tls_verify(int ok, X509_STORE_CTX *store);

/* Reads the names; NULL if there is no memory. */
struct tls_peer *tls_peer_new(X509 *certificate);
void tls_peer_free(struct tls_peer *peer);

/* "2030-01-31 12:00 UTC" */
void tls_time_text(const ASN1_TIME *time, char text[TLS_TIME_MAX]);

/* Turns what OpenSSL's error queue says about a failed call into a sentence. Returns the code. */
int tls_failure(struct stream_tls *tls, const char *what, struct error *error);
