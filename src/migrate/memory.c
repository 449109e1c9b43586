/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of the tree: which pages were written since the last look, and which the target holds.
 *
 * Each address space has a track (track.h) and the set of pages that the target has content for ("held"); of processes that
 * share one (CLONE_VM), the first stands for all. A scan turns written
 * pages into jobs; at the freeze, held pages that have no content any more become drops. A child that the target makes
 * as a copy of its parent starts with what its parent's copy held: its pages that are the very same ones as its parent's
 * (same frame, not written since the parent's last scan) are not sent, and stay shared there.
 *
 * A page that comes on demand cannot be shared any more. So even in mode postcopy, pages that processes share are sent
 * ahead, and only those: the others are left unprotected, which makes them "written" at the freeze.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "image/mapping.h"
#include "mm.pb-c.h"
#include "source.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGE UINT64_C(4096)
#define PM_FRAME ((UINT64_C(1) << 55) - 1)
#define PM_PRESENT (UINT64_C(1) << 63)
#define MOMENT_NS (500 * CLOCK_MS)
#define SPARE_THREADS 4
#define BATCH_USUAL   (32u << 10) /* bytes; of a thread at the freeze */
#define PATIENCE_NS (500 * CLOCK_MS) /* for threads in the kernel: nobody is stopped yet */

struct source_memory *memory_find(struct source *source, pid_t pid)
{
	return pidmap_get(&source->memory_by_pid, (uint32_t)pid);
}

struct source_memory *memory_of_parent(struct source *source, const struct source_memory *memory)
{
	const struct dump_process *process = dump_context_find(source->dump, memory->pid);
	struct dump_process *parent = process && !process->fresh ? dump_context_find(source->dump, process->stat.ppid) : NULL;

	return parent ? memory_find(source, dump_process_owner(source->dump, parent)->pid) : NULL;
}

bool memory_is_gone(pid_t pid)
{
	struct procfs_stat stat;

	return procfs_read_stat(pid, &stat, NULL) < 0 || (stat.state == 'Z' && stat.threads <= 1) || stat.state == 'X';
}

static void memory_free_one(struct source_memory *memory)
{
	track_stop(memory->track);
	cleanup_fd(&memory->mem_fd);
	cleanup_fd(&memory->map_fd);
	pageset_deinit(&memory->held);
	pageset_deinit(&memory->fresh);
	pageset_deinit(&memory->missing);
	backings_deinit(&memory->laid_out);
	free(memory);
}

void memory_free(struct source *source)
{
	array_for_each(memory, &source->memory)
		memory_free_one(*memory);
	array_deinit(&source->memory);
	pidmap_deinit(&source->memory_by_pid);
	image_tree_deinit(&source->tree);
	objects_free(source->objects);
	source->objects = NULL;
}

void memory_stop_tracking(struct source *source)
{
	array_for_each(memory, &source->memory) {
		track_stop((*memory)->track);
		(*memory)->track = NULL;
	}
}

/*
 * Begins to track a stopped process. Its remote area stays until the freeze, so it gets room for all threads, and for some that
 * may come. That it cannot be made as large is no failure.
 */
static int track_stopped(struct source *source, struct source_memory *memory, struct tracee_process *process,
			 struct error *error)
{
	const struct dump_process *known = dump_context_find(source->dump, memory->pid);
	size_t threads = known ? known->threads.count : 1;
	struct error ignored = ERROR_INIT;

	(void)tracee_process_reserve_area(process, threads + threads / 8 + SPARE_THREADS, BATCH_USUAL,
					  clock_deadline(SOURCE_STOP_NS), &ignored);
	return track_start(process, source->track_kind, &memory->track, error);
}

static int start_track(struct source *source, struct source_memory *memory, struct error *error)
{
	const struct tracee_options options = { .traces = source->traces, .hints = source->hints, .keep_areas = true };
	struct tracee_process *process;
	int r;

	if (source->stopped) {
		process = tracee_tree_find(source->stopped, memory->pid);
		if (!process)
			return error_set(error, -ESRCH, "PID %d is gone", memory->pid);
		return track_start(process, source->track_kind, &memory->track, error);
	}
	r = tracee_process_stop(memory->pid, &options, clock_deadline(SOURCE_STOP_NS), &process, error);
	if (r < 0)
		return r;
	r = track_stopped(source, memory, process, error);
	tracee_process_release(process);
	if (r != -EBADF)
		return r;
	/* A thread that ran on has closed our descriptor in there, as one does that closes all it finds: nobody runs now. */
	error_clear(error);
	r = tracee_process_stop_all(memory->pid, &options, clock_deadline(SOURCE_STOP_NS), &process, error);
	if (r < 0)
		return r;
	r = track_stopped(source, memory, process, error);
	tracee_process_release(process);
	return r;
}

static int open_pagemap(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", procfs_live_thread(pid));
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Of the address space that the process has now: execve(2) gives it another one. */
static int open_files(struct source_memory *memory, struct error *error)
{
	char path[64];

	close_fd(&memory->mem_fd);
	close_fd(&memory->map_fd);
	snprintf(path, sizeof(path), "/proc/%d/mem", procfs_live_thread(memory->pid));
	memory->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (memory->mem_fd >= 0)
		memory->map_fd = open_pagemap(memory->pid);
	if (memory->mem_fd < 0 || memory->map_fd < 0)
		return error_set_errno(error, errno == ENOENT ? -ESRCH : -errno, "cannot open %s", path);
	return 0;
}

/* What is held stays known: what of it the new address space has not is dropped at the freeze. */
static void close_files(struct source_memory *memory)
{
	track_stop(steal_ptr(&memory->track));
	close_fd(&memory->mem_fd);
	close_fd(&memory->map_fd);
}

static int add(struct source *source, const struct dump_process *process, struct error *error)
{
	struct source_memory *memory = calloc(1, sizeof(*memory));

	if (!memory || array_append(&source->memory, memory) < 0) {
		free(memory);
		return error_set(error, -ENOMEM, "out of memory");
	}
	if (pidmap_put(&source->memory_by_pid, (uint32_t)process->pid, memory) < 0) {
		source->memory.count--;
		free(memory);
		return error_set(error, -ENOMEM, "out of memory");
	}
	memory->pid = process->pid;
	memory->mem_fd = memory->map_fd = -1;
	return 0;
}

/*
 * Processes that the target makes anew, as they have come to another parent, say, have nothing there. Where no tree is built
 * meanwhile (shares_pages) nothing is lost.
 */
static int forget_made_anew(struct source *source, struct error *error)
{
	const struct image_tree *now = &source->dump->tree;
	_cleanup_free_ bool *keep = calloc(now->processes.count + 1, sizeof(*keep));

	if (!keep)
		return error_set(error, -ENOMEM, "out of memory");
	image_tree_compare(&source->tree, now, keep);
	for (size_t i = 0; i < now->processes.count && source->destination->shares_pages; i++) {
		struct source_memory *memory = keep[i] ? NULL : memory_find(source, now->processes.items[i].pid);

		if (memory)
			memory->seen = false;
	}
	return image_tree_copy(now, &source->tree) < 0 ? error_set(error, -ENOMEM, "out of memory") : 0;
}

/* The table has room for those that were in it. */
static void free_unseen(struct source *source)
{
	size_t kept = 0;

	pidmap_clear(&source->memory_by_pid);
	for (size_t i = 0; i < source->memory.count; i++) {
		struct source_memory *memory = source->memory.items[i];

		if (memory->seen) {
			source->memory.items[kept++] = memory;
			(void)pidmap_put(&source->memory_by_pid, (uint32_t)memory->pid, memory);
		} else {
			memory_free_one(memory);
		}
	}
	source->memory.count = kept;
}

/* Keeps the list in step with the dump context's: ended processes go, new ones come. */
int memory_refresh(struct source *source, struct error *error)
{
	int r;

	array_for_each(memory, &source->memory) {
		struct dump_process *process = dump_context_find(source->dump, (*memory)->pid);

		(*memory)->seen = process && dump_process_owner(source->dump, process) == process;
	}
	r = forget_made_anew(source, error);
	free_unseen(source);
	tracee_hints_prune(source->hints);
	array_for_each(process, &source->dump->processes) {
		struct source_memory *memory = memory_find(source, (*process)->pid);

		if (dump_process_owner(source->dump, *process) != *process)
			continue;
		if (!memory && r == 0) {
			r = add(source, *process, error);
			memory = memory_find(source, (*process)->pid);
		}
		if (memory)
			memory->depth = (*process)->level;
	}
	array_for_each(memory, &source->memory)
		(*memory)->may_share = source->memory.count > 1;
	return r;
}

static int add_job(struct source_jobs *jobs, struct source_job job)
{
	if (array_append(&jobs->list, job) < 0)
		return -ENOMEM;
	jobs->pages += job.zero ? 0 : job.pages;
	return 0;
}

/*
 * Splits a run of an inheriting child into pages that its copy on the target has already and pages that have to be sent:
 * the latter become jobs.
 */
static int add_unshared(struct source *source, struct source_memory *memory, struct source_memory *parent,
			const struct track_run *run, struct source_jobs *jobs)
{
	uint64_t own[512], other[512], at = run->start, end = run->start + run->pages * PAGE;

	while (at < end) {
		uint64_t n = (end - at) / PAGE < 512 ? (end - at) / PAGE : 512;
		uint64_t first = 0;

		if (fdio_pread(memory->map_fd, own, n * 8, at / PAGE * 8) != (ssize_t)(n * 8) ||
		    fdio_pread(parent->map_fd, other, n * 8, at / PAGE * 8) != (ssize_t)(n * 8))
			return -ESRCH; /* it has ended: a page map without an address space is empty */
		for (uint64_t i = 0; i <= n; i++) {
			uint64_t page = at / PAGE + i;
			bool same = i < n && own[i] & PM_PRESENT && other[i] & PM_PRESENT && own[i] & PM_FRAME &&
				    (own[i] & PM_FRAME) == (other[i] & PM_FRAME) && pageset_has(&memory->held, page) &&
				    !pageset_has(&parent->fresh, page);

			if (i < n && !same)
				continue;
			if (i > first && add_job(jobs, (struct source_job){ .pid = memory->pid, .address = at + first * PAGE,
									     .pages = i - first }) < 0)
				return -ENOMEM;
			if (same)
				source->summary->pages_deduplicated++;
			first = i + 1;
		}
		at += n * PAGE;
	}
	return 0;
}

#define PAGEMAP_CHUNK 512

struct scan {
	struct source *source;
	struct source_memory *memory;
	struct source_memory *parent; /* set when the child inherits */
	const struct backings *backings; /* at this scan */
	bool frozen;
	bool shared_only; /* pages that the process has for itself stay as they are, unprotected */
	struct source_jobs *jobs;
	struct source_jobs *drops; /* frozen only */
};

/* The parts of a range that the target holds become drops. */
static int drop_held(struct scan *scan, uint64_t address, uint64_t pages)
{
	uint64_t page = address / PAGE, end = page + pages, found, n;

	while ((n = pageset_next(&scan->memory->held, page, end - page, &found)) && found < end) {
		if (n > end - found)
			n = end - found;
		if (add_job(scan->drops, (struct source_job){ .pid = scan->memory->pid, .address = found * PAGE,
							       .pages = n }) < 0)
			return -ENOMEM;
		pageset_remove(&scan->memory->held, found, n);
		page = found + n;
		if (page >= end)
			break;
	}
	return 0;
}

static int take_run(struct scan *scan, uint32_t status, const struct track_run *run)
{
	struct source_job job = { .pid = scan->memory->pid, .address = run->start, .pages = run->pages };
	bool file = status & MAPPING_FILE_PRIVATE && run->flags & TRACK_FILE;

	if (run->flags & TRACK_POISONED)
		return -EHWPOISON;
	if (pageset_add(&scan->memory->fresh, run->start / PAGE, run->pages) < 0)
		return -ENOMEM;
	if (file || run->flags & TRACK_GUARD || !(run->flags & (TRACK_PRESENT | TRACK_SWAPPED)))
		return scan->frozen ? drop_held(scan, run->start, run->pages) : 0;
	if (run->flags & TRACK_ZERO && !(status & MAPPING_FILE_PRIVATE)) {
		scan->source->summary->pages_zero += run->pages;
		if (scan->frozen)
			return drop_held(scan, run->start, run->pages);
		job.zero = true;
		return add_job(scan->jobs, job);
	}
	if (scan->parent)
		return add_unshared(scan->source, scan->memory, scan->parent, run, scan->jobs);
	return add_job(scan->jobs, job);
}

/* Protects and takes the parts of a written run that other processes have, too. */
static int take_shared(struct scan *scan, uint32_t status, const struct track_run *run, struct error *error)
{
	uint64_t entries[PAGEMAP_CHUNK], at = run->start, end = run->start + run->pages * PAGE;
	struct track_runs runs = { 0 };
	int r = 0;

	if (pageset_add(&scan->memory->fresh, run->start / PAGE, run->pages) < 0)
		return -ENOMEM;
	if (!(run->flags & TRACK_PRESENT) || run->flags & (TRACK_FILE | TRACK_GUARD | TRACK_ZERO))
		return 0;
	while (r == 0 && at < end) {
		uint64_t n = (end - at) / PAGE < PAGEMAP_CHUNK ? (end - at) / PAGE : PAGEMAP_CHUNK;
		uint64_t first = 0;

		if (fdio_pread(scan->memory->map_fd, entries, n * 8, at / PAGE * 8) != (ssize_t)(n * 8))
			return -ESRCH; /* it has ended: a page map without an address space is empty */
		for (uint64_t i = 0; r == 0 && i <= n; i++) {
			if (i < n && entries[i] & PM_PRESENT && !(entries[i] & SOURCE_PM_EXCLUSIVE))
				continue;
			if (i > first)
				r = track_scan(scan->memory->track, at + first * PAGE, at + i * PAGE, TRACK_PROTECT, &runs,
					       error);
			first = i + 1;
		}
		at += n * PAGE;
	}
	for (size_t i = 0; r == 0 && i < runs.count; i++)
		r = take_run(scan, status, &runs.items[i]);
	track_runs_deinit(&runs);
	return r;
}

/*
 * What is not copied any more in a private mapping of a file: after MADV_DONTNEED the file's page comes back protected, if the
 * copy was, so it is no written page, nor an absent one.
 */
static int drop_uncopied(struct scan *scan, uint64_t start, uint64_t end, struct error *error)
{
	struct track_runs runs = { 0 };
	uint64_t page;
	int r;

	if (!pageset_next(&scan->memory->held, start / PAGE, 1, &page) || page >= end / PAGE)
		return 0;
	r = track_present(scan->memory->track, start, end, &runs, error);
	for (size_t i = 0; r == 0 && i < runs.count; i++)
		if (runs.items[i].flags & TRACK_FILE)
			r = drop_held(scan, runs.items[i].start, runs.items[i].pages);
	track_runs_deinit(&runs);
	return r;
}

/* The range consists of mappings of one kind. */
static int scan_range(struct scan *scan, uint32_t status, uint64_t start, uint64_t end, struct error *error)
{
	unsigned int last = scan->memory->untrusted ? TRACK_ALL : 0;
	unsigned int flags = scan->frozen ? last : scan->shared_only ? 0 : TRACK_PROTECT;
	struct track_runs runs = { 0 };
	int r;

	r = track_scan(scan->memory->track, start, end, flags, &runs, error);
	for (size_t i = 0; r == 0 && i < runs.count; i++)
		r = scan->shared_only ? take_shared(scan, status, &runs.items[i], error)
				      : take_run(scan, status, &runs.items[i]);
	array_clear(&runs);
	if (r == 0 && scan->frozen)
		r = track_absent(scan->memory->track, start, end, &runs, error);
	for (size_t i = 0; r == 0 && i < runs.count && scan->frozen; i++)
		r = drop_held(scan, runs.items[i].start, runs.items[i].pages);
	track_runs_deinit(&runs);
	if (r == 0 && scan->frozen && status & MAPPING_FILE_PRIVATE)
		r = drop_uncopied(scan, start, end, error);
	return r < 0 ? error_set_errno(error, r, "cannot scan the memory of PID %d", scan->memory->pid) : 0;
}

/* The parts of a run that were not found as written count as such. */
static int take_again(struct scan *scan, uint32_t status, const struct track_run *run)
{
	struct track_run part = { .start = run->start, .flags = run->flags | TRACK_WRITTEN };
	int r = 0;

	for (uint64_t i = 0; r == 0 && i <= run->pages; i++) {
		if (i < run->pages && !pageset_has(&scan->memory->fresh, run->start / PAGE + i)) {
			part.pages++;
			continue;
		}
		if (part.pages)
			r = take_run(scan, status, &part);
		part.start = run->start + (i + 1) * PAGE;
		part.pages = 0;
	}
	return r;
}

/* What the target has got another mapping for, and has no content of (backing.h). */
static int scan_changes(struct scan *scan, struct error *error)
{
	struct track_runs runs = { 0 };
	struct backing change = { 0 };
	int r = 0;

	while (r == 0 && backings_next_change(&scan->memory->laid_out, scan->backings, change.end, &change)) {
		array_clear(&runs);
		r = track_present(scan->memory->track, change.start, change.end, &runs, error);
		for (size_t i = 0; r == 0 && i < runs.count; i++)
			r = take_again(scan, change.status, &runs.items[i]);
	}
	track_runs_deinit(&runs);
	return r < 0 ? error_set_errno(error, r, "cannot scan the memory of PID %d", scan->memory->pid) : 0;
}

/*
 * Neighbours of one kind are scanned together: a process of many threads has two mappings for each. Not over holes: what is
 * mapped there meanwhile is not laid out on the target, and must not be protected before it is.
 */
static int scan_mappings(struct scan *scan, const AddressSpace *mm, struct error *error)
{
	const uint32_t kind = MAPPING_HAS_PAGES; /* which of the two */
	int r = 0;

	for (size_t first = 0, next = 0; r == 0 && first < mm->n_vmas; first = next) {
		uint32_t status = mm->vmas[first]->status;

		do
			next++;
		while (next < mm->n_vmas && (mm->vmas[next]->status & kind) == (status & kind) &&
		       mm->vmas[next]->start == mm->vmas[next - 1]->end);
		if (status & MAPPING_HAS_PAGES)
			r = scan_range(scan, status, mm->vmas[first]->start, mm->vmas[next - 1]->end, error);
	}
	return r;
}

/* What lies outside all mappings is gone on the target, too. */
static void forget_unmapped(struct source_memory *memory, const AddressSpace *mm)
{
	uint64_t at = 0;

	for (size_t i = 0; i <= mm->n_vmas; i++) {
		uint64_t start = i < mm->n_vmas ? mm->vmas[i]->start : UINT64_C(1) << 47;

		if (start > at)
			pageset_remove(&memory->held, at / PAGE, (start - at) / PAGE);
		if (i < mm->n_vmas)
			at = mm->vmas[i]->end;
	}
}

/* A child between vfork and execve, or one that shares the memory for longer, writes here without being one of the threads. */
static bool is_shared(const struct source *source, pid_t pid)
{
	struct procfs_pids children = { .items = NULL };
	bool shared = procfs_read_children(pid, &children, NULL) < 0;

	shared |= dump_process_next_sharer(source->dump, dump_context_find(source->dump, pid)) != NULL;
	array_for_each(child, &children)
		shared |= syscall(SYS_kcmp, pid, *child, KCMP_VM, 0, 0) == 0;
	array_deinit(&children);
	return shared;
}

/*
 * Does a thread wait in the kernel so that it cannot be stopped now, in vfork(2) or for a disk, and goes on doing that? One
 * after the other: in a program that forks all the time there is always one that does, and each only for a moment.
 */
static bool stays_in_kernel(pid_t pid)
{
	const struct timespec pause = { .tv_nsec = CLOCK_MS };
	int64_t deadline = clock_deadline(PATIENCE_NS);
	struct procfs_pids threads = { .items = NULL };
	bool waits = false;

	if (procfs_read_threads(pid, &threads, NULL) < 0)
		return false;
	for (size_t i = 0; i < threads.count && !waits; i++) {
		struct procfs_stat stat;

		while (procfs_read_stat(threads.items[i], &stat, NULL) == 0 && stat.state == 'D' && !waits)
			waits = clock_now_ns() >= deadline || nanosleep(&pause, NULL) < 0;
	}
	array_deinit(&threads);
	return waits;
}

/*
 * Begins a round, if need be in a moment in which the process stands still. A thread that the kernel does not let stop must
 * not hold up the others: then it is done while they run, which is right but for what track.h says.
 */
static int update_track(struct source *source, struct source_memory *memory, const struct procfs_maps *maps,
			struct error *error)
{
	const struct tracee_options options = { .traces = source->traces, .hints = source->hints, .keep_areas = true };
	struct procfs_maps now = { .items = NULL };
	struct tracee_process *process;
	int r;

	if (source->stopped || !track_wants_stop(memory->track, maps) || stays_in_kernel(memory->pid) ||
	    tracee_process_stop_all(memory->pid, &options, clock_deadline(MOMENT_NS), &process, NULL) < 0)
		return track_update(memory->track, maps, source->stopped ? TRACK_STOPPED : 0, error);
	r = tracee_read_maps(procfs_live_thread(memory->pid), process->mem_fd, &now, error);
	if (r == 0)
		r = track_update(memory->track, &now, is_shared(source, memory->pid) ? 0 : TRACK_STOPPED, error);
	tracee_process_release(process);
	procfs_maps_deinit(&now);
	return r;
}

/* Begins to track the address space that the process has now, unless that is so already. */
static int follow(struct source *source, struct source_memory *memory, const struct procfs_maps *maps, struct error *error)
{
	int r = 0;

	if (memory->track && update_track(source, memory, maps, error) == 0)
		return 0;
	if (memory->track) { /* it has called execve(2), or ends */
		error_clear(error);
		close_files(memory);
	}
	if (memory->mem_fd < 0 || memory->map_fd < 0)
		r = open_files(memory, error);
	if (r == 0)
		r = start_track(source, memory, error);
	return r < 0 ? r : update_track(source, memory, maps, error);
}

static void note_reads(const struct source *source, struct source_memory *memory, const struct dump_process *process)
{
	bool reads_direct = false, pins = false;

	for (; process; process = dump_process_next_sharer(source->dump, process)) {
		reads_direct |= process->reads_direct;
		pins |= process->pins;
	}
	/* What was opened since the preflight has been read from in earlier rounds, too. */
	memory->untrusted = memory->track && (memory->untrusted || pins || (reads_direct && !memory->reads_direct));
	memory->reads_direct = reads_direct;
}

/*
 * read(2) from a file that is open with O_DIRECT writes through the frames of the buffer's pages, not by the page table: a
 * page that is protected between the beginning and the end of such a read is changed and not found as written. In a stopped
 * process no read is under way.
 */
static int stop_reads(struct source *source, const struct dump_process *process, struct tracee_process **ret,
		      struct error *error)
{
	const struct tracee_options options = { .traces = source->traces, .hints = source->hints, .keep_areas = true };

	if (source->stopped || !process->reads_direct)
		return 0;
	return tracee_process_stop(process->pid, &options, clock_deadline(SOURCE_STOP_NS), ret, error);
}

static int scan_process(struct source *source, struct source_memory *memory, bool frozen, struct source_jobs *jobs,
			struct source_jobs *drops, struct error *error)
{
	struct scan scan = { .source = source, .memory = memory, .frozen = frozen, .jobs = jobs, .drops = drops,
			     .shared_only = !frozen && source->options->mode == MIGRATE_POSTCOPY };
	const struct dump_process *process = dump_context_find(source->dump, memory->pid);
	const struct image_record *record = image_set_find(source->images, IMAGE_MM, (uint32_t)memory->pid);
	_cleanup_message_ AddressSpace *mm = NULL;
	struct tracee_process *held_up = NULL;
	struct backings backings = { 0 };
	int r;

	if (!process || !record)
		return error_set(error, -ESRCH, "PID %d is gone", memory->pid);
	r = image_unpack(record, address_space, &mm, error);
	if (r == 0)
		note_reads(source, memory, process);
	if (r == 0)
		r = follow(source, memory, &process->maps, error);
	if (r < 0)
		return r;
	forget_unmapped(memory, mm);
	array_clear(&memory->fresh.chunks);
	if (memory->inherits)
		scan.parent = memory_of_parent(source, memory);
	r = backings_set(&backings, mm);
	scan.backings = &backings;
	r = r < 0 ? error_set(error, r, "out of memory") : stop_reads(source, process, &held_up, error);
	if (r == 0)
		r = scan_mappings(&scan, mm, error);
	tracee_process_release(held_up);
	if (r == 0)
		r = scan_changes(&scan, error);
	memory->inherits = false;
	backings_deinit(&memory->laid_out);
	memory->laid_out = backings;
	return r;
}

int memory_scan(struct source *source, unsigned depth, bool frozen, struct source_jobs *jobs,
		struct source_jobs *drops, struct error *error)
{
	int r = 0;

	/* Alone, nothing is shared; and soft-dirty bits cannot be cleared for some pages only. */
	if (!frozen && source->options->mode == MIGRATE_POSTCOPY &&
	    (source->memory.count == 1 || source->track_kind != TRACK_PAGEMAP_SCAN))
		return 0;
	/* Parents come first: their written pages must be known when their children are looked at. */
	for (size_t i = 0; r == 0 && i < source->memory.count; i++)
		if (source->memory.items[i]->depth <= depth) {
			r = scan_process(source, source->memory.items[i], frozen, jobs, drops, error);
			/* It ends, or begins another program: the next round will know. What was found until here is sent. */
			if (r == -ESRCH && !frozen && !memory_is_gone(source->options->pid)) {
				close_files(source->memory.items[i]);
				error_clear(error);
				r = 0;
			}
		}
	return r;
}
