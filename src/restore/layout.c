/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes and threads as the newest IMAGE_PSTREE wants them: what cannot stay where it is ends first, since its number
 * may have a new owner; then processes are made, by the steps of tree-plan.c; then threads. A process that has ended on the
 * source is kept in a list of its own (zombie.c): a shell that shares its maker's memory, or what it was before. Likewise a
 * process that shares memory on the source: its shell is a clone with CLONE_VM, and made anew when that changes.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "layout.h"
#include "restore/pty.h"
#include "restore/tree-plan.h"
#include "util/cleanup.h"

#define DESCRIPTORS_AT_FIRST 64

/* A process that others are made by, and that ends when they are. */
struct helper {
	struct restore_process *maker; /* NULL: made by `by` */
	struct helper *by;
	struct tracee_process *tracee; /* owned */
};

/* One layout. */
struct layout {
	struct restore_tree *tree;
	struct restore_wanted wanted;
	struct restore_process **made; /* of each wanted process, NULL while there is none; owned, but not what it points to */
	pid_t *sessions;               /* in which each is, as the plan counts; owned */
	struct helper *helpers;        /* owned */
	struct pidmap terminals;       /* of sessions: its record, of one that has a terminal that moves with the tree; owned */
};

static void layout_deinit(struct layout *layout)
{
	restore_wanted_deinit(&layout->wanted);
	free(layout->made);
	free(layout->sessions);
	free(layout->helpers);
	pidmap_deinit(&layout->terminals);
}

/* Mostly it is at the same place: there may be thousands. */
static bool wants_thread(const TreeProcess *process, size_t place, pid_t tid)
{
	if (place < process->n_threads && process->threads[place] == (uint32_t)tid)
		return true;
	for (size_t i = 0; i < process->n_threads; i++)
		if (process->threads[i] == (uint32_t)tid)
			return true;
	return false;
}

/* ---- what cannot stay */

static void process_free(struct restore_process *process)
{
	restore_mm_free(process->mm);
	free(process);
}

static struct restore_process *find_any(const struct restore_tree *tree, pid_t pid)
{
	struct restore_process *process = restore_tree_find(tree, pid);

	return process ? process : restore_zombie_find(tree, pid);
}

/* A zombie can have been a process before, not the other way round. */
static bool stays(const struct layout *layout, const struct restore_process *process, const bool *keep)
{
	size_t index = image_tree_find(&layout->wanted.tree, process->pid);

	if (index == IMAGE_TREE_NONE || !keep[index] || !process->tracee)
		return false;
	return restore_tree_find(layout->tree, process->pid) == process ||
	       restore_wanted_is_zombie(layout->tree, layout->wanted.processes.items[index]);
}

/* Takes those out of the list that have ended, and those that are zombies now to the other list. */
static void sort_out(struct layout *layout, restore_process_list *list, bool zombies)
{
	size_t kept = 0;

	for (size_t i = 0; i < list->count; i++) {
		struct restore_process *process = list->items[i];

		if (!process->tracee)
			process_free(process);
		else if (!zombies &&
			 restore_wanted_is_zombie(layout->tree, restore_wanted_find(&layout->wanted, process->pid)) &&
			 array_append(&layout->tree->zombies, process) == 0)
			continue;
		else
			list->items[kept++] = process;
	}
	list->count = kept;
}

static int index_processes(struct restore_tree *tree)
{
	int r = 0;

	pidmap_clear(&tree->by_pid);
	array_for_each(process, &tree->processes)
		if (r == 0)
			r = pidmap_put(&tree->by_pid, (uint32_t)(*process)->pid, *process);
	return r;
}

/* Children before parents, so that each is reaped by the shell that made it. */
static int end_processes(struct layout *layout, struct error *error)
{
	struct restore_tree *tree = layout->tree;
	_cleanup_free_ bool *keep = calloc(layout->wanted.processes.count, sizeof(*keep));
	int r;

	if (!keep)
		return error_set_errno(error, -ENOMEM, "cannot compare the processes");
	image_tree_compare(&tree->before, &layout->wanted.tree, keep);
	for (size_t i = tree->zombies.count; i-- > 0;)
		if (!stays(layout, tree->zombies.items[i], keep))
			restore_shell_end(tree->zombies.items[i]);
	for (size_t i = tree->processes.count; i-- > 0;)
		if (!stays(layout, tree->processes.items[i], keep))
			restore_shell_end(tree->processes.items[i]);
	/* Room for all: one that found none would be in neither list. */
	if (array_reserve(&tree->zombies, tree->processes.count) < 0)
		return error_set_errno(error, -ENOMEM, "cannot list the processes");
	sort_out(layout, &tree->zombies, true);
	sort_out(layout, &tree->processes, false);
	r = index_processes(tree);
	return r < 0 ? error_set_errno(error, r, "cannot list the processes") : 0;
}

