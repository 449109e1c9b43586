/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What belongs to a process as a whole. The first batch is run while it is still root: place in the file system, signal
 * actions, limits, and the like. The last one comes after its threads have their credentials: dumpable (which a change of
 * credentials resets), seals, and what lives by itself from then on: timers and pending signals.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs.pb-c.h"
#include "parts.h"
#include "restore/files.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif
#define PROCESS_XCOMP_FIRST 18 /* AMX tile data, the first state that needs permission */

/* Descriptors of ours that a batch borrows. */
struct fs_fds {
	int cwd;  /* owned */
	int root; /* owned; -1: the same as ours */
	uint32_t umask;
};

static int fs_open(struct restore_tree *tree, uint32_t id, struct fs_fds *fds, struct error *error)
{
	_cleanup_message_ Fs *message = NULL;
	struct stat ours, theirs;
	int r;

	fds->cwd = fds->root = -1;
	r = restore_get(tree->images, IMAGE_FS, id, fs, &message, error);
	if (r == 0)
		r = restore_file_link(tree, message->cwd_id, &fds->cwd, error);
	if (r == 0)
		r = restore_file_link(tree, message->root_id, &fds->root, error);
	if (r < 0)
		return r;
	fds->umask = message->umask;
	if (stat("/", &ours) == 0 && fstat(fds->root, &theirs) == 0 && ours.st_dev == theirs.st_dev &&
	    ours.st_ino == theirs.st_ino)
		close(steal_fd(&fds->root));
	return 0;
}

static void add_fs(struct tracee_batch *batch, const struct fs_fds *fds)
{
	int pidfd = restore_borrow_begin(batch);
	int fd;

	if (fds->root >= 0) {
		fd = restore_borrow(batch, pidfd, fds->root);
		tracee_batch_call(batch, SYS_fchdir, TRACEE_RESULT(fd));
		tracee_batch_call(batch, SYS_chroot, tracee_batch_string(batch, "."));
		tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fd));
	}
	fd = restore_borrow(batch, pidfd, fds->cwd);
	tracee_batch_call(batch, SYS_fchdir, TRACEE_RESULT(fd));
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fd));
	restore_borrow_end(batch, pidfd);
	tracee_batch_call(batch, SYS_umask, fds->umask);
}

