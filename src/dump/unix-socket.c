/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets.
 *
 * Model. The kernel's list of all UNIX sockets (UNIX_DIAG) is read once a collection; it tells
 * state, peer, shutdown and backlog by inode number. Names come from getsockname(2); whether a path
 * still leads to the socket is told by the inode of the socket file. At the end each connected
 * socket must find its peer among the tree's own.
 *
 * Unread data is peeked at, a datagram or piece at a time, with SO_PEEK_OFF moving through the
 * queue; it is put back to what it was at once. At the freeze only.
 *
 * Failure modes, all blockers: a stream connected to a process outside, or not accepted yet; a
 * listening socket with connections that wait; descriptors or pidfds in flight.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "image/socket-options.h"
#include "sk-packet.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PIECE_MAX    ((size_t)1 << 20)
#define SHUTDOWN_ALL 3	  /* both directions, as the kernel counts */
#define EMPTY_MAX    4096 /* empty datagrams in one queue */

/* A UNIX socket of this host. */
struct unix_info {
	uint32_t ino;
	uint32_t peer;	  /* 0: none, or one without an inode */
	uint32_t vfs_ino; /* of the socket file */
	uint32_t waiting; /* listening: connections not accepted */
	uint32_t backlog; /* listening */
	uint8_t type;
	uint8_t state;
	uint8_t shutdown;
	bool has_peer;
};

/* A connected socket of the tree. */
struct unix_seen {
	pid_t pid;
	int number;
	uint32_t ino;
	uint32_t peer;
	bool by_name; /* a datagram socket whose peer has a name */
};

struct dump_unix {
	ARRAY(struct unix_info) all; /* by inode number */
	ARRAY(struct unix_seen) seen;
};

void dump_unix_free(struct dump_unix *sockets)
{
	if (!sockets)
		return;
	array_deinit(&sockets->all);
	array_deinit(&sockets->seen);
	free(sockets);
}

/* ---- the kernel's list */

static int take_message(struct nl_msg *message, void *argument)
{
	struct dump_unix *sockets = argument;
	struct nlmsghdr *header = nlmsg_hdr(message);
	struct nlattr *attributes[UNIX_DIAG_MAX + 1];
	struct unix_diag_msg *diag = nlmsg_data(header);
	struct unix_info info;

	if (nlmsg_parse(header, sizeof(*diag), attributes, UNIX_DIAG_MAX, NULL) < 0)
		return NL_SKIP;
	info = (struct unix_info){ .ino = diag->udiag_ino,
				   .type = diag->udiag_type,
				   .state = diag->udiag_state };
	if (attributes[UNIX_DIAG_PEER]) {
		info.has_peer = true;
		info.peer = nla_get_u32(attributes[UNIX_DIAG_PEER]);
	}
	if (attributes[UNIX_DIAG_SHUTDOWN])
		info.shutdown = nla_get_u8(attributes[UNIX_DIAG_SHUTDOWN]);
	if (attributes[UNIX_DIAG_VFS])
		info.vfs_ino = ((struct unix_diag_vfs *)nla_data(attributes[UNIX_DIAG_VFS]))
				       ->udiag_vfs_ino;
	if (attributes[UNIX_DIAG_RQLEN]) {
		const struct unix_diag_rqlen *lengths = nla_data(attributes[UNIX_DIAG_RQLEN]);

		info.waiting = lengths->udiag_rqueue;
		info.backlog = lengths->udiag_wqueue;
	}
	return array_append(&sockets->all, info) < 0 ? NL_STOP : NL_OK;
}

static int compare_info(const void *left, const void *right)
{
	const struct unix_info *a = left, *b = right;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static int read_list(struct dump_unix *sockets, struct error *error)
{
	struct unix_diag_req request = { .sdiag_family = AF_UNIX,
					 .udiag_states = UINT32_MAX,
					 .udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER |
						       UDIAG_SHOW_RQLEN };
	struct nl_sock *socket = nl_socket_alloc();
	int r;

	if (!socket)
		return error_set(error, -ENOMEM, "no memory for a netlink socket");
	r = nl_connect(socket, NETLINK_SOCK_DIAG);
	if (r == 0)
		r = nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, take_message, sockets);
	if (r == 0) {
		r = nl_send_simple(socket, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request,
				   sizeof(request));
		r = r < 0 ? r : nl_recvmsgs_default(socket);
	}
	nl_socket_free(socket);
	if (r < 0)
		return error_set(error, -EIO,
				 "listing the UNIX sockets of this host (sock_diag): %s",
				 nl_geterror(r));
	if (sockets->all.count > 1)
		qsort(sockets->all.items, sockets->all.count, sizeof(sockets->all.items[0]),
		      compare_info);
	return 0;
}

