/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memfd_create(2): an open file of the object that shared-memory.c has made. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "restore/file-kind.h"

static int open_memfd(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const MemFd *message = file->message->memfd;
	int r;

	r = restore_shared_open(tree, message->inode_id,
				(int)(message->flags & (O_ACCMODE | O_PATH)) | O_CLOEXEC, &file->fd,
				error);
	if (r < 0)
		return r;
	if (message->pos > 0 && lseek(file->fd, (off_t)message->pos, SEEK_SET) < 0)
		return error_set_errno(error, -errno, "setting the position in a memfd");
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_memfd = {
	.name = "memfd",
	.type = FILE_TYPE__FILE_MEMFD,
	.open = open_memfd,
};
