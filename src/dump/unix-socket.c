/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets.
 *
 * Model. The kernel's list of all UNIX sockets (unix-list.c) tells state, peer, shutdown and backlog by inode number. Names
 * come from getsockname(2); where the socket file is now, SIOCUNIXFILE tells, whatever directory the name started at. At the
 * end each connected socket must find its peer among the tree's own, and each connection that waits at a listening socket of
 * the tree its other end. unix-queue.c reads what is unread.
 *
 * A socket may be on its way through another one, and nobody has it open. Those are found at the freeze only (they are peeked
 * at); while the tree runs, a peer that no process outside has open is taken for one.
 *
 * Failure modes, all blockers: a peer outside of the tree, unless dump_options.ext_unix says that it may be: the restore then
 * has streams closed by their peer, and datagram sockets connect to the same name again. A connection that waits to be
 * accepted and has brought data already, which nobody can read; one whose client has gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <linux/un.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dump/files.h"
#include "dump/unix.h"
#include "image/socket-options.h"
#include "util/cleanup.h"
#include "util/fdio.h"

/* What a message about one socket points to. */
struct describe {
	UnixSocket message;
	SocketFileAttributes attributes;
	SocketCredentials credentials, connector;
	struct sockaddr_un address;
	struct sockaddr_un peer_address;
	char path[PATH_MAX]; /* where the file is */
	struct unix_seen seen;
};

/* ---- one socket */

static socklen_t name_length(socklen_t size)
{
	return size > offsetof(struct sockaddr_un, sun_path) ? size - offsetof(struct sockaddr_un, sun_path) : 0;
}

/* Does `path` end with the relative name? Then `directory` (cut out of `path`) is where the name starts. */
static bool cut_directory(char *path, const char *name)
{
	size_t length = strlen(path), tail;

	while (name[0] == '.' && name[1] == '/')
		name += 2;
	tail = strlen(name);
	if (tail + 1 > length || path[length - tail - 1] != '/' || strcmp(path + length - tail, name) != 0)
		return false;
	path[length - tail - (length - tail > 1)] = '\0';
	return true;
}

/* Where the name is bound, and whether the file of the socket is still somewhere. */
static int describe_name(const struct dump_file *file, struct describe *describe)
{
	UnixSocket *message = &describe->message;
	const char *name = describe->address.sun_path;
	_cleanup_fd_ int fd = -1;
	struct stat st, there;
	char link[32];
	int r;

	if (message->name.len == 0 || name[0] == '\0')
		return 0;
	message->has_deleted = message->deleted = 1;
	fd = ioctl(file->fd, SIOCUNIXFILE, 0);
	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	r = fdio_readlink(AT_FDCWD, link, describe->path, sizeof(describe->path));
	if (r < 0 || fstat(fd, &st) < 0)
		return r < 0 ? r : -errno;
	if (lstat(describe->path, &there) < 0 || there.st_ino != st.st_ino || there.st_dev != st.st_dev)
		return 0;
	message->deleted = 0;
	describe->attributes.mode = st.st_mode;
	describe->attributes.uid = st.st_uid;
	describe->attributes.gid = st.st_gid;
	message->file_perms = &describe->attributes;
	if (name[0] != '/' && cut_directory(describe->path, name))
		message->name_dir = describe->path;
	else if (strcmp(describe->path, name) != 0)
		message->path = describe->path;
	return 0;
}

/* Datagram sockets: who gets what is sent without an address. */
static void describe_datagram(const struct dump_file *file, const struct unix_info *info, struct describe *describe)
{
	UnixSocket *message = &describe->message;
	socklen_t size = sizeof(describe->peer_address);

	if (info->has_peer && info->peer == 0) {
		message->has_peer_closed = message->peer_closed = 1;
		return;
	}
	if (!info->has_peer || getpeername(file->fd, (struct sockaddr *)&describe->peer_address, &size) < 0 ||
	    name_length(size) == 0)
		return;
	message->has_peer_name = 1;
	message->peer_name.data = (uint8_t *)describe->peer_address.sun_path;
	message->peer_name.len = name_length(size);
}

/* Who has connected is only told to the one that accepts. It is taken to be the process that has the socket. */
static void describe_connector(const struct dump_file *file, struct describe *describe)
{
	struct dump_status status;

	if (dump_status_read(file->process->pid, file->process->live, &status, NULL) < 0)
		return;
	describe->connector.pid = (uint32_t)file->process->pid;
	describe->connector.uid = status.uid[1];
	describe->connector.gid = status.gid[1];
	describe->message.connector = &describe->connector;
	dump_status_deinit(&status);
}

