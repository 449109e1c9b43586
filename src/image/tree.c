/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In which session each process is born.
 *
 * Who does not lead its session was born in it. Who does was born in the session that its parent is in, unless it must have
 * been in another one. A child of P that was born in session S, in which P is not now, has its membership from
 *   - the leader of S, if that is below P, by way of others that are gone;
 *   - else P, which was in S before it began its own session: P was born in S, and the same is asked for it;
 *   - if the leader is gone, from wherever that was. It is sought: the place below which a leader serves those above it,
 * and the
 *     fewest others must have been born in S.
 * Processes are given to ancestors only, so there is such an order for every tree that lives; anything else is refused.
 */
#include "tree.h"

#include <errno.h>
#include <stdlib.h>

static int compare_pid(const void *left, const void *right, void *context)
{
	const struct image_tree_process *processes = context;
	pid_t a = processes[*(const size_t *)left].pid, b = processes[*(const size_t *)right].pid;

	return (a > b) - (a < b);
}

static int compare_session(const void *left, const void *right)
{
	pid_t a = ((const struct image_tree_session *)left)->id, b = ((const struct image_tree_session *)right)->id;

	return (a > b) - (a < b);
}

static void forget_lost(struct image_tree *tree)
{
	array_for_each(session, &tree->lost)
		array_deinit(&session->needers);
	array_clear(&tree->lost);
}

void image_tree_deinit(struct image_tree *tree)
{
	array_deinit(&tree->processes);
	array_deinit(&tree->by_pid);
	forget_lost(tree);
	array_deinit(&tree->lost);
}

size_t image_tree_find(const struct image_tree *tree, pid_t pid)
{
	size_t low = 0, high = tree->by_pid.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2, index = tree->by_pid.items[middle];

		if (tree->processes.items[index].pid == pid)
			return index;
		if (tree->processes.items[index].pid < pid)
			low = middle + 1;
		else
			high = middle;
	}
	return IMAGE_TREE_NONE;
}

static struct image_tree_session *find_lost(const struct image_tree *tree, pid_t session)
{
	struct image_tree_session key = { .id = session };

	return tree->lost.count ? bsearch(&key, tree->lost.items, tree->lost.count, sizeof(key), compare_session) : NULL;
}

const struct image_tree_session *image_tree_lost(const struct image_tree *tree, pid_t session)
{
	return find_lost(tree, session);
}

/* Indices of ancestors are lower. */
bool image_tree_is_above(const struct image_tree *tree, size_t above, size_t below)
{
	while (below != IMAGE_TREE_NONE && below > above)
		below = tree->processes.items[below].parent;
	return below == above;
}

static size_t common_ancestor(const struct image_tree *tree, size_t one, size_t other)
{
	while (one != other) {
		if (one > other)
			one = tree->processes.items[one].parent;
		else
			other = tree->processes.items[other].parent;
	}
	return one;
}

