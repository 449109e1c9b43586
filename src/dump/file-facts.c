/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a descriptor is.
 *
 * Model. Files of /proc cost more than anything else here (readlink 4 us, fdinfo 8 us), so they are
 * read only where nothing else tells: the link for files with a path and for what has no type of
 * its own; fdinfo for kinds whose state is nowhere else. Sockets and pipes are told by fstat(2).
 * Whether a descriptor is closed on exec is asked in the process itself, at the freeze: of the lowest
 * ones with all else (thread.c), of the others in one batch; while the process runs fdinfo has to do.
 *
 * Failure modes. A number may vanish at any time while the process runs: then there is no file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/sockopt.h"

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

#define BATCH_CALLS 400
#define INFO_CHUNK  4096

/* ---- a table */

static int list_numbers(struct dump_reader *reader)
{
	_cleanup_dir_ DIR *dir = NULL;
	struct dirent *entry;
	int copy = dup(reader->link_dir);

	if (copy < 0)
		return -errno;
	dir = fdopendir(copy);
	if (!dir) {
		close(copy);
		return -ENOMEM;
	}
	for (errno = 0; (entry = readdir(dir)); errno = 0) {
		struct dump_number number = { .number = atoi(entry->d_name) };

		if (entry->d_name[0] != '.' && array_append(&reader->numbers, number) < 0)
			return -ENOMEM;
	}
	return -errno;
}

/* Asks the process for the flags of its descriptors `first` and following. */
static int ask_flags(struct dump_context *ctx, struct dump_reader *reader, size_t first,
		     size_t count, struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	for (size_t i = 0; i < count; i++)
		tracee_batch_try(batch, SYS_fcntl, reader->numbers.items[first + i].number,
				 F_GETFD);
	r = tracee_batch_run(reader->process->tracee->threads.items[0], batch, ctx->deadline,
			     error);
	for (size_t i = 0; i < count && r == 0; i++)
		reader->numbers.items[first + i].cloexec = tracee_batch_result(batch, (int)i) ==
							   FD_CLOEXEC;
	tracee_batch_free(batch);
	return r;
}

/* Which device pipes are on. */
static int read_pipe_device(struct dump_files *files)
{
	struct stat st;
	int ends[2], r;

	if (files->pipe_device)
		return 0;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	r = fstat(ends[0], &st) < 0 ? -errno : 0;
	if (r == 0)
		files->pipe_device = st.st_dev;
	close(ends[0]);
	close(ends[1]);
	return r;
}

/* The flags of all descriptors of a stopped process: of the lowest ones they are known (thread.c). */
static int read_flags(struct dump_context *ctx, struct dump_reader *reader, struct error *error)
{
	const struct dump_process *process = reader->process;
	size_t first = 0, count = reader->numbers.count;
	int r = 0;

	for (; process->asked_flags && first < count; first++) {
		struct dump_number *number = &reader->numbers.items[first];

		if (number->number >= DUMP_FLAGS_AHEAD)
			break;
		number->cloexec = process->close_on_exec & UINT32_C(1) << number->number;
	}
	for (; r == 0 && first < count; first += BATCH_CALLS)
		r = ask_flags(ctx, reader, first, count - first < BATCH_CALLS ? count - first : BATCH_CALLS, error);
	return r;
}

int dump_reader_open(struct dump_context *ctx, struct dump_process *process,
		     struct dump_reader *ret, struct error *error)
{
	int r;

