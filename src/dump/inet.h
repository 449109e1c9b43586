/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What inet-*.c share of TCP sockets. Nothing here blocks. */
#pragma once

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "dump/file-kind.h"
#include "image/kinds.h"
#include "net/tuples.h"
#include "util/array.h"
#include "util/buffer.h"

union dump_inet_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* What a socket is. */
struct dump_inet_facts {
	int domain, type, protocol;
	uint32_t state; /* TCP_* */
	uint32_t backlog;
	uint32_t waiting; /* connections not accepted */
	union dump_inet_address source; /* port 0: not bound */
	union dump_inet_address destination;
	bool connected; /* `destination` is right */
};

/* May it be moved? */
enum dump_inet_verdict {
	DUMP_INET_MOVES,
	DUMP_INET_NOT_ASKED, /* a connection, and nobody has said what is to become of those */
	DUMP_INET_REFUSED,   /* `kind` says why */
	DUMP_INET_EBPF,      /* what filters its packets cannot be read back */
};

/* What remains of a struct dump_file when its descriptor is closed; then what is found out, by any thread. */
struct dump_inet_socket {
	struct dump_process *process; /* borrowed */
	int number;
	int fd; /* ours; owned once it is noted */
	uint32_t id, ino, flags;
	FileOwner owner;
	bool frozen;
	struct dump_inet_facts facts;
	enum dump_inet_verdict verdict;
	enum image_kind kind;
	struct buffer file;   /* packed: OpenFile; empty unless it moves. These three are owned */
	struct buffer stream; /* packed: TcpStream; empty unless it is a connection that goes along */
	struct buffer queues; /* received, then to be sent */
};

/* A connection over the loopback device. */
struct dump_inet_loopback {
	struct net_tuple tuple;
	struct dump_process *process; /* borrowed */
	int number;
	struct dump_inet_facts facts;
};

struct dump_inet {
	ARRAY(struct dump_inet_socket) tcp; /* at the freeze: noted, not described yet */
	ARRAY(struct dump_inet_loopback) loopback; /* all of them */
};

static inline bool dump_inet_is_connection(const struct dump_inet_facts *facts)
{
	return facts->protocol == IPPROTO_TCP && facts->state != TCP_CLOSE && facts->state != TCP_LISTEN;
}

static inline uint16_t dump_inet_port(const union dump_inet_address *address)
{
	return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

/*
 * inet-examine.c: names, and what does not change any more once it has a peer; then what may change (`info` is left empty
 * where it is not TCP). 0 or a negative errno.
 */
int dump_inet_read_names(int fd, struct dump_inet_facts *ret);
int dump_inet_read_state(int fd, struct dump_inet_facts *facts, struct tcp_info *info);

/*
 * Once the names are known and there is a dump_socket_reference(): the verdict, and if it moves the records. `worker` has
 * ctx->tcp_marks[worker] to itself.
 */
int dump_inet_examine(const struct dump_context *ctx, unsigned worker, struct dump_inet_socket *socket, struct error *error);

/* inet-socket.c: a blocker that names the socket. */
void dump_inet_refuse(struct dump_context *ctx, const struct dump_process *process, int number,
		      const struct dump_inet_facts *facts, enum image_kind kind);

/* inet-loopback.c: notes the socket if it is such a connection; refuses those whose other end is not in the tree. */
int dump_inet_note_loopback(struct dump_context *ctx, struct dump_inet *inet, const struct dump_inet_socket *socket,
			    struct error *error);
void dump_inet_check_loopback(struct dump_context *ctx, struct dump_inet *inet);
