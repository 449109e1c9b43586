/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets, target side: what unix-socket.c (making them), unix-creds.c (by whom), unix-name.c (where) and unix-queue.c
 * (what lies in them) share. The tree's thread makes all calls; none blocks.
 */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "restore/file-kind.h"
#include "sk-packet.pb-c.h"

#define RESTORE_UNIX_QUEUE_BUFFER (8 << 20) /* bytes a sender may have on their way while queues are filled */

/* ---- unix-socket.c */

static inline bool restore_unix_is(const struct restore_file *file)
{
	return file->message->type == FILE_TYPE__FILE_UNIX_SOCKET;
}

/* The socket that had this inode number on the source, or NULL. */
struct restore_file *restore_unix_find(struct restore_files *files, uint32_t ino);

/* ---- unix-creds.c: `who` is what SO_PEERCRED is to tell; NULL: does not matter. -errno is that of the call. */

/* Says that one end of a pair will be wanted. */
int restore_unix_expect_end(struct restore_files *files, int type, const SocketCredentials *who);
/* The caller closes both. */
int restore_unix_pair(struct restore_tree *tree, int type, const SocketCredentials *who, int ret_ends[2],
		      struct error *error);
int restore_unix_listen(struct restore_tree *tree, int fd, int backlog, const SocketCredentials *who,
			struct error *error);
int restore_unix_connect(struct restore_tree *tree, int fd, const struct sockaddr_un *address, socklen_t size,
			 const SocketCredentials *who, struct error *error);
/* Closes pairs that were not taken. */
void restore_unix_pairs_clear(struct restore_files *files);

/* ---- unix-name.c */

/*
 * Binds `fd` to the name of the message; does nothing without one. `place` says that the socket
 * file is to be put in its place at the commit: false for sockets that got their name from a
 * listening one.
 */
int restore_unix_bind(struct restore_files *files, int fd, const UnixSocket *message, bool place,
		      struct error *error);

/*
 * An address by which a socket that restore_unix_bind() has bound with `place` can be reached now, by any process of this
 * host's. For a path it goes by way of `*ret_directory`, a descriptor that must stay open until the address was used and
 * which the caller closes (-1: none). -ENOENT: it has no name.
 */
int restore_unix_reach(struct restore_files *files, const UnixSocket *message,
		       struct sockaddr_un *ret_address, socklen_t *ret_size, int *ret_directory);

/* Removes the files of sockets whose name led nowhere on the source, after which restore_unix_reach() misses them. */
void restore_unix_forget_deleted(struct restore_files *files);

/* ---- unix-queue.c */

/* Opens what lies in queues and is open nowhere else. */
int restore_unix_open_in_flight(struct restore_tree *tree, const struct image_set *images, struct error *error);
/* Sends unread data into the queues, from the other ends. */
int restore_unix_fill_queues(struct restore_files *files, const struct image_set *images, struct error *error);
