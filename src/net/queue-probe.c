/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether this kernel lets us put connections into queues: tried once, by a thread that has a network namespace of its own, on
 * a listening socket of ours; then the settings of the real one are read, as they are a namespace's.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/queue.h"
#include "util/cleanup.h"

struct attempt {
	const struct net_queue *queue; /* borrowed */
	int result;
	struct error error;
};

static int listen_here(int *ret_fd, struct sockaddr_in *ret_address)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t size = sizeof(address);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 ||
	    listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return -errno;
	*ret_address = address;
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int attempt_once(const struct net_queue *other, struct error *error)
{
	struct sockaddr_in local, remote = { .sin_family = AF_INET, .sin_port = htons(9),
					     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct net_waiting waiting = { .sent = 1000, .received = 2000, .window = UINT16_MAX, .mss = 1460, .scales = true,
				       .sacks = true, .timestamps = true };
	_cleanup_fd_ int listener = -1, accepted = -1;
	struct net_tuples tuples = { 0 };
	struct net_queue *queue;
	int r = unshare(CLONE_NEWNET) < 0 ? -errno : listen_here(&listener, &local);

	if (r == 0)
		r = net_tuples_add(&tuples, (struct sockaddr *)&local, (struct sockaddr *)&remote);
	if (r < 0)
		return error_set_errno(error, r, "a network namespace to try it in");
	waiting.tuple = tuples.list.items[0];
	net_tuples_deinit(&tuples);
	r = net_queue_clone(other, &queue, error);
	if (r < 0)
		return r;
	r = net_queue_put(queue, listener, &waiting, error);
	net_queue_free(queue);
	if (r < 0)
		return r;
	accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return accepted < 0 ? error_set_errno(error, -errno, "accepting a connection that was put into a queue") : 0;
}

static void *attempt_run(void *argument)
{
	struct attempt *attempt = argument;

	attempt->result = attempt_once(attempt->queue, &attempt->error);
	return NULL;
}

static int read_setting(const char *name)
{
	_cleanup_file_ FILE *file = NULL;
	char path[64];
	int value = 0;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", name);
	file = fopen(path, "re");
	return file && fscanf(file, "%d", &value) == 1 ? value : 0;
}

int net_queue_try(const struct net_queue *queue, struct error *error)
{
	struct attempt attempt = { .queue = queue, .error = ERROR_INIT };
	pthread_t thread;
	int r;

	if (read_setting("tcp_syncookies") == 0)
		return error_set(error, -EOPNOTSUPP, "net.ipv4.tcp_syncookies is 0");
	if (read_setting("tcp_fwmark_accept"))
		return error_set(error, -EOPNOTSUPP, "net.ipv4.tcp_fwmark_accept is on");
	r = -pthread_create(&thread, NULL, attempt_run, &attempt);
	if (r < 0)
		return error_set_errno(error, r, "a thread to try it in");
	pthread_join(thread, NULL);
	return attempt.result < 0 ? error_set(error, attempt.result, "%s", attempt.error.message) : 0;
}
