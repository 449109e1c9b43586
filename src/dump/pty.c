/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pseudo-terminals whose masters the tree holds: they move with it.
 *
 * Model. A pair has a number, N of /dev/pts/N, and two ends. The master is one open file; the slave can be opened any number of
 * times, or not at all, and controls a session also without a descriptor. Both ends are described, one IMAGE_TTY_INFO each,
 * when all descriptors were seen: what the master tells of its slave is true whether or not the slave is open.
 *
 * Processes learn of a controlling terminal by being children of the session's leader, so the target needs to know of it when
 * it makes them, which is before descriptors are looked at: dump_ptys_find() looks for masters only, by their links.
 *
 * What lies in them is copied at the freeze (pty-copy.c).
 *
 * Refused: a terminal that is used from outside of the tree, too (found in preflight); a line discipline of its own.
 *
 * What is lost by design: what was typed into a terminal that nobody has opened yet.
 *
 * Failure modes: a descriptor that goes meanwhile is skipped; a session that ends meanwhile is none.
 */
#include "dump/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "image/terminal.h"
#include "tty.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define MAJOR_PTS 136

struct dump_pty {
	uint32_t index;
	int master; /* copy of the tree's descriptor, owned; -1: not in the tree */
	int slave;  /* a copy of one that is open, owned; -1: none is */
	pid_t pid;  /* for messages: whose master it is, under which number */
	int number;
	char path[64]; /* by which the master was opened */
	bool frozen;
};

struct dump_ptys {
	ARRAY(struct dump_pty) list;
};

static void pty_deinit(struct dump_pty *pty)
{
	cleanup_fd(&pty->master);
	cleanup_fd(&pty->slave);
}

void dump_ptys_free(struct dump_ptys *ptys)
{
	if (!ptys)
		return;
	array_for_each(pty, &ptys->list)
		pty_deinit(pty);
	array_deinit(&ptys->list);
	free(ptys);
}

/* ---- records */

/* The messages of one pair. */
struct pty_messages {
	TerminalInfo master, slave;
	struct image_terminal_message settings, lock;
	WindowSize size;
	PtyIndex index;
};

static int read_lock(const struct dump_pty *pty, struct pty_messages *messages)
{
	static const struct image_terminal_settings none = { 0 };
	struct image_terminal_settings lock;
	int r = image_terminal_read_lock(pty->master, &lock);

	if (r < 0)
		return r;
	image_terminal_pack(&lock, &messages->lock);
	if (memcmp(&lock, &none, sizeof(lock)) != 0)
		messages->master.termios_locked = &messages->lock.message;
	return 0;
}

/* What both ends have in common. */
static int read_common(const struct dump_pty *pty, struct pty_messages *messages)
{
	struct image_terminal_settings settings;
	TerminalInfo *master = &messages->master;
	struct winsize window;
	int locked = 0, number, r;

	r = image_terminal_read(pty->master, &settings);
	if (r == 0)
		r = read_lock(pty, messages);
	if (r < 0)
		return r;
	if (ioctl(pty->master, TIOCGWINSZ, &window) < 0 || ioctl(pty->master, TIOCGPTLCK, &locked) < 0)
		return -errno;
	image_terminal_pack(&settings, &messages->settings);
	master->type = TERMINAL_TYPE__TERMINAL_PTY;
	master->locked = locked;
	master->termios = &messages->settings.message;
	messages->size.ws_row = window.ws_row;
	messages->size.ws_col = window.ws_col;
	messages->size.ws_xpixel = window.ws_xpixel;
	messages->size.ws_ypixel = window.ws_ypixel;
	master->winsize = &messages->size;
	messages->index.index = pty->index;
	master->pty = &messages->index;
	/* It controls no session: ENOTTY. */
	master->sid = ioctl(pty->master, TIOCGSID, &number) == 0 ? (uint32_t)number : 0;
	master->pgrp = master->sid && ioctl(pty->master, TIOCGPGRP, &number) == 0 ? (uint32_t)number : 0;
	messages->slave = *master;
	return 0;
}

