/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fdio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "buffer.h"
#include "cleanup.h"

#define TABLE_SIZE 65536 /* descriptors: 0.5 MiB of the kernel's memory */

ssize_t fdio_read(int fd, void *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = read(fd, (char *)data + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fdio_write(int fd, const void *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = write(fd, (const char *)data + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

ssize_t fdio_pread(int fd, void *data, size_t size, uint64_t offset)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pread(fd, (char *)data + done, size - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fdio_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pwrite(fd, (const char *)data + done, size - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		done += (size_t)n;
	}
	return 0;
}

/* Up to the end of the file, or (`in_one_piece`) until a read leaves room. */
static int read_file(int dir_fd, const char *path, size_t max, bool in_one_piece, struct buffer *buffer)
{
	_cleanup_fd_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	size_t start = buffer->size, room;
	ssize_t n;

	if (fd < 0)
		return -errno;
	do {
		if (buffer_reserve(buffer, 4096) < 0)
			return -ENOMEM;
		room = buffer->capacity - buffer->size - 1;
		do
			n = in_one_piece ? read(fd, buffer->data + buffer->size, room)
					 : fdio_read(fd, buffer->data + buffer->size, room);
		while (in_one_piece && n < 0 && errno == EINTR);
		if (n < 0)
			return in_one_piece ? -errno : (int)n;
		buffer->size += (size_t)n;
		if (buffer->size - start > max)
			return -EFBIG;
	} while ((size_t)n == room);
	buffer->data[buffer->size] = '\0';
	return 0;
}

int fdio_read_file(int dir_fd, const char *path, size_t max, struct buffer *buffer)
{
	return read_file(dir_fd, path, max, false, buffer);
}

int fdio_read_record(int dir_fd, const char *path, size_t max, struct buffer *buffer)
{
	return read_file(dir_fd, path, max, true, buffer);
}

int fdio_replace_file(int dir_fd, const char *name, const void *data, size_t size, mode_t mode)
{
	_cleanup_fd_ int fd = -1;
	char temporary[256];
	int r;

	r = snprintf(temporary, sizeof(temporary), ".%s.new", name);
	if (r < 0 || (size_t)r >= sizeof(temporary))
		return -ENAMETOOLONG;
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	r = fdio_write(fd, data, size);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, temporary, 0);
	return r;
}

int fdio_readlink(int dir_fd, const char *path, char *target, size_t size)
{
	ssize_t n = readlinkat(dir_fd, path, target, size);

	if (n < 0)
		return -errno;
	if ((size_t)n >= size)
		return -ENAMETOOLONG;
	target[n] = '\0';
	return 0;
}

/*
 * A table of descriptors that several threads share grows by doubling, and waits each time until no processor looks at the old
 * one: 10 ms, for all of its threads. While there is one thread it does not wait.
 */
static void reserve(rlim_t limit)
{
	int high = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, limit < TABLE_SIZE ? (int)limit - 1 : TABLE_SIZE - 1);

	if (high >= 0)
		close(high);
}

void fdio_raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	reserve(limit.rlim_max);
}
