/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes share a descriptor table, a file system context (working directory, root, umask) or memory (clone(2) with
 * CLONE_FILES, CLONE_FS, CLONE_VM).
 *
 * kcmp(2) tells an order, so processes are sorted by it and those that share are neighbours. Who comes first in the tree
 * gives its PID as the id of the whole.
 *
 * On the target a process shares what its parent has from its beginning on, or has its own. So all that share must hang
 * together as parents and children; what came about otherwise, by unshare(2) of a parent, say, is refused. So is shared
 * memory: whoever writes to it is not noticed by looking at the other, and vfork(2) would have its parent wait.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"

static long compare(const struct dump_process *one, const struct dump_process *other, int kind)
{
	return one == other ? 0 : syscall(SYS_kcmp, one->pid, other->pid, kind, 0, 0);
}

/* One that has just ended is different from all others; its PID puts it somewhere. */
static int sort_order(const void *left, const void *right, void *context)
{
	const struct dump_process *a = *(struct dump_process *const *)left, *b = *(struct dump_process *const *)right;
	long order = compare(a, b, *(const int *)context);

	if (order == 0)
		return 0;
	if (order == 1 || order == 2)
		return order == 1 ? -1 : 1;
	return (a->pid > b->pid) - (a->pid < b->pid);
}

/* Where in the process the id of that kind is. */
static uint32_t *id_of(struct dump_process *process, int kind)
{
	return kind == KCMP_FILES ? &process->files_id : kind == KCMP_FS ? &process->fs_id : &process->vm_id;
}

static size_t order_of(const struct dump_context *ctx, const struct dump_process *process)
{
	return image_tree_find(&ctx->tree, process->pid);
}

/* `sorted` is in any order. Returns whether any two share it. */
static bool find_classes(struct dump_context *ctx, struct dump_process **sorted, int kind)
{
	size_t count = ctx->processes.count;
	bool shared = false;

	if (count > 1)
		qsort_r(sorted, count, sizeof(struct dump_process *), sort_order, &kind);
	for (size_t i = 0, end; i < count; i = end) {
		struct dump_process *first = sorted[i];

		for (end = i + 1; end < count && compare(sorted[i], sorted[end], kind) == 0; end++)
			if (order_of(ctx, sorted[end]) < order_of(ctx, first))
				first = sorted[end];
		shared |= end > i + 1;
		for (size_t k = i; k < end; k++)
			*id_of(sorted[k], kind) = (uint32_t)first->pid;
	}
	return shared;
}

/* Those that are not with their parent must be the first of all. */
static void check_classes(struct dump_context *ctx, int kind, const char *name)
{
	array_for_each(process, &ctx->processes) {
		const uint32_t id = *id_of(*process, kind);
		struct dump_process *parent = dump_context_find(ctx, (*process)->stat.ppid);

		if (id == (uint32_t)(*process)->pid || (!(*process)->fresh && parent && *id_of(parent, kind) == id))
			continue;
		dump_refuse(ctx, (*process)->pid, "process", IMAGE_KIND_TABLE_TANGLED, "%s, with PID %u", name, id);
	}
}

int dump_sharing_read(struct dump_context *ctx, struct error *error)
{
	static const struct {
		int kind;
		const char *name;
	} kinds[] = { { KCMP_FILES, "descriptor table" }, { KCMP_FS, "working directory and umask" } };
	_cleanup_free_ struct dump_process **sorted = calloc(ctx->processes.count, sizeof(struct dump_process *));

	if (!sorted)
		return error_set_errno(error, -ENOMEM, "cannot compare the processes");
	for (size_t i = 0; i < ctx->processes.count; i++)
		sorted[i] = ctx->processes.items[i];
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (find_classes(ctx, sorted, kinds[i].kind))
			check_classes(ctx, kinds[i].kind, kinds[i].name);
	if (!find_classes(ctx, sorted, KCMP_VM))
		return 0;
	array_for_each(process, &ctx->processes)
		if ((*process)->vm_id != (uint32_t)(*process)->pid)
			dump_refuse(ctx, (*process)->pid, "process", IMAGE_KIND_MEMORY_SHARED_WHOLE, "memory, with PID %u",
				    (*process)->vm_id);
	return 0;
}

void dump_sharing_threads(struct dump_context *ctx, const struct dump_process *process)
{
	static const struct {
		int kind;
		const char *name;
	} kinds[] = { { KCMP_FILES, "descriptor table" }, { KCMP_FS, "working directory and umask" } };

	array_for_each(tid, &process->threads)
		for (size_t i = 0; *tid != process->pid && i < sizeof(kinds) / sizeof(kinds[0]); i++)
			if (syscall(SYS_kcmp, *tid, process->pid, kinds[i].kind, 0, 0) > 0)
				dump_refuse(ctx, process->pid, "thread", IMAGE_KIND_THREAD_TABLE, "%s of thread %d",
					    kinds[i].name, *tid);
}
