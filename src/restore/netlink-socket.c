/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Netlink sockets: made as they were, under the same port number, which the program may have noted.
 *
 * Failure modes: a port that is taken; a protocol that this kernel lacks.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "image/socket-options.h"
#include "restore/file-kind.h"

static int bind_port(int fd, const NetlinkSocket *message, struct error *error)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_pid = message->portid };

	if (message->portid && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set_errno(error, -errno, "binding a netlink socket to port %u", message->portid);
	for (size_t i = 0; i < message->n_groups * 32; i++) {
		int group = (int)i + 1;

		if (message->groups[i / 32] >> (i % 32) & 1 &&
		    setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
			return error_set_errno(error, -errno, "joining group %d of netlink protocol %u", group,
					       message->protocol);
	}
	address.nl_pid = message->dst_portid;
	address.nl_groups = message->dst_group;
	if (message->state && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set_errno(error, -errno, "connecting a netlink socket");
	return 0;
}

static int open_netlink(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const NetlinkSocket *message = file->message->nlsk;
	int type = message->has_type ? (int)message->type : SOCK_RAW, r;

	(void)tree;
	file->fd = socket(AF_NETLINK, type | SOCK_CLOEXEC, (int)message->protocol);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "making a socket of netlink protocol %u", message->protocol);
	r = image_socket_options_write(file->fd, message->opts, error);
	if (r == 0)
		r = bind_port(file->fd, message, error);
	if (r == 0)
		r = image_socket_options_finish(file->fd, message->opts, error);
	return r < 0 ? r : restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_netlink = {
	.name = "netlink socket",
	.type = FILE_TYPE__FILE_NETLINK_SOCKET,
	.open = open_netlink,
};
