/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options of sockets that are one int. None blocks. */
#pragma once

#include <errno.h>
#include <sys/socket.h>

/* 0 or a negative errno. */
static inline int sockopt_read_int(int fd, int level, int name, int *ret)
{
	int value = 0;
	socklen_t size = sizeof(value);

	if (getsockopt(fd, level, name, &value, &size) < 0)
		return -errno;
	*ret = value;
	return 0;
}

/* The value, or `otherwise` where this socket or kernel has no such option. */
static inline int sockopt_get_int(int fd, int level, int name, int otherwise)
{
	int value = otherwise;

	(void)sockopt_read_int(fd, level, name, &value);
	return value;
}

/* 0 or a negative errno. */
static inline int sockopt_set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}
