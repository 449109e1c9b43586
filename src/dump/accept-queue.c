/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections that nobody has accepted: IMAGE_ACCEPT_QUEUE records of the listening socket's inode, in the order of the queue:
 * a message, then what was received, if anything was.
 *
 * Model. A connection in a queue can be asked for nothing: it has no descriptor. So it is taken out, by a process that puts it
 * back (accept-holder.c), and then is read as any other (tcp.c). Before the freeze, what the program would accept by itself has
 * been waited for (listeners.c); if something is left, the process is started while the tree still runs.
 *
 * Happy path, at the freeze, with the lock on all sockets: take one; its addresses are stopped by the lock, too; read it.
 * At the end the process forgets them, or puts them back: before the lock goes, in either case.
 *
 * Failure modes. One of the kernels cannot put connections into queues; what came meanwhile although nobody was let in; a
 * connection that could not be moved if it were accepted: blockers.
 */
#include "dump/accept-queue.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/file-kind.h"
#include "dump/tcp.h"
#include "net/lock.h"
#include "net/queue.h"
#include "net/waiting.h"
#include "pagestream-accept-queue.pb-c.h"
#include "util/cleanup.h"
#include "util/stop-point.h"

struct dump_accept_queue {
	struct dump_holder holder;
};

/* A listening socket whose queue is being taken. */
struct taking {
	struct dump_context *ctx;
	struct dump_inet *inet;
	const struct dump_inet_socket *listener;
};

void dump_accept_queue_prepare(struct dump_context *ctx)
{
	struct dump_accept_queue *queue;
	struct net_queue *tried = NULL;
	struct error why = ERROR_INIT;
	int r;

	if (ctx->accept_queue || !ctx->target_queues || !ctx->lock || !ctx->options->tcp_established)
		return;
	queue = calloc(1, sizeof(*queue));
	if (!queue)
		return;
	r = net_queue_new(&tried, &why);
	if (r == 0)
		r = net_queue_try(tried, &why);
	net_queue_free(tried);
	if (r == 0)
		r = dump_holder_start(&queue->holder, &why);
	if (r == 0) {
		if (ctx->queue_holder)
			atomic_store(ctx->queue_holder, queue->holder.pid);
		ctx->accept_queue = queue;
		return;
	}
	log_warning(ctx->log, "connections that nobody has accepted cannot be moved: %s", why.message);
	free(queue);
}

static void end(struct dump_context *ctx, bool forget)
{
	struct error error = ERROR_INIT;

	if (!ctx->accept_queue)
		return;
	if (dump_holder_end(&ctx->accept_queue->holder, forget, &error) < 0)
		log_error(ctx->log, "connections that nobody has accepted: %s", error.message);
	if (ctx->queue_holder)
		atomic_store(ctx->queue_holder, 0);
	free(steal_ptr(&ctx->accept_queue));
}

void dump_accept_queue_put_back(struct dump_context *ctx)
{
	end(ctx, false);
}

void dump_accept_queue_forget(struct dump_context *ctx)
{
	end(ctx, true);
}

static int add_record(const struct taking *taking, const struct net_tuple *tuple, uint32_t state, TcpStream *stream,
		      const struct buffer *data, struct error *error)
{
	WaitingConnection message = WAITING_CONNECTION__INIT;
	size_t size = tuple->family == AF_INET ? 4 : 16;
	uint32_t ino = taking->listener->ino;
	int r;

	message.local_ip = (ProtobufCBinaryData){ size, (uint8_t *)tuple->local.ip };
	message.remote_ip = (ProtobufCBinaryData){ size, (uint8_t *)tuple->remote.ip };
	message.local_port = ntohs(tuple->local.port);
	message.remote_port = ntohs(tuple->remote.port);
	message.state = state;
	message.stream = stream;
	r = image_set_add(taking->ctx->images, IMAGE_ACCEPT_QUEUE, ino, &message.base, error);
	if (r == 0 && stream->inq_len > 0)
		r = image_set_add_bytes(taking->ctx->images, IMAGE_ACCEPT_QUEUE, ino, data->data, stream->inq_len, error);
	return r;
}

static int refuse(const struct taking *taking, const char *cause)
{
	dump_blocker_add(taking->ctx, taking->listener->process->pid, "descriptor", cause,
			 image_kind_get(IMAGE_KIND_TCP_WAITING).remedy, "fd %d -> a connection that waits there",
			 taking->listener->number);
	return 0;
}

static int describe(const struct taking *taking, int fd, const struct net_tuple *tuple, struct error *error)
{
	_cleanup_buffer_ struct buffer data = BUFFER_INIT;
	enum image_kind kind = dump_tcp_kind(fd);
	TcpStream stream = TCP_STREAM__INIT;
	struct net_waiting waiting;
	struct error why = ERROR_INIT;
	uint32_t state;
	int r;

	if (kind != IMAGE_KIND_TCP_CONNECTION)
		return refuse(taking, image_kind_get(kind).cause);
	r = dump_holder_read(fd, &stream, &data, &state, error);
	if (r < 0)
		return r;
	if (net_waiting_read(&stream, state, tuple->family, data.data, &waiting, &why) < 0)
		return refuse(taking, why.message);
	return add_record(taking, tuple, state, &stream, &data, error);
}

/* Its peer may be on this host. */
static int note_loopback(const struct taking *taking, int fd, struct error *error)
{
	struct dump_inet_socket socket = *taking->listener;
	int r = dump_inet_read_names(fd, &socket.facts);

	return r < 0 ? error_set_errno(error, r, "looking at a connection that waits") :
		       dump_inet_note_loopback(taking->ctx, taking->inet, &socket, error);
}

static int take_one(void *context, int fd, struct error *error)
{
	const struct taking *taking = context;
	struct dump_context *ctx = taking->ctx;
	struct net_tuples tuples = { 0 };
	int r = net_tuples_add_socket(&tuples, fd);

	if (r < 0)
		return error_set_errno(error, r, "looking at a connection that waits");
	r = net_lock_engage(ctx->lock, &tuples, error);
	if (r == 0 && ctx->kept_lock)
		r = net_lock_engage(ctx->kept_lock, &tuples, error);
	if (r == 0)
		r = note_loopback(taking, fd, error);
	if (r == 0)
		r = describe(taking, fd, &tuples.list.items[0], error);
	net_tuples_deinit(&tuples);
	return r;
}

int dump_accept_queue_take(struct dump_context *ctx, struct dump_inet *inet, const struct dump_inet_socket *listener,
			   struct error *error)
{
	struct taking taking = { .ctx = ctx, .inet = inet, .listener = listener };
	int r;

	if (!ctx->accept_queue)
		return 0;
	r = dump_holder_take(&ctx->accept_queue->holder, listener->fd, take_one, &taking, error);
	stop_point("queue-taken");
	return r < 0 ? error_wrap(error, r, "PID %d, descriptor %d", listener->process->pid, listener->number) : 1;
}
