/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pipes and FIFOs.
 *
 * Model. A pipe is an inode; descriptors are its ends. While descriptors are collected, each pipe
 * is noted with one copy of a reading end (or a writing one) and which ends the tree has. At the
 * end its data is copied with tee(2) into a pipe of our own and read from there: the source's pipe
 * keeps it. In a pipe of packets (O_DIRECT) each read gives one packet, and each becomes a record
 * of its own.
 *
 * A pipe whose other end is outside of the tree is a blocker. Which that is: with only a reading
 * end in the tree, poll(2) says POLLHUP when there is no writer at all; with only a writing end,
 * POLLERR when there is no reader. A FIFO has a name, so others may come and go: no blocker.
 *
 * Failure modes. A pipe larger than our limit (/proc/sys/fs/pipe-max-size) cannot be copied when it
 * is that full: error.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "util/cleanup.h"

#define READ_MAX ((size_t)1 << 20)

struct dump_pipe {
	dev_t dev;
	ino_t ino;
	pid_t pid; /* for messages: whose descriptor was met first */
	int number;
	int fd;	       /* our copy of an end, a reading one if there is any; owned */
	bool readable; /* `fd` can be read */
	bool has_read; /* ends in the tree */
	bool has_write;
	bool packet; /* a writer has O_DIRECT */
	bool fifo;
	bool frozen;
};

struct dump_pipes {
	ARRAY(struct dump_pipe) list;
};

void dump_pipes_free(struct dump_pipes *pipes)
{
	if (!pipes)
		return;
	array_for_each (pipe, &pipes->list)
		if (pipe->fd >= 0)
			close(pipe->fd);
	array_deinit(&pipes->list);
	free(pipes);
}

static struct dump_pipe *find_pipe(struct dump_files *files, const struct dump_file *file,
				   bool fifo)
{
	struct dump_pipe new = { .dev = file->st.st_dev,
				 .ino = file->st.st_ino,
				 .pid = file->process->pid,
				 .number = file->number,
				 .fd = -1,
				 .fifo = fifo,
				 .frozen = file->frozen };

	if (!files->pipes)
		files->pipes = calloc(1, sizeof(*files->pipes));
	if (!files->pipes)
		return NULL;
	array_for_each (pipe, &files->pipes->list)
		if (pipe->ino == new.ino && pipe->dev == new.dev)
			return pipe;
	if (array_append(&files->pipes->list, new) < 0)
		return NULL;
	return &files->pipes->list.items[files->pipes->list.count - 1];
}

static int note_end(struct dump_context *ctx, const struct dump_file *file, bool fifo,
		    struct error *error)
{
	struct dump_pipe *pipe = find_pipe(ctx->files, file, fifo);
	bool readable = (file->flags & O_ACCMODE) != O_WRONLY;
	bool writable = (file->flags & O_ACCMODE) != O_RDONLY;

	if (!pipe)
		return error_set(error, -ENOMEM, "no memory for pipes");
	pipe->has_read |= readable;
	pipe->has_write |= writable;
	pipe->packet |= writable && (file->flags & O_DIRECT);
	if (pipe->fd >= 0 && (pipe->readable || !readable))
		return 0;
	if (pipe->fd >= 0)
		close(pipe->fd);
	pipe->readable = readable;
	pipe->fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	return pipe->fd < 0 ? error_set_errno(error, -errno, "copying a descriptor") : 0;
}

static bool match_pipe(const struct dump_file *file)
{
	return S_ISFIFO(file->st.st_mode) && strncmp(file->link, "pipe:[", 6) == 0;
}

static int dump_pipe(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	PipeEnd end = PIPE_END__INIT;
	int r;

	r = note_end(ctx, file, false, error);
	if (r < 0)
		return r;
	end.id = file->id;
	end.pipe_id = (uint32_t)file->st.st_ino;
	end.flags = file->flags;
	end.fown = &owner;
	end.has_uid = end.has_gid = end.has_mode = 1;
	end.uid = file->st.st_uid;
	end.gid = file->st.st_gid;
	end.mode = file->st.st_mode;
	message.type = FILE_TYPE__FILE_PIPE;
	message.id = file->id;
	message.pipe = &end;
	return dump_file_add(ctx, &message, error);
}

static bool match_fifo(const struct dump_file *file)
{
	return S_ISFIFO(file->st.st_mode) && file->link[0] == '/';
}

static int dump_fifo(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	RegularFile regular = REGULAR_FILE__INIT;
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	FifoEnd end = FIFO_END__INIT;
	struct dump_regular path = { .process = file->process,
				     .fd = file->fd,
				     .st = &file->st,
				     .link = file->link,
				     .kind = "descriptor",
				     .what = "FIFO" };
	bool added;
	int r;

	regular.id = ctx->files->next_id++;
	regular.flags = file->flags;
	regular.fown = &owner;
	r = dump_regular_add(ctx, &path, &regular, &added, error);
	if (r < 0 || !added)
		return r;
	r = note_end(ctx, file, true, error);
	if (r < 0)
		return r;
	end.id = file->id;
	end.pipe_id = (uint32_t)file->st.st_ino;
	end.has_regf_id = 1;
	end.regf_id = regular.id;
	message.type = FILE_TYPE__FILE_FIFO;
	message.id = file->id;
	message.fifo = &end;
	return dump_file_add(ctx, &message, error);
}

