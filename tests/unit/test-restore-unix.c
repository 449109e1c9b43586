/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore */
/* UNIX sockets: descriptors on their way, connections that wait, urgent bytes, credentials, names that lead elsewhere. */
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/file.h>
#include <sys/un.h>

#include "files-common.h"

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

static int get_int(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, name, &value, &size), 0);
	return value;
}

static void set_int(int fd, int name, int value)
{
	CHILD_CHECK(setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value)) == 0);
}

static bool send_with(int fd, const char *text, const int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control = { 0 };
	struct iovec vector = { (char *)text, strlen(text) };
	struct msghdr message = { .msg_iov = &vector,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = CMSG_SPACE(count * sizeof(int)) };

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

/* Receives `size` bytes at most; the number of descriptors that came. */
static size_t receive_with(int fd, size_t size, const char *text, int *fds)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control = { 0 };
	char data[64] = { 0 };
	struct iovec vector = { data, size };
	struct msghdr message = { .msg_iov = &vector,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	size_t count;

	assert_int_equal(recvmsg(fd, &message, MSG_DONTWAIT), strlen(text));
	assert_string_equal(data, text);
	if (message.msg_controllen == 0 || control.header.cmsg_type != SCM_RIGHTS)
		return 0;
	count = (control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(&control.header), count * sizeof(int));
	return count;
}

static void expect_read(int fd, const char *text)
{
	int fds[8];

	assert_int_equal(receive_with(fd, 63, text, fds), 0);
}

static struct sockaddr_un make_address(const char *directory, const char *name, socklen_t *ret_size)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (directory)
		snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory, name);
	else
		snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) +
				(directory ? strlen(directory) + 1 : 0) + (name[0] == '@' ? 0 : 1));
	return address;
}

static void do_bind(int fd, const char *directory, const char *name)
{
	socklen_t size;
	struct sockaddr_un address = make_address(directory, name, &size);

	CHILD_CHECK(bind(fd, (struct sockaddr *)&address, size) == 0);
}

static int do_connect(int fd, const char *directory, const char *name)
{
	socklen_t size;
	struct sockaddr_un address = make_address(directory, name, &size);

	return connect(fd, (struct sockaddr *)&address, size);
}

/* ---- descriptors on their way */