/* Hung up is a master whose slave was closed for the last time, but not one whose slave nobody has opened yet. */
static bool was_opened(const struct dump_pty *pty)
{
	struct pollfd look = { .fd = pty->master };

	return pty->slave >= 0 || (poll(&look, 1, 0) == 1 && look.revents & POLLHUP);
}

static void read_master(const struct dump_pty *pty, TerminalInfo *info)
{
	int number;

	info->id = image_terminal_master_id(pty->index);
	info->rdev = (uint32_t)makedev(5, 2);
	info->exclusive = ioctl(pty->master, TIOCGEXCL, &number) == 0 && number;
	info->packet_mode = ioctl(pty->master, TIOCGPKT, &number) == 0 && number;
	info->path = (char *)pty->path;
	info->has_opened = 1;
	info->opened = was_opened(pty);
}

static void read_slave(const struct dump_pty *pty, TerminalInfo *info)
{
	struct stat st = { 0 };
	char path[32];
	int number;

	info->id = image_terminal_slave_id(pty->index);
	info->rdev = (uint32_t)makedev(MAJOR_PTS, pty->index);
	info->exclusive = pty->slave >= 0 && ioctl(pty->slave, TIOCGEXCL, &number) == 0 && number;
	snprintf(path, sizeof(path), "/dev/pts/%u", pty->index);
	if ((pty->slave >= 0 ? fstat(pty->slave, &st) : stat(path, &st)) < 0 || st.st_rdev != makedev(MAJOR_PTS, pty->index))
		return;
	info->has_dev = info->has_uid = info->has_gid = info->has_mode = 1;
	info->dev = (uint32_t)st.st_dev;
	info->uid = st.st_uid;
	info->gid = st.st_gid;
	info->mode = st.st_mode & 07777;
}

static int read_pair(const struct dump_pty *pty, struct pty_messages *messages, struct error *error)
{
	int r;

	terminal_info__init(&messages->master);
	window_size__init(&messages->size);
	pty_index__init(&messages->index);
	r = read_common(pty, messages);
	if (r < 0)
		return error_set_errno(error, r, "PID %d, descriptor %d: asking about /dev/pts/%u", pty->pid, pty->number,
				       pty->index);
	read_master(pty, &messages->master);
	read_slave(pty, &messages->slave);
	return 0;
}

/* ---- masters only */

static bool is_master_link(const char *link)
{
	size_t length = strlen(link);

	return length >= 5 && strcmp(link + length - 5, "/ptmx") == 0;
}

static int found(struct dump_context *ctx, const struct dump_process *process, int number, const char *link, bool records,
		 struct error *error)
{
	_cleanup_(pty_deinit) struct dump_pty pty = { .master = -1, .slave = -1, .pid = process->live, .number = number };
	struct pty_messages messages;
	int r;

	pty.master = (int)syscall(SYS_pidfd_getfd, dump_process_pidfd(process), number, 0);
	if (pty.master < 0 || ioctl(pty.master, TIOCGPTN, &pty.index) < 0)
		return 0;
	if (array_append(&ctx->files->masters, pty.index) < 0)
		return error_set(error, -ENOMEM, "no memory for terminals");
	if (!records)
		return 0;
	snprintf(pty.path, sizeof(pty.path), "%.63s", link);
	r = read_pair(&pty, &messages, error);
	return r < 0 ? r : image_set_add(ctx->images, IMAGE_TTY_INFO, 0, &messages.master.base, error);
}

