/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets.
 *
 * Model. Connected streams are made two at a time: as a socket pair, or, when one end carries the
 * name of a listening socket of the tree (it was accepted there), by connecting to that socket and
 * accepting. Datagram sockets that are each other's peer are a pair, too. All others are single
 * sockets that are bound by name (unix-name.c).
 *
 * Afterwards, when all are there: datagram sockets are connected to peers by name; unread data is
 * sent into each queue from the other end, with the credentials that it came with; buffer sizes and
 * the like get their final values; directions are shut down; the other ends of those whose peer had
 * gone are closed.
 *
 * SO_PEERCRED of a connection tells this process, not the one that connected on the source.
 *
 * Failure modes: a name that is taken, a directory that is missing, a queue that does not take its
 * data.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "image/socket-options.h"
#include "restore/file-kind.h"
#include "restore/unix-name.h"
#include "sk-packet.pb-c.h"
#include "util/cleanup.h"

#define SEND_BUFFER (8 << 20) /* bytes, while queues are filled */

static bool is_unix(const struct restore_file *file)
{
	return file->message->type == FILE_TYPE__FILE_UNIX_SOCKET;
}

static bool same_name(const UnixSocket *a, const UnixSocket *b)
{
	return a->name.len > 0 && a->name.len == b->name.len &&
	       memcmp(a->name.data, b->name.data, a->name.len) == 0;
}