static int end_threads(struct restore_tree *tree, struct restore_process *process, const TreeProcess *wanted,
		       struct error *error)
{
	struct tracee_process *tracee = process->tracee;
	int r = 0;

	for (size_t i = tracee->threads.count; i-- > 1 && r == 0;)
		if (!wants_thread(wanted, i, tracee->threads.items[i]->tid))
			r = tracee_thread_end(tracee->threads.items[i], tree->deadline, error);
	return r;
}

/* ---- what is to be made */

static int call(const struct layout *layout, struct tracee_process *tracee, const char *what, struct error *error, long nr,
		uint64_t a0, uint64_t a1)
{
	int64_t result;
	int r = tracee_thread_call(tracee->threads.items[0], layout->tree->deadline, &result, error, nr, a0, a1, 0, 0, 0, 0);

	return r == 0 && result < 0 ? error_set_errno(error, (int)result, "PID %d cannot %s", tracee->pid, what) : r;
}

static struct tracee_process *tracee_of(const struct layout *layout, ssize_t who)
{
	if (who < 0)
		return layout->helpers[-who - 1].tracee;
	return layout->made[who] ? layout->made[who]->tracee : NULL;
}

/* What leads a session has its terminal before children are made: they have it from their parent. */
static int apply_terminal(struct layout *layout, struct restore_process *process, struct error *error)
{
	const TreeProcess *message = pidmap_get(&layout->terminals, (uint32_t)process->pid);

	return restore_pty_control(layout->tree, process, message ? (int)message->terminal : -1, error);
}

/* Of those that are there already, if there are any at all. */
static int apply_terminals(struct layout *layout, struct error *error)
{
	struct restore_tree *tree = layout->tree;
	int r = 0;

	array_for_each(message, &layout->wanted.processes)
		if ((*message)->has_terminal && (*message)->terminal <= INT32_MAX &&
		    pidmap_put(&layout->terminals, (*message)->sid, *message) < 0)
			return error_set_errno(error, -ENOMEM, "cannot list the terminals");
	if (!layout->terminals.count && !tree->had_terminals)
		return 0;
	tree->had_terminals = layout->terminals.count > 0;
	array_for_each(process, &tree->processes)
		if (r == 0 && getsid((*process)->pid) == (*process)->pid)
			r = apply_terminal(layout, *process, error);
	return r;
}

/* Takes the process into the lists. */
static int note_process(struct layout *layout, size_t index, struct restore_process *process, struct error *error)
{
	struct restore_tree *tree = layout->tree;
	int r;

	if (restore_wanted_is_zombie(tree, layout->wanted.processes.items[index])) {
		r = array_append(&tree->zombies, process);
	} else {
		r = array_append(&tree->processes, process);
		if (r == 0 && pidmap_put(&tree->by_pid, (uint32_t)process->pid, process) < 0) {
			tree->processes.count--;
			r = -ENOMEM;
		}
	}
	if (r < 0)
		return error_set_errno(error, -ENOMEM, "cannot make PID %d", process->pid);
	layout->made[index] = process;
	return 0;
}

static int process_new(const struct layout *layout, size_t index, struct restore_process **ret, struct error *error)
{
	const struct image_tree_process *wanted = &layout->wanted.tree.processes.items[index];
	struct restore_process *process = calloc(1, sizeof(*process));
	int r;

	if (!process)
		return error_set_errno(error, -ENOMEM, "cannot make PID %d", wanted->pid);
	process->pid = wanted->pid;
	process->created = true;
	process->fresh = wanted->fresh;
	process->parent = wanted->parent == IMAGE_TREE_NONE ? NULL : layout->made[wanted->parent];
	process->maker = wanted->maker == IMAGE_TREE_NONE ? NULL : layout->made[wanted->maker];
	process->owner = wanted->owner == index ? NULL : layout->made[wanted->owner];
	r = restore_sharing_begin(layout->tree, process, error);
	if (r < 0) {
		process_free(process);
		return r;
	}
	*ret = process;
	return 0;
}

/* The signal of its end: one that begins as a sibling of its maker has that of its maker. */
static int exit_signal_of(const struct layout *layout, const struct restore_process *process, const TreeProcess *message,
			  int *ret, struct error *error)
{
	int wanted = message->has_exit_signal ? (int)message->exit_signal : SIGCHLD;
	const TreeProcess *maker = process->maker == process->parent ? NULL :
							restore_wanted_find(&layout->wanted, process->maker->pid);

	*ret = maker ? 0 : wanted;
	if (maker && (maker->has_exit_signal ? (int)maker->exit_signal : SIGCHLD) != wanted)
		return error_set(error, -EINVAL, "PID %d cannot end with another signal than PID %d, whose memory it shares",
				 process->pid, process->maker->pid);
	return 0;
}

