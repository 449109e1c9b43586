/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The repair mode of TCP sockets (TCP_REPAIR, Linux 3.5): in it the kernel tells and takes sequence numbers and queues, sends
 * nothing that the program writes, and closes without a word to the peer. Needs CAP_NET_ADMIN.
 *
 * To leave repair mode makes SO_REUSEADDR 0: whoever enters it remembers that.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "util/error.h"

enum image_tcp_mode {
	IMAGE_TCP_QUIET = -1, /* out of repair mode, without a word */
	IMAGE_TCP_PROBE = 0,  /* out of it, and a window probe makes the peer say what it has */
	IMAGE_TCP_REPAIR = 1,
};

/* 0 or a negative errno. */
int image_tcp_set(int fd, enum image_tcp_mode mode);
/* 1: it is in repair mode; 0: not, or no TCP socket. */
int image_tcp_is_in_repair(int fd);

/* True for a TCP socket that has, or once had, a peer. */
bool image_tcp_is_connection(int fd);

/*
 * All connections of a process, by its descriptors, whoever else has them: into repair mode, before it is killed; its peers
 * never hear of that. A process that is gone is success.
 */
int image_tcp_hush(pid_t pid, struct error *error);

/*
 * Out of repair mode, for what a program of ours that was killed has left in it. `probe`: with a window probe. What they had
 * as SO_REUSEADDR is lost; they get 1, with which nothing fails that would succeed without. Returns how many there were.
 */
int image_tcp_wake(pid_t pid, bool probe, struct error *error);
