/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Datagram sockets of IP, target side, for inet-socket.c. Nothing here blocks. */
#pragma once

#include "restore/file-kind.h"

/* inet-socket.c: binds to the socket's own address. */
int restore_inet_bind(int fd, const InetSocket *message, struct error *error);

/*
 * Makes the socket of a record. `images` has what waited in the queue of open file `id`; NULL: nothing is put into it, the
 * socket is only tried. The caller closes `*ret_fd`.
 */
int restore_datagram_make(const InetSocket *message, const struct image_set *images, uint32_t id, int *ret_fd,
			  struct error *error);
