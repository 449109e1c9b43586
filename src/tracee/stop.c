/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stopping.
 *
 * For each process: all threads that /proc lists are seized, then all are interrupted, then all are
 * waited for, so that the waiting overlaps. PTRACE_O_TRACECLONE and TRACEFORK attach to what they
 * make meanwhile; the list is read again until a pass finds nothing new, and once all threads of a
 * process stand still its children are read, which cannot change any more. Children of vfork are
 * deliberately not attached to by an option: their parent cannot stop before they run exec.
 *
 * A thread can be met in a stop that reports a signal on its way to it. It is interrupted again and
 * let go on with that signal, so it stops behind the delivery (at the first instruction of a
 * handler). Nothing has to be put back.
 *
 * Failure: whatever has been stopped runs on; clones that were attached to and turn out not to
 * belong to the tree (their parent died meanwhile) are let go in any case.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/buffer.h"
#include "util/fdio.h"

#define OPTIONS_QUIET (PTRACE_O_TRACESYSGOOD)
#define OPTIONS_TREE  (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK)
#define FLAG_KTHREAD  0x00200000U /* PF_KTHREAD in field 9 of /proc/PID/stat */
#define FLAG_IO_WORKER 0x00000010U /* PF_IO_WORKER: a thread of the kernel's that works for an io_uring of the process */
#define PLACE_MAX     256		  /* of the name of a function of the kernel */
#define SKIPPED	      1		  /* the thread has ended */

struct stopper {
	const struct tracee_options *options; /* borrowed, may be NULL */
	uint64_t ptrace_options;	      /* PTRACE_O_* for each thread */
	int64_t deadline;
	struct procfs_pids newborn; /* clones reported by events: threads and processes */
	struct error *error;
};

/* Why a thread cannot be seized: it is ours already (0), has ended (SKIPPED), or an error. */
static int explain_seize(struct stopper *stopper, pid_t pid, pid_t tid, int code)
{
	struct procfs_stat stat, tracer_stat;
	char value[32];
	pid_t tracer;

	if (code == -ESRCH || procfs_read_stat(tid, &stat, NULL) < 0 || stat.state == 'Z' ||
	    stat.state == 'X')
		return SKIPPED;
	if (stat.flags & FLAG_KTHREAD)
		return error_set(stopper->error, -EPERM, "PID %d (%s) is a kernel thread", pid,
				 stat.comm);
	if (procfs_read_status(tid, "TracerPid", value, sizeof(value), NULL) == 0 &&
	    (tracer = atoi(value)) > 0) {
		if (tracer == gettid())
			return 0;
		if (procfs_read_stat(tracer, &tracer_stat, NULL) < 0)
			snprintf(tracer_stat.comm, sizeof(tracer_stat.comm), "?");
		return error_set(stopper->error, -EBUSY,
				 "PID %d is traced by PID %d (%s) already; end that (a debugger, "
				 "strace) first",
				 tid, tracer, tracer_stat.comm);
	}
	return ptrace_fail(stopper->error, code, tid, "trace it");
}

/* Seizes a thread and adds it to its process, or neither: what is seized and not noted would never be let go. */
static int seize(struct stopper *stopper, struct tracee_process *process, pid_t tid)
{
	struct tracee_thread *thread;
	int r = thread_new(process, tid, &thread, stopper->error);

	if (r < 0)
		return r;
	r = ptrace_do(PTRACE_SEIZE, tid, 0, stopper->ptrace_options);
	if (r < 0)
		r = explain_seize(stopper, process->pid, tid, r);
	if (r != 0)
		process_remove_thread(process, thread);
	return r;
}

/* An event of a clone: the new task is noted, it stops by itself. */
static void note_newborn(struct stopper *stopper, pid_t tid)
{
	unsigned long message = 0;

	if (ptrace_do(PTRACE_GETEVENTMSG, tid, 0, (uintptr_t)&message) == 0 && message > 0)
		(void)array_append(&stopper->newborn, (pid_t)message);
}

/* What a thread does that has not come to a stop: it is in a call of the kernel that nothing interrupts. */
static int explain_timeout(struct stopper *stopper, const struct tracee_thread *thread)
{
	struct buffer place = BUFFER_INIT;
	struct procfs_stat stat;
	char path[40];

	if (procfs_read_stat(thread->tid, &stat, NULL) < 0)
		snprintf(stat.comm, sizeof(stat.comm), "?"), stat.state = '?';
	snprintf(path, sizeof(path), "/proc/%d/wchan", thread->tid);
	/* "0": it runs, or we may not know. */
	if (fdio_read_file(AT_FDCWD, path, PLACE_MAX, &place) < 0 || strcmp((char *)place.data, "0") == 0)
		buffer_clear(&place);
	error_set(stopper->error, -ETIMEDOUT,
		  "PID %d: thread %d (%s) did not stop in time: it is in a call of the kernel that cannot be interrupted "
		  "(state %c%s%s)",
		  thread->process->pid, thread->tid, stat.comm, stat.state, place.size ? ", waits in " : "",
		  place.size ? (char *)place.data : "");
	buffer_deinit(&place);
	return -ETIMEDOUT;
}

