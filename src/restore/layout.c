/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes and threads as the newest IMAGE_PSTREE wants them: what is not wanted any more ends first, since its number
 * may have a new owner; then processes are made, parents first, each by its parent's shell; then threads.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "restore/pty.h"
#include "util/cleanup.h"

#define DESCRIPTORS_AT_FIRST 64

/* The tree as wanted. */
struct wanted_tree {
	ARRAY(TreeProcess *) processes; /* owned, parents first */
};

static void wanted_deinit(struct wanted_tree *wanted)
{
	array_for_each(process, &wanted->processes)
		protobuf_c_message_free_unpacked(&(*process)->base, NULL);
	array_deinit(&wanted->processes);
}

static int wanted_read(const struct image_set *images, struct wanted_tree *wanted, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		TreeProcess *message = NULL;
		int r = image_unpack(record, tree_process, &message, error);

		if (r < 0)
			return r;
		r = message->n_threads == 0 || message->threads[0] != message->pid ? -EPROTO :
			array_append(&wanted->processes, message);
		if (r < 0) {
			protobuf_c_message_free_unpacked(&message->base, NULL);
			return r == -ENOMEM ? error_set_errno(error, r, "cannot list the processes") :
					      error_set(error, r, "the list of processes is wrong");
		}
	}
	if (wanted->processes.count == 0 || wanted->processes.items[0]->ppid != 0)
		return error_set(error, -EPROTO, "the list of processes does not begin with the root");
	return 0;
}

static const TreeProcess *wanted_find(const struct wanted_tree *wanted, pid_t pid)
{
	array_for_each(process, &wanted->processes)
		if ((*process)->pid == (uint32_t)pid)
			return *process;
	return NULL;
}

/* 0 for the root, 1 for its children... */
static unsigned wanted_depth(const struct wanted_tree *wanted, const TreeProcess *process)
{
	unsigned depth = 0;

	while (process && process->ppid && depth < wanted->processes.count) {
		process = wanted_find(wanted, (pid_t)process->ppid);
		depth++;
	}
	return depth;
}

static bool wants_thread(const TreeProcess *process, pid_t tid)
{
	for (size_t i = 0; i < process->n_threads; i++)
		if (process->threads[i] == (uint32_t)tid)
			return true;
	return false;
}

static void process_free(struct restore_process *process)
{
	restore_mm_free(process->mm);
	free(process);
}

/* Is it still wanted where it is? Not below a process that has to be made anew: a shell cannot change its parent. */
static bool stays(const struct wanted_tree *wanted, const struct restore_process *process)
{
	for (; process; process = process->parent) {
		const TreeProcess *message = wanted_find(wanted, process->pid);
		pid_t parent = process->parent ? process->parent->pid : 0;

		if (!message || message->ppid != (uint32_t)parent || !process->tracee)
			return false;
	}
	return true;
}

/* Children before parents, so that each is reaped by the shell that made it. */
static void end_processes(struct restore_tree *tree, const struct wanted_tree *wanted)
{
	for (size_t i = tree->processes.count; i-- > 0;)
		if (!stays(wanted, tree->processes.items[i]))
			restore_shell_end(tree->processes.items[i]);
	for (size_t i = tree->processes.count; i-- > 0;) {
		struct restore_process *process = tree->processes.items[i];

		if (process->tracee)
			continue;
		memmove(&tree->processes.items[i], &tree->processes.items[i + 1],
			(tree->processes.count - i - 1) * sizeof(tree->processes.items[0]));
		tree->processes.count--;
		process_free(process);
	}
}

static int end_threads(struct restore_tree *tree, struct restore_process *process, const TreeProcess *wanted,
		       struct error *error)
{
	struct tracee_process *tracee = process->tracee;
	int r = 0;

	for (size_t i = tracee->threads.count; i-- > 1 && r == 0;)
		if (!wants_thread(wanted, tracee->threads.items[i]->tid))
			r = tracee_thread_end(tracee->threads.items[i], tree->deadline, error);
	return r;
}

/* The session that the shell is in now: its own, or that of the nearest ancestor with one of its own. */
static int apply_session(struct restore_tree *tree, struct restore_process *process, uint32_t wanted,
			 struct error *error)
{
	pid_t session = getsid(process->pid);
	int64_t result;
	int r;

	if (session < 0)
		return error_set_errno(error, -errno, "cannot read the session of PID %d", process->pid);
	if (session == restore_job_session(tree, (pid_t)wanted))
		return 0;
	if (wanted != (uint32_t)process->pid)
		return error_set(error, -EINVAL, "PID %d belongs to session %u, which it can only inherit; its parent "
				 "is in session %d", process->pid, wanted, session);
	r = tracee_thread_call(process->tracee->threads.items[0], tree->deadline, &result, error, SYS_setsid, 0, 0, 0, 0,
			       0, 0);
	if (r == 0 && result < 0)
		r = error_set_errno(error, (int)result, "PID %d cannot begin a session", process->pid);
	return r;
}

/* What leads a session has its terminal before children are made: they have it from their parent. */
static int apply_terminal(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	int wanted;

	if (getsid(process->pid) != process->pid)
		return 0;
	wanted = restore_pty_wanted(tree->images, process->pid, error);
	if (wanted < 0 && wanted != -ENOENT)
		return wanted;
	return restore_pty_control(tree, process, wanted < 0 ? -1 : wanted, error);
}

