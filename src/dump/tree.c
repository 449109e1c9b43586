/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes belong to the tree, and how they hang together: parents, threads, groups and sessions.
 *
 * The tree is read from /proc/PID/task/TID/children until a pass finds nothing new, which on a running tree is a picture of
 * one moment; the stop at the freeze finds what came later. A group or session whose leader is not in the tree cannot
 * exist on the target: its members become members of the root's session, and of the root's group if they shared it. The
 * root becomes a leader of both, but not of the session of a shell job (dump_options.shell_job): that keeps its number, for
 * which the target puts its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/files.h"
#include "dump/pty.h"
#include "dump/shared-memory.h"
#include "parts.h"
#include "pstree.pb-c.h"
#include "util/cleanup.h"

#define TREE_PF_KTHREAD UINT32_C(0x00200000) /* flags of /proc/PID/stat, linux/sched.h */

static void process_free(struct dump_process *process)
{
	if (!process)
		return;
	procfs_maps_deinit(&process->maps);
	dump_process_forget_status(process);
	array_deinit(&process->threads);
	array_deinit(&process->map_flags);
	cleanup_fd(&process->pidfd);
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
	if (stat.state == 'Z' || stat.state == 'X')
		return error_set(error, -ESRCH, "PID %d (%s) has ended and only waits for its parent %d", pid, stat.comm,
				 stat.ppid);
	own = dump_program_own(options, pid);
	if (own)
		return error_set(error, -EPERM, "PID %d runs %s, which moves processes and cannot be moved", pid, own);
	r = procfs_read_status(pid, "Tgid", leader, sizeof(leader), error);
	if (r == 0 && strtol(leader, NULL, 10) != pid)
		r = error_set(error, -ESRCH, "PID %d is a thread of process %s: name the process", pid, leader);
	return r;
}

struct dump_process *dump_context_find(const struct dump_context *ctx, pid_t pid)
{
	array_for_each(process, &ctx->processes)
		if ((*process)->pid == pid)
			return *process;
	return NULL;
}

static int process_new(pid_t pid, struct dump_process **ret, struct error *error)
{
	_cleanup_(cleanup_free) struct dump_process *process = calloc(1, sizeof(*process));
	char path[32];

	if (!process)
		return error_set_errno(error, -ENOMEM, "cannot keep PID %d", pid);
	process->pid = pid;
	process->files_id = (uint32_t)pid;
	process->proc_fd = -1;
	process->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (process->pidfd < 0)
		return error_set_errno(error, -errno, "cannot open PID %d", pid);
	snprintf(path, sizeof(path), "/proc/%d", pid);
	process->proc_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (process->proc_fd < 0) {
		int r = errno == ENOENT ? -ESRCH : -errno;

		close(process->pidfd);
		return error_set_errno(error, r, "cannot open %s", path);
	}
	*ret = steal_ptr(&process);
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
	if (process->stat.state == 'Z' || process->stat.state == 'X')
		return error_set(error, -ESRCH, "PID %d has ended", process->pid);
	if (!stopped) {
		array_clear(&process->threads);
		r = procfs_read_threads(process->pid, &process->threads, error);
		if (r < 0)
			return r;
	}
	r = procfs_read_maps(process->pid, &maps, error);
	if (r < 0)
		return r;
	procfs_maps_deinit(&process->maps);
	process->maps = maps;
	dump_process_forget_status(process);
	return 0;
}

/* Moves the process of `pid` from the old list to the new one, or makes it. A child that has ended is passed over. */
static int adopt_process(struct dump_context *ctx, struct dump_process **old, size_t old_count, pid_t pid, bool stopped,
			 struct error *error)
{
	struct dump_process *process = NULL;
	struct error ignored = ERROR_INIT;
	int r = 0;

	for (size_t i = 0; i < old_count && !process; i++)
		if (old[i] && old[i]->pid == pid)
			process = steal_ptr(&old[i]);
	if (!process)
		r = process_new(pid, &process, pid == ctx->root ? error : &ignored);
	if (r == 0)
		r = process_refresh(process, stopped, pid == ctx->root ? error : &ignored);
	if (r == 0 && array_append(&ctx->processes, process) < 0)
		r = error_set_errno(error, -ENOMEM, "cannot keep PID %d", pid);
	if (r < 0)
		process_free(process);
	return r == -ESRCH && pid != ctx->root ? 0 : r;
}

