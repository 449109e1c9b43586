/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors of terminals: the two ends of pseudo-terminals that move with the tree (pty.c), and the terminal that a shell
 * job shares with the shell that started it.
 *
 * Model. The job's terminal is the controlling one of the tree's root, with its master outside of the tree. It does not move:
 * who restores the tree gives it another one. So of each open file only its flags are kept, and of the terminal, in one
 * IMAGE_TTY_INFO record, what a program may have changed: its settings, its size, the foreground group. TIOCGDEV tells which
 * terminal an open file leads to, be it opened as /dev/pts/N, /dev/tty or /dev/console. A file that was hung up leads nowhere,
 * and is made so again.
 *
 * Whether a slave's master is in the tree is known when all descriptors were seen: until then slaves are kept in a list.
 *
 * Without dump_options.shell_job any terminal from outside is refused, and with it any other than that one. Virtual consoles
 * (what is on their screen stays here), serial lines and BSD pseudo-terminals are refused by name.
 *
 * What is lost by design: what was typed into the terminal of a shell job and nobody has read yet: it is that terminal's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "dump/file-kind.h"
#include "dump/pty.h"
#include "image/terminal.h"
#include "tty.pb-c.h"

#define MAJOR_BSD_MASTER 2
#define MAJOR_BSD_SLAVE 3
#define MAJOR_TTY 4 /* virtual consoles below minor 64, serial lines above */
#define MAJOR_AUX 5
#define MAJOR_PTS 136
#define MAJOR_PTS_LAST 143
#define VIRTUAL_LAST 63
#define NO_INDEX UINT32_MAX

/* Ids of terminals that are told by a name, as CRIU numbers them; those of pseudo-terminals are their index. */
#define INDEX_CONSOLE 1002
#define INDEX_CONTROLLING 1006

/* Device numbers as TIOCGDEV and /proc/PID/stat give them. */
static dev_t device_decode(unsigned int number)
{
	return makedev(number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xfff00));
}

static bool device_is_virtual(dev_t device)
{
	return major(device) == MAJOR_TTY && minor(device) <= VIRTUAL_LAST;
}

static bool device_is_pts(dev_t device)
{
	return major(device) >= MAJOR_PTS && major(device) <= MAJOR_PTS_LAST;
}

static bool device_is_bsd(dev_t device)
{
	return major(device) == MAJOR_BSD_MASTER || major(device) == MAJOR_BSD_SLAVE;
}

static bool match(const struct dump_file *file)
{
	dev_t device = file->st.st_rdev;
	unsigned int number;

	if (!S_ISCHR(file->st.st_mode) || file->flags & O_PATH)
		return false;
	/* One that is hung up answers nothing. */
	return major(device) == MAJOR_TTY || major(device) == MAJOR_AUX || device_is_pts(device) || device_is_bsd(device) ||
	       ioctl(file->fd, TIOCGDEV, &number) == 0;
}

/* The number of the root's terminal, if that is shared with the shell that started it; or 0. */
static unsigned int job_terminal(const struct dump_context *ctx)
{
	int terminal = ctx->processes.items[0]->stat.tty;

	return dump_pty_moves(ctx, terminal) ? 0 : (unsigned int)terminal;
}

/* Why a terminal, whose master is not in the tree, is in the way. */
static enum image_kind kind_of(const struct dump_context *ctx, unsigned int number)
{
	dev_t device = device_decode(number);

	if (device_is_virtual(device))
		return IMAGE_KIND_TERMINAL_VIRTUAL;
	if (device_is_bsd(device))
		return IMAGE_KIND_TERMINAL_BSD;
	if (number == job_terminal(ctx) && !ctx->options->shell_job)
		return IMAGE_KIND_TERMINAL_JOB_UNASKED;
	return device_is_pts(device) ? IMAGE_KIND_TERMINAL_OUTSIDE : IMAGE_KIND_TERMINAL_SERIAL;
}

static bool is_shared(const struct dump_context *ctx, unsigned int number)
{
	return ctx->options->shell_job && number && number == job_terminal(ctx) && !device_is_virtual(device_decode(number));
}

