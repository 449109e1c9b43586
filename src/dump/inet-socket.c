/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP and UDP sockets.
 *
 * Model. All facts come from the socket itself: getsockname(2), getpeername(2), TCP_INFO (for a
 * listening socket its "unacked" and "sacked" are the connections that wait and the backlog). TCP
 * sockets that listen or were never connected, and UDP sockets, are moved. A TCP connection is a
 * blocker, unless dump_options.tcp_close says that the target may make a socket of it whose peer
 * has closed.
 *
 * Datagrams that wait in a UDP socket are lost in a move, as the network may lose them.
 *
 * Failure modes, all blockers: other protocols; connections that wait to be accepted; packets
 * filtered by eBPF.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "image/socket-options.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* What a socket is. */
struct inet_facts {
	int domain, type, protocol;
	uint32_t state; /* TCP_* */
	uint32_t backlog;
	uint32_t waiting;     /* connections not accepted */
	union address source; /* port 0: not bound */
	union address destination;
	bool connected; /* `destination` is right */
};

static int get_int(int fd, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? -1 : value;
}

static bool match(const struct dump_file *file)
{
	int domain;

	if (!S_ISSOCK(file->st.st_mode) || (file->flags & O_PATH))
		return false;
	domain = get_int(file->fd, SOL_SOCKET, SO_DOMAIN);
	return domain == AF_INET || domain == AF_INET6;
}

static int read_inet_facts(int fd, struct inet_facts *ret)
{
	socklen_t size = sizeof(ret->source);
	struct tcp_info info = { 0 };

	memset(ret, 0, sizeof(*ret));
	ret->domain = get_int(fd, SOL_SOCKET, SO_DOMAIN);
	ret->type = get_int(fd, SOL_SOCKET, SO_TYPE);
	ret->protocol = get_int(fd, SOL_SOCKET, SO_PROTOCOL);
	ret->state = TCP_CLOSE;
	if (getsockname(fd, &ret->source.any, &size) < 0)
		return -errno;
	size = sizeof(ret->destination);
	ret->connected = getpeername(fd, &ret->destination.any, &size) == 0;
	if (ret->type == SOCK_DGRAM && ret->connected)
		ret->state = TCP_ESTABLISHED;
	size = sizeof(info);
	if (ret->type == SOCK_STREAM && ret->protocol == IPPROTO_TCP) {
		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
			return -errno;
		ret->state = info.tcpi_state;
	}
	if (ret->state == TCP_LISTEN) {
		ret->waiting = info.tcpi_unacked;
		ret->backlog = info.tcpi_sacked;
	}
	return 0;
}

static uint16_t address_port(const union address *address)
{
	return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port
							: address->v4.sin_port);
}

static void format_address(const union address *address, char *text, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (address->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &address->v6.sin6_addr, host, sizeof(host));
		snprintf(text, size, "[%s]:%u", host, address_port(address));
	} else {
		inet_ntop(AF_INET, &address->v4.sin_addr, host, sizeof(host));
		snprintf(text, size, "%s:%u", host, address_port(address));
	}
}

static void block(struct dump_context *ctx, const struct dump_file *file,
		  const struct inet_facts *facts, const char *cause, const char *remedy)
{
	char source[64], destination[64];

	format_address(&facts->source, source, sizeof(source));
	format_address(&facts->destination, destination, sizeof(destination));
	dump_blocker_add(ctx, file->process->pid, "descriptor", cause, remedy, "fd %d -> %s %s%s%s",
			 file->number,
			 facts->type == SOCK_STREAM  ? "TCP"
			 : facts->type == SOCK_DGRAM ? "UDP"
						     : "raw",
			 source, facts->connected ? " - " : "",
			 facts->connected ? destination : "");
}

