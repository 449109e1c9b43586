/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes belong to the tree.
 *
 * The tree is read from /proc/PID/task/TID/children until a pass finds nothing new, which on a running tree is a picture of
 * one moment; the stop at the freeze finds what came later. Processes that have ended and were not waited for yet are kept in a
 * list of their own.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/files.h"
#include "dump/shared-memory.h"
#include "parts.h"
#include "util/cleanup.h"

#define TREE_PIDFD_THREAD O_EXCL             /* PIDFD_THREAD of pidfd_open(2), 6.9 */
#define TREE_PF_KTHREAD UINT32_C(0x00200000) /* flags of /proc/PID/stat, linux/sched.h */

static void process_free(struct dump_process *process)
{
	if (!process)
		return;
	dump_look_forget(process);
	procfs_maps_deinit(&process->maps);
	dump_process_forget_status(process);
	array_deinit(&process->threads);
	array_deinit(&process->map_flags);
	cleanup_fd(&process->pidfd);
	cleanup_fd(&process->thread_pidfd);
	cleanup_fd(&process->proc_fd);
	free(process);
}

static bool is_ancestor_of_ours(pid_t pid)
{
	struct procfs_stat stat;
	pid_t walk = getpid();

	while (walk > 0) {
		if (walk == pid)
			return true;
		if (procfs_read_stat(walk, &stat, NULL) < 0)
			return false;
		walk = stat.ppid;
	}
	return false;
}

/* What can never be the root of a tree to move. */
static int check_root(pid_t pid, const struct dump_options *options, struct error *error)
{
	struct procfs_stat stat;
	const char *own;
	char leader[16];
	int r;

	if (pid <= 0)
		return error_set(error, -EINVAL, "%d is no PID", pid);
	r = procfs_read_stat(pid, &stat, error);
	if (r < 0)
		return r;
	if (stat.flags & TREE_PF_KTHREAD)
		return error_set(error, -EPERM, "PID %d (%s) is a thread of the kernel; only programs can be moved", pid,
				 stat.comm);
	if (pid == 1)
		return error_set(error, -EPERM, "PID 1 is the init process, which cannot be moved");
	if (pid == getpid())
		return error_set(error, -EPERM, "PID %d is this program itself", pid);
	if (is_ancestor_of_ours(pid))
		return error_set(error, -EPERM,
				 "PID %d (%s) is an ancestor of this program: it would have to move itself", pid,
				 stat.comm);
	if ((stat.state == 'Z' && stat.threads <= 1) || stat.state == 'X')
		return error_set(error, -ESRCH, "PID %d (%s) has ended and only waits for its parent %d", pid, stat.comm,
				 stat.ppid);
	own = dump_program_own(options, procfs_live_thread(pid));
	if (own)
		return error_set(error, -EPERM, "PID %d runs %s, which moves processes and cannot be moved", pid, own);
	r = procfs_read_status(pid, "Tgid", leader, sizeof(leader), error);
	if (r == 0 && strtol(leader, NULL, 10) != pid)
		r = error_set(error, -ESRCH, "PID %d is a thread of process %s: name the process", pid, leader);
	return r;
}

struct dump_process *dump_context_find(const struct dump_context *ctx, pid_t pid)
{
	return pidmap_get(&ctx->by_pid, (uint32_t)pid);
}

bool dump_tree_has(const struct dump_context *ctx, pid_t pid)
{
	return dump_context_find(ctx, pid) || pidmap_get(&ctx->zombie_pids, (uint32_t)pid);
}

static int process_new(pid_t pid, struct dump_process **ret, struct error *error)
{
	_cleanup_(cleanup_free) struct dump_process *process = calloc(1, sizeof(*process));

	if (!process)
		return error_set_errno(error, -ENOMEM, "cannot keep PID %d", pid);
	process->pid = pid;
	process->files_id = process->fs_id = process->vm_id = process->sighand_id = (uint32_t)pid;
	process->proc_fd = process->thread_pidfd = -1;
	process->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (process->pidfd < 0)
		return error_set_errno(error, -errno, "cannot open PID %d", pid);
	*ret = steal_ptr(&process);
	return 0;
}

