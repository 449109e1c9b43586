/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: util proto */
/* Connections put into the queue of a listening socket, as the one who accepts them sees them. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "net/lock.h"
#include "net/queue.h"

#define LONG 40000u /* bytes: some segments */
#define SENT 4000000000u
#define RECEIVED 4294967290u /* numbers go on at 0 in the midst of the data */
#define CLOCK 3000000000u

static uint8_t data[LONG];

static int enter_namespace(void **state)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	struct net_queue *queue = NULL;
	struct error error = ERROR_INIT;
	int fd;

	for (size_t i = 0; i < LONG; i++)
		data[i] = (uint8_t)(i * i >> 8);
	if (unshare(CLONE_NEWNET) < 0) {
		print_message("no network namespace: %s\n", strerror(errno));
		return -1;
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
	if (net_queue_new(&queue, &error) < 0 || net_queue_try(queue, &error) < 0) {
		print_message("this kernel cannot: %s\n", error.message);
		*state = (void *)1;
	}
	net_queue_free(queue);
	return 0;
}

static int listen_at(const char *host, struct sockaddr_in6 *ret)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
	socklen_t size = sizeof(address);

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	assert_int_equal(inet_pton(AF_INET6, host, &address.sin6_addr), 1);
	*ret = address;
	return fd;
}

static int get_int(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
	return value;
}

static uint32_t sequence(int fd, int queue)
{
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
	return (uint32_t)get_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ);
}

static struct tcp_info info_of(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
	return info;
}

/* What was negotiated, and both numbers. */
static void check_numbers(int fd, uint32_t received)
{
	struct tcp_info info = info_of(fd);
	int one = 1;

	assert_int_equal(info.tcpi_options & 7, TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
	assert_int_equal(info.tcpi_snd_wscale, 5);
	assert_int_equal(info.tcpi_rcv_wscale, 9);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)), 0);
	assert_int_equal(sequence(fd, TCP_SEND_QUEUE), SENT);
	assert_int_equal(sequence(fd, TCP_RECV_QUEUE), received);
	assert_int_equal(get_int(fd, IPPROTO_TCP, TCP_MAXSEG), 1400);
	assert_in_range((uint32_t)get_int(fd, IPPROTO_TCP, TCP_TIMESTAMP) - CLOCK, 0, 10000);
}

static void check_data(int fd)
{
	static uint8_t got[LONG + 1];

	assert_int_equal(recv(fd, got, sizeof(got), MSG_PEEK), LONG);
	assert_memory_equal(got, data, LONG);
}

static struct net_waiting from(const struct sockaddr_in6 *local, const char *peer)
{
	struct sockaddr_in6 remote = { .sin6_family = AF_INET6, .sin6_port = htons(9) };
	struct net_waiting waiting = { .sent = SENT, .received = RECEIVED, .window = 1 << 20, .clock = CLOCK, .mss = 1400,
				       .scales = true, .sacks = true, .timestamps = true, .send_scale = 5, .receive_scale = 9 };
	struct net_tuples tuples = { 0 };

	assert_int_equal(inet_pton(AF_INET6, peer, &remote.sin6_addr), 1);
	assert_int_equal(net_tuples_add(&tuples, (const struct sockaddr *)local, (struct sockaddr *)&remote), 0);
	waiting.tuple = tuples.list.items[0];
	net_tuples_deinit(&tuples);
	return waiting;
}

static void lock_out(struct net_lock *lock, const struct net_waiting *waiting)
{
	struct net_tuples tuples = { 0 };

	assert_int_equal(array_append(&tuples.list, waiting->tuple), 0);
	assert_int_equal(net_lock_engage(lock, &tuples, NULL), 0);
	net_tuples_deinit(&tuples);
}

