/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timers. A POSIX timer has to get the number that it had: PR_TIMER_CREATE_RESTORE_IDS (6.15) lets timer_create(2) take a
 * number; older kernels count up, so numbers in between are made and deleted again.
 *
 * They go on as if there had been no move: what has passed for the tree since they were looked at counts (clocks.c), and one
 * that has run out meanwhile does so once, when it is armed. The signal waits until the process runs.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "parts.h"
#include "util/clock.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif
#define TIMER_COUNT_UP_MAX 4096
#define TIMER_BATCH_CALLS  200

/* struct sigevent of the kernel. */
struct timer_event {
	uint64_t value;
	int32_t signal;
	int32_t notify;
	int32_t tid;
	int32_t padding[11];
};

static int run(struct restore_tree *tree, struct restore_process *process, struct tracee_batch *batch,
	       struct error *error)
{
	int r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);

	tracee_batch_clear(batch);
	return r;
}

/* Returns the token of the place with the number. */
static uint64_t add_create(struct tracee_batch *batch, const PosixTimer *timer)
{
	struct timer_event event = {
		.value = timer->sival_ptr,
		.signal = (int32_t)timer->si_signo,
		.notify = (int32_t)timer->it_sigev_notify,
		.tid = timer->has_notify_thread_id ? timer->notify_thread_id : 0,
	};
	int32_t id = (int32_t)timer->it_id;
	uint64_t place = tracee_batch_data(batch, &id, sizeof(id));

	/* SIGEV_NONE takes any signal number but looks at none. */
	tracee_batch_call(batch, SYS_timer_create, (int32_t)timer->clock_id,
			  tracee_batch_data(batch, &event, sizeof(event)), place);
	return place;
}

static int create_by_number(struct restore_tree *tree, struct restore_process *process, struct tracee_batch *batch,
			    const ProcessTimers *timers, struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < timers->n_posix; i++) {
		add_create(batch, timers->posix[i]);
		if ((i + 1) % TIMER_BATCH_CALLS == 0)
			r = run(tree, process, batch, error);
	}
	tracee_batch_call(batch, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0);
	return r < 0 ? r : run(tree, process, batch, error);
}

static const PosixTimer *lowest_from(const ProcessTimers *timers, uint32_t from)
{
	const PosixTimer *lowest = NULL;

	for (size_t i = 0; i < timers->n_posix; i++)
		if (timers->posix[i]->it_id >= from && (!lowest || timers->posix[i]->it_id < lowest->it_id))
			lowest = timers->posix[i];
	return lowest;
}

static int create_by_counting(struct restore_tree *tree, struct restore_process *process, struct tracee_batch *batch,
			      const ProcessTimers *timers, struct error *error)
{
	PosixTimer filler = POSIX_TIMER__INIT;
	const PosixTimer *timer;
	uint32_t next = 0;
	int r = 0;

	filler.clock_id = CLOCK_MONOTONIC;
	filler.it_sigev_notify = SIGEV_NONE;
	while (r == 0 && (timer = lowest_from(timers, next))) {
		if (timer->it_id > TIMER_COUNT_UP_MAX)
			return error_set(error, -EOPNOTSUPP, "PID %d has a timer with number %u, which this kernel "
					 "cannot give", process->pid, timer->it_id);
		for (; next < timer->it_id; next++) {
			filler.it_id = next;
			add_create(batch, &filler);
			tracee_batch_call(batch, SYS_timer_delete, next);
			if (next % TIMER_BATCH_CALLS == 0 && r == 0)
				r = run(tree, process, batch, error);
		}
		add_create(batch, timer);
		next = timer->it_id + 1;
	}
	return r < 0 || tracee_batch_count(batch) == 0 ? r : run(tree, process, batch, error);
}

int restore_timer_create(struct restore_tree *tree, struct restore_process *process, const ProcessTimers *timers,
			 struct error *error)
{
	struct tracee_batch *batch;
	int64_t by_number;
	int r;

	if (timers->n_posix == 0)
		return 0;
	r = tracee_thread_call(process->tracee->threads.items[0], tree->deadline, &by_number, error, SYS_prctl,
			       PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0);
	if (r < 0)
		return r;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot make the timers of PID %d", process->pid);
	r = by_number == 0 ? create_by_number(tree, process, batch, timers, error)
			   : create_by_counting(tree, process, batch, timers, error);
	tracee_batch_free(batch);
	return r < 0 ? error_wrap(error, r, "cannot make the timers of PID %d", process->pid) : 0;
}

