/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of UNIX sockets: binding to a path that may be taken until the commit. See unix-name.c. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "restore/file-kind.h"

/*
 * Binds `fd` to the name of the message; does nothing without one. `place` says that the socket
 * file is to be put in its place at the commit: false for sockets that got their name from a
 * listening one.
 */
int restore_unix_bind(struct restore_files *files, int fd, const UnixSocket *message, bool place,
		      struct error *error);

/*
 * An address by which a socket that restore_unix_bind() has bound can be reached now. For a path it
 * goes by way of `*ret_directory`, a descriptor that must stay open until the address was used and
 * which the caller closes (-1: none). -ENOENT: it has no name, or one that leads nowhere.
 */
int restore_unix_reach(struct restore_files *files, const UnixSocket *message,
		       struct sockaddr_un *ret_address, socklen_t *ret_size, int *ret_directory);
