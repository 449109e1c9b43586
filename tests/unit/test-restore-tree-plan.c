/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: restore image */
/*
 * Trees with random histories (fork, clone with CLONE_VM, exec, setsid, exit, subreapers) in a model of the kernel's rules
 * are made again in another model, by the steps that are planned: at once, level by level, and on top of what was there at
 * an earlier moment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "restore/tree-plan.h"

#define MOST    64
#define ROOT    100
#define OUTSIDE (-1)

/* A process of either model; a number that is in use as PID or session is not given out again. */
struct model_process {
	pid_t pid, sid;
	uint32_t memory; /* the same number: the same address space */
	int parent; /* index; OUTSIDE: init */
	bool alive, subreaper;
	bool wanted; /* no helper */
};

struct model {
	struct model_process list[8 * MOST];
	int count;
};

static unsigned dice(uint64_t *state, unsigned sides)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(*state >> 33) % sides;
}

static int model_find(const struct model *model, pid_t pid)
{
	for (int i = 0; i < model->count; i++)
		if (model->list[i].alive && model->list[i].pid == pid)
			return i;
	return OUTSIDE;
}

static int model_fork(struct model *model, int parent, pid_t pid)
{
	struct model_process process = { .pid = pid, .sid = model->list[parent].sid, .memory = 1000000 + (uint32_t)pid,
					 .parent = parent, .alive = true };

	assert_true(model->count < 8 * MOST);
	for (int i = 0; i < model->count; i++)
		assert_false(model->list[i].alive && (model->list[i].pid == pid || model->list[i].sid == pid));
	model->list[model->count] = process;
	return model->count++;
}

/* CLONE_VM, and CLONE_PARENT where that leads to nobody outside. */
static int model_share(struct model *model, int maker, pid_t pid, bool sibling)
{
	int who = model_fork(model, maker, pid);

	model->list[who].memory = model->list[maker].memory;
	if (sibling && model->list[maker].parent != OUTSIDE)
		model->list[who].parent = model->list[maker].parent;
	return who;
}

static void model_exit(struct model *model, int who)
{
	int heir = model->list[who].parent;

	while (heir != OUTSIDE && !model->list[heir].subreaper)
		heir = model->list[heir].parent;
	model->list[who].alive = false;
	for (int i = 0; i < model->count; i++)
		if (model->list[i].alive && model->list[i].parent == who)
			model->list[i].parent = heir;
}

static bool is_below_root(const struct model *model, int who)
{
	while (who != OUTSIDE && who != 0)
		who = model->list[who].parent;
	return who == 0;
}

/* ---- histories */

static void live_on(struct model *model, uint64_t *state, int moments, bool sharing, pid_t *next_pid)
{
	while (moments-- > 0) {
		int alive = 0, who = (int)dice(state, (unsigned)model->count);

		for (int i = 0; i < model->count; i++)
			alive += model->list[i].alive;
		if (!model->list[who].alive)
			continue;
		switch (dice(state, sharing ? 12 : 8)) {
		case 0 ... 3:
			if (alive < MOST && model->count < 6 * MOST)
				model_fork(model, who, (*next_pid)++);
			break;
		case 8 ... 9:
			if (alive < MOST && model->count < 6 * MOST)
				model_share(model, who, (*next_pid)++, dice(state, 4) == 0);
			break;
		case 10 ... 11: /* execve(2) */
			model->list[who].memory = 2000000 + (uint32_t)(*next_pid)++;
			break;
		case 4:
			model->list[who].sid = model->list[who].pid;
			break;
		case 5:
			model->list[who].subreaper = dice(state, 3) > 0;
			break;
		default:
			if (who > 0 && dice(state, 2))
				model_exit(model, who);
		}
	}
	/* What has left the tree is not moved; a session that reaches beyond it would be cut. */
	for (int i = 0; i < model->count; i++)
		if (model->list[i].alive && !is_below_root(model, i))
			model_exit(model, i);
}

static void begin(struct model *model, uint64_t *state)
{
	model->count = 0;
	model->list[model->count++] = (struct model_process){ .pid = ROOT, .sid = dice(state, 2) ? ROOT : 50, .memory = ROOT,
							       .parent = OUTSIDE, .alive = true, .subreaper = dice(state, 2) };
}