	*ret = (struct dump_reader){ .process = process, .files = ctx->files, .info = &ctx->files->info };
	ret->link_dir = openat(process->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ret->info_dir = openat(process->proc_fd, "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = ret->link_dir < 0 || ret->info_dir < 0 ? -errno : list_numbers(ret);
	if (r == 0)
		r = read_pipe_device(ctx->files);
	if (r < 0)
		error_set_errno(error, r, "PID %d: listing descriptors", process->pid);
	if (r == 0 && process->tracee)
		r = read_flags(ctx, ret, error);
	if (r < 0)
		dump_reader_close(ret);
	return r;
}

int dump_reader_open_own(struct dump_context *ctx, struct dump_process *process, struct dump_reader *ret,
			 struct error *error)
{
	int r;

	*ret = (struct dump_reader){ .process = process, .files = ctx->files, .info = &ctx->files->info };
	ret->link_dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ret->info_dir = open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = ret->link_dir < 0 || ret->info_dir < 0 ? -errno : read_pipe_device(ctx->files);
	if (r == 0)
		return 0;
	dump_reader_close(ret);
	return error_set_errno(error, r, "looking at descriptors on their way");
}

void dump_reader_close(struct dump_reader *reader)
{
	if (reader->link_dir >= 0)
		close(reader->link_dir);
	if (reader->info_dir >= 0)
		close(reader->info_dir);
	array_deinit(&reader->numbers);
	reader->link_dir = reader->info_dir = -1;
}

/* ---- fdinfo */

static int read_info(struct dump_reader *reader, int number)
{
	struct buffer *info = reader->info;
	_cleanup_fd_ int fd = -1;
	char name[16];

	snprintf(name, sizeof(name), "%d", number);
	fd = openat(reader->info_dir, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	reader->info_number = -1;
	buffer_clear(info);
	for (;;) {
		ssize_t n;

		if (buffer_reserve(info, INFO_CHUNK) < 0)
			return -ENOMEM;
		n = read(fd, info->data + info->size, info->capacity - info->size - 1);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		info->size += (size_t)n;
	}
	info->data[info->size] = '\0';
	reader->info_number = number;
	return 0;
}

const char *dump_file_text(const struct dump_file *file)
{
	if (file->reader->info_number != file->number && read_info(file->reader, file->number) < 0)
		return "";
	return (const char *)file->reader->info->data;
}

const char *dump_file_info(const char *info, const char *name)
{
	size_t length = strlen(name);

	for (const char *line = info; line && *line;
	     line = strchr(line, '\n'), line = line ? line + 1 : NULL)
		if (strncmp(line, name, length) == 0 && line[length] == ':')
			return line + length + 1 + strspn(line + length + 1, " \t");
	return NULL;
}

/* ---- one descriptor */

static void read_owner(int fd, FileOwner *owner)
{
	struct f_owner_ex who = { 0 };
	uid_t ids[2] = { 0 };
	int number;

	file_owner__init(owner);
	number = fcntl(fd, F_GETSIG);
	owner->signum = number > 0 ? (uint32_t)number : 0;
	if (fcntl(fd, F_GETOWN_EX, &who) < 0 || who.pid == 0)
		return;
	owner->pid_type = (uint32_t)who.type;
	owner->pid = (uint32_t)who.pid;
	if (fcntl(fd, F_GETOWNER_UIDS, ids) == 0) {
		owner->uid = ids[0];
		owner->euid = ids[1];
	}
}

static int read_link(const struct dump_reader *reader, struct dump_file *file)
{
	char name[16];

	if (S_ISSOCK(file->st.st_mode) && !(file->flags & O_PATH)) {
		snprintf(file->link, sizeof(file->link), "socket:[%lu]",
			 (unsigned long)file->st.st_ino);
		return 0;
	}
	if (S_ISFIFO(file->st.st_mode) && file->st.st_dev == reader->files->pipe_device) {
		snprintf(file->link, sizeof(file->link), "pipe:[%lu]",
			 (unsigned long)file->st.st_ino);
		return 0;
	}
	snprintf(name, sizeof(name), "%d", file->number);
	return fdio_readlink(reader->link_dir, name, file->link, sizeof(file->link));
}

/* 0, or -ENOENT when it vanished. */
static int read_rest(struct dump_reader *reader, struct dump_file *file)
{
	bool in_place = S_ISREG(file->st.st_mode) || S_ISDIR(file->st.st_mode) ||
			S_ISCHR(file->st.st_mode);
	const char *text;
	off_t pos;
	int r;

	r = read_link(reader, file);
	if (r < 0)
		return r;
	file->domain = S_ISSOCK(file->st.st_mode) && !(file->flags & O_PATH) ?
			       sockopt_get_int(file->fd, SOL_SOCKET, SO_DOMAIN, -1) : -1;
	pos = in_place && !(file->flags & O_PATH) ? lseek(file->fd, 0, SEEK_CUR) : 0;
	file->pos = pos > 0 ? (uint64_t)pos : 0;
	read_owner(file->fd, &file->owner);
	if (!file->frozen) {
		r = read_info(reader, file->number);
		if (r < 0)
			return r;
		text = dump_file_info((const char *)reader->info->data, "flags");
		file->cloexec = text && (strtoul(text, NULL, 8) & O_CLOEXEC);
	}
	/*
	 * All anonymous files share one inode; eventfds, of which there may be thousands, have a
	 * number of their own.
	 */
	if (strcmp(file->link, "anon_inode:[eventfd]") == 0) {
		text = dump_file_info(dump_file_text(file), "eventfd-id");
		file->serial = text ? strtoull(text, NULL, 10) : 0;
	}
	return 0;
}

/* Fills in what `ret->fd` tells. 0; -ENOENT when the descriptor has vanished. */
static int look(struct dump_reader *reader, struct dump_file *ret)
{
	int flags = fcntl(ret->fd, F_GETFL);

	reader->info_number = -1;
	ret->reader = reader;
	ret->process = reader->process;
	ret->frozen = reader->process->tracee != NULL;
	ret->serial = 0;
	ret->flags = (uint32_t)flags;
	return flags < 0 || fstat(ret->fd, &ret->st) < 0 ? -errno : read_rest(reader, ret);
}

int dump_reader_read(struct dump_reader *reader, size_t index, struct dump_file *ret,
		     struct error *error)
{
	const struct dump_number *number = &reader->numbers.items[index];
	int r;

	ret->number = number->number;
	ret->table = reader->process->live;
	ret->cloexec = number->cloexec;
	ret->fd = (int)syscall(SYS_pidfd_getfd, dump_process_pidfd(reader->process), number->number, 0);
	if (ret->fd < 0 && errno == EBADF)
		return 0;
	if (ret->fd < 0)
		return error_set_errno(error, -errno, "fetching it");
	r = look(reader, ret);
	if (r == 0)
		return 1;
	close(ret->fd);
	ret->fd = -1;
	return r == -ENOENT ? 0 : error_set_errno(error, r, "looking at it");
}

int dump_reader_look(struct dump_reader *reader, int fd, struct dump_file *ret, struct error *error)
{
	int r;

	ret->number = ret->fd = fd;
	ret->table = getpid();
	ret->cloexec = false;
	r = look(reader, ret);
	return r < 0 ? error_set_errno(error, r, "looking at it") : 0;
}
