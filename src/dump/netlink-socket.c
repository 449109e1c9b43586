/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Netlink sockets.
 *
 * Model. All facts come from the socket itself: getsockname(2), getpeername(2), NETLINK_LIST_MEMBERSHIPS.
 *
 * Failure modes, all blockers. Unread messages, at the freeze: an answer of this host's kernel cannot be given again, and a
 * program that is told of changes would miss one. Groups of generic netlink, whose numbers each kernel gives anew. Sockets to
 * which the firewall sends packets, as that is bound to them in the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/file-kind.h"
#include "image/socket-options.h"
#include "util/buffer.h"
#include "util/fdio.h"
#include "util/sockopt.h"

#define GROUP_WORDS 64 /* of 32 groups each */
#define LIST_MAX    ((size_t)1 << 20)

static bool match(const struct dump_file *file)
{
	return file->domain == AF_NETLINK;
}

static bool has_unread(const struct dump_file *file)
{
	struct pollfd look = { .fd = file->fd, .events = POLLIN };

	return poll(&look, 1, 0) > 0 && look.revents & (POLLIN | POLLERR);
}

/* Is the port the receiver of a queue or log? "    0   4711     0 2 ..." */
static bool is_listed(const char *path, uint32_t portid)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;

	if (fdio_read_file(-1, path, LIST_MAX, &text) < 0)
		return false;
	for (char *line = strtok((char *)text.data, "\n"); line; line = strtok(NULL, "\n")) {
		unsigned fields[2];

		if (sscanf(line, "%u %u", &fields[0], &fields[1]) == 2 && fields[1] == portid)
			return true;
	}
	return false;
}

static void check(struct dump_context *ctx, const struct dump_file *file, const NetlinkSocket *message)
{
	bool any = false;

	for (size_t i = 0; i < message->n_groups; i++)
		any = any || message->groups[i];
	if (message->protocol == NETLINK_GENERIC && any)
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_NETLINK_GENERIC);
	if (message->protocol == NETLINK_NETFILTER && message->portid &&
	    (is_listed("/proc/net/netfilter/nfnetlink_queue", message->portid) ||
	     is_listed("/proc/net/netfilter/nfnetlink_log", message->portid)))
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_NETLINK_QUEUE);
	if (file->frozen && has_unread(file))
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_NETLINK_UNREAD);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct sockaddr_nl own = { 0 }, peer = { 0 };
	struct image_socket_options *options = NULL;
	socklen_t size = sizeof(own), peer_size = sizeof(peer);
	NetlinkSocket message = NETLINK_SOCKET__INIT;
	uint32_t groups[GROUP_WORDS] = { 0 };
	OpenFile open = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r;

	if (getsockname(file->fd, (struct sockaddr *)&own, &size) < 0 ||
	    getpeername(file->fd, (struct sockaddr *)&peer, &peer_size) < 0)
		return error_set_errno(error, -errno, "looking at a netlink socket");
	message.id = file->id;
	message.ino = (uint32_t)file->st.st_ino;
	message.protocol = (uint32_t)sockopt_get_int(file->fd, SOL_SOCKET, SO_PROTOCOL, -1);
	message.has_type = 1;
	message.type = (uint32_t)sockopt_get_int(file->fd, SOL_SOCKET, SO_TYPE, -1);
	message.flags = file->flags;
	message.portid = own.nl_pid;
	message.dst_portid = peer.nl_pid;
	message.dst_group = peer.nl_groups;
	message.state = peer.nl_pid || peer.nl_groups;
	size = sizeof(groups);
	groups[0] = own.nl_groups;
	if (getsockopt(file->fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) < 0 || size > sizeof(groups))
		size = sizeof(groups[0]);
	message.groups = groups;
	message.n_groups = size / sizeof(groups[0]);
	check(ctx, file, &message);
	r = dump_socket_options(ctx, file, AF_NETLINK, (int)message.type, (int)message.protocol, &options, error);
	if (r != 0)
		return r < 0 ? r : 0;
	message.fown = &owner;
	message.opts = &options->message;
	open.type = FILE_TYPE__FILE_NETLINK_SOCKET;
	open.id = file->id;
	open.nlsk = &message;
	return dump_file_add(ctx, &open, error);
}

const struct dump_file_kind dump_kind_netlink = {
	.name = "netlink socket",
	.type = FILE_TYPE__FILE_NETLINK_SOCKET,
	.match = match,
	.dump = dump,
};
