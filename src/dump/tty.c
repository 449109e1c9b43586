/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The terminal that a shell job shares with the shell that started it.
 *
 * Model. The tree's terminal is the controlling one of its root. It does not move: who restores the tree gives it another
 * one. So of each open file only its flags are kept, and of the terminal, in one IMAGE_TTY_INFO record, what a program may
 * have changed: its settings, its size, the foreground group. TIOCGDEV tells which terminal an open file leads to, be it
 * opened as /dev/pts/N, /dev/tty or /dev/console.
 *
 * Without dump_options.shell_job any terminal is a blocker. With it: terminals other than that one, masters of
 * pseudo-terminals, virtual consoles (what is on their screen stays here), and terminals that were hung up.
 *
 * What is lost by design: typed input that nobody has read yet, as it is the terminal's, and that stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "dump/file-kind.h"
#include "tty.pb-c.h"

#define MAJOR_TTY 4 /* virtual consoles below minor 64, serial lines above */
#define MAJOR_AUX 5
#define MAJOR_PTS 136
#define MAJOR_PTS_LAST 143
#define VIRTUAL_LAST 63
#define SETTINGS_CC 19 /* control characters that the kernel knows of */

/* Ids of terminals that are told by a name, as CRIU numbers them; those of pseudo-terminals are their index. */
#define INDEX_CONSOLE 1002
#define INDEX_CONTROLLING 1006

#define REMEDY_NONE "start the program without one: setsid PROGRAM </dev/null >LOG 2>&1"
#define REMEDY_JOB "dump and restore it with --shell-job, or " REMEDY_NONE

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

static bool match(const struct dump_file *file)
{
	unsigned int number;

	if (!S_ISCHR(file->st.st_mode) || file->flags & O_PATH)
		return false;
	/* One that is hung up answers nothing. */
	return major(file->st.st_rdev) == MAJOR_TTY || major(file->st.st_rdev) == MAJOR_AUX ||
	       device_is_pts(file->st.st_rdev) || ioctl(file->fd, TIOCGDEV, &number) == 0;
}

/* Adds the blocker unless this is the shell job's terminal. */
static bool is_blocked(struct dump_context *ctx, const struct dump_file *file)
{
	const unsigned int own = (unsigned int)ctx->processes.items[0]->stat.tty;
	const char *cause = NULL;
	unsigned int number;
	int index;

	if (ioctl(file->fd, TIOCGPTN, &index) == 0)
		cause = "it is the master of a pseudo-terminal; such terminals cannot be moved";
	else if (ioctl(file->fd, TIOCGDEV, &number) < 0)
		cause = "its terminal was hung up; terminals cannot be moved";
	else if (device_is_virtual(device_decode(number)))
		cause = "virtual consoles are terminals that cannot be moved";
	else if (own == 0 || number != own)
		cause = "terminals cannot be moved, and it is not the one that the program was started from";
	if (cause) {
		dump_file_block(ctx, file, cause, REMEDY_NONE);
		return true;
	}
	if (!ctx->options->shell_job)
		dump_file_block(ctx, file, "terminals cannot be moved", REMEDY_JOB);
	return !ctx->options->shell_job;
}

void dump_terminal_check(struct dump_context *ctx, const struct dump_process *process)
{
	dev_t device = device_decode((unsigned int)process->stat.tty);
	const char *cause = NULL, *remedy = REMEDY_NONE;

	if (process->stat.tty == 0)
		return;
	if (device_is_virtual(device))
		cause = "its controlling terminal is a virtual console, which stays here";
	else if (process->stat.tty != ctx->processes.items[0]->stat.tty)
		cause = "its controlling terminal is not the one that the tree was started from";
	else if (!ctx->options->shell_job) {
		cause = "it has a controlling terminal, which stays here";
		remedy = REMEDY_JOB;
	}
	if (cause && device_is_pts(device))
		dump_blocker_add(ctx, process->pid, "terminal", cause, remedy, "/dev/pts/%u", minor(device));
	else if (cause)
		dump_blocker_add(ctx, process->pid, "terminal", cause, remedy, "device %u:%u", major(device),
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
static void read_settings(int fd, TerminalSettings *settings, uint32_t cc[SETTINGS_CC], WindowSize *size, TerminalInfo *info)
{
	struct termios termios;
	struct winsize window;
	int exclusive = 0;

	if (tcgetattr(fd, &termios) < 0 || ioctl(fd, TIOCGWINSZ, &window) < 0)
		return;
	settings->c_iflag = termios.c_iflag;
	settings->c_oflag = termios.c_oflag;
	settings->c_cflag = termios.c_cflag;
	settings->c_lflag = termios.c_lflag;
	settings->c_line = termios.c_line;
	settings->c_ispeed = termios.c_ispeed;
	settings->c_ospeed = termios.c_ospeed;
	for (size_t i = 0; i < SETTINGS_CC; i++)
		cc[i] = termios.c_cc[i];
	settings->c_cc = cc;
	settings->n_c_cc = SETTINGS_CC;
	info->termios = settings;
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
	TerminalSettings settings = TERMINAL_SETTINGS__INIT;
	TerminalInfo info = TERMINAL_INFO__INIT;
	WindowSize size = WINDOW_SIZE__INIT;
	PtyIndex pty = PTY_INDEX__INIT;
	uint32_t cc[SETTINGS_CC], index;

	info.type = type_of(device, &index);
	info.id = *ret_id = index << 1;
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
		read_settings(fd, &settings, cc, &size, &info);
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

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	TerminalFile terminal = TERMINAL_FILE__INIT;
	OpenFile message = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	int r;

	if (is_blocked(ctx, file))
		return 0;
	r = add_info(ctx, file->st.st_rdev, file->fd, &file->st, &terminal.tty_info_id, error);
	if (r == 0)
		r = add_path(ctx, file, &terminal.regf_id, error);
	if (r < 0)
		return r;
	terminal.id = file->id;
	terminal.flags = file->flags;
	terminal.fown = &owner;
	terminal.has_regf_id = 1;
	message.type = FILE_TYPE__FILE_TERMINAL;
	message.id = file->id;
	message.tty = &terminal;
	return dump_file_add(ctx, &message, error);
}

/* A job that has closed its terminal, or uses it as /dev/tty only when it needs it. */
static int finish(struct dump_context *ctx, struct error *error)
{
	const struct dump_process *root = ctx->processes.items[0];
	uint32_t id;

	if (!ctx->options->shell_job || root->stat.tty == 0 || ctx->files->terminals.count > 0)
		return 0;
	return add_info(ctx, device_decode((unsigned int)root->stat.tty), -1, NULL, &id, error);
}

const struct dump_file_kind dump_kind_terminal = {
	.name = "terminal",
	.type = FILE_TYPE__FILE_TERMINAL,
	.match = match,
	.dump = dump,
	.finish = finish,
};