/* Parents first; siblings in any order. */
static void take_picture(const struct model *model, uint64_t *state, struct image_tree *tree)
{
	array_clear(&tree->processes);
	for (size_t done = 0; done <= tree->processes.count; done++) {
		pid_t ppid = done ? tree->processes.items[done - 1].pid : 0;
		int turn = (int)dice(state, (unsigned)model->count);

		for (int i = 0; i < model->count; i++) {
			const struct model_process *process = &model->list[(i + turn) % model->count];
			struct image_tree_process entry = { .pid = process->pid, .sid = process->sid, .ppid = ppid,
							    .memory = process->memory };

			if (process->alive && (ppid ? process->parent == model_find(model, ppid) : process->parent == OUTSIDE))
				assert_int_equal(array_append(&tree->processes, entry), 0);
		}
	}
}

/* ---- the other side */

static int index_of(const struct model *model, const struct image_tree *tree, const int *helpers, ssize_t who)
{
	return who < 0 ? helpers[-who - 1] : model_find(model, tree->processes.items[who].pid);
}

static void run_step(struct model *model, const struct image_tree *tree, int *helpers, const struct restore_tree_step *step)
{
	static pid_t spare = 1000000;
	int who, by;

	if (step->op == RESTORE_TREE_CLONE) {
		by = index_of(model, tree, helpers, step->by);
		assert_true(by >= 0);
		if (step->who < 0 || tree->processes.items[step->who].owner == (size_t)step->who)
			who = model_fork(model, by, step->number ? step->number : spare++);
		else
			who = model_share(model, by, step->number,
					  (size_t)step->by != tree->processes.items[step->who].parent);
		model->list[who].wanted = step->who >= 0;
		if (step->who < 0)
			helpers[-step->who - 1] = who;
		else
			assert_int_equal(step->number, tree->processes.items[step->who].pid);
		return;
	}
	who = index_of(model, tree, helpers, step->who);
	assert_true(who >= 0 && model->list[who].alive);
	if (step->op == RESTORE_TREE_SETSID) {
		model->list[who].sid = model->list[who].pid;
		return;
	}
	assert_true(step->who < 0);
	by = index_of(model, tree, helpers, step->by);
	model->list[by].subreaper = true;
	model_exit(model, who);
	model->list[by].subreaper = false;
}

static void run_steps(struct model *model, const struct image_tree *tree, const struct restore_tree_steps *steps)
{
	int helpers[8 * MOST] = { 0 };

	assert_true(steps->helpers < 8 * MOST);
	array_for_each(step, &steps->list)
		run_step(model, tree, helpers, step);
	for (int i = 0; i < model->count; i++)
		assert_true(!model->list[i].alive || model->list[i].wanted);
}

/* What is there already and can stay; the rest ends, as restore/layout.c has it. */
static void keep_wanted(struct model *model, const struct image_tree *before, const struct image_tree *tree)
{
	bool keep[MOST];

	assert_true(tree->processes.count <= MOST);
	image_tree_compare(before, tree, keep);
	for (int i = 1; i < model->count; i++) {
		size_t at = image_tree_find(tree, model->list[i].pid);

		model->list[i].alive = model->list[i].alive && at != IMAGE_TREE_NONE && keep[at];
	}
	for (int i = 1; i < model->count; i++)
		assert_true(!model->list[i].alive || model->list[model->list[i].parent].alive);
}

static int make_level(struct model *model, const struct image_tree *tree, unsigned depth)
{
	pid_t sessions[MOST] = { 0 };
	struct restore_tree_steps steps = { 0 };
	struct error error = ERROR_INIT;
	int r;

	for (size_t i = 0; i < tree->processes.count; i++) {
		int at = model_find(model, tree->processes.items[i].pid);

		sessions[i] = at >= 0 ? model->list[at].sid : 0;
	}
	r = restore_tree_plan(tree, depth, sessions, &steps, &error);
	if (r == 0)
		run_steps(model, tree, &steps);
	array_deinit(&steps.list);
	return r;
}

static void assert_same(const struct model *model, const struct image_tree *tree, unsigned depth)
{
	int alive = 0;

	for (int i = 0; i < model->count; i++)
		alive += model->list[i].alive;
	for (size_t i = 0; i < tree->processes.count; i++) {
		const struct image_tree_process *process = &tree->processes.items[i];
		int at = model_find(model, process->pid);

		alive -= at >= 0;
		if (process->level > depth && at < 0)
			continue;
		assert_true(at >= 0);
		assert_int_equal(i ? model->list[model->list[at].parent].pid : 0, process->ppid);
		if (depth == UINT_MAX)
			assert_int_equal(model->list[at].sid, process->sid);
		for (size_t k = 0; k < i; k++) {
			int other = model_find(model, tree->processes.items[k].pid);

			if (other >= 0)
				assert_int_equal(model->list[at].memory == model->list[other].memory,
						 process->memory == tree->processes.items[k].memory);
		}
	}
	assert_int_equal(alive, 0);
}

