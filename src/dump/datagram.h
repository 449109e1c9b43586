/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Datagram sockets of IP, source side: what datagram.c and multicast.c share. */
#pragma once

#include "dump/file-kind.h"
#include "dump/parts.h"

/*
 * multicast.c: the groups that a socket has joined, with the sources that it takes or leaves. The kernel lists groups by
 * interface (/proc/net/igmp, igmp6); the socket is asked for each of them (MCAST_MSFILTER).
 */
int dump_multicast(int fd, int domain, struct dump_arena *arena, InetSocket *message, struct error *error);
