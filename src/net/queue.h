/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections that wait in the queue of a listening socket, until a program accepts them, made anew: with the sequence numbers
 * and options of another one, and with the data that has come for it.
 *
 * Packets of such a connection have to be stopped by a lock (net/lock.h) while it is made: the kernel acknowledges what it is
 * given. Calls block for some hundred microseconds a connection, the first one for some 10 ms, 2 s at most; one thread uses an
 * object, and from the first connection on in one network namespace. Whoever dies leaves nothing behind but what is in queues
 * already.
 *
 * Relies on what queue-program.h and segment.h name; net_queue_try() finds out.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/tuples.h"
#include "util/error.h"

#define NET_QUEUE_MSS_MIN4 536u /* below, the kernel takes no connection */
#define NET_QUEUE_MSS_MIN6 1220u

/* What waits. Nothing was sent on it but its handshake. */
struct net_waiting {
	struct net_tuple tuple;
	uint32_t sent;	   /* our next sequence number */
	uint32_t received; /* the peer's, of the first byte of `data` */
	uint32_t window;   /* bytes that the peer takes */
	uint32_t clock;	   /* our timestamp as of now */
	uint16_t mss;
	bool scales, sacks, timestamps, ecn, microseconds; /* negotiated; the last: `clock` counts these */
	uint8_t send_scale, receive_scale;
	bool has_urgent;     /* `data` has an urgent byte, */
	uint32_t urgent;     /* behind so many */
	bool finished;	     /* the peer has sent its end */
	bool reset;	     /* the peer has reset it: whoever accepts it finds that out */
	const uint8_t *data; /* borrowed */
	size_t size;
};

struct net_queue;

/* Takes some 20 ms; touches nothing yet. -EOPNOTSUPP or -EPERM with what is lacking. */
int net_queue_new(struct net_queue **ret, struct error *error);
void net_queue_free(struct net_queue *queue);

/* What is costly of it is shared; for another network namespace, not at the same time. */
int net_queue_clone(const struct net_queue *queue, struct net_queue **ret, struct error *error);

/* Puts it at the end of the queue of `listener`, which nobody else changes meanwhile. */
int net_queue_put(struct net_queue *queue, int listener, const struct net_waiting *waiting, struct error *error);

/* Does it once, in a network namespace of its own that ends with the call; and looks at settings of the caller's. */
int net_queue_try(const struct net_queue *queue, struct error *error);
