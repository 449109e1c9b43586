/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packet sockets: made without a protocol, so that nothing comes in before filter and interface are set, then bound.
 *
 * Failure modes: an interface that is not here.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "image/socket-options.h"
#include "restore/file-kind.h"

#define FANOUT_FLAGS_KEPT (PACKET_FANOUT_FLAG_ROLLOVER | PACKET_FANOUT_FLAG_DEFRAG | PACKET_FANOUT_FLAG_IGNORE_OUTGOING)
#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000
#endif

static int set_int(int fd, int name, uint32_t value, struct error *error)
{
	if (value != 0 && setsockopt(fd, SOL_PACKET, name, &value, sizeof(value)) < 0)
		return error_set_errno(error, -errno, "option %d of a packet socket", name);
	return 0;
}

static int set_options(int fd, const PacketSocket *message, struct error *error)
{
	int r = set_int(fd, PACKET_VERSION, message->version, error);

	if (r == 0)
		r = set_int(fd, PACKET_RESERVE, message->reserve, error);
	if (r == 0)
		r = set_int(fd, PACKET_AUXDATA, message->aux_data, error);
	if (r == 0)
		r = set_int(fd, PACKET_ORIGDEV, message->orig_dev, error);
	if (r == 0)
		r = set_int(fd, PACKET_VNET_HDR, message->vnet_hdr, error);
	if (r == 0)
		r = set_int(fd, PACKET_LOSS, message->loss, error);
	if (r == 0)
		r = set_int(fd, PACKET_TIMESTAMP, message->timestamp, error);
	if (r == 0)
		r = set_int(fd, PACKET_COPY_THRESH, message->copy_thresh, error);
	if (r == 0)
		r = set_int(fd, PACKET_IGNORE_OUTGOING, message->ignore_outgoing, error);
	return r < 0 ? r : set_int(fd, PACKET_QDISC_BYPASS, message->qdisc_bypass, error);
}

/* The number here of the interface of that name; one that had no name had no number either. */
static int find_interface(const char *name, int *ret, struct error *error)
{
	*ret = name ? (int)if_nametoindex(name) : 0;
	return name && *ret == 0 ? error_set(error, -ENODEV, "there is no interface %s", name) : 0;
}

static int join(int fd, const PacketMembership *membership, struct error *error)
{
	struct packet_mreq request = { .mr_type = (unsigned short)membership->type,
				       .mr_alen = (unsigned short)membership->addr.len };
	int r = find_interface(membership->interface, &request.mr_ifindex, error);

	if (r < 0)
		return r;
	if (membership->addr.len > sizeof(request.mr_address))
		return error_set(error, -EPROTO, "an address of a packet socket is too long");
	memcpy(request.mr_address, membership->addr.data, membership->addr.len);
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request)) < 0)
		return error_set_errno(error, -errno, "membership of a packet socket");
	return 0;
}

static int bind_interface(int fd, const PacketSocket *message, struct error *error)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)message->protocol) };
	int r = find_interface(message->interface, &address.sll_ifindex, error);

	if (r == 0 && (message->protocol || address.sll_ifindex) &&
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		r = error_set_errno(error, -errno, "binding a packet socket");
	for (size_t i = 0; r == 0 && i < message->n_mclist; i++)
		r = join(fd, message->mclist[i], error);
	if (r == 0 && message->has_fanout)
		r = set_int(fd, PACKET_FANOUT, message->fanout & (0xffffff | (uint32_t)FANOUT_FLAGS_KEPT << 16), error);
	return r;
}

static int open_packet(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const PacketSocket *message = file->message->psk;
	int r;

	(void)tree;
	file->fd = socket(AF_PACKET, (int)message->type | SOCK_CLOEXEC, 0);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "making a packet socket");
	r = image_socket_options_write(file->fd, message->opts, error);
	if (r == 0)
		r = set_options(file->fd, message, error);
	if (r == 0)
		r = bind_interface(file->fd, message, error);
	if (r == 0)
		r = image_socket_options_finish(file->fd, message->opts, error);
	return r < 0 ? r : restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_packet = {
	.name = "packet socket",
	.type = FILE_TYPE__FILE_PACKET_SOCKET,
	.open = open_packet,
};