/* By its parent, or by a helper whose end gives it to its parent. The signal of its end is only the first one's to say. */
static int clone_process(struct layout *layout, size_t index, struct tracee_process *by, struct error *error)
{
	const TreeProcess *message = layout->wanted.processes.items[index];
	bool zombie = restore_wanted_is_zombie(layout->tree, message);
	struct restore_process *process;
	int r = process_new(layout, index, &process, error);
	int exit_signal = 0;
	unsigned flags;

	if (r < 0)
		return r;
	r = exit_signal_of(layout, process, message, &exit_signal, error);
	flags = (zombie ? CLONE_VM : process->shares) | (process->maker == process->parent ? 0 : CLONE_PARENT);
	if (r == 0)
		r = tracee_process_clone(by->threads.items[0], process->pid, flags, exit_signal, layout->tree->deadline,
					 &process->tracee, error);
	if (r == 0 && process->parent)
		process->tracee->parent = process->parent->tracee;
	if (r == 0 && !zombie && !process->owner)
		r = restore_mm_new(layout->tree, process, error);
	if (r == 0)
		r = note_process(layout, index, process, error);
	if (r < 0) {
		tracee_process_release(process->tracee);
		process_free(process);
	}
	return r;
}

static int create_root(struct layout *layout, struct error *error)
{
	const TreeProcess *message = layout->wanted.processes.items[0];
	struct restore_process *process;
	int r = process_new(layout, 0, &process, error);

	if (r < 0)
		return r;
	r = restore_shell_create(layout->tree, message, &process->tracee, error);
	if (r == 0)
		restore_process_note_root(layout->tree, process->pid);
	if (r == 0)
		r = restore_mm_new(layout->tree, process, error);
	if (r == 0)
		r = note_process(layout, 0, process, error);
	if (r < 0) {
		tracee_process_release(process->tracee);
		process_free(process);
		return r;
	}
	layout->sessions[0] = process->session = (pid_t)message->sid;
	return layout->terminals.count ? apply_terminal(layout, process, error) : 0;
}

static int clone_helper(struct layout *layout, const struct restore_tree_step *step, struct tracee_process *by,
			struct error *error)
{
	struct helper *helper = &layout->helpers[-step->who - 1];

	if (step->by >= 0)
		helper->maker = layout->made[step->by];
	else
		helper->by = &layout->helpers[-step->by - 1];
	return tracee_process_clone(by->threads.items[0], step->number, 0, 0, layout->tree->deadline, &helper->tracee, error);
}

/* Nobody else is a subreaper while the tree is built. */
static int end_helper(struct layout *layout, const struct restore_tree_step *step, struct error *error)
{
	struct helper *helper = &layout->helpers[-step->who - 1];
	struct tracee_process *heir = tracee_of(layout, step->by);
	struct tracee_process *maker = helper->maker ? helper->maker->tracee : helper->by->tracee;
	int r = call(layout, heir, "take children over", error, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);

	restore_shell_end_helper(maker, steal_ptr(&helper->tracee));
	if (r == 0)
		r = call(layout, heir, "take children over", error, SYS_prctl, PR_SET_CHILD_SUBREAPER, 0);
	return r;
}

static int run_step(struct layout *layout, const struct restore_tree_step *step, struct error *error)
{
	struct tracee_process *by;
	int r;

	if (step->op == RESTORE_TREE_END)
		return end_helper(layout, step, error);
	if (step->op == RESTORE_TREE_SETSID) {
		r = call(layout, tracee_of(layout, step->who), "begin a session", error, SYS_setsid, 0, 0);
		return r == 0 && step->who >= 0 && layout->terminals.count ?
			       apply_terminal(layout, layout->made[step->who], error) : r;
	}
	by = tracee_of(layout, step->by);
	return step->who < 0 ? clone_helper(layout, step, by, error) : clone_process(layout, (size_t)step->who, by, error);
}

/* After a failure the helpers that are left, children before parents. */
static void end_helpers(struct layout *layout, size_t count)
{
	while (layout->helpers && count-- > 0) {
		struct helper *helper = &layout->helpers[count];

		if (helper->tracee)
			restore_shell_end_helper(helper->maker ? helper->maker->tracee : helper->by->tracee, helper->tracee);
	}
}

