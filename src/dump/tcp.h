/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections, for inet-socket.c. Relies on TCP_REPAIR_WINDOW (Linux 4.8) and TCP_REPAIR_OFF_NO_WP (4.20); needs
 * CAP_NET_ADMIN. Nothing here blocks.
 */
#pragma once

#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>

#include "dump/dump.h"
#include "image/socket-options.h"
#include "tcp-stream.pb-c.h"
#include "util/buffer.h"
#include "util/error.h"

/* The kind of connection that it is and that cannot be moved, or IMAGE_KIND_TCP_CONNECTION. */
enum image_kind dump_tcp_kind(int fd);

/* tcp-signed.c: TCP-MD5 or TCP-AO. Asks the kernel by netlink: not for the freeze. */
bool dump_tcp_is_signed(int fd);

/*
 * Reads a connection whose program stands still: PID `pid` has it open as `number`, we as `fd`; `info` and `options` were
 * read from it just before. `message` is initialised by the caller, `data` gets what was received and then what is to be sent.
 * `mark` may be NULL, and is used by one thread at a time.
 */
int dump_tcp_read(struct dump_tcp_mark *mark, pid_t pid, int number, int fd, const struct tcp_info *info,
		  const struct image_socket_options *options, TcpStream *message, struct buffer *data, struct error *error);
