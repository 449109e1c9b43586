/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues of TUN and TAP interfaces (/dev/net/tun).
 *
 * Model. TUNGETIFF tells the interface and its mode. The interface lives as long as a queue does unless it is persistent, so
 * what it is set to comes along: state, MTU, addresses, hardware address of a TAP. Routes, and what other programs have set on
 * the interface, are the host's. Packets that wait are lost, as packets may be. What the program offered to offload
 * (TUNSETOFFLOAD), and BPF programs that steer or filter, show nowhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/parts.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define TUN_MAJOR 10
#define TUN_MINOR 200

static bool match(const struct dump_file *file)
{
	return S_ISCHR(file->st.st_mode) && file->st.st_rdev == makedev(TUN_MAJOR, TUN_MINOR) && !(file->flags & O_PATH);
}

/* An id of the interface's owner; false when there is none. */
static bool read_id(const char *name, const char *what, uint32_t *ret)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	char path[96];
	long value;

	snprintf(path, sizeof(path), "/sys/class/net/%s/%s", name, what);
	if (fdio_read_file(-1, path, 64, &text) < 0)
		return false;
	value = strtol((const char *)text.data, NULL, 10);
	*ret = (uint32_t)value;
	return value >= 0;
}

static uint32_t prefix_length(const uint8_t *mask, size_t size)
{
	uint32_t bits = 0;

	for (size_t i = 0; i < size; i++)
		bits += (uint32_t)__builtin_popcount(mask[i]);
	return bits;
}

static uint8_t *copy_address(struct dump_arena *arena, const struct sockaddr *address, size_t *ret_size)
{
	bool v6 = address->sa_family == AF_INET6;
	uint8_t *copy = dump_arena_take(arena, 16);

	*ret_size = v6 ? 16 : 4;
	return copy ? memcpy(copy, v6 ? (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr :
					(const void *)&((const struct sockaddr_in *)address)->sin_addr, *ret_size) :
		      NULL;
}

static int add_address(struct dump_arena *arena, const struct ifaddrs *entry, TunFile *message)
{
	TunAddress *address = dump_arena_take(arena, sizeof(*address));
	uint8_t *mask;
	size_t size;

	if (!address)
		return -ENOMEM;
	tun_address__init(address);
	address->address.data = copy_address(arena, entry->ifa_addr, &address->address.len);
	mask = copy_address(arena, entry->ifa_netmask, &size);
	if (!address->address.data || !mask)
		return -ENOMEM;
	address->prefix = prefix_length(mask, size);
	if (entry->ifa_addr->sa_family == AF_INET && entry->ifa_flags & IFF_POINTOPOINT && entry->ifa_dstaddr) {
		address->has_peer = 1;
		address->peer.data = copy_address(arena, entry->ifa_dstaddr, &address->peer.len);
		if (!address->peer.data)
			return -ENOMEM;
	}
	message->addresses[message->n_addresses++] = address;
	return 0;
}

/* Link-local addresses of IPv6 come by themselves. */
static bool is_wanted(const struct ifaddrs *entry, const char *name)
{
	if (!entry->ifa_addr || !entry->ifa_netmask || strcmp(entry->ifa_name, name) != 0)
		return false;
	return entry->ifa_addr->sa_family == AF_INET ||
	       (entry->ifa_addr->sa_family == AF_INET6 &&
		!IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)entry->ifa_addr)->sin6_addr));
}

static int fill_addresses(struct dump_arena *arena, const char *name, TunFile *message)
{
	struct ifaddrs *list;
	size_t count = 0;
	int r = 0;

	if (getifaddrs(&list) < 0)
		return -errno;
	for (const struct ifaddrs *entry = list; entry; entry = entry->ifa_next)
		count += is_wanted(entry, name);
	message->addresses = dump_arena_take(arena, (count + 1) * sizeof(*message->addresses));
	if (!message->addresses)
		r = -ENOMEM;
	for (const struct ifaddrs *entry = list; r == 0 && entry; entry = entry->ifa_next)
		if (is_wanted(entry, name))
			r = add_address(arena, entry, message);
	freeifaddrs(list);
	return r;
}

static int fill_interface(struct dump_arena *arena, const char *name, TunFile *message)
{
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { 0 };

	if (fd < 0)
		return -errno;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return -errno;
	message->has_up = 1;
	message->up = (request.ifr_flags & IFF_UP) != 0;
	if (ioctl(fd, SIOCGIFMTU, &request) < 0)
		return -errno;
	message->has_mtu = 1;
	message->mtu = (uint32_t)request.ifr_mtu;
	if (message->mode & IFF_TAP && ioctl(fd, SIOCGIFHWADDR, &request) == 0) {
		message->has_mac = 1;
		message->mac.len = 6;
		message->mac.data = dump_arena_take(arena, 6);
		if (!message->mac.data)
			return -ENOMEM;
		memcpy(message->mac.data, request.ifr_hwaddr.sa_data, 6);
	}
	message->has_owner = read_id(name, "owner", &message->owner);
	message->has_group = read_id(name, "group", &message->group);
	return fill_addresses(arena, name, message);
}

static int fill_queue(const struct dump_file *file, struct dump_arena *arena, const struct ifreq *request, TunFile *message)
{
	int value;

	message->netdev = dump_arena_string(arena, request->ifr_name);
	if (!message->netdev)
		return -ENOMEM;
	message->has_mode = message->has_persistent = message->has_detached = 1;
	message->mode = (uint16_t)request->ifr_flags & (IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
	message->persistent = (request->ifr_flags & IFF_PERSIST) != 0;
	message->detached = (request->ifr_flags & IFF_DETACH_QUEUE) != 0;
	if (ioctl(file->fd, TUNGETSNDBUF, &value) == 0) {
		message->has_sndbuf = 1;
		message->sndbuf = (uint32_t)value;
	}
	if (message->mode & IFF_VNET_HDR && ioctl(file->fd, TUNGETVNETHDRSZ, &value) == 0) {
		message->has_header = 1;
		message->header = (uint32_t)value;
	}
	return fill_interface(arena, request->ifr_name, message);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct dump_arena arena = { 0 };
	struct ifreq request = { 0 };
	TunFile message = TUN_FILE__INIT;
	OpenFile open = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r = 0;

	message.id = file->id;
	message.has_flags = 1;
	message.flags = file->flags;
	message.fown = &owner;
	/* EBADFD: attached to nothing. */
	if (ioctl(file->fd, TUNGETIFF, &request) == 0)
		r = fill_queue(file, &arena, &request, &message);
	else if (errno != EBADFD)
		r = -errno;
	if (r < 0)
		error_set_errno(error, r, "looking at the interface %s", request.ifr_name);
	open.type = FILE_TYPE__FILE_TUN;
	open.id = file->id;
	open.tunf = &message;
	if (r == 0)
		r = dump_file_add(ctx, &open, error);
	dump_arena_deinit(&arena);
	return r;
}

const struct dump_file_kind dump_kind_tun = {
	.name = "TUN queue",
	.type = FILE_TYPE__FILE_TUN,
	.match = match,
	.dump = dump,
};
