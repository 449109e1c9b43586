/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packet sockets.
 *
 * Model. Facts come from the socket itself, and from the kernel's list (PACKET_DIAG of sock_diag(7)): memberships, the
 * threshold for copies, whether there are rings. Interfaces are named, as their numbers differ from host to host. What waits
 * in the queue is lost, as packets may be.
 *
 * Failure modes, all blockers: rings; a group whose packets a BPF program distributes, which cannot be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/packet_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/file-kind.h"
#include "dump/parts.h"
#include "dump/sock-diag.h"
#include "image/socket-options.h"
#include "util/sockopt.h"

#define FANOUT_TYPE(value) ((unsigned)(value) >> 16 & 0xff)

/* What the list says of one socket. */
struct listed {
	uint32_t ino;		  /* that is looked for */
	struct dump_arena *arena; /* borrowed */
	PacketSocket *message;
	bool found, ring;
};

static bool match(const struct dump_file *file)
{
	return file->domain == AF_PACKET;
}

/* ---- the list */

static int add_membership(struct listed *listed, const struct packet_diag_mclist *entry, size_t index)
{
	PacketMembership *membership = dump_arena_take(listed->arena, sizeof(*membership));
	uint8_t *address = dump_arena_take(listed->arena, sizeof(entry->pdmc_addr));
	char name[IF_NAMESIZE];

	if (!membership || !address)
		return -ENOMEM;
	packet_membership__init(membership);
	memcpy(address, entry->pdmc_addr, sizeof(entry->pdmc_addr));
	membership->index = entry->pdmc_index;
	membership->type = entry->pdmc_type;
	membership->addr.data = address;
	membership->addr.len = entry->pdmc_alen <= sizeof(entry->pdmc_addr) ? entry->pdmc_alen : sizeof(entry->pdmc_addr);
	if (if_indextoname(entry->pdmc_index, name))
		membership->interface = dump_arena_string(listed->arena, name);
	listed->message->mclist[index] = membership;
	return 0;
}

static int take_memberships(struct listed *listed, const struct nlattr *attribute)
{
	const struct packet_diag_mclist *entries = nla_data(attribute);
	size_t count = (size_t)nla_len(attribute) / sizeof(*entries);
	int r = 0;

	listed->message->mclist = dump_arena_take(listed->arena, (count + 1) * sizeof(*listed->message->mclist));
	if (!listed->message->mclist)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < count; i++)
		r = add_membership(listed, &entries[i], i);
	if (r == 0)
		listed->message->n_mclist = count;
	return r;
}

static int take_message(struct nlmsghdr *header, void *argument)
{
	struct listed *listed = argument;
	struct nlattr *attributes[PACKET_DIAG_MAX + 1];
	const struct packet_diag_msg *diag = nlmsg_data(header);

	if (diag->pdiag_ino != listed->ino || nlmsg_parse(header, sizeof(*diag), attributes, PACKET_DIAG_MAX, NULL) < 0)
		return 0;
	listed->found = true;
	listed->ring = attributes[PACKET_DIAG_RX_RING] || attributes[PACKET_DIAG_TX_RING];
	if (attributes[PACKET_DIAG_INFO])
		listed->message->copy_thresh =
			((struct packet_diag_info *)nla_data(attributes[PACKET_DIAG_INFO]))->pdi_copy_thresh;
	return attributes[PACKET_DIAG_MCLIST] ? take_memberships(listed, attributes[PACKET_DIAG_MCLIST]) : 0;
}

static int read_list(struct listed *listed, struct error *error)
{
	struct packet_diag_req request = { .sdiag_family = AF_PACKET,
					   .pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG };

	return dump_sock_diag(&request, sizeof(request), true, take_message, listed, "the packet sockets of this host", error);
}

/* ---- one socket */

