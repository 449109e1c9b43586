/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pseudo-terminals that came with the tree: the mirror of dump/pty.c.
 *
 * Model. A pair is made by the layout that first has its master, under its own number: masters are opened until the number
 * comes, and the others are closed. A process has a controlling terminal from its parent, as it has its session, so a leader
 * gets its terminal as soon as it leads a session, and before children are cloned from it. This program holds the masters until
 * the descriptors are in the shells.
 *
 * All that can be said of the slave is said by way of the master, so that a slave that nobody has open needs not be opened:
 * whether it ever was shows. Sizes are set in the layout, before signals are taken out of the shells: a change is a signal.
 *
 * Failure modes: the number is in use here, -EEXIST (the preflight has looked).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/pty-queue.h"
#include "restore/pty.h"
#include "util/cleanup.h"
#include "util/procfs.h"

#define MAJOR_PTS    136
#define SPARES_MAX   8192 /* over the kernel's usual limit of pseudo-terminals, 4096 */
#define MASTER_FLAGS (O_RDWR | O_NOCTTY | O_CLOEXEC)

struct restore_ptys {
	ARRAY(struct restore_pty) list;
};

static void info_free(TerminalInfo *info)
{
	if (info)
		protobuf_c_message_free_unpacked(&info->base, NULL);
}

static void pty_deinit(struct restore_pty *pty)
{
	cleanup_fd(&pty->fd);
	info_free(pty->master);
	info_free(pty->slave);
}

void restore_ptys_free(struct restore_ptys *ptys)
{
	if (!ptys)
		return;
	array_for_each(pty, &ptys->list)
		pty_deinit(pty);
	array_deinit(&ptys->list);
	free(ptys);
}

static struct restore_pty *pty_find(const struct restore_tree *tree, uint32_t index)
{
	if (tree->ptys)
		array_for_each(pty, &tree->ptys->list)
			if (pty->index == index)
				return pty;
	return NULL;
}

/* ---- making them */

/* A master whose slave has the number; the spares are those that came before it. */
static int open_master(const char *path, uint32_t index, struct error *error)
{
	ARRAY(int) spares = { 0 };
	int fd, number, r = 0;

	for (;;) {
		fd = open(path, MASTER_FLAGS);
		if (fd < 0 || ioctl(fd, TIOCGPTN, &number) < 0) {
			r = error_set_errno(error, -errno, "cannot make a pseudo-terminal by %s", path);
			break;
		}
		if ((uint32_t)number == index)
			break;
		if ((uint32_t)number > index || spares.count >= SPARES_MAX || array_append(&spares, fd) < 0) {
			r = error_set(error, -EEXIST, "/dev/pts/%u is in use on the restoring host", index);
			break;
		}
	}
	array_for_each(spare, &spares)
		close(*spare);
	array_deinit(&spares);
	if (r < 0 && fd >= 0)
		close(fd);
	return r < 0 ? r : fd;
}

static int unlock(int fd, struct error *error)
{
	static const int off = 0;

	return ioctl(fd, TIOCSPTLCK, &off) < 0 ? error_set_errno(error, -errno, "cannot unlock a pseudo-terminal") : 0;
}

static int pty_make(struct restore_tree *tree, const TerminalInfo *info, struct restore_pty **ret, struct error *error)
{
	struct restore_pty pty = { .index = info->pty->index, .fd = -1 };
	int r;

	pty.fd = open_master(info->path ? info->path : RESTORE_PTY_MASTER, pty.index, error);
	r = pty.fd < 0 ? pty.fd : unlock(pty.fd, error);
	if (r == 0 && array_append(&tree->ptys->list, pty) < 0)
		r = error_set(error, -ENOMEM, "no memory for terminals");
	if (r < 0) {
		pty_deinit(&pty);
		return r;
	}
	*ret = &tree->ptys->list.items[tree->ptys->list.count - 1];
	return 0;
}

