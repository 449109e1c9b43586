/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP connections, for inet-socket.c. Relies on TCP_REPAIR_WINDOW (Linux 4.8) and TCP_REPAIR_OFF_NO_WP (4.20); needs
 * CAP_NET_ADMIN. Nothing here blocks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "dump/dump.h"
#include "tcp-stream.pb-c.h"
#include "util/buffer.h"
#include "util/error.h"

/* The kind of connection that it is and that cannot be moved, or IMAGE_KIND_TCP_CONNECTION. */
enum image_kind dump_tcp_kind(int fd);

/* tcp-signed.c: TCP-MD5 or TCP-AO. Asks the kernel by netlink: not for the freeze. */
bool dump_tcp_is_signed(int fd);

/*
 * Reads a connection whose program stands still: PID `pid` has it open as `number`, we as `fd`. `message` is initialised by
 * the caller, `data` gets what was received and then what is to be sent. `ret_state` is a TCP_* of the kernel.
 */
int dump_tcp_read(struct dump_context *ctx, pid_t pid, int number, int fd, TcpStream *message, struct buffer *data,
		  uint32_t *ret_state, struct error *error);
