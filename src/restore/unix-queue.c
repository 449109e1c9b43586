/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies unread in UNIX sockets.
 *
 * Model. All sockets are there, and connected. Data is sent into each queue from the other end, with the credentials that it
 * came with and with the open files that it carries; those that no process has open are opened for that. A datagram for a
 * socket that is nobody's peer comes from the socket of the tree that has the sender's name, or from a new one.
 *
 * Credentials name a process; if that has ended, the kernel does not let its PID be sent. The user and group are kept then,
 * and the PID is this program's.
 *
 * Failure modes: a queue that does not take its data.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "restore/unix.h"
#include "util/cleanup.h"

#define RIGHTS_MAX 253 /* descriptors in one message, SCM_MAX_FD */

/* ---- open files on their way */

static int open_rights(struct restore_tree *tree, const SocketPacket *packet, struct error *error)
{
	for (size_t i = 0; i < packet->n_scm; i++)
		for (size_t k = 0; k < packet->scm[i]->n_rights; k++) {
			struct restore_file *file = restore_file_find(tree->files, packet->scm[i]->rights[k]);
			int r;

			if (!file)
				return error_set(error, -EPROTO, "a socket has the unknown open file %u on its way",
						 packet->scm[i]->rights[k]);
			r = restore_file_open(tree, file, error);
			if (r < 0)
				return error_wrap(error, r, "open file %u on its way through a socket", file->id);
		}
	return 0;
}

/* Calls for each packet, with its bytes. */
static int for_each_packet(const struct image_set *images, void *context,
			   int (*call)(void *context, const SocketPacket *packet, const void *data, struct error *error),
			   struct error *error)
{
	const struct image_record *record, *data;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_SOCKET_QUEUE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SocketPacket *packet = NULL;
		int r = image_unpack(record, socket_packet, &packet, error);

		if (r < 0)
			return r;
		data = packet->length > 0 ? image_set_next(images, IMAGE_SOCKET_QUEUE, IMAGE_ANY, &cursor) : NULL;
		if (packet->length > 0 && (!data || data->size != packet->length))
			return error_set(error, -EPROTO, "unread data of socket %u is damaged", packet->id_for);
		r = call(context, packet, data ? (const void *)data->data : "", error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int open_packet(void *context, const SocketPacket *packet, const void *data, struct error *error)
{
	(void)data;
	return open_rights(context, packet, error);
}

int restore_unix_open_in_flight(struct restore_tree *tree, const struct image_set *images, struct error *error)
{
	return for_each_packet(images, tree, open_packet, error);
}

/* ---- sending */

/* Where a packet goes. */
struct way {
	int fd;
	const struct sockaddr_un *address; /* NULL: it is connected */
	socklen_t size;
};

static void *add_control(struct msghdr *header, int type, size_t size)
{
	struct cmsghdr *control = (struct cmsghdr *)((char *)header->msg_control + header->msg_controllen);

	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = type;
	control->cmsg_len = CMSG_LEN(size);
	header->msg_controllen += CMSG_SPACE(size);
	return CMSG_DATA(control);
}

static int add_rights(struct restore_files *files, const SocketPacket *packet, struct msghdr *header,
		      struct error *error)
{
	for (size_t i = 0; i < packet->n_scm; i++) {
		const SocketControl *control = packet->scm[i];
		int *fds;

		if (packet->n_scm > 1 || control->type != SCM_RIGHTS || control->n_rights > RIGHTS_MAX)
			return error_set(error, -EPROTO, "what came along with data of socket %u is damaged",
					 packet->id_for);
		if (control->n_rights == 0)
			continue;
		fds = add_control(header, SCM_RIGHTS, control->n_rights * sizeof(int));
		for (size_t k = 0; k < control->n_rights; k++)
			fds[k] = restore_file_find(files, control->rights[k])->fd;
	}
	return 0;
}

static ssize_t send_with(const struct way *way, struct msghdr *header, const SocketPacket *packet)
{
	int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (packet->urgent ? MSG_OOB : 0);
	size_t length = header->msg_controllen;
	struct ucred credentials;
	void *place;
	ssize_t n;

	if (!packet->ucred || !packet->ucred->pid)
		return sendmsg(way->fd, header, flags);
	credentials = (struct ucred){ .pid = (pid_t)packet->ucred->pid,
				      .uid = packet->ucred->uid,
				      .gid = packet->ucred->gid };
	place = add_control(header, SCM_CREDENTIALS, sizeof(credentials));
	memcpy(place, &credentials, sizeof(credentials));
	n = sendmsg(way->fd, header, flags);
	if (n < 0 && errno == ESRCH) {
		credentials.pid = getpid();
		memcpy(place, &credentials, sizeof(credentials));
		n = sendmsg(way->fd, header, flags);
	}
	header->msg_controllen = length;
	return n;
}

static int send_packet(struct restore_files *files, const struct way *way, const SocketPacket *packet, const void *data,
		       struct error *error)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
	} control = { 0 };
	struct iovec vector = { .iov_base = (void *)data, .iov_len = packet->length };
	struct msghdr header = { .msg_name = (void *)way->address,
				 .msg_namelen = way->size,
				 .msg_iov = &vector,
				 .msg_iovlen = 1,
				 .msg_control = &control };
	ssize_t n;
	int r = add_rights(files, packet, &header, error);

