/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* eventfd(2): a new one; a counter that does not fit the 32 bits of the call is written. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "restore/file-kind.h"

static int open_eventfd(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const EventFd *message = file->message->efd;

	file->fd = eventfd(0,
			   EFD_CLOEXEC | EFD_NONBLOCK | (message->semaphore ? EFD_SEMAPHORE : 0));
	if (file->fd < 0)
		return error_set_errno(error, -errno, "cannot make an eventfd");
	if (message->counter > 0 &&
	    write(file->fd, &message->counter, sizeof(message->counter)) < 0)
		return error_set_errno(error, -errno, "setting the counter of an eventfd");
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_eventfd = {
	.name = "eventfd",
	.type = FILE_TYPE__FILE_EVENTFD,
	.open = open_eventfd,
};
