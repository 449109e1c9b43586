/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/tuples.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

union address {
	const struct sockaddr *any;
	const struct sockaddr_in *v4;
	const struct sockaddr_in6 *v6;
};

/* The address family as on the wire; 0: neither. */
static sa_family_t read_end(const struct sockaddr *from, struct net_end *ret)
{
	union address address = { from };

	*ret = (struct net_end){ 0 };
	if (from->sa_family == AF_INET) {
		memcpy(ret->ip, &address.v4->sin_addr, 4);
		ret->port = address.v4->sin_port;
		return AF_INET;
	}
	if (from->sa_family != AF_INET6)
		return 0;
	ret->port = address.v6->sin6_port;
	if (IN6_IS_ADDR_V4MAPPED(&address.v6->sin6_addr)) {
		memcpy(ret->ip, address.v6->sin6_addr.s6_addr + 12, 4);
		return AF_INET;
	}
	memcpy(ret->ip, &address.v6->sin6_addr, 16);
	return AF_INET6;
}

int net_tuples_add(struct net_tuples *tuples, const struct sockaddr *local, const struct sockaddr *remote)
{
	struct net_tuple tuple = { .kind = NET_TUPLE_CONNECTION };

	tuple.family = read_end(local, &tuple.local);
	if (!tuple.family || read_end(remote, &tuple.remote) != tuple.family)
		return -EAFNOSUPPORT;
	return array_append(&tuples->list, tuple);
}

int net_tuples_add_socket(struct net_tuples *tuples, int fd)
{
	struct sockaddr_in6 local = { 0 }, remote = { 0 };
	socklen_t size = sizeof(local);

	if (getsockname(fd, (struct sockaddr *)&local, &size) < 0)
		return -errno;
	/* getpeername(2) tells of no peer that has gone. The peer's address is asked for in its own size. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &remote, &size) < 0)
		return -errno;
	return net_tuples_add(tuples, (struct sockaddr *)&local, (struct sockaddr *)&remote);
}

int net_tuples_add_listening(struct net_tuples *tuples, const struct sockaddr *local, bool v6only)
{
	static const uint8_t any[16];
	struct net_tuple tuple = { .kind = NET_TUPLE_LISTENING };
	int r;

	tuple.family = read_end(local, &tuple.local);
	if (!tuple.family)
		return -EAFNOSUPPORT;
	if (memcmp(tuple.local.ip, any, sizeof(any)) == 0)
		tuple.kind = NET_TUPLE_LISTENING_ANY;
	r = array_append(&tuples->list, tuple);
	if (r < 0 || tuple.family == AF_INET || v6only || tuple.kind != NET_TUPLE_LISTENING_ANY)
		return r;
	tuple.family = AF_INET;
	return array_append(&tuples->list, tuple);
}

void net_tuples_deinit(struct net_tuples *tuples)
{
	array_deinit(&tuples->list);
}
