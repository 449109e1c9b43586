/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections that nobody has accepted: taken out of the queues of listening sockets at the freeze, described, and put back
 * if the tree goes on here. For inet-socket.c; dump.h has what a migration calls.
 */
#pragma once

#include <sys/types.h>

#include "dump/dump.h"
#include "dump/inet.h"
#include "tcp-stream.pb-c.h"
#include "util/error.h"

/* accept-holder.c: the process that holds what was taken, and puts it back whatever becomes of us. */
struct dump_holder {
	pid_t pid;
	int fd; /* owned */
};

/* With the reason, when nothing can be put back here. */
int dump_holder_start(struct dump_holder *ret, struct error *error);
/* Calls `each` for each connection that waits at `listener`, in order, with a descriptor that is closed then. */
int dump_holder_take(struct dump_holder *holder, int listener, int (*each)(void *context, int fd, struct error *error),
		     void *context, struct error *error);
/* A connection that it holds; as dump_tcp_read() otherwise. */
int dump_holder_read(int fd, TcpStream *message, struct buffer *data, uint32_t *ret_state, struct error *error);
/* Ends the process: all is back in its queue, or, with `forget`, gone without a word to the peers. */
int dump_holder_end(struct dump_holder *holder, bool forget, struct error *error);

/*
 * accept-queue.c: records of what waits at a listening socket whose process stands still. 1: it was done; 0: it cannot be, and
 * nothing has happened.
 */
int dump_accept_queue_take(struct dump_context *ctx, struct dump_inet *inet, const struct dump_inet_socket *listener,
			   struct error *error);