static int find_info(struct dump_context *ctx, ino_t ino, const struct unix_info **ret,
		     struct error *error)
{
	struct dump_files *files = ctx->files;
	struct unix_info key = { .ino = (uint32_t)ino };
	int r;

	if (!files->sockets) {
		files->sockets = calloc(1, sizeof(*files->sockets));
		if (!files->sockets)
			return error_set(error, -ENOMEM, "no memory for UNIX sockets");
		r = read_list(files->sockets, error);
		if (r < 0)
			return r;
	}
	*ret = files->sockets->all.count == 0
		       ? NULL
		       : bsearch(&key, files->sockets->all.items, files->sockets->all.count,
				 sizeof(key), compare_info);
	return 0;
}

/* ---- unread data */

/* Closes descriptors that came along; true when there were any. */
static bool drop_rights(struct msghdr *header, struct ucred *ret_cred, bool *ret_has_cred)
{
	bool found = false;

	*ret_has_cred = false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(ret_cred, CMSG_DATA(c), sizeof(*ret_cred));
			*ret_has_cred = true;
		}
		if (c->cmsg_type == SCM_RIGHTS) {
			size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			found = true;
			for (size_t i = 0; i < count; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
				close(fd);
			}
		}
	}
	return found;
}

static int add_packet(struct dump_context *ctx, uint32_t id, const void *data, size_t size,
		      const struct ucred *cred, const struct sockaddr_un *sender,
		      socklen_t sender_size, struct error *error)
{
	SocketCredentials credentials = SOCKET_CREDENTIALS__INIT;
	SocketPacket message = SOCKET_PACKET__INIT;
	int r;

	message.id_for = id;
	message.length = (uint32_t)size;
	if (cred) {
		credentials.uid = cred->uid;
		credentials.gid = cred->gid;
		credentials.pid = (uint32_t)cred->pid;
		message.ucred = &credentials;
	}
	if (sender_size > offsetof(struct sockaddr_un, sun_path)) {
		message.has_sender = 1;
		message.sender.data = (uint8_t *)sender->sun_path;
		message.sender.len = sender_size - offsetof(struct sockaddr_un, sun_path);
	}
	r = image_set_add(ctx->images, IMAGE_SOCKET_QUEUE, 0, &message.base, error);
	if (r == 0 && size > 0)
		r = image_set_add_bytes(ctx->images, IMAGE_SOCKET_QUEUE, 0, data, size, error);
	return r;
}

