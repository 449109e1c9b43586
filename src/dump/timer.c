/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timers: what is left of the three interval timers, and of the POSIX timers that /proc/PID/timers lists
 * (CONFIG_CHECKPOINT_RESTORE). The list gives what timer_create(2) was told, the process itself what time is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/fdio.h"

#define TIMERS_FILE_MAX (8u << 20)

static const struct {
	const char *name;
	int notify;
} timer_notify_names[] = {
	{ "signal", SIGEV_SIGNAL },
	{ "none", SIGEV_NONE },
	{ "thread", SIGEV_THREAD },
};

/* "signal/pid.123", "signal/tid.123", "none/pid.0": the kernel prints tid for SIGEV_THREAD_ID. */
static void parse_notify(const char *text, struct dump_posix_timer *timer)
{
	const char *slash = strchr(text, '/');

	for (size_t i = 0; i < sizeof(timer_notify_names) / sizeof(timer_notify_names[0]); i++)
		if (strncmp(text, timer_notify_names[i].name, strlen(timer_notify_names[i].name)) == 0)
			timer->notify = timer_notify_names[i].notify;
	if (slash && strncmp(slash + 1, "tid.", 4) == 0) {
		timer->notify |= SIGEV_THREAD_ID;
		(void)sscanf(slash + 5, "%d", &timer->notify_tid);
	}
}

static int parse_timers(char *text, struct dump_timer_query *query)
{
	char *line, *rest;

	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct dump_posix_timer timer = { 0 };
		struct dump_posix_timer *last =
			query->posix.count ? &query->posix.items[query->posix.count - 1] : NULL;

		if (sscanf(line, "ID: %d", &timer.id) == 1) {
			if (array_append(&query->posix, timer) < 0)
				return -ENOMEM;
		} else if (last && strncmp(line, "signal: ", 8) == 0) {
			(void)sscanf(line, "signal: %d/%" SCNx64, &last->signal, &last->value);
		} else if (last && strncmp(line, "notify: ", 8) == 0) {
			parse_notify(line + 8, last);
		} else if (last) {
			(void)sscanf(line, "ClockID: %d", &last->clock);
		}
	}
	return 0;
}

int dump_timer_ask(struct dump_context *ctx, const struct dump_process *process, struct tracee_batch *batch,
		   struct dump_timer_query *query, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	int r;

	query->clocks = tracee_batch_space(batch, 2 * sizeof(struct timespec));
	tracee_batch_call(batch, SYS_clock_gettime, CLOCK_MONOTONIC, query->clocks);
	tracee_batch_call(batch, SYS_clock_gettime, CLOCK_BOOTTIME, query->clocks + sizeof(struct timespec));
	query->interval = tracee_batch_space(batch, 3 * sizeof(struct itimerval));
	for (unsigned which = ITIMER_REAL; which <= ITIMER_PROF; which++)
		tracee_batch_call(batch, SYS_getitimer, which, query->interval + which * sizeof(struct itimerval));

	r = fdio_read_file(process->proc_fd, "timers", TIMERS_FILE_MAX, &text);
	if (r == -ENOENT) {
		dump_blocker_add(ctx, process->pid, "kernel", "the kernel does not list POSIX timers",
				 "use a kernel with CONFIG_CHECKPOINT_RESTORE", "/proc/%d/timers", process->pid);
		return 0;
	}
	if (r == 0)
		r = parse_timers((char *)text.data, query);
	if (r < 0)
		return error_set_errno(error, r, "cannot read /proc/%d/timers", process->pid);
	array_for_each(timer, &query->posix) {
		timer->setting = tracee_batch_space(batch, sizeof(struct itimerspec));
		tracee_batch_call(batch, SYS_timer_gettime, timer->id, timer->setting);
		timer->overrun_call = tracee_batch_try(batch, SYS_timer_getoverrun, timer->id);
	}
	return 0;
}

static IntervalTimer *interval_message(struct dump_arena *arena, const struct itimerval *timer)
{
	IntervalTimer *message = dump_arena_take(arena, sizeof(*message));

	if (!message)
		return NULL;
	*message = (IntervalTimer)INTERVAL_TIMER__INIT;
	message->isec = (uint64_t)timer->it_interval.tv_sec;
	message->iusec = (uint64_t)timer->it_interval.tv_usec;
	message->vsec = (uint64_t)timer->it_value.tv_sec;
	message->vusec = (uint64_t)timer->it_value.tv_usec;
	return message;
}

static void posix_message(const struct tracee_batch *batch, const struct dump_posix_timer *timer, PosixTimer *message)
{
	const struct itimerspec *setting = tracee_batch_output(batch, timer->setting);
	int64_t overrun = tracee_batch_result(batch, timer->overrun_call);

	*message = (PosixTimer)POSIX_TIMER__INIT;
	message->it_id = (uint32_t)timer->id;
	message->clock_id = (uint32_t)timer->clock;
	message->si_signo = (uint32_t)timer->signal;
	message->it_sigev_notify = (uint32_t)timer->notify;
	message->sival_ptr = timer->value;
	message->overrun = overrun > 0 ? (uint32_t)overrun : 0;
	message->isec = (uint64_t)setting->it_interval.tv_sec;
	message->insec = (uint64_t)setting->it_interval.tv_nsec;
	message->vsec = (uint64_t)setting->it_value.tv_sec;
	message->vnsec = (uint64_t)setting->it_value.tv_nsec;
	message->has_notify_thread_id = (timer->notify & SIGEV_THREAD_ID) != 0;
	message->notify_thread_id = timer->notify_tid;
}

int dump_timer_answer(const struct tracee_batch *batch, const struct dump_timer_query *query, struct dump_arena *arena,
		      CoreProcess *message)
{
	const struct itimerval *interval = tracee_batch_output(batch, query->interval);
	const struct timespec *clocks = tracee_batch_output(batch, query->clocks);
	ProcessTimers *timers = dump_arena_take(arena, sizeof(*timers));
	PosixTimer *entries = dump_arena_take(arena, query->posix.count * sizeof(*entries));
	PosixTimer **list = dump_arena_take(arena, query->posix.count * sizeof(*list));

	if (!timers || !entries || !list)
		return -ENOMEM;
	*timers = (ProcessTimers)PROCESS_TIMERS__INIT;
	timers->real = interval_message(arena, &interval[ITIMER_REAL]);
	timers->virt = interval_message(arena, &interval[ITIMER_VIRTUAL]);
	timers->prof = interval_message(arena, &interval[ITIMER_PROF]);
	if (!timers->real || !timers->virt || !timers->prof)
		return -ENOMEM;
	for (size_t i = 0; i < query->posix.count; i++) {
		posix_message(batch, &query->posix.items[i], &entries[i]);
		list[i] = &entries[i];
	}
	timers->posix = list;
	timers->n_posix = query->posix.count;
	timers->has_monotonic = timers->has_boottime = true;
	timers->monotonic = (uint64_t)(clocks[0].tv_sec * CLOCK_S + clocks[0].tv_nsec);
	timers->boottime = (uint64_t)(clocks[1].tv_sec * CLOCK_S + clocks[1].tv_nsec);
	message->timers = timers;
	return 0;
}

void dump_timer_query_deinit(struct dump_timer_query *query)
{
	array_deinit(&query->posix);
}
