/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The address space of a shell, brought to what IMAGE_MM wants.
 *
 * Happy path: the remote area goes where neither the present nor the wanted layout has anything; then the steps of
 * mm-plan.c are run in batches: unmap, move vDSO and vvar to where the source has them, map, protect, advise. Files and
 * shared memory are opened here and borrowed by the shell for the batch. Pages of mappings that stay are not touched.
 *
 * A step that fails leaves a layout that is neither: the tree can only be thrown away then.
 */
#include "mm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/mapping.h"
#include "restore/files.h"
#include "util/cleanup.h"
#include "util/procfs.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define MM_BATCH_CALLS 120
#define MM_BATCH_SIZE  (32u << 10)
#define MM_SLOTS_MIN   16
#define MM_SPECIAL_MAX 8

/* ---- the layout as it is */

/* What a fresh shell has: its program, its stack, vDSO and vvar. */
static int read_now(struct restore_process *process, struct restore_mm *mm, struct error *error)
{
	const struct tracee_process *tracee = process->tracee;
	struct procfs_maps maps;
	int r;

	r = procfs_read_maps(process->pid, &maps, error);
	if (r < 0)
		return r;
	array_for_each(map, &maps) {
		struct restore_segment segment = { .start = map->start, .end = map->end };
		bool special = map->name && (strcmp(map->name, "[vdso]") == 0 ||
					     strncmp(map->name, "[vvar", 5) == 0);

		if (map->name && strcmp(map->name, "[vsyscall]") == 0)
			continue;
		if (map->start >= tracee->area_address && map->end <= tracee->area_address + tracee->area_size)
			continue;
		if (special)
			segment.status = map->name[3] == 's' ? MAPPING_VDSO : MAPPING_VVAR;
		if (r == 0)
			r = special ? array_append(&mm->special, segment) : array_append(&mm->now, segment);
	}
	procfs_maps_deinit(&maps);
	return r < 0 ? error_set_errno(error, r, "cannot note the layout of PID %d", process->pid) : 0;
}

/* A clone has what its parent had, without what the parent had marked MADV_DONTFORK. */
static int copy_now(struct restore_mm *mm, const struct restore_mm *parent)
{
	int r = 0;

	array_for_each(segment, &parent->now)
		if (r == 0 && !(segment->madv >> MADV_DONTFORK & 1))
			r = array_append(&mm->now, *segment);
	array_for_each(segment, &parent->special)
		if (r == 0)
			r = array_append(&mm->special, *segment);
	return r;
}

static struct restore_segment area_segment(const struct tracee_process *tracee)
{
	return (struct restore_segment){
		.start = tracee->area_address,
		.end = tracee->area_address + tracee->area_size,
	};
}

static const struct restore_process *owner_of(const struct restore_process *process)
{
	return process->owner ? process->owner : process;
}

/*
 * Where several processes have the parent's memory, each has a remote area there; all but the parent's are nobody's in the
 * copy.
 */
static int copy_areas(const struct restore_tree *tree, struct restore_mm *mm, const struct restore_process *parent)
{
	array_for_each(place, &tree->processes) {
		const struct restore_process *other = *place;
		struct restore_segment area;
		size_t at = 0;

		if (other == parent || owner_of(other) != owner_of(parent) || !other->tracee->area_size)
			continue;
		area = area_segment(other->tracee);
		if (array_append(&mm->now, area) < 0)
			return -ENOMEM;
		while (mm->now.items[at].start < area.start)
			at++;
		memmove(mm->now.items + at + 1, mm->now.items + at, (mm->now.count - 1 - at) * sizeof(area));
		mm->now.items[at] = area;
	}
	return 0;
}

int restore_mm_new(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	const struct restore_process *parent = process->fresh ? NULL : process->parent;
	int r;

	process->mm = calloc(1, sizeof(*process->mm));
	if (!process->mm)
		return error_set_errno(error, -ENOMEM, "cannot note the layout of PID %d", process->pid);
	if (!parent)
		return read_now(process, process->mm, error);
	r = copy_now(process->mm, owner_of(parent)->mm);
	if (r == 0)
		r = copy_areas(tree, process->mm, parent);
	return r < 0 ? error_set_errno(error, r, "cannot note the layout of PID %d", process->pid) : 0;
}

