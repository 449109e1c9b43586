/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP sockets; datagram.c has the others of IP.
 *
 * Model. All facts come from the socket itself: getsockname(2), getpeername(2), TCP_INFO (for a
 * listening socket its "unacked" and "sacked" are the connections that wait and the backlog).
 *
 * TCP at the freeze. What comes in after a connection was read would be acknowledged here and lost
 * there. So TCP sockets are only noted while descriptors are collected; then dump_context.lock
 * stops all of them at once; then each is read (tcp.c) and described. A program that met a socket
 * which is being read would see errors: so that it does not run on when we are killed, its tree is
 * held by the freezer meanwhile. With dump_options.tcp_close
 * the target makes a socket of a connection whose peer has closed, and nothing is read.
 *
 * A connection over the loopback device reaches nobody from another host, unless both of its ends
 * are in the tree.
 *
 * Failure modes, all blockers: other protocols; connections that wait to be accepted; those that
 * tcp.c refuses; packets filtered by eBPF.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "dump/tcp.h"
#include "image/socket-options.h"
#include "net/lock.h"
#include "tracee/freezer.h"
#include "util/cleanup.h"

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

/* What remains of a struct dump_file when its descriptor is closed. */
struct inet_socket {
	struct dump_process *process; /* borrowed */
	int number;
	int fd; /* ours; owned once it is noted */
	uint32_t id, ino, flags;
	FileOwner owner;
	bool frozen;
};

/* A connection over the loopback device. */
struct inet_loopback {
	struct net_tuple tuple;
	struct inet_socket file; /* without a descriptor */
	struct inet_facts facts;
};

struct dump_inet {
	ARRAY(struct inet_socket) tcp;	      /* at the freeze: noted, not described yet */
	ARRAY(struct inet_loopback) loopback; /* all of them */
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
	size = sizeof(info);
	if (ret->type == SOCK_STREAM && ret->protocol == IPPROTO_TCP) {
		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
			return -errno;
		ret->state = info.tcpi_state;
	}
	/* getpeername(2) tells of no peer that has not answered. */
	if (ret->state == TCP_SYN_SENT) {
		size = ret->domain == AF_INET6 ? sizeof(ret->destination.v6) : sizeof(ret->destination.v4);
		ret->connected = getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &ret->destination, &size) == 0;
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

static void block(struct dump_context *ctx, const struct inet_socket *file,
		  const struct inet_facts *facts, const char *cause, const char *remedy)
{
	char source[64], destination[64];

	format_address(&facts->source, source, sizeof(source));
	format_address(&facts->destination, destination, sizeof(destination));
	dump_blocker_add(ctx, file->process->pid, "descriptor", cause, remedy, "fd %d -> TCP %s%s%s",
			 file->number, source, facts->connected ? " - " : "",
			 facts->connected ? destination : "");
}

static void refuse(struct dump_context *ctx, const struct inet_socket *file, const struct inet_facts *facts,
		   enum image_kind kind)
{
	const struct image_kind_facts why = image_kind_get(kind);

