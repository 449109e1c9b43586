/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two ends: our copy is killed because the target's runs, or everything is taken back and ours runs on. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "image/tcp-repair.h"
#include "source.h"
#include "util/cleanup.h"

/* A traced thread stays until its tracer has waited for it, and the process until all its threads are gone. */
static void reap(const struct dump_process *process, int64_t deadline)
{
	struct pollfd end = { .fd = process->pidfd, .events = POLLIN };

	do
		array_for_each(tid, &process->threads)
			waitpid(*tid, NULL, __WALL | WNOHANG);
	while (poll(&end, 1, 1) == 0 && clock_now_ns() < deadline);
	waitpid(process->pid, NULL, __WALL | WNOHANG);
}

/*
 * Whoever moves the tree back at once must find its PIDs free. Descendants go to the host's init, which waits for them; not
 * so the root, whose parent may let it be a zombie for as long as it likes.
 */
static void wait_gone(const struct source *source, int64_t deadline)
{
	const struct timespec pause = { .tv_nsec = 200000 };
	struct procfs_stat stat;

	array_for_each(process, &source->dump->processes)
		while ((*process)->pid != source->options->pid && procfs_read_stat((*process)->pid, &stat, NULL) == 0 &&
		       clock_now_ns() < deadline)
			nanosleep(&pause, NULL);
}

static void end_leftover(const struct source *source)
{
	_cleanup_(leftover_deinit) struct leftover leftover = { 0 };
	JournalEntry entry = JOURNAL_ENTRY__INIT;
	struct error error = ERROR_INIT;

	if (leftover_note(source, &entry, &leftover, &error) < 0)
		log_warning(source->log, "System V objects or files in memory are left: %s", error.message);
	else
		leftover_end(&entry);
}

/* The peers of its connections talk to the other copy now. */
static void hush(struct source *source)
{
	struct error error = ERROR_INIT;

	if (!source->dump->has_tcp || source->dump_options.tcp_close)
		return;
	array_for_each(process, &source->dump->processes)
		if (image_tcp_hush((*process)->pid, &error) < 0) {
			log_error(source->log, "%s", error.message);
			error_clear(&error);
		}
}

/* Of processes that have been looked at and are not stopped by us: all that was tracked, or those that have left the tree. */
static void remove_areas(const struct source *source, int64_t deadline)
{
	struct error error = ERROR_INIT;

	if (source->traces && tracee_traces_clean(source->traces, deadline, &error) < 0)
		log_warning(source->log, "memory of ours is left in a process: %s", error.message);
}

void end_source_copy(struct source *source)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);

	memory_stop_tracking(source);
	hush(source);
	dump_accept_queue_forget(source->dump);
	for (size_t i = source->dump->processes.count; i-- > 0;)
		syscall(SYS_pidfd_send_signal, source->dump->processes.items[i]->pidfd, SIGKILL, NULL, 0);
	if (source->stopped) {
		array_for_each(process, &source->stopped->processes)
			tracee_process_forget(*process);
		array_deinit(&source->stopped->processes);
		array_deinit(&source->stopped->zombies);
		free(source->stopped);
		source->stopped = NULL;
	}
	for (size_t i = source->dump->processes.count; i-- > 0;)
		reap(source->dump->processes.items[i], deadline);
	wait_gone(source, clock_deadline(CLOCK_S));
	remove_areas(source, deadline);
	end_leftover(source);
	lock_release(source);
	if (source->freezer)
		freezer_remove(source->freezer, deadline, NULL);
}

void end_release(struct source *source)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);
	struct error error = ERROR_INIT;

	source_enter(source, PHASE_ROLLBACK);
	if (throttle_stop(steal_ptr(&source->throttle), &error) < 0)
		log_warning(source->log, "%s", error.message);
	error_clear(&error);
	if (source->dump)
		dump_accept_queue_put_back(source->dump);
	if (lock_open(source, &error) < 0)
		log_error(source->log, "%s", error.message);
	error_clear(&error);
	if (source->freezer && freezer_thaw(source->freezer, deadline, &error) < 0)
		log_warning(source->log, "%s", error.message);
	tracee_tree_release(source->stopped);
	source->stopped = NULL;
	if (source->frozen_at)
		source->summary->downtime_ms = (double)(clock_now_ns() - source->frozen_at) / (double)CLOCK_MS;
	/* Takes milliseconds, during which it runs already. */
	memory_stop_tracking(source);
	remove_areas(source, deadline);
	for (size_t i = 0; source->freezer && source->dump && i < source->dump->processes.count; i++)
		freezer_restore(source->freezer, source->dump->processes.items[i]->pid, NULL);
	if (source->freezer && freezer_remove(source->freezer, deadline, &error) < 0)
		log_warning(source->log, "%s", error.message);
	if (source->state_fd >= 0)
		journal_remove(source->state_fd, source->session, NULL);
}

void end_rollback(struct source *source)
{
	bool doubt = source->phase == PHASE_DOUBT;

	end_release(source);
	/* After doubt it has told us. */
	if (!doubt)
		source->destination->abort(source);
	source_enter(source, PHASE_FAILED);
}
