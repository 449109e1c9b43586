/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What /proc shows of a process that stands in the way of a move, and where it stands in the file system. Works on
 * running and on stopped processes alike.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dump/files.h"
#include "fs.pb-c.h"
#include "parts.h"
#include "tracee/freezer.h"
#include "util/cleanup.h"

/* One for the whole tree, whichever that is: the target's processes are clones of one that is put into one like it. */
static int check_time(struct dump_context *ctx, const struct dump_process *process, const struct dump_look *look,
		      struct error *error)
{
	static const char *const names[] = { "time", "time_for_children" };
	const struct dump_look *root;
	int r = dump_look_get(ctx->processes.items[0], &root, error);

	for (size_t i = 0; r == 0 && i < 2; i++)
		if (root->times[0].inode && look->times[i].inode &&
		    memcmp(&look->times[i], &root->times[0], sizeof(root->times[0])) != 0) {
			dump_refuse(ctx, process->pid, "namespace", IMAGE_KIND_TIME_OTHER, "%s", names[i]);
			break;
		}
	return r;
}

static void check_namespaces(struct dump_context *ctx, const struct dump_process *process, const struct dump_look *look)
{
	for (size_t i = 0; i < DUMP_NAMESPACES; i++) {
		const struct dump_same *here = &ctx->host->namespaces[i];

		if (here->inode && look->namespaces[i].inode && memcmp(here, &look->namespaces[i], sizeof(*here)) != 0)
			dump_refuse(ctx, process->pid, "namespace", IMAGE_KIND_NAMESPACE, "%s", dump_namespace_name(i));
	}
}

/* Frozen by its cgroup (a paused container, an earlier move in doubt): whatever it would be asked to do, it does not. */
static void check_frozen(struct dump_context *ctx, const struct dump_process *process)
{
	_cleanup_free_ char *cgroup = NULL;

	if (freezer_process_is_frozen(process->pid, &cgroup) > 0)
		dump_refuse(ctx, process->pid, "process", IMAGE_KIND_FROZEN, "cgroup %s", cgroup);
}

static void check_status(struct dump_context *ctx, const struct dump_process *process,
			 const struct dump_status *status)
{
	struct procfs_stat tracer;

	if (status->tracer && status->tracer != gettid() && !process->tracee) {
		if (procfs_read_stat(status->tracer, &tracer, NULL) < 0)
			snprintf(tracer.comm, sizeof(tracer.comm), "?");
		dump_refuse(ctx, process->pid, "process", IMAGE_KIND_TRACED, "tracer PID %d (%s)", status->tracer, tracer.comm);
	}
	dump_terminal_check(ctx, process);
	if (process->live != process->pid && process->thread_pidfd < 0)
		dump_refuse(ctx, process->pid, "process", IMAGE_KIND_MAIN_THREAD_OLD, "main thread %d", process->pid);
}

int dump_process_check(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	const struct dump_status *status;
	const struct dump_look *look;
	int r;

	r = dump_process_status(process, &status, error);
	if (r == 0)
		r = dump_look_get(process, &look, error);
	if (r == 0)
		r = check_time(ctx, process, look, error);
	if (r < 0)
		return r;
	check_status(ctx, process, status);
	check_namespaces(ctx, process, look);
	dump_sharing_threads(ctx, process);
	if (!process->tracee) {
		dump_program_check(ctx, process);
		check_frozen(ctx, process);
	}
	return 0;
}

static int place_record(struct dump_context *ctx, struct dump_process *process, uint32_t id, const char *cwd, const char *root,
			uint32_t umask, struct error *error)
{
	Fs message = FS__INIT;
	int r;

	message.has_umask = true;
	message.umask = umask;
	r = dump_file_link(ctx, process, cwd, &message.cwd_id, error);
	if (r == 0)
		r = dump_file_link(ctx, process, root, &message.root_id, error);
	return r < 0 ? r : image_set_add(ctx->images, IMAGE_FS, id, &message.base, error);
}

static int thread_place(struct dump_context *ctx, struct dump_process *process, pid_t tid, struct error *error)
{
	struct dump_status status;
	char cwd[48], root[48];
	int r = dump_status_read(process->pid, tid, &status, error);

	if (r < 0)
		return r;
	snprintf(cwd, sizeof(cwd), "task/%d/cwd", tid);
	snprintf(root, sizeof(root), "task/%d/root", tid);
	r = place_record(ctx, process, (uint32_t)tid, cwd, root, status.umask, error);
	dump_status_deinit(&status);
	return r;
}

int dump_process_fs(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	const struct dump_status *status;
	int r;

	r = dump_process_status(process, &status, error);
	if (r == 0)
		r = place_record(ctx, process, (uint32_t)process->pid, "cwd", "root", status->umask, error);
	array_for_each(tid, &process->threads)
		if (r == 0 && dump_sharing_own_place(process, *tid))
			r = thread_place(ctx, process, *tid, error);
	return r;
}
