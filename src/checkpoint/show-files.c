/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process has open: a descriptor with the kind of its open file, a path or addresses, flags and offset. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "pipe.pb-c.h"
#include "regfile.pb-c.h"
#include "show-private.h"
#include "sk-packet.pb-c.h"

#define TCP_LISTEN 10 /* states as the kernel counts, of TCP and UNIX sockets */
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7

static void set_text(json_t *object, const char *name, const char *text)
{
	json_object_set_new(object, name, show_text(text, strlen(text)));
}

/* ---- kinds */

static const char *regular_kind(const RegularFile *file)
{
	if (!file->has_mode)
		return "file";
	switch (file->mode & S_IFMT) {
	case S_IFDIR: return "directory";
	case S_IFCHR:
	case S_IFBLK: return "device";
	default: return "file";
	}
}

/* One word or four, in network byte order. */
static void set_address(json_t *object, const char *name, uint32_t family, size_t count, uint32_t *words, uint32_t port)
{
	char address[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 16];

	if (count < (family == AF_INET6 ? 4 : 1) || !inet_ntop((int)family, words, address, sizeof(address)))
		return;
	snprintf(text, sizeof(text), family == AF_INET6 ? "[%s]:%u" : "%s:%u", address, port);
	set_text(object, name, text);
}

static const char *state_name(uint32_t state)
{
	switch (state) {
	case TCP_ESTABLISHED: return "connected";
	case TCP_CLOSE: return "not connected";
	case TCP_LISTEN: return "listening";
	default: return "on its way";
	}
}

static const char *socket_type(uint32_t type)
{
	return type == SOCK_STREAM ? "stream" : type == SOCK_DGRAM ? "datagram" : type == SOCK_SEQPACKET ? "packets" : "raw";
}

/* Bytes that nobody has read yet. */
static uint64_t unread_pipe(struct show *show, enum image_type type, uint32_t id)
{
	const struct image_record *record;
	uint64_t bytes = 0;
	size_t cursor = 0;

	while ((record = image_set_next(show->set, type, IMAGE_ANY, &cursor))) {
		_cleanup_message_ PipeData *data = show_unpack(show, record, &pipe_data__descriptor);

		if (!data)
			break;
		if (data->pipe_id == id)
			bytes += data->bytes;
		if (data->bytes > 0)
			image_set_next(show->set, type, IMAGE_ANY, &cursor); /* they themselves */
	}
	return bytes;
}

static uint64_t unread_socket(struct show *show, uint32_t id)
{
	const struct image_record *record;
	uint64_t bytes = 0;
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_SOCKET_QUEUE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SocketPacket *packet = show_unpack(show, record, &socket_packet__descriptor);

		if (!packet)
			break;
		if (packet->id_for == id)
			bytes += packet->length;
		if (packet->length > 0)
			image_set_next(show->set, IMAGE_SOCKET_QUEUE, IMAGE_ANY, &cursor);
	}
	return bytes;
}

static uint64_t unread_datagrams(struct show *show, uint32_t id)
{
	const struct image_record *record;
	uint64_t bytes = 0;
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_DATAGRAM, id, &cursor))) {
		_cleanup_message_ Datagram *message = show_unpack(show, record, &datagram__descriptor);

		bytes += message ? message->data.len : 0;
	}
	return bytes;
}

static uint32_t add_inet(struct show *show, const InetSocket *socket, json_t *object)
{
	const char *kind = socket->proto == IPPROTO_TCP ? "tcp" : socket->proto == IPPROTO_UDP ? "udp" : "inet socket";

	set_text(object, "kind", kind);
	set_text(object, "state", state_name(socket->state));
	set_address(object, "local", socket->family, socket->n_src_addr, socket->src_addr, socket->src_port);
	if (socket->dst_port)
		set_address(object, "remote", socket->family, socket->n_dst_addr, socket->dst_addr, socket->dst_port);
	json_object_set_new(object, "unread",
			    show_number(unread_socket(show, socket->id) + unread_datagrams(show, socket->id)));
	return socket->flags;
}

