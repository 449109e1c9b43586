/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS: who gets in, who does not, what both sides say; data both ways, cut, damaged, polled; throughput, printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "transport-keys.h"
#include "transport/filter.h"
#include "transport/frame.h"
#include "transport/tcp.h"

#define SOON clock_deadline(5 * CLOCK_S)

static char good[KEYS_PATH_MAX];  /* keys for server and client of one CA */
static char other[KEYS_PATH_MAX]; /* the same of another CA */
static char mixed[KEYS_PATH_MAX]; /* put together by each test */

static int setup(void **state)
{
	keys_dir_make(good);
	keys_dir_make(other);
	keys_dir_fill(good, 0, 0);
	keys_dir_fill(other, 0, 0);
	return 0;
}

static int teardown(void **state)
{
	keys_dir_remove(good);
	keys_dir_remove(other);
	return 0;
}

static struct tls_context *context_of(enum tls_role role, const char *dir)
{
	struct error error = ERROR_INIT;
	struct tls_context *context;

	if (tls_context_new(role, dir, &context, &error) < 0)
		fail_msg("%s", error.message);
	return context;
}

/* The CA that `ca` has, with the pair for `role` of `pair`. */
static struct tls_context *context_mixed(enum tls_role role, const char *ca, const char *pair)
{
	struct tls_context *context;

	keys_dir_make(mixed);
	keys_copy(ca, "ca.pem", mixed, "ca.pem");
	keys_copy(pair, role == TLS_SERVER ? "server.pem" : "client.pem", mixed,
		  role == TLS_SERVER ? "server.pem" : "client.pem");
	keys_copy(pair, role == TLS_SERVER ? "server-key.pem" : "client-key.pem", mixed,
		  role == TLS_SERVER ? "server-key.pem" : "client-key.pem");
	context = context_of(role, mixed);
	keys_dir_remove(mixed);
	return context;
}

struct server_job {
	struct tls_context *context;
	struct stream *below;  /* taken */
	struct stream *stream; /* result; NULL if the handshake failed */
	struct error error;
	int code;
};

static void *serve(void *argument)
{
	struct server_job *job = argument;
	struct tls_server *server;

	job->code = tls_server_new_stream(job->context, &job->below, &server, &job->error);
	if (job->code < 0)
		return NULL;
	job->code = tls_server_handshake_wait(server, SOON, &job->error);
	if (job->code == 0)
		job->stream = tls_server_stream(server);
	tls_server_free(server);
	return NULL;
}

static void tcp_pair(struct stream **a, struct stream **b)
{
	char bound[TCP_ADDRESS_MAX];
	int listener, client, server;
	struct pollfd poller;

	assert_int_equal(tcp_listen("127.0.0.1:0", &listener, bound, NULL), 0);
	assert_int_equal(tcp_connect(bound, NULL, SOON, -1, &client, NULL), 0);
	poller = (struct pollfd){ .fd = listener, .events = POLLIN };
	assert_int_equal(poll(&poller, 1, 1000), 1);
	assert_int_equal(tcp_accept(listener, NULL, &server, NULL, NULL), 0);
	close(listener);
	assert_int_equal(stream_socket_new(client, "the server", a, NULL), 0);
	assert_int_equal(stream_socket_new(server, "the client", b, NULL), 0);
}

/* Handshakes over *a and *b with these two; both become TLS. */
static void secure(struct stream **a, struct stream **b)
{
	struct tls_context *client = context_of(TLS_CLIENT, good);
	struct server_job job = { .context = context_of(TLS_SERVER, good), .below = *b };
	struct error error = ERROR_INIT;
	pthread_t thread;
	int r;

	pthread_create(&thread, NULL, serve, &job);
	r = tls_client_push(a, client, "server.test", SOON, &error);
	pthread_join(thread, NULL);
	if (r < 0 || job.code < 0)
		fail_msg("client: %s; server: %s", error.message, job.error.message);
	*b = job.stream;
	tls_context_unref(client);
	tls_context_unref(job.context);
}

