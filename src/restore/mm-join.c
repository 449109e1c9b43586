/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. A segment of the wanted layout is one mapping on the source. Here it may have come to be from several: a mapping of
 * an earlier round stays with its pages, and what has grown beside it is mapped anew. The kernel makes one of neighbours, but
 * not where both have private pages of their own (two anon_vmas), nor of two open files. /proc/PID/maps tells.
 *
 * Happy path, for each segment that plan has called patchwork and that is in pieces: files and objects shared by mapping are
 * mapped anew, their content is elsewhere. With private pages, the pieces are moved out of the way, the segment is mapped as
 * one, the pages are copied back, chunk by chunk. Pages that were shared with a parent are then no longer.
 *
 * Failure modes: memory, or a shell that has died; the tree can only be thrown away then.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/mapping.h"
#include "mm.h"
#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/procfs.h"

#define JOIN_PAGE      4096u
#define JOIN_CHUNK     256u /* pages copied at a time */
#define PAGEMAP_THERE  (UINT64_C(3) << 62) /* present or swapped */
#define PAGEMAP_SHARED (UINT64_C(1) << 61) /* of a file, or shared: not private */

static bool is_split(const struct procfs_maps *maps, const struct restore_segment *segment)
{
	const struct procfs_map *map = procfs_maps_find(maps, segment->start);

	return map && map->end < segment->end;
}

/* What /proc calls pieces of the segment, moved by `distance`. */
static void move_away(struct restore_mm_run *run, const struct procfs_maps *maps, const struct restore_segment *segment,
		      uint64_t distance)
{
	array_for_each(map, maps) {
		uint64_t start = map->start > segment->start ? map->start : segment->start;
		uint64_t end = map->end < segment->end ? map->end : segment->end;

		if (start < end)
			tracee_batch_call(run->batch, SYS_mremap, start, end - start, end - start,
					  MREMAP_MAYMOVE | MREMAP_FIXED, start + distance);
	}
}

static int copy_chunk(struct restore_mm_run *run, int pagemap, uint64_t from, uint64_t to, size_t count, uint8_t *buffer,
		      struct error *error)
{
	uint64_t entries[JOIN_CHUNK];
	size_t first = 0;
	int r = 0;

	if (fdio_pread(pagemap, entries, count * 8, from / JOIN_PAGE * 8) != (ssize_t)(count * 8))
		return error_set_errno(error, -EIO, "cannot read the page map of PID %d", run->process->pid);
	for (size_t i = 0; r == 0 && i <= count; i++) {
		if (i < count && entries[i] & PAGEMAP_THERE && !(entries[i] & PAGEMAP_SHARED))
			continue;
		if (i > first) {
			r = tracee_process_read(run->process->tracee, from + first * JOIN_PAGE, buffer,
						(i - first) * JOIN_PAGE, error);
			if (r == 0)
				r = restore_pages_write(run->process, to + first * JOIN_PAGE, buffer,
							(i - first) * JOIN_PAGE, error);
		}
		first = i + 1;
	}
	return r;
}

static int copy_back(struct restore_mm_run *run, const struct restore_segment *segment, uint64_t distance,
		     struct error *error)
{
	_cleanup_free_ uint8_t *buffer = malloc((size_t)JOIN_CHUNK * JOIN_PAGE);
	_cleanup_fd_ int pagemap = -1;
	char path[32];
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", run->process->pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0 || !buffer)
		return error_set_errno(error, buffer ? -errno : -ENOMEM, "cannot copy memory of PID %d", run->process->pid);
	for (uint64_t at = segment->start; r == 0 && at < segment->end; at += (uint64_t)JOIN_CHUNK * JOIN_PAGE) {
		uint64_t pages = (segment->end - at) / JOIN_PAGE;

		r = copy_chunk(run, pagemap, at + distance, at, pages < JOIN_CHUNK ? pages : JOIN_CHUNK, buffer, error);
	}
	return r;
}

static int join_segment(struct restore_mm_run *run, const struct procfs_maps *maps,
			const struct restore_segment *segment, struct error *error)
{
	const struct tracee_process *tracee = run->process->tracee;
	struct restore_segment area = { .start = tracee->area_address, .end = tracee->area_address + tracee->area_size };
	struct restore_segments area_list = { .items = &area, .count = 1 };
	const struct restore_segments *lists[] = { &run->process->mm->now, &run->process->mm->special, &area_list };
	const struct restore_step step = { .start = segment->start, .end = segment->end, .wanted = segment };
	bool has_pages = segment->status & (MAPPING_ANON_PRIVATE | MAPPING_FILE_PRIVATE);
	uint64_t size = segment->end - segment->start, gap = 0;
	int r;

	if (has_pages) {
		gap = restore_plan_gap(lists, sizeof(lists) / sizeof(lists[0]), size);
		if (!gap)
			return error_set(error, -ENOMEM, "no room in the address space of PID %d", run->process->pid);
		move_away(run, maps, segment, gap - segment->start);
	} else {
		tracee_batch_call(run->batch, SYS_munmap, segment->start, size);
	}
	r = restore_mm_step_map(run, &step, error);
	if (r < 0)
		return r;
	restore_mm_step_advise(run, &step);
	r = restore_mm_run_flush(run, error);
	if (r < 0 || !has_pages)
		return r;
	r = copy_back(run, segment, gap - segment->start, error);
	tracee_batch_call(run->batch, SYS_munmap, gap, size);
	return r < 0 ? r : restore_mm_run_flush(run, error);
}

int restore_mm_join(struct restore_mm_run *run, struct error *error)
{
	struct procfs_maps maps = { 0 };
	bool is_read = false;
	int r = 0;

	array_for_each(segment, &run->process->mm->now) {
		if (r < 0 || !segment->is_patchwork)
			continue;
		if (!is_read)
			r = procfs_read_maps(run->process->pid, &maps, error);
		is_read = true;
		if (r == 0 && is_split(&maps, segment))
			r = join_segment(run, &maps, segment, error);
		segment->is_patchwork = false;
	}
	procfs_maps_deinit(&maps);
	return r;
}
