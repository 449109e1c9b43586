/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections that nobody has accepted: the mirror of dump/accept-queue.c. When a listening socket has been made, what
 * waited is put into its queue, in order (net/queue.h). The lock keeps the kernel's acknowledgements from their peers until the
 * go; until then it also keeps a tree that is given up from resetting them.
 *
 * Failure modes: a kernel that cannot (restore_accept_queue_check() says it beforehand), a queue that is too short.
 */
#include "restore/accept-queue.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "image/kinds.h"
#include "net/queue.h"
#include "net/waiting.h"
#include "pagestream-accept-queue.pb-c.h"
#include "util/cleanup.h"

static bool read_end(ProtobufCBinaryData ip, uint32_t port, struct net_end *ret)
{
	if ((ip.len != 4 && ip.len != sizeof(ret->ip)) || port > UINT16_MAX)
		return false;
	*ret = (struct net_end){ .port = htons((uint16_t)port) };
	memcpy(ret->ip, ip.data, ip.len);
	return true;
}

static int read_tuple(const WaitingConnection *message, struct net_tuple *ret)
{
	*ret = (struct net_tuple){ .kind = NET_TUPLE_CONNECTION, .family = message->local_ip.len == 4 ? AF_INET : AF_INET6 };
	if (message->local_ip.len != message->remote_ip.len || !read_end(message->local_ip, message->local_port, &ret->local) ||
	    !read_end(message->remote_ip, message->remote_port, &ret->remote))
		return -EPROTO;
	return 0;
}

/* The next one, with its data; 0 when there is none. */
static int next(const struct image_set *images, uint32_t ino, size_t *cursor, WaitingConnection **ret,
		const struct image_record **ret_data, struct error *error)
{
	const struct image_record *record = image_set_next(images, IMAGE_ACCEPT_QUEUE, ino, cursor);
	WaitingConnection *message;
	int r = record ? image_unpack(record, waiting_connection, &message, error) : 0;

	if (r < 0 || !record)
		return r;
	*ret_data = message->stream->inq_len ? image_set_next(images, IMAGE_ACCEPT_QUEUE, record->id, cursor) : NULL;
	if (message->stream->inq_len && (!*ret_data || (*ret_data)->size != message->stream->inq_len)) {
		waiting_connection__free_unpacked(message, NULL);
		return error_set(error, -EPROTO, "the data of a connection that waits is damaged");
	}
	*ret = message;
	return 1;
}

static int put(struct net_queue *queue, int fd, const WaitingConnection *message, const struct image_record *data,
	       struct error *error)
{
	struct net_waiting waiting = { 0 };
	int r = read_tuple(message, &waiting.tuple);

	if (r < 0)
		return error_set(error, r, "the addresses of a connection that waits are damaged");
	r = net_waiting_read(message->stream, message->state, waiting.tuple.family, data ? data->data : NULL, &waiting, error);
	return r < 0 ? r : net_queue_put(queue, fd, &waiting, error);
}

int restore_accept_queue_fill(struct restore_tree *tree, const InetSocket *message, int fd, struct error *error)
{
	struct net_queue *queue = tree->queue;
	size_t cursor = 0;
	int r = 0;

	if (tree->options->tcp_close || !image_set_find(tree->images, IMAGE_ACCEPT_QUEUE, message->ino))
		return 0;
	if (!tree->options->tcp_established)
		return error_set(error, -EPERM, "a TCP connection came along: use --tcp-established, or --tcp-close");
	if (!queue && !tree->files->queue)
		r = net_queue_new(&tree->files->queue, error);
	if (!queue)
		queue = tree->files->queue;
	while (r >= 0) {
		_cleanup_message_ WaitingConnection *waiting = NULL;
		const struct image_record *data;

		r = next(tree->images, message->ino, &cursor, &waiting, &data, error);
		if (r <= 0)
			break;
		r = put(queue, fd, waiting, data, error);
	}
	return r;
}

int restore_accept_queue_tuples(const struct image_set *images, struct net_tuples *tuples, struct error *error)
{
	size_t cursor = 0;

	for (;;) {
		_cleanup_message_ WaitingConnection *waiting = NULL;
		const struct image_record *data;
		struct net_tuple tuple;
		int r = next(images, IMAGE_ANY, &cursor, &waiting, &data, error);

		if (r <= 0)
			return r;
		r = read_tuple(waiting, &tuple);
		if (r == 0)
			r = array_append(&tuples->list, tuple);
		if (r < 0)
			return error_set_errno(error, r, "looking at connections that wait");
	}
}

bool restore_accept_queue_is_needed(const struct image_set *images)
{
	return image_set_find(images, IMAGE_ACCEPT_QUEUE, IMAGE_ANY) != NULL;
}

void restore_accept_queue_check(const struct image_set *images, struct image_blockers *blockers)
{
	struct image_kind_facts facts = image_kind_get(IMAGE_KIND_TCP_WAITING);
	struct error why = ERROR_INIT;
	struct net_queue *queue = NULL;

	if (!restore_accept_queue_is_needed(images))
		return;
	if (net_queue_new(&queue, &why) < 0 || net_queue_try(queue, &why) < 0)
		image_blockers_add(blockers, 0, "address", facts.cause, facts.remedy, "%s", why.message);
	net_queue_free(queue);
}
