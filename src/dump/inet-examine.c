/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is found out of a TCP socket from its descriptor alone, by any thread: it changes nothing but the struct
 * dump_inet_socket that it is given, and leaves records as bytes, which inet-socket.c adds.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/inet.h"
#include "dump/tcp.h"
#include "image/socket-options.h"
#include "util/sockopt.h"

int dump_inet_read_names(int fd, struct dump_inet_facts *ret)
{
	socklen_t size = sizeof(ret->source);

	memset(ret, 0, sizeof(*ret));
	if (getsockname(fd, &ret->source.any, &size) < 0)
		return -errno;
	ret->domain = ret->source.any.sa_family;
	ret->type = sockopt_get_int(fd, SOL_SOCKET, SO_TYPE, -1);
	ret->protocol = sockopt_get_int(fd, SOL_SOCKET, SO_PROTOCOL, -1);
	ret->state = TCP_CLOSE;
	size = sizeof(ret->destination);
	ret->connected = getpeername(fd, &ret->destination.any, &size) == 0;
	return 0;
}

static bool is_tcp(const struct dump_inet_facts *facts)
{
	return facts->type == SOCK_STREAM && facts->protocol == IPPROTO_TCP;
}

int dump_inet_read_state(int fd, struct dump_inet_facts *facts, struct tcp_info *info)
{
	socklen_t size = sizeof(*info);

	memset(info, 0, sizeof(*info));
	if (!is_tcp(facts))
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) < 0)
		return -errno;
	facts->state = info->tcpi_state;
	facts->connected &= facts->state != TCP_CLOSE; /* it may have been ended since */
	/* getpeername(2) tells of no peer that has not answered. */
	if (facts->state == TCP_SYN_SENT) {
		size = facts->domain == AF_INET6 ? sizeof(facts->destination.v6) : sizeof(facts->destination.v4);
		facts->connected = getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &facts->destination, &size) == 0;
	}
	if (facts->state == TCP_LISTEN) {
		facts->waiting = info->tcpi_unacked;
		facts->backlog = info->tcpi_sacked;
	}
	return 0;
}

static void refuse(struct dump_inet_socket *socket, enum image_kind kind)
{
	socket->verdict = DUMP_INET_REFUSED;
	socket->kind = kind;
}

static void judge_connection(const struct dump_context *ctx, struct dump_inet_socket *socket)
{
	enum image_kind kind = dump_tcp_kind(socket->fd);

	/* A connection begins with its keys: of one that was looked at before the freeze it is known. */
	if ((!socket->frozen || !pidmap_get(&ctx->files->unsigned_tcp, socket->ino)) && dump_tcp_is_signed(socket->fd))
		kind = IMAGE_KIND_TCP_SIGNED;
	/* What is unread now need not be so at the freeze. */
	if (kind != IMAGE_KIND_TCP_CONNECTION && (kind != IMAGE_KIND_TCP_UNREAD_URGENT || socket->frozen))
		refuse(socket, kind);
}

/* Can the socket be moved? */
static void judge(const struct dump_context *ctx, struct dump_inet_socket *socket)
{
	const struct dump_inet_facts *facts = &socket->facts;

	socket->verdict = DUMP_INET_MOVES;
	if (!is_tcp(facts)) {
		refuse(socket, IMAGE_KIND_SOCKET_OTHER);
	} else if (facts->state == TCP_LISTEN && socket->frozen && !ctx->lock && !ctx->kept_lock && !ctx->lockless) {
		refuse(socket, IMAGE_KIND_TCP_NO_LOCK); /* it has come since; for a moment */
	} else if (facts->state == TCP_CLOSE || ctx->options->tcp_close) {
		return;
	} else if (facts->state == TCP_LISTEN) {
		if (socket->frozen && dump_listener_holds_back(ctx->files, socket->process->pid, socket->number))
			refuse(socket, IMAGE_KIND_TCP_DEFERRED);
	} else if (!ctx->options->tcp_established) {
		socket->verdict = DUMP_INET_NOT_ASKED;
	} else if (socket->frozen && !ctx->lock && !ctx->kept_lock) {
		/* What comes in after it was read would be acknowledged here, and be nowhere. */
		refuse(socket, IMAGE_KIND_TCP_NO_LOCK);
	} else if (socket->frozen && facts->state == TCP_SYN_RECV) {
		refuse(socket, IMAGE_KIND_TCP_HANDSHAKE);
	} else {
		judge_connection(ctx, socket);
	}
}

static void fill_words(const union dump_inet_address *address, uint32_t words[4], size_t *ret_count)
{
	if (address->any.sa_family == AF_INET6) {
		memcpy(words, &address->v6.sin6_addr, 16);
		*ret_count = 4;
	} else {
		memcpy(words, &address->v4.sin_addr, 4);
		*ret_count = 1;
	}
}

/* The program has said that it reads no more; or nothing can come any more. */
static bool is_shut_for_reading(int fd)
{
	struct pollfd look = { .fd = fd, .events = POLLRDHUP };

	return poll(&look, 1, 0) > 0 && look.revents & POLLRDHUP;
}