void restore_mm_free(struct restore_mm *mm)
{
	if (!mm)
		return;
	array_deinit(&mm->now);
	array_deinit(&mm->special);
	free(mm);
}

/* ---- the layout as wanted */

static int read_wanted(const AddressSpace *message, struct restore_mm *wanted, struct error *error)
{
	uint64_t end = 0;

	for (size_t i = 0; i < message->n_vmas; i++) {
		const Mapping *mapping = message->vmas[i];
		struct restore_segment segment = {
			.start = mapping->start,
			.end = mapping->end,
			.pgoff = mapping->pgoff,
			.madv = mapping->madv,
			.prot = mapping->prot & (PROT_READ | PROT_WRITE | PROT_EXEC),
			.flags = mapping->flags,
			.status = mapping->status,
			.shmid = (uint32_t)mapping->shmid,
			.fdflags = mapping->fdflags,
		};
		bool special = mapping->status & (MAPPING_VDSO | MAPPING_VVAR);
		int r;

		if (segment.start < end || segment.end <= segment.start || (segment.start | segment.end) & 4095)
			return error_set(error, -EPROTO, "the list of mappings is out of order at %llx",
					 (unsigned long long)segment.start);
		end = segment.end;
		r = special ? array_append(&wanted->special, segment) : array_append(&wanted->now, segment);
		if (r < 0)
			return error_set_errno(error, r, "cannot keep the list of mappings");
	}
	return 0;
}

/* ---- batches */

static void run_deinit(struct restore_mm_run *run)
{
	array_for_each(loan, &run->loans)
		close(loan->fd);
	array_deinit(&run->loans);
	tracee_batch_free(run->batch);
}

static int run_begin(struct restore_mm_run *run, struct error *error)
{
	run->pidfd_index = -1;
	if (!run->batch)
		run->batch = tracee_batch_new();
	if (!run->batch)
		return error_set_errno(error, -ENOMEM, "cannot lay out PID %d", run->process->pid);
	tracee_batch_clear(run->batch);
	return 0;
}

int restore_mm_run_flush(struct restore_mm_run *run, struct error *error)
{
	int r;

	if (tracee_batch_count(run->batch) == 0)
		return 0;
	array_for_each(loan, &run->loans)
		tracee_batch_call(run->batch, SYS_close, TRACEE_RESULT(loan->index));
	if (run->pidfd_index >= 0)
		restore_borrow_end(run->batch, run->pidfd_index);
	r = tracee_batch_run(run->process->tracee->threads.items[0], run->batch, run->tree->deadline, error);
	array_for_each(loan, &run->loans)
		close(loan->fd);
	array_clear(&run->loans);
	tracee_batch_clear(run->batch);
	run->pidfd_index = -1;
	return r < 0 ? error_wrap(error, r, "cannot lay out the memory of PID %d", run->process->pid) : 0;
}

static int run_room(struct restore_mm_run *run, struct error *error)
{
	return tracee_batch_count(run->batch) >= MM_BATCH_CALLS ? restore_mm_run_flush(run, error) : 0;
}

/* Opens what is behind a mapping, once a batch; returns the index of its descriptor in the shell. */
static int run_borrow(struct restore_mm_run *run, const struct restore_segment *segment, int *ret_index, struct error *error)
{
	struct restore_mm_loan loan = { .shmid = segment->shmid, .status = segment->status, .fdflags = segment->fdflags };
	bool object = segment->status & (MAPPING_MEMFD | MAPPING_ANON_SHARED);
	int r;

	array_for_each(known, &run->loans)
		if (known->shmid == loan.shmid && known->status == loan.status && known->fdflags == loan.fdflags) {
			*ret_index = known->index;
			return 0;
		}
	if (object)
		r = restore_shared_open(run->tree, loan.shmid, (int)segment->fdflags & O_ACCMODE, &loan.fd, error);
	else
		r = restore_file_map(run->tree, loan.shmid, (int)segment->prot,
				     (segment->status & MAPPING_FILE_SHARED) != 0, &loan.fd, error);
	if (r < 0)
		return r;
	if (run->pidfd_index < 0)
		run->pidfd_index = restore_borrow_begin(run->batch);
	loan.index = restore_borrow(run->batch, run->pidfd_index, loan.fd);
	if (array_append(&run->loans, loan) < 0) {
		close(loan.fd);
		return error_set_errno(error, -ENOMEM, "cannot lay out PID %d", run->process->pid);
	}
	*ret_index = loan.index;
	return 0;
}

