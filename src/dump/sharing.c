/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes share a descriptor table, a file system context (working directory, root, umask), memory or signal handlers
 * (clone(2) with CLONE_FILES, CLONE_FS, CLONE_VM, CLONE_SIGHAND).
 *
 * kcmp(2) tells an order, so processes are sorted by it and those that share are neighbours. Who comes first in the tree
 * gives its PID as the id of the whole.
 *
 * On the target a process shares what its maker has (image/tree.h: as a rule its parent) from its beginning on, or has its own.
 * So all that share a table must hang together like that; what came about otherwise, by unshare(2) of a parent, say, is
 * refused. What shares memory is planned with the tree.
 */
#include <dirent.h>
#include <errno.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"

static long compare(const struct dump_process *one, const struct dump_process *other, int kind)
{
	return one == other ? 0 : syscall(SYS_kcmp, one->live, other->live, kind, 0, 0);
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
	switch (kind) {
	case KCMP_FILES: return &process->files_id;
	case KCMP_FS: return &process->fs_id;
	case KCMP_VM: return &process->vm_id;
	default: return &process->sighand_id;
	}
}

/* `sorted` is in any order. */
static void find_classes(struct dump_context *ctx, struct dump_process **sorted, int kind)
{
	size_t count = ctx->processes.count;

	if (count > 1)
		qsort_r(sorted, count, sizeof(struct dump_process *), sort_order, &kind);
	for (size_t i = 0, end; i < count; i = end) {
		struct dump_process *first = sorted[i];

		for (end = i + 1; end < count && compare(sorted[i], sorted[end], kind) == 0; end++)
			if (sorted[end]->order < first->order)
				first = sorted[end];
		for (size_t k = i; k < end; k++)
			*id_of(sorted[k], kind) = (uint32_t)first->pid;
	}
}

int dump_sharing_read(struct dump_context *ctx, struct error *error)
{
	static const int kinds[] = { KCMP_FILES, KCMP_FS, KCMP_VM };
	_cleanup_free_ struct dump_process **sorted = calloc(ctx->processes.count, sizeof(struct dump_process *));

	if (!sorted)
		return error_set_errno(error, -ENOMEM, "cannot compare the processes");
	for (size_t i = 0; i < ctx->processes.count; i++) {
		sorted[i] = ctx->processes.items[i];
		sorted[i]->order = i;
		sorted[i]->sighand_id = (uint32_t)sorted[i]->pid;
	}
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		find_classes(ctx, sorted, kinds[i]);
	ctx->shares_memory = false;
	array_for_each(process, &ctx->processes)
		ctx->shares_memory |= (*process)->vm_id != (uint32_t)(*process)->pid;
	/* Nobody shares handlers without the memory that they are in. */
	if (ctx->shares_memory)
		find_classes(ctx, sorted, KCMP_SIGHAND);
	return 0;
}

/* Those that are not with their maker must be the first of all. */
void dump_sharing_check(struct dump_context *ctx)
{
	static const struct {
		int kind;
		const char *name;
	} kinds[] = { { KCMP_FILES, "descriptor table" }, { KCMP_FS, "working directory and umask" },
		      { KCMP_SIGHAND, "signal handlers" } };

	for (size_t i = 1; i < ctx->processes.count; i++) {
		struct dump_process *process = ctx->processes.items[i];
		struct dump_process *maker = ctx->processes.items[ctx->tree.processes.items[i].maker];

		for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
			uint32_t id = *id_of(process, kinds[k].kind);

			if (id != (uint32_t)process->pid && (process->fresh || *id_of(maker, kinds[k].kind) != id))
				dump_refuse(ctx, process->pid, "process", IMAGE_KIND_TABLE_TANGLED, "%s, with PID %u",
					    kinds[k].name, id);
		}
	}
}

struct dump_process *dump_process_owner(const struct dump_context *ctx, struct dump_process *process)
{
	struct dump_process *owner = process->vm_id == (uint32_t)process->pid ? NULL :
				     dump_context_find(ctx, (pid_t)process->vm_id);

	return owner ? owner : process;
}

struct dump_process *dump_process_next_sharer(const struct dump_context *ctx, const struct dump_process *process)
{
	for (size_t i = process->order + 1; ctx->shares_memory && i < ctx->processes.count; i++)
		if (ctx->processes.items[i]->vm_id == process->vm_id)
			return ctx->processes.items[i];
	return NULL;
}

/* `sorted` is so by address spaces. One that has just ended has none of them. */
static bool has_memory_of(struct dump_process *const *sorted, size_t count, pid_t pid)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		long order = syscall(SYS_kcmp, pid, sorted[middle]->live, KCMP_VM, 0, 0);

		if (order < 0 || order == 0)
			return order == 0;
		if (order == 1)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

int dump_sharing_outside(struct dump_context *ctx, struct error *error)
{
	_cleanup_free_ struct dump_process **sorted = calloc(ctx->processes.count, sizeof(struct dump_process *));
	_cleanup_dir_ DIR *proc = opendir("/proc");
	int kind = KCMP_VM;
	struct dirent *entry;

	if (!sorted)
		return error_set_errno(error, -ENOMEM, "cannot compare the processes");
	if (!proc)
		return error_set_errno(error, -errno, "cannot list processes");
	for (size_t i = 0; i < ctx->processes.count; i++)
		sorted[i] = ctx->processes.items[i];
	qsort_r(sorted, ctx->processes.count, sizeof(struct dump_process *), sort_order, &kind);
	while ((entry = readdir(proc))) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		struct procfs_stat stat = { .comm = "?" };

		if (pid <= 0 || dump_context_find(ctx, pid) || !has_memory_of(sorted, ctx->processes.count, pid))
			continue;
		(void)procfs_read_stat(pid, &stat, NULL);
		dump_refuse(ctx, ctx->root, "process", IMAGE_KIND_MEMORY_SHARED_OUTSIDE, "PID %d (%s)", pid, stat.comm);
	}
	return 0;
}

bool dump_sharing_own_place(const struct dump_process *process, pid_t tid)
{
	return tid != process->pid && tid != process->live && syscall(SYS_kcmp, tid, process->live, KCMP_FS, 0, 0) > 0;
}

/* With whom else a thread shares a place that is not its process's; 0: nobody. */
static pid_t find_sharer(const struct dump_context *ctx, const struct dump_process *process, pid_t tid)
{
	array_for_each(other, &process->threads)
		if (*other != tid && syscall(SYS_kcmp, tid, *other, KCMP_FS, 0, 0) == 0)
			return *other;
	array_for_each(other, &ctx->processes)
		if (*other != process && syscall(SYS_kcmp, tid, (*other)->live, KCMP_FS, 0, 0) == 0)
			return (*other)->pid;
	return 0;
}

void dump_sharing_threads(struct dump_context *ctx, const struct dump_process *process)
{
	array_for_each(tid, &process->threads) {
		pid_t other = dump_sharing_own_place(process, *tid) ? find_sharer(ctx, process, *tid) : 0;

		if (other)
			dump_refuse(ctx, process->pid, "thread", IMAGE_KIND_THREAD_TABLE,
				    "working directory and umask of threads %d and %d", *tid, other);
		if (*tid != process->pid && syscall(SYS_kcmp, *tid, process->live, KCMP_FILES, 0, 0) > 0)
			dump_refuse(ctx, process->pid, "thread", IMAGE_KIND_THREAD_TABLE, "descriptor table of thread %d",
				    *tid);
	}
}
