/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/tcp-repair.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/procfs.h"

int image_tcp_set(int fd, enum image_tcp_mode mode)
{
	int value = mode;

	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, sizeof(value)) < 0 ? -errno : 0;
}

int image_tcp_is_in_repair(int fd)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, &size) == 0 && value == 1;
}

bool image_tcp_is_connection(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state != TCP_LISTEN &&
	       info.tcpi_state != TCP_CLOSE;
}

static int hush(int fd, void *context)
{
	return image_tcp_is_connection(fd) ? image_tcp_set(fd, IMAGE_TCP_REPAIR) : 0;
}

static int wake(int fd, void *context)
{
	const bool *probe = context;
	int one = 1, r;

	if (!image_tcp_is_in_repair(fd))
		return 0;
	r = image_tcp_set(fd, *probe ? IMAGE_TCP_PROBE : IMAGE_TCP_QUIET);
	if (r == 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		r = -errno;
	return r < 0 ? r : 1;
}

/* Adds up what `action` returns for each socket of a process. One failure does not keep it from the others. */
static int for_each_socket(pid_t pid, int (*action)(int fd, void *context), void *context)
{
	_cleanup_fd_ int pidfd = procfs_live_pidfd(pid);
	struct dirent *entry;
	int sum = 0, failure = 0;
	char path[64];
	DIR *dir;

	if (pidfd < 0)
		return pidfd == -ESRCH ? 0 : pidfd;
	snprintf(path, sizeof(path), "/proc/%d/fd", procfs_live_thread(pid));
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	while ((entry = readdir(dir))) {
		struct stat st;
		int fd, r;

		if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0 || !S_ISSOCK(st.st_mode))
			continue;
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(entry->d_name), 0);
		if (fd < 0)
			continue;
		r = action(fd, context);
		if (r < 0)
			failure = r;
		else
			sum += r;
		close(fd);
	}
	closedir(dir);
	return failure < 0 ? failure : sum;
}

int image_tcp_hush(pid_t pid, struct error *error)
{
	int r = for_each_socket(pid, hush, NULL);

	return r < 0 ? error_set_errno(error, r, "silencing the connections of PID %d", pid) : 0;
}

int image_tcp_wake(pid_t pid, bool probe, struct error *error)
{
	int r = for_each_socket(pid, wake, &probe);

	return r < 0 ? error_set_errno(error, r, "taking the connections of PID %d out of repair mode", pid) : r;
}