static void setup_rights(const char *directory)
{
	char path[128];
	int ends[2], fds[4];

	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 0, 1 */
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0); /* 2, 3 */
	snprintf(path, sizeof(path), "%s/file", directory);
	fds[0] = open(path, O_RDWR | O_CREAT, 0600);
	CHILD_CHECK(fds[0] == 4 && write(4, "content", 7) == 7);
	CHILD_CHECK(pipe(fds + 1) == 0 && write(fds[2], "piped", 5) == 5);
	/* Known to a descriptor too; to nobody else; and the other end is known. */
	CHILD_CHECK(write(0, "plain ", 6) == 6 && send_with(0, "with", fds, 2) && write(0, "behind", 6) == 6);
	CHILD_CHECK(close(fds[1]) == 0);
	/* A socket whose own queue has another one, that is in its own queue. */
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	CHILD_CHECK(send_with(fds[0], "myself", &fds[1], 1));
	CHILD_CHECK(send_with(ends[0], "deeper", &fds[1], 1));
	CHILD_CHECK(send_with(2, "outer", ends, 2));
	CHILD_CHECK(close(fds[0]) == 0 && close(fds[1]) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void expect_rights(const struct move *move)
{
	int stream = move_fd(move, 1), packets = move_fd(move, 3), file = move_fd(move, 4), fds[8], deep[8], self[8];
	char data[16] = { 0 };

	/* A reader that knows the lengths gets them with the message that brought them. */
	assert_int_equal(receive_with(stream, 6, "plain ", fds), 0);
	assert_int_equal(receive_with(stream, 63, "with", fds), 2);
	expect_read(stream, "behind");
	assert_int_equal(lseek(fds[0], 0, SEEK_CUR), 7);
	assert_int_equal(lseek(fds[0], 3, SEEK_SET), 3);
	assert_int_equal(lseek(file, 0, SEEK_CUR), 3);
	assert_int_equal(read(fds[1], data, sizeof(data)), 5);
	assert_string_equal(data, "piped");
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(receive_with(packets, 63, "outer", fds), 2);
	assert_int_equal(receive_with(fds[1], 63, "deeper", deep), 1);
	assert_int_equal(receive_with(deep[0], 63, "myself", self), 1);
	assert_int_equal(write(fds[1], "alive", 5), 5);
	expect_read(fds[0], "alive");
	/* Its peer had closed. */
	assert_int_equal(read(self[0], data, sizeof(data)), 0);
	for (int i = 0; i < 2; i++)
		close(fds[i]);
	close(deep[0]);
	close(self[0]);
	close(stream);
	close(packets);
	close(file);
}

static void test_rights(void **state)
{
	struct move move;

	move_all(&move, setup_rights);
	expect_rights(&move);
	move_end(&move);
}

/* The source still has all of it. */
static void test_rights_stay(void **state)
{
	struct move move;

	move_begin(&move, setup_rights);
	move_dump(&move, false);
	move_dump(&move, true);
	move_dump(&move, true);
	move_expect_no_blockers(&move);
	move.target_pidfd = move.source_process.pidfd;
	expect_rights(&move);
	move_end(&move);
}

static void setup_locked(const char *directory)
{
	char path[128];
	int ends[2], fd;

	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	snprintf(path, sizeof(path), "%s/file", directory);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	CHILD_CHECK(fd >= 0 && flock(fd, LOCK_EX) == 0 && send_with(0, "x", &fd, 1) && close(fd) == 0);
}

static void test_locked_blocks(void **state)
{
	struct move move;

	move_begin(&move, setup_locked);
	move_dump(&move, true);
	assert_true(move_has_blocker(&move, "a file with a lock"));
	assert_true(move_has_blocker(&move, "on its way through a UNIX socket"));
	move_end(&move);
}

/* ---- connections that wait */

static void setup_waiting(const char *directory)
{
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 0);
	do_bind(0, directory, "listen");
	CHILD_CHECK(listen(0, 5) == 0);
	for (int fd = 1; fd <= 3; fd++) {
		char name[16];

		CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == fd);
		snprintf(name, sizeof(name), "client-%d", fd);
		do_bind(fd, directory, name);
	}
	CHILD_CHECK(do_connect(2, directory, "listen") == 0);
	CHILD_CHECK(do_connect(3, directory, "listen") == 0);
	CHILD_CHECK(do_connect(1, directory, "listen") == 0);
}

static void test_waiting(void **state)
{
	static const int order[] = { 2, 3, 1 };
	struct move move;
	int listener;

	move_all(&move, setup_waiting);
	listener = move_fd(&move, 0);
	for (size_t i = 0; i < 3; i++) {
		struct sockaddr_un from = { 0 };
		socklen_t size = sizeof(from);
		int accepted = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK);
		int client = move_fd(&move, order[i]);

		assert_true(accepted >= 0);
		assert_int_equal(from.sun_path[strlen(from.sun_path) - 1] - '0', order[i]);
		assert_int_equal(write(client, "hello", 5), 5);
		expect_read(accepted, "hello");
		close(accepted);
		close(client);
	}
	close(listener);
	move_end(&move);
}

static void setup_waiting_data(const char *directory)
{
	setup_waiting(directory);
	CHILD_CHECK(write(3, "early", 5) == 5);
	CHILD_CHECK(close(1) == 0);
}

static void test_waiting_blocks(void **state)
{
	struct move move;

	move_begin(&move, setup_waiting_data);
	move_dump(&move, false);
	move_expect_no_blockers(&move);
	move_dump(&move, true);
	assert_true(move_has_blocker(&move, "has data that nobody can read"));
	assert_true(move_has_blocker(&move, "whose other end is closed"));
	assert_int_equal(move.source.blockers.list.count, 2);
	move_end(&move);
}

/* ---- urgent bytes */

static bool has_pass_pidfd(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	bool has = setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &one, sizeof(one)) == 0;

	close(fd);
	return has;
}

static void setup_urgent(const char *directory)
{
	int ends[2];

	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 0, 1 */
	CHILD_CHECK(write(0, "before", 6) == 6 && send(0, "!", 1, MSG_OOB) == 1 && write(0, "after", 5) == 5);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 2, 3 */
	CHILD_CHECK(send(2, "?", 1, MSG_OOB) == 1);
	set_int(3, SO_PEEK_OFF, 2);
	set_int(3, SO_PASSPIDFD, 1);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 4, 5 */
	set_int(5, SO_OOBINLINE, 1);
	CHILD_CHECK(write(4, "line", 4) == 4 && send(4, "#", 1, MSG_OOB) == 1);
}