/* ---- steps */

/* Where `size` bytes fit that neither layout has. */
static uint64_t find_gap(const struct restore_mm_run *run, uint64_t size)
{
	const struct restore_mm *mm = run->process->mm, *wanted = run->wanted;
	struct restore_segment area = area_segment(run->process->tracee);
	struct restore_segments area_list = { .items = &area, .count = 1 };
	const struct restore_segments *lists[] = { &mm->now, &mm->special, &wanted->now, &wanted->special, &area_list };

	return restore_plan_gap(lists, 5, size);
}

/* A segment is attached as a whole. What is to be a part of it is moved out of a whole one. */
static int step_attach(struct restore_mm_run *run, const struct restore_step *step, struct error *error)
{
	const struct restore_segment *wanted = step->wanted;
	uint64_t offset = wanted->pgoff + (step->start - wanted->start), length = step->end - step->start, size, place;
	uint32_t flags = (wanted->fdflags & O_ACCMODE) == O_RDONLY ? SHM_RDONLY : 0;
	uint32_t prot = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) | (wanted->prot & PROT_EXEC), id;
	int r = restore_shared_segment(run->tree, wanted->shmid, &id, &size, error);

	if (r < 0)
		return r;
	flags |= wanted->prot & PROT_EXEC ? SHM_EXEC : 0;
	if (offset > size || length > size - offset)
		return error_set(error, -EPROTO, "the mapping at %llx is larger than its segment",
				 (unsigned long long)step->start);
	place = length == size ? step->start : find_gap(run, size);
	if (!place)
		return error_set(error, -ENOMEM, "no room in the address space of PID %d", run->process->pid);
	tracee_batch_call(run->batch, SYS_shmat, id, place, flags);
	if (length != size) {
		tracee_batch_call(run->batch, SYS_mremap, place + offset, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
				  step->start);
		if (offset)
			tracee_batch_call(run->batch, SYS_munmap, place, offset);
		if (offset + length < size)
			tracee_batch_call(run->batch, SYS_munmap, place + offset + length, size - offset - length);
	}
	if (prot != wanted->prot)
		tracee_batch_call(run->batch, SYS_mprotect, step->start, length, wanted->prot);
	return 0;
}

int restore_mm_step_map(struct restore_mm_run *run, const struct restore_step *step, struct error *error)
{
	const struct restore_segment *wanted = step->wanted;
	uint32_t flags = MAP_FIXED_NOREPLACE | (wanted->flags & (MAP_GROWSDOWN | MAP_NORESERVE));
	uint64_t fd = UINT64_MAX, offset = 0;
	int index = 0, r;

	if (wanted->status & MAPPING_SYSV)
		return step_attach(run, step, error);
	if (wanted->status & (MAPPING_AIO | MAPPING_IO_URING)) { /* its place, until it is made: aio.c, io-uring.c */
		tracee_batch_call(run->batch, SYS_mmap, step->start, step->end - step->start, PROT_NONE,
				  MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd, offset);
		return 0;
	}
	if (wanted->status & MAPPING_ANON_PRIVATE) {
		flags |= MAP_ANONYMOUS | (wanted->flags & MAP_DROPPABLE ? MAP_DROPPABLE : MAP_PRIVATE);
	} else {
		r = run_borrow(run, wanted, &index, error);
		if (r < 0)
			return r;
		flags |= wanted->flags & MAP_SHARED ? MAP_SHARED : MAP_PRIVATE;
		fd = TRACEE_RESULT(index);
		offset = wanted->pgoff + (step->start - wanted->start);
	}
	tracee_batch_call(run->batch, SYS_mmap, step->start, step->end - step->start, wanted->prot, flags, fd, offset);
	return 0;
}

