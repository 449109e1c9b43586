/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading and writing whole things through descriptors. All block; all restart after EINTR. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct buffer;

/* Reads until `size` bytes or the end of file; returns the bytes read or a negative errno. */
ssize_t fdio_read(int fd, void *data, size_t size);
/* Writes all; 0 or a negative errno. */
int fdio_write(int fd, const void *data, size_t size);
ssize_t fdio_pread(int fd, void *data, size_t size, uint64_t offset);
int fdio_pwrite(int fd, const void *data, size_t size, uint64_t offset);

/* Reads the whole of a file (of /proc, too) and ends it with a NUL that `size` does not count. -EFBIG over `max`. */
int fdio_read_file(int dir_fd, const char *path, size_t max, struct buffer *buffer);
/*
 * The same for a file of /proc that the kernel writes in one piece (stat, status, a number): a read that leaves room has had
 * all of it, and asking for the end would have the kernel write it once more.
 */
int fdio_read_record(int dir_fd, const char *path, size_t max, struct buffer *buffer);
/* Replaces a file by write, fdatasync, rename: it is there whole or not at all, also after a crash. */
int fdio_replace_file(int dir_fd, const char *name, const void *data, size_t size, mode_t mode);
/* readlink into a buffer of `size`, NUL-terminated; -ENAMETOOLONG when it does not fit. */
int fdio_readlink(int dir_fd, const char *path, char *target, size_t size);
/*
 * Lets this process, and programs that it starts, have as many descriptors as it may (RLIMIT_NOFILE), and makes room for many
 * ahead; for main(), before there are threads.
 */
void fdio_raise_limit(void);