	block(ctx, file, facts, why.cause, why.remedy);
}

static bool is_connection(const struct inet_facts *facts)
{
	return facts->protocol == IPPROTO_TCP && facts->state != TCP_CLOSE && facts->state != TCP_LISTEN;
}

/* True when the socket cannot be moved. */
static bool blocked(struct dump_context *ctx, const struct inet_socket *file,
		    const struct inet_facts *facts)
{
	enum image_kind kind;
	bool tcp = facts->type == SOCK_STREAM && facts->protocol == IPPROTO_TCP;

	if (!tcp) {
		dump_refuse(ctx, file->process->pid, "descriptor", IMAGE_KIND_SOCKET_OTHER, "fd %d -> socket:[%u]",
			    file->number, file->ino);
		return true;
	}
	if (facts->state == TCP_CLOSE || ctx->options->tcp_close)
		return false;
	if (facts->state == TCP_LISTEN) {
		if (!file->frozen || (facts->waiting == 0 &&
				      !dump_listener_holds_back(ctx->files, file->process->pid, file->number)))
			return false;
		refuse(ctx, file, facts, IMAGE_KIND_TCP_WAITING);
		return true;
	}
	if (!ctx->options->tcp_established) {
		block(ctx, file, facts, "an established TCP connection goes along only when that is asked for",
		      "use --tcp-established, or --tcp-close: the program then sees it closed");
		return true;
	}
	/* What comes in after it was read would be acknowledged here, and be nowhere. */
	if (file->frozen && !ctx->lock && !ctx->kept_lock) {
		refuse(ctx, file, facts, IMAGE_KIND_TCP_NO_LOCK);
		return true;
	}
	kind = dump_tcp_kind(file->fd);
	/* A connection begins with its keys. */
	if (!file->frozen && dump_tcp_is_signed(file->fd))
		kind = IMAGE_KIND_TCP_SIGNED;
	/* What is unread now need not be so at the freeze. */
	if (kind == IMAGE_KIND_TCP_CONNECTION || (kind == IMAGE_KIND_TCP_UNREAD_URGENT && !file->frozen))
		return false;
	refuse(ctx, file, facts, kind);
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

static int add_record(struct dump_context *ctx, const struct inet_socket *file, InetSocket *message,
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
		dump_blocker_add(ctx, file->process->pid, "descriptor", filter.message,
				 "let the program detach it first", "fd %d -> socket:[%u]", file->number, file->ino);
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

/* The record of a connection: the message, then its queues. */
static int add_stream(struct dump_context *ctx, const struct inet_socket *file, uint32_t *ret_state, struct error *error)
{
	_cleanup_buffer_ struct buffer data = BUFFER_INIT;
	TcpStream message = TCP_STREAM__INIT;
	int r = dump_tcp_read(ctx, file->process->pid, file->number, file->fd, &message, &data, ret_state, error);

	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_TCP_STREAM, file->ino, &message.base, error);
	if (r == 0 && data.size > 0)
		r = image_set_add_bytes(ctx->images, IMAGE_TCP_STREAM, file->ino, data.data, data.size, error);
	return r;
}

/* The program has said that it reads no more; or nothing can come any more. */
static bool is_shut_for_reading(int fd)
{
	struct pollfd look = { .fd = fd, .events = POLLRDHUP };

	return poll(&look, 1, 0) > 0 && look.revents & POLLRDHUP;
}

static struct dump_inet *get_inet(struct dump_files *files)
{
	if (!files->inet)
		files->inet = calloc(1, sizeof(*files->inet));
	return files->inet;
}

static bool is_loopback(const union address *address)
{
	if (address->any.sa_family == AF_INET)
		return ntohl(address->v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr) ||
	       (IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr) && address->v6.sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

static int note_loopback(struct dump_context *ctx, const struct inet_socket *file, const struct inet_facts *facts,
			 struct error *error)
{
	struct inet_loopback loopback = { .file = *file, .facts = *facts };
	struct dump_inet *inet = get_inet(ctx->files);
	struct net_tuples tuples = { 0 };
	int r;

	if (!facts->connected || !is_loopback(&facts->destination))
		return 0;
	r = inet ? net_tuples_add(&tuples, &facts->source.any, &facts->destination.any) : -ENOMEM;
	if (r == 0) {
		loopback.tuple = tuples.list.items[0];
		r = array_append(&inet->loopback, loopback);
	}
	net_tuples_deinit(&tuples);
	return r < 0 ? error_set_errno(error, r, "noting a connection") : 0;
}

static int compare_ends(const struct net_end *a, const struct net_end *b)
{
	int order = memcmp(a->ip, b->ip, sizeof(a->ip));

	return order ? order : (a->port > b->port) - (a->port < b->port);
}

static int compare_loopback(const void *left, const void *right)
{
	const struct net_tuple *a = &((const struct inet_loopback *)left)->tuple;
	const struct net_tuple *b = &((const struct inet_loopback *)right)->tuple;
	int order = (a->family > b->family) - (a->family < b->family);

	if (order == 0)
		order = compare_ends(&a->local, &b->local);
	return order ? order : compare_ends(&a->remote, &b->remote);
}

static void check_loopback(struct dump_context *ctx, struct dump_inet *inet)
{
	if (ctx->options->tcp_loopback || ctx->options->tcp_close || inet->loopback.count == 0)
		return;
	qsort(inet->loopback.items, inet->loopback.count, sizeof(inet->loopback.items[0]), compare_loopback);
	array_for_each (end, &inet->loopback) {
		struct inet_loopback other = { .tuple = end->tuple };

		other.tuple.local = end->tuple.remote;
		other.tuple.remote = end->tuple.local;
		if (!bsearch(&other, inet->loopback.items, inet->loopback.count, sizeof(other), compare_loopback))
			refuse(ctx, &end->file, &end->facts, IMAGE_KIND_TCP_LOOPBACK);
	}
}

static int describe(struct dump_context *ctx, const struct inet_socket *file, struct error *error)
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
	ctx->has_connections |= is_connection(&facts);
	if (!file->frozen && facts.state == TCP_LISTEN && dump_listener_note(ctx->files, file->process->pid, file->number) < 0)
		return error_set(error, -ENOMEM, "no memory for sockets");
	r = is_connection(&facts) ? note_loopback(ctx, file, &facts, error) : 0;
	if (r < 0 || blocked(ctx, file, &facts))
		return r;
	if (file->frozen && is_connection(&facts) && !ctx->options->tcp_close) {
		r = add_stream(ctx, file, &facts.state, error);
		if (r < 0)
			return error_wrap(error, r, "PID %d, descriptor %d", file->process->pid, file->number);
		message.has_shutdown = is_shut_for_reading(file->fd);
		message.shutdown = SOCKET_SHUTDOWN__SHUTDOWN_READ;
	}
	message.id = file->id;
	message.ino = file->ino;
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

/* ---- all TCP sockets at once */

static int note(struct dump_context *ctx, const struct inet_socket *file, struct error *error)
{
	struct dump_inet *inet = get_inet(ctx->files);
	struct inet_socket noted = *file;

	if (!inet)
		return error_set(error, -ENOMEM, "no memory for sockets");
	noted.fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	if (noted.fd < 0)
		return error_set_errno(error, -errno, "keeping a socket");
	if (array_append(&inet->tcp, noted) < 0) {
		close(noted.fd);
		return error_set(error, -ENOMEM, "no memory for sockets");
	}
	return 0;
}

void dump_inet_free(struct dump_inet *inet)
{
	if (!inet)
		return;
	array_for_each (file, &inet->tcp)
		close(file->fd);
	array_deinit(&inet->tcp);
	array_deinit(&inet->loopback);
	free(inet);
}

static int add_tuple(struct net_tuples *tuples, int fd)
{
	struct inet_facts facts;
	int r = read_inet_facts(fd, &facts);

	if (r == 0 && facts.state == TCP_LISTEN)
		r = net_tuples_add_listening(tuples, &facts.source.any, get_int(fd, IPPROTO_IPV6, IPV6_V6ONLY) > 0);
	else if (r == 0 && facts.connected)
		r = net_tuples_add(tuples, &facts.source.any, &facts.destination.any);
	return r;
}

static int engage(struct dump_context *ctx, const struct dump_inet *inet, struct error *error)
{
	struct net_tuples tuples = { 0 };
	int r = 0;

	if (!ctx->lock && !ctx->kept_lock)
		return 0;
	array_for_each (file, &inet->tcp)
		if (r == 0)
			r = add_tuple(&tuples, file->fd);
	if (r < 0)
		error_set_errno(error, r, "listing the TCP sockets");
	if (r == 0 && ctx->lock)
		r = net_lock_engage(ctx->lock, &tuples, error);
	if (r == 0 && ctx->kept_lock)
		r = net_lock_engage(ctx->kept_lock, &tuples, error);
	net_tuples_deinit(&tuples);
	return r;
}

static int finish(struct dump_context *ctx, struct error *error)
{
	struct dump_inet *inet = ctx->files->inet;
	bool held = inet && inet->tcp.count > 0 && ctx->freezer;
	int r = inet ? engage(ctx, inet, error) : 0;

	if (r == 0 && held)
		r = freezer_freeze(ctx->freezer, true, ctx->deadline, error);
	for (size_t i = 0; inet && r == 0 && i < inet->tcp.count; i++)
		r = describe(ctx, &inet->tcp.items[i], error);
	if (held) {
		int thawed = freezer_thaw_nowait(ctx->freezer, r < 0 ? NULL : error);

		r = r < 0 ? r : thawed;
	}
	if (inet && r == 0)
		check_loopback(ctx, inet);
	return r;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct inet_socket noted = {
		.process = file->process, .number = file->number, .fd = file->fd, .id = file->id,
		.ino = (uint32_t)file->st.st_ino, .flags = file->flags, .owner = file->owner, .frozen = file->frozen,
	};

	if (get_int(file->fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
		return describe(ctx, &noted, error);
	ctx->has_tcp = true;
	return file->frozen ? note(ctx, &noted, error) : describe(ctx, &noted, error);
}

const struct dump_file_kind dump_kind_inet = {
	.name = "socket",
	.type = FILE_TYPE__FILE_INET_SOCKET,
	.match = match,
	.dump = dump,
	.finish = finish,
};
