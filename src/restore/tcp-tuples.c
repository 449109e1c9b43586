/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "restore/tcp-tuples.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "fdinfo.pb-c.h"
#include "image/kinds.h"
#include "restore/accept-queue.h"
#include "util/cleanup.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static bool read_address(const InetSocket *message, const uint32_t *words, size_t count, uint32_t port, union address *ret)
{
	*ret = (union address){ 0 };
	if (message->family == AF_INET && count == 1) {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_port = htons((uint16_t)port);
		memcpy(&ret->v4.sin_addr, words, 4);
		return true;
	}
	if (message->family == AF_INET6 && count == 4) {
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_port = htons((uint16_t)port);
		memcpy(&ret->v6.sin6_addr, words, 16);
		return true;
	}
	return false;
}

static int add_socket(const InetSocket *message, bool tcp_close, struct net_tuples *tuples)
{
	union address local, remote;

	if (!read_address(message, message->src_addr, message->n_src_addr, message->src_port, &local))
		return -EPROTO;
	if (message->state == TCP_LISTEN)
		return net_tuples_add_listening(tuples, &local.any, message->v6only);
	if (tcp_close || !message->n_dst_addr)
		return 0;
	if (!read_address(message, message->dst_addr, message->n_dst_addr, message->dst_port, &remote))
		return -EPROTO;
	return net_tuples_add(tuples, &local.any, &remote.any);
}

int restore_tcp_tuples(const struct image_set *images, bool tcp_close, struct net_tuples *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ OpenFile *file = NULL;
		int r = image_unpack(record, open_file, &file, error);

		if (r < 0)
			return r;
		if (file->type != FILE_TYPE__FILE_INET_SOCKET || !file->isk || file->isk->proto != IPPROTO_TCP ||
		    file->isk->state == TCP_CLOSE)
			continue;
		r = add_socket(file->isk, tcp_close, ret);
		if (r < 0)
			return error_set_errno(error, r, "looking at the addresses of a TCP socket");
	}
	return tcp_close ? 0 : restore_accept_queue_tuples(images, ret, error);
}

static bool same_ip(const struct net_tuple *a, const struct net_tuple *b)
{
	return a->family == b->family && memcmp(a->local.ip, b->local.ip, sizeof(a->local.ip)) == 0;
}

/* Whether it is an address of this host. A link-local one is not asked for: it belongs to an interface. */
static bool is_ours(const struct net_tuple *tuple)
{
	union address address = { 0 };
	_cleanup_fd_ int fd = socket(tuple->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	address.any.sa_family = tuple->family;
	if (tuple->family == AF_INET)
		memcpy(&address.v4.sin_addr, tuple->local.ip, 4);
	else
		memcpy(&address.v6.sin6_addr, tuple->local.ip, 16);
	if (tuple->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&address.v6.sin6_addr))
		return true;
	return fd < 0 || bind(fd, &address.any, sizeof(address)) == 0 || errno != EADDRNOTAVAIL;
}

void restore_tcp_check_addresses(const struct net_tuples *tuples, struct image_blockers *blockers)
{
	struct image_kind_facts facts = image_kind_get(IMAGE_KIND_TCP_ADDRESS);
	const struct net_tuple *last = NULL; /* most have the same */
	bool ours = true;

	array_for_each(tuple, &tuples->list) {
		char local[INET6_ADDRSTRLEN] = "?", remote[INET6_ADDRSTRLEN] = "?";

		if (tuple->kind != NET_TUPLE_CONNECTION)
			continue;
		if (!last || !same_ip(tuple, last))
			ours = is_ours(tuple);
		last = tuple;
		if (ours)
			continue;
		inet_ntop(tuple->family, tuple->local.ip, local, sizeof(local));
		inet_ntop(tuple->family, tuple->remote.ip, remote, sizeof(remote));
		image_blockers_add(blockers, 0, "address", facts.cause, facts.remedy, "%s of a TCP connection to %s, port %u",
				   local, remote, ntohs(tuple->remote.port));
	}
}
