/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP sockets; datagram.c has the others of IP.
 *
 * Listening sockets are made as they were: options, bind, listen.
 * IP_FREEBIND is on while binding, so that an address that is moved to this host only later (by a
 * hook) does not stand in the way; SO_REUSEADDR is on as well, because connections of an earlier
 * life of the program may linger.
 *
 * TCP connections are tcp.c's. With --tcp-close, one becomes one to ourselves on the loopback interface, whose other
 * end is closed at once: reading gives what the end of a connection gives, writing fails, and epoll
 * sees it. getpeername(2) tells 127.0.0.1.
 *
 * Failure modes: address in use; loopback interface down.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "image/socket-options.h"
#include "restore/accept-queue.h"
#include "restore/datagram.h"
#include "restore/file-kind.h"
#include "restore/tcp.h"
#include "util/cleanup.h"
#include "util/sockopt.h"

socklen_t restore_inet_address(const InetSocket *message, bool peer, union restore_address *ret)
{
	const uint32_t *words = peer ? message->dst_addr : message->src_addr;
	size_t count = peer ? message->n_dst_addr : message->n_src_addr;
	uint32_t port = peer ? message->dst_port : message->src_port;

	memset(ret, 0, sizeof(*ret));
	if (message->family == AF_INET && count == 1) {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_port = htons((uint16_t)port);
		memcpy(&ret->v4.sin_addr, words, 4);
		return sizeof(ret->v4);
	}
	if (message->family == AF_INET6 && count == 4) {
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_port = htons((uint16_t)port);
		memcpy(&ret->v6.sin6_addr, words, 16);
		if (message->ifname)
			ret->v6.sin6_scope_id = if_nametoindex(message->ifname);
		return sizeof(ret->v6);
	}
	return 0;
}

static void format_socket(const InetSocket *message, const union restore_address *address, char *text,
			  size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";
	bool v6 = message->family == AF_INET6;

	inet_ntop((int)message->family,
		  v6 ? (const void *)&address->v6.sin6_addr : &address->v4.sin_addr, host,
		  sizeof(host));
	snprintf(text, size, "%s address %s%s%s:%u", message->type == SOCK_STREAM ? "TCP" : "UDP",
		 v6 ? "[" : "", host, v6 ? "]" : "", message->src_port);
}

static int new_socket(const InetSocket *message, struct error *error)
{
	int fd;

	if ((message->family != AF_INET && message->family != AF_INET6) ||
	    message->proto != IPPROTO_TCP)
		return error_set(error, -EPROTO, "socket of family %u and protocol %u",
				 message->family, message->proto);
	fd = socket((int)message->family, (int)message->type | SOCK_CLOEXEC, (int)message->proto);
	return fd < 0 ? error_set_errno(error, -errno, "making a socket") : fd;
}

int restore_inet_bind(int fd, const InetSocket *message, struct error *error)
{
	bool freebind = message->ip_opts && message->ip_opts->freebind;
	union restore_address address;
	socklen_t size = restore_inet_address(message, false, &address);
	char text[128];
	int r;

	if (size == 0)
		return error_set(error, -EPROTO, "a socket's address is damaged");
	format_socket(message, &address, text, sizeof(text));
	if (message->family == AF_INET6 && message->has_v6only)
		(void)sockopt_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, message->v6only);
	(void)sockopt_set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	(void)sockopt_set_int(fd, IPPROTO_IP, IP_FREEBIND, 1);
	r = bind(fd, &address.any, size) < 0 ? -errno : 0;
	(void)sockopt_set_int(fd, IPPROTO_IP, IP_FREEBIND, freebind);
	if (r == -EADDRINUSE)
		return error_set(error, r, "%s is in use", text);
	return r < 0 ? error_set_errno(error, r, "binding the %s", text) : 0;
}

