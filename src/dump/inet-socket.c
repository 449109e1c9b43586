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
 * A connection costs some hundred system calls, so all processors share them (inet-examine.c); what they
 * have found out is added by conclude().
 *
 * Failure modes, all blockers: other protocols; connections that tcp.c, inet-loopback.c or
 * accept-queue.c refuses; packets filtered by eBPF.
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

#include "dump/accept-queue.h"
#include "dump/file-kind.h"
#include "dump/files.h"
#include "dump/inet.h"
#include "dump/tcp.h"
#include "image/socket-options.h"
#include "net/lock.h"
#include "tracee/freezer.h"
#include "util/parallel.h"
#include "util/sockopt.h"

/* Connections for one thread: a new one takes as long as some. */
#define SHARE 32

static bool match(const struct dump_file *file)
{
	return file->domain == AF_INET || file->domain == AF_INET6;
}

static void format_address(const union dump_inet_address *address, char *text, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (address->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &address->v6.sin6_addr, host, sizeof(host));
		snprintf(text, size, "[%s]:%u", host, dump_inet_port(address));
	} else {
		inet_ntop(AF_INET, &address->v4.sin_addr, host, sizeof(host));
		snprintf(text, size, "%s:%u", host, dump_inet_port(address));
	}
}

static void block_socket(struct dump_context *ctx, const struct dump_process *process, int number,
			 const struct dump_inet_facts *facts, const char *cause, const char *remedy)
{
	char source[64], destination[64];

	format_address(&facts->source, source, sizeof(source));
	format_address(&facts->destination, destination, sizeof(destination));
	dump_blocker_add(ctx, process->pid, "descriptor", cause, remedy, "fd %d -> TCP %s%s%s", number, source,
			 facts->connected ? " - " : "", facts->connected ? destination : "");
}

void dump_inet_refuse(struct dump_context *ctx, const struct dump_process *process, int number,
		      const struct dump_inet_facts *facts, enum image_kind kind)
{
	const struct image_kind_facts why = image_kind_get(kind);

	block_socket(ctx, process, number, facts, why.cause, why.remedy);
}

static void block(struct dump_context *ctx, const struct dump_inet_socket *socket)
{
	if (socket->verdict == DUMP_INET_NOT_ASKED)
		block_socket(ctx, socket->process, socket->number, &socket->facts,
			     "an established TCP connection goes along only when that is asked for",
			     "use --tcp-established, or --tcp-close: the program then sees it closed");
	else if (socket->verdict == DUMP_INET_EBPF)
		dump_refuse(ctx, socket->process->pid, "descriptor", IMAGE_KIND_SOCKET_FILTER_EXTENDED, "fd %d -> socket:[%u]",
			    socket->number, socket->ino);
	else if (socket->kind == IMAGE_KIND_SOCKET_OTHER)
		dump_refuse(ctx, socket->process->pid, "descriptor", IMAGE_KIND_SOCKET_OTHER, "fd %d -> socket:[%u]",
			    socket->number, socket->ino);
	else
		dump_inet_refuse(ctx, socket->process, socket->number, &socket->facts, socket->kind);
}

static void socket_deinit(struct dump_inet_socket *socket)
{
	buffer_deinit(&socket->file);
	buffer_deinit(&socket->stream);
	buffer_deinit(&socket->queues);
}

static struct dump_inet *get_inet(struct dump_files *files)
{
	if (!files->inet)
		files->inet = calloc(1, sizeof(*files->inet));
	return files->inet;
}

/* Its keys were looked for, and there are none. */
static bool is_known_unsigned(const struct dump_inet_socket *socket)
{
	return socket->verdict == DUMP_INET_MOVES && socket->ino && dump_inet_is_connection(&socket->facts);
}

/* What nobody has accepted. */
static int take_waiting(struct dump_context *ctx, struct dump_inet *inet, const struct dump_inet_socket *socket,
			struct error *error)
{
	int r = dump_accept_queue_take(ctx, inet, socket, error);

	if (r == 0)
		dump_inet_refuse(ctx, socket->process, socket->number, &socket->facts, IMAGE_KIND_TCP_WAITING);
	return r < 0 ? r : 0;
}

/* Blockers, or records: of a connection the message, then its queues. */
static int conclude(struct dump_context *ctx, struct dump_inet *inet, const struct dump_inet_socket *socket,
		    struct error *error)
{
	const struct dump_inet_facts *facts = &socket->facts;
	int r = 0;

	ctx->has_connections |= dump_inet_is_connection(facts);
	if (facts->state == TCP_LISTEN && dump_listener_note(ctx->files, socket->process->pid, socket->number) < 0)
		return error_set(error, -ENOMEM, "no memory for sockets");
	if (!socket->frozen && is_known_unsigned(socket) && pidmap_put(&ctx->files->unsigned_tcp, socket->ino, inet) < 0)
		return error_set(error, -ENOMEM, "no memory for sockets");
	if (dump_inet_is_connection(facts))
		r = dump_inet_note_loopback(ctx, inet, socket, error);
	if (r == 0 && socket->verdict != DUMP_INET_MOVES) {
		block(ctx, socket);
		return 0;
	}
	if (r == 0 && socket->frozen && facts->waiting > 0 && !ctx->options->tcp_close)
		r = take_waiting(ctx, inet, socket, error);
	if (r == 0 && socket->stream.size > 0)
		r = image_set_add_bytes(ctx->images, IMAGE_TCP_STREAM, socket->ino, socket->stream.data, socket->stream.size,
					error);
	if (r == 0 && socket->queues.size > 0)
		r = image_set_add_bytes(ctx->images, IMAGE_TCP_STREAM, socket->ino, socket->queues.data, socket->queues.size,
					error);
	return r < 0 ? r : image_set_add_bytes(ctx->images, IMAGE_FILES, 0, socket->file.data, socket->file.size, error);
}

