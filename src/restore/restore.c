/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a tree being built: made empty, laid out once a round, finished, let go or thrown away. A failed layout or
 * finish leaves a tree that can only be thrown away.
 */
#include "restore.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "restore/files.h"
#include "restore/pty.h"
#include "restore/sysv.h"
#include "restore/tcp.h"
#include "util/cleanup.h"

int restore_tree_new(const struct restore_options *options, const struct log *log, struct restore_tree **ret,
		     struct error *error)
{
	struct restore_tree *tree = calloc(1, sizeof(*tree));

	if (!tree)
		return error_set_errno(error, -ENOMEM, "cannot begin a restore");
	tree->options = options;
	tree->log = log;
	tree->deadline = CLOCK_FOREVER;
	tree->depth = UINT_MAX;
	tree->host = calloc(1, sizeof(*tree->host));
	tree->own_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (tree->own_pidfd < 0 || !tree->host) {
		int r = tree->host ? -errno : -ENOMEM;

		restore_tree_free(tree);
		return error_set_errno(error, r, "cannot begin a restore");
	}
	image_xsave_layout_read(&tree->host->xsave);
	restore_creds_read_own(&tree->host->creds);
	*ret = tree;
	return 0;
}

void restore_tree_free(struct restore_tree *tree)
{
	if (!tree)
		return;
	array_for_each(zombie, &tree->zombies) {
		if ((*zombie)->tracee)
			restore_shell_end(*zombie);
		restore_mm_free((*zombie)->mm);
		free(*zombie);
	}
	array_deinit(&tree->zombies);
	/* Children first: each is reaped by its parent's shell, which has to be there still. */
	for (size_t i = tree->processes.count; i-- > 0;) {
		struct restore_process *process = tree->processes.items[i];

		if (process->tracee)
			restore_shell_end(process);
	}
	array_for_each(process, &tree->processes) {
		restore_mm_free((*process)->mm);
		array_deinit(&(*process)->timers_due);
		free(*process);
	}
	array_deinit(&tree->processes);
	pidmap_deinit(&tree->by_pid);
	image_tree_deinit(&tree->before);
	restore_files_free(tree->files);
	restore_shared_free(tree->shared);
	restore_sysv_free(tree);
	cleanup_fd(&tree->own_pidfd);
	restore_ptys_free(tree->ptys);
	restore_job_free(tree->job);
	free(tree->host);
	free(tree);
}

struct restore_process *restore_tree_find(const struct restore_tree *tree, pid_t pid)
{
	return pidmap_get(&tree->by_pid, (uint32_t)pid);
}

struct restore_process *restore_zombie_find(const struct restore_tree *tree, pid_t pid)
{
	array_for_each(zombie, &tree->zombies)
		if ((*zombie)->pid == pid)
			return *zombie;
	return NULL;
}

static int layout(struct restore_tree *tree, struct error *error)
{
	int r;

	restore_shared_begin(tree);
	r = restore_clocks_decide(tree->images, &tree->clocks, NULL, error);
	if (r == 0)
		r = restore_job_read(tree, error);
	if (r == 0)
		r = restore_files_prepare(tree, tree->images, error);
	if (r == 0)
		r = restore_ptys_prepare(tree, error);
	if (r == 0)
		r = restore_layout_processes(tree, error);
	/* After the root, which makes segments of System V shared memory. */
	if (r == 0)
		r = restore_shared_prepare(tree, tree->images, error);
	array_for_each(process, &tree->processes)
		if (r == 0 && !(*process)->owner)
			r = restore_mm_apply(tree, *process, error);
	if (r == 0)
		restore_shared_prune(tree);
	return r;
}

int restore_tree_layout(struct restore_tree *tree, const struct image_set *images, struct error *error)
{
	int r;

	if (tree->finished)
		return error_set(error, -EINVAL, "the tree is finished");
	tree->images = images;
	r = layout(tree, error);
	tree->images = NULL;
	tree->laid_out = r == 0 && tree->depth == UINT_MAX ? images : NULL;
	tree->laid_out_count = image_set_count(images);
	return r;
}

int restore_tree_lock(struct restore_tree *tree, const struct image_set *images, struct error *error)
{
	int r = 0;

	tree->images = images;
	array_for_each(process, &tree->processes)
		if (r == 0 && !(*process)->owner && (r = restore_mm_attributes(tree, *process, error)) == 0)
			r = restore_mm_locks(tree, *process, error);
	tree->images = NULL;
	return r;
}

int restore_tree_finish(struct restore_tree *tree, const struct image_set *images, struct error *error)
{
	int r;

	if (tree->finished)
		return error_set(error, -EINVAL, "the tree is finished");
	tree->images = images;
	tree->depth = UINT_MAX;
	/* The last round's layout was made for the same set: nothing is different. */
	r = tree->laid_out == images && tree->laid_out_count == image_set_count(images) ? 0 : layout(tree, error);
	if (r == 0)
		r = restore_finish(tree, error);
	tree->images = NULL;
	tree->finished = r == 0;
	return r;
}

int restore_tree_keep(struct restore_tree *tree, struct error *error)
{
	int r;

	if (!tree->finished || tree->running)
		return error_set(error, -EINVAL, "the tree is not finished, or runs already");
	r = restore_files_commit(tree, error);
	if (r < 0)
		return r;
	array_for_each(process, &tree->processes) {
		/* Also when only some of its threads are: restore_shell_end() has to know. */
		(*process)->kept = true;
		r = tracee_process_keep((*process)->tracee, error);
		if (r < 0)
			return r;
	}
	tree->kept = true;
	return 0;
}

void restore_tree_go(struct restore_tree *tree)
{
	assert(tree->kept && !tree->running);
	tree->running = true;
	restore_tcp_go(tree);
	restore_job_foreground(tree);
	/* Children first, so that a parent that waits for them finds them running. */
	for (size_t i = tree->processes.count; i-- > 0;) {
		struct restore_process *process = tree->processes.items[i];

		tracee_process_detach(process->tracee);
		process->tracee = NULL;
	}
	restore_job_resized(tree);
}
