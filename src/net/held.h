/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packets that a lock has dropped on their way in, kept to be delivered when it is gone: their senders would send them again,
 * but after 200 ms at the earliest, and a first packet after a second. The rule of the lock logs them (nfnetlink_log(7), with
 * CONFIG_NFT_LOG), the kernel keeps them in the buffer of a netlink socket, and nobody has to read that before the end. What
 * does not fit is lost, as without all this.
 *
 * Kept packets may be given on another host: they travel as one run of bytes, each as its size (32 bits, of the host's order)
 * and then the packet from its IP header on. Nothing blocks. Needs CAP_NET_ADMIN and CAP_NET_RAW.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "net/tuples.h"
#include "util/buffer.h"
#include "util/error.h"

#define NET_HELD_MAX (256u << 10) /* bytes that are taken at once */

struct net_held;

/* `ret_group`: what the rule has to name. -EOPNOTSUPP: the kernel has nothing of the kind. In this network namespace. */
int net_held_new(struct net_held **ret, uint16_t *ret_group, struct error *error);
/* What has been kept since the last call, as far as it fits, is appended; the rest is forgotten. 0 or -ENOMEM. */
int net_held_take(struct net_held *held, struct buffer *packets);
/* Forgets what is kept. NULL is fine. */
void net_held_free(struct net_held *held);

/*
 * Delivers those packets that are for a connection of `tuples`, or the first one for a listener among them, and that are whole;
 * others are passed over. Returns how many were delivered, or a negative errno.
 */
int net_held_give(const uint8_t *packets, size_t size, const struct net_tuples *tuples, struct error *error);
