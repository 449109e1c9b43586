/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asking the kernel for what it lists of sockets: sock_diag(7). */
#pragma once

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

/* Takes one message of the answer; 0, or a negative errno, which ends the call. */
typedef int dump_sock_diag_fn(struct nlmsghdr *header, void *argument);

/*
 * Sends a request (inet_diag_req_v2, unix_diag_req, packet_diag_req) and calls `take` for each message of the answer. `all`:
 * the sockets that the request describes, else the one that it names; that there is none is an error. Blocks until the kernel
 * has answered: some 0.5 us for each socket of the network namespace. The error names what was asked for as `what`.
 */
int dump_sock_diag(const void *request, size_t size, bool all, dump_sock_diag_fn *take, void *argument, const char *what,
		   struct error *error);
