/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections, for inet-socket.c and restore.c. Relies on TCP_REPAIR_WINDOW (Linux 4.8); needs CAP_NET_ADMIN.
 */
#pragma once

#include "restore/file-kind.h"
#include "util/error.h"

/* A connection that is in repair mode until the go: whoever dies before it ends it without a word to the peer. */
struct restore_connection {
	int fd;                    /* ours, owned */
	int reuse;                 /* SO_REUSEADDR: to leave repair mode makes it 0 */
	bool connecting;           /* the program waits for connect(2): begun again at the go */
	socklen_t size;            /* of `peer` */
	union restore_address peer;
};

/* The TCP sockets of `tree` are stopped by tree->lock, if there is one, before the first of them is made. */
int restore_tcp_engage(struct restore_tree *tree, struct error *error);

/*
 * Opens all files that are connections, in repair mode; they are noted for restore_tcp_go(). Nothing where they are not to go
 * on as connections (tcp_close), or nobody has said so.
 */
int restore_tcp_open(struct restore_tree *tree, struct error *error);

/*
 * The lock goes, and each connection leaves repair mode and asks its peer what it has. Before anything of the tree runs. It is
 * too late to fail: what goes wrong is logged.
 */
void restore_tcp_go(struct restore_tree *tree);

/* Closes what restore_tcp_open() has noted. */
void restore_tcp_clear(struct restore_files *files);
