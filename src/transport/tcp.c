/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making TCP connections. Connecting is non-blocking underneath: each address of the name gets an equal share of the
 * time that is left, so that a first address which drops packets does not use it all. Errors name every address that
 * was tried, because "connection refused" alone does not tell which of a name's addresses refused.
 */
#include "tcp.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "stream.h"
#include "util/cleanup.h"
#include "util/parse.h"
#include "util/stop-point.h"

#define LISTEN_BACKLOG 128
#define KEEPALIVE_COUNT 4
#define ADDRESSES_MAX 16

static void cleanup_addrinfo(struct addrinfo **list)
{
	if (*list)
		freeaddrinfo(*list);
}

static void address_text(const struct sockaddr *address, socklen_t length, char text[TCP_ADDRESS_MAX])
{
	char host[64], port[8];

	if (getnameinfo(address, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(text, TCP_ADDRESS_MAX, "an unknown address");
	else if (address->sa_family == AF_INET6)
		snprintf(text, TCP_ADDRESS_MAX, "[%s]:%s", host, port);
	else
		snprintf(text, TCP_ADDRESS_MAX, "%s:%s", host, port);
}

void tcp_peer_text(int fd, char text[TCP_ADDRESS_MAX])
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof(address);

	if (getpeername(fd, (struct sockaddr *)&address, &length) < 0)
		snprintf(text, TCP_ADDRESS_MAX, "a peer that is gone");
	else if (address.ss_family == AF_UNIX)
		snprintf(text, TCP_ADDRESS_MAX, "a local socket");
	else
		address_text((struct sockaddr *)&address, length, text);
}

int tcp_configure(int fd, const struct tcp_options *options, struct error *error)
{
	unsigned int dead_after = options && options->dead_after_ms ? options->dead_after_ms
								    : TCP_DEAD_AFTER_MS_DEFAULT;
	int on = 1, count = KEEPALIVE_COUNT, interval;

	dead_after = (unsigned int)stop_point_wait(dead_after);
	interval = (int)(dead_after / 1000 / (KEEPALIVE_COUNT + 1));
	if (interval < 1)
		interval = 1;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &interval, sizeof(interval)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_after, sizeof(dead_after)) < 0)
		return error_set_errno(error, -errno, "setting TCP options");
	return 0;
}

static int resolve(const char *address, bool listening, struct addrinfo **ret, struct error *error)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	struct parse_address parsed;
	int r;

	r = parse_host_port(address, listening, &parsed, error);
	if (r < 0)
		return r;
	if (listening)
		hints.ai_flags |= AI_PASSIVE;
	r = getaddrinfo(parsed.host[0] ? parsed.host : NULL, parsed.port, &hints, ret);
	if (r == EAI_SYSTEM)
		return error_set_errno(error, -errno, "looking up host '%s'", parsed.host);
	if (r == EAI_MEMORY)
		return error_set_errno(error, -ENOMEM, "looking up host '%s'", parsed.host);
	if (r != 0)
		return error_set(error, -EHOSTUNREACH, "looking up host '%s': %s", parsed.host, gai_strerror(r));
	return 0;
}

/* ---- connecting ---- */

/* 0 when the connection is made; -ECANCELED; otherwise why it was not. */
static int connect_wait(int fd, int64_t deadline, int cancel_fd)
{
	struct pollfd polls[2] = {
		{ .fd = fd, .events = POLLOUT },
		{ .fd = cancel_fd, .events = POLLIN },
	};
	socklen_t length = sizeof(int);
	int code = 0;

	for (;;) {
		int left = clock_poll_ms(deadline);
		int r = poll(polls, 2, left);

		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0 && polls[1].revents)
			return -ECANCELED;
		if (r > 0)
			break;
		if (left == 0)
			return -ETIMEDOUT;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) < 0)
		return -errno;
	return -code;
}