struct expectation {
	const char *name;         /* that the client asks for */
	int client;               /* code of the handshake or of the first exchange after it */
	const char *client_words; /* in the client's message */
	int server;               /* code of the server's handshake */
	const char *server_words; /* in the server's message */
};

static void meet(struct tls_context *client, struct tls_context *server, const struct expectation *expect)
{
	struct server_job job = { .context = server };
	struct error error = ERROR_INIT;
	struct stream *a;
	pthread_t thread;
	uint8_t byte;
	int r;

	tcp_pair(&a, &job.below);
	pthread_create(&thread, NULL, serve, &job);
	r = tls_client_push(&a, client, expect->name, SOON, &error);
	/* A client of TLS 1.3 may have to read to learn that it was refused. */
	if (r == 0 && expect->client < 0)
		r = stream_read_full(a, &byte, 1, SOON, &error);
	/* The server waits for the end of a handshake that the client has given up. */
	if (r < 0) {
		stream_free(a);
		a = NULL;
	}
	pthread_join(thread, NULL);
	print_message("  client: %s\n  server: %s\n", error.message, job.error.message);
	assert_int_equal(r, expect->client);
	assert_int_equal(job.code, expect->server);
	if (expect->client_words)
		assert_non_null(strstr(error.message, expect->client_words));
	if (expect->server_words)
		assert_non_null(strstr(job.error.message, expect->server_words));
	if (r == 0) {
		assert_true(tls_peer_is(tls_stream_peer(job.stream), "mover.test"));
		assert_false(tls_peer_is(tls_stream_peer(job.stream), "server.test"));
		assert_true(tls_peer_is(tls_stream_peer(a), "SERVER.test"));
		assert_true(tls_peer_is(tls_stream_peer(a), "127.0.0.1"));
		assert_true(tls_peer_is(tls_stream_peer(a), "::1"));
	}
	stream_free(a);
	stream_free(job.stream);
	stream_free(job.below);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_good(void **state)
{
	const char *const names[] = { "server.test", "127.0.0.1", "::1" };

	for (size_t i = 0; i < 3; i++) {
		const struct expectation expect = { .name = names[i] };

		meet(context_of(TLS_CLIENT, good), context_of(TLS_SERVER, good), &expect);
	}
}

static void test_wrong_name(void **state)
{
	struct expectation expect = { .name = "elsewhere.test", .client = -EACCES, .server = -EACCES };

	expect.client_words = "it is for server.test, 127.0.0.1, ::1, not for elsewhere.test";
	meet(context_of(TLS_CLIENT, good), context_of(TLS_SERVER, good), &expect);
	expect.name = "127.0.0.2";
	expect.client_words = "not for 127.0.0.2";
	meet(context_of(TLS_CLIENT, good), context_of(TLS_SERVER, good), &expect);
}

static void test_unknown_server(void **state)
{
	const struct expectation expect = {
		.name = "server.test",
		.client = -EACCES,
		.client_words = "unknown CA",
		.server = -EACCES,
		.server_words = "refuses our certificate: it is from a CA unknown there",
	};

	meet(context_of(TLS_CLIENT, good), context_of(TLS_SERVER, other), &expect);
}

static void test_unknown_client(void **state)
{
	const struct expectation expect = {
		.name = "server.test",
		.client = -EACCES,
		.client_words = "refuses our certificate: it is from a CA unknown there",
		.server = -EACCES,
		.server_words = "certificate of the client is refused: it is not signed by the CA in ca.pem",
	};

	meet(context_mixed(TLS_CLIENT, good, other), context_of(TLS_SERVER, good), &expect);
}

/* Loading refuses expired certificates, so the clock must pass by one that is loaded: valid for one more second. */
static void test_expired(void **state)
{
	static const char *const names[] = { "server.test" };
	struct keys_options options = { .names = names, .name_count = 1, .client = "mover.test", .days = 1 };
	struct expectation expect = {
		.name = "server.test",
		.client = -EACCES,
		.client_words = "refuses our certificate: it has expired",
		.server = -EACCES,
		.server_words = "certificate of the client is refused: it expired on 20",
	};
	struct tls_context *client, *server;
	char path[KEYS_PATH_MAX], trusting[KEYS_PATH_MAX];

	keys_dir_make(path);
	keys_dir_make(trusting);
	options.start = time(NULL) - 86400 + 2;
	assert_int_equal(keys_generate(path, &options, NULL), 0);
	/* Each side: good keys of its own, trust in the CA of the short-lived ones. */
	keys_copy(path, "ca.pem", trusting, "ca.pem");
	keys_copy(good, "server.pem", trusting, "server.pem");
	keys_copy(good, "server-key.pem", trusting, "server-key.pem");
	keys_copy(good, "client.pem", trusting, "client.pem");
	keys_copy(good, "client-key.pem", trusting, "client-key.pem");
	client = context_mixed(TLS_CLIENT, good, path);
	server = context_of(TLS_SERVER, path);
	usleep(3100000);
	meet(client, context_of(TLS_SERVER, trusting), &expect);
	expect.client_words = "it expired on 20";
	expect.server_words = "refuses our certificate: it has expired";
	meet(context_of(TLS_CLIENT, trusting), server, &expect);
	keys_dir_remove(path);
	keys_dir_remove(trusting);
}

/* Somebody who speaks to a TLS server, or answers a TLS client, in another way. */
static void test_plain_bytes(void **state)
{
	struct server_job job = { .context = context_of(TLS_SERVER, good) };
	struct tls_context *client = context_of(TLS_CLIENT, good);
	struct error error = ERROR_INIT;
	struct stream *a, *b;

	tcp_pair(&a, &job.below);
	assert_int_equal(stream_write_full(a, "GET / HTTP/1.0\r\n\r\n", 18, SOON, NULL), 0);
	serve(&job);
	assert_int_equal(job.code, -EPROTO);
	assert_non_null(strstr(job.error.message, "the client does not speak TLS: it sent plain bytes"));
	stream_free(a);

	tcp_pair(&a, &b);
	assert_int_equal(stream_write_full(b, "220 mail.test\r\n", 15, SOON, NULL), 0);
	assert_int_equal(tls_client_push(&a, client, "server.test", SOON, &error), -EPROTO);
	assert_non_null(strstr(error.message, "the server does not speak TLS"));
	stream_free(a);
	stream_free(b);

	/* Nothing at all. */
	tcp_pair(&a, &job.below);
	stream_free(a);
	error_clear(&job.error);
	serve(&job);
	assert_int_equal(job.code, -ECONNRESET);
	assert_non_null(strstr(job.error.message, "before a TLS handshake"));
	tcp_pair(&a, &b);
	error_clear(&error);
	assert_int_equal(tls_client_push(&a, client, "server.test", clock_deadline(50 * CLOCK_MS), &error), -ETIMEDOUT);
	stream_free(a);
	stream_free(b);
	tls_context_unref(client);
	tls_context_unref(job.context);
}

static void *write_much(void *argument)
{
	struct stream *stream = argument;
	uint8_t *data = malloc(262144);
	intptr_t r = 0;

	for (int i = 0; i < 40 && r == 0; i++) {
		memset(data, i, 262144);
		r = stream_write_full(stream, data, (size_t)(i * 6551) + 1, SOON, NULL);
		if (i % 5 == 0 && r == 0)
			r = stream_flush(stream, SOON, NULL);
	}
	if (r == 0)
		r = stream_shutdown(stream, SOON, NULL);
	free(data);
	return (void *)r;
}

static void read_much(struct stream *reader, struct stream *writer)
{
	uint8_t *data = malloc(262144);
	pthread_t thread;
	void *result;

	pthread_create(&thread, NULL, write_much, writer);
	for (int i = 0; i < 40; i++) {
		size_t size = (size_t)(i * 6551) + 1;

		assert_int_equal(stream_read_full(reader, data, size, SOON, NULL), 0);
		assert_int_equal(data[0], i);
		assert_int_equal(data[size - 1], i);
	}
	assert_int_equal(stream_read(reader, data, 1, SOON, NULL), 0);
	pthread_join(thread, &result);
	assert_null(result);
	free(data);
}

/* The whole chain on both sides, with short reads and writes at the bottom. */
static void test_chain(void **state)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	struct stream_counters counters;
	struct rate_bucket *bucket;
	struct stream *a, *b;

	plan.read_max = 1500;
	plan.write_max = 3001;
	assert_int_equal(rate_bucket_new(1000000000, &bucket, NULL), 0);
	assert_int_equal(stream_memory_new(20000, &a, &b, NULL), 0);
	assert_int_equal(stream_fault_push(&a, &plan, NULL), 0);
	assert_int_equal(stream_fault_push(&b, &plan, NULL), 0);
	assert_int_equal(stream_rate_push(&a, bucket, NULL), 0);
	rate_bucket_unref(bucket);
	secure(&a, &b);
	assert_int_equal(stream_lz4_push(&a, STREAM_LZ4_ALWAYS, NULL), 0);
	assert_int_equal(stream_lz4_push(&b, STREAM_LZ4_AUTO, NULL), 0);
	/* An answer is not left unsent by who waits for the next question. */
	assert_int_equal(frame_write(a, 1, 0, NULL, 0, SOON, NULL), 0);
	assert_int_equal(stream_read(a, &plan, 1, clock_deadline(20 * CLOCK_MS), NULL), -ETIMEDOUT);
	assert_int_equal(stream_read_full(b, &plan, FRAME_HEADER_SIZE, SOON, NULL), 0);
	read_much(a, b);
	read_much(b, a);
	counters = stream_counters(a);
	assert_true(counters.raw_out > 5000000);
	assert_true(counters.wire_out < counters.raw_out / 20);
	assert_non_null(tls_stream_peer(a));
	stream_free(a);
	stream_free(b);
}