void dump_terminal_check(struct dump_context *ctx, const struct dump_process *process)
{
	unsigned int number = (unsigned int)process->stat.tty;
	dev_t device = device_decode(number);

	if (number == 0 || dump_pty_moves(ctx, process->stat.tty) || is_shared(ctx, number))
		return;
	if (device_is_pts(device))
		dump_refuse(ctx, process->pid, "controlling terminal", kind_of(ctx, number), "/dev/pts/%u", minor(device));
	else
		dump_refuse(ctx, process->pid, "controlling terminal", kind_of(ctx, number), "device %u:%u", major(device),
			    minor(device));
}

/* ---- IMAGE_TTY_INFO */

/* What a terminal is by the device that was opened; its index. */
static TerminalType type_of(dev_t device, uint32_t *ret_index)
{
	*ret_index = 0;
	if (device_is_pts(device)) {
		*ret_index = (uint32_t)minor(device);
		return TERMINAL_TYPE__TERMINAL_PTY;
	}
	if (device == makedev(MAJOR_AUX, 0)) {
		*ret_index = INDEX_CONTROLLING;
		return TERMINAL_TYPE__TERMINAL_CONTROLLING;
	}
	if (device == makedev(MAJOR_AUX, 1)) {
		*ret_index = INDEX_CONSOLE;
		return TERMINAL_TYPE__TERMINAL_CONSOLE;
	}
	return TERMINAL_TYPE__TERMINAL_SERIAL;
}

/* Leaves them out when it is hung up this very moment. */
static void read_settings(int fd, struct image_terminal_message *message, WindowSize *size, TerminalInfo *info)
{
	struct image_terminal_settings settings;
	struct winsize window;
	int exclusive = 0;

	if (image_terminal_read(fd, &settings) < 0 || ioctl(fd, TIOCGWINSZ, &window) < 0)
		return;
	image_terminal_pack(&settings, message);
	info->termios = &message->message;
	size->ws_row = window.ws_row;
	size->ws_col = window.ws_col;
	size->ws_xpixel = window.ws_xpixel;
	size->ws_ypixel = window.ws_ypixel;
	info->winsize = size;
	info->exclusive = ioctl(fd, TIOCGEXCL, &exclusive) == 0 && exclusive;
}

/* The foreground group as IMAGE_PSTREE names it: the root always leads its own there. */
static pid_t foreground_group(const struct dump_context *ctx)
{
	const struct dump_process *root = ctx->processes.items[0];

	if (root->stat.foreground == root->stat.pgid)
		return root->pid;
	return root->stat.foreground > 0 ? root->stat.foreground : 0;
}

/* The record of the terminal that was opened as `device`, once in each set. `fd` -1: nobody has it open. */
static int add_info(struct dump_context *ctx, dev_t device, int fd, const struct stat *st, uint32_t *ret_id,
		    struct error *error)
{
	struct image_terminal_message settings;
	TerminalInfo info = TERMINAL_INFO__INIT;
	WindowSize size = WINDOW_SIZE__INIT;
	PtyIndex pty = PTY_INDEX__INIT;
	uint32_t index;

	info.type = type_of(device, &index);
	info.id = *ret_id = image_terminal_slave_id(index);
	array_for_each(id, &ctx->files->terminals)
		if (*id == info.id)
			return 0;
	if (array_append(&ctx->files->terminals, info.id) < 0)
		return error_set(error, -ENOMEM, "no memory for terminals");
	info.sid = (uint32_t)ctx->processes.items[0]->stat.sid;
	info.pgrp = (uint32_t)foreground_group(ctx);
	info.rdev = (uint32_t)device;
	if (info.type == TERMINAL_TYPE__TERMINAL_PTY) {
		pty.index = index;
		info.pty = &pty;
	}
	if (st) {
		info.has_dev = 1;
		info.dev = (uint32_t)st->st_dev;
		read_settings(fd, &settings, &size, &info);
	}
	return image_set_add(ctx->images, IMAGE_TTY_INFO, 0, &info.base, error);
}

/* ---- descriptors */

/* The path, as a file that nobody opens by itself: no check of it travels. */
static int add_path(struct dump_context *ctx, const struct dump_file *file, uint32_t *ret_id, struct error *error)
{
	OpenFile message = OPEN_FILE__INIT;
	RegularFile path = REGULAR_FILE__INIT;
	FileOwner owner = FILE_OWNER__INIT;

	path.id = *ret_id = ctx->files->next_id++;
	path.flags = file->flags;
	path.fown = &owner;
	path.name = (char *)file->link;
	path.has_mode = 1;
	path.mode = file->st.st_mode;
	message.type = FILE_TYPE__FILE_REGULAR;
	message.id = path.id;
	message.reg = &path;
	return dump_file_add(ctx, &message, error);
}