/* Walks the queue; SO_PEEK_OFF is set. */
static int peek_queue(struct dump_context *ctx, const struct dump_file *file,
		      const struct unix_info *info, void *data, struct error *error)
{
	size_t empty = 0;

	for (;;) {
		union {
			struct cmsghdr align;
			char bytes[2048];
		} control;
		struct sockaddr_un sender;
		struct iovec vector = { .iov_base = data, .iov_len = PIECE_MAX };
		struct msghdr header = { .msg_name = &sender,
					 .msg_namelen = sizeof(sender),
					 .msg_iov = &vector,
					 .msg_iovlen = 1,
					 .msg_control = &control,
					 .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(file->fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		struct ucred cred;
		bool has_cred;
		int r;

		if (n < 0 && errno == EAGAIN)
			return 0;
		/*
		 * A pending error of the connection, which is taken by asking: the queue is read by
		 * then.
		 */
		if (n < 0 && (errno == ECONNRESET || errno == ENOTCONN || errno == EINVAL))
			return 0;
		if (n < 0)
			return error_set_errno(error, -errno, "looking at the data of a socket");
		if (drop_rights(&header, &cred, &has_cred))
			dump_file_block(ctx, file, "descriptors are on their way through it",
					"try again when they have been received");
		if (n == 0 &&
		    (info->type == SOCK_STREAM || (info->shutdown & 1) || ++empty > EMPTY_MAX))
			return 0;
		if (header.msg_flags & MSG_TRUNC)
			return error_set(error, -EMSGSIZE,
					 "a datagram in fd %d is larger than 1 MiB", file->number);
		r = add_packet(ctx, file->id, data, (size_t)n, has_cred ? &cred : NULL, &sender,
			       header.msg_namelen, error);
		if (r < 0)
			return r;
	}
}

static int dump_queue(struct dump_context *ctx, const struct dump_file *file,
		      const struct unix_info *info, struct error *error)
{
	_cleanup_free_ void *data = NULL;
	socklen_t size = sizeof(int);
	int before = -1, zero = 0, unread = 0, r;

	if (info->type == SOCK_STREAM && ioctl(file->fd, FIONREAD, &unread) == 0 && unread == 0)
		return 0;
	if (getsockopt(file->fd, SOL_SOCKET, SO_PEEK_OFF, &before, &size) < 0 ||
	    setsockopt(file->fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)) < 0)
		return error_set_errno(error, -errno, "SO_PEEK_OFF");
	data = malloc(PIECE_MAX);
	r = data ? peek_queue(ctx, file, info, data, error)
		 : error_set(error, -ENOMEM, "no memory for socket data");
	(void)setsockopt(file->fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof(before));
	return r;
}

/* ---- one socket */

/* Where the name is bound, and whether it still leads there. */
static void describe_name(const struct dump_file *file, const struct unix_info *info,
			  UnixSocket *message, SocketFileAttributes *attributes,
			  char directory[PATH_MAX])
{
	const char *path = (const char *)message->name.data;
	struct stat st;

	if (message->name.len == 0 || path[0] == '\0')
		return;
	message->has_deleted = 1;
	message->deleted = 1;
	if (path[0] == '/') {
		if (stat(path, &st) < 0)
			return;
	} else {
		char whole[PATH_MAX + sizeof(((struct sockaddr_un *)0)->sun_path) + 1];

		if (fdio_readlink(file->process->proc_fd, "cwd", directory, PATH_MAX) < 0)
			return;
		snprintf(whole, sizeof(whole), "%s/%s", directory, path);
		if (stat(whole, &st) < 0)
			return;
	}
	if ((uint32_t)st.st_ino != info->vfs_ino || !S_ISSOCK(st.st_mode))
		return;
	message->deleted = 0;
	message->name_dir = path[0] == '/' ? NULL : directory;
	attributes->mode = st.st_mode;
	attributes->uid = st.st_uid;
	attributes->gid = st.st_gid;
	message->file_perms = attributes;
}

static int note_seen(struct dump_context *ctx, const struct dump_file *file,
		     const struct unix_info *info, bool by_name, struct error *error)
{
	struct unix_seen seen = { .pid = file->process->pid,
				  .number = file->number,
				  .ino = info->ino,
				  .peer = info->peer,
				  .by_name = by_name };

	if (array_append(&ctx->files->sockets->seen, seen) < 0)
		return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	return 0;
}

/* Sorts out who the other end is. False: a blocker was added. */
static bool describe_peer(struct dump_context *ctx, const struct dump_file *file,
			  const struct unix_info *info, UnixSocket *message,
			  struct sockaddr_un *address)
{
	socklen_t size = sizeof(*address);

	message->peer = info->peer;
	if (info->type == SOCK_DGRAM) {
		/*
		 * A peer outside that has a name is connected to again by that name: syslog, for
		 * one.
		 */
		if (info->has_peer &&
		    getpeername(file->fd, (struct sockaddr *)address, &size) == 0 &&
		    size > offsetof(struct sockaddr_un, sun_path)) {
			message->has_peer_name = 1;
			message->peer_name.data = (uint8_t *)address->sun_path;
			message->peer_name.len = size - offsetof(struct sockaddr_un, sun_path);
		}
		return true;
	}
	if (info->state != TCP_ESTABLISHED || info->peer != 0)
		return true;
	if (info->shutdown == SHUTDOWN_ALL) {
		message->has_peer_closed = message->peer_closed = 1;
		return true;
	}
	dump_file_block(ctx, file, "its connection was not accepted yet",
			"try again when it has been accepted");
	return false;
}

static int add_record(struct dump_context *ctx, const struct dump_file *file, UnixSocket *message,
		      struct error *error)
{
	struct image_socket_options *options = NULL;
	OpenFile open = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r;

	r = dump_socket_options(ctx, file->fd, AF_UNIX, (int)message->type, 0, &options, error);
	if (r < 0)
		return r;
	message->fown = &owner;
	message->opts = &options->message;
	open.type = FILE_TYPE__FILE_UNIX_SOCKET;
	open.id = file->id;
	open.usk = message;
	return dump_file_add(ctx, &open, error);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	SocketFileAttributes attributes = SOCKET_FILE_ATTRIBUTES__INIT;
	struct sockaddr_un address = { 0 }, peer_address = { 0 };
	socklen_t size = sizeof(address);
	UnixSocket message = UNIX_SOCKET__INIT;
	const struct unix_info *info = NULL;
	char directory[PATH_MAX];
	int r;

	r = find_info(ctx, file->st.st_ino, &info, error);
	if (r == 0 && !info && !file->frozen) {
		/* It may be newer than the list. */
		array_clear(&ctx->files->sockets->all);
		r = read_list(ctx->files->sockets, error);
		if (r == 0)
			r = find_info(ctx, file->st.st_ino, &info, error);
	}
	if (r < 0)
		return r;
	if (!info) {
		dump_file_block(ctx, file, "this socket belongs to another network namespace",
				"run this program in the network namespace of the process");
		return 0;
	}
	if (getsockname(file->fd, (struct sockaddr *)&address, &size) < 0)
		return error_set_errno(error, -errno, "getsockname");
	message.id = file->id;
	message.ino = info->ino;
	message.type = info->type;
	message.state = info->state;
	message.flags = file->flags;
	message.backlog = info->state == TCP_LISTEN ? info->backlog : 0;
	message.name.data = (uint8_t *)address.sun_path;
	message.name.len = size > offsetof(struct sockaddr_un, sun_path)
				   ? size - offsetof(struct sockaddr_un, sun_path)
				   : 0;
	message.has_shutdown = 1;
	message.shutdown = (SocketShutdown)(info->shutdown & 3);
	describe_name(file, info, &message, &attributes, directory);
	if (!describe_peer(ctx, file, info, &message, &peer_address))
		return 0;
	r = note_seen(ctx, file, info, message.has_peer_name, error);
	if (r < 0)
		return r;
	if (info->state == TCP_LISTEN && info->waiting > 0 && file->frozen)
		dump_file_block(ctx, file, "connections wait to be accepted",
				"try again when they have been accepted");
	r = add_record(ctx, file, &message, error);
	if (r == 0 && file->frozen && info->state != TCP_LISTEN)
		r = dump_queue(ctx, file, info, error);
	return r;
}

static bool match(const struct dump_file *file)
{
	int domain = 0;
	socklen_t size = sizeof(domain);

	if (!S_ISSOCK(file->st.st_mode) || (file->flags & O_PATH))
		return false;
	return getsockopt(file->fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
	       domain == AF_UNIX;
}

/* ---- the whole */

static int compare_seen(const void *left, const void *right)
{
	const struct unix_seen *a = left, *b = right;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static int finish(struct dump_context *ctx, struct error *error)
{
	struct dump_unix *sockets = ctx->files->sockets;

	if (!sockets)
		return 0;
	if (sockets->seen.count > 1)
		qsort(sockets->seen.items, sockets->seen.count, sizeof(sockets->seen.items[0]),
		      compare_seen);
	array_for_each (seen, &sockets->seen) {
		struct unix_seen key = { .ino = seen->peer };

		if (seen->peer == 0 || seen->by_name ||
		    bsearch(&key, sockets->seen.items, sockets->seen.count, sizeof(key),
			    compare_seen))
			continue;
		dump_blocker_add(ctx, seen->pid, "descriptor",
				 "the other end is held by a process outside of the tree",
				 "close the connection first, or move the tree that has both ends",
				 "fd %d -> UNIX socket, inode %u, peer %u", seen->number, seen->ino,
				 seen->peer);
	}
	return 0;
}

const struct dump_file_kind dump_kind_unix = {
	.name = "UNIX socket",
	.type = FILE_TYPE__FILE_UNIX_SOCKET,
	.match = match,
	.dump = dump,
	.finish = finish,
};
