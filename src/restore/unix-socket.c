/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets.
 *
 * Model. Connected streams are made two at a time: as a socket pair, or, when one end carries the
 * name of a listening socket of the tree (it was accepted there), by connecting to that socket and
 * accepting. Datagram sockets that are each other's peer are a pair, too. All others are single
 * sockets that are bound by name (unix-name.c). Who makes a connection is what SO_PEERCRED tells of
 * it (unix-creds.c).
 *
 * Afterwards, when all are there: those that were not accepted connect again, in the order in which
 * they wait; what is on its way through sockets and open nowhere else is opened; unread data is put
 * back (unix-queue.c); datagram sockets are connected to peers by name; buffer sizes and the like
 * get their final values; directions are shut down; the other ends of those whose peer had gone are
 * closed.
 *
 * Peers that did not come along (restore_options.ext_unix): a stream becomes one whose peer has
 * closed, a datagram socket connects to the name that its peer had.
 *
 * Failure modes: a name that is taken, a directory that is missing, a queue that does not take its
 * data, a name that nobody has on this host.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/socket-options.h"
#include "restore/unix.h"
#include "util/cleanup.h"

static bool same_name(const UnixSocket *a, const UnixSocket *b)
{
	return a->name.len > 0 && a->name.len == b->name.len && a->type == b->type &&
	       memcmp(a->name.data, b->name.data, a->name.len) == 0;
}

static bool is_connection(const UnixSocket *message)
{
	return message->type != SOCK_DGRAM && message->state == TCP_ESTABLISHED;
}

