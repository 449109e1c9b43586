/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore net tracee image util proto */
/*
 * TCP connections, moved from one child process to another. The peer is this program: it sees what a peer sees. All in a
 * network namespace of its own, on addresses that are not the loopback's, with the lock on as in a move.
 */
#include "files-common.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "image/tcp-repair.h"
#include "net/lock.h"
#include "restore/tcp.h"
#include "util/clock.h"

#define HERE "192.0.2.1" /* the peer: this program */
#define MOVED "192.0.2.2"
#define HERE6 "2001:db8::1"
#define MOVED6 "2001:db8::2"
#define PORT 7001
#define ROUND_BYTES (3u << 20)

static const struct timespec pause_time = { .tv_nsec = 1000000 };

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

static int state_of(int fd)
{
	struct tcp_info info;
	socklen_t size = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_state : -1;
}

static socklen_t make_address(int family, const char *text, int port, struct sockaddr_storage *ret)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;

	memset(ret, 0, sizeof(*ret));
	ret->ss_family = (sa_family_t)family;
	v4->sin_port = htons((uint16_t)port);
	if (family == AF_INET6)
		inet_pton(AF_INET6, text, &v6->sin6_addr);
	else
		inet_pton(AF_INET, text, &v4->sin_addr);
	return family == AF_INET6 ? sizeof(*v6) : sizeof(*v4);
}

/* Bytes that tell where in a stream they are. */
static uint8_t byte_at(uint64_t position)
{
	return (uint8_t)(position * 2654435761u >> 13);
}

static void fill(uint8_t *data, size_t size, uint64_t position)
{
	for (size_t i = 0; i < size; i++)
		data[i] = byte_at(position + i);
}

/* Writes until nothing more is taken; how much that was. */
static uint64_t write_all(int fd, uint64_t position, uint64_t most)
{
	static uint8_t data[65536];
	uint64_t done = 0;

	while (done < most) {
		size_t size = most - done < sizeof(data) ? (size_t)(most - done) : sizeof(data);
		ssize_t n;

		fill(data, size, position + done);
		n = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	return done;
}

/* Reads what should come, within some seconds. */
static void expect_bytes(int fd, uint64_t position, uint64_t count)
{
	static uint8_t data[65536];
	int64_t deadline = clock_deadline(20 * CLOCK_S);

	while (count > 0) {
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		ssize_t n;

		poll(&wait, 1, 1000);
		n = recv(fd, data, count < sizeof(data) ? (size_t)count : sizeof(data), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN && clock_now_ns() < deadline)
			continue;
		if (n <= 0)
			fail_msg("%llu bytes did not come: %s", (unsigned long long)count, n < 0 ? strerror(errno) : "end");
		for (ssize_t i = 0; i < n; i++)
			if (data[i] != byte_at(position + (uint64_t)i))
				fail_msg("byte %llu is wrong", (unsigned long long)(position + (uint64_t)i));
		position += (uint64_t)n;
		count -= (uint64_t)n;
	}
}

static void expect_nothing(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK), -1);
	assert_int_equal(errno, EAGAIN);
}

static void expect_end(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	char byte;

	assert_int_equal(poll(&wait, 1, 10000), 1);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

static void wait_state(int fd, int state)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);

	while (state_of(fd) != state && clock_now_ns() < deadline)
		nanosleep(&pause_time, NULL);
	assert_int_equal(state_of(fd), state);
}

/* ---- a connection that moves */

struct pair {
	struct move move;
	int listener, peer; /* ours */
	struct net_lock *source_lock, *target_lock;
};

static int setup_family, setup_mapped;

