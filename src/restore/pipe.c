/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pipes and FIFOs.
 *
 * Model. The first end of a pipe makes the pipe: capacity, data, owner. Further ends, and further
 * open files of one end, are opened by way of /proc/self/fd. What no descriptor takes is closed at
 * the end, so that a pipe whose writer had gone on the source has none here either.
 *
 * A FIFO is opened by its path. On a file system that both hosts are on (or on one host), it is the
 * very FIFO of the source and holds its data already; then nothing is written.
 *
 * Failure modes: data that does not fit; a FIFO with other data in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipe.pb-c.h"
#include "restore/file-kind.h"
#include "util/cleanup.h"

#define PIPE_FLAGS (O_ACCMODE | O_NONBLOCK | O_DIRECT)

void restore_pipes_clear(struct restore_files *files)
{
	array_for_each (pipe, &files->pipes) {
		if (pipe->read_fd >= 0)
			close(pipe->read_fd);
		if (pipe->write_fd >= 0)
			close(pipe->write_fd);
		free(pipe->path);
	}
	array_clear(&files->pipes);
	array_for_each (data, &files->pipe_data)
		protobuf_c_message_free_unpacked(&data->message->base, NULL);
	array_clear(&files->pipe_data);
}

static int compare_data(const void *left, const void *right)
{
	const struct restore_pipe_data *a = left, *b = right;

	if (a->fifo != b->fifo)
		return a->fifo ? 1 : -1;
	if (a->id != b->id)
		return a->id < b->id ? -1 : 1;
	return (a->order > b->order) - (a->order < b->order);
}

static int load_data(struct restore_files *files, const struct image_set *images,
		     enum image_type type, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, type, IMAGE_ANY, &cursor))) {
		struct restore_pipe_data data = { .fifo = type == IMAGE_FIFO_DATA,
						  .order = files->pipe_data.count };
		int r = image_unpack(record, pipe_data, &data.message, error);

		if (r < 0)
			return r;
		data.id = data.message->pipe_id;
		if (data.message->bytes > 0)
			data.data = image_set_next(images, type, IMAGE_ANY, &cursor);
		if (array_append(&files->pipe_data, data) < 0) {
			protobuf_c_message_free_unpacked(&data.message->base, NULL);
			return error_set(error, -ENOMEM, "no memory for the data of pipes");
		}
	}
	return 0;
}

int restore_pipes_load(struct restore_files *files, const struct image_set *images,
		       struct error *error)
{
	int r;

	r = load_data(files, images, IMAGE_PIPE_DATA, error);
	if (r == 0)
		r = load_data(files, images, IMAGE_FIFO_DATA, error);
	if (files->pipe_data.count > 1)
		qsort(files->pipe_data.items, files->pipe_data.count,
		      sizeof(files->pipe_data.items[0]), compare_data);
	return r;
}

