/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP on loopback: connect, listen, accept, options, and what failures say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/stream.h"
#include "transport/tcp.h"

#define SOON clock_deadline(5 * CLOCK_S)

static int option(int fd, int name)
{
	socklen_t length = sizeof(int);
	int value = -1;

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, name, &value, &length), 0);
	return value;
}

static void connect_to(const char *listen_on)
{
	char bound[TCP_ADDRESS_MAX], peer[TCP_ADDRESS_MAX], text[TCP_ADDRESS_MAX], byte;
	const struct tcp_options options = { .dead_after_ms = 10000 };
	struct error error = ERROR_INIT;
	struct stream *a, *b;
	struct pollfd poller;
	int listener, client, server;

	if (tcp_listen(listen_on, &listener, bound, &error) < 0) {
		print_message("skipped %s: %s\n", listen_on, error.message);
		return;
	}
	assert_int_equal(tcp_accept(listener, NULL, &server, NULL, NULL), -EAGAIN);
	if (tcp_connect(bound, &options, SOON, -1, &client, &error) < 0)
		fail_msg("%s", error.message);
	tcp_peer_text(client, text);
	poller = (struct pollfd){ .fd = listener, .events = POLLIN };
	assert_int_equal(poll(&poller, 1, 1000), 1);
	assert_int_equal(tcp_accept(listener, NULL, &server, peer, NULL), 0);
	assert_int_equal(option(client, TCP_NODELAY), 1);
	assert_int_equal(option(client, TCP_USER_TIMEOUT), 10000);
	assert_int_equal(option(client, TCP_KEEPIDLE), 2);
	assert_int_equal(option(server, TCP_USER_TIMEOUT), TCP_DEAD_AFTER_MS_DEFAULT);
	assert_true(fcntl(server, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(client, F_GETFD) & FD_CLOEXEC);

	assert_int_equal(stream_socket_new(client, NULL, &a, NULL), 0);
	assert_int_equal(stream_socket_new(server, "the client", &b, NULL), 0);
	assert_string_equal(stream_label(a), text);
	assert_string_equal(stream_label(b), "the client");
	assert_int_equal(stream_write_full(a, "x", 1, SOON, NULL), 0);
	assert_int_equal(stream_read_full(b, &byte, 1, SOON, NULL), 0);
	stream_free(a);
	assert_int_equal(stream_read(b, &byte, 1, SOON, NULL), 0);
	stream_free(b);
	close(listener);
}

static void test_connect(void **state)
{
	connect_to("127.0.0.1:0");
	connect_to("localhost:0");
	connect_to("[::1]:0");
}

static void test_any(void **state)
{
	char bound[TCP_ADDRESS_MAX], address[TCP_ADDRESS_MAX];
	int listener, client;

	assert_int_equal(tcp_listen("0", &listener, bound, NULL), 0);
	snprintf(address, sizeof(address), "127.0.0.1%s", strrchr(bound, ':'));
	assert_int_equal(tcp_connect(address, NULL, SOON, -1, &client, NULL), 0);
	close(client);
	close(listener);
}

static void test_refused(void **state)
{
	char bound[TCP_ADDRESS_MAX];
	struct error error = ERROR_INIT;
	int listener, client;

	assert_int_equal(tcp_listen("127.0.0.1:0", &listener, bound, NULL), 0);
	close(listener);
	assert_int_equal(tcp_connect(bound, NULL, SOON, -1, &client, &error), -ECONNREFUSED);
	assert_non_null(strstr(error.message, bound));
	assert_non_null(strstr(error.message, "refused"));
}

static void test_bad_addresses(void **state)
{
	struct error error = ERROR_INIT;
	int fd, other;
	char bound[TCP_ADDRESS_MAX];

	assert_int_equal(tcp_connect("nonsense", NULL, SOON, -1, &fd, NULL), -EINVAL);
	assert_int_equal(tcp_connect("127.0.0.1:99999", NULL, SOON, -1, &fd, NULL), -EINVAL);
	assert_int_equal(tcp_connect("host.invalid:1", NULL, SOON, -1, &fd, &error), -EHOSTUNREACH);
	assert_non_null(strstr(error.message, "host.invalid"));
	error_clear(&error);
	assert_int_equal(tcp_listen("192.0.2.1:0", &fd, NULL, &error), -EADDRNOTAVAIL);
	assert_non_null(strstr(error.message, "192.0.2.1:0"));
	assert_int_equal(tcp_listen("127.0.0.1:0", &fd, bound, NULL), 0);
	assert_int_equal(tcp_listen(bound, &other, NULL, NULL), -EADDRINUSE);
	close(fd);
}

/* A listener whose queue is full does not answer. */
static void test_deadline_and_cancel(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t length = sizeof(address);
	int fillers[8], cancel, fd, r = 0;
	struct error error = ERROR_INIT;
	char text[TCP_ADDRESS_MAX];
	uint64_t one = 1;

	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 0), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	for (int i = 0; i < 8; i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(fillers[i], (struct sockaddr *)&address, sizeof(address));
	}
	snprintf(text, sizeof(text), "127.0.0.1:%d", ntohs(address.sin_port));
	r = tcp_connect(text, NULL, clock_deadline(100 * CLOCK_MS), -1, &fd, &error);
	assert_int_equal(r, -ETIMEDOUT);
	assert_non_null(strstr(error.message, text));
	cancel = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(write(cancel, &one, 8), 8);
	assert_int_equal(tcp_connect(text, NULL, SOON, cancel, &fd, NULL), -ECANCELED);
	for (int i = 0; i < 8; i++)
		close(fillers[i]);
	close(cancel);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connect), cmocka_unit_test(test_any),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_bad_addresses),
		cmocka_unit_test(test_deadline_and_cancel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
