/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS as a filter: OpenSSL between the user and the stream below.
 *
 * OpenSSL reads and writes through a BIO of ours. Reading goes straight to stream_read() of below, with the deadline
 * of the call that is under way; what that says other than bytes is kept in `below` and comes back to the caller as
 * it was. Writing only appends to `wire`, and never fails but for want of memory: so OpenSSL is never left with half
 * a record, a full link shows only where we send `wire` ourselves, and many records go out with one system call.
 * Before plain bytes are given to OpenSSL there is always room for what becomes of them.
 *
 * Small writes gather in `stage` up to a record (16 KiB), large ones bypass it. stream_flush() sends both.
 *
 * Reading ahead is on: OpenSSL takes as much as is there, so the socket may be empty while it holds whole records.
 * stream_pending() says so, until OpenSSL asks for more.
 *
 * A connection that ends without the peer's close_notify has been cut by somebody: -ECONNRESET, never an end. Keys
 * are renewed well below the limit of AES-GCM (RFC 8446, 5.5).
 */
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "tls-internal.h"

#define RECORD_PLAIN 16384
#define RECORD_EXTRA 64 /* header, content type and tag, rounded up */
#define WIRE_RECORDS 16
#define WIRE_MAX (WIRE_RECORDS * (RECORD_PLAIN + RECORD_EXTRA))
#define KEY_BYTES_MAX (UINT64_C(64) << 30)

/* Sends what OpenSSL has produced; what is left after an error stays for the next call. */
static int wire_send(struct stream_tls *tls, int64_t deadline, struct error *error)
{
	while (tls->wire_sent < tls->wire.size) {
		struct iovec iov = {
			.iov_base = tls->wire.data + tls->wire_sent,
			.iov_len = tls->wire.size - tls->wire_sent,
		};
		ssize_t n = stream_writev(tls->base.below, &iov, 1, deadline, error);

		if (n < 0)
			return (int)n;
		tls->wire_sent += (size_t)n;
	}
	buffer_clear(&tls->wire);
	tls->wire_sent = 0;
	return 0;
}

/* ---- the BIO ---- */

static int bio_read(BIO *bio, char *data, size_t size, size_t *ret)
{
	struct stream_tls *tls = BIO_get_data(bio);
	ssize_t n;

	BIO_clear_retry_flags(bio);
	if (tls->below_code)
		return 0;
	/* A blocking read waits for an answer to what we have said, as in the handshake. */
	n = tls->deadline == STREAM_NOWAIT ? 0 : wire_send(tls, tls->deadline, &tls->below);
	if (n == 0)
		n = stream_read(tls->base.below, data, size, tls->deadline, &tls->below);
	if (n < 0) {
		tls->below_code = (int)n;
		if (n == -EAGAIN || n == -ETIMEDOUT || n == -ECANCELED)
			BIO_set_retry_read(bio);
		return 0;
	}
	if (n == 0) {
		BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
		return 0;
	}
	if (!tls->received)
		tls->first_byte = (uint8_t)data[0];
	tls->received += (uint64_t)n;
	*ret = (size_t)n;
	return 1;
}

static int bio_write(BIO *bio, const char *data, size_t size, size_t *ret)
{
	struct stream_tls *tls = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (buffer_append(&tls->wire, data, size) < 0) {
		tls->below_code = error_set_errno(&tls->below, -ENOMEM, "buffer for TLS");
		return 0;
	}
	*ret = size;
	return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)number;
	(void)pointer;
	if (command == BIO_CTRL_FLUSH)
		return 1;
	if (command == BIO_CTRL_EOF)
		return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) ? 1 : 0;
	return 0;
}

BIO_METHOD *tls_bio_method_new(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stream");

	if (!method)
		return NULL;
	BIO_meth_set_read_ex(method, bio_read);
	BIO_meth_set_write_ex(method, bio_write);
	BIO_meth_set_ctrl(method, bio_ctrl);
	return method;
}

/* ---- both sides ---- */

static void begin(struct stream_tls *tls, int64_t deadline)
{
	ERR_clear_error();
	tls->deadline = deadline;
	tls->below_code = 0;
	error_clear(&tls->below);
}