/* A slave that moves with its master, or is in the way without it. */
static int note_slave(struct dump_context *ctx, const struct dump_file *file, unsigned int number, TerminalFile *terminal,
		      struct error *error)
{
	struct dump_terminal slave = { .pid = file->process->pid, .number = file->number, .index = NO_INDEX, .device = number };
	dev_t device = device_decode(number);
	uint32_t index;

	snprintf(slave.link, sizeof(slave.link), "%.63s", file->link);
	(void)type_of(file->st.st_rdev, &index);
	terminal->tty_info_id = image_terminal_slave_id(index);
	if (device_is_pts(device)) {
		slave.index = (uint32_t)minor(device);
		terminal->has_terminal = !device_is_pts(file->st.st_rdev);
		terminal->terminal = image_terminal_slave_id(slave.index);
	}
	if (array_append(&ctx->files->slaves, slave) < 0)
		return error_set(error, -ENOMEM, "no memory for terminals");
	return slave.index == NO_INDEX ? 0 : dump_pty_note(ctx, file, slave.index, false, error);
}

/* Which terminal it is. 1: it is in the way. */
static int describe(struct dump_context *ctx, const struct dump_file *file, TerminalFile *terminal, struct error *error)
{
	unsigned int number;
	uint32_t index;

	if (device_is_bsd(file->st.st_rdev) || device_is_virtual(file->st.st_rdev)) {
		dump_file_refuse(ctx, file, device_is_bsd(file->st.st_rdev) ? IMAGE_KIND_TERMINAL_BSD
									    : IMAGE_KIND_TERMINAL_VIRTUAL);
		return 1;
	}
	if (ioctl(file->fd, TIOCGPTN, &index) == 0) {
		terminal->tty_info_id = image_terminal_master_id(index);
		if ((file->flags & O_ACCMODE) != O_RDWR) {
			dump_file_refuse(ctx, file, IMAGE_KIND_TERMINAL_ONE_WAY);
			return 1;
		}
		return dump_pty_note(ctx, file, index, true, error);
	}
	if (ioctl(file->fd, TIOCGDEV, &number) < 0) {
		(void)type_of(file->st.st_rdev, &index);
		terminal->tty_info_id = image_terminal_slave_id(index);
		terminal->has_hung_up = terminal->hung_up = true;
		return 0;
	}
	if (is_shared(ctx, number))
		return add_info(ctx, file->st.st_rdev, file->fd, &file->st, &terminal->tty_info_id, error);
	return note_slave(ctx, file, number, terminal, error);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	TerminalFile terminal = TERMINAL_FILE__INIT;
	OpenFile message = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r;

	r = describe(ctx, file, &terminal, error);
	if (r == 0)
		r = add_path(ctx, file, &terminal.regf_id, error);
	if (r != 0)
		return r < 0 ? r : 0;
	terminal.id = file->id;
	terminal.flags = file->flags;
	terminal.fown = &owner;
	terminal.has_regf_id = 1;
	message.type = FILE_TYPE__FILE_TERMINAL;
	message.id = file->id;
	message.tty = &terminal;
	return dump_file_add(ctx, &message, error);
}

/* A job that has closed its terminal, or uses it as /dev/tty only when it needs it, has one all the same. */
static int finish(struct dump_context *ctx, struct error *error)
{
	unsigned int shared = job_terminal(ctx);
	uint32_t id;

	array_for_each(slave, &ctx->files->slaves)
		if (slave->index == NO_INDEX || !dump_pty_is_noted(ctx, slave->index))
			dump_refuse(ctx, slave->pid, "descriptor", kind_of(ctx, slave->device), "fd %d -> %s", slave->number,
				    slave->link);
	if (is_shared(ctx, shared) && ctx->files->terminals.count == 0) {
		int r = add_info(ctx, device_decode(shared), -1, NULL, &id, error);

		if (r < 0)
			return r;
	}
	return dump_ptys_finish(ctx, error);
}

const struct dump_file_kind dump_kind_terminal = {
	.name = "terminal",
	.type = FILE_TYPE__FILE_TERMINAL,
	.match = match,
	.dump = dump,
	.finish = finish,
};
