/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/* Sockets, moved from one child process to another. */
#include "files-common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>

static void set_int(int fd, int level, int name, int value)
{
	CHILD_CHECK(setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

static int get_int(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
	return value;
}

static void expect_read(int fd, const char *text)
{
	char data[256] = { 0 };

	assert_int_equal(recv(fd, data, sizeof(data) - 1, MSG_DONTWAIT), (ssize_t)strlen(text));
	assert_string_equal(data, text);
}

/* ---- pairs */

static void setup_pairs(const char *directory)
{
	int ends[2];

	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 0, 1 */
	CHILD_CHECK(write(0, "to one ", 7) == 7 && write(0, "again", 5) == 5);
	CHILD_CHECK(write(1, "to zero", 7) == 7);
	set_int(0, SOL_SOCKET, SO_RCVBUF, 50000);
	set_int(1, SOL_SOCKET, SO_PASSCRED, 1);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends) == 0); /* 2, 3 */
	CHILD_CHECK(write(2, "one", 3) == 3 && write(2, "", 0) == 0 && write(2, "three", 5) == 5);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0); /* 4, 5 */
	CHILD_CHECK(write(4, "first", 5) == 5 && write(4, "second", 6) == 6);
	CHILD_CHECK(shutdown(4, SHUT_WR) == 0);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 6, 7 */
	CHILD_CHECK(write(7, "farewell", 8) == 8);
	CHILD_CHECK(close(7) == 0);
}

static void test_pairs(void **state)
{
	struct move move;
	char data[16];
	int a, b;

	move_all(&move, setup_pairs);
	a = move_fd(&move, 0);
	b = move_fd(&move, 1);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_RCVBUF), 100000);
	assert_int_equal(get_int(b, SOL_SOCKET, SO_PASSCRED), 1);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_PEEK_OFF), -1);
	expect_read(b, "to one again");
	expect_read(a, "to zero");
	assert_int_equal(write(b, "fresh", 5), 5);
	expect_read(a, "fresh");
	close(a);
	close(b);
	a = move_fd(&move, 2);
	b = move_fd(&move, 3);
	expect_read(b, "one");
	expect_read(b, "");
	expect_read(b, "three");
	assert_int_equal(write(b, "back", 4), 4);
	expect_read(a, "back");
	close(a);
	close(b);
	a = move_fd(&move, 4);
	b = move_fd(&move, 5);
	expect_read(b, "first");
	expect_read(b, "second");
	assert_int_equal(read(b, data, sizeof(data)), 0);
	assert_int_equal(send(a, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(write(b, "other way", 9), 9);
	expect_read(a, "other way");
	close(a);
	close(b);
	a = move_fd(&move, 6);
	expect_read(a, "farewell");
	assert_int_equal(read(a, data, sizeof(data)), 0);
	assert_int_equal(send(a, "x", 1, MSG_NOSIGNAL), -1);
	close(a);
	assert_int_equal(move_fd(&move, 7), -1);
	move_end(&move);
}

/* The source must have what it had. */
static void test_source_untouched(void **state)
{
	struct move move;
	char data[64] = { 0 };
	int fd;

	move_begin(&move, setup_pairs);
	move_dump(&move, false);
	move_dump(&move, true);
	move_expect_no_blockers(&move);
	fd = (int)syscall(SYS_pidfd_getfd, move.source_process.pidfd, 1, 0);
	assert_int_equal(get_int(fd, SOL_SOCKET, SO_PEEK_OFF), -1);
	assert_int_equal(read(fd, data, sizeof(data)), 12);
	assert_string_equal(data, "to one again");
	close(fd);
	fd = (int)syscall(SYS_pidfd_getfd, move.source_process.pidfd, 3, 0);
	expect_read(fd, "one");
	close(fd);
	move_end(&move);
}

/* ---- names */

static struct sockaddr_un unix_address(const char *directory, const char *name, socklen_t *ret_size)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (directory)
		snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory, name);
	else
		snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "%s", name);
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
				(directory ? strlen(address.sun_path) + 1 : strlen(name) + 1));
	return address;
}

