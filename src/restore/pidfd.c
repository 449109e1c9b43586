/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pidfd_open(2) of a process or thread of the tree, which is there as a shell. For one that has ended a child is made that
 * ends at once in the same way.
 *
 * The child shares our memory and runs while we wait (vfork(2)), and its end is no signal to us: nobody else notices it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pidfd.pb-c.h"
#include "restore/file-kind.h"
#include "restore/parts.h"
#include "tracee/tracee.h"

#define STACK_SIZE (64 << 10)
#define FLAGS	   (O_NONBLOCK | O_EXCL) /* of pidfd_open(2) */

static bool in_tree(const struct restore_tree *tree, pid_t pid)
{
	if (restore_tree_find(tree, pid) || restore_zombie_find(tree, pid))
		return true;
	array_for_each (process, &tree->processes)
		array_for_each (thread, &(*process)->tracee->threads)
			if ((*thread)->tid == pid)
				return true;
	return false;
}

/* The child: dies of a signal without a core file, or exits. */
static int end_as(void *argument)
{
	const int *status = argument;
	struct rlimit none = { 0 };
	sigset_t all;

	if (WIFSIGNALED(*status)) {
		setrlimit(RLIMIT_CORE, &none);
		signal(WTERMSIG(*status), SIG_DFL);
		sigfillset(&all);
		sigprocmask(SIG_UNBLOCK, &all, NULL);
		syscall(SYS_kill, syscall(SYS_getpid), WTERMSIG(*status));
	}
	_exit(WEXITSTATUS(*status));
}

/* Of a signal that stops instead: the child would never end, nor we. */
static bool can_be_ended_by(int status)
{
	int number = WTERMSIG(status);

	return !WIFSIGNALED(status) || (number != SIGSTOP && number != SIGTSTP && number != SIGTTIN && number != SIGTTOU);
}

static int open_ended(int status, struct error *error)
{
	_Alignas(16) char stack[STACK_SIZE];
	int pidfd = -1;
	pid_t child;

	if (!can_be_ended_by(status))
		return error_set(error, -EPROTO, "a pidfd tells of a process that signal %d has ended", WTERMSIG(status));
	child = clone(end_as, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_PIDFD, &status, &pidfd);
	if (child < 0)
		return error_set_errno(error, -errno, "making a process that has ended");
	while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
		;
	return pidfd;
}

static int open_pidfd(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const PidFd *message = file->message->pidfd;

	if (message->nspid < 0) {
		file->fd = open_ended(message->status, error);
		if (file->fd < 0)
			return file->fd;
		return restore_file_set(file->fd, message->flags, message->fown, error);
	}
	if (!in_tree(tree, message->nspid))
		return error_set(error, -EPROTO, "process %d of a pidfd is not in the tree", message->nspid);
	file->fd = (int)syscall(SYS_pidfd_open, message->nspid, message->flags & FLAGS);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "pidfd_open of %d", message->nspid);
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_pidfd = {
	.name = "pidfd",
	.type = FILE_TYPE__FILE_PIDFD,
	.open = open_pidfd,
};