/* Its files of /proc are those of a thread that lives; so are the numbers of its memory. */
static int follow_main_thread(struct dump_process *process, struct error *error)
{
	pid_t live = process->stat.state == 'Z' ? procfs_live_thread(process->pid) : process->pid;
	struct procfs_stat stat, now = process->stat;
	char path[32];

	if (live == process->live && live == process->pid)
		return 0;
	if (!live)
		return error_set(error, -ESRCH, "PID %d has ended", process->pid);
	if (live != process->live) {
		cleanup_fd(&process->proc_fd);
		cleanup_fd(&process->thread_pidfd);
		process->live = process->proc_fd = process->thread_pidfd = -1;
		snprintf(path, sizeof(path), "/proc/%d", live);
		process->proc_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (process->proc_fd < 0)
			return error_set_errno(error, errno == ENOENT ? -ESRCH : -errno, "cannot open %s", path);
		if (live != process->pid)
			process->thread_pidfd = (int)syscall(SYS_pidfd_open, live, TREE_PIDFD_THREAD);
		process->live = live;
	}
	if (live == process->pid)
		return 0;
	if (procfs_read_stat(live, &stat, NULL) < 0)
		return error_set(error, -ESRCH, "thread %d of PID %d has ended", live, process->pid);
	process->stat = stat;
	process->stat.state = now.state;
	process->stat.start_time = now.start_time;
	process->stat.exit_signal = now.exit_signal;
	process->stat.flags = now.flags;
	memcpy(process->stat.comm, now.comm, sizeof(now.comm));
	return 0;
}

/* Reads one process anew, its threads only while it runs. -ESRCH when it has ended, also as a zombie. */
static int process_refresh(struct dump_process *process, bool stopped, struct error *error)
{
	struct procfs_maps maps = { 0 };
	int r;

	r = procfs_read_stat(process->pid, &process->stat, error);
	if (r < 0)
		return r;
	if ((process->stat.state == 'Z' && process->stat.threads <= 1) || process->stat.state == 'X')
		return error_set(error, -ESRCH, "PID %d has ended", process->pid);
	r = follow_main_thread(process, error);
	if (r < 0)
		return r;
	if (!stopped) {
		array_clear(&process->threads);
		r = procfs_read_threads(process->pid, &process->threads, error);
		if (r < 0)
			return r;
	}
	process->asked_flags = false;
	dump_process_forget_status(process);
	dump_look_forget(process);
	if (stopped)
		return 0; /* the rest: dump_look_stopped() */
	r = tracee_read_maps(process->live, -1, &maps, error);
	if (r < 0)
		return r;
	procfs_maps_deinit(&process->maps);
	process->maps = maps;
	return 0;
}

/* What an earlier look has found. */
struct former {
	struct dump_process **items; /* owned, with what they point to unless it is NULL */
	size_t count;
	struct pidmap by_pid; /* to the places in there; owned */
};

static int former_take(struct dump_context *ctx, struct former *ret, struct error *error)
{
	*ret = (struct former){ .items = ctx->processes.items, .count = ctx->processes.count };
	memset(&ctx->processes, 0, sizeof(ctx->processes));
	pidmap_clear(&ctx->by_pid);
	array_clear(&ctx->zombies);
	pidmap_clear(&ctx->zombie_pids);
	for (size_t i = 0; i < ret->count; i++)
		if (pidmap_put(&ret->by_pid, (uint32_t)ret->items[i]->pid, &ret->items[i]) < 0)
			return error_set_errno(error, -ENOMEM, "cannot look at PID %d", ctx->root);
	return 0;
}

static void former_free(struct former *former)
{
	for (size_t i = 0; i < former->count; i++)
		process_free(former->items[i]);
	free(former->items);
	pidmap_deinit(&former->by_pid);
}

static int add_zombie(struct dump_context *ctx, pid_t pid, struct error *error)
{
	struct dump_zombie zombie = { .pid = pid };
	struct error why = ERROR_INIT;
	int r = procfs_read_stat(pid, &zombie.stat, &why);

	if (r == -ESRCH) /* it was waited for: no failure, and none to be told instead of a later one */
		return 0;
	if (r < 0)
		return error_set(error, r, "%s", why.message);
	if (zombie.stat.state != 'Z')
		return 0;
	if (zombie.stat.threads > 1)
		return error_set(error, -ESRCH, "the main thread of PID %d has just ended", pid);
	if (array_append(&ctx->zombies, zombie) < 0 || pidmap_put(&ctx->zombie_pids, (uint32_t)pid, ctx) < 0)
		return error_set_errno(error, -ENOMEM, "cannot keep PID %d", pid);
	return 0;
}

/* Who has a PID may be another process than at the last look. */
static bool is_same(const struct dump_process *process, const struct procfs_stat *now)
{
	return process->stat.start_time == now->start_time;
}

