/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections, target side: the mirror of dump/tcp.c.
 *
 * Model. A socket in repair mode is told where it stands and connects without a packet. It stays in repair mode until the go,
 * so that a tree that is given up before it ends without a reset. All that a program has written is in the kernel before
 * that: nothing of ours has to live for a connection to be whole.
 *
 * Happy path. Buffers large enough; bind, with an address that may come to this host only later; sequence numbers; connect;
 * what was negotiated; the receive queue (tcp-urgent.c); what was sent, then what was not. While the window of the peer is not
 * known yet it is 0, so the latter stays unsent also outside of repair mode, in which alone it can be queued as such. Then
 * windows, FIN, sizes.
 *
 * One byte that is acknowledged already is queued before what was sent: a new socket knows no round-trip time, and waits
 * seconds before it sends again what was lost between freeze and go. With that byte the first acknowledgement, which the probe
 * of the go asks for, acknowledges something, and so tells the time. The peer has that byte and drops it if it ever comes.
 *
 * A FIN of the peer has no way into a socket but by a packet. The connection is made without it, with the sequence number
 * behind it, and shut down for reading: the program reads the end, the peer sees its FIN acknowledged. The state is called
 * ESTABLISHED instead of CLOSE_WAIT, and FIN_WAIT instead of CLOSING and LAST_ACK.
 *
 * A connection costs some thirty system calls, and at the go a packet: all processors share them.
 *
 * Failure modes: the connection exists here already; no route to the peer; no memory.
 */
#include "restore/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "image/socket-options.h"
#include "image/tcp-repair.h"
#include "net/lock.h"
#include "restore/tcp-tuples.h"
#include "restore/tcp-urgent.h"
#include "tcp-stream.pb-c.h"
#include "util/cleanup.h"
#include "util/parallel.h"
#include "util/sockopt.h"

#define CHUNK 32768u          /* bytes of a queue in one call: one piece of memory of the kernel */
#define QUEUE_MAX (32u << 20) /* as on the source */
#define ROOM_MIN (1u << 20)
#define SHARE 32 /* connections for one thread: a new one takes as long as some */

/* A record, unpacked. */
struct stream {
	TcpStream *message; /* owned */
	const uint8_t *received;
	const uint8_t *written;
	uint32_t sent; /* bytes of `written` that were sent */
};

/* Shut down by the program: a FIN of ours has a sequence number. */
static bool has_own_fin(uint32_t state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

static bool has_their_fin(uint32_t state)
{
	return state == TCP_CLOSE_WAIT || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

static int read_stream(const struct image_set *images, uint32_t ino, struct stream *ret, struct error *error)
{
	size_t cursor = 0, wanted;
	const struct image_record *record = image_set_next(images, IMAGE_TCP_STREAM, ino, &cursor), *data;
	const TcpStream *message;
	int r;

	if (!record)
		return error_set(error, -EPROTO, "nothing is said of connection %u", ino);
	r = image_unpack(record, tcp_stream, &ret->message, error);
	if (r < 0)
		return r;
	message = ret->message;
	if (message->inq_len > QUEUE_MAX || message->outq_len > QUEUE_MAX || message->unsq_len > message->outq_len ||
	    (message->has_urgent && message->urgent >= message->inq_len))
		return error_set(error, -EPROTO, "the queues of connection %u are damaged", ino);
	wanted = (size_t)message->inq_len + message->outq_len;
	data = wanted ? image_set_next(images, IMAGE_TCP_STREAM, ino, &cursor) : NULL;
	if (wanted && (!data || data->size != wanted))
		return error_set(error, -EPROTO, "the data of connection %u is damaged", ino);
	ret->received = data ? data->data : NULL;
	ret->written = data ? data->data + message->inq_len : NULL;
	ret->sent = message->outq_len - message->unsq_len;
	return 0;
}

/* ---- steps */

/* Where nothing is queued the kernel's own sizes do. */
static int make_room(int fd, const TcpStream *message)
{
	int r = 0;

	if (message->inq_len > 0)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, (int)(ROOM_MIN + 2 * message->inq_len));
	if (r == 0 && message->outq_len > 0)
		r = sockopt_set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, (int)(ROOM_MIN + 2 * message->outq_len));
	return r;
}

static int set_sequence(int fd, int queue, uint32_t number)
{
	int r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);

	return r < 0 ? r : sockopt_set_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)number);
}

