/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Settings of a pseudo-terminal, and what lay in it. The slave is opened for that, unless it never was: from then on it counts
 * as closed, until one of the tree's descriptors is there.
 *
 * Failure modes: records that do not fit together, -EPROTO; more than the terminal takes, -ENOSPC.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "restore/pty.h"
#include "util/cleanup.h"

/* Input that came without the ends of its lines: it ends where lines do. */
static void find_ends(struct image_pty_queue *queue)
{
	if (!(queue->settings.lflag & ICANON) || queue->end_count)
		return;
	for (uint32_t i = 0; i < queue->cooked; i++)
		if (queue->input[i] == '\n' && queue->end_count < IMAGE_PTY_LINE_MAX)
			queue->ends[queue->end_count++] = i + 1;
}

static bool is_good(const TerminalData *message)
{
	uint32_t last = 0;

	if (message->data.len > IMAGE_PTY_QUEUE_MAX || message->n_ends > IMAGE_PTY_LINE_MAX ||
	    (message->has_cooked && message->cooked > message->data.len))
		return false;
	for (size_t i = 0; i < message->n_ends; i++) {
		if (message->ends[i] < last || !message->has_cooked || message->ends[i] > message->cooked)
			return false;
		last = message->ends[i];
	}
	return true;
}

static void load_input(const TerminalData *message, struct image_pty_queue *queue)
{
	queue->input_size = (uint32_t)message->data.len;
	memcpy(queue->input, message->data.data, message->data.len);
	queue->cooked = message->has_cooked ? message->cooked : queue->input_size;
	queue->end_count = (uint32_t)message->n_ends;
	for (size_t i = 0; i < message->n_ends; i++)
		queue->ends[i] = message->ends[i];
	if (!message->has_cooked)
		find_ends(queue);
}

static int load_queues(struct restore_tree *tree, const struct restore_pty *pty, struct image_pty_queue *queue,
		       struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(tree->images, IMAGE_TTY_DATA, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TerminalData *message = NULL;
		int r = image_unpack(record, terminal_data, &message, error);

		if (r < 0)
			return r;
		if (message->tty_id >> 1 != pty->index)
			continue;
		if (!is_good(message))
			return error_set(error, -EPROTO, "the content of terminal %u is damaged", message->tty_id);
		if (message->tty_id == image_terminal_slave_id(pty->index)) {
			load_input(message, queue);
		} else {
			queue->output_size = (uint32_t)message->data.len;
			memcpy(queue->output, message->data.data, message->data.len);
		}
	}
	return 0;
}

int restore_pty_fill(struct restore_tree *tree, const struct restore_pty *pty, struct image_pty_queue *queue,
		     struct error *error)
{
	const TerminalInfo *info = pty->slave ? pty->slave : pty->master;
	_cleanup_fd_ int slave = -1;
	int r;

	memset(queue, 0, sizeof(*queue));
	r = image_terminal_read(pty->fd, &queue->settings);
	if (r < 0)
		return error_set_errno(error, r, "/dev/pts/%u", pty->index);
	if (info->termios)
		image_terminal_unpack(info->termios, &queue->settings);
	if (info->termios_locked)
		image_terminal_unpack(info->termios_locked, &queue->lock);
	queue->packet = pty->master->packet_mode;
	queue->packet_status = (uint8_t)pty->master->packet_status;
	queue->flow = (uint8_t)info->flow;
	r = load_queues(tree, pty, queue, error);
	if (r == 0 && (!pty->master->has_opened || pty->master->opened)) {
		slave = ioctl(pty->fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		if (slave < 0)
			r = error_set_errno(error, -errno, "cannot open /dev/pts/%u", pty->index);
	}
	if (r < 0)
		return r;
	r = image_terminal_write(pty->fd, &queue->settings);
	if (r == 0)
		r = image_pty_put(pty->fd, slave >= 0 ? slave : pty->fd, queue);
	return r < 0 ? error_set_errno(error, r, "cannot fill /dev/pts/%u", pty->index) : 0;
}