static uint32_t add_unix(struct show *show, const UnixSocket *socket, json_t *object)
{
	const uint8_t *name = socket->name.data;
	size_t size = socket->name.len;

	set_text(object, "kind", "unix");
	set_text(object, "type", socket_type(socket->type));
	set_text(object, "state", state_name(socket->state));
	json_object_set_new(object, "inode", show_number(socket->ino));
	if (socket->peer)
		json_object_set_new(object, "peer", show_number(socket->peer));
	if (size && name[0] == '\0') /* abstract */
		json_object_set_new(object, "name", json_pack("s+%", "@", name + 1, size - 1));
	else if (size)
		json_object_set_new(object, "name", show_text(name, strnlen((const char *)name, size)));
	json_object_set_new(object, "unread", show_number(unread_socket(show, socket->id)));
	return socket->flags;
}

/* What has to do with interfaces. */
static uint32_t add_link(const OpenFile *file, json_t *object)
{
	if (file->nlsk) {
		set_text(object, "kind", "netlink");
		json_object_set_new(object, "protocol", show_number(file->nlsk->protocol));
		json_object_set_new(object, "port", show_number(file->nlsk->portid));
		return file->nlsk->flags;
	}
	set_text(object, "kind", file->psk ? "packet" : "tun");
	if (file->psk ? file->psk->interface : file->tunf->netdev)
		set_text(object, "interface", file->psk ? file->psk->interface : file->tunf->netdev);
	return file->psk ? file->psk->flags : file->tunf->flags;
}

static uint32_t add_regular(const RegularFile *file, json_t *object)
{
	set_text(object, "kind", regular_kind(file));
	set_text(object, "path", file->name);
	json_object_set_new(object, "offset", show_number(file->pos));
	return file->flags;
}

static uint32_t add_pipe(struct show *show, const PipeEnd *pipe, json_t *object)
{
	set_text(object, "kind", "pipe");
	json_object_set_new(object, "pipe", show_number(pipe->pipe_id));
	set_text(object, "end", (pipe->flags & O_ACCMODE) == O_RDONLY ? "reading" : "writing");
	json_object_set_new(object, "unread", show_number(unread_pipe(show, IMAGE_PIPE_DATA, pipe->pipe_id)));
	return pipe->flags;
}

static uint32_t add_fifo(struct show *show, const FifoEnd *fifo, json_t *object)
{
	const OpenFile *file = fifo->has_regf_id ? show_file(show, fifo->regf_id) : NULL;

	set_text(object, "kind", "fifo");
	if (file && file->reg)
		set_text(object, "path", file->reg->name);
	json_object_set_new(object, "unread", show_number(unread_pipe(show, IMAGE_FIFO_DATA, fifo->pipe_id)));
	return file && file->reg ? file->reg->flags : 0;
}

static uint32_t add_timer(const TimerFd *timer, json_t *object)
{
	set_text(object, "kind", "timerfd");
	json_object_set_new(object, "clock", show_number(timer->clockid));
	json_object_set_new(object, "left_seconds", json_real((double)timer->vsec + (double)timer->vnsec / 1e9));
	json_object_set_new(object, "interval_seconds", json_real((double)timer->isec + (double)timer->insec / 1e9));
	return timer->flags;
}

static uint32_t add_inotify(const InotifyFd *inotify, json_t *object)
{
	json_t *list = json_array();

	set_text(object, "kind", "inotify");
	for (size_t i = 0; i < inotify->n_wd; i++)
		if (inotify->wd[i]->f_handle->path)
			json_array_append_new(list, show_text(inotify->wd[i]->f_handle->path,
							      strlen(inotify->wd[i]->f_handle->path)));
	json_object_set_new(object, "watches", list);
	return inotify->flags;
}

static uint32_t add_epoll(const EpollFd *epoll, json_t *object)
{
	json_t *list = json_array();

	set_text(object, "kind", "epoll");
	for (size_t i = 0; i < epoll->n_tfd; i++)
		json_array_append_new(list, show_number(epoll->tfd[i]->tfd));
	json_object_set_new(object, "watches", list);
	return epoll->flags;
}

