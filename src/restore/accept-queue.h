/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP connections that nobody has accepted, for inet-socket.c and tcp-tuples.c. Relies on net/queue.h. */
#pragma once

#include <stdbool.h>

#include "net/tuples.h"
#include "restore/file-kind.h"
#include "util/error.h"

/* Puts into the queue of `fd` what waited in that of the listening socket `message`. Their packets are stopped. */
int restore_accept_queue_fill(struct restore_tree *tree, const InetSocket *message, int fd, struct error *error);

/* Adds the addresses of all that waited. */
int restore_accept_queue_tuples(const struct image_set *images, struct net_tuples *tuples, struct error *error);

/* Whether a set has such connections, and, as a blocker, that this host cannot make them. */
bool restore_accept_queue_is_needed(const struct image_set *images);
void restore_accept_queue_check(const struct image_set *images, struct image_blockers *blockers);
