/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies unread in UNIX sockets, descriptors among it.
 *
 * Model. A queue is peeked at, a datagram or piece at a time, with SO_PEEK_OFF moving through it; the option is put back to
 * what it was at once. Peeking at a descriptor on its way installs a copy of it here: the open file behind it is described as
 * those are that processes have (dump_file_in_flight()). It may be a socket with a queue of its own, which is then noted and
 * read in its turn; a socket that lies in its own queue is known by then. So the list of sockets to be read grows while it is
 * gone through, and all of this comes before any kind of file has its last look at the whole.
 *
 * A stream does not tell where the message begins that brought the descriptors: the bytes before it are read together with
 * it. Peeking again with room for all but the last byte does: the kernel copies message by message, and one that does not
 * fit is not counted. The room ends at a page that is not there.
 *
 * An urgent byte (MSG_OOB) is peeked at by itself; reading stops in front of it, and goes on with it when SO_OOBINLINE is on,
 * which is so for the time of the walk only.
 *
 * Failure modes: a datagram of more than 1 MiB is an error; locks of files on their way and epoll sets are blockers.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dump/unix.h"
#include "sk-packet.pb-c.h"
#include "util/cleanup.h"
#include "util/sockopt.h"

#define PIECE_MAX  ((size_t)1 << 20)
#define EMPTY_MAX  4096 /* empty datagrams in one queue */
#define RIGHTS_MAX 253	/* descriptors in one message, SCM_MAX_FD */
#define PAGE	   4096
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

/* One look into a queue. */
struct piece {
	ssize_t size;
	struct ucred cred;
	bool has_cred;
	struct sockaddr_un sender;
	socklen_t sender_size;
	bool truncated;
	int rights[RIGHTS_MAX]; /* owned */
	size_t right_count;
};

/* A queue that is being read. */
struct walk {
	const struct unix_full *full;
	char *data;	    /* PIECE_MAX bytes, then a page that cannot be written */
	int offset;	    /* streams: bytes seen so far */
	bool has_urgent;    /* there is an urgent byte that was not met yet */
	bool at_mark;	    /* ... and it comes first */
	char urgent;
};

/* ---- one piece */

static void drop_rights(struct piece *piece)
{
	for (size_t i = 0; i < piece->right_count; i++)
		close(piece->rights[i]);
	piece->right_count = 0;
}

static void take_control(struct msghdr *header, struct piece *piece)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fd;

		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&piece->cred, CMSG_DATA(c), sizeof(piece->cred));
			piece->has_cred = true;
		}
		if (c->cmsg_type == SCM_PIDFD) {
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
			close(fd);
		}
		if (c->cmsg_type == SCM_RIGHTS && count <= RIGHTS_MAX) {
			memcpy(piece->rights, CMSG_DATA(c), count * sizeof(int));
			piece->right_count = count;
		}
	}
}

/* Room for `room` bytes, behind which nothing can be written. 0, or -errno. */
static int peek(const struct walk *walk, size_t room, bool faulting, struct piece *ret)
{
	union {
		struct cmsghdr align;
		char bytes[2048];
	} control;
	struct iovec vectors[2] = { { .iov_base = walk->data, .iov_len = room },
				    { .iov_base = walk->data + PIECE_MAX, .iov_len = PAGE } };
	struct msghdr header = { .msg_name = &ret->sender,
				 .msg_namelen = sizeof(ret->sender),
				 .msg_iov = vectors,
				 .msg_iovlen = faulting ? 2 : 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control) };

	*ret = (struct piece){ .right_count = 0 };
	ret->size = recvmsg(walk->full->fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (ret->size < 0)
		return -errno;
	take_control(&header, ret);
	ret->sender_size = header.msg_namelen;
	ret->truncated = header.msg_flags & MSG_TRUNC;
	return 0;
}

/* Where the last message of a piece of a stream begins; the offset is left behind the piece. */
static int find_last(struct walk *walk, const struct piece *piece, size_t *ret, struct error *error)
{
	struct piece look;
	int r;

	r = sockopt_set_int(walk->full->fd, SOL_SOCKET, SO_PEEK_OFF, walk->offset);
	if (r == 0) {
		r = peek(walk, (size_t)piece->size - 1, true, &look);
		drop_rights(&look);
		*ret = r == 0 ? (size_t)look.size : 0;
		r = r == -EFAULT ? 0 : r;
	}
	if (r == 0)
		r = sockopt_set_int(walk->full->fd, SOL_SOCKET, SO_PEEK_OFF, walk->offset + (int)piece->size);
	return r < 0 ? error_set_errno(error, r, "looking at the data of a socket") : 0;
}

