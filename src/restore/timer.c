/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timers. A POSIX timer has to get the number that it had: PR_TIMER_CREATE_RESTORE_IDS (6.15) lets timer_create(2) take a
 * number; older kernels count up, so numbers in between are made and deleted again.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "parts.h"

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

static void arm_interval(struct tracee_batch *batch, int which, const IntervalTimer *timer)
{
	struct itimerval setting = {
		.it_interval = { .tv_sec = (time_t)timer->isec, .tv_usec = (suseconds_t)timer->iusec },
		.it_value = { .tv_sec = (time_t)timer->vsec, .tv_usec = (suseconds_t)timer->vusec },
	};

	/* With an interval and no time left its signal is pending, and taking that would set it going again. */
	if (!timer->vsec && !timer->vusec)
		setting.it_value = setting.it_interval;
	if (setting.it_value.tv_sec || setting.it_value.tv_usec)
		tracee_batch_call(batch, SYS_setitimer, which, tracee_batch_data(batch, &setting, sizeof(setting)), 0);
}

void restore_timer_arm(struct tracee_batch *batch, const ProcessTimers *timers)
{
	arm_interval(batch, ITIMER_REAL, timers->real);
	arm_interval(batch, ITIMER_VIRTUAL, timers->virt);
	arm_interval(batch, ITIMER_PROF, timers->prof);
	for (size_t i = 0; i < timers->n_posix; i++) {
		const PosixTimer *timer = timers->posix[i];
		struct itimerspec setting = {
			.it_interval = { .tv_sec = (time_t)timer->isec, .tv_nsec = (long)timer->insec },
			.it_value = { .tv_sec = (time_t)timer->vsec, .tv_nsec = (long)timer->vnsec },
		};

		if (!timer->vsec && !timer->vnsec)
			setting.it_value = setting.it_interval;
		if (setting.it_value.tv_sec || setting.it_value.tv_nsec)
			tracee_batch_call(batch, SYS_timer_settime, timer->it_id, 0,
					  tracee_batch_data(batch, &setting, sizeof(setting)), 0);
	}
}
