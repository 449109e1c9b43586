/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Segments of TCP as from a peer, given to this host's kernel on its loopback device: whatever addresses they carry, they are
 * taken as for this host, also where that has not the address (yet). They carry NET_LOCK_MARK, which the lock lets pass.
 *
 * Nothing blocks; the kernel has mostly dealt with a segment when the call returns, but need not have.
 * Needs CAP_NET_RAW and CAP_NET_ADMIN, and the loopback device up.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/tuples.h"
#include "util/error.h"

#define NET_SEGMENT_MAX 16384u /* bytes of data */

/* From tuple.remote to tuple.local. */
struct net_segment {
	const struct net_tuple *tuple; /* borrowed */
	uint32_t sequence, acknowledged;
	uint16_t window;
	uint16_t urgent; /* bytes up to and with the urgent one; 0: none */
	bool fin, reset;
	const uint8_t *data; /* borrowed */
	size_t size;	     /* up to NET_SEGMENT_MAX */
};

/* A socket to send them by, for one family, in the network namespace of the calling thread. `priority`: SO_PRIORITY. */
int net_segment_socket(sa_family_t family, uint32_t priority, int *ret_fd, struct error *error);
int net_segment_send(int fd, const struct net_segment *segment);
/* A whole packet, from its IP header on, with the checksum that it needs. */
int net_segment_pass(int fd, sa_family_t family, const uint8_t *packet, size_t size);