static void expect_mark(int fd, int expected)
{
	int mark = -1;

	assert_int_equal(ioctl(fd, SIOCATMARK, &mark), 0);
	assert_int_equal(mark, expected);
}

static void expect_urgent(const struct move *move)
{
	int fd = move_fd(move, 1);
	char byte = 0;

	expect_mark(fd, 0);
	expect_read(fd, "before");
	expect_mark(fd, 1);
	assert_int_equal(recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT), 1);
	assert_int_equal(byte, '!');
	expect_read(fd, "after");
	close(fd);
	fd = move_fd(move, 3);
	assert_int_equal(get_int(fd, SO_PEEK_OFF), 2);
	assert_int_equal(get_int(fd, SO_PASSPIDFD), 1);
	expect_mark(fd, 1);
	assert_int_equal(recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT), 1);
	assert_int_equal(byte, '?');
	close(fd);
	fd = move_fd(move, 5);
	assert_int_equal(get_int(fd, SO_OOBINLINE), 1);
	expect_read(fd, "line");
	expect_mark(fd, 1);
	expect_read(fd, "#");
	close(fd);
}

static void test_urgent(void **state)
{
	struct move move;

	if (!has_pass_pidfd()) {
		print_message("this kernel has no SO_PASSPIDFD (Linux 6.5)\n");
		skip();
	}
	move_all(&move, setup_urgent);
	expect_urgent(&move);
	move_end(&move);
}

static void test_urgent_stays(void **state)
{
	struct move move;

	if (!has_pass_pidfd()) {
		print_message("this kernel has no SO_PASSPIDFD (Linux 6.5)\n");
		skip();
	}
	move_begin(&move, setup_urgent);
	move_dump(&move, true);
	move_expect_no_blockers(&move);
	move.target_pidfd = move.source_process.pidfd;
	expect_urgent(&move);
	move_end(&move);
}

/* ---- who is at the other end */

static void setup_credentials(const char *directory)
{
	int ends[2];

	CHILD_CHECK(setegid(77) == 0 && seteuid(4711) == 0);
	CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); /* 0, 1 */
	CHILD_CHECK(seteuid(0) == 0 && setegid(0) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 2);
	do_bind(2, directory, "listen");
	CHILD_CHECK(chmod(directory, 0711) == 0);
	CHILD_CHECK(seteuid(11) == 0 && listen(2, 5) == 0 && seteuid(0) == 0);
	CHILD_CHECK(chdir(directory) == 0 && chmod("listen", 0666) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 3);
	CHILD_CHECK(seteuid(22) == 0 && do_connect(3, directory, "listen") == 0 && seteuid(0) == 0);
	CHILD_CHECK(accept(2, NULL, NULL) == 4);
	CHILD_CHECK(write(3, "x", 1) == 1);
}

static void expect_peer(const struct move *move, int number, uid_t uid, gid_t gid)
{
	int fd = move_fd(move, number);
	socklen_t size = sizeof(struct ucred);
	struct ucred cred;

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size), 0);
	assert_int_equal(cred.uid, uid);
	assert_int_equal(cred.gid, gid);
	assert_int_equal(cred.pid, move->target_process.pid);
	close(fd);
}

static void test_credentials(void **state)
{
	struct move move;

	move_all(&move, setup_credentials);
	expect_peer(&move, 0, 4711, 77);
	expect_peer(&move, 1, 4711, 77);
	expect_peer(&move, 3, 11, 0);
	expect_peer(&move, 4, 22, 0);
	move_end(&move);
}

/* ---- names */

static void setup_names(const char *directory)
{
	char from[128], to[128];

	/* Bound relative to a directory that is not the working directory any more. */
	CHILD_CHECK(chdir(directory) == 0 && mkdir("sub", 0755) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 0);
	do_bind(0, NULL, "sub/relative");
	CHILD_CHECK(listen(0, 1) == 0 && chdir("/") == 0);
	/* Renamed, and replaced by another. */
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 1);
	do_bind(1, directory, "one");
	CHILD_CHECK(listen(1, 1) == 0);
	snprintf(from, sizeof(from), "%s/one", directory);
	snprintf(to, sizeof(to), "%s/renamed", directory);
	CHILD_CHECK(rename(from, to) == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 2);
	do_bind(2, directory, "one");
	CHILD_CHECK(listen(2, 1) == 0);
	/* Datagrams by a name that has gone: both ends know each other still. */
	CHILD_CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 3);
	do_bind(3, directory, "sub/datagram");
	CHILD_CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 4 && socket(AF_UNIX, SOCK_DGRAM, 0) == 5);
	CHILD_CHECK(do_connect(4, directory, "sub/datagram") == 0 && do_connect(5, directory, "sub/datagram") == 0);
	CHILD_CHECK(write(4, "four", 4) == 4 && write(5, "five", 4) == 4);
	snprintf(from, sizeof(from), "%s/sub/datagram", directory);
	CHILD_CHECK(unlink(from) == 0);
	/* The peer has gone. */
	CHILD_CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 6 && socket(AF_UNIX, SOCK_DGRAM, 0) == 7);
	do_bind(7, directory, "gone");
	CHILD_CHECK(do_connect(6, directory, "gone") == 0 && close(7) == 0);
}