void restore_mm_step_advise(struct restore_mm_run *run, const struct restore_step *step)
{
	static const struct {
		int advice;
		int undo; /* -1: cannot be taken back, here as little as on the source */
	} advices[] = {
		{ MADV_RANDOM, MADV_NORMAL },	       { MADV_SEQUENTIAL, MADV_NORMAL },
		{ MADV_DONTFORK, MADV_DOFORK },	       { MADV_MERGEABLE, MADV_UNMERGEABLE },
		{ MADV_HUGEPAGE, -1 },		       { MADV_NOHUGEPAGE, -1 },
		{ MADV_DONTDUMP, MADV_DODUMP },	       { MADV_WIPEONFORK, MADV_KEEPONFORK },
	};
	const size_t count = sizeof(advices) / sizeof(advices[0]);

	for (size_t i = 0; i < count; i++)
		if (advices[i].undo >= 0 && step->advice_now >> advices[i].advice & 1 &&
		    !(step->wanted->madv >> advices[i].advice & 1))
			tracee_batch_call(run->batch, SYS_madvise, step->start, step->end - step->start,
					  advices[i].undo);
	/* Kernels without KSM or huge pages answer EINVAL, and then the advice means nothing there. */
	for (size_t i = 0; i < count; i++)
		if (step->wanted->madv >> advices[i].advice & 1 && !(step->advice_now >> advices[i].advice & 1))
			tracee_batch_try(run->batch, SYS_madvise, step->start, step->end - step->start,
					 advices[i].advice);
}

static int run_steps(struct restore_mm_run *run, const struct restore_plan *plan, enum restore_step_kind kind,
		     struct error *error)
{
	array_for_each(step, &plan->steps) {
		uint64_t size = step->end - step->start;
		int r = 0;

		if (step->kind != kind)
			continue;
		if (kind == RESTORE_STEP_UNMAP)
			tracee_batch_call(run->batch, SYS_munmap, step->start, size);
		else if (kind == RESTORE_STEP_MAP)
			r = restore_mm_step_map(run, step, error);
		else if (kind == RESTORE_STEP_PROTECT)
			tracee_batch_call(run->batch, SYS_mprotect, step->start, size, step->wanted->prot);
		else
			restore_mm_step_advise(run, step);
		if (r == 0)
			r = run_room(run, error);
		if (r < 0)
			return r;
	}
	return restore_mm_run_flush(run, error);
}

/* ---- vDSO and vvar */

static bool special_alike(const struct restore_segments *now, const struct restore_segments *wanted)
{
	if (now->count != wanted->count)
		return false;
	for (size_t i = 0; i < now->count; i++)
		if ((now->items[i].status & (MAPPING_VDSO | MAPPING_VVAR)) !=
			    (wanted->items[i].status & (MAPPING_VDSO | MAPPING_VVAR)) ||
		    now->items[i].end - now->items[i].start != wanted->items[i].end - wanted->items[i].start)
			return false;
	return true;
}

static void special_moves(struct restore_mm_run *run, const uint64_t *from, const struct restore_segments *to, uint64_t offset)
{
	for (size_t i = 0; i < to->count; i++) {
		uint64_t size = to->items[i].end - to->items[i].start;

		if (from[i] != to->items[i].start + offset)
			tracee_batch_call(run->batch, SYS_mremap, from[i], size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
					  to->items[i].start + offset);
	}
}

/*
 * By way of a place far from both, since the old and the new place may overlap; the pieces keep their distances, which
 * the code of the vDSO relies on.
 */
