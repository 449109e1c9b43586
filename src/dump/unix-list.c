/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's list of all UNIX sockets of a network namespace (UNIX_DIAG), read once a collection.
 *
 * A connection that was not accepted yet has no inode number: its other end tells 0 as its peer, and the listening socket
 * tells the inode numbers of those other ends, in the order in which they will be accepted.
 */
#include <errno.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dump/sock-diag.h"
#include "dump/unix.h"

static int take_clients(struct dump_unix *sockets, struct unix_info *info, const struct nlattr *attribute)
{
	const uint32_t *clients = nla_data(attribute);
	size_t count = (size_t)nla_len(attribute) / sizeof(*clients);

	info->first_client = sockets->clients.count;
	info->waiting = (uint32_t)count;
	for (size_t i = 0; i < count; i++)
		if (array_append(&sockets->clients, clients[i]) < 0)
			return -ENOMEM;
	return 0;
}

static int take_message(struct nlmsghdr *header, void *argument)
{
	struct dump_unix *sockets = argument;
	struct nlattr *attributes[UNIX_DIAG_MAX + 1];
	struct unix_diag_msg *diag = nlmsg_data(header);
	struct unix_info info;

	if (nlmsg_parse(header, sizeof(*diag), attributes, UNIX_DIAG_MAX, NULL) < 0)
		return 0;
	info = (struct unix_info){ .ino = diag->udiag_ino, .type = diag->udiag_type, .state = diag->udiag_state };
	if (attributes[UNIX_DIAG_PEER]) {
		info.has_peer = true;
		info.peer = nla_get_u32(attributes[UNIX_DIAG_PEER]);
	}
	if (attributes[UNIX_DIAG_SHUTDOWN])
		info.shutdown = nla_get_u8(attributes[UNIX_DIAG_SHUTDOWN]);
	if (attributes[UNIX_DIAG_VFS])
		info.vfs_ino = ((struct unix_diag_vfs *)nla_data(attributes[UNIX_DIAG_VFS]))->udiag_vfs_ino;
	if (attributes[UNIX_DIAG_RQLEN])
		info.backlog = ((struct unix_diag_rqlen *)nla_data(attributes[UNIX_DIAG_RQLEN]))->udiag_wqueue;
	if (attributes[UNIX_DIAG_ICONS] && take_clients(sockets, &info, attributes[UNIX_DIAG_ICONS]) < 0)
		return -ENOMEM;
	return array_append(&sockets->all, info);
}

static int compare_info(const void *left, const void *right)
{
	const struct unix_info *a = left, *b = right;

	return (a->ino > b->ino) - (a->ino < b->ino);
}

static int read_list(struct dump_unix *sockets, struct error *error)
{
	struct unix_diag_req request = { .sdiag_family = AF_UNIX,
					 .udiag_states = UINT32_MAX,
					 .udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN |
						       UDIAG_SHOW_ICONS };
	int r;

	array_clear(&sockets->all);
	r = dump_sock_diag(&request, sizeof(request), true, take_message, sockets, "the UNIX sockets of this host", error);
	if (r < 0)
		return r;
	if (sockets->all.count > 1)
		qsort(sockets->all.items, sockets->all.count, sizeof(sockets->all.items[0]), compare_info);
	return 0;
}

int dump_unix_find(struct dump_context *ctx, ino_t ino, bool again, const struct unix_info **ret, struct error *error)
{
	struct unix_info key = { .ino = (uint32_t)ino };
	struct dump_files *files = ctx->files;
	bool first = !files->sockets;

	if (first)
		files->sockets = calloc(1, sizeof(*files->sockets));
	if (!files->sockets)
		return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	if (first || again) {
		int r = read_list(files->sockets, error);

		if (r < 0)
			return r;
	}
	*ret = files->sockets->all.count == 0 ? NULL :
						bsearch(&key, files->sockets->all.items, files->sockets->all.count,
							sizeof(key), compare_info);
	return 0;
}

void dump_unix_free(struct dump_unix *sockets)
{
	if (!sockets)
		return;
	array_for_each (full, &sockets->full)
		close(full->fd);
	array_deinit(&sockets->all);
	array_deinit(&sockets->clients);
	array_deinit(&sockets->seen);
	array_deinit(&sockets->listeners);
	array_deinit(&sockets->full);
	free(sockets);
}