static int compare_inode(const void *left, const void *right)
{
	const struct restore_unix_inode *a = left, *b = right;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static int load_socket(struct restore_files *files, const struct restore_file *file)
{
	const UnixSocket *message = file->message->usk;
	struct restore_unix_inode inode = { .ino = message->ino, .id = file->id };
	int r = array_append(&files->inodes, inode);

	if (r == 0 && message->state == TCP_LISTEN)
		r = array_append(&files->listeners, file->id);
	if (r == 0 && message->peer_credentials && message->name.len == 0 && (message->peer || message->peer_closed))
		r = restore_unix_expect_end(files, (int)message->type, message->peer_credentials);
	return r;
}

int restore_unix_load(struct restore_files *files, struct error *error)
{
	array_clear(&files->inodes);
	array_clear(&files->listeners);
	array_for_each (file, &files->list)
		if (restore_unix_is(file) && load_socket(files, file) < 0)
			return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	if (files->inodes.count > 1)
		qsort(files->inodes.items, files->inodes.count, sizeof(files->inodes.items[0]),
		      compare_inode);
	return 0;
}

struct restore_file *restore_unix_find(struct restore_files *files, uint32_t ino)
{
	const struct restore_unix_inode *found;
	struct restore_unix_inode key = { .ino = ino };

	if (ino == 0 || files->inodes.count == 0)
		return NULL;
	found = bsearch(&key, files->inodes.items, files->inodes.count, sizeof(key), compare_inode);
	return found ? restore_file_find(files, found->id) : NULL;
}

/* The listening socket of the tree from which this one has its name. */
static struct restore_file *find_listener(struct restore_files *files, const UnixSocket *message)
{
	array_for_each (id, &files->listeners) {
		struct restore_file *file = restore_file_find(files, *id);

		if (file->message->usk != message && same_name(file->message->usk, message))
			return file;
	}
	return NULL;
}

/* The listening socket of the tree at which this one waits to be accepted. */
static struct restore_file *find_waited_for(struct restore_files *files, const UnixSocket *message)
{
	array_for_each (id, &files->listeners) {
		struct restore_file *file = restore_file_find(files, *id);

		for (size_t i = 0; i < file->message->usk->n_waiting; i++)
			if (file->message->usk->waiting[i] == message->ino)
				return file;
	}
	return NULL;
}

/* What can be set as soon as there is a socket. */
static int set_up(struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	int large = RESTORE_UNIX_QUEUE_BUFFER, r;

	(void)setsockopt(file->fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	r = image_socket_options_write(file->fd, message->opts, error);
	return r < 0 ? r : restore_file_set(file->fd, message->flags, message->fown, error);
}

static int make_single(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	size_t backlog = message->n_waiting > message->backlog ? message->n_waiting : message->backlog;
	int r;

	file->fd = socket(AF_UNIX, (int)message->type | SOCK_CLOEXEC, 0);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "making a UNIX socket");
	r = restore_unix_bind(tree->files, file->fd, message, true, error);
	if (r == 0 && message->state == TCP_LISTEN)
		r = restore_unix_listen(tree, file->fd, (int)backlog, message->peer_credentials, error);
	return r < 0 ? r : set_up(file, error);
}

static int make_pair(struct restore_tree *tree, struct restore_file *file, struct restore_file *peer,
		     struct error *error)
{
	const UnixSocket *message = file->message->usk;
	bool own_names = message->type == SOCK_DGRAM;
	int ends[2], r;

	r = restore_unix_pair(tree, (int)message->type, message->peer_credentials, ends, error);
	if (r < 0)
		return r;
	file->fd = ends[0];
	file->paired = true;
	if (peer) {
		peer->fd = ends[1];
		peer->paired = true;
	} else {
		file->other_fd = ends[1];
	}
	r = restore_unix_bind(tree->files, file->fd, message, own_names, error);
	if (r == 0)
		r = set_up(file, error);
	if (r == 0 && peer)
		r = restore_unix_bind(tree->files, peer->fd, peer->message->usk, own_names, error);
	if (r == 0 && peer)
		r = set_up(peer, error);
	return r;
}

/* A socket that is to connect by name; it is bound, but not connected. */
static int make_client(struct restore_tree *tree, struct restore_file *client, struct error *error)
{
	client->fd = socket(AF_UNIX, (int)client->message->usk->type | SOCK_CLOEXEC, 0);
	if (client->fd < 0)
		return error_set_errno(error, -errno, "making a UNIX socket");
	return restore_unix_bind(tree->files, client->fd, client->message->usk, true, error);
}

/* `who` is what the one that accepts is to be told. */
static int connect_client(struct restore_tree *tree, const struct restore_file *client,
			  const struct restore_file *listener, const SocketCredentials *who, struct error *error)
{
	_cleanup_fd_ int directory = -1;
	struct sockaddr_un address;
	socklen_t size;
	int r;

	r = restore_unix_reach(tree->files, listener->message->usk, &address, &size, &directory);
	if (r == 0)
		r = restore_unix_connect(tree, client->fd, &address, size, who, error);
	if (r < 0)
		return error_set_errno(error, r, "connecting to a listening UNIX socket of the tree");
	return 0;
}

/* Makes the connection by way of the listening socket that the accepted end has its name from. */
static int make_accepted(struct restore_tree *tree, struct restore_file *listener,
			 struct restore_file *accepted, struct restore_file *client,
			 struct error *error)
{
	int r;

	r = restore_file_open(tree, listener, error);
	if (r == 0)
		r = make_client(tree, client, error);
	if (r == 0)
		r = connect_client(tree, client, listener, accepted->message->usk->peer_credentials, error);
	if (r < 0)
		return r;
	accepted->fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	if (accepted->fd < 0)
		return error_set_errno(error, -errno, "accepting on a UNIX socket of the tree");
	r = set_up(accepted, error);
	return r < 0 ? r : set_up(client, error);
}

static int missing_peer(const struct restore_tree *tree, const UnixSocket *message, struct error *error)
{
	if (tree->options->ext_unix)
		return 0;
	return error_set(error, -EPERM, "the other end of UNIX socket %u did not come along, and --ext-unix-sk is not given",
			 message->ino);
}

static int make_connection(struct restore_tree *tree, struct restore_file *file,
			   struct error *error)
{
	const UnixSocket *message = file->message->usk;
	struct restore_file *peer = restore_unix_find(tree->files, message->peer);
	struct restore_file *listener;
	int r = 0;

	if (message->not_accepted && find_waited_for(tree->files, message)) {
		r = make_client(tree, file, error);
		return r < 0 ? r : set_up(file, error);
	}
	if (!peer && (message->peer != 0 || message->not_accepted))
		r = missing_peer(tree, message, error);
	if (r < 0)
		return r;
	if (!peer)
		return make_pair(tree, file, NULL, error);
	listener = find_listener(tree->files, message);
	if (listener)
		return make_accepted(tree, listener, file, peer, error);
	listener = find_listener(tree->files, peer->message->usk);
	if (listener)
		return make_accepted(tree, listener, peer, file, error);
	return make_pair(tree, file, peer, error);
}

static int open_unix(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	struct restore_file *peer;

	if (is_connection(message))
		return make_connection(tree, file, error);
	peer = message->type == SOCK_DGRAM ? restore_unix_find(tree->files, message->peer) : NULL;
	/* One that has no name can only be its peer as the other end of a pair, whoever its own peer is now. */
	if (peer && peer != file && peer->fd < 0 &&
	    (peer->message->usk->peer == message->ino || peer->message->usk->name.len == 0))
		return make_pair(tree, file, peer, error);
	if (message->type == SOCK_DGRAM && (message->peer_closed || (message->peer && !peer && !message->has_peer_name)))
		return make_pair(tree, file, NULL, error);
	return make_single(tree, file, error);
}

/* ---- when all are there */

static int connect_waiting(struct restore_tree *tree, const struct restore_file *listener, struct error *error)
{
	const UnixSocket *message = listener->message->usk;
	int r = 0;

	for (size_t i = 0; r == 0 && i < message->n_waiting; i++) {
		struct restore_file *client = restore_unix_find(tree->files, message->waiting[i]);

		if (client && client->fd >= 0)
			r = connect_client(tree, client, listener, client->message->usk->connector, error);
		else
			r = missing_peer(tree, message, error);
	}
	if (r == 0 && message->n_waiting > message->backlog)
		r = restore_unix_listen(tree, listener->fd, (int)message->backlog, message->peer_credentials, error);
	return r;
}

/* Connects a datagram socket to its peer, of the tree or not, by name. */
static int connect_datagram(struct restore_files *files, struct restore_file *file,
			    struct error *error)
{
	const UnixSocket *message = file->message->usk;
	const struct restore_file *peer = restore_unix_find(files, message->peer);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_fd_ int directory = -1;
	socklen_t size;

	if (message->type != SOCK_DGRAM || (!message->has_peer_name && !peer))
		return 0;
	if (file->paired && (!peer || peer->message->usk->peer == message->ino || peer->message->usk->name.len == 0))
		return 0;
	if (!peer ||
	    restore_unix_reach(files, peer->message->usk, &address, &size, &directory) < 0) {
		if (message->peer_name.len > sizeof(address.sun_path))
			return error_set(error, -EPROTO, "name of a UNIX socket is too long");
		address = (struct sockaddr_un){ .sun_family = AF_UNIX };
		memcpy(address.sun_path, message->peer_name.data, message->peer_name.len);
		size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + message->peer_name.len);
	}
	if (connect(file->fd, (struct sockaddr *)&address, size) < 0)
		return error_set_errno(error, -errno, "connecting a UNIX datagram socket to %.*s",
				       (int)message->peer_name.len,
				       (const char *)message->peer_name.data);
	return 0;
}