/* Bytes (with our FIN) that the peer may not have acknowledged, and was sent. */
static bool is_waiting(const InetSocket *socket, const struct stream *stream)
{
	bool fin = has_own_fin(socket->state) && socket->state != TCP_FIN_WAIT2 && !stream->message->fin_unsent;

	return fin || stream->sent > 0;
}

static int connect_quietly(int fd, const InetSocket *socket, const struct stream *stream, struct error *error)
{
	const TcpStream *message = stream->message;
	uint32_t own = message->outq_seq - message->outq_len - has_own_fin(socket->state) - is_waiting(socket, stream);
	union restore_address source, peer;
	socklen_t size = restore_inet_address(socket, false, &source), peer_size = restore_inet_address(socket, true, &peer);
	bool transparent = false, freebind = false;
	socklen_t bool_size = sizeof(int);
	int value = 0, r;

	if (size == 0 || peer_size == 0)
		return error_set(error, -EPROTO, "a connection's address is damaged");
	if (getsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &value, &bool_size) == 0)
		transparent = value;
	/* Both let bind(2) take an address that is not here; connect(2) asks for the second. */
	if (sockopt_set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1) < 0)
		(void)sockopt_set_int(fd, IPPROTO_IP, IP_FREEBIND, freebind = 1);
	if (bind(fd, &source.any, size) < 0)
		return error_set_errno(error, -errno, "binding a connection");
	r = set_sequence(fd, TCP_RECV_QUEUE, message->inq_seq - message->inq_len);
	if (r == 0)
		r = set_sequence(fd, TCP_SEND_QUEUE, own);
	if (r < 0)
		return error_set_errno(error, r, "setting sequence numbers");
	if (connect(fd, &peer.any, peer_size) < 0)
		return error_set_errno(error, -errno,
				       errno == EADDRNOTAVAIL ? "this connection exists already" : "connecting quietly");
	(void)sockopt_set_int(fd, IPPROTO_IP, IP_TRANSPARENT, transparent);
	if (freebind != (socket->ip_opts && socket->ip_opts->freebind))
		(void)sockopt_set_int(fd, IPPROTO_IP, IP_FREEBIND, !freebind);
	return 0;
}

static int negotiate(int fd, const TcpStream *message)
{
	struct tcp_repair_opt options[4];
	size_t count = 0;
	int r;

	options[count++] = (struct tcp_repair_opt){ .opt_code = TCPOPT_MAXSEG, .opt_val = message->mss_clamp };
	if (message->opt_mask & TCPI_OPT_SACK)
		options[count++] = (struct tcp_repair_opt){ .opt_code = TCPOPT_SACK_PERMITTED };
	if (message->opt_mask & TCPI_OPT_WSCALE)
		options[count++] = (struct tcp_repair_opt){ .opt_code = TCPOPT_WINDOW,
							    .opt_val = message->snd_wscale | message->rcv_wscale << 16 };
	if (message->opt_mask & TCPI_OPT_TIMESTAMPS)
		options[count++] = (struct tcp_repair_opt){ .opt_code = TCPOPT_TIMESTAMP };
	r = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, (socklen_t)(count * sizeof(options[0]))) < 0 ? -errno : 0;
	if (r == 0 && message->opt_mask & TCPI_OPT_TIMESTAMPS && message->has_timestamp)
		r = sockopt_set_int(fd, IPPROTO_TCP, TCP_TIMESTAMP, (int)message->timestamp);
	return r;
}

static int put(int fd, const uint8_t *data, uint32_t size)
{
	while (size > 0) {
		ssize_t done = send(fd, data, size < CHUNK ? size : CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (done <= 0)
			return done < 0 && errno != EAGAIN ? -errno : -ENOMEM;
		data += done;
		size -= (uint32_t)done;
	}
	return 0;
}

static int put_unsent(int fd, const InetSocket *socket, const struct stream *stream)
{
	int r = image_tcp_set(fd, IMAGE_TCP_QUIET);

	if (r == 0)
		r = put(fd, stream->written + stream->sent, stream->message->unsq_len);
	if (r == 0 && has_own_fin(socket->state) && shutdown(fd, SHUT_WR) < 0)
		r = -errno;
	return r < 0 ? r : image_tcp_set(fd, IMAGE_TCP_REPAIR);
}

static int put_received(int fd, const struct stream *stream, struct error *error)
{
	const TcpStream *message = stream->message;
	uint32_t plain = message->has_urgent ? message->urgent : message->inq_len;
	int r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);

	if (r == 0)
		r = put(fd, stream->received, plain);
	if (r < 0 || !message->has_urgent)
		return r;
	r = restore_tcp_put_urgent(fd, stream->received[plain], message->urgent_read, error);
	if (r == 0)
		r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
	return r < 0 ? r : put(fd, stream->received + plain + 1, message->inq_len - plain - 1);
}