static int set_size(const struct restore_pty *pty, struct error *error)
{
	const WindowSize *message = pty->master->winsize;
	struct winsize window;

	if (!message)
		return 0;
	window = (struct winsize){
		.ws_row = (unsigned short)message->ws_row,
		.ws_col = (unsigned short)message->ws_col,
		.ws_xpixel = (unsigned short)message->ws_xpixel,
		.ws_ypixel = (unsigned short)message->ws_ypixel,
	};
	return ioctl(pty->fd, TIOCSWINSZ, &window) < 0 ?
		       error_set_errno(error, -errno, "cannot set the size of /dev/pts/%u", pty->index) : 0;
}

static int load_info(struct restore_tree *tree, const struct image_record *record, bool masters, struct error *error)
{
	_cleanup_message_ TerminalInfo *info = NULL;
	struct restore_pty *pty;
	int r = image_unpack(record, terminal_info, &info, error);

	if (r < 0 || info->type != TERMINAL_TYPE__TERMINAL_PTY || !info->pty || restore_pty_is_master(info) != masters)
		return r;
	pty = pty_find(tree, info->pty->index);
	if (!masters) {
		/* Without a pair it is a terminal that stays behind. */
		if (pty && !pty->slave)
			pty->slave = steal_ptr(&info);
		return 0;
	}
	if (!pty)
		r = pty_make(tree, info, &pty, error);
	if (r < 0)
		return r;
	info_free(pty->master);
	pty->master = steal_ptr(&info);
	return set_size(pty, error);
}

static int load_all(struct restore_tree *tree, bool masters, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(tree->images, IMAGE_TTY_INFO, IMAGE_ANY, &cursor)))
		r = load_info(tree, record, masters, error);
	return r;
}

int restore_ptys_prepare(struct restore_tree *tree, struct error *error)
{
	int r;

	if (!tree->ptys)
		tree->ptys = calloc(1, sizeof(*tree->ptys));
	if (!tree->ptys)
		return error_set(error, -ENOMEM, "no memory for terminals");
	array_for_each(pty, &tree->ptys->list) {
		info_free(steal_ptr(&pty->master));
		info_free(steal_ptr(&pty->slave));
	}
	r = load_all(tree, true, error);
	if (r == 0)
		r = load_all(tree, false, error);
	/* Those that are not there any more. */
	for (size_t i = tree->ptys->list.count; r == 0 && i-- > 0;) {
		struct restore_pty *pty = &tree->ptys->list.items[i];

		if (pty->master)
			continue;
		pty_deinit(pty);
		memmove(pty, pty + 1, (tree->ptys->list.count - i - 1) * sizeof(*pty));
		tree->ptys->list.count--;
	}
	return r;
}

/* ---- the terminal that controls a process */

/* The number of the terminal that a shell has now; -1: none. */
static int terminal_of(pid_t pid)
{
	struct procfs_stat stat;
	unsigned int number;

	if (procfs_read_stat(pid, &stat, NULL) < 0)
		return -1;
	number = (unsigned int)stat.tty;
	return (number >> 8 & 0xfff) == MAJOR_PTS ? (int)((number & 0xff) | (number >> 12 & 0xfff00)) : -1;
}

static int open_slave(const struct restore_pty *pty, int flags, struct error *error)
{
	int fd = ioctl(pty->fd, TIOCGPTPEER, (flags & O_ACCMODE) | O_NOCTTY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(error, -errno, "cannot open /dev/pts/%u", pty->index) : fd;
}

/* Runs one ioctl on an end of the pair in a shell. `data` NULL: the argument is 0. */
static int shell_ioctl(struct restore_tree *tree, struct restore_process *process, int end, unsigned long request,
		       const void *data, size_t size, struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	int pidfd, fd, r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	pidfd = restore_borrow_begin(batch);
	fd = restore_borrow(batch, pidfd, end);
	tracee_batch_call(batch, SYS_ioctl, TRACEE_RESULT(fd), request, data ? tracee_batch_data(batch, data, size) : 0);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fd));
	restore_borrow_end(batch, pidfd);
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r < 0 ? error_wrap(error, r, "terminal of PID %d", process->pid) : 0;
}

/* Gives up the terminal: for all of the session if it is the leader. A master does not take this in place of its slave. */
static int detach(struct restore_tree *tree, struct restore_process *process, int index, struct error *error)
{
	const struct restore_pty *pty = pty_find(tree, (uint32_t)index);
	_cleanup_fd_ int slave = -1;

	if (!pty)
		return 0;
	slave = open_slave(pty, O_RDWR, error);
	return slave < 0 ? slave : shell_ioctl(tree, process, slave, TIOCNOTTY, NULL, 0, error);
}