/* The first entry of a pipe. */
static size_t find_data(const struct restore_files *files, uint32_t id, bool fifo)
{
	size_t low = 0, high = files->pipe_data.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct restore_pipe_data *data = &files->pipe_data.items[middle];

		if (data->fifo < fifo || (data->fifo == fifo && data->id < id))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct restore_pipe *find_pipe(struct restore_files *files, uint32_t id, bool fifo)
{
	array_for_each (pipe, &files->pipes)
		if (pipe->id == id && pipe->fifo == fifo)
			return pipe;
	return NULL;
}

static int write_piece(int fd, const PipeData *message, const struct image_record *data,
		       struct error *error)
{
	ssize_t n;

	if (!data || data->size != message->bytes)
		return error_set(error, -EPROTO, "data of pipe %u is damaged", message->pipe_id);
	if (fcntl(fd, F_SETFL, O_NONBLOCK | (message->packet ? O_DIRECT : 0)) < 0)
		return error_set_errno(error, -errno, "setting up a pipe");
	n = write(fd, data->data, data->size);
	if (n < 0)
		return error_set_errno(error, -errno, "filling pipe %u", message->pipe_id);
	if ((size_t)n != data->size)
		return error_set(error, -ENOSPC, "pipe %u takes %zd bytes of %zu", message->pipe_id,
				 n, data->size);
	return 0;
}

/* Sets the capacity and writes the data. A FIFO that has the data is left alone. */
static int fill(const struct restore_files *files, const struct restore_pipe *pipe, int fd,
		struct error *error)
{
	size_t total = 0;
	int there = 0, r;

	if (pipe->fifo && ioctl(fd, FIONREAD, &there) < 0)
		return error_set_errno(error, -errno, "asking how full a FIFO is");
	for (size_t i = find_data(files, pipe->id, pipe->fifo); i < files->pipe_data.count; i++) {
		const struct restore_pipe_data *data = &files->pipe_data.items[i];
		const PipeData *message = data->message;

		if (data->id != pipe->id || data->fifo != pipe->fifo)
			break;
		if (message->has_size && fcntl(fd, F_GETPIPE_SZ) != (int)message->size &&
		    fcntl(fd, F_SETPIPE_SZ, (int)message->size) < 0)
			return error_set_errno(error, -errno, "giving a pipe the size of %u bytes",
					       message->size);
		total += message->bytes;
		r = message->bytes > 0 && there == 0 ? write_piece(fd, message, data->data, error)
						     : 0;
		if (r < 0)
			return r;
	}
	if (there > 0 && (size_t)there != total)
		return error_set(error, -EBUSY, "it holds %d bytes here, and %zu on the source",
				 there, total);
	return 0;
}

static int keep(struct restore_files *files, struct restore_pipe *pipe, struct restore_pipe **ret,
		struct error *error)
{
	if (!pipe->path || array_append(&files->pipes, *pipe) < 0) {
		if (pipe->read_fd >= 0)
			close(pipe->read_fd);
		if (pipe->write_fd >= 0)
			close(pipe->write_fd);
		free(pipe->path);
		return error_set(error, -ENOMEM, "no memory for pipes");
	}
	*ret = &files->pipes.items[files->pipes.count - 1];
	return 0;
}

static char *self_path(int fd)
{
	char *path;

	return asprintf(&path, "/proc/self/fd/%d", fd) < 0 ? NULL : path;
}

static int make_pipe(struct restore_tree *tree, const PipeEnd *message, struct restore_pipe **ret,
		     struct error *error)
{
	struct restore_pipe pipe = { .id = message->pipe_id, .read_fd = -1, .write_fd = -1 };
	int ends[2], r;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set_errno(error, -errno, "making a pipe");
	pipe.read_fd = ends[0];
	pipe.write_fd = ends[1];
	pipe.path = self_path(ends[1]);
	r = keep(tree->files, &pipe, ret, error);
	if (r < 0)
		return r;
	r = fill(tree->files, *ret, ends[1], error);
	if (r < 0)
		return r;
	if ((message->uid || message->gid) && fchown(ends[1], message->uid, message->gid) < 0)
		return error_set_errno(error, -errno, "setting the owner of a pipe");
	if (message->has_mode && (message->mode & 07777) != 0600 &&
	    fchmod(ends[1], message->mode & 07777) < 0)
		return error_set_errno(error, -errno, "setting the mode of a pipe");
	return 0;
}

static int open_pipe(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const PipeEnd *message = file->message->pipe;
	struct restore_pipe *pipe = find_pipe(tree->files, message->pipe_id, false);
	int access = (int)message->flags & O_ACCMODE, r = 0;

	if (!pipe)
		r = make_pipe(tree, message, &pipe, error);
	if (r < 0)
		return r;
	if (access == O_RDONLY && pipe->read_fd >= 0) {
		file->fd = steal_fd(&pipe->read_fd);
	} else if (access == O_WRONLY && pipe->write_fd >= 0) {
		/* The descriptor stays open as file->fd, so `path` stays right. */
		file->fd = steal_fd(&pipe->write_fd);
	} else {
		file->fd = open(pipe->path,
				((int)message->flags & PIPE_FLAGS & ~O_DIRECT) | O_CLOEXEC);
	}
	if (file->fd < 0)
		return error_set_errno(error, -errno, "opening another end of a pipe");
	/* Filling it may have left flags on this end. */
	if (fcntl(file->fd, F_SETFL, 0) < 0)
		return error_set_errno(error, -errno, "F_SETFL");
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_pipe = {
	.name = "pipe",
	.type = FILE_TYPE__FILE_PIPE,
	.open = open_pipe,
};

/* ---- FIFOs */

static int hold_fifo(struct restore_tree *tree, uint32_t pipe_id, const char *path,
		     struct error *error)
{
	struct restore_pipe fifo = { .id = pipe_id, .fifo = true, .read_fd = -1, .write_fd = -1 };
	struct restore_pipe *kept;
	struct stat st;
	int r;

	fifo.read_fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fifo.read_fd < 0)
		return error_set_errno(error, -errno, "opening %s", path);
	fifo.path = strdup(path);
	r = keep(tree->files, &fifo, &kept, error);
	if (r < 0)
		return r;
	if (fstat(kept->read_fd, &st) < 0 || !S_ISFIFO(st.st_mode))
		return error_set(error, -ESTALE, "%s is no FIFO here", path);
	r = fill(tree->files, kept, kept->read_fd, error);
	return r < 0 ? error_wrap(error, r, "%s", path) : 0;
}

static int open_fifo(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const FifoEnd *message = file->message->fifo;
	const struct restore_file *regular = restore_file_find(tree->files, message->regf_id);
	const RegularFile *path;
	int r = 0;

	if (!regular || regular->message->type != FILE_TYPE__FILE_REGULAR)
		return error_set(error, -EPROTO, "FIFO %u has no path", message->pipe_id);
	path = regular->message->reg;
	if (!find_pipe(tree->files, message->pipe_id, true))
		r = hold_fifo(tree, message->pipe_id, path->name, error);
	if (r < 0)
		return r;
	file->fd = open(path->name, ((int)path->flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "opening %s", path->name);
	return restore_file_set(file->fd, path->flags, path->fown, error);
}

const struct restore_file_kind restore_kind_fifo = {
	.name = "FIFO",
	.type = FILE_TYPE__FILE_FIFO,
	.open = open_fifo,
};
