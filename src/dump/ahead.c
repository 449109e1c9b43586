/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content that is only reached through descriptors - memfds, deleted files and files in memory that nobody has mapped - found
 * while the tree runs, so that it can be sent before the freeze. Descriptors are described at the freeze; here only their
 * links are read, and only those that have content of that kind are fetched.
 *
 * Failure modes: a descriptor or a process that goes meanwhile is skipped, the next look has it no more.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "dump/shared-memory.h"
#include "util/cleanup.h"
#include "util/fdio.h"

static int look_at(struct dump_context *ctx, struct dump_process *process, int number, const char *link, struct error *error)
{
	_cleanup_fd_ int fd = (int)syscall(SYS_pidfd_getfd, dump_process_pidfd(process), number, 0);
	char path[64], now[DUMP_LINK_MAX];
	struct stat st;
	uint32_t id;

	if (fd < 0)
		return errno == EBADF || errno == ESRCH ? 0 : error_set_errno(error, -errno, "fetching descriptor %d", number);
	/* The number may stand for another file by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fdio_readlink(AT_FDCWD, path, now, sizeof(now)) < 0 || strcmp(now, link) != 0)
		return 0;
	if (dump_shared_is(link))
		return dump_shared_memfd(ctx, fd, link, &id, error);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fcntl(fd, F_GETFL) & O_PATH)
		return 0;
	if (st.st_nlink > 0 && !dump_memory_file_is(&(struct dump_regular){ .fd = fd, .st = &st, .link = link }))
		return 0;
	return dump_deleted_ahead(ctx, process, fd, link, &st, error);
}

static int look_at_process(struct dump_context *ctx, struct dump_process *process, const struct dump_memory_mounts *mounts,
			   struct error *error)
{
	int dir_fd = openat(process->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *dir = dir_fd >= 0 ? fdopendir(dir_fd) : NULL;
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return errno == ENOENT || errno == ESRCH ? 0
							 : error_set_errno(error, -errno, "PID %d: descriptors", process->pid);
	while (r == 0 && (entry = readdir(dir))) {
		char link[DUMP_LINK_MAX];

		if (fdio_readlink(dirfd(dir), entry->d_name, link, sizeof(link)) >= 0 &&
		    (dump_shared_is(link) || dump_link_is_deleted(link) || dump_memory_file_may_be(mounts, link)))
			r = look_at(ctx, process, atoi(entry->d_name), link, error);
	}
	return r < 0 ? error_wrap(error, r, "PID %d", process->pid) : 0;
}

int dump_files_ahead(struct dump_context *ctx, struct error *error)
{
	struct dump_memory_mounts mounts = { 0 };
	int r = dump_memory_mounts_read(&mounts, error);

	array_for_each(process, &ctx->processes)
		if (r == 0 && !dump_table_seen(*process))
			r = look_at_process(ctx, *process, &mounts, error);
	dump_memory_mounts_deinit(&mounts);
	return r;
}