/* What came of a call into OpenSSL that did not succeed; 0: the peer said goodbye. */
static int outcome(struct stream_tls *tls, int result, const char *what, struct error *error)
{
	int reason = SSL_get_error(tls->ssl, result);

	if (tls->below_code) {
		if (error && !error->code && tls->below_code != -EAGAIN)
			*error = tls->below;
		if (reason == SSL_ERROR_WANT_READ)
			tls->drained = true;
		return tls->below_code;
	}
	if (reason == SSL_ERROR_ZERO_RETURN) {
		tls->ended = true;
		return 0;
	}
	return tls_failure(tls, what, error);
}

/*
 * A write has found the connection broken: the peer may have said before why, and that is the better answer. The
 * usual case is a server that refuses the certificate when the client is already writing.
 */
static int write_failed(struct stream_tls *tls, int code, struct error *error)
{
	struct error said = ERROR_INIT;
	uint8_t byte;
	size_t n;
	int r;

	if (code != -EPIPE && code != -ECONNRESET)
		return code;
	begin(tls, STREAM_NOWAIT);
	r = SSL_peek_ex(tls->ssl, &byte, 1, &n);
	if (r == 1 || tls->below_code || outcome(tls, r, "writing to", &said) != -EACCES)
		return code;
	error_clear(error);
	return error_set(error, -EACCES, "%s", said.message);
}

/* Encrypts `size` bytes (at most RECORD_PLAIN x WIRE_RECORDS) into wire, after making room there. */
static int records_write(struct stream_tls *tls, const uint8_t *data, size_t size, int64_t deadline,
			 struct error *error)
{
	size_t records = (size + RECORD_PLAIN - 1) / RECORD_PLAIN, done = 0;
	int r;

	if (tls->wire.size + size + records * RECORD_EXTRA > WIRE_MAX) {
		r = wire_send(tls, deadline, error);
		if (r < 0)
			return r == -EAGAIN ? r : write_failed(tls, r, error);
	}
	tls->key_bytes += size;
	if (tls->key_bytes > KEY_BYTES_MAX && SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
		tls->key_bytes = 0;
	begin(tls, STREAM_NOWAIT);
	while (done < size) {
		size_t n = 0;

		r = SSL_write_ex(tls->ssl, data + done, size - done, &n);
		if (r != 1)
			return outcome(tls, r, "writing to", error) ?: error_set_errno(error, -EPIPE, "writing to %s",
										     stream_label(&tls->base));
		done += n;
	}
	return 0;
}

static int stage_write(struct stream_tls *tls, int64_t deadline, struct error *error)
{
	int r;

	if (!tls->staged)
		return 0;
	r = records_write(tls, tls->stage, tls->staged, deadline, error);
	if (r < 0)
		return r;
	tls->staged = 0;
	return 0;
}

static ssize_t tls_write(struct stream *stream, const struct iovec *iov, int count, int64_t deadline,
			 struct error *error)
{
	struct stream_tls *tls = (struct stream_tls *)stream;
	size_t done = 0;
	int r = 0;