static int describe(struct dump_context *ctx, struct dump_inet *inet, struct dump_inet_socket *socket, struct error *error)
{
	int r = dump_inet_read_names(socket->fd, &socket->facts);

	if (r < 0)
		return error_set_errno(error, r, "looking at a socket");
	r = dump_socket_reference_make(ctx->files, socket->facts.domain, socket->facts.type, socket->facts.protocol, error);
	if (r == 0)
		r = dump_inet_examine(ctx, 0, socket, error);
	if (r == 0)
		r = conclude(ctx, inet, socket, error);
	socket_deinit(socket);
	return r;
}

/* ---- all TCP sockets at once */

static int note(struct dump_inet *inet, const struct dump_inet_socket *socket, struct error *error)
{
	struct dump_inet_socket noted = *socket;

	noted.fd = fcntl(socket->fd, F_DUPFD_CLOEXEC, 0);
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
	array_for_each (socket, &inet->tcp) {
		close(socket->fd);
		socket_deinit(socket);
	}
	array_deinit(&inet->tcp);
	array_deinit(&inet->loopback);
	free(inet);
}

/* Who it is connected to; what has nobody yet may listen, or wait for an answer. */
static int look_one(void *context, unsigned worker, size_t index, struct error *error)
{
	const struct dump_context *ctx = context;
	struct dump_inet_socket *socket = &ctx->files->inet->tcp.items[index];
	struct tcp_info info;
	int r = dump_inet_read_names(socket->fd, &socket->facts);

	if (r == 0 && !socket->facts.connected)
		r = dump_inet_read_state(socket->fd, &socket->facts, &info);
	return r < 0 ? error_set_errno(error, r, "listing the TCP sockets") : 0;
}

static int examine_one(void *context, unsigned worker, size_t index, struct error *error)
{
	const struct dump_context *ctx = context;

	return dump_inet_examine(ctx, worker, &ctx->files->inet->tcp.items[index], error);
}

static int add_tuple(struct net_tuples *tuples, const struct dump_inet_socket *socket)
{
	const struct dump_inet_facts *facts = &socket->facts;

	if (facts->state == TCP_LISTEN)
		return net_tuples_add_listening(tuples, &facts->source.any,
						sockopt_get_int(socket->fd, IPPROTO_IPV6, IPV6_V6ONLY, -1) > 0);
	return facts->connected ? net_tuples_add(tuples, &facts->source.any, &facts->destination.any) : 0;
}

static int engage(struct dump_context *ctx, const struct dump_inet *inet, struct error *error)
{
	struct net_tuples tuples = { 0 };
	int r = 0;

	if (!ctx->lock && !ctx->kept_lock)
		return 0;
	array_for_each (socket, &inet->tcp)
		if (r == 0)
			r = add_tuple(&tuples, socket);
	if (r < 0)
		error_set_errno(error, r, "listing the TCP sockets");
	if (r == 0 && ctx->lock)
		r = net_lock_engage(ctx->lock, &tuples, error);
	if (r == 0 && ctx->kept_lock)
		r = net_lock_engage(ctx->kept_lock, &tuples, error);
	net_tuples_deinit(&tuples);
	return r;
}

static int examine_all(struct dump_context *ctx, struct dump_inet *inet, struct error *error)
{
	int r = 0, thawed;

	array_for_each (socket, &inet->tcp)
		if (r == 0)
			r = dump_socket_reference_make(ctx->files, socket->facts.domain, socket->facts.type,
						       socket->facts.protocol, error);
	if (r == 0 && ctx->freezer)
		r = freezer_freeze(ctx->freezer, true, ctx->deadline, error);
	if (r == 0)
		r = parallel_run(inet->tcp.count, SHARE, examine_one, ctx, error);
	if (!ctx->freezer)
		return r;
	thawed = freezer_thaw_nowait(ctx->freezer, r < 0 ? NULL : error);
	return r < 0 ? r : thawed;
}

static int finish(struct dump_context *ctx, struct error *error)
{
	struct dump_inet *inet = ctx->files->inet;
	int r = 0;

	if (!inet)
		return 0;
	if (inet->tcp.count > 0) {
		r = parallel_run(inet->tcp.count, SHARE, look_one, ctx, error);
		if (r == 0)
			r = engage(ctx, inet, error);
		if (r == 0)
			r = examine_all(ctx, inet, error);
	}
	array_for_each (socket, &inet->tcp)
		if (r == 0)
			r = conclude(ctx, inet, socket, error);
	if (r == 0)
		dump_inet_check_loopback(ctx, inet);
	return r;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct dump_inet *inet = get_inet(ctx->files);
	struct dump_inet_socket socket = {
		.process = file->process, .number = file->number, .fd = file->fd, .id = file->id,
		.ino = (uint32_t)file->st.st_ino, .flags = file->flags, .owner = file->owner, .frozen = file->frozen,
	};

	if (!inet)
		return error_set(error, -ENOMEM, "no memory for sockets");
	if (sockopt_get_int(file->fd, SOL_SOCKET, SO_PROTOCOL, -1) != IPPROTO_TCP)
		return describe(ctx, inet, &socket, error);
	ctx->has_tcp = true;
	return file->frozen ? note(inet, &socket, error) : describe(ctx, inet, &socket, error);
}

const struct dump_file_kind dump_kind_inet = {
	.name = "socket",
	.type = FILE_TYPE__FILE_INET_SOCKET,
	.match = match,
	.dump = dump,
	.finish = finish,
};