/* Connections: who is at the other end. */
static void describe_connection(const struct dump_file *file, const struct unix_info *info, struct describe *describe)
{
	UnixSocket *message = &describe->message;
	int unsent = 0;

	if (info->state != TCP_ESTABLISHED || info->peer != 0)
		return;
	if (info->shutdown == UNIX_SHUTDOWN_ALL) {
		message->has_peer_closed = message->peer_closed = 1;
		return;
	}
	message->has_not_accepted = message->not_accepted = 1;
	describe_connector(file, describe);
	describe->seen.waiting = true;
	describe->seen.has_sent = ioctl(file->fd, SIOCOUTQ, &unsent) == 0 && unsent > 0;
}

static void describe_credentials(const struct dump_file *file, struct describe *describe)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(file->fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0 || cred.uid == (uid_t)-1)
		return;
	describe->credentials.pid = (uint32_t)cred.pid;
	describe->credentials.uid = cred.uid;
	describe->credentials.gid = cred.gid;
	describe->message.peer_credentials = &describe->credentials;
}

static int note_socket(struct dump_context *ctx, const struct dump_file *file, const struct unix_info *info,
		       const struct describe *describe, struct error *error)
{
	struct dump_unix *sockets = ctx->files->sockets;
	struct unix_listener listener = { .pid = file->process->pid,
					  .number = file->number,
					  .ino = info->ino,
					  .first = info->first_client,
					  .count = info->waiting };

	if (array_append(&sockets->seen, describe->seen) < 0)
		return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	if (info->state == TCP_LISTEN && info->waiting > 0 && array_append(&sockets->listeners, listener) < 0)
		return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	return 0;
}

static int add_record(struct dump_context *ctx, const struct dump_file *file, UnixSocket *message,
		      struct error *error)
{
	struct image_socket_options *options = NULL;
	OpenFile open = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r;

	r = dump_socket_options(ctx, file, AF_UNIX, (int)message->type, 0, &options, error);
	if (r != 0)
		return r < 0 ? r : 0;
	message->fown = &owner;
	message->opts = &options->message;
	open.type = FILE_TYPE__FILE_UNIX_SOCKET;
	open.id = file->id;
	open.usk = message;
	return dump_file_add(ctx, &open, error);
}

static int fill_message(const struct dump_file *file, const struct unix_info *info, struct describe *describe,
			struct error *error)
{
	socklen_t size = sizeof(describe->address);
	UnixSocket *message = &describe->message;
	int r;

	unix_socket__init(message);
	socket_file_attributes__init(&describe->attributes);
	socket_credentials__init(&describe->credentials);
	socket_credentials__init(&describe->connector);
	if (getsockname(file->fd, (struct sockaddr *)&describe->address, &size) < 0)
		return error_set_errno(error, -errno, "reading the name of a UNIX socket");
	message->id = file->id;
	message->ino = info->ino;
	message->type = info->type;
	message->state = info->state;
	message->flags = file->flags;
	message->peer = info->peer;
	message->backlog = info->state == TCP_LISTEN ? info->backlog : 0;
	message->name.data = (uint8_t *)describe->address.sun_path;
	message->name.len = name_length(size);
	message->has_shutdown = 1;
	message->shutdown = (SocketShutdown)(info->shutdown & 3);
	describe->seen = (struct unix_seen){ .pid = file->process->pid,
					     .number = file->number,
					     .ino = info->ino,
					     .peer = info->peer,
					     .frozen = file->frozen };
	describe_credentials(file, describe);
	r = describe_name(file, describe);
	return r < 0 ? error_set_errno(error, r, "looking for the file of a UNIX socket") : 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const struct unix_info *info = NULL;
	struct describe describe = { .path = "" };
	struct dump_unix *sockets;
	int r;

	r = dump_unix_find(ctx, file->st.st_ino, false, &info, error);
	/* It may be newer than the list. */
	if (r == 0 && !info && !file->frozen)
		r = dump_unix_find(ctx, file->st.st_ino, true, &info, error);
	if (r < 0)
		return r;
	if (!info) {
		dump_file_block(ctx, file, "this socket belongs to another network namespace",
				"run this program in the network namespace of the process");
		return 0;
	}
	sockets = ctx->files->sockets;
	r = fill_message(file, info, &describe, error);
	if (r < 0)
		return r;
	if (info->type == SOCK_DGRAM)
		describe_datagram(file, info, &describe);
	else
		describe_connection(file, info, &describe);
	if (info->state == TCP_LISTEN && info->waiting > 0) {
		describe.message.waiting = sockets->clients.items + info->first_client;
		describe.message.n_waiting = info->waiting;
	}
	r = note_socket(ctx, file, info, &describe, error);
	if (r == 0 && file->frozen && info->state != TCP_LISTEN)
		r = dump_unix_note_full(ctx, file, info, error);
	return r < 0 ? r : add_record(ctx, file, &describe.message, error);
}

