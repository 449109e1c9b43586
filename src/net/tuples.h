/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ends of TCP sockets, as packets name them. IPv4-mapped IPv6 addresses are IPv4 here: that is what is on the wire.
 * Zero-initialised a list is empty. Nothing blocks; the one error is -ENOMEM, and -EAFNOSUPPORT for what is neither IPv4
 * nor IPv6.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "util/array.h"

enum net_tuple_kind {
	NET_TUPLE_CONNECTION, /* local and remote */
	NET_TUPLE_LISTENING,  /* local only */
	NET_TUPLE_LISTENING_ANY, /* port only, on all addresses of the host */
};

struct net_end {
	uint8_t ip[16]; /* network byte order; IPv4: the first 4 bytes, the others 0 */
	uint16_t port;  /* network byte order */
};

struct net_tuple {
	enum net_tuple_kind kind;
	sa_family_t family; /* AF_INET or AF_INET6 */
	struct net_end local, remote;
};

struct net_tuples {
	ARRAY(struct net_tuple) list;
};

/* A connection in whatever state; also one that a listener has, but nobody has accepted yet. */
int net_tuples_add(struct net_tuples *tuples, const struct sockaddr *local, const struct sockaddr *remote);
/* Of a socket, also when its peer has ended the connection. Errors of getsockname(2). */
int net_tuples_add_socket(struct net_tuples *tuples, int fd);
/* A listening socket. [::] without `v6only` takes IPv4, too. */
int net_tuples_add_listening(struct net_tuples *tuples, const struct sockaddr *local, bool v6only);
void net_tuples_deinit(struct net_tuples *tuples);