	if (r < 0)
		return r;
	n = send_with(way, &header, packet);
	if (n < 0)
		return error_set_errno(error, -errno, "putting unread data back into a UNIX socket");
	if ((size_t)n != packet->length)
		return error_set(error, -ENOSPC, "a UNIX socket takes %zd bytes of %u", n, packet->length);
	return 0;
}

/* ---- from whom */

static const struct restore_file *find_sender(struct restore_files *files, const SocketPacket *packet)
{
	array_for_each (file, &files->list)
		if (restore_unix_is(file) && file->fd >= 0 && packet->sender.len > 0 &&
		    file->message->usk->name.len == packet->sender.len &&
		    memcmp(file->message->usk->name.data, packet->sender.data, packet->sender.len) == 0)
			return file;
	return NULL;
}

/* A new socket under the sender's name, which is gone from this host and is not to come back. */
static int stand_in(const SocketPacket *packet)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), large = RESTORE_UNIX_QUEUE_BUFFER;
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	if (packet->sender.len > 0 && packet->sender.len <= sizeof(address.sun_path) && packet->sender.data[0] == '\0') {
		memcpy(address.sun_path, packet->sender.data, packet->sender.len);
		/* Taken by somebody else now: then it comes from nobody. */
		(void)bind(fd, (struct sockaddr *)&address,
			   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + packet->sender.len));
	}
	return fd;
}

static int send_datagram(struct restore_files *files, const struct restore_file *receiver, const SocketPacket *packet,
			 const void *data, struct error *error)
{
	const struct restore_file *sender = find_sender(files, packet);
	_cleanup_fd_ int directory = -1, spare = -1;
	struct sockaddr_un address;
	struct way way = { .address = &address };
	int r;

	if (receiver->message->usk->type != SOCK_DGRAM)
		return error_set(error, -EPROTO, "unread data for the unconnected socket %u", packet->id_for);
	if (!sender) {
		spare = stand_in(packet);
		if (spare < 0)
			return error_set_errno(error, spare, "making a UNIX socket");
	}
	r = restore_unix_reach(files, receiver->message->usk, &address, &way.size, &directory);
	if (r < 0)
		return error_set_errno(error, r, "reaching a UNIX socket to put unread data back");
	way.fd = sender ? sender->fd : spare;
	return send_packet(files, &way, packet, data, error);
}

static int fill_queue(void *context, const SocketPacket *packet, const void *data, struct error *error)
{
	struct restore_files *files = context;
	const struct restore_file *receiver = restore_file_find(files, packet->id_for), *sender;
	struct way way = { .address = NULL };

	if (!receiver || !restore_unix_is(receiver) || receiver->fd < 0)
		return error_set(error, -EPROTO, "unread data for the unknown socket %u", packet->id_for);
	sender = restore_unix_find(files, receiver->message->usk->peer);
	if (receiver->other_fd >= 0)
		way.fd = receiver->other_fd;
	else if (sender && sender->fd >= 0 && sender->message->usk->peer == receiver->message->usk->ino)
		way.fd = sender->fd;
	else
		return send_datagram(files, receiver, packet, data, error);
	return send_packet(files, &way, packet, data, error);
}

int restore_unix_fill_queues(struct restore_files *files, const struct image_set *images, struct error *error)
{
	return for_each_packet(images, files, fill_queue, error);
}
