/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pre-copy rounds, and when to end them. A round: what the tree looks like now goes to the target, which lays it out;
 * then the pages written since the last round, while the process runs; then the target says that it has them all.
 *
 * Rounds end when what is dirty fits into the downtime limit at the measured speed, or when more rounds do not make it
 * less: then, in hybrid mode, the rest comes on demand; in precopy mode the tree is slowed down step by step (throttle.h)
 * until it fits, and stays slowed until it is stopped. If that does not help either, the migration is given up.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "source.h"
#include "util/stop-point.h"

#define PAGE UINT64_C(4096)
#define OBJECT_PAGES_FEW 64 /* changed since the last round: not worth another one */
#define NS_TO_MIB ((double)PAGE * 1e9 / 1048576) /* pages a nanosecond into MiB a second */
#define NEEDED_MARGIN 1.5                       /* a limit that is met in spite of what varies */

/* Children that the target makes now are copies of their parents there: they hold what those hold. */
static int inherit(struct source *source, unsigned depth, struct error *error)
{
	if (!source->destination->shares_pages)
		return 0;
	array_for_each(place, &source->memory) {
		struct source_memory *memory = *place;
		struct source_memory *parent = memory_of_parent(source, memory);

		if (memory->track || !parent || memory->depth > depth || memory->held.chunks.count)
			continue;
		if (pageset_copy(&memory->held, &parent->held) < 0)
			return error_set(error, -ENOMEM, "out of memory");
		memory->inherits = memory->held.chunks.count > 0;
	}
	return 0;
}

static int lay_out(struct source *source, unsigned depth, struct error *error)
{
	int64_t deadline = clock_deadline(SOURCE_ANSWER_NS);
	int r;

	r = source_look(source, dump_layout, error);
	if (r == 0)
		r = memory_refresh(source, error);
	if (r == 0)
		r = inherit(source, depth, error);
	if (r == 0)
		r = source->destination->images(source, false, depth, deadline, error);
	if (r == 0)
		r = source->destination->laid_out(source, deadline, error);
	return r;
}

/* A track is begun by system calls inside of the process, which has to run for that; so has one that is stopped for a scan. */
static int scan(struct source *source, unsigned depth, struct source_jobs *jobs, struct error *error)
{
	bool begins = false;
	int r;

	array_for_each(memory, &source->memory) {
		const struct dump_process *process = dump_context_find(source->dump, (*memory)->pid);

		begins |= (*memory)->depth <= depth && (!(*memory)->track || (process && process->reads_direct));
	}
	if (begins)
		throttle_hold(source->throttle);
	r = memory_scan(source, depth, false, jobs, NULL, error);
	if (begins)
		throttle_release(source->throttle);
	return r;
}

/* What is rejected counts as not held and not sent: it goes out again with its content. */
static int send_round(struct source *source, const struct source_jobs *jobs, struct error *error)
{
	const struct destination_operations *destination = source->destination;
	struct source_jobs rejected = { 0 };
	int r = pages_send(source, jobs, destination->takes_hashes, CLOCK_FOREVER, error);

	while (r == 0) {
		r = destination->round_end(source, CLOCK_FOREVER, error);
		array_clear(&rejected.list);
		rejected.pages = 0;
		if (r == 0)
			r = destination->round_done(source, &rejected, clock_deadline(stop_point_wait(SOURCE_ROUND_NS)), error);
		if (r < 0 || !rejected.list.count)
			break;
		source->summary->pages_deduplicated -= rejected.pages;
		r = pages_send(source, &rejected, false, clock_deadline(SOURCE_ANSWER_NS), error);
	}
	array_deinit(&rejected.list);
	return r;
}

static void report_round(const struct source *source, const struct estimate *estimate)
{
	char slowed[64] = "";

	if (source->options->json || (source->log->status && source->log->level < LOG_DEBUG))
		return;
	if (estimate->throttle)
		snprintf(slowed, sizeof(slowed), "; slowed by %u%%", estimate->throttle);
	log_info(source->log, "round %u: %llu pages in %.1f ms, %.0f MiB/s; written meanwhile %.1f MiB/s%s", source->round,
		 (unsigned long long)estimate->pages, (double)estimate->send_ns / 1e6, estimate->pages_per_ns * NS_TO_MIB,
		 estimate->dirty_per_ns * NS_TO_MIB, slowed);
}

/*
 * With `estimate` NULL few pages of processes are sent: the target builds the processes ahead, and gets what cannot come on
 * demand, which are shared objects and what processes share copy-on-write.
 */
static int one_round(struct source *source, unsigned depth, struct estimate *estimate, uint64_t *ret_pages,
		     struct error *error)
{
	struct source_jobs jobs = { 0 };
	struct estimate_times times = { 0 };
	int64_t began, laid_out, scanned;
	int r;