/* 0: stopped; SKIPPED: ended. */
static int wait_thread(struct stopper *stopper, struct tracee_thread *thread)
{
	for (;;) {
		int status, event, sig, r = wait_stop(thread->tid, stopper->deadline, &status);

		if (r == -ESRCH)
			return SKIPPED;
		if (r == -ETIMEDOUT)
			return explain_timeout(stopper, thread);
		if (r < 0)
			return ptrace_fail(stopper->error, r, thread->tid, "wait for it");
		event = status >> 8;
		sig = status & 0xff;
		if (event == EVENT_STOP) {
			thread->stopped = true;
			thread->group_stopped = sig != SIGTRAP;
			return 0;
		}
		if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK)
			note_newborn(stopper, thread->tid);
		/* any stop takes a pending interrupt away */
		ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
		ptrace_do(PTRACE_CONT, thread->tid, 0, event ? 0 : (uint64_t)sig);
	}
}

static bool is_known(const struct tracee_process *process, size_t hint, pid_t tid)
{
	if (hint < process->threads.count && process->threads.items[hint]->tid == tid)
		return true;
	return tracee_process_find(process, tid) != NULL;
}

/* One pass over the list of threads: seizes what is new. Returns how many, or an error. */
static int seize_new(struct stopper *stopper, struct tracee_process *process)
{
	struct procfs_pids tids = { 0 };
	int found = 0, r;

	r = procfs_read_threads(process->pid, &tids, stopper->error);
	for (size_t i = 0; r >= 0 && i < tids.count; i++) {
		if (is_known(process, i - (process->leader_dead ? 1 : 0), tids.items[i]))
			continue;
		r = seize(stopper, process, tids.items[i]);
		if (r == SKIPPED) {
			process->leader_dead |= tids.items[i] == process->pid;
			continue;
		}
		if (r == 0)
			found++;
	}
	array_deinit(&tids);
	return r < 0 ? r : found;
}

/* Interrupts and waits for the threads that are not stopped yet, drops those that end. */
static int stop_seized(struct stopper *stopper, struct tracee_process *process)
{
	size_t kept = 0;
	int r = 0;

	array_for_each (thread, &process->threads) {
		if (!(*thread)->stopped)
			ptrace_do(PTRACE_INTERRUPT, (*thread)->tid, 0, 0);
	}
	for (size_t i = 0; i < process->threads.count; i++) {
		struct tracee_thread *thread = process->threads.items[i];
		int waited = r < 0 || thread->stopped ? 0 : wait_thread(stopper, thread);

		if (waited == SKIPPED) {
			thread_free(thread);
			continue;
		}
		process->threads.items[kept++] = thread;
		if (waited < 0)
			r = waited;
	}
	process->threads.count = kept;
	return r;
}

/*
 * A thread of the kernel's that works for an io_uring of the process has no place in the program where it could go on. It
 * cannot make calls for us, and nothing of it has to be moved: whether it is at work, the ring tells.
 */
static bool is_worker(const struct tracee_thread *thread)
{
	struct procfs_stat stat;

	return thread->regs.rip == 0 && thread->regs.rsp == 0 && procfs_read_stat(thread->tid, &stat, NULL) == 0 &&
	       stat.flags & FLAG_IO_WORKER;
}

static int read_threads(struct stopper *stopper, struct tracee_process *process)
{
	int r;

	if (process->threads.count == 0)
		return error_set(stopper->error, -ESRCH,
				 "PID %d has ended (a zombie has nothing to move)", process->pid);
	r = process_open(process, stopper->error);
	for (size_t i = 0; r == 0 && i < process->threads.count; i++) {
		r = seccomp_suspend(process->threads.items[i]->tid, stopper->ptrace_options, stopper->error);
		if (r == 0)
			r = thread_read(process->threads.items[i], stopper->error);
		if (r == 0 && is_worker(process->threads.items[i])) {
			ptrace_do(PTRACE_DETACH, process->threads.items[i]->tid, 0, 0);
			process_remove_thread(process, process->threads.items[i--]);
		}
	}
	return r;
}

static int stop_threads(struct stopper *stopper, struct tracee_process *process)
{
	int r;

	process->whole = true;
	while ((r = seize_new(stopper, process)) > 0) {
		r = stop_seized(stopper, process);
		if (r < 0)
			return r;
		if (clock_now_ns() > stopper->deadline)
			return error_set(stopper->error, -ETIMEDOUT,
					 "PID %d: threads keep appearing", process->pid);
	}
	return r < 0 ? r : read_threads(stopper, process);
}

static bool newborn_is_wanted(const struct tracee_tree *tree, pid_t tid)
{
	array_for_each (process, &tree->processes) {
		if (tracee_process_find(*process, tid))
			return true;
	}
	return false;
}

/* Clones that ptrace attached to and that are in no process of the tree: they have lost their
 * parent, or all failed. */