static int pack(const ProtobufCMessage *message, struct buffer *ret)
{
	uint8_t *place = buffer_extend(ret, protobuf_c_message_get_packed_size(message));

	if (!place)
		return -ENOMEM;
	protobuf_c_message_pack(message, place);
	return 0;
}

/* What is said of a socket, but for its options and its owner. */
static void fill_message(const struct dump_inet_socket *socket, InetSocket *message, uint32_t source[4],
			 uint32_t destination[4], char interface[IF_NAMESIZE])
{
	const struct dump_inet_facts *facts = &socket->facts;

	message->id = socket->id;
	message->ino = socket->ino;
	message->family = (uint32_t)facts->domain;
	message->type = (uint32_t)facts->type;
	message->proto = (uint32_t)facts->protocol;
	message->state = facts->state;
	message->src_port = dump_inet_port(&facts->source);
	message->flags = socket->flags;
	message->backlog = facts->backlog;
	message->src_addr = source;
	fill_words(&facts->source, source, &message->n_src_addr);
	if (facts->connected) {
		message->dst_port = dump_inet_port(&facts->destination);
		message->dst_addr = destination;
		fill_words(&facts->destination, destination, &message->n_dst_addr);
	}
	if (facts->domain == AF_INET6) {
		message->has_v6only = 1;
		message->v6only = sockopt_get_int(socket->fd, IPPROTO_IPV6, IPV6_V6ONLY, -1) > 0;
		if (facts->source.v6.sin6_scope_id && if_indextoname(facts->source.v6.sin6_scope_id, interface))
			message->ifname = interface;
	}
}

static int pack_file(struct dump_inet_socket *socket, SocketOptions *options)
{
	char interface[IF_NAMESIZE];
	uint32_t source[4], destination[4];
	InetSocket message = INET_SOCKET__INIT;
	IpOptions ip = IP_OPTIONS__INIT;
	OpenFile open = OPEN_FILE__INIT;

	fill_message(socket, &message, source, destination, interface);
	if (socket->frozen && dump_inet_is_connection(&socket->facts) && socket->stream.size > 0) {
		message.has_shutdown = is_shut_for_reading(socket->fd);
		message.shutdown = SOCKET_SHUTDOWN__SHUTDOWN_READ;
	}
	ip.has_freebind = 1;
	ip.freebind = sockopt_get_int(socket->fd, IPPROTO_IP, IP_FREEBIND, -1) > 0;
	message.ip_opts = &ip;
	message.fown = &socket->owner;
	message.opts = options;
	open.type = FILE_TYPE__FILE_INET_SOCKET;
	open.id = socket->id;
	open.isk = &message;
	return pack(&open.base, &socket->file);
}

static int read_stream(struct dump_tcp_mark *mark, struct dump_inet_socket *socket, const struct tcp_info *info,
		       const struct image_socket_options *options, struct error *error)
{
	TcpStream message = TCP_STREAM__INIT;
	int r = dump_tcp_read(mark, socket->process->pid, socket->number, socket->fd, info, options, &message, &socket->queues,
			      error);

	if (r == 0 && pack(&message.base, &socket->stream) < 0)
		r = error_set(error, -ENOMEM, "no memory for connections");
	return r;
}

/* Once judged; its options are read first, as reading the connection changes some for a moment. */
static int read_socket(const struct dump_context *ctx, unsigned worker, struct dump_inet_socket *socket,
		       const struct tcp_info *info, struct error *error)
{
	struct image_socket_options options;
	int r = image_socket_options_read(socket->fd, socket->facts.domain, socket->facts.type, socket->facts.protocol,
					  dump_socket_reference(ctx->files, socket->facts.domain, socket->facts.type,
								socket->facts.protocol), &options, error);

	if (r == -EOPNOTSUPP) {
		error_clear(error);
		socket->verdict = DUMP_INET_EBPF;
		return 0;
	}
	if (r == 0 && socket->frozen && dump_inet_is_connection(&socket->facts) && !ctx->options->tcp_close)
		r = read_stream(ctx->tcp_marks ? &ctx->tcp_marks[worker] : NULL, socket, info, &options, error);
	if (r == 0 && pack_file(socket, &options.message) < 0)
		r = error_set(error, -ENOMEM, "no memory for sockets");
	image_socket_options_deinit(&options);
	return r;
}

int dump_inet_examine(const struct dump_context *ctx, unsigned worker, struct dump_inet_socket *socket, struct error *error)
{
	struct tcp_info info;
	int r = dump_inet_read_state(socket->fd, &socket->facts, &info);

	if (r < 0)
		return error_set_errno(error, r, "looking at a socket");
	judge(ctx, socket);
	r = socket->verdict == DUMP_INET_MOVES ? read_socket(ctx, worker, socket, &info, error) : 0;
	return r < 0 ? error_wrap(error, r, "PID %d, descriptor %d", socket->process->pid, socket->number) : 0;
}