/* Moves the process of `pid` from the old list to the new one, or makes it. One that has ended may be a zombie. */
static int adopt_process(struct dump_context *ctx, struct former *former, pid_t pid, bool stopped, struct error *error)
{
	struct dump_process **place = pidmap_get(&former->by_pid, (uint32_t)pid), *process = NULL;
	struct error cause = ERROR_INIT;
	struct procfs_stat now;
	int r = 0;

	if (place && *place && (stopped || (procfs_read_stat(pid, &now, NULL) == 0 && is_same(*place, &now))))
		process = steal_ptr(place);
	if (!process)
		r = process_new(pid, &process, &cause);
	if (r == 0)
		r = process_refresh(process, stopped, &cause);
	if (r == 0 && array_append(&ctx->processes, process) < 0)
		r = error_set_errno(&cause, -ENOMEM, "cannot keep PID %d", pid);
	if (r == 0) /* it is the list's from here on */
		return pidmap_put(&ctx->by_pid, (uint32_t)pid, process) < 0
			       ? error_set_errno(error, -ENOMEM, "cannot keep PID %d", pid)
			       : 0;
	process_free(process);
	if (r == -ESRCH && pid != ctx->root)
		return add_zombie(ctx, pid, error);
	return error_set(error, r, "%s", error_text(&cause, r));
}

int dump_context_refresh(struct dump_context *ctx, struct error *error)
{
	struct procfs_pids children = { 0 };
	struct former former;
	int r;

	r = former_take(ctx, &former, error);
	if (r == 0)
		r = adopt_process(ctx, &former, ctx->root, false, error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++) {
		struct error ignored = ERROR_INIT;

		array_clear(&children);
		r = procfs_read_children(ctx->processes.items[i]->pid, &children, &ignored);
		if (r == -ESRCH && i > 0)
			r = 0;
		if (r < 0)
			r = error_set(error, r, "%s", error_text(&ignored, r));
		for (size_t k = 0; r == 0 && k < children.count; k++)
			r = adopt_process(ctx, &former, children.items[k], false, error);
	}
	array_deinit(&children);
	former_free(&former);
	return r;
}

int dump_context_take(struct dump_context *ctx, const struct tracee_tree *tree, struct error *error)
{
	struct former former;
	int r = former_take(ctx, &former, error);

	array_for_each(process, &tree->processes) {
		struct dump_process *taken;

		if (r == 0)
			r = adopt_process(ctx, &former, (*process)->pid, true, error);
		taken = r == 0 ? dump_context_find(ctx, (*process)->pid) : NULL;
		if (taken)
			taken->tracee = *process;
	}
	array_for_each(zombie, &tree->zombies)
		if (r == 0)
			r = add_zombie(ctx, *zombie, error);
	former_free(&former);
	return r;
}

int dump_context_new(pid_t root, const struct dump_options *options, const struct log *log, struct dump_context **ret,
		     struct error *error)
{
	struct dump_context *ctx;
	int r;

	r = check_root(root, options, error);
	if (r < 0)
		return r;
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return error_set_errno(error, -ENOMEM, "cannot look at PID %d", root);
	ctx->options = options;
	ctx->log = log;
	ctx->root = root;
	ctx->deadline = CLOCK_FOREVER;
	image_blockers_init(&ctx->blockers);
	ctx->host = calloc(1, sizeof(*ctx->host));
	r = ctx->host ? image_host_read(&ctx->host->facts, error)
		      : error_set_errno(error, -ENOMEM, "cannot look at PID %d", root);
	if (r == 0) {
		image_xsave_layout_read(&ctx->host->xsave);
		dump_namespaces_read(ctx->host);
		ctx->host->online = sysconf(_SC_NPROCESSORS_ONLN);
		r = dump_context_refresh(ctx, error);
	}
	if (r < 0) {
		dump_context_free(ctx);
		return r;
	}
	*ret = ctx;
	return 0;
}

void dump_context_free(struct dump_context *ctx)
{
	if (!ctx)
		return;
	dump_accept_queue_put_back(ctx);
	array_for_each(process, &ctx->processes)
		process_free(*process);
	array_deinit(&ctx->processes);
	pidmap_deinit(&ctx->by_pid);
	array_deinit(&ctx->zombies);
	pidmap_deinit(&ctx->zombie_pids);
	pidmap_deinit(&ctx->reaches);
	image_tree_deinit(&ctx->tree);
	image_blockers_deinit(&ctx->blockers);
	dump_files_free(ctx->files);
	dump_shared_free(ctx->shared);
	dump_seccomp_free(ctx->seccomp);
	free(ctx->host);
	free(ctx);
}