static int compare_inode(const void *left, const void *right)
{
	const struct restore_unix_inode *a = left, *b = right;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

int restore_unix_load(struct restore_files *files, struct error *error)
{
	array_clear(&files->inodes);
	array_clear(&files->listeners);
	array_for_each (file, &files->list) {
		struct restore_unix_inode inode;

		if (!is_unix(file))
			continue;
		inode = (struct restore_unix_inode){ .ino = file->message->usk->ino,
						     .id = file->id };
		if (array_append(&files->inodes, inode) < 0 ||
		    (file->message->usk->state == TCP_LISTEN &&
		     array_append(&files->listeners, file->id) < 0))
			return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	}
	if (files->inodes.count > 1)
		qsort(files->inodes.items, files->inodes.count, sizeof(files->inodes.items[0]),
		      compare_inode);
	return 0;
}

static struct restore_file *find_inode(struct restore_files *files, uint32_t ino)
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

static bool is_connection(const UnixSocket *message)
{
	return message->type != SOCK_DGRAM && message->state == TCP_ESTABLISHED;
}

/* What can be set as soon as there is a socket. */
static int set_up(struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	int large = SEND_BUFFER, r;

	(void)setsockopt(file->fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	r = image_socket_options_write(file->fd, message->opts, error);
	return r < 0 ? r : restore_file_set(file->fd, message->flags, message->fown, error);
}

static int make_single(struct restore_files *files, struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	int r;

	file->fd = socket(AF_UNIX, (int)message->type | SOCK_CLOEXEC, 0);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "making a UNIX socket");
	r = restore_unix_bind(files, file->fd, message, true, error);
	if (r == 0 && message->state == TCP_LISTEN && listen(file->fd, (int)message->backlog) < 0)
		r = error_set_errno(error, -errno, "listening on a UNIX socket");
	return r < 0 ? r : set_up(file, error);
}

static int make_pair(struct restore_files *files, struct restore_file *file,
		     struct restore_file *peer, struct error *error)
{
	bool own_names = file->message->usk->type == SOCK_DGRAM;
	int ends[2], r;

	if (socketpair(AF_UNIX, (int)file->message->usk->type | SOCK_CLOEXEC, 0, ends) < 0)
		return error_set_errno(error, -errno, "making a pair of UNIX sockets");
	file->fd = ends[0];
	if (peer)
		peer->fd = ends[1];
	else
		file->other_fd = ends[1];
	r = restore_unix_bind(files, file->fd, file->message->usk, own_names, error);
	if (r == 0)
		r = set_up(file, error);
	if (r == 0 && peer)
		r = restore_unix_bind(files, peer->fd, peer->message->usk, own_names, error);
	if (r == 0 && peer)
		r = set_up(peer, error);
	return r;
}

/* Makes the connection by way of the listening socket that the accepted end has its name from. */
static int make_accepted(struct restore_tree *tree, struct restore_file *listener,
			 struct restore_file *accepted, struct restore_file *client,
			 struct error *error)
{
	struct restore_files *files = tree->files;
	_cleanup_fd_ int directory = -1;
	struct sockaddr_un address;
	socklen_t size;
	int r;

	r = restore_file_open(tree, listener, error);
	if (r < 0)
		return r;
	client->fd = socket(AF_UNIX, (int)client->message->usk->type | SOCK_CLOEXEC, 0);
	if (client->fd < 0)
		return error_set_errno(error, -errno, "making a UNIX socket");
	r = restore_unix_bind(files, client->fd, client->message->usk, true, error);
	if (r < 0)
		return r;
	r = restore_unix_reach(files, listener->message->usk, &address, &size, &directory);
	if (r == 0 && connect(client->fd, (struct sockaddr *)&address, size) < 0)
		r = -errno;
	if (r < 0)
		return error_set_errno(error, r,
				       "connecting to a listening UNIX socket of the tree");
	accepted->fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	if (accepted->fd < 0)
		return error_set_errno(error, -errno, "accepting on a UNIX socket of the tree");
	r = set_up(accepted, error);
	return r < 0 ? r : set_up(client, error);
}

static int make_connection(struct restore_tree *tree, struct restore_file *file,
			   struct error *error)
{
	struct restore_file *peer = find_inode(tree->files, file->message->usk->peer);
	struct restore_file *listener;

	if (file->message->usk->peer != 0 && !peer)
		return error_set(error, -EPROTO,
				 "the other end of UNIX socket %u did not come along",
				 file->message->usk->ino);
	if (!peer)
		return make_pair(tree->files, file, NULL, error);
	listener = find_listener(tree->files, file->message->usk);
	if (listener)
		return make_accepted(tree, listener, file, peer, error);
	listener = find_listener(tree->files, peer->message->usk);
	if (listener)
		return make_accepted(tree, listener, peer, file, error);
	return make_pair(tree->files, file, peer, error);
}

static int open_unix(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	struct restore_file *peer;

	if (is_connection(message))
		return make_connection(tree, file, error);
	peer = message->type == SOCK_DGRAM ? find_inode(tree->files, message->peer) : NULL;
	if (peer && peer != file && peer->fd < 0 && peer->message->usk->peer == message->ino)
		return make_pair(tree->files, file, peer, error);
	return make_single(tree->files, file, error);
}

/* ---- when all are there */

/* Connects a datagram socket to its peer, of the tree or not, by name. */
static int connect_datagram(struct restore_files *files, struct restore_file *file,
			    struct error *error)
{
	const UnixSocket *message = file->message->usk;
	const struct restore_file *peer = find_inode(files, message->peer);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_fd_ int directory = -1;
	socklen_t size = sizeof(address);

	if (message->type != SOCK_DGRAM || (!message->has_peer_name && !peer) ||
	    getpeername(file->fd, (struct sockaddr *)&address, &size) == 0)
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

static const struct restore_file *find_sender(struct restore_files *files,
					      const SocketPacket *packet)
{
	array_for_each (file, &files->list)
		if (is_unix(file) && file->fd >= 0 && packet->sender.len > 0 &&
		    file->message->usk->name.len == packet->sender.len &&
		    memcmp(file->message->usk->name.data, packet->sender.data,
			   packet->sender.len) == 0)
			return file;
	return NULL;
}

/* Sends with the credentials of the original, or without when its sender is unknown here. */
static int send_packet(int fd, const SocketPacket *packet, const void *data,
		       const struct sockaddr_un *address, socklen_t size, struct error *error)
{
	struct ucred credentials = { 0 };
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
	} control = { 0 };
	struct iovec vector = { .iov_base = (void *)data, .iov_len = packet->length };
	struct msghdr header = { .msg_name = (void *)address,
				 .msg_namelen = size,
				 .msg_iov = &vector,
				 .msg_iovlen = 1 };
	ssize_t n = -1;

	if (packet->ucred && packet->ucred->pid) {
		credentials.pid = (pid_t)packet->ucred->pid;
		credentials.uid = packet->ucred->uid;
		credentials.gid = packet->ucred->gid;
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_CREDENTIALS;
		control.header.cmsg_len = CMSG_LEN(sizeof(credentials));
		memcpy(CMSG_DATA(&control.header), &credentials, sizeof(credentials));
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		n = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
		header.msg_control = NULL;
		header.msg_controllen = 0;
	}
	if (n < 0)
		n = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return error_set_errno(error, -errno,
				       "putting unread data back into a UNIX socket");
	if ((size_t)n != packet->length)
		return error_set(error, -ENOSPC, "a UNIX socket takes %zd bytes of %u", n,
				 packet->length);
	return 0;
}

static int fill_queue(struct restore_files *files, const SocketPacket *packet, const void *data,
		      struct error *error)
{
	const struct restore_file *receiver = restore_file_find(files, packet->id_for), *sender;
	_cleanup_fd_ int directory = -1, spare = -1;
	struct sockaddr_un address;
	socklen_t size;
	int r;

	if (!receiver || !is_unix(receiver) || receiver->fd < 0)
		return error_set(error, -EPROTO, "unread data for the unknown socket %u",
				 packet->id_for);
	if (receiver->other_fd >= 0)
		return send_packet(receiver->other_fd, packet, data, NULL, 0, error);
	sender = find_inode(files, receiver->message->usk->peer);
	if (sender && sender->message->usk->peer == receiver->message->usk->ino)
		return send_packet(sender->fd, packet, data, NULL, 0, error);
	if (receiver->message->usk->type != SOCK_DGRAM)
		return error_set(error, -EPROTO, "unread data for the unconnected socket %u",
				 packet->id_for);
	sender = find_sender(files, packet);
	if (!sender) {
		spare = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (spare < 0)
			return error_set_errno(error, -errno, "making a UNIX socket");
	}
	r = restore_unix_reach(files, receiver->message->usk, &address, &size, &directory);
	if (r < 0)
		return error_set_errno(error, r, "reaching a UNIX socket to put unread data back");
	return send_packet(sender ? sender->fd : spare, packet, data, &address, size, error);
}

static int fill_queues(struct restore_files *files, const struct image_set *images,
		       struct error *error)
{
	const struct image_record *record, *data;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_SOCKET_QUEUE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SocketPacket *packet = NULL;
		int r = image_unpack(record, socket_packet, &packet, error);

		if (r < 0)
			return r;
		data = packet->length > 0
			       ? image_set_next(images, IMAGE_SOCKET_QUEUE, IMAGE_ANY, &cursor)
			       : NULL;
		if (packet->length > 0 && (!data || data->size != packet->length))
			return error_set(error, -EPROTO, "unread data of socket %u is damaged",
					 packet->id_for);
		r = fill_queue(files, packet, data ? (const void *)data->data : "", error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int finish_socket(struct restore_file *file, struct error *error)
{
	const UnixSocket *message = file->message->usk;
	int r;

	if (file->other_fd >= 0)
		close(steal_fd(&file->other_fd));
	r = image_socket_options_finish(file->fd, message->opts, error);
	if (r < 0)
		return r;
	if (message->shutdown != SOCKET_SHUTDOWN__SHUTDOWN_NONE && !message->peer_closed &&
	    shutdown(file->fd, (int)message->shutdown - 1) < 0 && errno != ENOTCONN)
		return error_set_errno(error, -errno, "shutting down a UNIX socket");
	return 0;
}

int restore_unix_queues(struct restore_tree *tree, const struct image_set *images,
			struct error *error)
{
	struct restore_files *files = tree->files;
	int r = 0;

	array_for_each (file, &files->list)
		if (r == 0 && is_unix(file) && file->fd >= 0)
			r = connect_datagram(files, file, error);
	if (r == 0)
		r = fill_queues(files, images, error);
	array_for_each (file, &files->list)
		if (r == 0 && is_unix(file) && file->fd >= 0)
			r = finish_socket(file, error);
	return r;
}

const struct restore_file_kind restore_kind_unix = {
	.name = "UNIX socket",
	.type = FILE_TYPE__FILE_UNIX_SOCKET,
	.open = open_unix,
};