/* ---- records */

/* Describes the open files that came with a piece. */
static int add_rights(struct dump_context *ctx, const struct walk *walk, struct piece *piece, uint32_t *ids,
		      struct error *error)
{
	for (size_t i = 0; i < piece->right_count; i++) {
		int r = dump_file_in_flight(ctx, walk->full->process, piece->rights[i], &ids[i], error);

		/* It owns the descriptor from here on, also after a failure. */
		piece->rights[i] = -1;
		if (r < 0)
			return error_wrap(error, r, "a descriptor on its way through fd %d", walk->full->number);
	}
	return 0;
}

static int add_packet(struct dump_context *ctx, const struct walk *walk, struct piece *piece, const char *data, size_t size,
		      bool with_rights, bool urgent, struct error *error)
{
	SocketCredentials credentials = SOCKET_CREDENTIALS__INIT;
	SocketControl control = SOCKET_CONTROL__INIT, *controls = &control;
	SocketPacket message = SOCKET_PACKET__INIT;
	uint32_t ids[RIGHTS_MAX];
	int r = 0;

	message.id_for = walk->full->id;
	message.length = (uint32_t)size;
	if (piece->has_cred) {
		credentials.uid = piece->cred.uid;
		credentials.gid = piece->cred.gid;
		credentials.pid = (uint32_t)piece->cred.pid;
		message.ucred = &credentials;
	}
	if (piece->sender_size > offsetof(struct sockaddr_un, sun_path)) {
		message.has_sender = 1;
		message.sender.data = (uint8_t *)piece->sender.sun_path;
		message.sender.len = piece->sender_size - offsetof(struct sockaddr_un, sun_path);
	}
	message.has_urgent = message.urgent = urgent;
	if (with_rights && piece->right_count > 0) {
		r = add_rights(ctx, walk, piece, ids, error);
		control.type = SCM_RIGHTS;
		control.rights = ids;
		control.n_rights = piece->right_count;
		message.scm = &controls;
		message.n_scm = 1;
	}
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_SOCKET_QUEUE, 0, &message.base, error);
	if (r == 0 && size > 0)
		r = image_set_add_bytes(ctx->images, IMAGE_SOCKET_QUEUE, 0, data, size, error);
	return r;
}

/* A piece of a stream: an urgent byte, what came before the descriptors, and what came with them. */
static int add_stream(struct dump_context *ctx, struct walk *walk, struct piece *piece, bool urgent, struct error *error)
{
	size_t size = (size_t)piece->size, begin = urgent, last = 0;
	const char *data = walk->data;
	int r = 0;

	if (piece->right_count > 0 && size > 1) {
		r = find_last(walk, piece, &last, error);
		if (r < 0)
			return r;
	}
	if (urgent)
		r = add_packet(ctx, walk, piece, data, 1, size == 1, true, error);
	if (r == 0 && last > begin)
		r = add_packet(ctx, walk, piece, data + begin, last - begin, false, false, error);
	begin = last > begin ? last : begin;
	if (r == 0 && size > begin)
		r = add_packet(ctx, walk, piece, data + begin, size - begin, true, false, error);
	walk->offset += (int)size;
	return r;
}

/* Reading stops in front of an urgent byte, and also where the sender changes and behind descriptors. */
static bool is_urgent(const struct walk *walk, const struct piece *piece, const struct piece *before)
{
	if (!walk->has_urgent || walk->data[0] != walk->urgent)
		return false;
	if (walk->offset == 0)
		return walk->at_mark;
	return before->right_count == 0 && before->size < (ssize_t)PIECE_MAX && before->has_cred == piece->has_cred &&
	       memcmp(&before->cred, &piece->cred, sizeof(piece->cred)) == 0;
}