static void bind_to(int fd, const char *directory, const char *name)
{
	socklen_t size;
	struct sockaddr_un address = unix_address(directory, name, &size);

	CHILD_CHECK(bind(fd, (struct sockaddr *)&address, size) == 0);
}

static void connect_to(int fd, const char *directory, const char *name)
{
	socklen_t size;
	struct sockaddr_un address = unix_address(directory, name, &size);

	CHILD_CHECK(connect(fd, (struct sockaddr *)&address, size) == 0);
}

static void setup_names(const char *directory)
{
	char path[128];

	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) == 0);
	bind_to(0, directory, "listen");
	snprintf(path, sizeof(path), "%s/listen", directory);
	CHILD_CHECK(chmod(path, 0702) == 0);
	CHILD_CHECK(listen(0, 7) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 1);
	connect_to(1, directory, "listen");
	CHILD_CHECK(accept(0, NULL, NULL) == 2);
	CHILD_CHECK(write(1, "hello", 5) == 5);
	CHILD_CHECK(socket(AF_UNIX, SOCK_SEQPACKET, 0) == 3);
	bind_to(3, NULL, "pagestream-test-abstract");
	CHILD_CHECK(listen(3, 3) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 4);
	bind_to(4, directory, "datagrams");
	CHILD_CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 5);
	bind_to(5, directory, "client");
	connect_to(5, directory, "datagrams");
	CHILD_CHECK(write(5, "from client", 11) == 11);
	CHILD_CHECK(chdir(directory) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 6);
	bind_to(6, ".", "relative");
	CHILD_CHECK(listen(6, 1) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 7);
	bind_to(7, directory, "gone");
	CHILD_CHECK(listen(7, 1) == 0);
	CHILD_CHECK(unlink("gone") == 0);
}

static void expect_name(int fd, const char *name)
{
	struct sockaddr_un address = { 0 };
	socklen_t size = sizeof(address);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	assert_string_equal(address.sun_path, name);
}

static void expect_reachable(const char *directory, const char *name, int type)
{
	socklen_t size;
	struct sockaddr_un address = unix_address(directory, name, &size);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&address, size), 0);
	close(fd);
}

static void test_names(void **state)
{
	struct move move;
	char path[128], command[256];
	struct sockaddr_un from;
	socklen_t size = sizeof(from);
	struct stat st;
	char data[32] = { 0 };
	int a, b;

	move_all(&move, setup_names);
	snprintf(path, sizeof(path), "%s/listen", move.directory);
	a = move_fd(&move, 0);
	expect_name(a, path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0702);
	close(a);
	a = move_fd(&move, 1);
	b = move_fd(&move, 2);
	expect_name(b, path);
	expect_read(b, "hello");
	assert_int_equal(write(b, "answer", 6), 6);
	expect_read(a, "answer");
	close(a);
	close(b);
	expect_reachable(move.directory, "listen", SOCK_STREAM);
	expect_reachable(NULL, "pagestream-test-abstract", SOCK_SEQPACKET);
	expect_reachable(move.directory, "relative", SOCK_STREAM);
	a = move_fd(&move, 4);
	b = move_fd(&move, 5);
	assert_int_equal(
		recvfrom(a, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &size), 11);
	snprintf(path, sizeof(path), "%s/client", move.directory);
	assert_string_equal(from.sun_path, path);
	assert_int_equal(write(b, "again", 5), 5);
	expect_read(a, "again");
	close(a);
	close(b);
	a = move_fd(&move, 6);
	expect_name(a, "./relative");
	close(a);
	a = move_fd(&move, 7);
	snprintf(path, sizeof(path), "%s/gone", move.directory);
	expect_name(a, path);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_ACCEPTCONN), 1);
	assert_int_equal(access(path, F_OK), -1);
	close(a);
	/* Nothing of ours stays in the directory. */
	snprintf(command, sizeof(command), "ls -A '%s' | grep -q pagestream", move.directory);
	assert_int_not_equal(system(command), 0);
	move_end(&move);
}