static int finish_socket(struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	bool closed = file->other_fd >= 0;
	int r;

	if (closed)
		close(steal_fd(&file->other_fd));
	r = image_socket_options_finish(file->fd, message->opts, error);
	if (r < 0)
		return r;
	if (message->shutdown != SOCKET_SHUTDOWN__SHUTDOWN_NONE && !closed &&
	    shutdown(file->fd, (int)message->shutdown - 1) < 0 && errno != ENOTCONN)
		return error_set_errno(error, -errno, "shutting down a UNIX socket");
	return 0;
}

int restore_unix_queues(struct restore_tree *tree, const struct image_set *images,
			struct error *error)
{
	struct restore_files *files = tree->files;
	int r;

	r = restore_unix_open_in_flight(tree, images, error);
	array_for_each (id, &files->listeners) {
		const struct restore_file *listener = restore_file_find(files, *id);

		if (r == 0 && listener->fd >= 0)
			r = connect_waiting(tree, listener, error);
	}
	if (r == 0)
		r = restore_unix_fill_queues(files, images, error);
	/* A connected socket takes nothing from others. */
	array_for_each (file, &files->list)
		if (r == 0 && restore_unix_is(file) && file->fd >= 0)
			r = connect_datagram(files, file, error);
	array_for_each (file, &files->list)
		if (r == 0 && restore_unix_is(file) && file->fd >= 0)
			r = finish_socket(file, error);
	restore_unix_forget_deleted(files);
	return r;
}

const struct restore_file_kind restore_kind_unix = {
	.name = "UNIX socket",
	.type = FILE_TYPE__FILE_UNIX_SOCKET,
	.open = open_unix,
};
