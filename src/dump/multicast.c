/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Multicast groups of a socket.
 *
 * Model. Which groups a socket has joined is told nowhere. Which groups an interface has is told by /proc/net/igmp and igmp6,
 * and MCAST_MSFILTER answers for a group and an interface whether this socket is a member, and with which sources. So each
 * group of each interface is asked for. A group that was joined twice by one socket on one interface is one.
 *
 * Failure modes: more sources than the largest list that the kernel takes (net.ipv4.igmp_max_msf, 10 at first).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/datagram.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define LIST_MAX    ((size_t)1 << 20) /* of /proc/net/igmp */
#define SOURCES_MAX 128

struct search {
	int fd, domain;
	struct dump_arena *arena;
	InetSocket *message;
	size_t room;
};

static void *sockaddr_bytes(struct sockaddr_storage *address, size_t *ret_size)
{
	*ret_size = address->ss_family == AF_INET6 ? 16 : 4;
	return address->ss_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)address)->sin6_addr :
						(void *)&((struct sockaddr_in *)address)->sin_addr;
}

static uint8_t *keep_bytes(struct search *search, struct sockaddr_storage *address, size_t *ret_size)
{
	void *bytes = sockaddr_bytes(address, ret_size);
	uint8_t *copy = dump_arena_take(search->arena, *ret_size);

	return copy ? memcpy(copy, bytes, *ret_size) : NULL;
}

static int add_group(struct search *search, struct group_filter *filter, const char *interface)
{
	MulticastGroup *group = dump_arena_take(search->arena, sizeof(*group));
	InetSocket *message = search->message;

	if (!group)
		return -ENOMEM;
	multicast_group__init(group);
	group->interface = dump_arena_string(search->arena, interface);
	group->group.data = keep_bytes(search, &filter->gf_group, &group->group.len);
	group->exclude = filter->gf_fmode == MCAST_EXCLUDE;
	group->sources = dump_arena_take(search->arena, (filter->gf_numsrc + 1) * sizeof(*group->sources));
	if (!group->interface || !group->group.data || !group->sources)
		return -ENOMEM;
	for (uint32_t i = 0; i < filter->gf_numsrc; i++) {
		group->sources[i].data = keep_bytes(search, &filter->gf_slist[i], &group->sources[i].len);
		if (!group->sources[i].data)
			return -ENOMEM;
	}
	group->n_sources = filter->gf_numsrc;
	if (message->n_groups == search->room) {
		size_t room = search->room ? 2 * search->room : 8;
		MulticastGroup **groups = dump_arena_take(search->arena, room * sizeof(MulticastGroup *));

		if (!groups)
			return -ENOMEM;
		if (message->n_groups > 0)
			memcpy(groups, message->groups, message->n_groups * sizeof(MulticastGroup *));
		message->groups = groups;
		search->room = room;
	}
	message->groups[message->n_groups++] = group;
	return 0;
}

/* Adds the group if the socket is a member on that interface. */
static int ask(struct search *search, unsigned index, const struct sockaddr_storage *address)
{
	union {
		struct group_filter filter;
		char room[GROUP_FILTER_SIZE(SOURCES_MAX)];
	} query;
	socklen_t size = sizeof(query);
	char name[IF_NAMESIZE];

	memset(&query, 0, sizeof(query));
	query.filter.gf_interface = index;
	query.filter.gf_group = *address;
	query.filter.gf_numsrc = SOURCES_MAX;
	if (getsockopt(search->fd, address->ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, MCAST_MSFILTER, &query,
		       &size) < 0)
		return 0;
	if (query.filter.gf_numsrc > SOURCES_MAX)
		return -E2BIG;
	return if_indextoname(index, name) ? add_group(search, &query.filter, name) : 0;
}

/* "2	eth0      :     1      V3", then "				010000E0     1 0:00000000		0" */
static int search_v4(struct search *search, char *text)
{
	unsigned index = 0;
	int r = 0;

	for (char *line = strtok(text, "\n"); r == 0 && line; line = strtok(NULL, "\n")) {
		struct sockaddr_storage address = { .ss_family = AF_INET };
		unsigned group;

		if (line[0] >= '0' && line[0] <= '9')
			index = (unsigned)strtoul(line, NULL, 10);
		else if (index && sscanf(line, " %8X", &group) == 1) {
			((struct sockaddr_in *)&address)->sin_addr.s_addr = group;
			r = ask(search, index, &address);
		}
	}
	return r;
}

/* "2    eth0            ff0200000000000000000001ff000001     1 00000004 0" */
static int search_v6(struct search *search, char *text)
{
	int r = 0;

	for (char *line = strtok(text, "\n"); r == 0 && line; line = strtok(NULL, "\n")) {
		struct sockaddr_storage address = { .ss_family = AF_INET6 };
		struct in6_addr *group = &((struct sockaddr_in6 *)&address)->sin6_addr;
		unsigned index, words[4];

		if (sscanf(line, "%u %*s %8x%8x%8x%8x", &index, &words[0], &words[1], &words[2], &words[3]) != 5)
			continue;
		for (int i = 0; i < 4; i++)
			group->s6_addr32[i] = htonl(words[i]);
		r = ask(search, index, &address);
	}
	return r;
}

int dump_multicast(int fd, int domain, struct dump_arena *arena, InetSocket *message, struct error *error)
{
	struct search search = { .fd = fd, .domain = domain, .arena = arena, .message = message };
	_cleanup_buffer_ struct buffer v4 = BUFFER_INIT, v6 = BUFFER_INIT;
	int r;

	r = fdio_read_file(-1, "/proc/net/igmp", LIST_MAX, &v4);
	if (r >= 0)
		r = search_v4(&search, (char *)v4.data);
	/* There may be no IPv6. */
	if (r >= 0 && domain == AF_INET6 && fdio_read_file(-1, "/proc/net/igmp6", LIST_MAX, &v6) >= 0)
		r = search_v6(&search, (char *)v6.data);
	return r < 0 ? error_set_errno(error, r, "looking for the multicast groups of a socket") : 0;
}
