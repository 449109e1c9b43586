/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection that waits to be accepted, from what was read of it (proto/tcp-stream.proto). */
#pragma once

#include "net/queue.h"
#include "tcp-stream.pb-c.h"
#include "util/error.h"

/*
 * Fills all but the tuple. `data`, borrowed by `ret`, is what was received. -EOPNOTSUPP for what cannot have been waiting as
 * others do: something was sent on it (TCP Fast Open), or its segments are too small for the kernel to make it anew.
 */
int net_waiting_read(const TcpStream *stream, uint32_t state, sa_family_t family, const uint8_t *data, struct net_waiting *ret,
		     struct error *error);