static int make_socket(const InetSocket *message, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int fd = new_socket(message, error);
	int r;

	if (fd < 0)
		return fd;
	r = image_socket_options_write(fd, message->opts, error);
	if (r == 0 && message->src_port != 0)
		r = restore_inet_bind(fd, message, error);
	if (r == 0 && message->state == TCP_LISTEN && listen(fd, (int)message->backlog) < 0)
		r = error_set_errno(error, -errno, "listening on port %u", message->src_port);
	if (r == 0)
		r = image_socket_options_finish(fd, message->opts, error);
	if (r == 0)
		*ret_fd = steal_fd(&fd);
	return r;
}

/* ---- closed connections */

static int open_loopback(struct restore_files *files, struct error *error)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(address);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 16) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return error_set_errno(error, -errno, "listening on 127.0.0.1 (for --tcp-close)");
	files->loopback_port = ntohs(address.sin_port);
	files->loopback = steal_fd(&fd);
	return 0;
}

static int make_closed(struct restore_files *files, const InetSocket *message, int *ret_fd,
		       struct error *error)
{
	union restore_address address = { 0 };
	_cleanup_fd_ int fd = new_socket(message, error), accepted = -1;
	socklen_t size;
	int r = 0;

	if (fd < 0)
		return fd;
	if (files->loopback < 0)
		r = open_loopback(files, error);
	if (r < 0)
		return r;
	if (message->family == AF_INET6) {
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = htons(files->loopback_port);
		inet_pton(AF_INET6, "::ffff:127.0.0.1", &address.v6.sin6_addr);
		size = sizeof(address.v6);
		(void)sockopt_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	} else {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons(files->loopback_port);
		address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		size = sizeof(address.v4);
	}
	if (connect(fd, &address.any, size) < 0)
		return error_set_errno(error, -errno,
				       "connecting to 127.0.0.1 (for --tcp-close; is lo up?)");
	accepted = accept4(files->loopback, NULL, NULL, SOCK_CLOEXEC);
	if (accepted < 0)
		return error_set_errno(error, -errno, "accepting on 127.0.0.1 (for --tcp-close)");
	/* What cannot be set on a connection that is over does not matter to it. */
	(void)image_socket_options_write(fd, message->opts, NULL);
	(void)image_socket_options_finish(fd, message->opts, NULL);
	*ret_fd = steal_fd(&fd);
	return 0;
}

bool restore_inet_is_connection(const InetSocket *message)
{
	return message->type == SOCK_STREAM && message->state != TCP_LISTEN && message->state != TCP_CLOSE;
}

/* Not connected; if it listens, with those that wait. */
static int make_plain(struct restore_tree *tree, const InetSocket *message, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	int r = make_socket(message, &fd, error);

	if (r == 0 && message->state == TCP_LISTEN)
		r = restore_accept_queue_fill(tree, message, fd, error);
	if (r == 0)
		*ret_fd = steal_fd(&fd);
	return r;
}

/* Connections that go on are open by now: restore_tcp_open(). */
static int open_inet(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const InetSocket *message = file->message->isk;
	int r;

	if (message->type != SOCK_STREAM)
		r = restore_datagram_make(message, tree->images, file->id, &file->fd, error);
	else if (!restore_inet_is_connection(message))
		r = make_plain(tree, message, &file->fd, error);
	else if (tree->options->tcp_close)
		r = make_closed(tree->files, message, &file->fd, error);
	else
		r = error_set(error, -EPERM, "a TCP connection came along: use --tcp-established, or --tcp-close");
	return r < 0 ? r : restore_file_set(file->fd, message->flags, message->fown, error);
}

int restore_inet_try(const InetSocket *message, char *cause, size_t size)
{
	struct error error = ERROR_INIT;
	int fd = -1, r;

	if (message->type == SOCK_STREAM && message->state != TCP_LISTEN)
		return 1;
	if (message->type == SOCK_STREAM)
		r = make_socket(message, &fd, &error);
	else
		r = restore_datagram_make(message, NULL, 0, &fd, &error);
	if (r < 0) {
		snprintf(cause, size, "%s", error_text(&error, r));
		return 0;
	}
	close(fd);
	return 1;
}

const struct restore_file_kind restore_kind_inet = {
	.name = "socket",
	.type = FILE_TYPE__FILE_INET_SOCKET,
	.open = open_inet,
};