static void test_cut_and_damaged(void **state)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	struct error error = ERROR_INIT;
	struct stream *a, *b;
	uint8_t *data = calloc(1, 100000);

	/* No goodbye: never an end. */
	assert_int_equal(stream_memory_new(200000, &a, &b, NULL), 0);
	secure(&a, &b);
	assert_int_equal(stream_write_full(a, data, 1000, SOON, NULL), 0);
	assert_int_equal(stream_flush(a, SOON, NULL), 0);
	stream_free(a);
	assert_int_equal(stream_read_full(b, data, 1000, SOON, NULL), 0);
	assert_int_equal(stream_read(b, data, 1, SOON, &error), -ECONNRESET);
	assert_non_null(strstr(error.message, "without a goodbye"));
	stream_free(b);

	/* A byte turned over, in the middle of much data. */
	plan.flip_write_at = 60000;
	assert_int_equal(stream_memory_new(200000, &a, &b, NULL), 0);
	assert_int_equal(stream_fault_push(&a, &plan, NULL), 0);
	secure(&a, &b);
	assert_int_equal(stream_write_full(a, data, 100000, SOON, NULL), 0);
	assert_int_equal(stream_flush(a, SOON, NULL), 0);
	error_clear(&error);
	assert_int_equal(stream_read_full(b, data, 100000, SOON, &error), -EBADMSG);
	assert_non_null(strstr(error.message, "damaged"));
	stream_free(a);
	stream_free(b);
	free(data);
}

