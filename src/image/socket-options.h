/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options of sockets: one table for both sides. Read on the source from a descriptor fetched there,
 * written on the target to the socket made here. Relies on socket(7), tcp(7), ip(7), ipv6(7),
 * udp(7); an option that the kernel does not know is left out.
 */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "sk-opts.pb-c.h"
#include "util/error.h"

#define IMAGE_SOCKET_OTHERS_MAX 96
#define IMAGE_SOCKET_VALUE_MAX	32

/*
 * A SocketOptions message and the memory that it points to. It must not be moved once it is read
 * into.
 */
struct image_socket_options {
	SocketOptions message;
	SocketOption others[IMAGE_SOCKET_OTHERS_MAX];
	SocketOption *other_pointers[IMAGE_SOCKET_OTHERS_MAX];
	uint8_t values[IMAGE_SOCKET_OTHERS_MAX]
		      [IMAGE_SOCKET_VALUE_MAX];	  /* by place in the table of options */
	socklen_t sizes[IMAGE_SOCKET_OTHERS_MAX]; /* likewise; 0: there is no such option */
	uint64_t *filter;			  /* owned: a classic filter, NULL without one */
	char device[IFNAMSIZ];			  /* SO_BINDTODEVICE */
};

/*
 * Reads the options of `fd`; `domain`, `type` and `protocol` are those of socket(2). Options that
 * are as in `reference`, the options of a new socket of the same kind, are left out, so that the
 * defaults of the target's kernel stay defaults there; NULL leaves none out. -EOPNOTSUPP with a
 * sentence for what cannot be read back: an eBPF filter.
 */
int image_socket_options_read(int fd, int domain, int type, int protocol,
			      const struct image_socket_options *reference,
			      struct image_socket_options *ret, struct error *error);
/*
 * What was read of an option that has no field of its own in the message, as a whole number, be it as in the reference or not;
 * `fallback`: there is no such option.
 */
int image_socket_options_other(const struct image_socket_options *options, int level, int name, int fallback);
void image_socket_options_deinit(struct image_socket_options *options);

/*
 * Brings a new socket to these options, all but the ones below; to be called before bind(2). Only
 * what differs is set.
 */
int image_socket_options_write(int fd, const SocketOptions *options, struct error *error);

/*
 * Those that are set last, after bind, listen and writing data: SO_REUSEADDR, buffer sizes,
 * SO_PASSCRED and the like, SO_LINGER.
 */
int image_socket_options_finish(int fd, const SocketOptions *options, struct error *error);

/* The same for a socket that is in repair mode, and so without SO_REUSEADDR. */
int image_socket_options_finish_connection(int fd, const SocketOptions *options, struct error *error);