static int move_special(struct restore_mm_run *run, const struct restore_mm *wanted, struct error *error)
{
	struct restore_mm *mm = run->process->mm;
	struct restore_segment area = area_segment(run->process->tracee);
	struct restore_segments area_list = { .items = &area, .count = 1 };
	const struct restore_segments *lists[] = { &mm->now, &mm->special, &wanted->now, &wanted->special, &area_list };
	struct restore_segments *now = &mm->special;
	const struct restore_segments *to = &wanted->special;
	uint64_t from[MM_SPECIAL_MAX], span, gap;
	int r;

	if (!special_alike(now, to) || now->count > MM_SPECIAL_MAX)
		return error_set(error, -ENOEXEC, "the vDSO of PID %d has another shape than this kernel's: run the same "
				 "kernel on both hosts", run->process->pid);
	if (now->count == 0 || now->items[0].start == to->items[0].start)
		return 0;
	span = to->items[to->count - 1].end - to->items[0].start;
	gap = restore_plan_gap(lists, 5, span);
	if (!gap)
		return error_set(error, -ENOMEM, "no room in the address space of PID %d", run->process->pid);
	for (size_t i = 0; i < now->count; i++)
		from[i] = now->items[i].start;
	special_moves(run, from, to, gap - to->items[0].start);
	for (size_t i = 0; i < now->count; i++)
		from[i] = to->items[i].start + (gap - to->items[0].start);
	special_moves(run, from, to, 0);
	r = restore_mm_run_flush(run, error);
	tracee_process_code_moved(run->process->tracee);
	for (size_t i = 0; r == 0 && i < now->count; i++)
		now->items[i] = to->items[i];
	return r;
}

/* ---- the remote area */

static bool collides(const struct restore_segments *list, uint64_t start, uint64_t size)
{
	array_for_each(segment, list)
		if (segment->start < start + size && segment->end > start)
			return true;
	return false;
}

static int place_area(struct restore_mm_run *run, const struct restore_mm *wanted, struct error *error)
{
	struct restore_mm *mm = run->process->mm;
	struct tracee_process *tracee = run->process->tracee;
	struct restore_segment area = area_segment(tracee);
	struct restore_segments area_list = { .items = &area, .count = tracee->area_size ? 1 : 0 };
	const struct restore_segments *lists[] = { &mm->now, &mm->special, &wanted->now, &wanted->special, &area_list };
	size_t slots = MM_SLOTS_MIN;
	uint64_t size, gap;
	int r;

	while (slots < tracee->threads.count)
		slots *= 2;
	size = tracee_area_size(slots, MM_BATCH_SIZE);
	if (tracee->area_size >= size && !collides(&wanted->now, area.start, tracee->area_size) &&
	    !collides(&wanted->special, area.start, tracee->area_size))
		return 0;
	gap = restore_plan_gap(lists, 5, size > tracee->area_size ? size : tracee->area_size);
	if (!gap)
		return error_set(error, -ENOMEM, "no room in the address space of PID %d", run->process->pid);
	r = tracee_process_move_area(tracee, gap, run->tree->deadline, error);
	if (r == 0)
		r = tracee_process_reserve_area(tracee, slots, MM_BATCH_SIZE, run->tree->deadline, error);
	return r;
}

/* ---- all */

static int apply_wanted(struct restore_mm_run *run, struct restore_mm *wanted, struct error *error)
{
	struct restore_mm *mm = run->process->mm;
	struct restore_plan plan = { 0 };
	int r;

	run->wanted = wanted;
	r = restore_plan_make(&mm->now, &wanted->now, &plan);
	if (r < 0)
		error_set_errno(error, r, "cannot plan the layout of PID %d", run->process->pid);
	if (r == 0)
		r = place_area(run, wanted, error);
	if (r == 0)
		r = run_begin(run, error);
	if (r == 0)
		r = run_steps(run, &plan, RESTORE_STEP_UNMAP, error);
	if (r == 0)
		r = move_special(run, wanted, error);
	for (int kind = RESTORE_STEP_MAP; r == 0 && kind <= RESTORE_STEP_ADVISE; kind++)
		r = run_steps(run, &plan, (enum restore_step_kind)kind, error);
	array_deinit(&plan.steps);
	if (r < 0)
		return r;
	array_deinit(&mm->now);
	mm->now = wanted->now;
	memset(&wanted->now, 0, sizeof(wanted->now));
	return restore_mm_join(run, error);
}

int restore_mm_apply(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ AddressSpace *message = NULL;
	_cleanup_(run_deinit) struct restore_mm_run run = { .tree = tree, .process = process };
	struct restore_mm wanted = { 0 };
	int r;

	r = restore_get(tree->images, IMAGE_MM, (uint32_t)process->pid, address_space, &message, error);
	if (r < 0)
		return r;
	r = read_wanted(message, &wanted, error);
	if (r == 0)
		r = apply_wanted(&run, &wanted, error);
	array_deinit(&wanted.now);
	array_deinit(&wanted.special);
	return r;
}