int dump_context_refresh(struct dump_context *ctx, struct error *error)
{
	struct dump_process **old = ctx->processes.items;
	size_t old_count = ctx->processes.count;
	struct procfs_pids children = { 0 };
	int r;

	memset(&ctx->processes, 0, sizeof(ctx->processes));
	r = adopt_process(ctx, old, old_count, ctx->root, false, error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++) {
		struct error ignored = ERROR_INIT;

		array_clear(&children);
		r = procfs_read_children(ctx->processes.items[i]->pid, &children, &ignored);
		if (r == -ESRCH && i > 0)
			r = 0;
		if (r < 0)
			r = error_set(error, r, "%s", error_text(&ignored, r));
		for (size_t k = 0; r == 0 && k < children.count; k++)
			r = adopt_process(ctx, old, old_count, children.items[k], false, error);
	}
	array_deinit(&children);
	for (size_t i = 0; i < old_count; i++)
		process_free(old[i]);
	free(old);
	return r;
}

int dump_context_take(struct dump_context *ctx, const struct tracee_tree *tree, struct error *error)
{
	struct dump_process **old = ctx->processes.items;
	size_t old_count = ctx->processes.count;
	int r = 0;

	memset(&ctx->processes, 0, sizeof(ctx->processes));
	array_for_each(process, &tree->processes)
		if (r == 0)
			r = adopt_process(ctx, old, old_count, (*process)->pid, true, error);
	for (size_t i = 0; i < old_count; i++)
		process_free(old[i]);
	free(old);
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
	array_for_each(process, &ctx->processes)
		process_free(*process);
	array_deinit(&ctx->processes);
	image_blockers_deinit(&ctx->blockers);
	dump_files_free(ctx->files);
	dump_shared_free(ctx->shared);
	dump_seccomp_free(ctx->seccomp);
	free(ctx->host);
	free(ctx);
}

/* ---- records ------------------------------------------------------------------------------------------------------ */

static pid_t effective_session(const struct dump_context *ctx, const struct dump_process *process)
{
	if (dump_context_find(ctx, process->stat.sid))
		return process->stat.sid;
	return ctx->options->shell_job ? ctx->processes.items[0]->stat.sid : ctx->root;
}

static pid_t effective_group(const struct dump_context *ctx, const struct dump_process *process)
{
	const struct dump_process *root = ctx->processes.items[0];
	pid_t session;

	if (process == root || dump_context_find(ctx, process->stat.pgid))
		return process == root && root->stat.pgid != root->pid ? root->pid : process->stat.pgid;
	if (process->stat.pgid == root->stat.pgid)
		return root->pid;
	session = effective_session(ctx, process);
	return dump_context_find(ctx, session) ? session : ctx->root;
}

/* A session can only be made by its leader or inherited from the parent. */
static void check_session(struct dump_context *ctx, const struct dump_process *process)
{
	const struct dump_process *parent = dump_context_find(ctx, process->stat.ppid);
	pid_t session = effective_session(ctx, process);

	if (process->pid == ctx->root || session == process->pid || !parent ||
	    session == effective_session(ctx, parent))
		return;
	dump_blocker_add(ctx, process->pid, "session",
			 "it is in a session that is neither its own nor its parent's",
			 "end the process, or let its parent start it again", "session %d", session);
}

static int tree_record(struct dump_context *ctx, struct dump_process *process, struct error *error)
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
	message.has_descriptor_table = true;
	message.descriptor_table = (uint32_t)status->fd_size;
	message.pid = (uint32_t)process->pid;
	message.ppid = process->pid == ctx->root ? 0 : (uint32_t)process->stat.ppid;
	message.pgid = (uint32_t)effective_group(ctx, process);
	message.sid = (uint32_t)effective_session(ctx, process);
	dump_pty_controlling(ctx, process, &message);
	message.threads = threads;
	message.n_threads = count;
	r = image_set_add(ctx->images, IMAGE_PSTREE, 0, &message.base, error);
	if (r < 0)
		return r;
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = process->files_id;
	return image_set_add(ctx->images, IMAGE_IDS, (uint32_t)process->pid, &ids.base, error);
}

int dump_tree_records(struct dump_context *ctx, struct error *error)
{
	int r = dump_ptys_find(ctx, !ctx->processes.items[0]->tracee, error);

	array_for_each(process, &ctx->processes) {
		if (r < 0)
			break;
		check_session(ctx, *process);
		r = tree_record(ctx, *process, error);
		if (r < 0)
			break;
	}
	return r;
}
