/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guardian: a small process that only waits for our end. If we are killed (SIGKILL, out of memory), it cleans up what
 * the kernel does not: remote areas in the tree's processes, TCP sockets that were being read, the lock on its connections,
 * and the freezer. Before the commit the tree runs on, and the hook is told; after
 * it, the tree stays frozen, and the journal tells the operator; but a checkpoint is complete then, and what is left of the
 * tree is ended.
 *
 * It waits on a pipe whose only write end is ours: a byte says that all is well, the end of file that we died.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/tcp-repair.h"
#include "net/lock.h"
#include "progress.h"
#include "source.h"
#include "util/cleanup.h"

static void mark_in_doubt(const struct source *source)
{
	JournalEntry *entry;

	if (journal_read(source->state_fd, source->shared->session, &entry, NULL) < 0)
		return;
	if (source->shared->phase == PHASE_DONE) { /* our copy is ended: nothing is left to be settled */
		journal_remove(source->state_fd, source->shared->session, NULL);
	} else if (entry->phase == JOURNAL_COMMITTED) {
		entry->phase = JOURNAL_IN_DOUBT;
		journal_write(source->state_fd, entry, NULL);
	}
	journal_entry__free_unpacked(entry, NULL);
}

/* A lock keeps their peers from hearing of the end, but not for ever. */
static void hush(struct source *source)
{
	JournalEntry *entry;

	if (!source->shared->kept_lock[0] || journal_read(source->state_fd, source->shared->session, &entry, NULL) < 0)
		return;
	for (size_t i = 0; i < entry->n_processes; i++)
		if (journal_process_alive(entry->processes[i]))
			image_tcp_hush(entry->processes[i]->pid, NULL);
	journal_entry__free_unpacked(entry, NULL);
}

/* Where the kernel has no cgroup.kill, what has not been ended yet runs on. */
static void end_tree(struct source *source, int64_t deadline)
{
	struct freezer *freezer;

	if (freezer_open(source->shared->freezer, &freezer, NULL) < 0)
		return;
	hush(source);
	freezer_kill(freezer, NULL);
	freezer_thaw(freezer, deadline, NULL);
	freezer_remove(freezer, deadline, NULL);
	freezer_free(freezer);
}

/* It puts connections back into the queues of listening sockets. */
static void wait_holder(const struct source *source, int64_t deadline)
{
	pid_t holder = atomic_load(&source->shared->queue_holder);
	_cleanup_fd_ int pidfd = holder ? (int)syscall(SYS_pidfd_open, holder, 0) : -1;
	struct pollfd end = { .fd = pidfd, .events = POLLIN };

	if (pidfd >= 0)
		poll(&end, 1, clock_poll_ms(deadline));
}

static void clean_up(struct source *source)
{
	struct migrate_options options = *source->options;
	int64_t deadline = clock_deadline(10 * CLOCK_S);
	struct freezer *freezer;

	progress_remove(source->state_fd, source->shared->session);
	if (source->destination == &destination_directory && source->shared->phase == PHASE_COMMIT) {
		end_tree(source, deadline);
		lock_remove(source, source->shared->session, NULL);
		journal_remove(source->state_fd, source->shared->session, NULL);
		return;
	}
	if (!phase_is_before_commit((enum phase)source->shared->phase)) {
		mark_in_doubt(source);
		return;
	}
	if (source->shared->kept_lock[0])
		net_lock_remove(NET_LOCK_CHECKPOINT, source->shared->kept_lock, NULL);
	for (size_t i = 0; i < DUMP_TCP_MARKS; i++)
		(void)dump_tcp_mend(&source->shared->tcp_marks[i]);
	wait_holder(source, deadline);
	lock_remove(source, source->shared->session, NULL);
	/* The thaw first: a frozen thread neither leaves a remote area nor unmaps it. */
	if (source->shared->freezer[0] && freezer_open(source->shared->freezer, &freezer, NULL) == 0) {
		freezer_thaw(freezer, deadline, NULL);
		tracee_traces_clean(source->traces, deadline, NULL);
		freezer_remove(freezer, deadline, NULL);
		freezer_free(freezer);
	} else {
		tracee_traces_clean(source->traces, deadline, NULL);
	}
	options.cancel_fd = -1; /* closed by now */
	source->options = &options;
	(void)hook_run(source, "rolled-back", NULL);
	journal_remove(source->state_fd, source->shared->session, NULL);
}

/* Connections above all: the target shall see that they are closed as soon as we die. */
static void close_others(int first, int second)
{
	int low = first < second ? first : second, high = first < second ? second : first;

	if (low > 0)
		close_range(0, (unsigned)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, ~0u, 0);
}

static void guard(struct source *source, int fd)
{
	sigset_t all;
	char byte;
	ssize_t n;

	close_others(fd, source->state_fd);

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, "migrate-guard");
	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		clean_up(source);
	_exit(0);
}

int guardian_start(struct source *source, struct error *error)
{
	int fds[2];

	source->shared = mmap(NULL, sizeof(*source->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (source->shared == MAP_FAILED) {
		source->shared = NULL;
		return error_set_errno(error, -errno, "cannot get shared memory");
	}
	memcpy(source->shared->session, source->session, sizeof(source->shared->session));
	source->dump->tcp_marks = source->shared->tcp_marks;
	source->dump->queue_holder = &source->shared->queue_holder;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(error, -errno, "cannot make a pipe");
	source->guardian = fork();
	if (source->guardian < 0) {
		close(fds[0]);
		close(fds[1]);
		return error_set_errno(error, -errno, "cannot start the guardian process");
	}
	if (source->guardian == 0) {
		close(fds[1]);
		guard(source, fds[0]);
	}
	close(fds[0]);
	source->guardian_fd = fds[1];
	return 0;
}

void guardian_dismiss(struct source *source)
{
	if (source->guardian > 0) {
		if (write(source->guardian_fd, "", 1) != 1)
			log_debug(source->log, "the guardian is gone");
		close(source->guardian_fd);
		waitpid(source->guardian, NULL, 0);
		source->guardian = 0;
	}
	if (source->shared)
		munmap(source->shared, sizeof(*source->shared));
	source->shared = NULL;
}
