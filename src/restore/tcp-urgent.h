/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An urgent byte of a connection's receive queue, for tcp.c. Relies on net/segment.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

/*
 * The next byte of the receive queue of `fd`, which is in repair mode and has nothing in its send queue yet, is `byte`, and
 * urgent; with `read`, the program has read it out of line. Its packets are stopped. Leaves its windows to be set, and no
 * queue selected.
 */
int restore_tcp_put_urgent(int fd, uint8_t byte, bool read, struct error *error);
