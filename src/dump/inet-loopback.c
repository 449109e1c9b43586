/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection over the loopback device reaches nobody from another host, unless both of its ends are in the tree: all of them
 * are noted, and those whose other end was not met are blockers.
 */
#include <stdlib.h>
#include <string.h>

#include "dump/inet.h"

static bool is_loopback(const union dump_inet_address *address)
{
	if (address->any.sa_family == AF_INET)
		return ntohl(address->v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr) ||
	       (IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr) && address->v6.sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

int dump_inet_note_loopback(struct dump_context *ctx, struct dump_inet *inet, const struct dump_inet_socket *socket,
			    struct error *error)
{
	const struct dump_inet_facts *facts = &socket->facts;
	struct dump_inet_loopback loopback = { .process = socket->process, .number = socket->number, .facts = *facts };
	struct net_tuples tuples = { 0 };
	int r;

	if (!facts->connected || !is_loopback(&facts->destination))
		return 0;
	r = net_tuples_add(&tuples, &facts->source.any, &facts->destination.any);
	if (r == 0) {
		loopback.tuple = tuples.list.items[0];
		r = array_append(&inet->loopback, loopback);
	}
	net_tuples_deinit(&tuples);
	return r < 0 ? error_set_errno(error, r, "noting a connection") : 0;
}

static int compare_ends(const struct net_end *a, const struct net_end *b)
{
	int order = memcmp(a->ip, b->ip, sizeof(a->ip));

	return order ? order : (a->port > b->port) - (a->port < b->port);
}

static int compare_loopback(const void *left, const void *right)
{
	const struct net_tuple *a = &((const struct dump_inet_loopback *)left)->tuple;
	const struct net_tuple *b = &((const struct dump_inet_loopback *)right)->tuple;
	int order = (a->family > b->family) - (a->family < b->family);

	if (order == 0)
		order = compare_ends(&a->local, &b->local);
	return order ? order : compare_ends(&a->remote, &b->remote);
}

void dump_inet_check_loopback(struct dump_context *ctx, struct dump_inet *inet)
{
	if (ctx->options->tcp_loopback || ctx->options->tcp_close || inet->loopback.count == 0)
		return;
	qsort(inet->loopback.items, inet->loopback.count, sizeof(inet->loopback.items[0]), compare_loopback);
	array_for_each (end, &inet->loopback) {
		struct dump_inet_loopback other = { .tuple = end->tuple };

		other.tuple.local = end->tuple.remote;
		other.tuple.remote = end->tuple.local;
		if (!bsearch(&other, inet->loopback.items, inet->loopback.count, sizeof(other), compare_loopback))
			dump_inet_refuse(ctx, end->process, end->number, &end->facts, IMAGE_KIND_TCP_LOOPBACK);
	}
}
