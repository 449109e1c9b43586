/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections: made, listened for, and set up so that a dead link is noticed. Addresses are texts, "HOST:PORT" or
 * "[V6]:PORT" (util/parse.h). Sockets are close-on-exec.
 *
 * A link counts as dead when the peer's kernel has not answered for `dead_after_ms`: keepalive probes while nothing
 * is on the way, TCP_USER_TIMEOUT (tcp(7)) while something is. Reads and writes then fail with -ETIMEDOUT. The
 * kernel applies the second also to a peer that is alive but does not read: who leaves a full socket unread for
 * longer than `dead_after_ms` loses the connection.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define TCP_DEAD_AFTER_MS_DEFAULT 5000
#define TCP_ADDRESS_MAX 80

struct tcp_options {
	uint32_t dead_after_ms; /* 0: TCP_DEAD_AFTER_MS_DEFAULT; at least 1000 otherwise */
};

/*
 * Connects to the first address of the name that answers; each gets its share of the time that is left. Looking a
 * name up blocks as long as resolv.conf(5) says, whatever the deadline; numeric addresses are not looked up.
 * `cancel_fd` as in stream_set_cancel(). `options` may be NULL. The socket comes back non-blocking and configured.
 */
int tcp_connect(const char *address, const struct tcp_options *options, int64_t deadline, int cancel_fd, int *ret_fd,
		struct error *error);

/*
 * Listens on "[HOST:]PORT"; without a host on all addresses of both families. Port 0: the kernel picks one.
 * `ret_text` (may be NULL) gets the bound address. Non-blocking, SO_REUSEADDR.
 */
int tcp_listen(const char *address, int *ret_fd, char ret_text[TCP_ADDRESS_MAX], struct error *error);

/* Accepts one connection and configures it; -EAGAIN (error not filled in) if there is none. Does not block. */
int tcp_accept(int listen_fd, const struct tcp_options *options, int *ret_fd, char ret_text[TCP_ADDRESS_MAX],
	       struct error *error);

/* What tcp_connect() and tcp_accept() do: TCP_NODELAY, keepalive, TCP_USER_TIMEOUT. For sockets made by others. */
int tcp_configure(int fd, const struct tcp_options *options, struct error *error);

/* "1.2.3.4:5", "[::1]:5"; of the peer. Also for sockets of other kinds: says what they are. */
void tcp_peer_text(int fd, char text[TCP_ADDRESS_MAX]);