int restore_pty_control(struct restore_tree *tree, struct restore_process *leader, int wanted, struct error *error)
{
	int has = terminal_of(leader->pid), r = 0;
	const struct restore_pty *pty;

	if (has == wanted || restore_job_shares(tree, getsid(leader->pid)))
		return 0;
	if (has >= 0)
		r = detach(tree, leader, has, error);
	if (r < 0 || wanted < 0)
		return r;
	pty = pty_find(tree, (uint32_t)wanted);
	if (!pty)
		return error_set(error, -EPROTO, "the terminal /dev/pts/%d of session %d is missing", wanted, leader->pid);
	return shell_ioctl(tree, leader, pty->fd, TIOCSCTTY, NULL, 0, error);
}

/* A process that has given up its terminal, while its session has one. */
static int finish_process(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ TreeProcess *message = NULL;
	const struct image_record *record;
	int has = terminal_of(process->pid);
	size_t cursor = 0;

	if (has < 0 || !pty_find(tree, (uint32_t)has))
		return 0;
	while (!message && (record = image_set_next(tree->images, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		int r = image_unpack(record, tree_process, &message, error);

		if (r < 0)
			return r;
		if (message->pid != (uint32_t)process->pid)
			protobuf_c_message_free_unpacked(&steal_ptr(&message)->base, NULL);
	}
	if (!message || message->has_terminal || message->sid == message->pid)
		return 0;
	return detach(tree, process, has, error);
}

/* ---- descriptors */

/* In a process that the terminal controls: for others /dev/tty is another one, or none. */
static int open_controlling(struct restore_tree *tree, const struct restore_pty *pty, int flags, struct error *error)
{
	struct restore_process *user = NULL;
	struct tracee_batch *batch;
	int number, fd = -1, r;

	array_for_each(process, &tree->processes)
		if (!user && terminal_of((*process)->pid) == (int)pty->index)
			user = *process;
	if (!user)
		return open_slave(pty, flags, error);
	batch = tracee_batch_new();
	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	number = tracee_batch_call(batch, SYS_openat, AT_FDCWD, tracee_batch_string(batch, "/dev/tty"),
				   (flags & O_ACCMODE) | O_CLOEXEC, 0);
	r = tracee_batch_run(user->tracee->threads.items[0], batch, tree->deadline, error);
	if (r == 0) {
		int64_t theirs = tracee_batch_result(batch, number), ignored;

		fd = (int)syscall(SYS_pidfd_getfd, user->tracee->pidfd, (int)theirs, 0);
		r = fd < 0 ? error_set_errno(error, -errno, "cannot take /dev/tty out of PID %d", user->pid) : 0;
		if (tracee_thread_call(user->tracee->threads.items[0], tree->deadline, &ignored, r < 0 ? NULL : error,
				       SYS_close, (uint64_t)theirs, 0, 0, 0, 0, 0) < 0 && r == 0) {
			close(fd);
			r = -EIO;
		}
	}
	tracee_batch_free(batch);
	return r < 0 ? r : fd;
}

/* A slave whose master is gone. The number is kept if nobody has it. */
static int open_hung_up(uint32_t index, int flags, struct error *error)
{
	struct restore_pty pty = { .index = index };
	struct error ignored = ERROR_INIT;
	int fd;

	pty.fd = open_master(RESTORE_PTY_MASTER, index, &ignored);
	if (pty.fd < 0)
		pty.fd = open(RESTORE_PTY_MASTER, MASTER_FLAGS);
	if (pty.fd < 0)
		return error_set_errno(error, -errno, "cannot make a pseudo-terminal by %s", RESTORE_PTY_MASTER);
	fd = unlock(pty.fd, error);
	if (fd == 0)
		fd = open_slave(&pty, flags, error);
	close(pty.fd);
	return fd;
}

int restore_pty_open(struct restore_tree *tree, const TerminalFile *message, struct error *error)
{
	uint32_t id = message->has_terminal ? message->terminal : message->tty_info_id;
	const struct restore_pty *pty = pty_find(tree, id >> 1);
	int fd;

	if (message->hung_up)
		return open_hung_up(message->tty_info_id >> 1, (int)message->flags, error);
	if (!pty)
		return error_set(error, -EPROTO, "the terminal %u is missing", id);
	if (message->has_terminal)
		return open_controlling(tree, pty, (int)message->flags, error);
	if (!(id & 1))
		return open_slave(pty, (int)message->flags, error);
	fd = fcntl(pty->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? error_set_errno(error, -errno, "cannot copy a descriptor") : fd;
}

/* ---- the end */

/* Owner and permissions of the slave's file, where it is. */
static int set_owner(const struct restore_pty *pty, struct error *error)
{
	const TerminalInfo *info = pty->slave;
	char path[32];
	struct stat st;

	if (!info || !info->has_uid || !info->has_gid || !info->has_mode)
		return 0;
	snprintf(path, sizeof(path), "/dev/pts/%u", pty->index);
	if (stat(path, &st) < 0)
		return error_set_errno(error, -errno, "%s", path);
	if ((st.st_uid != info->uid || st.st_gid != info->gid) && chown(path, info->uid, info->gid) < 0)
		return error_set_errno(error, -errno, "cannot give %s to user %u", path, info->uid);
	if ((st.st_mode & 07777) != info->mode && chmod(path, info->mode) < 0)
		return error_set_errno(error, -errno, "cannot set the permissions of %s", path);
	return 0;
}

/* Opened by us for a moment only: the slave's own flag is on the slave. */
static int set_exclusive(const struct restore_pty *pty, struct error *error)
{
	_cleanup_fd_ int slave = -1;

	if (pty->slave && pty->slave->exclusive) {
		slave = open_slave(pty, O_RDWR, error);
		if (slave < 0)
			return slave;
		if (ioctl(slave, TIOCEXCL) < 0)
			return error_set_errno(error, -errno, "cannot close /dev/pts/%u to others", pty->index);
	}
	if (pty->master->exclusive && ioctl(pty->fd, TIOCEXCL) < 0)
		return error_set_errno(error, -errno, "cannot close the master of /dev/pts/%u to others", pty->index);
	return 0;
}

/* A group whose processes have all ended cannot be the foreground here. */
static int set_foreground(struct restore_tree *tree, const struct restore_pty *pty, struct error *error)
{
	struct restore_process *leader = restore_tree_find(tree, (pid_t)pty->master->sid);
	pid_t group = (pid_t)pty->master->pgrp, now = 0;

	if (!leader || group <= 0 || (ioctl(pty->fd, TIOCGPGRP, &now) == 0 && now == group))
		return 0;
	if (kill(-group, 0) < 0 && errno == ESRCH)
		return 0;
	return shell_ioctl(tree, leader, pty->fd, TIOCSPGRP, &group, sizeof(group), error);
}

int restore_ptys_fill(struct restore_tree *tree, struct error *error)
{
	struct image_pty_queue *queue;
	int r = 0;

	if (tree->ptys->list.count == 0)
		return 0;
	queue = malloc(sizeof(*queue));
	if (!queue)
		return error_set(error, -ENOMEM, "no memory for the content of terminals");
	array_for_each(pty, &tree->ptys->list)
		if (r == 0)
			r = restore_pty_fill(tree, pty, queue, error);
	free(queue);
	return r;
}

int restore_ptys_finish(struct restore_tree *tree, struct error *error)
{
	int r = 0;

	array_for_each(process, &tree->processes)
		if (r == 0 && tree->ptys->list.count)
			r = finish_process(tree, *process, error);
	array_for_each(pty, &tree->ptys->list) {
		int locked = pty->master->locked;

		if (r == 0)
			r = set_foreground(tree, pty, error);
		if (r == 0)
			r = set_owner(pty, error);
		if (r == 0)
			r = set_exclusive(pty, error);
		if (r == 0 && locked && ioctl(pty->fd, TIOCSPTLCK, &locked) < 0)
			r = error_set_errno(error, -errno, "cannot lock /dev/pts/%u", pty->index);
	}
	restore_ptys_free(steal_ptr(&tree->ptys));
	return r;
}