/* ---- arming */

static struct timespec to_timespec(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / CLOCK_S, .tv_nsec = ns % CLOCK_S };
}

static struct timeval to_timeval(int64_t us)
{
	return (struct timeval){ .tv_sec = us / 1000000, .tv_usec = us % 1000000 };
}

/* `elapsed` ns have passed on its clock. */
static void arm_interval(struct tracee_batch *batch, int which, const IntervalTimer *timer, int64_t elapsed)
{
	int64_t interval = (int64_t)timer->isec * 1000000 + (int64_t)timer->iusec;
	int64_t left = (int64_t)timer->vsec * 1000000 + (int64_t)timer->vusec;
	struct itimerval setting = { .it_interval = to_timeval(interval) };

	/* With an interval and no time left its signal is pending, and taking that would set it going again. */
	if (left == 0)
		left = interval;
	else
		left = left > elapsed / 1000 ? left - elapsed / 1000 : 1;
	setting.it_value = to_timeval(left);
	if (left)
		tracee_batch_call(batch, SYS_setitimer, which, tracee_batch_data(batch, &setting, sizeof(setting)), 0);
}

bool restore_timer_is_steady(const PosixTimer *timer)
{
	switch ((int32_t)timer->clock_id) {
	case CLOCK_REALTIME:
	case CLOCK_MONOTONIC:
	case CLOCK_BOOTTIME:
	case CLOCK_REALTIME_ALARM:
	case CLOCK_BOOTTIME_ALARM:
	case CLOCK_TAI:
		return true;
	default:
		return false;
	}
}

/* What the clock of a timer showed when its time left was read; 0: its clock does not go on from there. */
static int64_t reading_of(const struct restore_tree *tree, const ProcessTimers *timers, const PosixTimer *timer)
{
	if (!tree->clocks.continuous || !timers->has_monotonic || !timers->has_boottime)
		return 0;
	if (timer->clock_id == CLOCK_MONOTONIC)
		return (int64_t)timers->monotonic;
	return timer->clock_id == CLOCK_BOOTTIME || timer->clock_id == CLOCK_BOOTTIME_ALARM ? (int64_t)timers->boottime : 0;
}

/*
 * To a point in time where the clock goes on: if that has passed, the timer runs out at once, and the kernel counts what it has
 * missed. On the wall clock, on which two hosts may differ, it is the time left that counts, less what has passed.
 */
static void arm_posix(const struct restore_tree *tree, struct tracee_batch *batch, const ProcessTimers *timers,
		      const PosixTimer *timer, bool due)
{
	int64_t left = (int64_t)timer->vsec * CLOCK_S + (int64_t)timer->vnsec;
	int64_t interval = (int64_t)timer->isec * CLOCK_S + (int64_t)timer->insec;
	int64_t reading = reading_of(tree, timers, timer), elapsed = 0;
	struct itimerspec setting = { .it_interval = to_timespec(interval) };

	if (left == 0 && !due)
		left = interval;
	if (left == 0 && !due)
		return;
	if (restore_timer_is_steady(timer) && timers->has_monotonic)
		elapsed = restore_clocks_elapsed(tree, timers->monotonic);
	if (due) /* it ran out before the time left now began */
		left = interval ? left - interval : 0;
	left += reading ? reading : -elapsed;
	if (left <= 0)
		left = 1;
	setting.it_value = to_timespec(left);
	tracee_batch_call(batch, SYS_timer_settime, timer->it_id, reading ? TIMER_ABSTIME : 0,
			  tracee_batch_data(batch, &setting, sizeof(setting)), 0);
}

static bool is_due(const struct restore_process *process, uint32_t id)
{
	array_for_each(due, &process->timers_due)
		if (*due == id)
			return true;
	return false;
}

void restore_timer_arm(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
		       const ProcessTimers *timers)
{
	int64_t elapsed = timers->has_monotonic ? restore_clocks_elapsed(tree, timers->monotonic) : 0;

	arm_interval(batch, ITIMER_REAL, timers->real, elapsed);
	arm_interval(batch, ITIMER_VIRTUAL, timers->virt, 0);
	arm_interval(batch, ITIMER_PROF, timers->prof, 0);
	for (size_t i = 0; i < timers->n_posix; i++)
		arm_posix(tree, batch, timers, timers->posix[i], is_due(process, timers->posix[i]->it_id));
}