/* True when the socket cannot be moved. */
static bool blocked(struct dump_context *ctx, const struct dump_file *file,
		    const struct inet_facts *facts)
{
	bool tcp = facts->type == SOCK_STREAM && facts->protocol == IPPROTO_TCP;
	bool udp = facts->type == SOCK_DGRAM && facts->protocol == IPPROTO_UDP;

	if (!tcp && !udp) {
		block(ctx, file, facts, "only TCP and UDP sockets can be moved",
		      "let the program close it first");
		return true;
	}
	if (udp || facts->state == TCP_CLOSE || ctx->options->tcp_close)
		return false;
	if (facts->state == TCP_LISTEN) {
		if (facts->waiting == 0 || !file->frozen)
			return false;
		block(ctx, file, facts, "connections wait to be accepted",
		      "try again when they have been accepted, or use --tcp-close");
		return true;
	}
	block(ctx, file, facts, "established TCP connections cannot be moved",
	      "use --tcp-close: the moved program then sees them closed");
	return true;
}

static void fill_words(const union address *address, uint32_t words[4], size_t *ret_count)
{
	if (address->any.sa_family == AF_INET6) {
		memcpy(words, &address->v6.sin6_addr, 16);
		*ret_count = 4;
	} else {
		memcpy(words, &address->v4.sin_addr, 4);
		*ret_count = 1;
	}
}

static int add_record(struct dump_context *ctx, const struct dump_file *file, InetSocket *message,
		      struct error *error)
{
	struct image_socket_options *options = NULL;
	OpenFile open = OPEN_FILE__INIT;
	struct error filter = ERROR_INIT;
	FileOwner owner = file->owner;
	int r;

	r = dump_socket_options(ctx, file->fd, (int)message->family, (int)message->type,
				(int)message->proto, &options, &filter);
	if (r == -EOPNOTSUPP) {
		dump_file_block(ctx, file, filter.message, "let the program detach it first");
		return 0;
	}
	if (r < 0)
		return error_set(error, r, "%s", filter.message);
	message->fown = &owner;
	message->opts = &options->message;
	open.type = FILE_TYPE__FILE_INET_SOCKET;
	open.id = file->id;
	open.isk = message;
	return dump_file_add(ctx, &open, error);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	IpOptions ip = IP_OPTIONS__INIT;
	InetSocket message = INET_SOCKET__INIT;
	uint32_t source[4], destination[4];
	struct inet_facts facts;
	char interface[IF_NAMESIZE];
	int r;

	r = read_inet_facts(file->fd, &facts);
	if (r < 0)
		return error_set_errno(error, r, "looking at a socket");
	if (blocked(ctx, file, &facts))
		return 0;
	message.id = file->id;
	message.ino = (uint32_t)file->st.st_ino;
	message.family = (uint32_t)facts.domain;
	message.type = (uint32_t)facts.type;
	message.proto = (uint32_t)facts.protocol;
	message.state = facts.state;
	message.src_port = address_port(&facts.source);
	message.flags = file->flags;
	message.backlog = facts.backlog;
	message.src_addr = source;
	fill_words(&facts.source, source, &message.n_src_addr);
	if (facts.connected) {
		message.dst_port = address_port(&facts.destination);
		message.dst_addr = destination;
		fill_words(&facts.destination, destination, &message.n_dst_addr);
	}
	if (facts.domain == AF_INET6) {
		message.has_v6only = 1;
		message.v6only = get_int(file->fd, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
		if (facts.source.v6.sin6_scope_id &&
		    if_indextoname(facts.source.v6.sin6_scope_id, interface))
			message.ifname = interface;
	}
	ip.has_freebind = 1;
	ip.freebind = get_int(file->fd, IPPROTO_IP, IP_FREEBIND) > 0;
	message.ip_opts = &ip;
	return add_record(ctx, file, &message, error);
}

const struct dump_file_kind dump_kind_inet = {
	.name = "socket",
	.type = FILE_TYPE__FILE_INET_SOCKET,
	.match = match,
	.dump = dump,
};
