/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Planning in what order shells are made, and by whom. Nothing is done here: the sessions are followed in an array.
 *
 * A process is cloned by its parent where that is in the session in which the process is to be born (image/tree.h), or by the
 * sibling whose memory it shares. Else a
 * member of that session below the parent, a donor, clones a helper, the helper clones the process, and the helper ends
 * while the parent is a subreaper and nobody in between is: so the process becomes the parent's child. If the session has
 * no member, as its leader is gone, a helper with its number begins it, below the lowest process that needs it, and ends
 * when all others are made.
 *
 * A shell begins its own session as soon as all children are there that are born in the one before. The list is gone through
 * until nothing changes, which is once or twice: parents come first in it.
 */
#include "tree-plan.h"

#include <errno.h>
#include <stdlib.h>

#include "util/cleanup.h"

/* A helper that leads a session whose leader is gone. */
struct lost_leader {
	pid_t session;
	ssize_t who;
	size_t entry; /* its parent */
};

struct planner {
	const struct image_tree *wanted;
	unsigned depth;
	pid_t *sessions;                /* borrowed; changes with the steps */
	size_t *early;                  /* owned; of each: children that have to be made before its setsid(2) */
	ARRAY(struct lost_leader) lost; /* owned */
	struct restore_tree_steps *steps;
	struct error *error;
};

static int add_step(struct planner *planner, enum restore_tree_op op, ssize_t who, ssize_t by, pid_t number)
{
	struct restore_tree_step step = { .op = op, .who = who, .by = by, .number = number };

	return array_append(&planner->steps->list, step) < 0 ? error_set(planner->error, -ENOMEM, "out of memory") : 0;
}

static int add_helper(struct planner *planner, ssize_t by, pid_t number, ssize_t *ret)
{
	ssize_t who = -(ssize_t)++planner->steps->helpers;

	*ret = who;
	return add_step(planner, RESTORE_TREE_CLONE, who, by, number);
}

static int clone_by(struct planner *planner, size_t index, ssize_t by)
{
	const struct image_tree_process *process = &planner->wanted->processes.items[index];

	planner->sessions[index] = process->birth;
	return add_step(planner, RESTORE_TREE_CLONE, (ssize_t)index, by, process->pid);
}

/* A donor cannot become the process's parent; a helper of its in between can be taken away. */
static int clone_by_donor(struct planner *planner, size_t index, ssize_t donor)
{
	ssize_t helper;
	int r = add_helper(planner, donor, 0, &helper);

	if (r == 0)
		r = clone_by(planner, index, helper);
	if (r == 0)
		r = add_step(planner, RESTORE_TREE_END, helper, (ssize_t)planner->wanted->processes.items[index].parent, 0);
	return r;
}

static int lead_lost(struct planner *planner, const struct image_tree_session *session, struct lost_leader *ret)
{
	struct lost_leader leader = { .session = session->id, .entry = session->entry };
	int r = add_helper(planner, (ssize_t)session->entry, session->id, &leader.who);

	if (r == 0)
		r = add_step(planner, RESTORE_TREE_SETSID, leader.who, 0, 0);
	if (r == 0 && array_append(&planner->lost, leader) < 0)
		r = error_set(planner->error, -ENOMEM, "out of memory");
	*ret = leader;
	return r;
}

/* Is anybody in that session? Then nobody can begin it any more. */
static bool session_exists(const struct planner *planner, pid_t session)
{
	array_for_each(known, &planner->lost)
		if (known->session == session)
			return true;
	for (size_t i = 0; i < planner->wanted->processes.count; i++)
		if (planner->sessions[i] == session)
			return true;
	return false;
}

static int by_lost_leader(struct planner *planner, size_t index, const struct lost_leader *leader)
{
	/* Its children go to its parent when it ends. */
	if (leader->entry == planner->wanted->processes.items[index].parent)
		return clone_by(planner, index, leader->who);
	return clone_by_donor(planner, index, leader->who);
}