static int connect_one(const struct addrinfo *info, const struct tcp_options *options, int64_t deadline,
		       int cancel_fd, int *ret_fd)
{
	_cleanup_fd_ int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = tcp_configure(fd, options, NULL);
	if (r < 0)
		return r;
	if (connect(fd, info->ai_addr, info->ai_addrlen) < 0) {
		if (errno != EINPROGRESS && errno != EINTR)
			return -errno;
		r = connect_wait(fd, deadline, cancel_fd);
		if (r < 0)
			return r;
	}
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int64_t share_of(int64_t deadline, int addresses)
{
	int64_t now = clock_now_ns();

	if (deadline == CLOCK_FOREVER || deadline <= now)
		return deadline;
	return now + (deadline - now) / addresses;
}

int tcp_connect(const char *address, const struct tcp_options *options, int64_t deadline, int cancel_fd, int *ret_fd,
		struct error *error)
{
	_cleanup_(cleanup_addrinfo) struct addrinfo *list = NULL;
	char tried[ERROR_MESSAGE_MAX / 2] = "";
	int left = 0, last = -EHOSTUNREACH, r;

	r = resolve(address, false, &list, error);
	if (r < 0)
		return r;
	for (struct addrinfo *info = list; info && left < ADDRESSES_MAX; info = info->ai_next)
		left++;
	for (struct addrinfo *info = list; left > 0; info = info->ai_next, left--) {
		char text[TCP_ADDRESS_MAX];
		size_t used = strlen(tried);

		last = connect_one(info, options, share_of(deadline, left), cancel_fd, ret_fd);
		if (last == 0)
			return 0;
		if (last == -ECANCELED)
			return error_set(error, last, "canceled while connecting to %s", address);
		address_text(info->ai_addr, info->ai_addrlen, text);
		snprintf(tried + used, sizeof(tried) - used, "%s%s: %s", used ? "; " : "", text, strerror(-last));
	}
	return error_set(error, last, "cannot connect to %s (%s)", address, tried);
}

/* ---- listening ---- */

static int listen_one(const struct addrinfo *info, bool any_host, int *ret_fd)
{
	_cleanup_fd_ int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1, only_v6 = !any_host;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return -errno;
	if (info->ai_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof(only_v6)) < 0)
		return -errno;
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
		return -errno;
	*ret_fd = steal_fd(&fd);
	return 0;
}

int tcp_listen(const char *address, int *ret_fd, char ret_text[TCP_ADDRESS_MAX], struct error *error)
{
	_cleanup_(cleanup_addrinfo) struct addrinfo *list = NULL;
	struct sockaddr_storage bound = { 0 };
	socklen_t length = sizeof(bound);
	struct parse_address parsed;
	int last = -EADDRNOTAVAIL, fd = -1, r;

	r = parse_host_port(address, true, &parsed, error);
	if (r == 0)
		r = resolve(address, true, &list, error);
	if (r < 0)
		return r;
	/* Without a host, IPv6's "any" serves both families; 0.0.0.0 is for machines that have no IPv6. */
	for (int pass = 0; pass < 2 && last < 0; pass++)
		for (struct addrinfo *info = list; info && last < 0; info = info->ai_next)
			if ((info->ai_family == AF_INET6) == (pass == 0) || parsed.host[0])
				last = listen_one(info, !parsed.host[0], &fd);
	if (last < 0)
		return error_set_errno(error, last, "cannot listen on %s", address);
	if (ret_text) {
		getsockname(fd, (struct sockaddr *)&bound, &length);
		address_text((struct sockaddr *)&bound, length, ret_text);
	}
	*ret_fd = fd;
	return 0;
}

int tcp_accept(int listen_fd, const struct tcp_options *options, int *ret_fd, char ret_text[TCP_ADDRESS_MAX],
	       struct error *error)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t length = sizeof(peer);
	_cleanup_fd_ int fd = -1;
	int r;

	do
		fd = accept4(listen_fd, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
	while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (fd < 0)
		return error_set_errno(error, -errno, "accepting a connection");
	r = tcp_configure(fd, options, error);
	if (r < 0)
		return r;
	if (ret_text)
		address_text((struct sockaddr *)&peer, length, ret_text);
	*ret_fd = steal_fd(&fd);
	return 0;
}