static int find_in(struct dump_context *ctx, const struct dump_process *process, bool records, struct error *error)
{
	int dir_fd = openat(process->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *dir = dir_fd >= 0 ? fdopendir(dir_fd) : NULL;
	struct dirent *entry;
	int r = 0;

	while (r == 0 && dir && (entry = readdir(dir))) {
		char link[DUMP_LINK_MAX];

		if (fdio_readlink(dirfd(dir), entry->d_name, link, sizeof(link)) >= 0 && is_master_link(link))
			r = found(ctx, process, atoi(entry->d_name), link, records, error);
	}
	return r;
}

int dump_ptys_find(struct dump_context *ctx, bool records, struct error *error)
{
	bool any = false;
	int r = 0;

	if (!dump_files_get(ctx))
		return error_set(error, -ENOMEM, "no memory for terminals");
	array_clear(&ctx->files->masters);
	array_for_each(process, &ctx->processes)
		any = any || (*process)->stat.tty != 0;
	array_for_each(process, &ctx->processes)
		if (any && r == 0 && !dump_table_seen(*process))
			r = find_in(ctx, *process, records, error);
	return r;
}

/* The number of a slave from its device as /proc/PID/stat has it; -1: it is none. */
static int index_of(int device)
{
	unsigned int number = (unsigned int)device;

	if ((number >> 8 & 0xfff) != MAJOR_PTS)
		return -1;
	return (int)((number & 0xff) | (number >> 12 & 0xfff00));
}

bool dump_pty_moves(const struct dump_context *ctx, int device)
{
	int index = index_of(device);

	if (index >= 0 && ctx->files)
		array_for_each(master, &ctx->files->masters)
			if (*master == (uint32_t)index)
				return true;
	return false;
}

void dump_pty_controlling(const struct dump_context *ctx, const struct dump_process *process, TreeProcess *message)
{
	if (!dump_pty_moves(ctx, process->stat.tty))
		return;
	message->has_terminal = true;
	message->terminal = (uint32_t)index_of(process->stat.tty);
}

/* ---- a collection */

static struct dump_pty *pty_find(const struct dump_context *ctx, uint32_t index)
{
	if (ctx->files->ptys)
		array_for_each(pty, &ctx->files->ptys->list)
			if (pty->index == index)
				return pty;
	return NULL;
}

static struct dump_pty *pty_get(struct dump_context *ctx, uint32_t index)
{
	struct dump_pty new = { .index = index, .master = -1, .slave = -1 };
	struct dump_pty *pty = pty_find(ctx, index);

	if (pty)
		return pty;
	if (!ctx->files->ptys)
		ctx->files->ptys = calloc(1, sizeof(*ctx->files->ptys));
	if (!ctx->files->ptys || array_append(&ctx->files->ptys->list, new) < 0)
		return NULL;
	return &ctx->files->ptys->list.items[ctx->files->ptys->list.count - 1];
}

int dump_pty_note(struct dump_context *ctx, const struct dump_file *file, uint32_t index, bool master, struct error *error)
{
	struct dump_pty *pty = pty_get(ctx, index);
	int *place = pty ? (master ? &pty->master : &pty->slave) : NULL;

	if (!pty)
		return error_set(error, -ENOMEM, "no memory for terminals");
	pty->frozen = file->frozen;
	if (*place >= 0)
		return 0;
	*place = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	if (*place < 0)
		return error_set_errno(error, -errno, "copying a descriptor");
	if (master) {
		pty->pid = file->process->pid;
		pty->number = file->number;
		snprintf(pty->path, sizeof(pty->path), "%.63s", file->link);
	}
	return 0;
}

bool dump_pty_is_noted(const struct dump_context *ctx, uint32_t index)
{
	const struct dump_pty *pty = pty_find(ctx, index);

	return pty && pty->master >= 0;
}

static void check(struct dump_context *ctx, const struct dump_pty *pty, const struct pty_messages *messages)
{
	if (messages->master.sid && !dump_context_find(ctx, (pid_t)messages->master.sid))
		dump_refuse(ctx, pty->pid, "descriptor", IMAGE_KIND_TERMINAL_SHARED,
			    "fd %d -> %s of /dev/pts/%u, which controls session %u", pty->number, pty->path, pty->index,
			    messages->master.sid);
	if (messages->settings.message.c_line)
		dump_refuse(ctx, pty->pid, "descriptor", IMAGE_KIND_TERMINAL_DISCIPLINE, "discipline %u of /dev/pts/%u",
			    messages->settings.message.c_line, pty->index);
}

/* ---- what lies in them */

static int add_data(struct dump_context *ctx, const struct dump_pty *pty, struct image_pty_queue *queue, struct error *error)
{
	TerminalData input = TERMINAL_DATA__INIT, output = TERMINAL_DATA__INIT;
	int r = 0;

	input.tty_id = image_terminal_slave_id(pty->index);
	input.data.data = queue->input;
	input.data.len = queue->input_size;
	input.has_cooked = 1;
	input.cooked = queue->cooked;
	input.ends = queue->ends;
	input.n_ends = queue->end_count;
	output.tty_id = image_terminal_master_id(pty->index);
	output.data.data = queue->output;
	output.data.len = queue->output_size;
	if (queue->input_size || queue->end_count)
		r = image_set_add(ctx->images, IMAGE_TTY_DATA, 0, &input.base, error);
	if (r == 0 && queue->output_size)
		r = image_set_add(ctx->images, IMAGE_TTY_DATA, 0, &output.base, error);
	return r;
}

static int note_identity(struct dump_context *ctx, const struct dump_pty *pty, const TerminalInfo *slave, struct error *error)
{
	struct dump_pty_identity identity = {
		.index = pty->index, .dev = slave->dev, .pid = pty->pid, .number = pty->number,
	};

	return array_append(&ctx->files->pairs, identity) < 0 ? error_set(error, -ENOMEM, "no memory for terminals") : 0;
}

int dump_pty_of_other(const struct dump_context *ctx, pid_t pid, int number, const char *link, const struct stat *info)
{
	bool master = is_master_link(link);

	if (!ctx->files || !S_ISCHR(info->st_mode) || (!master && major(info->st_rdev) != MAJOR_PTS))
		return -1;
	array_for_each(pair, &ctx->files->pairs) {
		if (master && syscall(SYS_kcmp, pair->pid, pid, KCMP_FILE, pair->number, number) == 0)
			return (int)pair->index;
		if (!master && minor(info->st_rdev) == pair->index && pair->dev && info->st_dev == pair->dev)
			return (int)pair->index;
	}
	return -1;
}

static int finish_pair(struct dump_context *ctx, const struct dump_pty *pty, struct dump_pty_copy *copy, struct error *error)
{
	struct pty_messages messages;
	int r;

	if (copy && copy->result < 0)
		return error_set_errno(error, copy->result, "PID %d, descriptor %d: copying what lies in /dev/pts/%u", pty->pid,
				       pty->number, pty->index);
	r = read_pair(pty, &messages, error);
	if (r < 0)
		return r;
	check(ctx, pty, &messages);
	r = note_identity(ctx, pty, &messages.slave, error);
	if (r < 0)
		return r;
	if (copy) {
		messages.master.has_packet_status = copy->queue.packet_status != 0;
		messages.master.packet_status = copy->queue.packet_status;
		messages.slave.has_flow = copy->queue.flow != IMAGE_PTY_RUNS;
		messages.slave.flow = copy->queue.flow;
	}
	r = image_set_add(ctx->images, IMAGE_TTY_INFO, 0, &messages.master.base, error);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_TTY_INFO, 0, &messages.slave.base, error);
	return r < 0 || !copy ? r : add_data(ctx, pty, &copy->queue, error);
}

/* To open a slave that nobody has opened yet would show: what lies there is not looked at. */
static bool is_copied(const struct dump_pty *pty)
{
	return pty->frozen && pty->master >= 0 && was_opened(pty);
}

int dump_ptys_finish(struct dump_context *ctx, struct error *error)
{
	struct dump_pty_copy *copies = NULL;
	size_t count = 0, next = 0;
	int r = 0;

	array_clear(&ctx->files->pairs);
	if (!ctx->files->ptys)
		return 0;
	array_for_each(pty, &ctx->files->ptys->list)
		count += is_copied(pty);
	if (count > 0)
		r = dump_pty_copies_new(count, &copies, error);
	if (r < 0)
		return r;
	array_for_each(pty, &ctx->files->ptys->list)
		if (is_copied(pty))
			copies[next++].master = pty->master;
	if (count > 0)
		r = dump_pty_copies_run(copies, count, error);
	next = 0;
	array_for_each(pty, &ctx->files->ptys->list)
		if (pty->master >= 0 && r == 0)
			r = finish_pair(ctx, pty, is_copied(pty) ? &copies[next++] : NULL, error);
	dump_pty_copies_free(copies, count);
	return r;
}