static void begin_target(struct model *target, const struct image_tree *tree)
{
	target->count = 0;
	target->list[target->count++] = (struct model_process){ .pid = ROOT,
								.sid = tree->processes.items[0].sid,
								.memory = ROOT,
								.parent = OUTSIDE,
								.alive = true,
								.wanted = true };
}

/*
 * What is refused: a leader that was given to an ancestor of a subreaper after that had been given a member of its session, and
 * had stopped being one.
 */
static bool plan_it(struct image_tree *tree)
{
	struct error error = ERROR_INIT;
	int r = image_tree_plan(tree, &error);

	assert_true(r == 0 || r == -EINVAL || r == -EXDEV);
	if (r == -EXDEV) {
		bool shared = false;

		for (size_t i = 0; i < tree->processes.count; i++)
			shared |= tree->processes.items[i].owner != i;
		assert_true(shared);
	}
	return r == 0;
}

/* ---- tests */

static void test_at_once(void **context)
{
	unsigned fresh = 0, lost = 0, other = 0, refused = 0;

	(void)context;
	for (uint64_t seed = 1; seed <= 4000; seed++) {
		static struct model source, target;
		struct image_tree tree = { 0 };
		uint64_t state = seed;
		pid_t next = ROOT + 1;

		begin(&source, &state);
		live_on(&source, &state, 20 + (int)dice(&state, 300), false, &next);
		take_picture(&source, &state, &tree);
		if (!plan_it(&tree)) {
			refused++;
			image_tree_deinit(&tree);
			continue;
		}
		begin_target(&target, &tree);
		assert_int_equal(make_level(&target, &tree, UINT_MAX), 0);
		assert_same(&target, &tree, UINT_MAX);
		array_for_each(process, &tree.processes) {
			fresh += process->fresh;
			other += process->fresh && process->birth != process->sid;
		}
		lost += (unsigned)tree.lost.count;
		image_tree_deinit(&tree);
	}
	/* The histories have what is hard. */
	assert_true(fresh > 1000 && lost > 1000 && other > 10);
	print_message("%u of 4000 trees refused\n", refused);
	assert_true(refused < 8);
}

static void test_shared_memory(void **context)
{
	unsigned sharers = 0, siblings = 0, refused = 0;

	(void)context;
	for (uint64_t seed = 1; seed <= 2000; seed++) {
		static struct model source, target;
		struct image_tree tree = { 0 };
		uint64_t state = seed;
		pid_t next = ROOT + 1;
		bool planned;

		begin(&source, &state);
		live_on(&source, &state, 10 + (int)dice(&state, 60), true, &next);
		take_picture(&source, &state, &tree);
		planned = plan_it(&tree);
		refused += !planned;
		if (planned) {
			begin_target(&target, &tree);
			assert_int_equal(make_level(&target, &tree, UINT_MAX), 0);
			assert_same(&target, &tree, UINT_MAX);
			for (size_t i = 0; i < tree.processes.count; i++) {
				sharers += tree.processes.items[i].owner != i;
				siblings += tree.processes.items[i].maker != tree.processes.items[i].parent;
			}
		}
		image_tree_deinit(&tree);
	}
	print_message("%u of 2000 trees refused\n", refused);
	assert_true(sharers > 1000 && siblings > 50 && refused < 1000);
}

static void test_level_by_level(void **context)
{
	(void)context;
	for (uint64_t seed = 1; seed <= 1000; seed++) {
		static struct model source, target;
		struct image_tree tree = { 0 };
		uint64_t state = seed;
		pid_t next = ROOT + 1;
		unsigned deepest = 0;

		begin(&source, &state);
		live_on(&source, &state, 200, seed % 2, &next);
		take_picture(&source, &state, &tree);
		if (!plan_it(&tree)) {
			image_tree_deinit(&tree);
			continue;
		}
		begin_target(&target, &tree);
		array_for_each(process, &tree.processes)
			deepest = process->level > deepest ? process->level : deepest;
		for (unsigned depth = 0; depth <= deepest; depth++) {
			assert_int_equal(make_level(&target, &tree, depth), 0);
			assert_same(&target, &tree, depth);
		}
		assert_int_equal(make_level(&target, &tree, UINT_MAX), 0);
		assert_same(&target, &tree, UINT_MAX);
		image_tree_deinit(&tree);
	}
}

