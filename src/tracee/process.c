/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One stopped process: its memory, what has to be undone in it, and how it is let go.
 *
 * Release works from the newest to the oldest: undo entries (which may still run batches), then the
 * threads leave the stub, then the area is unmapped by a call made outside of it (or left for the
 * next stop: kept.c), then the threads are detached. Every step leaves a process that would run on
 * if it were the last one. A shell that nobody finished is killed instead.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/fdio.h"

#define PIDFD_OF_THREAD O_EXCL /* PIDFD_THREAD, 6.9 */
#define RELEASE_NS (2 * CLOCK_S)

int process_new(pid_t pid, const struct tracee_options *options, struct tracee_process **ret,
		struct error *error)
{
	struct tracee_process *process = calloc(1, sizeof(*process));
	struct tracee_private_process *own = calloc(1, sizeof(*own));

	if (!process || !own) {
		free(process);
		free(own);
		return error_set(error, -ENOMEM, "out of memory");
	}
	own->trace = -1;
	own->traces = options ? options->traces : NULL;
	own->hints = options ? options->hints : NULL;
	own->keep_area = options && options->keep_areas && own->hints && own->traces;
	process->pid = pid;
	process->pidfd = process->mem_fd = -1;
	process->own = own;
	*ret = process;
	return 0;
}

int process_open(struct tracee_process *process, struct error *error)
{
	char path[64];

	if (process->pidfd < 0)
		process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
	if (process->pidfd < 0)
		return ptrace_fail(error, -errno, process->pid, "open the process");
	/* a group leader that has ended has no memory any more: any living thread will do */
	snprintf(path, sizeof(path), "/proc/%d/mem", process->threads.items[0]->tid);
	process->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	if (process->mem_fd < 0)
		return error_set_errno(error, -errno, "cannot open %s", path);
	kept_take(process);
	return 0;
}

int tracee_process_getfd(const struct tracee_process *process, int fd)
{
	int pidfd = process->pidfd, copy;

	if (process->leader_dead)
		pidfd = (int)syscall(SYS_pidfd_open, process->threads.items[0]->tid, PIDFD_OF_THREAD);
	if (pidfd < 0)
		return -errno;
	copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (copy < 0)
		copy = -errno;
	if (process->leader_dead)
		close(pidfd);
	return copy;
}

void process_free(struct tracee_process *process)
{
	if (!process)
		return;
	array_for_each (thread, &process->threads)
		thread_free(*thread);
	array_deinit(&process->threads);
	array_deinit(&process->own->undos);
	array_deinit(&process->own->newborn);
	if (process->pidfd >= 0)
		close(process->pidfd);
	if (process->mem_fd >= 0)
		close(process->mem_fd);
	free(process->own);
	free(process);
}

void process_remove_thread(struct tracee_process *process, struct tracee_thread *thread)
{
	for (size_t i = 0; i < process->threads.count; i++) {
		if (process->threads.items[i] != thread)
			continue;
		memmove(process->threads.items + i, process->threads.items + i + 1,
			(process->threads.count - i - 1) * sizeof(struct tracee_thread *));
		process->threads.count--;
		thread_free(thread);
		return;
	}
}

int tracee_process_add_undo(struct tracee_process *process, tracee_undo_fn undo, void *data)
{
	struct undo_entry entry = { .undo = undo, .data = data };

	return array_append(&process->own->undos, entry);
}

void tracee_process_drop_undo(struct tracee_process *process, tracee_undo_fn undo, void *data)
{
	struct tracee_private_process *own = process->own;

	for (size_t i = 0; i < own->undos.count; i++) {
		if (own->undos.items[i].undo != undo || own->undos.items[i].data != data)
			continue;
		memmove(own->undos.items + i, own->undos.items + i + 1,
			(own->undos.count - i - 1) * sizeof(struct undo_entry));
		own->undos.count--;
		return;
	}
}

static void run_undos(struct tracee_process *process, bool process_is_gone)
{
	struct tracee_private_process *own = process->own;

	while (own->undos.count > 0) {
		struct undo_entry entry = own->undos.items[--own->undos.count];

		entry.undo(process_is_gone ? NULL : process, entry.data);
	}
}

