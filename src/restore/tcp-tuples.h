/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The TCP sockets among the records of a tree, for the lock on them (net/lock.h). */
#pragma once

#include "image/blockers.h"
#include "image/image.h"
#include "net/tuples.h"
#include "util/error.h"

/*
 * Appends an entry for each listener, and unless they are restored as closed (`tcp_close`) for each connection. The caller
 * frees `ret`, after a failure too. -EPROTO: a record is damaged.
 */
int restore_tcp_tuples(const struct image_set *images, bool tcp_close, struct net_tuples *ret, struct error *error);

/* A blocker for each connection whose address is none of this host's, so that nobody would answer its peer. */
void restore_tcp_check_addresses(const struct net_tuples *tuples, struct image_blockers *blockers);
