/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Process groups, when all processes are there: leaders first, then members. A group whose leader is gone is led by a helper of
 * its number, a child of one of its members, until all members are in it.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "layout.h"

/* A group without leader. */
struct lost_group {
	pid_t id;
	struct restore_process *maker; /* whose child the helper is; borrowed */
	struct tracee_process *helper; /* owned */
};

typedef ARRAY(struct lost_group) lost_group_list;

static int join(struct restore_tree *tree, struct tracee_process *process, pid_t group, struct error *error)
{
	int64_t result;
	int r;

	r = tracee_thread_call(process->threads.items[0], tree->deadline, &result, error, SYS_setpgid, 0, (uint64_t)group, 0, 0,
			       0, 0);
	if (r == 0 && result < 0)
		r = error_set_errno(error, (int)result, "PID %d cannot join process group %d", process->pid, group);
	return r;
}

static struct restore_process *find(const struct restore_tree *tree, const TreeProcess *message)
{
	struct restore_process *process = restore_tree_find(tree, (pid_t)message->pid);

	return process ? process : restore_zombie_find(tree, (pid_t)message->pid);
}

/* What the shell of a job and its other jobs are in does not come along: that becomes the root's group. */
static pid_t group_of(const struct restore_tree *tree, const struct restore_wanted *wanted, const TreeProcess *message)
{
	if (restore_job_shares(tree, (pid_t)message->sid) && !restore_wanted_find(wanted, (pid_t)message->pgid))
		return (pid_t)wanted->processes.items[0]->pid;
	return (pid_t)message->pgid;
}

static int apply_groups(struct restore_tree *tree, const struct restore_wanted *wanted, bool leaders, struct error *error)
{
	int r = 0;

	array_for_each(message, &wanted->processes) {
		struct restore_process *process = find(tree, *message);
		pid_t group = group_of(tree, wanted, *message);

		if (r < 0 || (group == process->pid) != leaders || getpgid(process->pid) == group)
			continue;
		r = join(tree, process->tracee, group, error);
	}
	return r;
}

static bool is_led(const lost_group_list *lost, pid_t group)
{
	array_for_each(known, lost)
		if (known->id == group)
			return true;
	return false;
}

/* A member that has no memory of its own cannot clone. */
static struct restore_process *find_maker(const struct restore_tree *tree, struct restore_process *member)
{
	while (member && restore_zombie_find(tree, member->pid))
		member = member->parent;
	return member;
}

static int lead_group(struct restore_tree *tree, struct restore_process *member, pid_t group, lost_group_list *lost,
		      struct error *error)
{
	struct lost_group one = { .id = group, .maker = find_maker(tree, member) };
	int r;

	r = tracee_process_clone(one.maker->tracee->threads.items[0], group, CLONE_VM, 0, tree->deadline, &one.helper, error);
	if (r < 0)
		return error_wrap(error, r, "cannot make process group %d, whose leader is gone", group);
	if (array_append(lost, one) < 0) {
		restore_shell_end_helper(one.maker->tracee, one.helper);
		return error_set(error, -ENOMEM, "out of memory");
	}
	return join(tree, one.helper, group, error);
}

static int lead_groups(struct restore_tree *tree, const struct restore_wanted *wanted, lost_group_list *lost,
		       struct error *error)
{
	int r = 0;

	array_for_each(message, &wanted->processes) {
		struct restore_process *process = find(tree, *message);
		pid_t group = group_of(tree, wanted, *message);

		if (!process || getpgid(process->pid) < 0)
			return error_set(error, -ESRCH, "PID %u is not there", (*message)->pid);
		if (r == 0 && getpgid(process->pid) != group && !restore_wanted_find(wanted, group) && !is_led(lost, group))
			r = lead_group(tree, process, group, lost, error);
	}
	return r;
}

int restore_layout_groups(struct restore_tree *tree, struct error *error)
{
	struct restore_wanted wanted = { 0 };
	lost_group_list lost = { 0 };
	int r;

	r = restore_wanted_read(tree, &wanted, error);
	if (r == 0)
		r = lead_groups(tree, &wanted, &lost, error);
	if (r == 0)
		r = apply_groups(tree, &wanted, true, error);
	if (r == 0)
		r = apply_groups(tree, &wanted, false, error);
	for (size_t i = lost.count; i-- > 0;)
		restore_shell_end_helper(lost.items[i].maker->tracee, lost.items[i].helper);
	array_deinit(&lost);
	restore_wanted_deinit(&wanted);
	return r;
}