	if (!tls->stage)
		tls->stage = malloc(RECORD_PLAIN);
	if (!tls->stage)
		return error_set_errno(error, -ENOMEM, "buffer for TLS");
	for (int i = 0; i < count; i++) {
		const uint8_t *data = iov[i].iov_base;
		size_t left = iov[i].iov_len;

		while (left) {
			size_t n = RECORD_PLAIN - tls->staged;

			if (!tls->staged && left >= RECORD_PLAIN) {
				n = left / RECORD_PLAIN * RECORD_PLAIN;
				if (n > WIRE_RECORDS * RECORD_PLAIN)
					n = WIRE_RECORDS * RECORD_PLAIN;
				r = records_write(tls, data, n, deadline, error);
			} else if (n == 0) {
				r = stage_write(tls, deadline, error);
			} else {
				n = left < n ? left : n;
				memcpy(tls->stage + tls->staged, data, n);
				tls->staged += n;
			}
			if (r == -EAGAIN && done)
				return (ssize_t)done;
			if (r < 0)
				return r;
			data += n;
			left -= n;
			done += n;
		}
	}
	return (ssize_t)done;
}

static int tls_flush(struct stream *stream, int64_t deadline, struct error *error)
{
	struct stream_tls *tls = (struct stream_tls *)stream;
	int r;

	r = stage_write(tls, deadline, error);
	if (r < 0)
		return r;
	r = wire_send(tls, deadline, error);
	return r < 0 && r != -EAGAIN ? write_failed(tls, r, error) : r;
}

static ssize_t tls_read(struct stream *stream, void *data, size_t size, int64_t deadline, struct error *error)
{
	struct stream_tls *tls = (struct stream_tls *)stream;
	size_t n = 0;
	int r;

	if (tls->ended)
		return 0;
	begin(tls, deadline);
	r = SSL_read_ex(tls->ssl, data, size, &n);
	if (r != 1)
		return outcome(tls, r, "reading from", error);
	tls->drained = false;
	return (ssize_t)n;
}

static bool tls_pending(const struct stream *stream)
{
	const struct stream_tls *tls = (const struct stream_tls *)stream;

	return !tls->drained && SSL_has_pending(tls->ssl);
}

static int tls_shutdown(struct stream *stream, int64_t deadline, struct error *error)
{
	struct stream_tls *tls = (struct stream_tls *)stream;

	begin(tls, STREAM_NOWAIT);
	if (SSL_shutdown(tls->ssl) < 0) {
		int r = outcome(tls, -1, "closing the connection to", error);

		if (r < 0)
			return r;
	}
	return wire_send(tls, deadline, error);
}

void stream_tls_free(struct stream_tls *tls)
{
	SSL_free(tls->ssl);
	tls_peer_free(tls->peer);
	free(tls->expected_name);
	buffer_deinit(&tls->wire);
	if (tls->stage)
		explicit_bzero(tls->stage, RECORD_PLAIN);
	free(tls->stage);
	tls_context_unref(tls->context);
	free(tls);
}

static void tls_free(struct stream *stream)
{
	stream_tls_free((struct stream_tls *)stream);
}

static const struct stream_ops tls_ops = {
	.read = tls_read,
	.write = tls_write,
	.flush = tls_flush,
	.shutdown = tls_shutdown,
	.pending = tls_pending,
	.free = tls_free,
};

int stream_tls_new(struct tls_context *context, struct stream_tls **ret, struct error *error)
{
	struct stream_tls *tls = calloc(1, sizeof(*tls));
	BIO *bio = NULL;

	if (!tls)
		goto no_memory;
	tls->context = tls_context_ref(context);
	tls->ssl = SSL_new(context->ssl_context);
	bio = BIO_new(context->bio_method);
	if (!tls->ssl || !bio)
		goto no_memory;
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	SSL_set_app_data(tls->ssl, tls);
	SSL_set_verify(tls->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, tls_verify);
	*ret = tls;
	return 0;
no_memory:
	BIO_free(bio);
	if (tls)
		stream_tls_free(tls);
	return error_set_errno(error, -ENOMEM, "TLS connection");
}

void stream_tls_push(struct stream **stream, struct stream_tls *tls)
{
	stream_init_filter(&tls->base, &tls_ops, stream);
}

int stream_tls_handshake(struct stream_tls *tls, int64_t deadline, struct error *error)
{
	X509 *certificate;
	int r = 0, sent;

	if (!tls->finished) {
		begin(tls, deadline);
		r = SSL_do_handshake(tls->ssl);
		tls->finished = r == 1;
		r = r == 1 ? 0 : outcome(tls, r, "TLS handshake with", error) ?: -ECONNRESET;
	}
	/* Also when it failed: the alert says why. A failure to send it is not the failure to report. */
	sent = wire_send(tls, deadline, r < 0 && r != -EAGAIN ? NULL : error);
	if (r < 0 && r != -EAGAIN)
		return error_set_errno(error, r, "TLS handshake with %s", stream_label(&tls->base));
	if (sent < 0 && sent != -EAGAIN)
		return sent;
	if (sent == -EAGAIN)
		return TLS_WANTS_WRITE;
	if (r == -EAGAIN)
		return TLS_WANTS_READ;
	certificate = SSL_get0_peer_certificate(tls->ssl);
	tls->peer = certificate ? tls_peer_new(certificate) : NULL;
	if (!tls->peer)
		return error_set_errno(error, -ENOMEM, "certificate of %s", stream_label(&tls->base));
	return TLS_DONE;
}

const struct tls_peer *tls_stream_peer(const struct stream *stream)
{
	const struct stream *found = stream_find(stream, &tls_ops);

	return found ? ((const struct stream_tls *)found)->peer : NULL;
}
