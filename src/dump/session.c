/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sessions and process groups, as they shall be on the target.
 *
 * Those that only processes of the tree are in are kept, with their numbers, whether their leader lives or not. One that
 * processes outside of the tree are in too (a shell and its other jobs) stays behind: its members become members of the root's
 * session, and of the root's group if they shared it. The root then becomes a leader of both, but not of the session of a
 * shell job (dump_options.shell_job): that keeps its number, for which the target puts its own.
 *
 * Whether a session without a leader in the tree reaches outside is looked up in /proc in each round; at the freeze only
 * for what was not known before.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "parts.h"

/* What is kept of a number that no process of the tree has as its PID. */
enum {
	REACH_KNOWN = 1 << 0,
	REACH_SESSION = 1 << 1, /* processes outside are in the session of that number */
	REACH_GROUP = 1 << 2,   /* and in the group */
};

static uintptr_t reach_get(const struct dump_context *ctx, pid_t id)
{
	return (uintptr_t)pidmap_get(&ctx->reaches, (uint32_t)id);
}

static int reach_set(struct dump_context *ctx, pid_t id, uintptr_t reach)
{
	return pidmap_put(&ctx->reaches, (uint32_t)id, (void *)reach);
}

static int note_lost(struct dump_context *ctx, const struct procfs_stat *stat, bool *ret_new)
{
	const pid_t ids[] = { stat->sid, stat->pgid };

	for (size_t i = 0; i < 2; i++) {
		if (ids[i] <= 0 || dump_tree_has(ctx, ids[i]) || reach_get(ctx, ids[i]))
			continue;
		*ret_new = true;
		if (reach_set(ctx, ids[i], REACH_KNOWN) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* Looks at all processes outside of the tree. */
static int look_outside(struct dump_context *ctx)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int r = dir ? 0 : -errno;

	while (r == 0 && (entry = readdir(dir))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		struct procfs_stat stat;
		uintptr_t session, group;

		if (pid <= 0 || dump_tree_has(ctx, pid) || procfs_read_stat(pid, &stat, NULL) < 0)
			continue;
		session = reach_get(ctx, stat.sid);
		if (session)
			r = reach_set(ctx, stat.sid, session | REACH_SESSION);
		group = reach_get(ctx, stat.pgid);
		if (r == 0 && group)
			r = reach_set(ctx, stat.pgid, group | REACH_GROUP);
	}
	if (dir)
		closedir(dir);
	return r;
}

int dump_sessions_read(struct dump_context *ctx, bool frozen, struct error *error)
{
	bool is_new = false;
	int r = 0;

	if (!frozen)
		pidmap_clear(&ctx->reaches);
	array_for_each(process, &ctx->processes)
		if (r == 0)
			r = note_lost(ctx, &(*process)->stat, &is_new);
	array_for_each(zombie, &ctx->zombies)
		if (r == 0)
			r = note_lost(ctx, &zombie->stat, &is_new);
	if (r == 0 && is_new)
		r = look_outside(ctx);
	return r < 0 ? error_set_errno(error, r, "cannot look for the sessions of the tree") : 0;
}

bool dump_session_reaches_outside(const struct dump_context *ctx, pid_t session)
{
	return reach_get(ctx, session) & REACH_SESSION;
}

pid_t dump_session_of(const struct dump_context *ctx, const struct procfs_stat *stat)
{
	const struct dump_process *root = ctx->processes.items[0];

	if (!dump_session_reaches_outside(ctx, stat->sid))
		return stat->sid;
	return ctx->options->shell_job ? root->stat.sid : ctx->root;
}

/* The root of a shell job always leads its group; so does one that leads its session only on the target. */
static pid_t group_of_root(const struct dump_context *ctx)
{
	const struct procfs_stat *stat = &ctx->processes.items[0]->stat;

	if (ctx->options->shell_job || dump_session_of(ctx, stat) == ctx->root || reach_get(ctx, stat->pgid) & REACH_GROUP)
		return ctx->root;
	return stat->pgid;
}

pid_t dump_group_of(const struct dump_context *ctx, const struct procfs_stat *stat)
{
	const struct dump_process *root = ctx->processes.items[0];

	if (stat == &root->stat || (!dump_tree_has(ctx, stat->pgid) && stat->pgid == root->stat.pgid))
		return group_of_root(ctx);
	if (!(reach_get(ctx, stat->pgid) & REACH_GROUP))
		return stat->pgid;
	return dump_session_of(ctx, stat) == root->stat.sid ? ctx->root : dump_session_of(ctx, stat);
}
