/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The watcher: a thread beside the migration that tells the user how far it is, five times a second: as a line on a
 * terminal (util/log.h) and as a file for `migrate status` (progress.h). It reads what the other threads count.
 *
 * It also hears the user who wants to give up when that is not possible any more, and says so. Before the commit that is
 * the business of whoever waits for something (stream_set_cancel(), source_check_cancel()).
 *
 * From the freeze to the answer to COMMIT it keeps still for a moment: the processors are needed for something else.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "progress.h"
#include "source.h"
#include "util/cleanup.h"

#define INTERVAL_MS 200
#define PAGE UINT64_C(4096)
#define REST 2 /* intervals: a freeze that takes longer than this is one that the user wants to know of */
#define SMOOTH 0.3 /* weight of the last interval in the rate */

/* Under the lock. */
static uint64_t count_missing(struct source *source)
{
	uint64_t sum = 0;

	array_for_each(memory, &source->memory)
		sum += pageset_count(&(*memory)->missing);
	return sum;
}

static void take_facts(struct source *source, enum phase phase, struct progress_facts *facts)
{
	struct source_watch *watch = &source->watch;
	int64_t now = clock_now_ns();
	uint64_t sent;
	double rate;

	pthread_mutex_lock(&source->lock);
	facts->phase = phase;
	facts->round = watch->round;
	facts->pages_round = watch->pages_round;
	facts->pages_done = watch->pages_done < watch->pages_round ? watch->pages_done : watch->pages_round;
	facts->dirty_bytes_per_s = watch->dirty_bytes_per_s;
	facts->throttle_percent = watch->throttle_percent;
	facts->downtime_ms = watch->downtime_ms;
	facts->pages_missing = phase == PHASE_POSTCOPY ? count_missing(source) : 0;
	facts->pages_faulted = source->summary->pages_faulted;
	facts->elapsed_ms = (uint64_t)((now - source->started) / CLOCK_MS);
	sent = watch->pages_taken + (phase == PHASE_POSTCOPY ? source->summary->pages_postcopy - facts->pages_missing : 0);
	pthread_mutex_unlock(&source->lock);
	rate = watch->seen_at && sent >= watch->seen ?
		       (double)((sent - watch->seen) * PAGE) * (double)CLOCK_S / (double)(now - watch->seen_at) :
		       0;
	watch->rate = watch->rate > 0 ? watch->rate * (1 - SMOOTH) + rate * SMOOTH : rate;
	facts->rate_bytes_per_s = watch->rate;
	watch->seen = sent;
	watch->seen_at = now;
}

static void show(struct source *source, enum phase phase)
{
	struct progress_facts facts = { 0 };
	char text[PROGRESS_TEXT_MAX];

	if (phase < PHASE_FREEZE || phase > PHASE_COMMIT)
		source->watch.rested = 0;
	else if (source->watch.rested++ < REST)
		return;
	take_facts(source, phase, &facts);
	progress_line(&facts, text);
	if (phase != PHASE_START)
		log_status_draw(source->log, text);
	if (phase >= PHASE_PRECOPY && phase <= PHASE_POSTCOPY)
		progress_write(source->state_fd, source->session, &facts);
}

/* The user has asked, once more, to give up: the reading takes note of it. */
static void refuse(const struct source *source, enum phase phase)
{
	char taken[256]; /* a struct signalfd_siginfo, or an eventfd's number */

	if (read(source->options->cancel_fd, taken, sizeof(taken)) <= 0)
		return;
	if (phase == PHASE_POSTCOPY)
		log_warning(source->log,
			    "PID %d runs on %s already and cannot be taken back; going on: pages that it needs are still here",
			    source->options->pid, source->options->to);
	else if (phase == PHASE_COMMIT || phase == PHASE_DOUBT)
		log_warning(source->log, "PID %d may run on %s already and stays frozen here until that is known; going on",
			    source->options->pid, source->options->to);
}

static void *run(void *data)
{
	struct source *source = data;

	for (;;) {
		enum phase phase = (enum phase)source->watch.phase;
		struct pollfd fds[] = {
			{ .fd = source->watch.stop_fd, .events = POLLIN },
			{ .fd = phase_is_before_commit(phase) ? -1 : source->options->cancel_fd, .events = POLLIN },
		};

		if (poll(fds, 2, INTERVAL_MS) > 0 && fds[0].revents)
			return NULL;
		if (fds[1].revents)
			refuse(source, phase);
		show(source, (enum phase)source->watch.phase);
	}
}

int watch_start(struct source *source, struct error *error)
{
	int r;

	source->watch.stop_fd = eventfd(0, EFD_CLOEXEC);
	if (source->watch.stop_fd < 0)
		return error_set_errno(error, -errno, "cannot make an eventfd");
	r = -pthread_create(&source->watch.thread, NULL, run, source);
	if (r < 0)
		return error_set_errno(error, r, "cannot start a thread");
	source->watch.running = true;
	return 0;
}

void watch_round(struct source *source, uint64_t pages)
{
	pthread_mutex_lock(&source->lock);
	source->watch.round = source->round;
	source->watch.pages_round = pages;
	source->watch.pages_done = 0;
	pthread_mutex_unlock(&source->lock);
}

void watch_estimate(struct source *source, const struct estimate *estimate)
{
	pthread_mutex_lock(&source->lock);
	source->watch.dirty_bytes_per_s = estimate->dirty_per_ns * (double)PAGE * 1e9;
	source->watch.throttle_percent = estimate->throttle;
	source->watch.downtime_ms = estimate_downtime_ns(estimate) / (double)CLOCK_MS;
	pthread_mutex_unlock(&source->lock);
}

void watch_stop(struct source *source)
{
	if (source->watch.running) {
		eventfd_write(source->watch.stop_fd, 1);
		pthread_join(source->watch.thread, NULL);
		log_status_hold(source->log, true);
		progress_remove(source->state_fd, source->session);
	}
	source->watch.running = false;
	cleanup_fd(&source->watch.stop_fd);
}