/* Descriptor 0 of the child is the connection. */
static void setup_connect(const char *directory)
{
	struct sockaddr_storage own, peer;
	int family = setup_family;
	socklen_t size = make_address(family, setup_mapped ? "::ffff:" MOVED : family == AF_INET6 ? MOVED6 : MOVED, 0, &own);

	make_address(family, setup_mapped ? "::ffff:" HERE : family == AF_INET6 ? HERE6 : HERE, PORT, &peer);
	CHILD_CHECK(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0) == 0);
	CHILD_CHECK(bind(0, (struct sockaddr *)&own, size) == 0);
	CHILD_CHECK(fcntl(0, F_SETFL, 0) == 0);
	CHILD_CHECK(connect(0, (struct sockaddr *)&peer, size) == 0);
	set_int(0, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(0, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(0, IPPROTO_TCP, TCP_KEEPIDLE, 77);
}

static void pair_begin(struct pair *pair, int family, bool mapped)
{
	struct error error = ERROR_INIT;
	struct sockaddr_storage own;
	socklen_t size = make_address(mapped ? AF_INET : family, family == AF_INET6 && !mapped ? HERE6 : HERE, PORT, &own);

	memset(pair, 0, sizeof(*pair));
	setup_family = family;
	setup_mapped = mapped;
	pair->listener = socket(mapped ? AF_INET : family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	set_int(pair->listener, SOL_SOCKET, SO_REUSEADDR, 1);
	assert_int_equal(bind(pair->listener, (struct sockaddr *)&own, size), 0);
	assert_int_equal(listen(pair->listener, 5), 0);
	move_begin(&pair->move, setup_connect);
	pair->move.dump_options.tcp_established = pair->move.restore_options.tcp_established = true;
	pair->peer = accept4(pair->listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(pair->peer >= 0);
	if (net_lock_new(NET_LOCK_SOURCE, "unittest", &pair->source_lock, &error) < 0 ||
	    net_lock_prepare(pair->source_lock, &error) < 0 ||
	    net_lock_new(NET_LOCK_TARGET, "unittest", &pair->target_lock, &error) < 0 ||
	    net_lock_prepare(pair->target_lock, &error) < 0)
		fail_msg("lock: %s", error.message);
	pair->move.source.lock = pair->source_lock;
	pair->move.target.lock = pair->target_lock;
}

/* The source's descriptor of the connection. */
static int pair_source(const struct pair *pair)
{
	int fd = (int)syscall(SYS_pidfd_getfd, pair->move.source_process.pidfd, 0, 0);

	assert_true(fd >= 0);
	return fd;
}

static void pair_take(struct pair *pair)
{
	move_dump(&pair->move, true);
	move_expect_no_blockers(&pair->move);
}

/* From the dump to the go; the moved end. */
static int pair_give(struct pair *pair)
{
	struct error error = ERROR_INIT;
	int fd;

	assert_int_equal(image_tcp_hush(pair->move.source_process.pid, &error), 0);
	move_kill_source(&pair->move);
	pair->move.source_process.pid = 0;
	move_shell(&pair->move);
	pair->move.target.lock = pair->target_lock;
	if (move_apply(&pair->move, &error) < 0)
		fail_msg("restore: %s", error.message);
	assert_int_equal(net_lock_release(pair->source_lock, &error), 0);
	restore_tcp_go(&pair->move.target);
	fd = move_fd(&pair->move, 0);
	assert_true(fd >= 0);
	assert_false(image_tcp_is_in_repair(fd));
	return fd;
}

static void pair_end(struct pair *pair, int fd)
{
	struct error error = ERROR_INIT;

	close(fd);
	close(pair->peer);
	close(pair->listener);
	net_lock_release(pair->source_lock, &error);
	net_lock_release(pair->target_lock, &error);
	net_lock_free(pair->source_lock);
	net_lock_free(pair->target_lock);
	move_end(&pair->move);
}

/* ---- tests */

static void move_both_queues(int family, bool mapped)
{
	struct pair pair;
	uint64_t to_peer, to_moved;
	struct sockaddr_storage before = { 0 }, after = { 0 };
	socklen_t size = sizeof(before);
	int fd;

	pair_begin(&pair, family, mapped);
	fd = pair_source(&pair);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&before, &size), 0);
	to_peer = write_all(fd, 0, UINT64_MAX);
	to_moved = write_all(pair.peer, 0, UINT64_MAX);
	assert_true(to_peer > 100000 && to_moved > 100000);
	close(fd);
	pair_take(&pair);
	fd = pair_give(&pair);
	size = sizeof(after);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&after, &size), 0);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(state_of(fd), TCP_ESTABLISHED);
	assert_int_equal(get_int(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(get_int(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(get_int(fd, IPPROTO_TCP, TCP_KEEPIDLE), 77);
	assert_int_equal(get_int(fd, IPPROTO_IP, IP_TRANSPARENT), 0);
	assert_int_equal(get_int(fd, SOL_SOCKET, SO_REUSEADDR), 0);
	expect_bytes(pair.peer, 0, to_peer);
	expect_bytes(fd, 0, to_moved);
	expect_nothing(fd);
	expect_nothing(pair.peer);
	assert_int_equal(write_all(fd, to_peer, 1000), 1000);
	assert_int_equal(write_all(pair.peer, to_moved, 1000), 1000);
	expect_bytes(pair.peer, to_peer, 1000);
	expect_bytes(fd, to_moved, 1000);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	expect_end(pair.peer);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	expect_end(fd);
	pair_end(&pair, fd);
}

static void test_both_queues(void **state)
{
	move_both_queues(AF_INET, false);
}

static void test_both_queues_v6(void **state)
{
	move_both_queues(AF_INET6, false);
}

static void test_mapped(void **state)
{
	move_both_queues(AF_INET6, true);
}

/* The peer goes on writing and reading while nobody answers; what was lost comes again, and soon. */
static void test_lost_meanwhile(void **state)
{
	struct pair pair;
	int64_t began;
	int fd;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	assert_int_equal(write_all(fd, 0, 1000), 1000);
	expect_bytes(pair.peer, 0, 1000);
	/* In flight, and lost: the lock is there before it arrives. */
	pair_take(&pair);
	assert_int_equal(write_all(pair.peer, 0, 5000), 5000);
	close(fd);
	began = clock_now_ns();
	fd = pair_give(&pair);
	expect_bytes(fd, 0, 5000);
	assert_true(clock_now_ns() - began < 3 * CLOCK_S);
	pair_end(&pair, fd);
}

/* What was sent and lost on the way to the peer is sent again at once, not after the seconds of a new connection. */
static void test_sent_again_soon(void **state)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	const struct sock_fprog program = { .len = 1, .filter = &nothing };
	struct pair pair;
	int64_t began;
	int fd, unsent = 0;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	assert_int_equal(write_all(fd, 0, 1000), 1000);
	expect_bytes(pair.peer, 0, 1000);
	/* Sent, as far as the source knows, and lost. */
	assert_int_equal(setsockopt(pair.peer, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0);
	assert_int_equal(write_all(fd, 1000, 100000), 100000);
	assert_int_equal(ioctl(fd, SIOCOUTQNSD, &unsent), 0);
	assert_true(unsent < 100000);
	close(fd);
	pair_take(&pair);
	assert_int_equal(setsockopt(pair.peer, SOL_SOCKET, SO_DETACH_FILTER, &unsent, sizeof(unsent)), 0);
	fd = pair_give(&pair);
	began = clock_now_ns();
	expect_bytes(pair.peer, 1000, 100000);
	if (clock_now_ns() - began > 800 * CLOCK_MS)
		fail_msg("it took %lld ms", (long long)((clock_now_ns() - began) / CLOCK_MS));
	pair_end(&pair, fd);
}

/* A source that goes on has what it had. */
static void test_source_goes_on(void **state)
{
	struct error error = ERROR_INIT;
	struct pair pair;
	int fd, one = 1;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &one, sizeof(one));
	assert_int_equal(write_all(pair.peer, 0, 4000), 4000);
	assert_int_equal(write_all(fd, 0, 4000), 4000);
	pair_take(&pair);
	assert_int_equal(get_int(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	assert_int_equal(get_int(fd, SOL_SOCKET, SO_OOBINLINE), 0);
	assert_int_equal(get_int(fd, SOL_SOCKET, SO_PEEK_OFF), 1);
	assert_false(image_tcp_is_in_repair(fd));
	assert_int_equal(net_lock_release(pair.source_lock, &error), 0);
	expect_bytes(fd, 0, 4000);
	expect_bytes(pair.peer, 0, 4000);
	assert_int_equal(write_all(fd, 4000, 4000), 4000);
	expect_bytes(pair.peer, 4000, 4000);
	pair_end(&pair, fd);
}

/* A tree that is given up on the target, before the go, says nothing to the peer. */
static void test_given_up(void **state)
{
	struct error error = ERROR_INIT;
	struct pair pair;
	int fd;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	assert_int_equal(write_all(fd, 0, 1000), 1000);
	close(fd);
	pair_take(&pair);
	image_tcp_hush(pair.move.source_process.pid, &error);
	move_kill_source(&pair.move);
	pair.move.source_process.pid = 0;
	move_shell(&pair.move);
	if (move_apply(&pair.move, &error) < 0)
		fail_msg("restore: %s", error.message);
	/* Without any lock, so that a packet would be seen. */
	assert_int_equal(net_lock_release(pair.source_lock, &error), 0);
	assert_int_equal(net_lock_release(pair.target_lock, &error), 0);
	restore_files_free(pair.move.target.files);
	pair.move.target.files = NULL;
	kill(pair.move.target_process.pid, SIGKILL);
	waitpid(pair.move.target_process.pid, NULL, __WALL);
	expect_bytes(pair.peer, 0, 1000);
	expect_nothing(pair.peer);
	assert_int_equal(state_of(pair.peer), TCP_ESTABLISHED);
	pair_end(&pair, -1);
}

/* ---- closing states */

static void test_shut_for_writing(void **state)
{
	struct pair pair;
	uint64_t to_peer;
	int fd;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	to_peer = write_all(fd, 0, UINT64_MAX); /* so the FIN is not sent yet */
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_int_equal(state_of(fd), TCP_FIN_WAIT1);
	close(fd);
	assert_int_equal(write_all(pair.peer, 0, 3000), 3000);
	pair_take(&pair);
	fd = pair_give(&pair);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	expect_bytes(pair.peer, 0, to_peer);
	expect_end(pair.peer);
	wait_state(fd, TCP_FIN_WAIT2);
	expect_bytes(fd, 0, 3000);
	assert_int_equal(write_all(pair.peer, 3000, 3000), 3000);
	expect_bytes(fd, 3000, 3000);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	expect_end(fd);
	wait_state(pair.peer, TCP_CLOSE);
	pair_end(&pair, fd);
}

static void test_fin_wait2(void **state)
{
	struct pair pair;
	int fd;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	assert_int_equal(write_all(fd, 0, 500), 500);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	wait_state(fd, TCP_FIN_WAIT2);
	close(fd);
	pair_take(&pair);
	fd = pair_give(&pair);
	expect_bytes(pair.peer, 0, 500);
	expect_end(pair.peer);
	assert_int_equal(write_all(pair.peer, 0, 3000), 3000);
	expect_bytes(fd, 0, 3000);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	expect_end(fd);
	wait_state(pair.peer, TCP_CLOSE);
	pair_end(&pair, fd);
}

/* The peer has closed its side: the program has data and the end to read, and may write. */
static void test_close_wait(void **state)
{
	struct pollfd look = { .events = POLLIN | POLLRDHUP };
	struct pair pair;
	int fd;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	assert_int_equal(write_all(pair.peer, 0, 2000), 2000);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	wait_state(fd, TCP_CLOSE_WAIT);
	close(fd);
	pair_take(&pair);
	fd = pair_give(&pair);
	look.fd = fd;
	assert_int_equal(poll(&look, 1, 0), 1);
	assert_int_equal(look.revents, POLLIN | POLLRDHUP);
	expect_bytes(fd, 0, 2000);
	expect_end(fd);
	assert_int_equal(write_all(fd, 0, 2000), 2000);
	expect_bytes(pair.peer, 0, 2000);
	close(fd);
	kill(pair.move.target_process.pid, SIGKILL);
	expect_end(pair.peer);
	wait_state(pair.peer, TCP_CLOSE);
	pair_end(&pair, -1);
}

static void test_last_ack(void **state)
{
	struct pair pair;
	uint64_t to_peer;
	int fd;

	pair_begin(&pair, AF_INET, false);
	fd = pair_source(&pair);
	assert_int_equal(write_all(pair.peer, 0, 2000), 2000);
	assert_int_equal(shutdown(pair.peer, SHUT_WR), 0);
	wait_state(fd, TCP_CLOSE_WAIT);
	to_peer = write_all(fd, 0, UINT64_MAX);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_int_equal(state_of(fd), TCP_LAST_ACK);
	close(fd);
	pair_take(&pair);
	fd = pair_give(&pair);
	expect_bytes(fd, 0, 2000);
	expect_end(fd);
	expect_bytes(pair.peer, 0, to_peer);
	expect_end(pair.peer);
	wait_state(pair.peer, TCP_CLOSE);
	pair_end(&pair, fd);
}

/* ---- connecting */

static void setup_connecting(const char *directory)
{
	struct sockaddr_storage own, peer;
	socklen_t size = make_address(AF_INET, MOVED, 0, &own);

	make_address(AF_INET, HERE, PORT, &peer);
	CHILD_CHECK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) == 0);
	CHILD_CHECK(bind(0, (struct sockaddr *)&own, size) == 0);
	CHILD_CHECK(connect(0, (struct sockaddr *)&peer, size) == -1 && errno == EINPROGRESS);
}

static void test_connecting(void **state)
{
	struct sockaddr_storage own;
	struct error error = ERROR_INIT;
	struct net_tuples tuples = { 0 };
	struct pollfd wait = { .events = POLLOUT };
	struct net_lock *quiet;
	socklen_t size = make_address(AF_INET, HERE, PORT, &own);
	struct pair pair = { .listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };

	set_int(pair.listener, SOL_SOCKET, SO_REUSEADDR, 1);
	assert_int_equal(bind(pair.listener, (struct sockaddr *)&own, size), 0);
	assert_int_equal(listen(pair.listener, 5), 0);
	/* A listener that does not hear. */
	assert_int_equal(net_lock_new(NET_LOCK_CHECKPOINT, "unittest", &quiet, &error), 0);
	assert_int_equal(net_tuples_add_listening(&tuples, (struct sockaddr *)&own, false), 0);
	if (net_lock_engage(quiet, &tuples, &error) < 0)
		fail_msg("lock: %s", error.message);
	net_tuples_deinit(&tuples);
	move_begin(&pair.move, setup_connecting);
	pair.move.dump_options.tcp_established = pair.move.restore_options.tcp_established = true;
	assert_int_equal(net_lock_new(NET_LOCK_SOURCE, "unittest", &pair.source_lock, &error), 0);
	assert_int_equal(net_lock_new(NET_LOCK_TARGET, "unittest", &pair.target_lock, &error), 0);
	pair.move.source.lock = pair.source_lock;
	pair_take(&pair);
	assert_int_equal(net_lock_release(quiet, &error), 0);
	net_lock_free(quiet);
	wait.fd = pair_give(&pair);
	assert_int_equal(poll(&wait, 1, 5000), 1);
	assert_int_equal(get_int(wait.fd, SOL_SOCKET, SO_ERROR), 0);
	pair.peer = accept4(pair.listener, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(write_all(wait.fd, 0, 1000), 1000);
	expect_bytes(pair.peer, 0, 1000);
	pair_end(&pair, wait.fd);
}

/* ---- signed segments */

static void set_key(int fd, const struct sockaddr_storage *peer)
{
	struct tcp_md5sig key = { .tcpm_addr = *peer, .tcpm_keylen = 6, .tcpm_key = "secret" };

	CHILD_CHECK(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)) == 0);
}

static void setup_signed(const char *directory)
{
	struct sockaddr_storage own, peer;
	socklen_t size = make_address(AF_INET, MOVED, 0, &own);

	make_address(AF_INET, HERE, PORT, &peer);
	CHILD_CHECK(socket(AF_INET, SOCK_STREAM, 0) == 0);
	CHILD_CHECK(bind(0, (struct sockaddr *)&own, size) == 0);
	set_key(0, &peer);
	CHILD_CHECK(connect(0, (struct sockaddr *)&peer, size) == 0);
}

static void test_signed(void **state)
{
	struct sockaddr_storage own, moved;
	socklen_t size = make_address(AF_INET, HERE, PORT, &own);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct move move;

	make_address(AF_INET, MOVED, 0, &moved);
	set_int(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	set_key(listener, &moved);
	assert_int_equal(bind(listener, (struct sockaddr *)&own, size), 0);
	assert_int_equal(listen(listener, 5), 0);
	move_begin(&move, setup_signed);
	move.dump_options.tcp_established = true;
	move_dump(&move, false);
	assert_true(move_has_blocker(&move, "its segments are signed"));
	close(listener);
	move_end(&move);
}

/* The same for one that begins after the preflight. */
static void test_signed_late(void **state)
{
	struct sockaddr_storage own, moved;
	socklen_t size = make_address(AF_INET, HERE, PORT, &own);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct net_lock *lock = NULL;
	struct error error = ERROR_INIT;
	struct move move;

	make_address(AF_INET, MOVED, 0, &moved);
	set_int(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	set_key(listener, &moved);
	assert_int_equal(bind(listener, (struct sockaddr *)&own, size), 0);
	assert_int_equal(listen(listener, 5), 0);
	move_begin(&move, setup_signed);
	move.dump_options.tcp_established = true;
	assert_int_equal(net_lock_new(NET_LOCK_SOURCE, "unittest", &lock, &error), 0);
	move.source.lock = lock;
	move_dump(&move, true);
	assert_true(move_has_blocker(&move, "its segments are signed"));
	close(listener);
	assert_int_equal(net_lock_release(lock, &error), 0);
	net_lock_free(lock);
	move_end(&move);
}

/* ---- accepted with the first packet, before the handshake is complete */

#define HOLD "hold-handshake" /* table of nftables that lets the first packet through only */

/* Descriptor 0 of the child is the connection; the peer is a child of it that ends. */
static void setup_fast_open(const char *directory)
{
	struct sockaddr_storage own;
	socklen_t size = make_address(AF_INET, MOVED, PORT, &own);
	int first = socket(AF_INET, SOCK_STREAM, 0), listener = fcntl(first, F_DUPFD, 1);
	pid_t peer;

	close(first);
	set_int(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	set_int(listener, IPPROTO_TCP, TCP_FASTOPEN, 5);
	CHILD_CHECK(bind(listener, (struct sockaddr *)&own, size) == 0 && listen(listener, 5) == 0);
	peer = fork();
	if (peer == 0) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		CHILD_CHECK(sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&own, size) == 1);
		_exit(0);
	}
	CHILD_CHECK(accept(listener, NULL, NULL) == 0);
	close(listener);
	CHILD_CHECK(waitpid(peer, NULL, 0) == peer);
}

static void test_handshake(void **state)
{
	struct error error = ERROR_INIT;
	struct net_lock *lock = NULL;
	struct move move;
	int fd;

	assert_int_equal(system("sysctl -qw net.ipv4.tcp_fastopen=0x607 && nft add table inet " HOLD " && "
				"nft 'add chain inet " HOLD " in { type filter hook input priority 0; }' && "
				"nft 'add rule inet " HOLD " in tcp dport 7001 tcp flags & (syn | ack) == ack drop'"), 0);
	move_begin(&move, setup_fast_open);
	move.dump_options.tcp_established = true;
	fd = (int)syscall(SYS_pidfd_getfd, move.source_process.pidfd, 0, 0);
	assert_int_equal(state_of(fd), TCP_SYN_RECV);
	close(fd);
	assert_int_equal(net_lock_new(NET_LOCK_SOURCE, "unittest", &lock, &error), 0);
	move.source.lock = lock;
	move_dump(&move, true);
	assert_true(move_has_blocker(&move, "handshake is not complete"));
	assert_int_equal(net_lock_release(lock, &error), 0);
	net_lock_free(lock);
	move_end(&move);
	assert_int_equal(system("nft delete table inet " HOLD), 0);
}

/* ---- */

static int own_network(void **state)
{
	if (unshare(CLONE_NEWNET) < 0)
		return -1;
	/* What a connection learned is not to help the next one: between hosts it has not been there. */
	return system("sysctl -qw net.ipv4.tcp_no_metrics_save=1 && ip link set lo up && "
		      "ip addr add " HERE "/32 dev lo && ip addr add " MOVED "/32 dev lo && "
		      "ip -6 addr add " HERE6 "/128 dev lo && ip -6 addr add " MOVED6 "/128 dev lo");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_queues),	cmocka_unit_test(test_both_queues_v6),
		cmocka_unit_test(test_mapped),		cmocka_unit_test(test_lost_meanwhile),
		cmocka_unit_test(test_sent_again_soon), cmocka_unit_test(test_source_goes_on),
		cmocka_unit_test(test_given_up),	cmocka_unit_test(test_shut_for_writing),
		cmocka_unit_test(test_fin_wait2),	cmocka_unit_test(test_close_wait),
		cmocka_unit_test(test_last_ack),	cmocka_unit_test(test_connecting),
		cmocka_unit_test(test_signed),		cmocka_unit_test(test_signed_late),
		cmocka_unit_test(test_handshake),
	};

	struct error error = ERROR_INIT;

	if (net_lock_probe(&error) < 0) {
		printf("1..0 # SKIP no lock on connections: %s\n", error.message);
		return 0;
	}
	return cmocka_run_group_tests(tests, own_network, NULL);
}