/* Without a commit the source's socket file stays, and ours go. */
static void test_no_commit(void **state)
{
	struct error error = ERROR_INIT;
	struct stat before, after;
	char path[128], command[256];
	struct move move;

	move_begin(&move, setup_names);
	move_dump(&move, true);
	snprintf(path, sizeof(path), "%s/listen", move.directory);
	assert_int_equal(stat(path, &before), 0);
	/* The abstract name is taken as long as the source lives. */
	move_kill_source(&move);
	move_shell(&move);
	move.target.images = move.images;
	if (restore_files_apply(&move.target, move.images, &error) < 0)
		fail_msg("restore: %s", error.message);
	restore_files_free(move.target.files);
	move.target.files = NULL;
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	snprintf(command, sizeof(command), "ls -A '%s' | grep -q pagestream", move.directory);
	assert_int_not_equal(system(command), 0);
	move_end(&move);
}

/* ---- TCP and UDP */

#define PORT 39517

static void setup_inet(const char *directory)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	struct linger linger = { 1, 5 };

	v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHILD_CHECK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) == 0);
	set_int(0, SOL_SOCKET, SO_REUSEADDR, 1);
	set_int(0, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(0, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set_int(0, SOL_SOCKET, SO_KEEPALIVE, 1);
	CHILD_CHECK(setsockopt(0, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
	CHILD_CHECK(bind(0, (struct sockaddr *)&v4, sizeof(v4)) == 0);
	CHILD_CHECK(listen(0, 19) == 0);
	CHILD_CHECK(socket(AF_INET6, SOCK_STREAM, 0) == 1);
	set_int(1, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	CHILD_CHECK(bind(1, (struct sockaddr *)&v6, sizeof(v6)) == 0);
	CHILD_CHECK(listen(1, 5) == 0);
	CHILD_CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 2);
	set_int(2, SOL_SOCKET, SO_BROADCAST, 1);
	set_int(2, SOL_SOCKET, SO_RCVBUF, 60000);
	CHILD_CHECK(bind(2, (struct sockaddr *)&v4, sizeof(v4)) == 0);
	CHILD_CHECK(socket(AF_INET, SOCK_DGRAM, 0) == 3);
	CHILD_CHECK(connect(3, (struct sockaddr *)&v4, sizeof(v4)) == 0);
	CHILD_CHECK(socket(AF_INET, SOCK_STREAM, 0) == 4);
}

static void test_inet(void **state)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct move move;
	struct linger linger;
	struct tcp_info info;
	socklen_t size = sizeof(linger);
	int a, b, c;

	v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	move_all(&move, setup_inet);
	a = move_fd(&move, 0);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_REUSEADDR), 1);
	assert_int_equal(get_int(a, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(get_int(a, IPPROTO_TCP, TCP_KEEPIDLE), 77);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(getsockopt(a, SOL_SOCKET, SO_LINGER, &linger, &size), 0);
	assert_int_equal(linger.l_linger, 5);
	size = sizeof(info);
	assert_int_equal(getsockopt(a, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
	assert_int_equal(info.tcpi_state, TCP_LISTEN);
	assert_int_equal(info.tcpi_sacked, 19);
	c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(c, (struct sockaddr *)&v4, sizeof(v4)), 0);
	assert_int_equal(poll(&(struct pollfd){ .fd = a, .events = POLLIN }, 1, 10000), 1);
	b = accept(a, NULL, NULL);
	assert_true(b >= 0);
	close(a);
	close(b);
	close(c);
	a = move_fd(&move, 1);
	assert_int_equal(get_int(a, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_REUSEADDR), 0);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_ACCEPTCONN), 1);
	close(a);
	a = move_fd(&move, 2);
	b = move_fd(&move, 3);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_RCVBUF), 120000);
	assert_int_equal(get_int(a, SOL_SOCKET, SO_BROADCAST), 1);
	assert_int_equal(write(b, "datagram", 8), 8);
	expect_read(a, "datagram");
	close(a);
	close(b);
	move_end(&move);
}