static int make_processes(struct layout *layout, struct error *error)
{
	const struct image_tree *wanted = &layout->wanted.tree;
	struct restore_tree_steps steps = { 0 };
	int r;

	for (size_t i = 0; i < wanted->processes.count; i++) {
		layout->made[i] = find_any(layout->tree, wanted->processes.items[i].pid);
		layout->sessions[i] = layout->made[i] ? layout->made[i]->session : 0;
	}
	r = layout->made[0] ? 0 : create_root(layout, error);
	if (r == 0)
		r = restore_tree_plan(wanted, layout->tree->depth, layout->sessions, &steps, error);
	if (r == 0 && steps.helpers) {
		layout->helpers = calloc(steps.helpers, sizeof(*layout->helpers));
		r = layout->helpers ? 0 : error_set_errno(error, -ENOMEM, "cannot make the processes");
	}
	array_for_each(step, &steps.list)
		if (r == 0)
			r = run_step(layout, step, error);
	end_helpers(layout, steps.helpers);
	for (size_t i = 0; i < wanted->processes.count; i++)
		if (layout->made[i])
			layout->made[i]->session = layout->sessions[i];
	array_deinit(&steps.list);
	return r;
}

/*
 * Room for the descriptors to come, while the process has one thread: growing a table that threads share waits for an RCU
 * grace period, some 10 ms, which would lie in the downtime.
 */
static int widen_table(struct restore_tree *tree, struct restore_process *process, uint32_t size, struct error *error)
{
	struct rlimit limit;
	struct tracee_batch *batch;
	int fd, r;

	if (size <= DESCRIPTORS_AT_FIRST || process->tracee->threads.count > 1)
		return 0;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return error_set_errno(error, -errno, "cannot read the limit on descriptors");
	if (size > limit.rlim_max)
		size = (uint32_t)limit.rlim_max;
	limit.rlim_cur = limit.rlim_max;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot set up PID %d", process->pid);
	tracee_batch_call(batch, SYS_prlimit64, 0, RLIMIT_NOFILE, tracee_batch_data(batch, &limit, sizeof(limit)), 0);
	fd = tracee_batch_call(batch, SYS_eventfd2, 0, 0);
	tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(fd), size - 1, 0);
	tracee_batch_call(batch, SYS_close, size - 1);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fd));
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static bool has_thread(const struct tracee_process *tracee, size_t place, pid_t tid)
{
	return (place < tracee->threads.count && tracee->threads.items[place]->tid == tid) || tracee_process_find(tracee, tid);
}

static int create_threads(struct restore_tree *tree, struct restore_process *process, const TreeProcess *wanted,
			  struct error *error)
{
	int r = wanted->n_threads > 1 ? widen_table(tree, process, wanted->descriptor_table, error) : 0;

	for (size_t i = 1; r == 0 && i < wanted->n_threads; i++) {
		pid_t tid = (pid_t)wanted->threads[i];
		struct tracee_thread *thread;

		if (has_thread(process->tracee, i, tid))
			continue;
		r = tracee_thread_clone(process->tracee->threads.items[0], tid, tree->deadline, &thread, error);
		if (r < 0)
			error_wrap(error, r, "cannot make thread %d of PID %d", tid, process->pid);
	}
	return r;
}

/* Remote areas of those that are guests in another one's memory would be in the way of what is mapped there. */
static int leave_memories(struct restore_tree *tree, struct error *error)
{
	restore_process_list *lists[] = { &tree->processes, &tree->zombies };
	int r = 0;

	for (size_t i = 0; i < 2; i++)
		array_for_each(process, lists[i])
			if (r == 0 && (i == 1 || (*process)->owner) && (*process)->tracee)
				r = tracee_process_unmap_area((*process)->tracee, tree->deadline, error);
	return r;
}

static int layout_apply(struct layout *layout, struct error *error)
{
	struct restore_tree *tree = layout->tree;
	size_t count = layout->wanted.processes.count;
	int r;

	layout->made = calloc(count, sizeof(struct restore_process *));
	layout->sessions = calloc(count, sizeof(*layout->sessions));
	if (!layout->made || !layout->sessions)
		return error_set_errno(error, -ENOMEM, "cannot list the processes");
	r = end_processes(layout, error);
	array_for_each(process, &tree->processes) {
		(*process)->created = false;
		if (r == 0)
			r = end_threads(tree, *process, restore_wanted_find(&layout->wanted, (*process)->pid), error);
	}
	if (r == 0)
		r = restore_sharing_follow(tree, error);
	if (r == 0)
		r = apply_terminals(layout, error);
	if (r == 0)
		r = make_processes(layout, error);
	if (r == 0 && image_tree_copy(&layout->wanted.tree, &tree->before) < 0)
		r = error_set_errno(error, -ENOMEM, "cannot list the processes");
	array_for_each(process, &tree->processes)
		if (r == 0)
			r = create_threads(tree, *process, restore_wanted_find(&layout->wanted, (*process)->pid), error);
	return r < 0 ? r : leave_memories(tree, error);
}

int restore_layout_processes(struct restore_tree *tree, struct error *error)
{
	struct layout layout = { .tree = tree };
	int r = restore_wanted_read(tree, &layout.wanted, error);

	if (r == 0)
		r = layout_apply(&layout, error);
	layout_deinit(&layout);
	return r;
}
