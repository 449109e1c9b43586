/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The lock on connections over the loopback device of a network namespace of its own, as both of their ends see it. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "net/lock.h"
#include "util/clock.h"
#include "util/procfs.h"

#define LOOK_MS 2000  /* for what has to come */
#define SILENCE_MS 60 /* for what must not */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct pair {
	int listener, client, server;
	union address local, remote; /* of the server's end */
};

static int enter_namespace(void **state)
{
	struct ifreq request = { .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd;

	if (unshare(CLONE_NEWNET) < 0) {
		print_message("no network namespace: %s\n", strerror(errno));
		return -1;
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	strcpy(request.ifr_name, "lo");
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
	return 0;
}

static socklen_t size_of(const union address *address)
{
	return address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
}

static union address address_of(const char *host, uint16_t port)
{
	union address address = { 0 };

	if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons(port);
	} else {
		assert_int_equal(inet_pton(AF_INET6, host, &address.v6.sin6_addr), 1);
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = htons(port);
	}
	return address;
}

static int listen_at(const char *host, uint16_t port, union address *ret)
{
	union address address = address_of(host, port);
	int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(*ret);
	const int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_int_equal(bind(fd, &address.any, size_of(&address)), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, &ret->any, &size), 0);
	return fd;
}

/* A connection to `to`, over the socket that listens at `host`. */
static struct pair connect_pair(const char *host, const char *to)
{
	union address there, target;
	struct pair pair = { .listener = listen_at(host, 0, &there) };
	socklen_t size = sizeof(pair.local);

	target = address_of(to, ntohs(there.any.sa_family == AF_INET ? there.v4.sin_port : there.v6.sin6_port));
	pair.client = socket(target.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(pair.client, &target.any, size_of(&target)), 0);
	pair.server = accept4(pair.listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(pair.server >= 0);
	assert_int_equal(getsockname(pair.server, &pair.local.any, &size), 0);
	size = sizeof(pair.remote);
	assert_int_equal(getpeername(pair.server, &pair.remote.any, &size), 0);
	return pair;
}

static void close_pair(struct pair *pair)
{
	close(pair->client);
	close(pair->server);
	close(pair->listener);
}

static bool comes(int fd, int ms)
{
	return poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, ms) == 1;
}

static void expect_byte(int from, int to)
{
	char byte = 0;

	assert_int_equal(write(from, "x", 1), 1);
	assert_true(comes(to, LOOK_MS));
	assert_int_equal(read(to, &byte, 1), 1);
	assert_int_equal(byte, 'x');
}

static struct net_lock *new_lock(const char *session)
{
	struct error error = ERROR_INIT;
	struct net_lock *lock = NULL;

	if (net_lock_new(NET_LOCK_SOURCE, session, &lock, &error) < 0)
		fail_msg("%s", error.message);
	return lock;
}

static void engage(struct net_lock *lock, const struct net_tuples *tuples)
{
	struct error error = ERROR_INIT;

	if (net_lock_engage(lock, tuples, &error) < 0)
		fail_msg("%s", error.message);
}

static bool table_exists(const char *name)
{
	char command[128];

	snprintf(command, sizeof(command), "nft list table inet %s >/dev/null 2>&1", name);
	return system(command) == 0;
}

/* What both ends send in the time of the lock comes after it, also what a close and the kernel itself send. */
static void hold_and_let_go(const char *host, const char *to)
{
	struct net_lock *lock = new_lock("unit1");
	struct pair pair = connect_pair(host, to), other = connect_pair(host, to);
	struct net_tuples tuples = { 0 };

	assert_int_equal(net_tuples_add(&tuples, &pair.local.any, &pair.remote.any), 0);
	assert_int_equal(net_lock_prepare(lock, NULL), 0);
	assert_true(table_exists("pagestream-unit1-source"));
	expect_byte(pair.client, pair.server);
	engage(lock, &tuples);
	assert_int_equal(write(pair.client, "x", 1), 1);
	assert_int_equal(write(pair.server, "y", 1), 1);
	assert_false(comes(pair.server, SILENCE_MS));
	assert_false(comes(pair.client, SILENCE_MS));
	expect_byte(other.client, other.server);
	expect_byte(other.server, other.client);
	assert_int_equal(net_lock_release(lock, NULL), 0);
	assert_false(table_exists("pagestream-unit1-source"));
	assert_true(comes(pair.server, LOOK_MS));
	assert_true(comes(pair.client, LOOK_MS));
	assert_int_equal(net_lock_release(lock, NULL), 0);
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
	close_pair(&pair);
	close_pair(&other);
}

