/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The records of a tree: one of each process and of each zombie, parents first, with the session and group that it shall have
 * (session.c). What a zombie still is goes into its core record: name and status.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "dump/files.h"
#include "dump/pty.h"
#include "parts.h"
#include "pstree.pb-c.h"
#include "util/cleanup.h"

#define TASK_DEAD 2 /* CoreProcess.task_state */

/* ---- one */

static void describe(const struct dump_context *ctx, pid_t pid, const struct procfs_stat *stat, TreeProcess *message)
{
	message->pid = (uint32_t)pid;
	message->ppid = pid == ctx->root ? 0 : (uint32_t)stat->ppid;
	message->pgid = (uint32_t)dump_group_of(ctx, stat);
	message->sid = (uint32_t)dump_session_of(ctx, stat);
	message->has_exit_signal = pid != ctx->root && stat->exit_signal != SIGCHLD;
	message->exit_signal = (uint32_t)stat->exit_signal;
	message->has_own_session = pid == ctx->root && message->sid != message->pid &&
				   !dump_session_reaches_outside(ctx, (pid_t)message->sid);
	message->own_session = message->has_own_session;
}

static int process_record(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	_cleanup_free_ uint32_t *threads = calloc(process->threads.count, sizeof(*threads));
	TreeProcess message = TREE_PROCESS__INIT;
	ObjectIds ids = OBJECT_IDS__INIT;
	const struct dump_status *status;
	size_t count = 0;
	int r;

	if (!threads)
		return error_set_errno(error, -ENOMEM, "cannot list the threads of PID %d", process->pid);
	threads[count++] = (uint32_t)process->pid;
	for (size_t i = 0; i < process->threads.count; i++)
		if (process->threads.items[i] != process->pid)
			threads[count++] = (uint32_t)process->threads.items[i];
	r = dump_process_status(process, &status, error);
	if (r < 0)
		return r;
	describe(ctx, process->pid, &process->stat, &message);
	dump_pty_controlling(ctx, process, &message);
	message.has_descriptor_table = true;
	message.descriptor_table = (uint32_t)status->fd_size;
	message.threads = threads;
	message.n_threads = count;
	r = image_set_add(ctx->images, IMAGE_PSTREE, 0, &message.base, error);
	if (r < 0)
		return r;
	ids.vm_id = process->vm_id;
	ids.sighand_id = process->sighand_id;
	ids.files_id = process->files_id;
	ids.fs_id = process->fs_id;
	return image_set_add(ctx->images, IMAGE_IDS, (uint32_t)process->pid, &ids.base, error);
}

static int zombie_record(struct dump_context *ctx, const struct dump_zombie *zombie, struct error *error)
{
	TreeProcess message = TREE_PROCESS__INIT;
	CoreProcess process = CORE_PROCESS__INIT;
	Core core = CORE__INIT;
	uint32_t thread = (uint32_t)zombie->pid;
	struct dump_status status;
	char comm[PROCFS_COMM_MAX];
	int r;

	r = dump_status_read(zombie->pid, zombie->pid, &status, error);
	if (r < 0)
		return r;
	describe(ctx, zombie->pid, &zombie->stat, &message);
	message.threads = &thread;
	message.n_threads = 1;
	message.has_uid = true;
	message.uid = status.uid[0];
	dump_status_deinit(&status);
	r = image_set_add(ctx->images, IMAGE_PSTREE, 0, &message.base, error);
	if (r < 0)
		return r;
	memcpy(comm, zombie->stat.comm, sizeof(comm));
	process.task_state = TASK_DEAD;
	process.exit_code = (uint32_t)zombie->stat.exit_code;
	process.flags = zombie->stat.flags;
	process.comm = comm;
	core.mtype = CORE__MACHINE__X86_64;
	core.tc = &process;
	return image_set_add(ctx->images, IMAGE_CORE, (uint32_t)zombie->pid, &core.base, error);
}

/* ---- all of them */

/* `memory` is 0 for one that has ended. */
static int plan_add(struct dump_context *ctx, pid_t pid, const struct procfs_stat *stat, uint32_t memory)
{
	struct image_tree_process process = { .pid = pid, .ppid = pid == ctx->root ? 0 : stat->ppid,
					      .sid = dump_session_of(ctx, stat), .memory = memory };

	return array_append(&ctx->tree.processes, process);
}

/* Can it be made again? A reason against it is found in all of the tree, so that the root is named. */
static int plan(struct dump_context *ctx, struct error *error)
{
	struct error why = ERROR_INIT;
	int r = 0;

	array_clear(&ctx->tree.processes);
	array_for_each(process, &ctx->processes)
		if (r == 0)
			r = plan_add(ctx, (*process)->pid, &(*process)->stat, (*process)->vm_id);
	array_for_each(zombie, &ctx->zombies)
		if (r == 0)
			r = plan_add(ctx, zombie->pid, &zombie->stat, 0);
	if (r < 0)
		return error_set_errno(error, r, "cannot list the processes");
	r = image_tree_plan(&ctx->tree, &why);
	/* One was given to another parent between two looks. */
	if (r == -EPROTO)
		return error_set(error, -ESRCH, "%s", why.message);
	if (r == -EINVAL)
		dump_refuse(ctx, ctx->root, "session", IMAGE_KIND_SESSION_TANGLED, "%s", why.message);
	if (r == -EXDEV)
		dump_refuse(ctx, ctx->root, "process", IMAGE_KIND_MEMORY_TANGLED, "%s", why.message);
	if (r == -EINVAL || r == -EXDEV)
		return 0;
	return r < 0 ? error_set(error, r, "%s", error_text(&why, r)) : 0;
}

int dump_tree_records(struct dump_context *ctx, bool frozen, struct error *error)
{
	int r = dump_sessions_read(ctx, frozen, error);

	if (r == 0)
		r = dump_ptys_find(ctx, !frozen, error);
	if (r == 0)
		r = dump_sharing_read(ctx, error);
	if (r == 0)
		r = plan(ctx, error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++) {
		ctx->processes.items[i]->level = ctx->tree.processes.items[i].level;
		ctx->processes.items[i]->fresh = ctx->tree.processes.items[i].fresh;
	}
	if (r == 0)
		dump_sharing_check(ctx);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++)
		r = process_record(ctx, ctx->processes.items[i], error);
	/* -ESRCH: it was waited for meanwhile, so the tree was running; who looks at a running one looks again. */
	array_for_each(zombie, &ctx->zombies)
		if (r == 0)
			r = zombie_record(ctx, zombie, error);
	return r;
}
