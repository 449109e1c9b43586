/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors of terminals: of pseudo-terminals that moved (pty.c), and of the one that a shell job shares. That is the
 * terminal of whoever restores the job (restore_options.terminal_fd), opened anew for each open file, so that each has its own
 * flags; what else is done with it is in job.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "restore/file-kind.h"
#include "restore/parts.h"
#include "restore/pty.h"
#include "tty.pb-c.h"

/* Was it opened as /dev/tty? */
static int opened_as_controlling(const struct image_set *images, uint32_t id, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_TTY_INFO, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TerminalInfo *info = NULL;
		int r = image_unpack(record, terminal_info, &info, error);

		if (r < 0)
			return r;
		if (info->id != id)
			continue;
		if (info->type == TERMINAL_TYPE__TERMINAL_VIRTUAL)
			return error_set(error, -EOPNOTSUPP, "virtual consoles cannot be restored");
		return info->type == TERMINAL_TYPE__TERMINAL_CONTROLLING;
	}
	return error_set(error, -EPROTO, "the %s record %u is missing", image_type_name(IMAGE_TTY_INFO), id);
}

/* Does it come with the tree? */
static int moves(const struct image_set *images, const TerminalFile *message, struct error *error)
{
	uint32_t id = message->has_terminal ? message->terminal : message->tty_info_id;

	return message->hung_up ? 1 : restore_pty_has_master(images, id, error);
}

static int open_shared(struct restore_tree *tree, const TerminalFile *message, struct error *error)
{
	/* A serial line may wait for its other end; the flag is set to what it was by the caller. */
	int flags = ((int)message->flags & O_ACCMODE) | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
	char path[64];
	int r, fd = -1;

	r = restore_job_terminal(tree, error);
	if (r == 0)
		r = opened_as_controlling(tree->images, message->tty_info_id, error);
	if (r < 0)
		return r;
	if (r > 0)
		fd = open("/dev/tty", flags);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tree->options->terminal_fd);
	if (fd < 0)
		fd = open(path, flags);
	return fd < 0 ? error_set_errno(error, -errno, "cannot open the terminal here (descriptor %d) again",
					tree->options->terminal_fd) : fd;
}

static int open_terminal(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const TerminalFile *message = file->message->tty;
	int r = moves(tree->images, message, error);

	if (r >= 0)
		r = r ? restore_pty_open(tree, message, error) : open_shared(tree, message, error);
	if (r < 0)
		return r;
	file->fd = r;
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_terminal = {
	.name = "terminal",
	.type = FILE_TYPE__FILE_TERMINAL,
	.open = open_terminal,
};