static void test_connection_v4(void **state)
{
	hold_and_let_go("127.0.0.1", "127.0.0.1");
}

static void test_connection_v6(void **state)
{
	hold_and_let_go("::1", "::1");
}

static void test_connection_mapped(void **state)
{
	hold_and_let_go("::", "127.0.0.1");
}

/* The one end is gone, as a program that has moved: a reset from its kernel does not come out. */
static void test_no_reset(void **state)
{
	struct net_lock *lock = new_lock("unit2");
	struct pair pair = connect_pair("127.0.0.1", "127.0.0.1");
	const struct linger hard = { .l_onoff = 1 };
	struct net_tuples tuples = { 0 };

	assert_int_equal(net_tuples_add(&tuples, &pair.local.any, &pair.remote.any), 0);
	engage(lock, &tuples);
	assert_int_equal(setsockopt(pair.server, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
	close(pair.server);
	assert_int_equal(write(pair.client, "x", 1), 1); /* answered with a reset, without the lock */
	assert_false(comes(pair.client, SILENCE_MS));
	assert_int_equal(net_lock_release(lock, NULL), 0);
	assert_true(comes(pair.client, LOOK_MS)); /* and without it, it comes */
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
	close(pair.client);
	close(pair.listener);
}

static int begin_connect(const union address *to)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(connect(fd, &to->any, size_of(to)), -1);
	assert_int_equal(errno, EINPROGRESS);
	return fd;
}

/* Connections that begin meanwhile begin later, those that exist go on. */
static void hold_listener(const char *host, const char *to, bool v6only)
{
	struct net_lock *lock = new_lock("unit3");
	struct pair pair = connect_pair(host, to);
	struct net_tuples tuples = { 0 };
	union address there;
	socklen_t size = sizeof(there);
	int client;

	assert_int_equal(getsockname(pair.listener, &there.any, &size), 0);
	assert_int_equal(net_tuples_add_listening(&tuples, &there.any, v6only), 0);
	engage(lock, &tuples);
	there = address_of(to, ntohs(there.any.sa_family == AF_INET ? there.v4.sin_port : there.v6.sin6_port));
	client = begin_connect(&there);
	assert_false(comes(pair.listener, SILENCE_MS));
	expect_byte(pair.client, pair.server);
	assert_int_equal(net_lock_release(lock, NULL), 0);
	assert_true(comes(pair.listener, LOOK_MS));
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
	close(client);
	close_pair(&pair);
}

static void test_listening(void **state)
{
	hold_listener("127.0.0.1", "127.0.0.1", false);
	hold_listener("::1", "::1", false);
	hold_listener("0.0.0.0", "127.0.0.1", false);
	hold_listener("::", "::1", true);
	hold_listener("::", "127.0.0.1", false);
}

/* Thousands in one transaction, twice the same, and all of them hold. */
static void test_many(void **state)
{
	struct net_lock *lock = new_lock("unit4");
	struct pair pair = connect_pair("127.0.0.1", "127.0.0.1"), six = connect_pair("::1", "::1");
	union address local = address_of("10.0.0.1", 80), remote = address_of("10.0.0.2", 0);
	union address local6 = address_of("fd00::1", 80), remote6 = address_of("fd00::2", 0);
	struct net_tuples tuples = { 0 };

	for (uint16_t i = 0; i < 5000; i++) {
		remote.v4.sin_port = htons((uint16_t)(1024 + i));
		remote6.v6.sin6_port = htons((uint16_t)(1024 + i));
		assert_int_equal(net_tuples_add(&tuples, &local.any, &remote.any), 0);
		assert_int_equal(net_tuples_add(&tuples, &local6.any, &remote6.any), 0);
	}
	assert_int_equal(net_tuples_add(&tuples, &pair.local.any, &pair.remote.any), 0);
	assert_int_equal(net_tuples_add(&tuples, &six.local.any, &six.remote.any), 0);
	engage(lock, &tuples);
	engage(lock, &tuples);
	assert_int_equal(write(pair.client, "x", 1), 1);
	assert_int_equal(write(six.client, "x", 1), 1);
	assert_false(comes(pair.server, SILENCE_MS));
	assert_false(comes(six.server, 0));
	assert_int_equal(net_lock_release(lock, NULL), 0);
	assert_true(comes(pair.server, LOOK_MS));
	assert_true(comes(six.server, LOOK_MS));
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
	close_pair(&pair);
	close_pair(&six);
}

static void test_mark_passes(void **state)
{
	struct net_lock *lock = new_lock("unit5");
	struct pair pair = connect_pair("127.0.0.1", "127.0.0.1");
	const unsigned mark = NET_LOCK_MARK;
	struct net_tuples tuples = { 0 };

	assert_int_equal(net_tuples_add(&tuples, &pair.local.any, &pair.remote.any), 0);
	engage(lock, &tuples);
	assert_int_equal(setsockopt(pair.client, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
	expect_byte(pair.client, pair.server);
	assert_int_equal(net_lock_release(lock, NULL), 0);
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
	close_pair(&pair);
}

static void add_held(struct net_lock *lock, struct buffer *packets)
{
	int64_t deadline = clock_now_ns() + LOOK_MS * CLOCK_MS;
	size_t before = packets->size;

	while (packets->size == before && clock_now_ns() < deadline)
		assert_int_equal(net_lock_take_held(lock, packets), 0);
	assert_true(packets->size > before);
}

/* What was dropped is there when it is given back, long before its sender would send it again; what is for others is not. */
static void give_back(const char *host)
{
	struct net_lock *lock = new_lock("unit6"), *stranger = new_lock("unit7");
	struct pair pair = connect_pair(host, host), other = connect_pair(host, host);
	struct net_tuples tuples = { 0 }, others = { 0 };
	struct buffer packets = BUFFER_INIT;

	assert_int_equal(net_tuples_add(&tuples, &pair.local.any, &pair.remote.any), 0);
	assert_int_equal(net_tuples_add(&others, &other.local.any, &other.remote.any), 0);
	engage(lock, &tuples);
	engage(stranger, &others);
	assert_int_equal(write(pair.client, "x", 1), 1);
	add_held(lock, &packets);
	assert_int_equal(net_lock_release(lock, NULL), 0);
	assert_int_equal(net_lock_release(stranger, NULL), 0);
	assert_int_equal(net_lock_give_held(stranger, packets.data, packets.size, NULL), 0);
	assert_false(comes(pair.server, 0));
	assert_int_equal(net_lock_give_held(lock, packets.data, packets.size - 1, NULL), 0);
	assert_true(net_lock_give_held(lock, packets.data, packets.size, NULL) > 0);
	assert_true(comes(pair.server, SILENCE_MS));
	expect_byte(pair.server, pair.client);
	buffer_deinit(&packets);
	net_lock_free(lock);
	net_lock_free(stranger);
	net_tuples_deinit(&tuples);
	net_tuples_deinit(&others);
	close_pair(&pair);
	close_pair(&other);
}

static void test_given_back(void **state)
{
	give_back("127.0.0.1");
	give_back("::1");
}

/* Packets come from another host. */
static void test_damaged_packets(void **state)
{
	struct net_lock *lock = new_lock("unit8");
	struct pair pair = connect_pair("127.0.0.1", "127.0.0.1");
	struct net_tuples tuples = { 0 };
	uint8_t bytes[256];

	assert_int_equal(net_tuples_add(&tuples, &pair.local.any, &pair.remote.any), 0);
	assert_int_equal(net_tuples_add_listening(&tuples, &pair.local.any, false), 0);
	engage(lock, &tuples);
	assert_int_equal(net_lock_release(lock, NULL), 0);
	srandom(1);
	for (unsigned i = 0; i < 50000; i++) {
		uint32_t length = (uint32_t)random() % 128;

		for (size_t j = 0; j < sizeof(bytes); j++)
			bytes[j] = (uint8_t)random();
		memcpy(bytes, &length, sizeof(length));
		bytes[4] = i % 2 ? 0x45 : 0x60;
		bytes[i % 2 ? 13 : 10] = IPPROTO_TCP;
		assert_int_equal(net_lock_give_held(lock, bytes, (size_t)random() % sizeof(bytes), NULL), 0);
	}
	expect_byte(pair.client, pair.server);
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
	close_pair(&pair);
}

static bool is_live(void *context, const char *session)
{
	return strcmp(session, context) == 0;
}

/* What a crash has left goes; the tables of sessions that live, of the other side and of other programs stay. */
static void test_stale(void **state)
{
	struct net_lock *lives = new_lock("lives"), *dead = new_lock("dead"), *target;

	assert_int_equal(net_lock_new(NET_LOCK_TARGET, "dead", &target, NULL), 0);
	assert_int_equal(net_lock_prepare(lives, NULL), 0);
	assert_int_equal(net_lock_prepare(dead, NULL), 0);
	assert_int_equal(net_lock_prepare(target, NULL), 0);
	assert_int_equal(system("nft add table inet other-source"), 0);
	net_lock_free(dead);
	assert_int_equal(net_lock_remove_stale(NET_LOCK_SOURCE, is_live, "lives", NULL), 1);
	assert_false(table_exists("pagestream-dead-source"));
	assert_true(table_exists("pagestream-lives-source"));
	assert_true(table_exists("pagestream-dead-target"));
	assert_true(table_exists("other-source"));
	assert_int_equal(net_lock_remove_stale(NET_LOCK_SOURCE, is_live, "lives", NULL), 0);
	assert_int_equal(net_lock_remove(NET_LOCK_TARGET, "dead", NULL), 0);
	assert_false(table_exists("pagestream-dead-target"));
	assert_int_equal(net_lock_remove(NET_LOCK_TARGET, "dead", NULL), 0);
	assert_int_equal(net_lock_release(lives, NULL), 0);
	net_lock_free(lives);
	net_lock_free(target);
}

/* Somebody has flushed the ruleset: said when the lock is needed, no error when it would have gone anyway. */
static void test_flushed(void **state)
{
	struct net_lock *lock = new_lock("unit6");
	union address local = address_of("10.0.0.1", 80), remote = address_of("10.0.0.2", 80);
	struct error error = ERROR_INIT;
	struct net_tuples tuples = { 0 };

	assert_int_equal(net_tuples_add(&tuples, &local.any, &remote.any), 0);
	assert_int_equal(net_lock_prepare(lock, NULL), 0);
	assert_int_equal(system("nft flush ruleset"), 0);
	assert_int_equal(net_lock_engage(lock, &tuples, &error), -ENOENT);
	assert_non_null(strstr(error.message, "pagestream-unit6-source"));
	assert_int_equal(net_lock_release(lock, NULL), 0);
	net_lock_free(lock);
	net_tuples_deinit(&tuples);
}

static void test_probe(void **state)
{
	struct error error = ERROR_INIT;
	int status;
	pid_t pid;

	assert_int_equal(net_lock_probe(&error), 0);
	assert_int_equal(system("nft list tables | grep -q pagestream"), 256);
	pid = fork();
	if (pid == 0) { /* without CAP_NET_ADMIN */
		if (setresuid(65534, 65534, 65534) < 0)
			_exit(2);
		_exit(net_lock_probe(&error) == -EPERM ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_nothing_to_lock(void **state)
{
	struct net_lock *lock = new_lock("unit7");
	struct net_tuples tuples = { 0 };

	assert_int_equal(net_lock_engage(lock, &tuples, NULL), 0);
	assert_false(table_exists("pagestream-unit7-source"));
	net_lock_free(lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_connection_v4),
		cmocka_unit_test(test_connection_v6),
		cmocka_unit_test(test_connection_mapped),
		cmocka_unit_test(test_no_reset),
		cmocka_unit_test(test_listening),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_given_back), cmocka_unit_test(test_damaged_packets),
		cmocka_unit_test(test_mark_passes),
		cmocka_unit_test(test_stale),
		cmocka_unit_test(test_flushed),
		cmocka_unit_test(test_nothing_to_lock),
	};

	return cmocka_run_group_tests(tests, enter_namespace, NULL);
}