/* A thread that is still on its way to a stop (a timeout, a lost deadline) is waited for: only then
 * can it be let go. */
static void settle(struct tracee_thread *thread, int64_t deadline)
{
	int status;

	if (thread->stopped)
		return;
	ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
	while (wait_stop(thread->tid, deadline, &status) == 0) {
		int event = status >> 8, sig = status & 0xff;

		if (event == EVENT_STOP) {
			thread->stopped = true;
			return;
		}
		ptrace_do(PTRACE_INTERRUPT, thread->tid, 0, 0);
		ptrace_do(PTRACE_CONT, thread->tid, 0,
			  event || sig == (SIGTRAP | 0x80) ? 0 : (uint64_t)sig);
	}
}

void process_restore(struct tracee_process *process)
{
	int64_t deadline = clock_deadline(RELEASE_NS);

	run_undos(process, false);
	array_for_each (thread, &process->threads) {
		settle(*thread, deadline);
		if ((*thread)->stopped)
			thread_unpark(*thread, NULL);
	}
	if (!kept_leave(process))
		area_unmap(process, deadline, NULL);
}

void process_detach(struct tracee_process *process)
{
	array_for_each (thread, &process->threads) {
		if ((*thread)->stopped)
			ptrace_do(PTRACE_DETACH, (*thread)->tid, 0, 0);
	}
}

static void kill_shell(struct tracee_process *process)
{
	int64_t deadline = clock_deadline(RELEASE_NS);
	int status;

	if (process->pidfd < 0 ||
	    syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0) < 0)
		return;
	/* the leader last: it is reported only when all others are gone */
	for (size_t i = process->threads.count; i-- > 0;) {
		pid_t tid = process->threads.items[i]->tid;

		while (wait_stop(tid, deadline, &status) == 0 && clock_now_ns() < deadline)
			sched_yield();
	}
}

void tracee_process_release(struct tracee_process *process)
{
	if (!process)
		return;
	if (process->exit_kill && !process->own->kept) {
		run_undos(process, true);
		if (process->own->is_guest)
			area_unmap(process, clock_deadline(RELEASE_NS), NULL);
		kill_shell(process);
	} else {
		process_restore(process);
		process_detach(process);
	}
	process_free(process);
}

void tracee_tree_release(struct tracee_tree *tree)
{
	if (!tree)
		return;
	for (size_t i = tree->processes.count; i-- > 0;)
		process_restore(tree->processes.items[i]);
	/* children first, so that a parent finds them running */
	for (size_t i = tree->processes.count; i-- > 0;) {
		process_detach(tree->processes.items[i]);
		process_free(tree->processes.items[i]);
	}
	array_deinit(&tree->processes);
	array_deinit(&tree->zombies);
	free(tree);
}

void tracee_process_forget(struct tracee_process *process)
{
	if (!process)
		return;
	run_undos(process, true);
	if (process->own->trace >= 0)
		traces_clear(process->own->traces, process->own->trace);
	process_free(process);
}

struct tracee_process *tracee_tree_find(const struct tracee_tree *tree, pid_t pid)
{
	array_for_each (process, &tree->processes) {
		if ((*process)->pid == pid)
			return *process;
	}
	return NULL;
}

struct tracee_thread *tracee_process_find(const struct tracee_process *process, pid_t tid)
{
	array_for_each (thread, &process->threads) {
		if ((*thread)->tid == tid)
			return *thread;
	}
	return NULL;
}

int tracee_process_read(const struct tracee_process *process, uint64_t address, void *data,
			size_t size, struct error *error)
{
	ssize_t n = fdio_pread(process->mem_fd, data, size, address);

	if (n == (ssize_t)size)
		return 0;
	return error_set_errno(error, n < 0 ? (int)n : -EIO,
			       "PID %d: cannot read %zu bytes of memory at 0x%llx", process->pid,
			       size, (unsigned long long)address);
}

int tracee_process_write(const struct tracee_process *process, uint64_t address, const void *data,
			 size_t size, struct error *error)
{
	int r = fdio_pwrite(process->mem_fd, data, size, address);

	if (r == 0)
		return 0;
	return error_set_errno(error, r, "PID %d: cannot write %zu bytes of memory at 0x%llx",
			       process->pid, size, (unsigned long long)address);
}
