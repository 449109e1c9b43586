/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clients that are not ours (plain OpenSSL) at a server that works as an event loop's: no certificate, one for
 * another purpose, an old protocol, no resumption. And our client when it is refused while it is already writing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "transport-keys.h"
#include "transport/tcp.h"

#define SOON clock_deadline(5 * CLOCK_S)

static char good[KEYS_PATH_MAX];

static int setup(void **state)
{
	keys_dir_make(good);
	keys_dir_fill(good, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	keys_dir_remove(good);
	return 0;
}

struct loop {
	struct tls_server *server;
	struct error error;
	int code;
	int waits; /* times that a step had to wait */
};

/* As an event loop: a step, then poll for what it wants. */
static void *serve(void *argument)
{
	struct loop *loop = argument;
	int64_t end = SOON;

	do {
		struct pollfd poller = { .fd = tls_server_fd(loop->server) };

		loop->code = tls_server_handshake(loop->server, &loop->error);
		if (loop->code <= 0)
			break;
		poller.events = loop->code == TLS_WANTS_READ ? POLLIN : POLLOUT;
		poll(&poller, 1, 1000);
		loop->waits++;
	} while (clock_now_ns() < end);
	if (loop->code < 0) {
		tls_server_free(loop->server);
		loop->server = NULL;
	}
	return NULL;
}

struct stranger {
	const char *pair;  /* base of the files that he shows; NULL: none */
	int version;       /* highest protocol that he speaks */
	int code;          /* of the server */
	const char *words; /* in the server's message */
};

static void load(SSL_CTX *ssl_context, const char *pair)
{
	char path[KEYS_PATH_MAX * 2];

	snprintf(path, sizeof(path), "%s/%s.pem", good, pair);
	assert_int_equal(SSL_CTX_use_certificate_file(ssl_context, path, SSL_FILETYPE_PEM), 1);
	snprintf(path, sizeof(path), "%s/%s-key.pem", good, pair);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(ssl_context, path, SSL_FILETYPE_PEM), 1);
}

static void visit(const struct stranger *stranger)
{
	SSL_CTX *ssl_context = SSL_CTX_new(TLS_client_method());
	struct tls_context *context;
	struct loop loop = { .code = 0 };
	pthread_t thread;
	char byte;
	int fds[2];
	SSL *ssl;

	assert_int_equal(tls_context_new(TLS_SERVER, good, &context, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(tls_server_new(context, fds[1], &loop.server, NULL), 0);
	pthread_create(&thread, NULL, serve, &loop);

	SSL_CTX_set_max_proto_version(ssl_context, stranger->version);
	if (stranger->pair)
		load(ssl_context, stranger->pair);
	ssl = SSL_new(ssl_context);
	SSL_set_fd(ssl, fds[0]);
	if (SSL_connect(ssl) == 1 && stranger->code < 0)
		assert_int_not_equal(SSL_read(ssl, &byte, 1), 1);
	pthread_join(thread, NULL);
	print_message("  server: %s\n  client: %s\n", loop.error.message, ERR_reason_error_string(ERR_peek_error()) ?: "");
	assert_int_equal(loop.code, stranger->code);
	if (stranger->words)
		assert_non_null(strstr(loop.error.message, stranger->words));
	if (loop.code == 0) {
		struct stream *stream = tls_server_stream(loop.server);

		assert_true(loop.waits > 0);
		assert_true(tls_peer_is(tls_stream_peer(stream), "mover.test"));
		assert_int_equal(stream_write_full(stream, "x", 1, SOON, NULL), 0);
		assert_int_equal(stream_shutdown(stream, SOON, NULL), 0);
		assert_int_equal(SSL_read(ssl, &byte, 1), 1);
		assert_false(SSL_SESSION_is_resumable(SSL_get0_session(ssl)));
		stream_free(stream);
	}
	tls_server_free(loop.server);
	SSL_free(ssl);
	SSL_CTX_free(ssl_context);
	close(fds[0]);
	tls_context_unref(context);
	ERR_clear_error();
}

static void test_proper(void **state)
{
	const struct stranger stranger = { .pair = "client", .version = TLS1_3_VERSION };

	visit(&stranger);
}

static void test_no_certificate(void **state)
{
	const struct stranger stranger = {
		.version = TLS1_3_VERSION,
		.code = -EACCES,
		.words = "a local socket showed no certificate",
	};

	visit(&stranger);
}

static void test_other_purpose(void **state)
{
	struct stranger stranger = {
		.pair = "server",
		.version = TLS1_3_VERSION,
		.code = -EACCES,
		.words = "it is not made for a client",
	};

	visit(&stranger);
	/* The CA's own certificate has no extended key usage at all. */
	stranger.pair = "ca";
	visit(&stranger);
}

static void test_old_protocol(void **state)
{
	const struct stranger stranger = {
		.pair = "client",
		.version = TLS1_2_VERSION,
		.code = -EPROTO,
		.words = "does not speak TLS 1.3",
	};

	visit(&stranger);
}

/* Refused (unknown CA) while the client writes and writes: it still learns why. */
static void test_refused_while_writing(void **state)
{
	char other[KEYS_PATH_MAX], bound[TCP_ADDRESS_MAX];
	static uint8_t data[1 << 20];
	struct tls_context *context, *client;
	struct error error = ERROR_INIT;
	struct loop loop = { .code = 0 };
	struct pollfd poller;
	struct stream *stream;
	pthread_t thread;
	int listener, a, b, r;

	/* The client trusts the server's CA, but has a certificate of another. */
	keys_dir_make(other);
	keys_dir_fill(other, 0, 0);
	keys_copy(good, "ca.pem", other, "ca.pem");
	assert_int_equal(tls_context_new(TLS_SERVER, good, &context, NULL), 0);
	assert_int_equal(tls_context_new(TLS_CLIENT, other, &client, NULL), 0);
	keys_dir_remove(other);

	assert_int_equal(tcp_listen("127.0.0.1:0", &listener, bound, NULL), 0);
	assert_int_equal(tcp_connect(bound, NULL, SOON, -1, &a, NULL), 0);
	poller = (struct pollfd){ .fd = listener, .events = POLLIN };
	assert_int_equal(poll(&poller, 1, 1000), 1);
	assert_int_equal(tcp_accept(listener, NULL, &b, NULL, NULL), 0);
	assert_int_equal(stream_socket_new(a, "the server", &stream, NULL), 0);
	assert_int_equal(tls_server_new(context, b, &loop.server, NULL), 0);
	pthread_create(&thread, NULL, serve, &loop);
	r = tls_client_push(&stream, client, "server.test", SOON, &error);
	for (int i = 0; i < 100 && r == 0; i++)
		r = stream_write_full(stream, data, sizeof(data), SOON, &error);
	pthread_join(thread, NULL);
	print_message("  client: %s\n", error.message);
	assert_int_equal(loop.code, -EACCES);
	/* The reset may overtake the alert: then all that is known is that the link broke. */
	assert_true(r == -EACCES || r == -ECONNRESET || r == -EPIPE);
	if (r == -EACCES)
		assert_non_null(strstr(error.message, "refuses our certificate"));
	stream_free(stream);
	close(listener);
	tls_context_unref(context);
	tls_context_unref(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_proper),        cmocka_unit_test(test_no_certificate),
		cmocka_unit_test(test_other_purpose), cmocka_unit_test(test_old_protocol),
		cmocka_unit_test(test_refused_while_writing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