static void expect_reachable(const struct move *move, int listener, const char *name)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), server = move_fd(move, listener), accepted;

	assert_int_equal(do_connect(fd, move->directory, name), 0);
	accepted = accept4(server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(accepted >= 0);
	close(accepted);
	close(server);
	close(fd);
}

static void test_names(void **state)
{
	struct move move;
	struct sockaddr_un name = { 0 };
	socklen_t size = sizeof(name);
	int fd, server;

	move_all(&move, setup_names);
	expect_reachable(&move, 0, "sub/relative");
	expect_reachable(&move, 1, "renamed");
	expect_reachable(&move, 2, "one");
	fd = move_fd(&move, 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &size), 0);
	assert_string_equal(name.sun_path, "sub/relative");
	close(fd);
	server = move_fd(&move, 3);
	expect_read(server, "four");
	expect_read(server, "five");
	fd = move_fd(&move, 5);
	assert_int_equal(write(fd, "again", 5), 5);
	expect_read(server, "again");
	close(fd);
	close(server);
	fd = move_fd(&move, 6);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(fd);
	move_end(&move);
}

/* ---- peers outside */

static void setup_outside(const char *directory)
{
	CHILD_CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 0 && do_connect(0, NULL, "@pagestream-test-ext") == 0);
	CHILD_CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 1 && do_connect(1, NULL, "@pagestream-test-log") == 0);
}

static int outside_socket(int type, const char *name)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	socklen_t size;
	struct sockaddr_un address = make_address(NULL, name, &size);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
	return fd;
}

static void test_outside(void **state)
{
	int listener = outside_socket(SOCK_STREAM, "@pagestream-test-ext"), accepted;
	int log = outside_socket(SOCK_DGRAM, "@pagestream-test-log"), fd;
	struct error error = ERROR_INIT;
	struct move move;
	char byte;

	assert_int_equal(listen(listener, 1), 0);
	move_begin(&move, setup_outside);
	accepted = accept(listener, NULL, NULL);
	assert_int_equal(write(accepted, "last words", 10), 10);
	move_dump(&move, true);
	assert_int_equal(move.source.blockers.list.count, 2);
	assert_true(move_has_blocker(&move, "use --ext-unix-sk") || move_has_blocker(&move, "outside of the tree"));
	image_blockers_deinit(&move.source.blockers);
	image_blockers_init(&move.source.blockers);
	move.dump_options.ext_unix = true;
	move_dump(&move, true);
	move_expect_no_blockers(&move);
	move_kill_source(&move);
	move_shell(&move);
	assert_int_equal(move_apply(&move, &error), -EPERM);
	restore_files_free(move.target.files);
	move.target.files = NULL;
	move.restore_options.ext_unix = true;
	if (move_apply(&move, &error) < 0)
		fail_msg("restore: %s", error.message);
	fd = move_fd(&move, 0);
	expect_read(fd, "last words");
	assert_int_equal(read(fd, &byte, 1), 0);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	close(fd);
	fd = move_fd(&move, 1);
	assert_int_equal(write(fd, "logged", 6), 6);
	expect_read(log, "logged");
	close(fd);
	close(accepted);
	close(listener);
	close(log);
	move_end(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rights),	       cmocka_unit_test(test_rights_stay),
		cmocka_unit_test(test_locked_blocks),  cmocka_unit_test(test_waiting),
		cmocka_unit_test(test_waiting_blocks), cmocka_unit_test(test_urgent),
		cmocka_unit_test(test_urgent_stays),   cmocka_unit_test(test_credentials),
		cmocka_unit_test(test_names),	       cmocka_unit_test(test_outside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