/* Reading as an event loop does it: nothing blocks. */
static void test_steps(void **state)
{
	struct tls_context *context = context_of(TLS_SERVER, good);
	struct tls_server *server;
	struct stream *b, *a;
	uint8_t data[20000] = { 1 };
	struct pollfd poller;
	size_t got = 0;
	int fds[2];

	/* A whole handshake in steps: test-transport-strangers.c. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(tls_server_new(context, fds[1], &server, NULL), 0);
	assert_int_equal(tls_server_fd(server), fds[1]);
	assert_int_equal(tls_server_handshake(server, NULL), TLS_WANTS_READ);
	assert_int_equal(tls_server_handshake(server, NULL), TLS_WANTS_READ);
	tls_server_free(server);
	close(fds[0]);

	assert_int_equal(stream_memory_new(100000, &a, &b, NULL), 0);
	secure(&a, &b);
	assert_int_equal(stream_read(b, data, sizeof(data), STREAM_NOWAIT, NULL), -EAGAIN);
	assert_false(stream_pending(b));
	assert_int_equal(stream_write_full(a, data, sizeof(data), SOON, NULL), 0);
	assert_int_equal(stream_write_full(a, data, 100, SOON, NULL), 0);
	assert_int_equal(stream_flush(a, STREAM_NOWAIT, NULL), 0);
	poller = (struct pollfd){ .fd = stream_fd(b), .events = POLLIN };
	assert_int_equal(poll(&poller, 1, 1000), 1);
	assert_int_equal(stream_read(b, data, 10, STREAM_NOWAIT, NULL), 10);
	got = 10;
	/* OpenSSL has read ahead: only stream_pending() knows. */
	while (stream_pending(b)) {
		ssize_t n = stream_read(b, data, 5000, STREAM_NOWAIT, NULL);

		if (n == -EAGAIN)
			break;
		assert_true(n > 0);
		got += (size_t)n;
	}
	assert_int_equal(got, sizeof(data) + 100);
	assert_false(stream_pending(b));
	assert_int_equal(poll(&poller, 1, 0), 0);
	stream_free(a);
	stream_free(b);
	tls_context_unref(context);
}