int restore_thread_place(struct restore_tree *tree, struct tracee_thread *thread, struct error *error)
{
	_cleanup_fd_ int cwd = -1, root = -1;
	struct tracee_batch *batch;
	struct fs_fds fds;
	int r;

	if (thread->tid == thread->process->pid || !image_set_find(tree->images, IMAGE_FS, (uint32_t)thread->tid))
		return 0;
	r = fs_open(tree, (uint32_t)thread->tid, &fds, error);
	cwd = fds.cwd;
	root = fds.root;
	if (r < 0)
		return r;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot set up thread %d", thread->tid);
	tracee_batch_call(batch, SYS_unshare, CLONE_FS);
	add_fs(batch, &fds);
	r = tracee_batch_run(thread, batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static void add_limits(struct tracee_batch *batch, const ResourceLimits *limits)
{
	for (size_t i = 0; limits && i < limits->n_rlimits && i < RLIM_NLIMITS; i++) {
		struct rlimit limit = { .rlim_cur = limits->rlimits[i]->cur, .rlim_max = limits->rlimits[i]->max };

		tracee_batch_call(batch, SYS_prlimit64, 0, i, tracee_batch_data(batch, &limit, sizeof(limit)), 0);
	}
}

static void add_extra(struct tracee_batch *batch, const ProcessExtra *extra)
{
	for (unsigned bit = 0; bit < 32; bit++)
		if (extra->membarrier >> bit & 1)
			tracee_batch_call(batch, SYS_membarrier, 1u << bit, 0, 0);
	for (unsigned number = PROCESS_XCOMP_FIRST; number < 63; number++)
		if (extra->xcomp_permissions >> number & 1)
			tracee_batch_call(batch, SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, number);
}

static int write_proc(const struct restore_process *process, const char *name, const char *format, int value)
{
	char path[64], text[32];
	_cleanup_fd_ int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", process->tracee->threads.items[0]->tid, name);
	snprintf(text, sizeof(text), format, value);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fdio_write(fd, text, strlen(text));
}

/* A number in a file of /proc/PID; `missing` when it cannot be read. */
static int64_t read_number(pid_t pid, const char *name, int64_t missing)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return fdio_read_file(-1, path, 64, &text) < 0 ? missing :
		       strtoll((const char *)text.data, NULL, strcmp(name, "coredump_filter") == 0 ? 16 : 10);
}

void restore_process_note_root(struct restore_tree *tree, pid_t pid)
{
	tree->host->oom_score_adj = read_number(pid, "oom_score_adj", INT64_MAX);
	tree->host->coredump_filter = read_number(pid, "coredump_filter", INT64_MAX);
	tree->host->login = read_number(pid, "loginuid", UINT32_MAX);
}

/*
 * Set from outside, where a shell has something else. A score below ours needs CAP_SYS_RESOURCE; a process that keeps ours is
 * no reason to fail. Who shares memory has got the score of the other one by now.
 */
static int apply_from_outside(struct restore_tree *tree, const struct restore_process *process,
			      const CoreProcess *core, const ProcessExtra *extra, struct error *error)
{
	int r = 0;

	if (process->owner || core->oom_score_adj != tree->host->oom_score_adj)
		r = write_proc(process, "oom_score_adj", "%d", core->oom_score_adj);
	if (r == -EACCES || r == -EPERM) {
		log_debug(tree->log, "PID %d keeps this program's oom_score_adj instead of %d", process->pid,
			  core->oom_score_adj);
		r = 0;
	}
	if (r < 0)
		return error_set_errno(error, r, "cannot set /proc/%d/oom_score_adj", process->pid);
	if (extra->coredump_filter != tree->host->coredump_filter)
		r = write_proc(process, "coredump_filter", "0x%x", (int)extra->coredump_filter);
	if (r < 0 && r != -ENOENT)
		return error_set_errno(error, r, "cannot set /proc/%d/coredump_filter", process->pid);
	return 0;
}

static void add_first(const struct restore_tree *tree, struct tracee_batch *batch, const CoreProcess *core,
		      const ProcessExtra *extra, const struct fs_fds *fds)
{
	if (core->has_loginuid && core->loginuid != tree->host->login)
		restore_setting_login(batch, core->loginuid);
	add_fs(batch, fds);
	tracee_batch_call(batch, SYS_personality, core->personality);
	if (core->child_subreaper)
		tracee_batch_call(batch, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	add_extra(batch, extra);
	restore_setting_process(batch, extra);
	restore_signal_actions(batch, core);
	add_limits(batch, core->rlimits);
}

/* The messages of a process. */
struct process_messages {
	Core *core;
	ProcessExtra *extra;
	AddressSpace *mm;
};

static void messages_deinit(struct process_messages *messages)
{
	if (messages->core)
		protobuf_c_message_free_unpacked(&messages->core->base, NULL);
	if (messages->extra)
		protobuf_c_message_free_unpacked(&messages->extra->base, NULL);
	if (messages->mm)
		protobuf_c_message_free_unpacked(&messages->mm->base, NULL);
}

static int messages_get(struct restore_tree *tree, const struct restore_process *process,
			struct process_messages *messages, struct error *error)
{
	uint32_t id = (uint32_t)process->pid;
	int r;

	r = restore_get(tree->images, IMAGE_CORE, id, core, &messages->core, error);
	if (r == 0)
		r = restore_get(tree->images, IMAGE_PROCESS_EXTRA, id, process_extra, &messages->extra, error);
	if (r == 0)
		r = restore_get(tree->images, IMAGE_MM, id, address_space, &messages->mm, error);
	if (r == 0 && (!messages->core->tc || !messages->core->tc->timers))
		r = error_set(error, -EPROTO, "the core record of PID %u lacks the process", id);
	return r;
}

/* The calls after credentials. */
static int add_last(struct restore_tree *tree, struct restore_process *process, struct tracee_batch *batch,
		    const struct process_messages *messages, struct error *error)
{
	const ProcessTimers *timers = messages->core->tc->timers;
	int r;

	if (messages->mm->thp_disabled)
		tracee_batch_call(batch, SYS_prctl, PR_SET_THP_DISABLE, 1, messages->extra->huge_pages & ~1u, 0, 0);
	/* 2 (readable by root only) cannot be asked for; 0 is the nearest. */
	tracee_batch_call(batch, SYS_prctl, PR_SET_DUMPABLE, messages->mm->dumpable == 1, 0, 0, 0);
	restore_setting_last(batch, messages->extra);
	r = process->owner ? 0 : restore_mm_seals(tree, process, batch, error);
	if (r < 0)
		return r;
	if (restore_signal_pending(process, batch, 0, messages->core->tc->signals_s, timers) < 0)
		return error_set_errno(error, -ENOMEM, "cannot finish PID %d", process->pid);
	restore_timer_arm(tree, process, batch, timers);
	return 0;
}

/*
 * Does one batch do for all? Not where other batches come before its end; where other threads of its memory have credentials to
 * be given, which takes dumpable away; or where vector registers can be set only after what the batch asks for.
 */
static bool is_simple(const struct restore_process *process, const struct process_messages *messages)
{
	const CoreThread *core = messages->core->thread_core;

	return process->tracee->threads.count == 1 && !process->tracee->leader_dead && !process->shares && core &&
	       messages->core->tc->timers->n_posix == 0 && core->seccomp_mode == SECCOMP_MODE__SECCOMP_NONE &&
	       messages->extra->xcomp_permissions >> PROCESS_XCOMP_FIRST == 0;
}

int restore_process_apply(struct restore_tree *tree, struct restore_process *process, struct restore_together *together,
			  struct error *error)
{
	_cleanup_(messages_deinit) struct process_messages messages = { 0 };
	struct tracee_batch *batch;
	struct fs_fds fds;
	int r;

	r = messages_get(tree, process, &messages, error);
	if (r < 0)
		return r;
	r = fs_open(tree, (uint32_t)process->pid, &fds, error);
	if (restore_together_close(together, fds.cwd, r < 0 ? NULL : error) < 0 ||
	    restore_together_close(together, fds.root, r < 0 ? NULL : error) < 0)
		r = r < 0 ? r : -ENOMEM;
	if (r < 0)
		return r;
	batch = restore_together_batch(together, process, error);
	if (!batch)
		return -ENOMEM;
	add_first(tree, batch, messages.core->tc, messages.extra, &fds);
	r = apply_from_outside(tree, process, messages.core->tc, messages.extra, error);
	process->is_set_up = is_simple(process, &messages);
	if (r < 0 || !process->is_set_up)
		return r;
	r = restore_thread_add(tree, process, messages.core, batch, error);
	return r < 0 ? r : add_last(tree, process, batch, &messages, error);
}

int restore_process_threads(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ Core *core = NULL;
	int r;

	if (process->is_set_up)
		return 0;
	r = restore_get(tree->images, IMAGE_CORE, (uint32_t)process->pid, core, &core, error);
	if (r == 0)
		r = restore_timer_create(tree, process, core->tc->timers, error);
	return r < 0 ? r : restore_threads_apply(tree, process, error);
}

int restore_process_last(struct restore_tree *tree, struct restore_process *process, struct restore_together *together,
			 struct error *error)
{
	_cleanup_(messages_deinit) struct process_messages messages = { 0 };
	struct tracee_batch *batch;
	int r;

	if (process->is_set_up)
		return 0;
	r = messages_get(tree, process, &messages, error);
	if (r < 0)
		return r;
	batch = restore_together_batch(together, process, error);
	return batch ? add_last(tree, process, batch, &messages, error) : -ENOMEM;
}