/* One without data, one with much and its end, one that was reset; the queue has room for two. */
static void put_three(const char *host, const char *const peers[3])
{
	struct sockaddr_in6 local, name;
	struct net_waiting waiting[3];
	struct net_queue *queue;
	struct net_lock *lock;
	struct error error = ERROR_INIT;
	int listener = listen_at(host, &local), fds[3];
	socklen_t size = sizeof(name);

	assert_int_equal(net_lock_new(NET_LOCK_TARGET, "queue", &lock, NULL), 0);
	assert_int_equal(net_queue_new(&queue, &error), 0);
	for (size_t i = 0; i < 3; i++) {
		waiting[i] = from(&local, peers[i]);
		waiting[i].data = i == 1 ? data : NULL;
		waiting[i].size = i == 1 ? LONG : 0;
		waiting[i].finished = i == 1;
		waiting[i].reset = i == 2;
		lock_out(lock, &waiting[i]);
		if (net_queue_put(queue, listener, &waiting[i], &error) < 0)
			fail_msg("%s", error.message);
	}
	assert_int_equal(info_of(listener).tcpi_unacked, 3);
	assert_int_equal(info_of(listener).tcpi_sacked, 1);
	assert_int_equal(get_int(listener, SOL_SOCKET, SO_REUSEPORT), 1);
	for (size_t i = 0; i < 3; i++) {
		char text[INET6_ADDRSTRLEN];

		fds[i] = accept4(listener, (struct sockaddr *)&name, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
		assert_true(fds[i] >= 0);
		assert_string_equal(inet_ntop(AF_INET6, &name.sin6_addr, text, sizeof(text)), peers[i]);
		assert_int_equal(name.sin6_port, htons(9));
	}
	check_numbers(fds[0], RECEIVED);
	check_data(fds[1]);
	assert_int_equal(info_of(fds[1]).tcpi_state, TCP_CLOSE_WAIT);
	check_numbers(fds[1], RECEIVED + LONG + 1);
	assert_int_equal(get_int(fds[2], SOL_SOCKET, SO_ERROR), ECONNRESET);
	for (size_t i = 0; i < 3; i++)
		close(fds[i]);
	close(listener);
	net_queue_free(queue);
	assert_int_equal(net_lock_release(lock, NULL), 0);
	net_lock_free(lock);
}

static void test_ipv4(void **state)
{
	static const char *const peers[] = { "::ffff:127.0.0.3", "::ffff:127.0.0.4", "::ffff:127.0.0.5" };

	if (*state)
		skip();
	put_three("::ffff:127.0.0.2", peers);
}

static void test_ipv6(void **state)
{
	static const char *const peers[] = { "::1", "fd00::2", "fd00::3" };

	if (*state)
		skip();
	/* There is a way to them, though nobody is there. */
	assert_int_equal(system("ip -6 address add fd00::1/64 dev lo nodad"), 0);
	put_three("fd00::1", peers);
}

/* An address that is not this host's yet. */
static void test_address_that_comes_later(void **state)
{
	static const char *const peers[] = { "::ffff:127.0.0.3", "::ffff:127.0.0.4", "::ffff:127.0.0.5" };

	if (*state)
		skip();
	put_three("::ffff:192.0.2.1", peers);
}

static void test_refused(void **state)
{
	struct sockaddr_in6 local;
	struct net_waiting waiting;
	struct net_queue *queue;
	struct error error = ERROR_INIT;
	int listener = listen_at("::1", &local);

	if (*state)
		skip();
	waiting = from(&local, "fe80::1");
	assert_int_equal(net_queue_new(&queue, NULL), 0);
	assert_int_equal(net_queue_put(queue, listener, &waiting, &error), -EADDRNOTAVAIL);
	waiting = from(&local, "fd00::2");
	waiting.mss = NET_QUEUE_MSS_MIN6 - 1;
	error_clear(&error);
	assert_int_equal(net_queue_put(queue, listener, &waiting, &error), -EINVAL);
	assert_int_equal(info_of(listener).tcpi_unacked, 0);
	net_queue_free(queue);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ipv4),
		cmocka_unit_test(test_ipv6),
		cmocka_unit_test(test_address_that_comes_later),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, enter_namespace, NULL);
}
