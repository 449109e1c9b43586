/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A page server in a child process, over loopback: whom it refuses, with which sentence, and that it goes on serving. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scratch.h"

#include "pageserver/pageserver.h"
#include "transport/keys.h"
#include "transport/tcp.h"
#include "transport/tls.h"
#include "transport/wire.h"
#include "wire.pb-c.h"

#define WAIT clock_deadline(10 * CLOCK_S)

struct place {
	char dir[64];
	char keys[96];
	char address[TCP_ADDRESS_MAX];
	pid_t pid;
	struct tls_context *tls;
};

static void report(const char *address, void *data)
{
	(void)!write(*(int *)data, address, strlen(address) + 1);
}

static void serve(struct place *place, const char *const *allow, size_t allow_count)
{
	struct log log = { .fd = -1 };
	char state[96];
	int fds[2];
	ssize_t got;

	snprintf(state, sizeof(state), "%s/state", place->dir);
	assert_int_equal(pipe(fds), 0);
	place->pid = fork();
	assert_true(place->pid >= 0);
	if (place->pid == 0) {
		struct pageserver_options options = { .listen = "127.0.0.1:0", .tls_dir = place->keys,
						      .state_dir = state, .allow = allow,
						      .allow_count = allow_count };

		_exit(pageserver_run(&options, &log, report, &fds[1], NULL) < 0);
	}
	close(fds[1]);
	got = read(fds[0], place->address, sizeof(place->address));
	assert_true(got > 0);
	close(fds[0]);
}

static int begin(void **state, const char *const *allow, size_t allow_count)
{
	static const char *const names[] = { "127.0.0.1" };
	struct keys_options keys = { .names = names, .name_count = 1, .client = "somebody" };
	struct place *place = calloc(1, sizeof(*place));

	signal(SIGPIPE, SIG_IGN);
	scratch_directory(place->dir, sizeof(place->dir), "hello");
	snprintf(place->keys, sizeof(place->keys), "%s/keys", place->dir);
	assert_int_equal(keys_generate(place->keys, &keys, NULL), 0);
	assert_int_equal(tls_context_new(TLS_CLIENT, place->keys, &place->tls, NULL), 0);
	serve(place, allow, allow_count);
	*state = place;
	return 0;
}

static int setup(void **state)
{
	return begin(state, NULL, 0);
}

static int setup_allow(void **state)
{
	static const char *const allow[] = { "another" };

	return begin(state, allow, 1);
}

static int teardown(void **state)
{
	struct place *place = *state;
	char command[160];
	int status;

	kill(place->pid, SIGTERM);
	assert_int_equal(waitpid(place->pid, &status, 0), place->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	tls_context_unref(place->tls);
	snprintf(command, sizeof(command), "rm -rf '%s'", place->dir);
	assert_int_equal(system(command), 0);
	free(place);
	return 0;
}

static struct stream *connect_to(struct place *place)
{
	struct stream *stream = NULL;
	int fd;

	assert_int_equal(tcp_connect(place->address, NULL, WAIT, -1, &fd, NULL), 0);
	assert_int_equal(stream_socket_new(fd, NULL, &stream, NULL), 0);
	assert_int_equal(tls_client_push(&stream, place->tls, "127.0.0.1", WAIT, NULL), 0);
	return stream;
}

static int hello(struct place *place, uint32_t version, uint32_t role, uint8_t first, struct stream **ret,
		 struct error *error)
{
	uint8_t session[WIRE_SESSION_SIZE] = { first, 7 }, token[WIRE_TOKEN_SIZE] = { 1 };
	struct stream *stream = connect_to(place);
	WireHello message = WIRE_HELLO__INIT;
	int r;

	message.version = version;
	message.role = role;
	message.session = (ProtobufCBinaryData){ sizeof(session), session };
	message.has_token = role != WIRE_CONTROL;
	message.token = (ProtobufCBinaryData){ sizeof(token), token };
	assert_int_equal(wire_send(stream, WIRE_HELLO, &message.base, WAIT, NULL), 0);
	r = wire_expect(stream, &wire_table_client, WIRE_WELCOME, NULL, NULL, WAIT, error);
	if (r == 0 && ret)
		*ret = stream;
	else
		stream_free(stream);
	return r;
}

static void refuses_other_versions(void **state)
{
	struct error error = ERROR_INIT;

	assert_true(hello(*state, 77, WIRE_CONTROL, 1, NULL, &error) < 0);
	assert_non_null(strstr(error.message, "version 77"));
	assert_non_null(strstr(error.message, "version 1"));
	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_CONTROL, 2, NULL, NULL), 0);
}

