/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The freeze and the hand-over: all that happens while nobody runs.
 *
 *   stop the tree; collect its state; send it; while the target lays it out, look for the last dirty pages
 *   send those that cannot wait, name the others; the target answers PREPARED
 *   let the freezer hold the tree, write the journal, send COMMIT; the target answers RUNNING
 *
 * Every failure is returned: up to PHASE_HELD the caller rolls back, from PHASE_COMMIT on it is in doubt.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image/ring-pages.h"
#include "image/thread-pages.h"
#include "mm.pb-c.h"
#include "source.h"
#include "util/cleanup.h"
#include "util/stop-point.h"

#define PAGE UINT64_C(4096)
#define SETTLE_NS (100 * CLOCK_MS) /* for handshakes that are under way, and the program to accept */
#define LOOK_NS (20 * CLOCK_MS)
#define TRIES_MAX 20u
#define RETRY_NS 1000000 /* times 1 to 20: not in step with what the tree does */

static int read_stopped(void *context, uint64_t address, void *data, size_t size)
{
	return tracee_process_read(context, address, data, size, NULL);
}

static int note_threads(struct source *source, struct pageset *urgent, struct tracee_process *process, struct error *error)
{
	array_for_each(thread, &process->threads) {
		const struct image_record *record = image_set_find(source->images, IMAGE_CORE, (uint32_t)(*thread)->tid);
		_cleanup_message_ Core *core = NULL;
		int r = record ? image_unpack(record, core, &core, error) : 0;

		if (r < 0)
			return r;
		if (record && image_thread_pages(core, read_stopped, process, urgent) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	return image_ring_pages(source->images, process->pid, urgent, error);
}

/* Pages that cannot come later: of all that have that memory. */
static int note_urgent(struct source *source, struct pageset *urgent, pid_t owner, struct error *error)
{
	const struct dump_process *process = dump_context_find(source->dump, owner);
	int r = 0;

	for (; r == 0 && process; process = dump_process_next_sharer(source->dump, process)) {
		struct tracee_process *tracee = tracee_tree_find(source->stopped, process->pid);

		if (tracee)
			r = note_threads(source, urgent, tracee, error);
	}
	return r;
}

/* Whether pages of the mapping may come after the switch; it ends at `ret_end`. */
static bool may_be_late(const AddressSpace *mm, uint64_t address, uint64_t *ret_end)
{
	*ret_end = UINT64_MAX;
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const Mapping *mapping = mm->vmas[i];

		if (address < mapping->start || address >= mapping->end)
			continue;
		*ret_end = mapping->end;
		return image_mapping_may_be_late(mapping);
	}
	return false;
}

struct split {
	struct source *source;
	struct source_jobs now;
	struct source_jobs late;
	uint64_t budget; /* pages that may still be sent now though they could be late */
};

static int split_part(struct split *split, bool is_lazy, struct pageset *urgent, const struct source_job *job)
{
	uint64_t first = 0;
	bool late_run = false;

	if (job->zero || !is_lazy || split->budget >= job->pages) {
		if (!job->zero && is_lazy)
			split->budget -= job->pages;
		split->now.pages += job->pages;
		return array_append(&split->now.list, *job);
	}
	for (uint64_t i = 0; i <= job->pages; i++) {
		bool late = i < job->pages && !pageset_has(urgent, job->address / PAGE + i);
		struct source_job part = *job;

		if (i && i < job->pages && late == late_run)
			continue;
		if (i > first || (i == job->pages && i)) {
			struct source_jobs *jobs = late_run ? &split->late : &split->now;

			part.address += first * PAGE;
			part.pages = i - first;
			if (part.pages && array_append(&jobs->list, part) < 0)
				return -ENOMEM;
			jobs->pages += part.pages;
		}
		first = i;
		late_run = late;
	}
	return 0;
}

/* A run of pages may go over from one mapping into another. */
static int split_job(struct split *split, const AddressSpace *mm, struct pageset *urgent, const struct source_job *job)
{
	uint64_t end = job->address + job->pages * PAGE, stop;
	struct source_job part = *job;
	int r = 0;

	if (!job->pid || !mm)
		return split_part(split, false, urgent, job);
	for (; r == 0 && part.address < end; part.address += part.pages * PAGE) {
		bool late = may_be_late(mm, part.address, &stop);

		part.pages = ((stop < end ? stop : end) - part.address) / PAGE;
		r = split_part(split, late, urgent, &part);
	}
	return r;
}

static uint64_t budget_pages(const struct source *source, uint64_t dirty)
{
	double fit;

	if (source->options->mode == MIGRATE_PRECOPY || !source->destination->takes_late)
		return UINT64_MAX;
	if (source->options->mode == MIGRATE_POSTCOPY)
		return 0;
	fit = source->pages_per_ns * (double)source->options->downtime_limit_ns / 2;
	return (double)dirty <= fit ? UINT64_MAX : (uint64_t)(fit / 2);
}

static int split_jobs(struct split *split, const struct source_jobs *jobs, struct error *error)
{
	struct source *source = split->source;
	int r = 0;

	split->budget = budget_pages(source, jobs->pages);
	for (size_t i = 0; r == 0 && i < jobs->list.count;) {
		pid_t pid = jobs->list.items[i].pid;
		const struct image_record *record = image_set_find(source->images, IMAGE_MM, (uint32_t)pid);
		_cleanup_message_ AddressSpace *mm = NULL;
		struct pageset urgent = { 0 };

		if (pid && record)
			r = image_unpack(record, address_space, &mm, error);
		if (r == 0 && pid && split->budget < jobs->pages)
			r = note_urgent(source, &urgent, pid, error);
		for (; r == 0 && i < jobs->list.count && jobs->list.items[i].pid == pid; i++)
			r = split_job(split, mm, &urgent, &jobs->list.items[i]);
		pageset_deinit(&urgent);
	}
	return r < 0 ? error_set_errno(error, r, "cannot sort the last pages") : 0;
}

/* The set of what has to be served later. */
static int note_missing(struct source *source, const struct source_jobs *late, struct error *error)
{
	array_for_each(job, &late->list) {
		struct source_memory *memory = memory_find(source, job->pid);

		if (!memory || pageset_add(&memory->missing, job->address / PAGE, job->pages) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	source->summary->pages_postcopy = late->pages;
	return 0;
}

static int collect(struct source *source, int64_t deadline, struct error *error)
{
	const struct tracee_options options = { .traces = source->traces, .hints = source->hints };
	int r;

	source->frozen_bytes = source->destination->bytes(source);
	source->frozen_at = clock_now_ns();
	r = tracee_tree_stop(source->options->pid, &options, clock_deadline(SOURCE_STOP_NS), &source->stopped, error);
	if (r < 0)
		return r;
	log_debug(source->log, "stopped after %.3f ms", (double)(clock_now_ns() - source->frozen_at) / 1e6);
	stop_point("stopped");
	image_set_free(source->images);
	source->images = NULL;
	r = image_set_new(&source->images);
	source->dump->deadline = deadline;
	if (r == 0)
		r = dump_frozen(source->dump, source->stopped, source->images, error);
	log_debug(source->log, "state after %.3f ms", (double)(clock_now_ns() - source->frozen_at) / 1e6);
	return r;
}

/*
 * The tree was stopped in the middle of something: with a child that has just ended, or about to be asked for its status. A
 * moment later that has passed. The tree runs on meanwhile, and what it writes goes in another round.
 */
static int let_go_again(struct source *source, unsigned tries, const struct error *why, struct error *error)
{
	const struct timespec pause = { .tv_nsec = RETRY_NS * (1 + tries * 7 % 20) };
	int r;

	log_debug(source->log, "stopped at a bad moment (%s): another try", why->message);
	dump_accept_queue_put_back(source->dump);
	tracee_tree_release(source->stopped);
	source->stopped = NULL;
	source_enter(source, PHASE_PRECOPY);
	/* A tree that runs with its connections held up would lose them. */
	r = lock_open(source, error);
	if (r < 0)
		return r;
	nanosleep(&pause, NULL);
	r = lock_prepare(source, error);
	return r < 0 ? r : round_once(source, error);
}

static bool is_passing(const struct source *source, int r)
{
	return r == -ESRCH || (r == -EBUSY && !image_blockers_empty(&source->dump->blockers));
}

static int settle_vforks(struct source *source, int64_t deadline, struct error *error)
{
	pid_t pid = dump_vfork_settle(source->dump, deadline);

	return !pid ? 0 : error_set(error, -EBUSY, "PID %d cannot be stopped: %s; %s", pid,
				    image_kind_get(IMAGE_KIND_VFORK).cause, image_kind_get(IMAGE_KIND_VFORK).remedy);
}

/* What the tree has to do by itself before it can be stopped. */
static int settle(struct source *source, struct error *error)
{
	int r = settle_vforks(source, clock_deadline(DUMP_VFORK_NS), error);

	return r < 0 ? r : dump_listeners_settle(source->dump, clock_deadline(SETTLE_NS), error);
}

/* The tree runs again: has it not stopped for a vfork(2) that began after the last look? */
static int explain_timeout(struct source *source, struct error *error)
{
	struct error why = ERROR_INIT;

	if (source_look(source, dump_layout, NULL) < 0 || settle_vforks(source, 0, &why) == 0)
		return -ETIMEDOUT;
	*error = why;
	return -EBUSY;
}

static int collect_patiently(struct source *source, int64_t *ret_deadline, struct error *error)
{
	struct error why = ERROR_INIT;
	int r;

	for (unsigned tries = 1;; tries++) {
		r = source_fill_freezer(source, &why);
		if (r == 0)
			r = source_check_cancel(source, &why);
		if (r < 0)
			break;
		r = settle(source, &why);
		if (r < 0)
			break;
		*ret_deadline = clock_deadline(SOURCE_HANDOVER_NS);
		source_enter(source, PHASE_FREEZE);
		r = collect(source, *ret_deadline, &why);
		if (r == 0 || tries == TRIES_MAX || !is_passing(source, r))
			break;
		r = let_go_again(source, tries, &why, error);
		if (r < 0)
			return r;
		error_clear(&why);
	}
	if (r == -ETIMEDOUT && !source->stopped)
		r = explain_timeout(source, &why);
	if (r < 0)
		*error = why;
	if (r == -EBUSY)
		image_blockers_log(&source->dump->blockers, source->log);
	return r;
}

static void inherit_late(struct source *source)
{
	if (!source->destination->shares_pages)
		return;
	array_for_each(place, &source->memory) {
		struct source_memory *memory = *place;
		struct source_memory *parent = memory_of_parent(source, memory);

		if (memory->track || !parent || memory->held.chunks.count)
			continue;
		if (pageset_copy(&memory->held, &parent->held) == 0)
			memory->inherits = memory->held.chunks.count > 0;
	}
}

static int send_state(struct source *source, struct split *split, int64_t deadline, struct error *error)
{
	const struct destination_operations *destination = source->destination;
	struct source_jobs jobs = { 0 }, drops = { 0 };
	int r;

	source->round++;
	r = destination->images(source, true, UINT32_MAX, deadline, error);
	if (r == 0)
		r = memory_refresh(source, error);
	if (r == 0) {
		inherit_late(source);
		r = memory_scan(source, UINT32_MAX, true, &jobs, &drops, error);
	}
	if (r == 0)
		r = objects_scan(source, true, &jobs, error);
	if (r == 0)
		r = split_jobs(split, &jobs, error);
	log_debug(source->log, "last pages after %.3f ms: %llu now, %llu later",
		  (double)(clock_now_ns() - source->frozen_at) / 1e6, (unsigned long long)split->now.pages,
		  (unsigned long long)split->late.pages);
	if (r == 0)
		r = destination->laid_out(source, deadline, error);
	/* From here on both sides keep quiet: the address can move. */
	if (r == 0)
		r = hook_run(source, "post-freeze", error);
	if (r == 0)
		r = destination->drop(source, &drops, deadline, error);
	if (r == 0)
		r = pages_send(source, &split->now, false, deadline, error);
	if (r == 0)
		r = destination->round_end(source, deadline, error);
	array_deinit(&jobs.list);
	array_deinit(&drops.list);
	return r;
}

static int hand_over(struct source *source, int64_t deadline, struct error *error)
{
	const struct destination_operations *destination = source->destination;
	struct split split = { .source = source };
	struct source_jobs rejected = { 0 }; /* none: no hashes are sent here */
	int r;

	r = send_state(source, &split, deadline, error);
	if (r == 0)
		r = destination->prepare(source, &split.late, deadline, error);
	if (r == 0)
		r = note_missing(source, &split.late, error);
	if (r == 0)
		r = destination->round_done(source, &rejected, deadline, error);
	if (r == 0)
		r = destination->prepared(source, deadline, error);
	array_deinit(&rejected.list);
	array_deinit(&split.now.list);
	array_deinit(&split.late.list);
	log_debug(source->log, "prepared after %.3f ms", (double)(clock_now_ns() - source->frozen_at) / 1e6);
	return r;
}

/*
 * Nothing is due from the target now: what is there to be read is its FAILURE or the end of the connection. Found now, it is
 * no doubt.
 */
static int check_target(struct source *source, struct error *error)
{
	struct pollfd look = { .fd = stream_fd(source->control), .events = POLLIN };
	int r;

	if (!stream_pending(source->control) && poll(&look, 1, 0) <= 0)
		return 0;
	r = wire_expect(source->control, &wire_table_client, WIRE_FAILURE, NULL, NULL, clock_deadline(LOOK_NS), error);
	if (r == -ETIMEDOUT) {
		error_clear(error);
		r = 0;
	}
	return r;
}

/* As long as the phase is HELD, a failure is a rollback, and our death too. In COMMIT it is doubt. */
static int commit(struct source *source, struct error *error)
{
	int64_t deadline;
	int r;

	r = lock_send_held(source, clock_deadline(SOURCE_RUNNING_NS), error);
	if (r == 0)
		r = source_journal(source, JOURNAL_COMMITTED, error);
	stop_point("commit-journal");
	if (r == 0)
		r = check_target(source, error);
	if (r < 0)
		return r;
	stream_set_cancel(source->control, -1);
	source_enter(source, PHASE_COMMIT);
	deadline = clock_deadline(stop_point_wait(SOURCE_RUNNING_NS));
	r = wire_send(source->control, WIRE_COMMIT, NULL, deadline, error);
	stop_point("commit-sent");
	if (r == 0)
		r = wire_expect(source->control, &wire_table_client, WIRE_RUNNING, NULL, NULL, deadline, error);
	if (r < 0)
		return r;
	stop_point("running-read");
	source->summary->downtime_ms = (double)(clock_now_ns() - source->frozen_at) / 1e6;
	source->summary->bytes_frozen = source_bytes_sent(source) - source->frozen_bytes;
	return 0;
}

int freeze_prepare(struct source *source, struct error *error)
{
	int64_t deadline;
	int r;

	r = source_fill_freezer(source, error); /* milliseconds, which the hook shall not wait for */
	if (r == 0)
		r = hook_run(source, "pre-freeze", error);
	if (r == 0)
		r = throttle_stop(steal_ptr(&source->throttle), error);
	if (r == 0)
		r = collect_patiently(source, &deadline, error);
	if (r < 0)
		return r;
	source_enter(source, PHASE_HANDOVER);
	return hand_over(source, deadline, error);
}

int freeze_hold(struct source *source, struct error *error)
{
	int r = freezer_freeze(source->freezer, true, clock_deadline(SOURCE_HANDOVER_NS), error);

	if (r < 0)
		return r;
	source_enter(source, PHASE_HELD);
	return source_check_cancel(source, error); /* the last moment at which that is possible */
}

int freeze_and_hand_over(struct source *source, struct error *error)
{
	int r = freeze_prepare(source, error);

	if (r == 0)
		r = freeze_hold(source, error);
	return r < 0 ? r : commit(source, error);
}