static void fill_message(const struct dump_file *file, const struct sockaddr_ll *address, PacketSocket *message,
			 char interface[IF_NAMESIZE])
{
	int fanout = sockopt_get_int(file->fd, SOL_PACKET, PACKET_FANOUT, -1);

	message->id = file->id;
	message->type = (uint32_t)sockopt_get_int(file->fd, SOL_SOCKET, SO_TYPE, -1);
	message->protocol = ntohs(address->sll_protocol);
	message->flags = file->flags;
	message->ifindex = (uint32_t)address->sll_ifindex;
	if (address->sll_ifindex > 0)
		message->interface = if_indextoname((unsigned)address->sll_ifindex, interface);
	message->version = (uint32_t)sockopt_get_int(file->fd, SOL_PACKET, PACKET_VERSION, -1);
	message->reserve = (uint32_t)sockopt_get_int(file->fd, SOL_PACKET, PACKET_RESERVE, -1);
	message->aux_data = sockopt_get_int(file->fd, SOL_PACKET, PACKET_AUXDATA, -1) > 0;
	message->orig_dev = sockopt_get_int(file->fd, SOL_PACKET, PACKET_ORIGDEV, -1) > 0;
	message->vnet_hdr = sockopt_get_int(file->fd, SOL_PACKET, PACKET_VNET_HDR, -1) > 0;
	message->loss = sockopt_get_int(file->fd, SOL_PACKET, PACKET_LOSS, -1) > 0;
	message->timestamp = (uint32_t)sockopt_get_int(file->fd, SOL_PACKET, PACKET_TIMESTAMP, -1);
	message->has_fanout = fanout > 0;
	message->fanout = fanout > 0 ? (uint32_t)fanout : 0;
	message->has_ignore_outgoing = message->has_qdisc_bypass = 1;
	message->ignore_outgoing = sockopt_get_int(file->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, -1) > 0;
	message->qdisc_bypass = sockopt_get_int(file->fd, SOL_PACKET, PACKET_QDISC_BYPASS, -1) > 0;
}

static int add_record(struct dump_context *ctx, const struct dump_file *file, PacketSocket *message, struct error *error)
{
	struct image_socket_options *options = NULL;
	OpenFile open = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r = dump_socket_options(ctx, file, AF_PACKET, (int)message->type, 0, &options, error);

	if (r != 0)
		return r < 0 ? r : 0;
	message->fown = &owner;
	message->opts = &options->message;
	open.type = FILE_TYPE__FILE_PACKET_SOCKET;
	open.id = file->id;
	open.psk = message;
	return dump_file_add(ctx, &open, error);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct dump_arena arena = { 0 };
	PacketSocket message = PACKET_SOCKET__INIT;
	struct listed listed = { .ino = (uint32_t)file->st.st_ino, .arena = &arena, .message = &message };
	struct sockaddr_ll address = { 0 };
	socklen_t size = sizeof(address);
	char interface[IF_NAMESIZE];
	int r;

	if (getsockname(file->fd, (struct sockaddr *)&address, &size) < 0)
		return error_set_errno(error, -errno, "looking at a packet socket");
	fill_message(file, &address, &message, interface);
	r = read_list(&listed, error);
	if (r == 0 && !listed.found)
		dump_file_block(ctx, file, "this socket belongs to another network namespace",
				"run this program in the network namespace of the process");
	if (r == 0 && listed.ring)
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_PACKET_RING);
	if (r == 0 && (FANOUT_TYPE(message.fanout) == PACKET_FANOUT_CBPF || FANOUT_TYPE(message.fanout) == PACKET_FANOUT_EBPF))
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_PACKET_FANOUT);
	if (r == 0)
		r = add_record(ctx, file, &message, error);
	dump_arena_deinit(&arena);
	return r;
}

const struct dump_file_kind dump_kind_packet = {
	.name = "packet socket",
	.type = FILE_TYPE__FILE_PACKET_SOCKET,
	.match = match,
	.dump = dump,
};