static int fill_queues(int fd, const InetSocket *socket, const struct stream *stream, struct error *error)
{
	const TcpStream *message = stream->message;
	bool unsent = message->unsq_len > 0 || message->fin_unsent;
	int r = 0;

	if (message->inq_len > 0)
		r = put_received(fd, stream, error);
	if (r == 0)
		r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	if (r == 0 && is_waiting(socket, stream))
		r = put(fd, (const uint8_t *)"", 1);
	if (r == 0)
		r = put(fd, stream->written, stream->sent);
	if (r == 0 && unsent)
		r = put_unsent(fd, socket, stream);
	else if (r == 0 && has_own_fin(socket->state) && shutdown(fd, SHUT_WR) < 0)
		r = -errno;
	if (r == 0)
		r = sockopt_set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
	return r;
}

static int set_windows(int fd, const TcpStream *message)
{
	const struct tcp_repair_window window = {
		.snd_wl1 = message->snd_wl1, .snd_wnd = message->snd_wnd, .max_window = message->max_window,
		.rcv_wnd = message->rcv_wnd, .rcv_wup = message->rcv_wup,
	};

	if (!message->has_rcv_wup)
		return 0;
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)) < 0 ? -errno : 0;
}

static int make_connected(int fd, const InetSocket *socket, const struct stream *stream, struct error *error)
{
	int r = connect_quietly(fd, socket, stream, error);

	if (r < 0)
		return r;
	r = negotiate(fd, stream->message);
	if (r < 0)
		return error_set_errno(error, r, "setting what a connection has negotiated");
	r = fill_queues(fd, socket, stream, error);
	if (r < 0)
		return error_set_errno(error, r, "filling the queues of a connection");
	r = set_windows(fd, stream->message);
	if (r == 0 && (has_their_fin(socket->state) || socket->shutdown == SOCKET_SHUTDOWN__SHUTDOWN_READ) &&
	    shutdown(fd, SHUT_RD) < 0)
		r = -errno;
	return r < 0 ? error_set_errno(error, r, "setting the windows of a connection") : 0;
}

/* The number of its SYN is that of the first one: to the peer it is the same SYN again. */
static int make_connecting(int fd, const InetSocket *socket, const TcpStream *message, struct error *error)
{
	union restore_address source;
	socklen_t size = restore_inet_address(socket, false, &source);
	int r;

	if (size == 0)
		return error_set(error, -EPROTO, "a connection's address is damaged");
	(void)sockopt_set_int(fd, IPPROTO_IP, IP_FREEBIND, 1);
	if (bind(fd, &source.any, size) < 0)
		return error_set_errno(error, -errno, "binding a connection");
	(void)sockopt_set_int(fd, IPPROTO_IP, IP_FREEBIND, socket->ip_opts && socket->ip_opts->freebind);
	r = set_sequence(fd, TCP_SEND_QUEUE, message->outq_seq - 1);
	return r < 0 ? error_set_errno(error, r, "setting a sequence number") : 0;
}

static int note(struct restore_files *files, int fd, const InetSocket *socket, struct error *error)
{
	struct restore_connection connection = { .reuse = socket->opts->reuseaddr,
						 .connecting = socket->state == TCP_SYN_SENT };

	connection.size = restore_inet_address(socket, true, &connection.peer);
	if (connection.size == 0)
		return error_set(error, -EPROTO, "a connection's address is damaged");
	connection.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (connection.fd < 0)
		return error_set_errno(error, -errno, "keeping a connection");
	if (array_append(&files->connections, connection) < 0) {
		close(connection.fd);
		return error_set(error, -ENOMEM, "no memory for connections");
	}
	return 0;
}

/* Others have no socket of a program, or hold no connection. */
static bool is_connection(uint32_t state)
{
	return state == TCP_ESTABLISHED || state == TCP_SYN_SENT || state == TCP_CLOSE_WAIT || has_own_fin(state);
}