static void refuses_streams_of_no_session(void **state)
{
	struct error error = ERROR_INIT;
	struct stream *control;

	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_BULK, 3, NULL, &error), -ENOENT);
	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_CONTROL, 3, &control, NULL), 0);
	error_clear(&error);
	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_BULK, 3, NULL, &error), -EACCES);
	error_clear(&error);
	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_CONTROL, 3, NULL, &error), -EEXIST);
	error_clear(&error);
	assert_int_equal(hello(*state, WIRE_VERSION, 9, 4, NULL, &error), -EPROTO);
	stream_free(control);
}

static void refuses_names_that_are_not_allowed(void **state)
{
	struct error error = ERROR_INIT;

	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_CONTROL, 1, NULL, &error), -EACCES);
	assert_non_null(strstr(error.message, "somebody"));
}

static void answers_who_asks_for_unknown_sessions(void **state)
{
	WireAnswer *answer = NULL;
	struct stream *stream;

	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_ASK, 5, &stream, NULL), 0);
	assert_int_equal(wire_send(stream, WIRE_ASK_STATE, NULL, WAIT, NULL), 0);
	assert_int_equal(wire_expect(stream, &wire_table_client, WIRE_ANSWER, &wire_answer__descriptor,
				     (ProtobufCMessage **)(void *)&answer, WAIT, NULL), 0);
	assert_int_equal(answer->state, WIRE_STATE_UNKNOWN);
	wire_answer__free_unpacked(answer, NULL);
	stream_free(stream);
}

static void refuses_a_commit_out_of_turn(void **state)
{
	struct error error = ERROR_INIT;
	struct stream *stream;

	assert_int_equal(hello(*state, WIRE_VERSION, WIRE_CONTROL, 6, &stream, NULL), 0);
	assert_int_equal(wire_send(stream, WIRE_COMMIT, NULL, WAIT, NULL), 0);
	assert_int_equal(wire_expect(stream, &wire_table_client, WIRE_RUNNING, NULL, NULL, WAIT, &error), -EPROTO);
	assert_non_null(strstr(error.message, "COMMIT"));
	stream_free(stream);
}

/* Bytes that are not TLS, half a frame, an oversized length: the connection ends, others are served. */
static void survives_garbage(void **state)
{
	static const uint8_t huge[] = { 0xff, 0xff, 0xff, 0x7f, WIRE_HELLO, 0, 0, 0 };
	struct place *place = *state;
	struct stream *stream;
	uint8_t byte;
	int fd;

	assert_int_equal(tcp_connect(place->address, NULL, WAIT, -1, &fd, NULL), 0);
	assert_int_equal(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
	close(fd);
	stream = connect_to(place);
	assert_int_equal(stream_write_full(stream, huge, 5, WAIT, NULL), 0);
	assert_int_equal(stream_flush(stream, WAIT, NULL), 0);
	stream_free(stream);
	stream = connect_to(place);
	assert_int_equal(stream_write_full(stream, huge, sizeof(huge), WAIT, NULL), 0);
	assert_int_equal(stream_flush(stream, WAIT, NULL), 0);
	while (stream_read(stream, &byte, 1, WAIT, NULL) > 0)
		;
	stream_free(stream);
	assert_int_equal(hello(place, WIRE_VERSION, WIRE_CONTROL, 7, NULL, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(refuses_other_versions, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_streams_of_no_session, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_names_that_are_not_allowed, setup_allow, teardown),
		cmocka_unit_test_setup_teardown(answers_who_asks_for_unknown_sessions, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_a_commit_out_of_turn, setup, teardown),
		cmocka_unit_test_setup_teardown(survives_garbage, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