static bool match(const struct dump_file *file)
{
	return file->domain == AF_UNIX;
}

/* ---- the whole */

static int compare_seen(const void *left, const void *right)
{
	const struct unix_seen *a = left, *b = right;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static const struct unix_seen *find_seen(const struct dump_unix *sockets, uint32_t ino)
{
	struct unix_seen key = { .ino = ino };

	return ino == 0 || sockets->seen.count == 0 ? NULL :
						       bsearch(&key, sockets->seen.items, sockets->seen.count,
							       sizeof(key), compare_seen);
}

static void check_peer(struct dump_context *ctx, const struct unix_seen *seen)
{
	char link[32];

	if (seen->peer == 0 || ctx->options->ext_unix || find_seen(ctx->files->sockets, seen->peer))
		return;
	/* Nobody outside has it: it is on its way to somebody, and found at the freeze. */
	snprintf(link, sizeof(link), "socket:[%u]", seen->peer);
	if (!seen->frozen && !dump_outside_has(ctx, link, -1))
		return;
	dump_refuse(ctx, seen->pid, "descriptor", IMAGE_KIND_SOCKET_UNIX_OUTSIDE, "fd %d -> UNIX socket, inode %u, peer %u",
		    seen->number, seen->ino, seen->peer);
}

/* Connections that wait at a listening socket of the tree: both ends must be known, at the freeze. */
static void check_listener(struct dump_context *ctx, const struct unix_listener *listener, bool frozen)
{
	const struct dump_unix *sockets = ctx->files->sockets;

	for (size_t i = 0; i < listener->count; i++) {
		uint32_t client = sockets->clients.items[listener->first + i];
		const struct unix_seen *seen = find_seen(sockets, client);

		if (!frozen || (seen && !seen->has_sent))
			continue;
		if (client == 0)
			dump_refuse(ctx, listener->pid, "descriptor", IMAGE_KIND_SOCKET_UNIX_WAITING_CLOSED,
				    "fd %d -> UNIX socket, inode %u", listener->number, listener->ino);
		else if (seen)
			dump_refuse(ctx, seen->pid, "descriptor", IMAGE_KIND_SOCKET_UNIX_WAITING_DATA,
				    "fd %d -> UNIX socket, inode %u", seen->number, seen->ino);
		else if (!ctx->options->ext_unix)
			dump_refuse(ctx, listener->pid, "descriptor", IMAGE_KIND_SOCKET_UNIX_OUTSIDE,
				    "fd %d -> UNIX socket, inode %u, from which a connection waits to be accepted, peer %u",
				    listener->number, listener->ino, client);
	}
}

/* A connection of the tree's that waits: at one of its own listening sockets? */
static bool waits_inside(const struct dump_unix *sockets, uint32_t ino)
{
	array_for_each (listener, &sockets->listeners)
		for (size_t i = 0; i < listener->count; i++)
			if (sockets->clients.items[listener->first + i] == ino)
				return true;
	return false;
}

static int finish(struct dump_context *ctx, struct error *error)
{
	struct dump_unix *sockets = ctx->files->sockets;
	bool frozen = false;

	if (!sockets)
		return 0;
	if (sockets->seen.count > 1)
		qsort(sockets->seen.items, sockets->seen.count, sizeof(sockets->seen.items[0]), compare_seen);
	array_for_each (seen, &sockets->seen) {
		frozen = frozen || seen->frozen;
		check_peer(ctx, seen);
		if (seen->waiting && !ctx->options->ext_unix && !waits_inside(sockets, seen->ino))
			dump_refuse(ctx, seen->pid, "descriptor", IMAGE_KIND_SOCKET_UNIX_OUTSIDE,
				    "fd %d -> UNIX socket, inode %u, not accepted yet", seen->number, seen->ino);
	}
	array_for_each (listener, &sockets->listeners)
		check_listener(ctx, listener, frozen);
	return 0;
}

const struct dump_file_kind dump_kind_unix = {
	.name = "UNIX socket",
	.type = FILE_TYPE__FILE_UNIX_SOCKET,
	.match = match,
	.dump = dump,
	.spread = dump_unix_queues,
	.finish = finish,
};
