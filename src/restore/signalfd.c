/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* signalfd(2): a new one; whose signals it shows follows from who reads it. */
#include <errno.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/file-kind.h"

static int open_signalfd(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const SignalFd *message = file->message->sgfd;

	file->fd = (int)syscall(SYS_signalfd4, -1, &message->sigmask, sizeof(message->sigmask),
				SFD_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "cannot make a signalfd");
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_signalfd = {
	.name = "signalfd",
	.type = FILE_TYPE__FILE_SIGNALFD,
	.open = open_signalfd,
};
