/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Netlink sockets: bound, with groups beyond the first 32, with options, connected, not bound. A check asks the kernel. */
#include "victim.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

enum { FAR_GROUP = 33 };

struct state {
	int route, generic, fresh;
	struct sockaddr_nl name; /* of `route` */
	unsigned sequence;
};

static int get(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_NETLINK, name, &value, &size) < 0 ? -1 : value;
}

static void setup(struct state *s)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_RULE};
	socklen_t size = sizeof(s->name);
	int group = FAR_GROUP, one = 1;

	s->route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	MUST(s->route >= 0 && bind(s->route, (struct sockaddr *)&address, sizeof(address)) == 0);
	MUST(setsockopt(s->route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) == 0);
	MUST(setsockopt(s->route, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one)) == 0);
	MUST(getsockname(s->route, (struct sockaddr *)&s->name, &size) == 0);
	s->generic = socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_GENERIC);
	address.nl_groups = 0;
	MUST(s->generic >= 0 && connect(s->generic, (struct sockaddr *)&address, sizeof(address)) == 0);
	s->fresh = socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT);
	MUST(s->fresh >= 0);
}

static bool ask(struct victim *v, struct state *s)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
	} request = {.header = {.nlmsg_len = sizeof(request), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST,
				.nlmsg_seq = ++s->sequence},
		     .link.ifi_index = (int)if_nametoindex("lo")};
	union {
		struct nlmsghdr header;
		char room[16384];
	} answer;
	ssize_t got;

	CHECK(v, send(s->route, &request, sizeof(request), 0) == sizeof(request), "send: %m");
	CHECK(v, WAIT_FOR((got = recv(s->route, &answer, sizeof(answer), MSG_DONTWAIT)) > 0, 2000), "no answer");
	CHECK(v, answer.header.nlmsg_type == RTM_NEWLINK && answer.header.nlmsg_seq == s->sequence &&
	      answer.header.nlmsg_pid == s->name.nl_pid, "another answer: type %d to port %u", answer.header.nlmsg_type,
	      answer.header.nlmsg_pid);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct sockaddr_nl now = {0};
	uint32_t groups[8] = {0};
	socklen_t size = sizeof(now);

	CHECK(v, getsockname(s->route, (struct sockaddr *)&now, &size) == 0 && now.nl_pid == s->name.nl_pid &&
	      now.nl_groups == RTMGRP_IPV4_RULE, "port %u, groups %#x", now.nl_pid, now.nl_groups);
	size = sizeof(groups);
	CHECK(v, getsockopt(s->route, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) == 0 &&
	      groups[1] == 1U << (FAR_GROUP - 33), "the far groups are %#x", groups[1]);
	CHECK(v, get(s->route, NETLINK_EXT_ACK) == 1 && get(s->generic, NETLINK_EXT_ACK) == 0, "NETLINK_EXT_ACK");
	size = sizeof(now);
	CHECK(v, getsockname(s->fresh, (struct sockaddr *)&now, &size) == 0 && now.nl_pid == 0, "one is bound to %u",
	      now.nl_pid);
	return ask(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