struct throughput_job {
	struct stream *stream;
	size_t total;
};

static void *pour(void *argument)
{
	struct throughput_job *job = argument;
	uint8_t *data = calloc(1, 262144);

	for (size_t done = 0; done < job->total; done += 262144)
		if (frame_send(job->stream, 1, 0, data, 262144, SOON, NULL) < 0)
			break;
	stream_shutdown(job->stream, SOON, NULL);
	free(data);
	return NULL;
}

static void measure(bool tls, bool lz4)
{
	struct throughput_job job = { .total = 256u << 20 };
	uint8_t *data = calloc(1, 262144);
	struct stream *a, *b;
	pthread_t thread;
	int64_t start;
	double seconds;

	tcp_pair(&a, &b);
	if (tls)
		secure(&a, &b);
	if (lz4) {
		assert_int_equal(stream_lz4_push(&a, STREAM_LZ4_NEVER, NULL), 0);
		assert_int_equal(stream_lz4_push(&b, STREAM_LZ4_NEVER, NULL), 0);
	}
	job.stream = a;
	start = clock_now_ns();
	pthread_create(&thread, NULL, pour, &job);
	while (stream_read_full(b, data, 262144, SOON, NULL) == 0)
		;
	seconds = (double)(clock_now_ns() - start) / (double)CLOCK_S;
	pthread_join(thread, NULL);
	print_message("%-5s %-11s %.2f GB/s\n", tls ? "TLS" : "plain", lz4 ? "raw blocks" : "", 268435456e-9 / seconds);
	stream_free(a);
	stream_free(b);
	free(data);
}

static void test_throughput(void **state)
{
	measure(false, false);
	measure(true, false);
	measure(true, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_wrong_name),
		cmocka_unit_test(test_unknown_server),
		cmocka_unit_test(test_unknown_client),
		cmocka_unit_test(test_expired),
		cmocka_unit_test(test_plain_bytes),
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_cut_and_damaged),
		cmocka_unit_test(test_steps),
		cmocka_unit_test(test_throughput),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