/* 1: it was planned; 0: not yet possible. */
static int make_fresh(struct planner *planner, size_t index)
{
	const struct image_tree *wanted = planner->wanted;
	const struct image_tree_process *process = &wanted->processes.items[index];
	const struct image_tree_session *session = image_tree_lost(wanted, process->birth);
	struct lost_leader leader;
	int r;

	array_for_each(known, &planner->lost)
		if (known->session == process->birth && image_tree_is_above(wanted, process->parent, known->entry)) {
			r = by_lost_leader(planner, index, known);
			return r < 0 ? r : 1;
		}
	for (size_t i = process->parent + 1; i < wanted->processes.count; i++)
		if (planner->sessions[i] == process->birth && image_tree_is_above(wanted, process->parent, i)) {
			r = clone_by_donor(planner, index, (ssize_t)i);
			return r < 0 ? r : 1;
		}
	if (!session || !planner->sessions[session->entry] || session_exists(planner, session->id))
		return 0;
	r = lead_lost(planner, session, &leader);
	if (r == 0)
		r = by_lost_leader(planner, index, &leader);
	return r < 0 ? r : 1;
}

static int make(struct planner *planner, size_t index)
{
	const struct image_tree_process *process = &planner->wanted->processes.items[index];
	pid_t now = planner->sessions[process->parent], makers = planner->sessions[process->maker];
	int r;

	if (!now || !makers)
		return 0;
	if (makers == process->birth && (process->level <= planner->depth || process->fresh)) {
		r = clone_by(planner, index, (ssize_t)process->maker);
		return r < 0 ? r : 1;
	}
	if (!process->fresh || process->level > planner->depth)
		return 0;
	return make_fresh(planner, index);
}

/* Children that are born in a session that their parent is only in before its own; the others are no reason to wait. */
static bool is_early(const struct planner *planner, const struct image_tree_process *process)
{
	const struct image_tree_process *parent;

	if (!process->fresh)
		return false;
	parent = &planner->wanted->processes.items[process->parent];
	return process->parent != 0 && parent->birth == process->birth;
}

/* One look at a process: what can be done for it now. */
static int advance(struct planner *planner, size_t index)
{
	const struct image_tree_process *process = &planner->wanted->processes.items[index];
	int done = 0;

	if (index > 0 && !planner->sessions[index]) {
		done = make(planner, index);
		if (done <= 0)
			return done;
		if (is_early(planner, process))
			planner->early[process->parent]--;
	}
	if (planner->sessions[index] == process->sid || process->sid != process->pid || planner->early[index])
		return done;
	planner->sessions[index] = process->sid;
	return add_step(planner, RESTORE_TREE_SETSID, (ssize_t)index, 0, 0) < 0 ? -ENOMEM : 1;
}

static int check_all(const struct planner *planner)
{
	for (size_t i = 1; i < planner->wanted->processes.count; i++) {
		const struct image_tree_process *process = &planner->wanted->processes.items[i];

		if (!planner->sessions[i] && process->level <= planner->depth)
			return error_set(planner->error, -EAGAIN, "PID %d cannot be made in session %d any more: its relatives "
					 "began sessions while they were moved; try again", process->pid, process->birth);
	}
	return 0;
}

static int plan(struct planner *planner)
{
	size_t count = planner->wanted->processes.count;
	int r, changed = 1;

	while (changed) {
		changed = 0;
		for (size_t i = 0; i < count; i++) {
			r = advance(planner, i);
			if (r < 0)
				return r;
			changed |= r;
		}
	}
	for (size_t i = planner->lost.count; i-- > 0;) {
		const struct lost_leader *leader = &planner->lost.items[i];

		r = add_step(planner, RESTORE_TREE_END, leader->who, (ssize_t)leader->entry, 0);
		if (r < 0)
			return r;
	}
	return check_all(planner);
}

int restore_tree_plan(const struct image_tree *wanted, unsigned depth, pid_t *sessions, struct restore_tree_steps *ret,
		      struct error *error)
{
	_cleanup_free_ size_t *early = calloc(wanted->processes.count, sizeof(*early));
	struct planner planner = { .wanted = wanted, .depth = depth, .sessions = sessions, .early = early, .steps = ret,
				   .error = error };
	int r;

	if (!early)
		return error_set(error, -ENOMEM, "out of memory");
	for (size_t i = 1; i < wanted->processes.count; i++)
		if (!sessions[i] && is_early(&planner, &wanted->processes.items[i]))
			early[wanted->processes.items[i].parent]++;
	r = plan(&planner);
	array_deinit(&planner.lost);
	return r;
}