/* The port is taken on the target: found ahead, and named. */
static void test_port_in_use(void **state)
{
	struct image_blockers blockers;
	struct error error = ERROR_INIT;
	struct move move;

	image_blockers_init(&blockers);
	move_begin(&move, setup_inet);
	move_dump(&move, false);
	assert_int_equal(restore_files_check(move.images, true, &blockers, &error), 0);
	assert_true(blockers.list.count >= 2);
	assert_string_equal(blockers.list.items[0].object, "TCP address 127.0.0.1:39517 is in use");
	image_blockers_deinit(&blockers);
	move_shell(&move);
	assert_int_equal(move_apply(&move, &error), -EADDRINUSE);
	assert_non_null(strstr(error.message, "TCP address 127.0.0.1:39517 is in use"));
	move_end(&move);
}

static void setup_connection(const char *directory)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	socklen_t size = sizeof(v4);

	v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHILD_CHECK(socket(AF_INET, SOCK_STREAM, 0) == 0);
	/*
	 * The connection leaves its traces in this kernel, as the target of a real move would not
	 * have them.
	 */
	set_int(0, SOL_SOCKET, SO_REUSEADDR, 1);
	CHILD_CHECK(bind(0, (struct sockaddr *)&v4, sizeof(v4)) == 0);
	CHILD_CHECK(listen(0, 4) == 0);
	CHILD_CHECK(getsockname(0, (struct sockaddr *)&v4, &size) == 0);
	CHILD_CHECK(socket(AF_INET, SOCK_STREAM, 0) == 1);
	CHILD_CHECK(connect(1, (struct sockaddr *)&v4, sizeof(v4)) == 0);
	CHILD_CHECK(accept(0, NULL, NULL) == 2);
	set_int(2, IPPROTO_TCP, TCP_NODELAY, 1);
}

static void test_connection_blocks(void **state)
{
	struct move move;

	move_begin(&move, setup_connection);
	move_dump(&move, false);
	assert_true(move_has_blocker(&move, "fd 1 -> TCP 127.0.0.1:"));
	assert_true(move_has_blocker(&move, "established TCP connection goes along only"));
	assert_int_equal(move.source.blockers.list.count, 2);
	move_end(&move);
}

static void test_tcp_close(void **state)
{
	struct error error = ERROR_INIT;
	struct pollfd poll_fd = { .events = POLLIN };
	struct move move;
	char data[8];

	move_begin(&move, setup_connection);
	move.dump_options.tcp_close = move.restore_options.tcp_close = true;
	move_dump(&move, true);
	move_expect_no_blockers(&move);
	move_kill_source(&move);
	move_shell(&move);
	if (move_apply(&move, &error) < 0)
		fail_msg("restore: %s", error.message);
	poll_fd.fd = move_fd(&move, 2);
	assert_int_equal(poll(&poll_fd, 1, 1000), 1);
	assert_int_equal(read(poll_fd.fd, data, sizeof(data)), 0);
	(void)!send(poll_fd.fd, "x", 1, MSG_NOSIGNAL);
	assert_int_equal(send(poll_fd.fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(get_int(poll_fd.fd, IPPROTO_TCP, TCP_NODELAY), 1);
	close(poll_fd.fd);
	move_end(&move);
}

/* ---- connections to others */

static void setup_outside(const char *directory)
{
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 0);
	connect_to(0, NULL, "pagestream-test-outside");
}

static void test_outside(void **state)
{
	socklen_t size;
	struct sockaddr_un address = unix_address(NULL, "pagestream-test-outside", &size);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), accepted;
	struct move move;

	assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
	assert_int_equal(listen(listener, 1), 0);
	move_begin(&move, setup_outside);
	move_dump(&move, false);
	assert_true(move_has_blocker(&move, "not accepted yet"));
	accepted = accept(listener, NULL, NULL);
	move_dump(&move, false);
	assert_true(move_has_blocker(&move, "the other end is held by a process outside"));
	close(accepted);
	close(listener);
	move_end(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pairs),	  cmocka_unit_test(test_source_untouched),
		cmocka_unit_test(test_names),	  cmocka_unit_test(test_no_commit),
		cmocka_unit_test(test_inet),	  cmocka_unit_test(test_port_in_use),
		cmocka_unit_test(test_tcp_close), cmocka_unit_test(test_connection_blocks),
		cmocka_unit_test(test_outside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