/* SO_PEEK_OFF is set to 0. */
static int walk_queue(struct dump_context *ctx, struct walk *walk, struct error *error)
{
	bool stream = walk->full->type == SOCK_STREAM;
	struct piece piece = { .size = 0 }, before;
	size_t empty = 0;

	for (;;) {
		bool urgent;
		int r;

		before = piece;
		r = peek(walk, PIECE_MAX, false, &piece);
		/* A pending error of the connection, which is taken by asking: the queue is read by then. */
		if (r == -EAGAIN || r == -ECONNRESET || r == -ENOTCONN || r == -EINVAL)
			return 0;
		if (r < 0)
			return error_set_errno(error, r, "looking at the data of a socket");
		if (piece.size == 0 && piece.right_count == 0 && (stream || walk->full->no_reading || ++empty > EMPTY_MAX))
			return 0;
		urgent = stream && is_urgent(walk, &piece, &before);
		walk->has_urgent = walk->has_urgent && !urgent;
		if (piece.truncated)
			r = error_set(error, -EMSGSIZE, "a datagram in fd %d is larger than 1 MiB", walk->full->number);
		else
			r = stream ? add_stream(ctx, walk, &piece, urgent, error) :
				     add_packet(ctx, walk, &piece, walk->data, (size_t)piece.size, true, false, error);
		if (r < 0) {
			drop_rights(&piece);
			return r;
		}
	}
}

/* ---- one queue */

static int read_queue(struct dump_context *ctx, struct walk *walk, struct error *error)
{
	int fd = walk->full->fd, before = sockopt_get_int(fd, SOL_SOCKET, SO_PEEK_OFF, -1), inline_before = 0, mark = 0, r;

	if (walk->full->type == SOCK_STREAM) {
		inline_before = sockopt_get_int(fd, SOL_SOCKET, SO_OOBINLINE, -1);
		if (inline_before > 0)
			(void)sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, 0);
		walk->has_urgent = recv(fd, &walk->urgent, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) == 1;
		walk->at_mark = walk->has_urgent && ioctl(fd, SIOCATMARK, &mark) == 0 && mark;
		if (walk->has_urgent || inline_before > 0)
			(void)sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, walk->has_urgent);
	}
	r = sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, 0);
	r = r < 0 ? error_set_errno(error, r, "SO_PEEK_OFF") : walk_queue(ctx, walk, error);
	(void)sockopt_set_int(fd, SOL_SOCKET, SO_PEEK_OFF, before);
	if (walk->full->type == SOCK_STREAM && sockopt_get_int(fd, SOL_SOCKET, SO_OOBINLINE, -1) != inline_before)
		(void)sockopt_set_int(fd, SOL_SOCKET, SO_OOBINLINE, inline_before);
	return r;
}

int dump_unix_note_full(struct dump_context *ctx, const struct dump_file *file, const struct unix_info *info,
			struct error *error)
{
	struct unix_full full = { .process = file->process,
				  .number = file->number,
				  .id = file->id,
				  .type = info->type,
				  .no_reading = info->shutdown & 1 };
	struct pollfd poll_fd = { .fd = file->fd, .events = POLLIN | POLLPRI };

	/* Also ready when there is only an end to be read. */
	if (poll(&poll_fd, 1, 0) <= 0 || !(poll_fd.revents & (POLLIN | POLLPRI)))
		return 0;
	full.fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	if (full.fd < 0)
		return error_set_errno(error, -errno, "copying a descriptor");
	if (array_append(&ctx->files->sockets->full, full) < 0) {
		close(full.fd);
		return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	}
	return 0;
}

int dump_unix_queues(struct dump_context *ctx, struct error *error)
{
	struct dump_unix *sockets = ctx->files->sockets;
	char *data;
	int r = 0;

	if (!sockets || sockets->full.count == 0)
		return 0;
	data = mmap(NULL, PIECE_MAX + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for socket data");
	if (mprotect(data + PIECE_MAX, PAGE, PROT_NONE) < 0)
		r = error_set_errno(error, -errno, "no memory for what waits in UNIX sockets");
	/* The list grows. */
	for (size_t i = 0; r == 0 && i < sockets->full.count; i++) {
		struct unix_full full = sockets->full.items[i];
		struct walk walk = { .full = &full, .data = data };

		r = read_queue(ctx, &walk, error);
		if (r < 0)
			error_wrap(error, r, "PID %d, descriptor %d", full.process->pid, full.number);
	}
	munmap(data, PIECE_MAX + PAGE);
	return r;
}
