/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The last part of building, in an order in which nothing gets in the way of what follows it: numbers of the address space
 * while the shells have no descriptors; descriptors; what belongs to processes while they are root; threads, which become
 * who they were; then dumpable, timers and pending signals; at last the remote area goes and the registers are set.
 */
#include <errno.h>
#include <stdlib.h>

#include "parts.h"
#include "restore/files.h"
#include "restore/io-uring.h"
#include "restore/pty.h"
#include "restore/sysv.h"

typedef int (*process_part)(struct restore_tree *tree, struct restore_process *process, struct error *error);

/* With `memories`, only those that have their own: others share it. */
static int for_each_process(struct restore_tree *tree, process_part part, bool memories, struct error *error)
{
	int r = 0;

	array_for_each(process, &tree->processes) {
		r = memories && (*process)->owner ? 0 : part(tree, *process, error);
		if (r < 0)
			return error_wrap(error, r, "cannot restore PID %d", (*process)->pid);
	}
	return r;
}

static int finish_processes(struct restore_tree *tree, struct error *error)
{
	struct tracee_process **tracees = calloc(tree->processes.count + 1, sizeof(*tracees));
	int r = tracees ? 0 : error_set_errno(error, -ENOMEM, "cannot finish the processes");

	for (size_t i = 0; r == 0 && i < tree->processes.count; i++)
		tracees[i] = tree->processes.items[i]->tracee;
	for (size_t i = 0, count; r == 0 && i < tree->processes.count; i += count) {
		count = tree->processes.count - i < RESTORE_TOGETHER ? tree->processes.count - i : RESTORE_TOGETHER;
		r = tracee_process_finish_many(tracees + i, count, tree->deadline, error);
	}
	free(tracees);
	return r;
}

int restore_finish(struct restore_tree *tree, struct error *error)
{
	static const process_part of_memory[] = { restore_aio, restore_mm_attributes, restore_mm_locks };
	static const process_part after_files[] = { restore_stop, restore_shell_flush_signals, restore_leader_end };
	int r = restore_for_each_together(tree, restore_mm_numbers, error);

	for (size_t i = 0; r == 0 && i < sizeof(of_memory) / sizeof(of_memory[0]); i++)
		r = for_each_process(tree, of_memory[i], true, error);
	/* Groups before files: the owner of a descriptor's signals may be one. */
	if (r == 0)
		r = restore_layout_groups(tree, error);
	if (r == 0)
		r = restore_zombies_end(tree, error);
	if (r == 0)
		r = restore_ptys_fill(tree, error);
	if (r == 0)
		r = restore_files_apply(tree, tree->images, error);
	if (r == 0)
		r = restore_shared_finish(tree, error);
	if (r == 0)
		r = restore_sysv_segments_finish(tree, error);
	if (r == 0)
		r = restore_sysv_sets(tree, error);
	if (r == 0)
		r = restore_sysv_queues(tree, error);
	if (r == 0)
		r = restore_ptys_finish(tree, error);
	for (size_t i = 0; r == 0 && i < sizeof(after_files) / sizeof(after_files[0]); i++)
		r = for_each_process(tree, after_files[i], false, error);
	if (r == 0)
		r = restore_for_each_together(tree, restore_process_apply, error);
	if (r == 0)
		r = for_each_process(tree, restore_process_threads, false, error);
	if (r == 0)
		r = restore_io_uring_numbers(tree, error);
	if (r == 0)
		r = restore_for_each_together(tree, restore_process_last, error);
	if (r == 0)
		r = finish_processes(tree, error);
	return r;
}