static int create_process(struct restore_tree *tree, const TreeProcess *wanted, struct error *error)
{
	struct restore_process *process = calloc(1, sizeof(*process));
	int r;

	if (!process)
		return error_set_errno(error, -ENOMEM, "cannot make PID %u", wanted->pid);
	process->pid = (pid_t)wanted->pid;
	process->files_id = wanted->pid;
	process->created = true;
	process->parent = wanted->ppid ? restore_tree_find(tree, (pid_t)wanted->ppid) : NULL;
	if (wanted->ppid && !process->parent)
		r = error_set(error, -EPROTO, "the parent %u of PID %u is not in the tree", wanted->ppid, wanted->pid);
	else if (process->parent)
		r = tracee_process_clone(process->parent->tracee->threads.items[0], process->pid, 0, SIGCHLD,
					 tree->deadline, &process->tracee, error);
	else
		r = restore_shell_create(tree, process->pid, restore_job_shares(tree, (pid_t)wanted->sid), &process->tracee,
					 error);
	if (r == 0)
		r = restore_mm_new(process, process->parent ? process->parent->mm : NULL, error);
	if (r == 0)
		r = apply_session(tree, process, wanted->sid, error);
	if (r == 0)
		r = apply_terminal(tree, process, error);
	if (r == 0 && array_append(&tree->processes, process) < 0)
		r = error_set_errno(error, -ENOMEM, "cannot make PID %u", wanted->pid);
	if (r < 0) {
		tracee_process_release(process->tracee);
		process_free(process);
	}
	return r;
}

/*
 * Room for the descriptors to come, while the process has one thread: growing a table that threads share waits for an RCU
 * grace period, some 10 ms, which would lie in the downtime.
 */
static int widen_table(struct restore_tree *tree, struct restore_process *process, uint32_t size, struct error *error)
{
	struct rlimit limit;
	struct tracee_batch *batch;
	int fd, r;

	if (size <= DESCRIPTORS_AT_FIRST || process->tracee->threads.count > 1)
		return 0;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return error_set_errno(error, -errno, "cannot read the limit on descriptors");
	if (size > limit.rlim_max)
		size = (uint32_t)limit.rlim_max;
	limit.rlim_cur = limit.rlim_max;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot set up PID %d", process->pid);
	tracee_batch_call(batch, SYS_prlimit64, 0, RLIMIT_NOFILE, tracee_batch_data(batch, &limit, sizeof(limit)), 0);
	fd = tracee_batch_call(batch, SYS_eventfd2, 0, 0);
	tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(fd), size - 1, 0);
	tracee_batch_call(batch, SYS_close, size - 1);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fd));
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static int create_threads(struct restore_tree *tree, struct restore_process *process, const TreeProcess *wanted,
			  struct error *error)
{
	int r = wanted->n_threads > 1 ? widen_table(tree, process, wanted->descriptor_table, error) : 0;

	for (size_t i = 1; r == 0 && i < wanted->n_threads; i++) {
		pid_t tid = (pid_t)wanted->threads[i];
		struct tracee_thread *thread;

		if (tracee_process_find(process->tracee, tid))
			continue;
		r = tracee_thread_clone(process->tracee->threads.items[0], tid, tree->deadline, &thread, error);
		if (r < 0)
			error_wrap(error, r, "cannot make thread %d of PID %d", tid, process->pid);
	}
	return r;
}

static int layout_apply(struct restore_tree *tree, const struct wanted_tree *wanted, struct error *error)
{
	int r = 0;

	end_processes(tree, wanted);
	array_for_each(process, &tree->processes) {
		(*process)->created = false;
		if (r == 0)
			r = end_threads(tree, *process, wanted_find(wanted, (*process)->pid), error);
	}
	array_for_each(message, &wanted->processes) {
		struct restore_process *process = restore_tree_find(tree, (pid_t)(*message)->pid);

		if (r < 0 || wanted_depth(wanted, *message) > tree->depth)
			continue;
		r = process ? apply_session(tree, process, (*message)->sid, error) : create_process(tree, *message, error);
		if (r == 0 && process)
			r = apply_terminal(tree, process, error);
	}
	return r;
}

int restore_layout_processes(struct restore_tree *tree, struct error *error)
{
	struct wanted_tree wanted = { 0 };
	int r;

	r = wanted_read(tree->images, &wanted, error);
	if (r == 0)
		r = layout_apply(tree, &wanted, error);
	array_for_each(process, &tree->processes)
		if (r == 0)
			r = create_threads(tree, *process, wanted_find(&wanted, (*process)->pid), error);
	wanted_deinit(&wanted);
	return r;
}

/* A group whose leader is not in the tree is the root's own from now on. */
static uint32_t group_of(const struct wanted_tree *wanted, const TreeProcess *process)
{
	return wanted_find(wanted, (pid_t)process->pgid) ? process->pgid : wanted->processes.items[0]->pid;
}

/* Leaders first, then members. */
static int apply_group(struct restore_tree *tree, struct restore_process *process, uint32_t wanted, bool leaders,
		       struct error *error)
{
	int64_t result;
	int r;

	if ((wanted == (uint32_t)process->pid) != leaders || getpgid(process->pid) == (pid_t)wanted)
		return 0;
	r = tracee_thread_call(process->tracee->threads.items[0], tree->deadline, &result, error, SYS_setpgid, 0, wanted,
			       0, 0, 0, 0);
	if (r == 0 && result < 0)
		r = error_set_errno(error, (int)result, "PID %d cannot join process group %u", process->pid, wanted);
	return r;
}

int restore_layout_groups(struct restore_tree *tree, struct error *error)
{
	struct wanted_tree wanted = { 0 };
	int r;

	r = wanted_read(tree->images, &wanted, error);
	for (int leaders = 1; leaders >= 0 && r == 0; leaders--)
		array_for_each(message, &wanted.processes)
			if (r == 0)
				r = apply_group(tree, restore_tree_find(tree, (pid_t)(*message)->pid),
						group_of(&wanted, *message), leaders, error);
	wanted_deinit(&wanted);
	return r;
}
