/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets, source side: what unix-list.c (the kernel's list), unix-queue.c (unread data) and unix-socket.c share.
 * Relies on UNIX_DIAG (sock_diag(7)), SO_PEEK_OFF, and SIOCUNIXFILE (Linux 4.14).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "dump/file-kind.h"
#include "util/array.h"

#define UNIX_SHUTDOWN_ALL 3 /* both directions, as the kernel counts */

/* A UNIX socket of this host. */
struct unix_info {
	uint32_t ino;
	uint32_t peer;	   /* 0: none, or one without an inode: closed, or not accepted */
	uint32_t vfs_ino;  /* of the socket file */
	uint32_t waiting;  /* listening: connections not accepted */
	uint32_t backlog;  /* listening */
	size_t first_client; /* listening: index in dump_unix.clients of the first of `waiting` */
	uint8_t type;
	uint8_t state;
	uint8_t shutdown;
	bool has_peer;
};

/* A connected socket of the tree. */
struct unix_seen {
	pid_t pid;
	int number;
	uint32_t ino;
	uint32_t peer;
	bool waiting;  /* connected, and not accepted */
	bool has_sent; /* ... and has sent something already */
	bool frozen;
};

/* A listening socket of the tree at which connections wait. */
struct unix_listener {
	pid_t pid;
	int number;
	uint32_t ino;
	size_t first, count; /* in dump_unix.clients */
};

/* A socket of the tree with something in its queue. */
struct unix_full {
	int fd;			      /* our descriptor, owned */
	struct dump_process *process; /* whose; borrowed */
	int number;
	uint32_t id;
	uint8_t type;
	bool no_reading; /* shut down */
};

struct dump_unix {
	ARRAY(struct unix_info) all; /* by inode number */
	ARRAY(uint32_t) clients;     /* inode numbers of those that wait to be accepted; 0: closed since */
	ARRAY(struct unix_seen) seen;
	ARRAY(struct unix_listener) listeners;
	ARRAY(struct unix_full) full;
};

/* unix-list.c: the entry of an inode in the list, which is read on first use; `again`: read anew. NULL: there is none. */
int dump_unix_find(struct dump_context *ctx, ino_t ino, bool again, const struct unix_info **ret, struct error *error);

/* unix-queue.c: notes a socket whose queue is to be read later. */
int dump_unix_note_full(struct dump_context *ctx, const struct dump_file *file, const struct unix_info *info,
			struct error *error);
/* Adds the records of what lies in the queues of all that were noted, and of the open files that lie in there. */
int dump_unix_queues(struct dump_context *ctx, struct error *error);