static void let_strangers_go(struct stopper *stopper, const struct tracee_tree *tree)
{
	array_for_each (tid, &stopper->newborn) {
		int status;

		if (newborn_is_wanted(tree, *tid))
			continue;
		if (wait_stop(*tid, clock_deadline(GRACE_NS), &status) == 0)
			ptrace_do(PTRACE_DETACH, *tid, 0, 0);
	}
	array_deinit(&stopper->newborn);
}

static int stop_process(struct stopper *stopper, struct tracee_tree *tree,
			struct tracee_process *parent, pid_t pid)
{
	struct tracee_process *process = NULL;
	int r;

	r = process_new(pid, stopper->options, &process, stopper->error);
	if (r < 0)
		return r;
	process->parent = parent;
	if (array_append(&tree->processes, process) < 0) {
		process_free(process);
		return error_set(stopper->error, -ENOMEM, "out of memory");
	}
	return stop_threads(stopper, process);
}

static int stop_children(struct stopper *stopper, struct tracee_tree *tree,
			 struct tracee_process *process)
{
	struct procfs_pids children = { 0 };
	int r = procfs_read_children(process->pid, &children, stopper->error);

	for (size_t i = 0; r == 0 && i < children.count; i++) {
		struct procfs_stat stat;

		if (procfs_read_stat(children.items[i], &stat, NULL) < 0 || stat.state == 'X')
			continue;
		/* a process whose main thread has ended looks like one that has ended */
		r = stat.state == 'Z' && stat.threads <= 1
			    ? -ESRCH
			    : stop_process(stopper, tree, process, children.items[i]);
		if (r == -ESRCH && array_append(&tree->zombies, children.items[i]) < 0)
			r = error_set(stopper->error, -ENOMEM, "out of memory");
		if (r == -ESRCH && tree->processes.items[tree->processes.count - 1]->pid == children.items[i]) {
			/* ended between the two looks; its object is the last one */
			process_free(tree->processes.items[--tree->processes.count]);
			error_clear(stopper->error);
		}
		if (r == -ESRCH)
			r = 0;
	}
	array_deinit(&children);
	return r;
}

static int refuse_self(pid_t pid, struct error *error)
{
	if (pid == getpid())
		return error_set(error, -EINVAL, "PID %d is this program itself", pid);
	if (pid <= 0)
		return error_set(error, -EINVAL, "%d is not a PID", pid);
	return 0;
}

int tracee_tree_stop(pid_t root, const struct tracee_options *options, int64_t deadline,
		     struct tracee_tree **ret, struct error *error)
{
	struct error local = ERROR_INIT;
	struct stopper stopper = { options, OPTIONS_TREE, deadline, { 0 }, error ? error : &local };
	struct tracee_tree *tree;
	int r;

	r = refuse_self(root, error);
	if (r < 0)
		return r;
	tree = calloc(1, sizeof(*tree));
	if (!tree)
		return error_set(error, -ENOMEM, "out of memory");
	r = stop_process(&stopper, tree, NULL, root);
	for (size_t i = 0; r == 0 && i < tree->processes.count; i++)
		r = stop_children(&stopper, tree, tree->processes.items[i]);
	let_strangers_go(&stopper, tree);
	if (r < 0) {
		tracee_tree_release(tree);
		return r;
	}
	*ret = tree;
	return 0;
}

static int stop_alone(pid_t pid, const struct tracee_options *options, int64_t deadline,
		      int (*stop)(struct stopper *, struct tracee_process *),
		      struct tracee_process **ret, struct error *error)
{
	struct stopper stopper = { options, OPTIONS_QUIET, deadline, { 0 }, error };
	struct tracee_process *process;
	int r;

	r = refuse_self(pid, error);
	if (r == 0)
		r = process_new(pid, options, &process, error);
	if (r < 0)
		return r;
	r = stop(&stopper, process);
	if (r < 0) {
		tracee_process_release(process);
		return r;
	}
	*ret = process;
	return 0;
}

/* The group leader, or the first thread that lives. */
static int stop_one(struct stopper *stopper, struct tracee_process *process)
{
	struct procfs_pids tids = { 0 };
	int r;

	r = procfs_read_threads(process->pid, &tids, stopper->error);
	for (size_t i = 0; r == 0 && i < tids.count && process->threads.count == 0; i++) {
		r = seize(stopper, process, tids.items[i]);
		if (r == SKIPPED) {
			process->leader_dead |= tids.items[i] == process->pid;
			r = 0;
			continue;
		}
		if (r == 0)
			r = stop_seized(stopper, process);
	}
	array_deinit(&tids);
	return r < 0 ? r : read_threads(stopper, process);
}

int tracee_process_stop(pid_t pid, const struct tracee_options *options, int64_t deadline,
			struct tracee_process **ret, struct error *error)
{
	return stop_alone(pid, options, deadline, stop_one, ret, error);
}

int tracee_process_stop_all(pid_t pid, const struct tracee_options *options, int64_t deadline,
			    struct tracee_process **ret, struct error *error)
{
	return stop_alone(pid, options, deadline, stop_threads, ret, error);
}