/* The source lives on between two rounds. What cannot be added then is said, and is rare. */
static void test_on_top(void **context)
{
	unsigned refused = 0, rounds = 0;

	(void)context;
	for (uint64_t seed = 1; seed <= 1000; seed++) {
		static struct model source, target;
		struct image_tree tree = { 0 }, before = { 0 };
		uint64_t state = seed;
		pid_t next = ROOT + 1;
		int r = 0;

		begin(&source, &state);
		live_on(&source, &state, 150, seed % 2, &next);
		take_picture(&source, &state, &tree);
		r = plan_it(&tree) ? 0 : -EINVAL;
		begin_target(&target, &tree);
		for (int round = 0; round < 4 && r == 0; round++) {
			r = make_level(&target, &tree, UINT_MAX);
			rounds++;
			refused += r == -EAGAIN;
			if (r < 0)
				break;
			assert_same(&target, &tree, UINT_MAX);
			assert_int_equal(image_tree_copy(&tree, &before), 0);
			live_on(&source, &state, 6, seed % 2, &next);
			take_picture(&source, &state, &tree);
			if (!plan_it(&tree))
				break;
			keep_wanted(&target, &before, &tree);
		}
		image_tree_deinit(&before);
		image_tree_deinit(&tree);
	}
	print_message("%u of %u rounds could not be added\n", refused, rounds);
	assert_true(refused * 20 < rounds);
}

/* A daemon forked by one that has gone: its session has no leader. */
static void test_daemon(void **context)
{
	struct image_tree tree = { 0 };
	struct image_tree_process list[] = { { .pid = 10, .sid = 10 }, { .pid = 20, .ppid = 10, .sid = 15 } };
	pid_t sessions[2] = { 10, 0 };
	struct restore_tree_steps steps = { 0 };

	(void)context;
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(array_append(&tree.processes, list[i]), 0);
	assert_true(plan_it(&tree));
	assert_true(tree.processes.items[1].fresh);
	assert_int_equal(restore_tree_plan(&tree, 0, sessions, &steps, NULL), 0);
	assert_int_equal(steps.list.count, 0);
	assert_int_equal(restore_tree_plan(&tree, 1, sessions, &steps, NULL), 0);
	assert_int_equal(steps.list.count, 4); /* leader, its session, the daemon, the leader's end */
	assert_int_equal(steps.list.items[0].number, 15);
	assert_int_equal(steps.list.items[2].number, 20);
	assert_int_equal(sessions[1], 15);
	array_deinit(&steps.list);
	image_tree_deinit(&tree);
}

static void test_impossible(void **context)
{
	/* Two children in each other's session; a parent that is unknown; a PID that is there twice. */
	const struct image_tree_process crossed[] = { { .pid = 10, .sid = 10 }, { .pid = 20, .ppid = 10, .sid = 20 },
						      { .pid = 30, .ppid = 10, .sid = 30 },
						      { .pid = 21, .ppid = 20, .sid = 30 },
						      { .pid = 31, .ppid = 30, .sid = 20 } };
	const struct image_tree_process orphan[] = { { .pid = 10, .sid = 10 }, { .pid = 20, .ppid = 15, .sid = 10 } };
	const struct image_tree_process twice[] = { { .pid = 10, .sid = 10 }, { .pid = 20, .ppid = 10, .sid = 10 },
						    { .pid = 20, .ppid = 10, .sid = 10 } };
	const struct {
		const struct image_tree_process *list;
		size_t count;
		int error;
	} cases[] = { { crossed, 5, -EINVAL }, { orphan, 2, -EPROTO }, { twice, 3, -EPROTO }, { NULL, 0, -EPROTO } };

	(void)context;
	for (size_t i = 0; i < 4; i++) {
		struct image_tree tree = { 0 };

		for (size_t k = 0; k < cases[i].count; k++)
			assert_int_equal(array_append(&tree.processes, cases[i].list[k]), 0);
		assert_int_equal(image_tree_plan(&tree, NULL), cases[i].error);
		image_tree_deinit(&tree);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_once),
		cmocka_unit_test(test_shared_memory),
		cmocka_unit_test(test_level_by_level),
		cmocka_unit_test(test_on_top),
		cmocka_unit_test(test_daemon),
		cmocka_unit_test(test_impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
