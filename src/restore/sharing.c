/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptor tables, file system contexts, memory and signal handlers that processes share (IMAGE_IDS): a shell has its
 * maker's, from its beginning on, or its own. One that shared a table in an earlier round gets its own where it has that on
 * the source now; one that shared memory is made anew (layout.c).
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>

#include "layout.h"

struct sharing {
	uint32_t files_id, fs_id, sighand_id;
};

static int read_wanted(const struct restore_tree *tree, pid_t pid, struct sharing *ret, struct error *error)
{
	const struct image_record *record = image_set_find(tree->images, IMAGE_IDS, (uint32_t)pid);
	_cleanup_message_ ObjectIds *ids = NULL;
	int r;

	*ret = (struct sharing){ .files_id = (uint32_t)pid, .fs_id = (uint32_t)pid, .sighand_id = (uint32_t)pid };
	if (!record)
		return 0;
	r = image_unpack(record, object_ids, &ids, error);
	if (r == 0)
		*ret = (struct sharing){ .files_id = ids->files_id, .fs_id = ids->fs_id, .sighand_id = ids->sighand_id };
	return r;
}

static bool has_sharer_below(const struct restore_tree *tree, const struct restore_process *process, unsigned flag)
{
	array_for_each(other, &tree->processes)
		if ((*other)->maker == process && (*other)->shares & flag)
			return true;
	return false;
}

static int follow(struct restore_tree *tree, struct restore_process *process, unsigned wanted, struct error *error)
{
	static const unsigned flags[] = { CLONE_FILES, CLONE_FS };

	for (size_t i = 0; i < 2; i++) {
		int64_t result;
		int r;

		if ((process->shares & flags[i]) == (wanted & flags[i]))
			continue;
		if (wanted & flags[i] || has_sharer_below(tree, process, flags[i]))
			return error_set(error, -EAGAIN, "PID %d has changed with whom it shares its descriptors or its "
					 "working directory while it was moved; try again", process->pid);
		r = tracee_thread_call(process->tracee->threads.items[0], tree->deadline, &result, error, SYS_unshare,
				       flags[i], 0, 0, 0, 0, 0);
		if (r == 0 && result < 0)
			r = error_set_errno(error, (int)result, "PID %d cannot have a table of its own", process->pid);
		if (r < 0)
			return r;
		process->shares &= ~flags[i];
	}
	return 0;
}

/* What it has from its maker, but for memory. */
static unsigned shared_with(const struct sharing *sharing, const struct restore_process *process)
{
	const struct restore_process *maker = process->maker;

	if (!maker)
		return 0;
	return (sharing->files_id == maker->files_id ? CLONE_FILES : 0) | (sharing->fs_id == maker->fs_id ? CLONE_FS : 0) |
	       (process->owner && sharing->sighand_id == maker->sighand_id ? CLONE_SIGHAND : 0);
}

static void note(struct restore_process *process, const struct sharing *sharing)
{
	process->files_id = sharing->files_id;
	process->fs_id = sharing->fs_id;
	process->sighand_id = sharing->sighand_id;
}

int restore_sharing_follow(struct restore_tree *tree, struct error *error)
{
	/* Makers first: their ids are those of this round when their clones are compared with them. */
	array_for_each(place, &tree->processes) {
		struct restore_process *process = *place;
		struct sharing sharing;
		int r = read_wanted(tree, process->pid, &sharing, error);

		if (r == 0)
			r = follow(tree, process, shared_with(&sharing, process), error);
		if (r < 0)
			return r;
		note(process, &sharing);
	}
	return 0;
}

int restore_sharing_begin(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	struct sharing sharing;
	int r = read_wanted(tree, process->pid, &sharing, error);

	if (r < 0)
		return r;
	note(process, &sharing);
	process->shares = shared_with(&sharing, process) | (process->owner ? CLONE_VM : 0);
	if (process->fresh && process->shares)
		return error_set(error, -EINVAL, "PID %d cannot share descriptors or working directory with its parent: it is "
				 "born in another session", process->pid);
	return 0;
}
