/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions of nf_tables over netlink (linux/netfilter/nfnetlink.h, nf_tables.h), for what has to be quick or must not
 * need memory: libnftables parses a language and reads the whole ruleset first.
 */
#pragma once

#include <stdint.h>

#include "util/buffer.h"
#include "util/error.h"

/* One transaction under construction. Zero-initialised it is empty; netlink_batch_deinit() frees. */
struct netlink_batch {
	struct buffer bytes;
	size_t last;  /* where the last message begins */
	int failed;   /* -ENOMEM: nothing more is added, and it is not sent */
};

#define _cleanup_batch_ __attribute__((cleanup(netlink_batch_deinit)))

int netlink_open(int *ret_fd, struct error *error);

/* A message of the batch (NFT_MSG_*); attributes follow. Ended by the next one, or by netlink_batch_send(). */
void netlink_batch_message(struct netlink_batch *batch, unsigned type, unsigned flags);
void netlink_batch_put(struct netlink_batch *batch, unsigned attribute, const void *data, size_t size);
/* Returns where it begins, for netlink_batch_end(). */
size_t netlink_batch_nest(struct netlink_batch *batch, unsigned attribute);
void netlink_batch_end(struct netlink_batch *batch, size_t nest);
/* Commits all or nothing: when it returns, that has happened. The kernel's error as it is, `error` untouched. */
int netlink_batch_send(struct netlink_batch *batch, int fd);
void netlink_batch_deinit(struct netlink_batch *batch);

/* Calls `name` for each table of family inet. */
int netlink_list_tables(int fd, int (*name)(void *context, const char *table), void *context);