/* By any thread: the tree is only read. */
static int open_one(const struct restore_tree *tree, const InetSocket *message, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int fd = socket((int)message->family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	struct stream stream = { 0 };
	_cleanup_message_ TcpStream *owned = NULL;
	int r;

	if (!is_connection(message->state))
		return error_set(error, -EPROTO, "a TCP connection in state %u", message->state);
	if (fd < 0)
		return error_set_errno(error, -errno, "making a socket");
	r = read_stream(tree->images, message->ino, &stream, error);
	owned = stream.message;
	if (r < 0)
		return r;
	if (message->family == AF_INET6 && message->has_v6only)
		(void)sockopt_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, message->v6only);
	r = image_socket_options_write(fd, message->opts, error);
	if (r < 0)
		return r;
	r = make_room(fd, stream.message);
	if (r == 0)
		r = image_tcp_set(fd, IMAGE_TCP_REPAIR);
	if (r < 0)
		return error_set_errno(error, r, "putting a socket into repair mode");
	r = message->state == TCP_SYN_SENT ? make_connecting(fd, message, stream.message, error)
					   : make_connected(fd, message, &stream, error);
	if (r == 0)
		r = image_socket_options_finish_connection(fd, message->opts, error);
	if (r == 0)
		r = restore_file_set(fd, message->flags, message->fown, error);
	if (r == 0)
		*ret_fd = steal_fd(&fd);
	return r;
}

struct opening {
	const struct restore_tree *tree;
	ARRAY(struct restore_file *) files;
};

static int open_index(void *context, unsigned worker, size_t index, struct error *error)
{
	struct opening *opening = context;
	struct restore_file *file = opening->files.items[index];
	int r = open_one(opening->tree, file->message->isk, &file->fd, error);

	return r < 0 ? error_wrap(error, r, "open file %u", file->id) : 0;
}

int restore_tcp_open(struct restore_tree *tree, struct error *error)
{
	struct opening opening = { .tree = tree };
	int r = 0;

	if (!tree->options->tcp_established || tree->options->tcp_close)
		return 0;
	array_for_each (file, &tree->files->list)
		if (r == 0 && file->kind == &restore_kind_inet && restore_inet_is_connection(file->message->isk))
			r = array_append(&opening.files, file);
	if (r < 0)
		error_set(error, r, "no memory for connections");
	else
		r = parallel_run(opening.files.count, SHARE, open_index, &opening, error);
	array_for_each (place, &opening.files)
		if (r == 0)
			r = note(tree->files, (*place)->fd, (*place)->message->isk, error);
	array_deinit(&opening.files);
	return r;
}

/* ---- all of them */

int restore_tcp_engage(struct restore_tree *tree, struct error *error)
{
	struct net_tuples tuples = { 0 };
	int r;

	if (!tree->lock)
		return 0;
	r = restore_tcp_tuples(tree->images, tree->options->tcp_close, &tuples, error);
	if (r == 0)
		r = net_lock_engage(tree->lock, &tuples, error);
	net_tuples_deinit(&tuples);
	return r;
}

static int begin_again(const struct restore_connection *connection)
{
	int flags = fcntl(connection->fd, F_GETFL), r = 0;

	if (flags < 0 || fcntl(connection->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	if (connect(connection->fd, &connection->peer.any, connection->size) < 0 && errno != EINPROGRESS)
		r = -errno;
	return fcntl(connection->fd, F_SETFL, flags) < 0 ? -errno : r;
}

struct going {
	struct restore_files *files;
	_Atomic size_t failed;
};

static int go_index(void *context, unsigned worker, size_t index, struct error *error)
{
	struct going *going = context;
	struct restore_connection *connection = &going->files->connections.items[index];
	int r = image_tcp_set(connection->fd, connection->connecting ? IMAGE_TCP_QUIET : IMAGE_TCP_PROBE);

	if (r == 0 && connection->reuse)
		r = sockopt_set_int(connection->fd, SOL_SOCKET, SO_REUSEADDR, connection->reuse);
	if (r == 0 && connection->connecting)
		r = begin_again(connection);
	going->failed += r < 0; /* one failure does not keep it from the others */
	close_fd(&connection->fd);
	return 0;
}

void restore_tcp_go(struct restore_tree *tree)
{
	struct going going = { .files = tree->files };
	struct error error = ERROR_INIT;

	if (tree->lock && net_lock_release(tree->lock, &error) < 0)
		log_error(tree->log, "the lock on the connections stays: %s", error.message);
	if (!tree->files)
		return;
	parallel_run(tree->files->connections.count, SHARE, go_index, &going, NULL);
	if (going.failed)
		log_error(tree->log, "%zu TCP connections could not be let go on", going.failed);
	restore_tcp_clear(tree->files);
}

void restore_tcp_clear(struct restore_files *files)
{
	array_for_each (connection, &files->connections)
		close_fd(&connection->fd);
	array_deinit(&files->connections);
}