/* ---- data */

static int add_data(struct dump_context *ctx, const struct dump_pipe *pipe, const void *data,
		    size_t size, int capacity, bool packet, struct error *error)
{
	enum image_type type = pipe->fifo ? IMAGE_FIFO_DATA : IMAGE_PIPE_DATA;
	PipeData message = PIPE_DATA__INIT;
	int r;

	message.pipe_id = (uint32_t)pipe->ino;
	message.bytes = (uint32_t)size;
	message.has_size = capacity > 0;
	message.size = capacity > 0 ? (uint32_t)capacity : 0;
	message.has_packet = message.packet = packet;
	r = image_set_add(ctx->images, type, 0, &message.base, error);
	if (r == 0 && size > 0)
		r = image_set_add_bytes(ctx->images, type, 0, data, size, error);
	return r;
}

static int copy_data(struct dump_context *ctx, const struct dump_pipe *pipe, int capacity,
		     int unread, struct error *error)
{
	_cleanup_free_ char *data = malloc(READ_MAX);
	_cleanup_fd_ int read_end = -1, write_end = -1;
	int left = unread, ends[2], r;

	if (!data)
		return error_set(error, -ENOMEM, "no memory for the data of a pipe");
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_set_errno(error, -errno, "making a pipe");
	read_end = ends[0];
	write_end = ends[1];
	if (fcntl(write_end, F_GETPIPE_SZ) < capacity)
		(void)fcntl(write_end, F_SETPIPE_SZ, capacity);
	if (tee(pipe->fd, write_end, (size_t)unread, SPLICE_F_NONBLOCK) != unread)
		return error_set(
			error, -EFBIG,
			"pipe of PID %d, fd %d holds %d bytes, more than can be copied; raise "
			"/proc/sys/fs/pipe-max-size",
			pipe->pid, pipe->number, unread);
	while (left > 0) {
		ssize_t n = read(read_end, data, READ_MAX);

		if (n <= 0)
			return error_set_errno(error, n < 0 ? -errno : -EIO,
					       "reading the copy of a pipe");
		r = add_data(ctx, pipe, data, (size_t)n, capacity, pipe->packet || n < left, error);
		if (r < 0)
			return r;
		left -= (int)n;
	}
	return 0;
}

static void check_ends(struct dump_context *ctx, const struct dump_pipe *pipe)
{
	struct pollfd poll_fd = { .fd = pipe->fd, .events = POLLIN };
	const char *cause = NULL;
	char link[32];

	if (pipe->fifo || (pipe->has_read && pipe->has_write) || poll(&poll_fd, 1, 0) < 0)
		return;
	if (pipe->has_read && !(poll_fd.revents & POLLHUP))
		cause = "the writing end is held by a process outside of the tree";
	if (pipe->has_write && !(poll_fd.revents & POLLERR))
		cause = "the reading end is held by a process outside of the tree";
	/* Nobody outside has it: it is on its way through a socket, and found at the freeze. */
	snprintf(link, sizeof(link), "pipe:[%lu]", (unsigned long)pipe->ino);
	if (cause && (pipe->frozen || dump_outside_has(ctx, link, pipe->fd)))
		dump_blocker_add(
			ctx, pipe->pid, "descriptor", cause,
			"move the tree that has both ends, or start the program with files "
				 "instead of pipes",
			"fd %d -> pipe:[%lu]", pipe->number, (unsigned long)pipe->ino);
}

static int finish(struct dump_context *ctx, struct error *error)
{
	struct dump_pipes *pipes = ctx->files->pipes;
	int r = 0;

	if (!pipes)
		return 0;
	array_for_each (pipe, &pipes->list) {
		int capacity = fcntl(pipe->fd, F_GETPIPE_SZ);
		int unread = 0;

		check_ends(ctx, pipe);
		if (!pipe->frozen)
			continue;
		if (pipe->readable && ioctl(pipe->fd, FIONREAD, &unread) < 0)
			return error_set_errno(error, -errno, "asking how full a pipe is");
		r = unread > 0 ? copy_data(ctx, pipe, capacity, unread, error)
			       : add_data(ctx, pipe, NULL, 0, capacity, false, error);
		if (r < 0)
			return r;
	}
	return 0;
}

const struct dump_file_kind dump_kind_pipe = {
	.name = "pipe",
	.type = FILE_TYPE__FILE_PIPE,
	.match = match_pipe,
	.dump = dump_pipe,
	.finish = finish,
};

const struct dump_file_kind dump_kind_fifo = {
	.name = "FIFO",
	.type = FILE_TYPE__FILE_FIFO,
	.match = match_fifo,
	.dump = dump_fifo,
};