static int find_parents(struct image_tree *tree, struct error *error)
{
	size_t count = tree->processes.count;

	array_clear(&tree->by_pid);
	for (size_t i = 0; i < count; i++)
		if (array_append(&tree->by_pid, i) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	if (count > 1)
		qsort_r(tree->by_pid.items, count, sizeof(size_t), compare_pid, tree->processes.items);
	for (size_t i = 0; i < count; i++) {
		struct image_tree_process *process = &tree->processes.items[i];

		process->parent = process->ppid ? image_tree_find(tree, process->ppid) : IMAGE_TREE_NONE;
		if (image_tree_find(tree, process->pid) != i)
			return error_set(error, -EPROTO, "PID %d is there twice", process->pid);
		if ((process->parent == IMAGE_TREE_NONE) != (i == 0) || (i > 0 && process->parent >= i))
			return error_set(error, -EPROTO, "the parent %d of PID %d is not in the tree", process->ppid,
					 process->pid);
	}
	return 0;
}

/* Index of the leader of a session; the root stands for the one of its own. IMAGE_TREE_NONE: it is gone. */
static size_t leader_of(const struct image_tree *tree, pid_t session)
{
	return session == tree->processes.items[0].sid ? 0 : image_tree_find(tree, session);
}

/* The sessions of the tree that have no leader, in the order of their ids. */
static int find_lost_sessions(struct image_tree *tree, struct error *error)
{
	size_t kept = 0;

	forget_lost(tree);
	array_for_each(process, &tree->processes) {
		struct image_tree_session session = { .id = process->sid, .entry = IMAGE_TREE_NONE };

		if (leader_of(tree, process->sid) == IMAGE_TREE_NONE && array_append(&tree->lost, session) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	if (tree->lost.count > 1)
		qsort(tree->lost.items, tree->lost.count, sizeof(tree->lost.items[0]), compare_session);
	for (size_t i = 0; i < tree->lost.count; i++)
		if (i == 0 || tree->lost.items[i].id != tree->lost.items[kept - 1].id)
			tree->lost.items[kept++] = tree->lost.items[i];
	tree->lost.count = kept;
	for (size_t i = 1; i < tree->processes.count; i++) {
		struct image_tree_session *session = find_lost(tree, tree->processes.items[i].sid);
		size_t parent = tree->processes.items[i].parent;

		if (session && tree->processes.items[parent].sid != session->id && array_append(&session->needers, parent) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	return 0;
}

static bool has_member_above(const struct image_tree *tree, size_t index, pid_t session)
{
	for (; index != IMAGE_TREE_NONE; index = tree->processes.items[index].parent)
		if (tree->processes.items[index].sid == session)
			return true;
	return false;
}

/*
 * With a leader below `entry`: how many processes were born in the session that are not in it now; SIZE_MAX if some cannot have
 * been. With `apply` it is noted.
 */
static size_t count_born(struct image_tree *tree, const struct image_tree_session *session, size_t entry, bool apply)
{
	size_t born = 0;

	if (has_member_above(tree, entry, session->id))
		return SIZE_MAX;
	array_for_each(needer, &session->needers)
		for (size_t at = *needer; !image_tree_is_above(tree, at, entry); born++) {
			struct image_tree_process *process = &tree->processes.items[at];

			if (process->sid == session->id)
				break;
			if (process->sid != process->pid || (process->birth && process->birth != session->id))
				return SIZE_MAX;
			if (apply)
				process->birth = session->id;
			at = process->parent;
		}
	return born;
}

/* Where fewest processes have to be born in the session. */
static int find_entry(struct image_tree *tree, struct image_tree_session *session, struct error *error)
{
	size_t top = session->needers.items[0], best = SIZE_MAX;

	array_for_each(needer, &session->needers)
		top = common_ancestor(tree, top, *needer);
	for (size_t i = 0; i < session->needers.count && best > 0; i++)
		for (size_t at = session->needers.items[i]; best > 0; at = tree->processes.items[at].parent) {
			size_t born = count_born(tree, session, at, false);

			if (born < best) {
				session->entry = at;
				best = born;
			}
			if (at == top)
				break;
		}
	if (best == SIZE_MAX)
		return error_set(error, -EINVAL,
				 "the members of session %d, whose leader is gone, cannot have come to where they are",
				 session->id);
	count_born(tree, session, session->entry, true);
	return 0;
}

/* Sessions that have a leader: where it is not below the parent of a member, that parent must have been born in it. */
static int find_births_by_leaders(struct image_tree *tree, struct error *error)
{
	for (size_t i = tree->processes.count; i-- > 1;) {
		const struct image_tree_process *process = &tree->processes.items[i];
		struct image_tree_process *parent = &tree->processes.items[process->parent];
		size_t leader = process->birth ? leader_of(tree, process->birth) : IMAGE_TREE_NONE;

		if (leader == IMAGE_TREE_NONE || process->birth == parent->sid ||
		    image_tree_is_above(tree, process->parent, leader))
			continue;
		if (parent->sid != parent->pid || (parent->birth && parent->birth != process->birth))
			return error_set(error, -EINVAL, "PID %d belongs to session %d, into which it cannot have come",
					 process->pid, process->birth);
		parent->birth = process->birth;
	}
	return 0;
}

static int find_births(struct image_tree *tree, struct error *error)
{
	int r;

	array_for_each(process, &tree->processes)
		process->birth = process->sid == process->pid ? 0 : process->sid;
	r = find_births_by_leaders(tree, error);
	array_for_each(session, &tree->lost)
		if (r == 0)
			r = find_entry(tree, session, error);
	for (size_t i = 1; i < tree->processes.count; i++) {
		struct image_tree_process *process = &tree->processes.items[i];
		const struct image_tree_process *parent = &tree->processes.items[process->parent];

		if (!process->birth)
			process->birth = parent->sid;
		process->fresh = process->birth != parent->sid;
	}
	return r;
}

/*
 * The first process with that memory. Its PID is the id, but in images of other programs, where that is any number: there all
 * that came before are looked at.
 */
static size_t find_owner(const struct image_tree *tree, size_t index)
{
	uint32_t memory = tree->processes.items[index].memory;
	size_t named = memory <= INT32_MAX ? image_tree_find(tree, (pid_t)memory) : IMAGE_TREE_NONE;

	if (!memory || named == index)
		return index;
	if (named < index && tree->processes.items[named].memory == memory)
		return named;
	for (size_t i = 0; i < index; i++)
		if (tree->processes.items[i].memory == memory)
			return i;
	return index;
}

/* Who shares memory is cloned by one that has it, in the session that this one is in: helpers share with nobody. */
static int find_makers(struct image_tree *tree, struct error *error)
{
	for (size_t i = 0; i < tree->processes.count; i++) {
		struct image_tree_process *process = &tree->processes.items[i];
		const struct image_tree_process *owner;

		process->owner = find_owner(tree, i);
		process->maker = process->parent;
		if (process->owner == i)
			continue;
		owner = &tree->processes.items[process->owner];
		if (tree->processes.items[process->parent].owner != process->owner) {
			process->maker = process->owner;
			if (owner->parent != process->parent || owner->sid != process->birth)
				return error_set(error, -EXDEV, "PID %d shares the memory of PID %d, to which it cannot have "
						 "come", process->pid, owner->pid);
		}
		if (process->fresh)
			return error_set(error, -EXDEV, "PID %d shares the memory of PID %d, and is in a session that its "
					 "parent is not in any more", process->pid, owner->pid);
	}
	return 0;
}

/* Whoever a process needs besides its parent may come later in the list: until nothing changes. */
static int find_levels(struct image_tree *tree, struct error *error)
{
	size_t count = tree->processes.count;
	bool changed = true;

	for (size_t pass = 0; changed; pass++) {
		if (pass > count)
			return error_set(error, -EINVAL, "the sessions of the processes depend on one another");
		changed = false;
		for (size_t i = 1; i < count; i++) {
			struct image_tree_process *process = &tree->processes.items[i];
			unsigned level = tree->processes.items[process->parent].level;

			if (process->fresh) {
				const struct image_tree_session *session = find_lost(tree, process->birth);
				size_t other = session ? session->entry : leader_of(tree, process->birth);

				if (tree->processes.items[other].level > level)
					level = tree->processes.items[other].level;
			}
			changed |= process->level != level + 1;
			process->level = level + 1;
		}
	}
	return 0;
}

int image_tree_plan(struct image_tree *tree, struct error *error)
{
	int r;

	if (tree->processes.count == 0)
		return error_set(error, -EPROTO, "the list of processes is empty");
	array_for_each(process, &tree->processes) {
		process->level = 0;
		process->fresh = false;
	}
	r = find_parents(tree, error);
	if (r == 0)
		r = find_lost_sessions(tree, error);
	if (r == 0)
		r = find_births(tree, error);
	if (r == 0)
		r = find_makers(tree, error);
	if (r == 0)
		r = find_levels(tree, error);
	return r;
}

/* ---- from one picture to the next */

static bool is_made_anew(const struct image_tree *before, const struct image_tree *now, const bool *keep, pid_t pid)
{
	size_t index = image_tree_find(now, pid);

	return index != IMAGE_TREE_NONE && !keep[index] && image_tree_find(before, pid) != IMAGE_TREE_NONE;
}

static bool can_stay(const struct image_tree *before, const struct image_tree *now, const bool *keep, size_t index)
{
	const struct image_tree_process *process = &now->processes.items[index], *old;
	size_t at = image_tree_find(before, process->pid);

	if (at == IMAGE_TREE_NONE || (process->parent != IMAGE_TREE_NONE && !keep[process->parent]))
		return false;
	old = &before->processes.items[at];
	if (before->processes.items[old->owner].pid != now->processes.items[process->owner].pid || !keep[process->owner])
		return false;
	if (old->ppid != process->ppid || (old->sid != process->sid && process->sid != process->pid))
		return false;
	return !is_made_anew(before, now, keep, old->sid) && !is_made_anew(before, now, keep, old->birth);
}

void image_tree_compare(const struct image_tree *before, const struct image_tree *now, bool *ret_keep)
{
	bool changed = true;

	for (size_t i = 0; i < now->processes.count; i++)
		ret_keep[i] = true;
	while (changed) {
		changed = false;
		for (size_t i = 0; i < now->processes.count; i++) {
			if (!ret_keep[i] || can_stay(before, now, ret_keep, i))
				continue;
			ret_keep[i] = false;
			changed = true;
		}
	}
}

int image_tree_copy(const struct image_tree *tree, struct image_tree *ret)
{
	struct image_tree copy = { 0 };
	int r = 0;

	array_for_each(process, &tree->processes)
		if (r == 0)
			r = array_append(&copy.processes, *process);
	array_for_each(index, &tree->by_pid)
		if (r == 0)
			r = array_append(&copy.by_pid, *index);
	if (r < 0) {
		image_tree_deinit(&copy);
		return r;
	}
	image_tree_deinit(ret);
	*ret = copy;
	return 0;
}
