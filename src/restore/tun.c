/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues of TUN and TAP interfaces.
 *
 * Happy path: /dev/net/tun is opened, attached to the interface of the same name, which comes into being by that unless it is
 * there already; a new one is set as the source's was. An interface that is there (a persistent one that the host has
 * prepared) is left as it is.
 *
 * Failure modes: another interface has the name, or another program the queue; a setting that the kernel refuses. An interface
 * of ours goes with its last queue when the restore fails; a persistent one is made that when all files are open, and stays
 * if anything goes wrong after that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "restore/file-kind.h"
#include "util/cleanup.h"

/* ---- the interface */

static void put_v4(struct sockaddr *place, const void *bytes)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	memcpy(&address.sin_addr, bytes, 4);
	memcpy(place, &address, sizeof(address));
}

/* The first address of IPv4 is the interface's own, others get names of their own (labels). */
static int add_v4(int fd, const char *name, const TunAddress *message, unsigned number)
{
	uint32_t mask = htonl(message->prefix == 0 ? 0 : UINT32_MAX << (32 - message->prefix));
	struct ifreq request = { 0 };
	char label[IFNAMSIZ + 12];

	snprintf(label, sizeof(label), number ? "%s:%u" : "%s", name, number);
	if (strlen(label) >= IFNAMSIZ)
		return -ENAMETOOLONG;
	memcpy(request.ifr_name, label, strlen(label));
	put_v4(&request.ifr_addr, message->address.data);
	if (ioctl(fd, SIOCSIFADDR, &request) < 0)
		return -errno;
	put_v4(&request.ifr_netmask, &mask);
	if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
		return -errno;
	if (message->peer.len != 4)
		return 0;
	put_v4(&request.ifr_dstaddr, message->peer.data);
	return ioctl(fd, SIOCSIFDSTADDR, &request) < 0 ? -errno : 0;
}

static int add_v6(const char *name, const TunAddress *message)
{
	_cleanup_fd_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct in6_ifreq request = { .ifr6_prefixlen = message->prefix, .ifr6_ifindex = (int)if_nametoindex(name) };

	if (fd < 0)
		return -errno;
	memcpy(&request.ifr6_addr, message->address.data, 16);
	return ioctl(fd, SIOCSIFADDR, &request) < 0 && errno != EEXIST ? -errno : 0;
}

static int add_addresses(int fd, const TunFile *message, struct error *error)
{
	unsigned number = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < message->n_addresses; i++) {
		const TunAddress *address = message->addresses[i];

		if (address->address.len == 4 && address->prefix <= 32)
			r = add_v4(fd, message->netdev, address, number++);
		else if (address->address.len == 16 && address->prefix <= 128)
			r = add_v6(message->netdev, address);
		else
			r = -EPROTO;
	}
	return r < 0 ? error_set_errno(error, r, "an address of the interface %s", message->netdev) : 0;
}

static int set_interface(const TunFile *message, struct error *error)
{
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { 0 };
	int r = fd < 0 ? -errno : 0;

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", message->netdev);
	if (r == 0 && message->mac.len == 6) {
		request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
		memcpy(request.ifr_hwaddr.sa_data, message->mac.data, 6);
		r = ioctl(fd, SIOCSIFHWADDR, &request) < 0 ? -errno : 0;
	}
	request.ifr_mtu = (int)message->mtu;
	if (r == 0 && message->has_mtu && ioctl(fd, SIOCSIFMTU, &request) < 0)
		r = -errno;
	if (r == 0 && ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		r = -errno;
	if (r == 0 && message->up) {
		request.ifr_flags |= IFF_UP;
		r = ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
	}
	if (r < 0)
		return error_set_errno(error, r, "setting up the interface %s", message->netdev);
	return add_addresses(fd, message, error);
}

/* ---- the queue */

static int attach(int fd, const TunFile *message, struct error *error)
{
	struct ifreq request = { .ifr_flags = (short)message->mode };
	bool is_new = if_nametoindex(message->netdev) == 0;
	int value, r = 0;

	if (strlen(message->netdev) >= sizeof(request.ifr_name))
		return error_set(error, -EPROTO, "name of an interface is too long");
	memcpy(request.ifr_name, message->netdev, strlen(message->netdev));
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return error_set_errno(error, -errno, "attaching to the interface %s", message->netdev);
	value = (int)message->header;
	if (message->has_header && ioctl(fd, TUNSETVNETHDRSZ, &value) < 0)
		r = -errno;
	value = (int)message->sndbuf;
	if (r == 0 && message->has_sndbuf && ioctl(fd, TUNSETSNDBUF, &value) < 0)
		r = -errno;
	if (r == 0 && is_new && message->has_owner && ioctl(fd, TUNSETOWNER, message->owner) < 0)
		r = -errno;
	if (r == 0 && is_new && message->has_group && ioctl(fd, TUNSETGROUP, message->group) < 0)
		r = -errno;
	if (r < 0)
		return error_set_errno(error, r, "setting up a queue of the interface %s", message->netdev);
	return is_new ? set_interface(message, error) : 0;
}

static int open_tun(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const TunFile *message = file->message->tunf;
	int r;

	(void)tree;
	file->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "opening /dev/net/tun");
	r = message->netdev ? attach(file->fd, message, error) : 0;
	if (r == 0 && message->fown)
		r = restore_file_set(file->fd, message->flags, message->fown, error);
	return r;
}

/* When all files are open: what outlives the tree, and what other queues had to be there for. */
static int finish_tun(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const TunFile *message = file->message->tunf;
	struct ifreq request = { .ifr_flags = IFF_DETACH_QUEUE };

	(void)tree;
	if (!message->netdev)
		return 0;
	if (message->persistent && ioctl(file->fd, TUNSETPERSIST, 1) < 0)
		return error_set_errno(error, -errno, "keeping the interface %s", message->netdev);
	if (message->detached && ioctl(file->fd, TUNSETQUEUE, &request) < 0)
		return error_set_errno(error, -errno, "detaching a queue of the interface %s", message->netdev);
	return 0;
}

const struct restore_file_kind restore_kind_tun = {
	.name = "TUN queue",
	.type = FILE_TYPE__FILE_TUN,
	.open = open_tun,
	.finish = finish_tun,
};
