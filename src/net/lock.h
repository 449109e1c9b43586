/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lock that keeps the kernel from answering for connections whose program stands still, or is on its way: an nftables
 * table of our own, `inet pagestream-SESSION-SIDE`, in the network namespace of the calling thread. What it names is dropped
 * in silence in both directions, resets of the kernel's own included, so that a peer sees nothing but a loss of packets and
 * sends again; what was on its way in can be delivered later, too (nft_log, nfnetlink_log; without them it is not). Needs
 * CAP_NET_ADMIN and a kernel with nf_tables (nft_fib_inet for listeners on any address); Linux 5.6.
 *
 * A life: net_lock_new(), net_lock_prepare() while the program runs (milliseconds: the table with its rules and empty sets),
 * net_lock_engage() at the freeze (what has to be quick; more than once, if more is found), net_lock_release().
 *
 * The table belongs to nobody: it outlives the program that made it. Whoever made it removes it on each way out but one, the
 * doubt after COMMIT; net_lock_remove() and net_lock_remove_stale() are for those who come after a crash.
 *
 * Packets that carry the mark NET_LOCK_MARK (SO_MARK) pass: what a restore itself sends to sockets that it makes.
 *
 * What is engaged: packets of the connections named, and the SYNs to listeners named. Not a segment that ends the handshake
 * of a connection that the listener has only half: name these as connections (sock_diag(7) shows them as TCP_SYN_RECV).
 *
 * All calls block, on netlink only; a lock is used by one thread at a time.
 */
#pragma once

#include <stdbool.h>

#include "net/tuples.h"
#include "util/buffer.h"
#include "util/error.h"

#define NET_LOCK_MARK 0x70735452u

/* Which of a session's tables: on one machine there may be several. */
enum net_lock_side {
	NET_LOCK_SOURCE,
	NET_LOCK_TARGET,
	NET_LOCK_CHECKPOINT, /* of a tree that has ended, until it is restored */
};

struct net_lock;

/* Whether this kernel takes such a table from us; leaves nothing. -EOPNOTSUPP or -EPERM, with what was missing. */
int net_lock_probe(struct error *error);

/* `session` is the session as text (any word of at most 64 letters and digits). Opens a socket, touches nothing. */
int net_lock_new(enum net_lock_side side, const char *session, struct net_lock **ret, struct error *error);

/* Makes the table, which drops nothing yet. Once there, it is left as it is. */
int net_lock_prepare(struct net_lock *lock, struct error *error);

/*
 * Adds all of `tuples`, in one transaction: when it returns 0 all of them are dropped, otherwise none more than before. Those
 * that are named already are fine. Prepares the table where that has not been done. An empty list costs nothing.
 */
int net_lock_engage(struct net_lock *lock, const struct net_tuples *tuples, struct error *error);

/* Removes the table. Nothing to remove is success. */
int net_lock_release(struct net_lock *lock, struct error *error);

/*
 * Packets that it has dropped on their way in are kept as far as there is room (net/held.h). They are taken, to be given where
 * the sockets are now; or given here, with `packets` that were taken elsewhere (NULL: none), when the lock is released and its
 * sockets are there. Only those for what the lock was engaged with. How many were given, or a negative errno.
 */
int net_lock_take_held(struct net_lock *lock, struct buffer *packets);
int net_lock_give_held(struct net_lock *lock, const uint8_t *packets, size_t size, struct error *error);

/* Frees the object only: the table stays. NULL is fine. */
void net_lock_free(struct net_lock *lock);

/* The lock of another program's session, by its name. -ENOENT is success. */
int net_lock_remove(enum net_lock_side side, const char *session, struct error *error);

/*
 * Removes the tables of this side whose session `is_live` does not know. Nothing of nf_tables in the kernel is success.
 * Returns how many there were.
 */
int net_lock_remove_stale(enum net_lock_side side, bool (*is_live)(void *context, const char *session), void *context,
			  struct error *error);