	source->round++;
	stop_point("round %u", source->round);
	source->summary->rounds += estimate != NULL;
	began = clock_now_ns();
	r = source_check_cancel(source, error);
	if (r == 0)
		r = lay_out(source, depth, error);
	if (r == 0 && source->throttle)
		r = source_fill_freezer(source, error);
	laid_out = clock_now_ns();
	times.layout = laid_out - began;
	times.since = source->scanned_at ? laid_out - source->scanned_at : 0;
	source->scanned_at = laid_out;
	if (r == 0)
		r = scan(source, depth, &jobs, error);
	if (r == 0)
		r = objects_scan(source, false, &jobs, error);
	scanned = clock_now_ns();
	if (r == 0)
		watch_round(source, jobs.pages);
	if (r == 0)
		r = send_round(source, &jobs, error);
	if (r == 0 && estimate) {
		times.scan = scanned - laid_out;
		times.send = clock_now_ns() - scanned;
		estimate_round(estimate, jobs.pages, &times);
		report_round(source, estimate);
		watch_estimate(source, estimate);
	}
	if (r == 0)
		*ret_pages = jobs.pages;
	array_deinit(&jobs.list);
	return r;
}

static unsigned tree_depth(const struct source *source)
{
	unsigned depth = 0;

	array_for_each(memory, &source->memory)
		if ((*memory)->depth > depth)
			depth = (*memory)->depth;
	return depth;
}

/*
 * What is shared is sent before the switch in every mode: rounds until what changes meanwhile does not get less. A level of
 * the tree a round at first, so that children are made from parents that have those pages.
 */
static int postcopy_ahead(struct source *source, struct error *error)
{
	uint64_t pages = UINT64_MAX, last;
	unsigned depth = 0;
	int r;

	do {
		last = pages;
		r = one_round(source, depth++, NULL, &pages, error);
	} while (r == 0 && (depth <= tree_depth(source) || (pages > OBJECT_PAGES_FEW && pages < last / 2)));
	return r;
}

static int slow_down(struct source *source, unsigned percent, struct error *error)
{
	int r;

	source->summary->throttle_percent = percent;
	log_debug(source->log, "the tree stands still for %u%% of the time", percent);
	if (source->throttle) {
		throttle_set(source->throttle, percent);
		return 0;
	}
	r = source_fill_freezer(source, error);
	return r < 0 ? r : throttle_start(source->freezer, percent, &source->throttle, error);
}

static int give_up(const struct source *source, const struct estimate *estimate, struct error *error)
{
	double needed = estimate_downtime_ns(estimate) * NEEDED_MARGIN / (double)CLOCK_MS;

	return error_set(error, -ETIME,
			 "PID %d writes %.1f MiB/s or more (%.1f when it stands still for %u%% of the time) and the link "
			 "carries %.1f: it cannot be moved with a pause of at most %.0f ms; use --mode hybrid, or "
			 "--downtime-limit %.0f or more",
			 source->options->pid, estimate->free_per_ns * NS_TO_MIB, estimate->dirty_per_ns * NS_TO_MIB,
			 estimate->throttle, estimate->pages_per_ns * NS_TO_MIB,
			 (double)estimate->ceiling_ns / (double)CLOCK_MS, needed + 0.5);
}

int round_once(struct source *source, struct error *error)
{
	struct estimate estimate = { .hybrid = true };
	uint64_t pages;

	return one_round(source, UINT32_MAX, source->options->mode == MIGRATE_POSTCOPY ? NULL : &estimate, &pages, error);
}

int round_precopy(struct source *source, struct error *error)
{
	struct estimate estimate = { .limit_ns = source->options->downtime_limit_ns,
				     .ceiling_ns = source->options->downtime_most_ns,
				     .hybrid = source->options->mode == MIGRATE_HYBRID };
	enum estimate_next next = ESTIMATE_ROUND;
	unsigned depth = source->destination->shares_pages ? 0 : UINT32_MAX;
	uint64_t pages;
	int r;

	if (source->options->mode == MIGRATE_POSTCOPY)
		return postcopy_ahead(source, error);
	while (next == ESTIMATE_ROUND || next == ESTIMATE_SLOWER) {
		r = one_round(source, depth, &estimate, &pages, error);
		if (r < 0)
			return r;
		/* A level of the tree a round at first, so that children are made from parents that have their pages. */
		if (source->destination->shares_pages && ++depth <= tree_depth(source))
			continue;
		next = estimate_next(&estimate);
		r = next == ESTIMATE_SLOWER ? slow_down(source, estimate.throttle, error) : 0;
		if (r < 0)
			return r;
	}
	source->pages_per_ns = estimate.pages_per_ns;
	source->summary->link_bytes_per_s = estimate.pages_per_ns * (double)PAGE * 1e9;
	source->summary->dirty_bytes_per_s = estimate.dirty_per_ns * (double)PAGE * 1e9;
	return next == ESTIMATE_NEVER ? give_up(source, &estimate, error) : 0;
}