/* Fills in what the open file is, and returns its flags. */
static uint32_t add_open_file(struct show *show, const OpenFile *file, json_t *object)
{
	if (file->reg)
		return add_regular(file->reg, object);
	if (file->pipe)
		return add_pipe(show, file->pipe, object);
	if (file->fifo)
		return add_fifo(show, file->fifo, object);
	if (file->isk)
		return add_inet(show, file->isk, object);
	if (file->usk)
		return add_unix(show, file->usk, object);
	if (file->psk || file->nlsk || file->tunf)
		return add_link(file, object);
	if (file->tfd)
		return add_timer(file->tfd, object);
	if (file->ify)
		return add_inotify(file->ify, object);
	if (file->epfd)
		return add_epoll(file->epfd, object);
	if (file->efd) {
		set_text(object, "kind", "eventfd");
		json_object_set_new(object, "counter", show_number(file->efd->counter));
		return file->efd->flags;
	}
	if (file->tty) {
		const OpenFile *path = file->tty->has_regf_id ? show_file(show, file->tty->regf_id) : NULL;

		set_text(object, "kind", "terminal");
		if (path && path->reg)
			set_text(object, "path", path->reg->name);
		return file->tty->flags;
	}
	if (file->sgfd) {
		set_text(object, "kind", "signalfd");
		json_object_set_new(object, "signals", show_address(file->sgfd->sigmask));
		return file->sgfd->flags;
	}
	if (file->uring) {
		set_text(object, "kind", "io_uring");
		json_object_set_new(object, "entries", show_number(file->uring->sq_entries));
		return file->uring->flags;
	}
	if (file->ffy) {
		set_text(object, "kind", "fanotify");
		json_object_set_new(object, "marks", show_number(file->ffy->n_mark));
		return file->ffy->flags;
	}
	if (file->pidfd) {
		set_text(object, "kind", "pidfd");
		json_object_set_new(object, "pid", json_integer(file->pidfd->nspid));
		return file->pidfd->flags;
	}
	if (file->nsf) {
		set_text(object, "kind", "namespace");
		return file->nsf->flags;
	}
	if (file->memfd) {
		set_text(object, "kind", "memfd");
		json_object_set_new(object, "object", show_number(file->memfd->inode_id));
		json_object_set_new(object, "offset", show_number(file->memfd->pos));
		return file->memfd->flags;
	}
	set_text(object, "kind", "unknown");
	return 0;
}

/* ---- descriptors */

/* As open(2) spells them. */
static json_t *show_flags(uint32_t flags)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {
		{ O_APPEND, "O_APPEND" }, { O_NONBLOCK, "O_NONBLOCK" }, { O_SYNC, "O_SYNC" }, { O_DIRECT, "O_DIRECT" },
		{ O_DIRECTORY, "O_DIRECTORY" }, { O_NOFOLLOW, "O_NOFOLLOW" }, { O_PATH, "O_PATH" }, { O_ASYNC, "O_ASYNC" },
		{ O_NOATIME, "O_NOATIME" },
	};
	static const char *const modes[] = { "O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE" };
	json_t *list = json_array();

	json_array_append_new(list, json_string(modes[flags & O_ACCMODE]));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if ((flags & names[i].bit) == names[i].bit)
			json_array_append_new(list, json_string(names[i].name));
	return list;
}

static json_t *show_locks(const Descriptor *descriptor)
{
	json_t *list = json_array();

	for (size_t i = 0; i < descriptor->n_locks; i++)
		json_array_append_new(list, show_message(&descriptor->locks[i]->base));
	return list;
}

json_t *show_descriptors(struct show *show, uint32_t files_id)
{
	const struct image_record *record;
	json_t *list = json_array();
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_FDINFO, files_id, &cursor))) {
		_cleanup_message_ Descriptor *descriptor = show_unpack(show, record, &descriptor__descriptor);
		const OpenFile *file = descriptor ? show_file(show, descriptor->id) : NULL;
		json_t *object;

		if (!descriptor)
			continue;
		object = json_pack("{s:I, s:I, s:b}", "fd", (json_int_t)descriptor->fd, "id", (json_int_t)descriptor->id,
				   "close_on_exec", descriptor->flags != 0);
		if (file)
			json_object_set_new(object, "flags", show_flags(add_open_file(show, file, object)));
		else
			set_text(object, "kind", "unknown");
		if (descriptor->n_locks)
			json_object_set_new(object, "locks", show_locks(descriptor));
		json_array_append_new(list, object);
	}
	return list;
}
