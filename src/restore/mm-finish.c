/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is set on an address space once its layout is final: the numbers that /proc shows and brk(2) goes by, the exe
 * link, names, guard pages, memory locks. Guards come after all content (bulk copying destroys them), locks after guards
 * (locking fills what is not there), seals last of all.
 */
#include <errno.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm.h"
#include "restore/files.h"
#include "util/cleanup.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define MM_GUARD_INSTALL 102 /* MADV_GUARD_INSTALL, 6.13 */
#define MM_ONFAULT       1   /* MLOCK_ONFAULT */
#define MM_BATCH_CALLS   200

int restore_mm_numbers(struct restore_tree *tree, struct restore_process *process, struct restore_together *together,
		       struct error *error)
{
	_cleanup_message_ AddressSpace *message = NULL;
	struct tracee_batch *batch;
	struct prctl_mm_map map;
	int exe_fd = -1, pidfd, exe, r;
	uint64_t place;

	if (process->owner)
		return 0;
	r = restore_get(tree->images, IMAGE_MM, (uint32_t)process->pid, address_space, &message, error);
	if (r == 0)
		r = restore_file_link(tree, message->exe_file_id, &exe_fd, error);
	if (r == 0)
		r = restore_together_close(together, exe_fd, error);
	if (r < 0)
		return r;
	map = (struct prctl_mm_map){
		.start_code = message->mm_start_code,
		.end_code = message->mm_end_code,
		.start_data = message->mm_start_data,
		.end_data = message->mm_end_data,
		.start_brk = message->mm_start_brk,
		.brk = message->mm_brk,
		.start_stack = message->mm_start_stack,
		.arg_start = message->mm_arg_start,
		.arg_end = message->mm_arg_end,
		.env_start = message->mm_env_start,
		.env_end = message->mm_env_end,
		.auxv_size = (uint32_t)(message->n_mm_saved_auxv * sizeof(uint64_t)),
	};
	batch = restore_together_batch(together, process, error);
	if (!batch)
		return -ENOMEM;
	pidfd = restore_borrow_begin(batch);
	exe = restore_borrow(batch, pidfd, exe_fd);
	/* The structure holds the number of a descriptor. The shell has none yet, so the two get the first numbers. */
	map.exe_fd = 1;
	place = tracee_batch_data(batch, &map, sizeof(map));
	tracee_batch_point(batch, place + offsetof(struct prctl_mm_map, auxv),
			   tracee_batch_data(batch, message->mm_saved_auxv, map.auxv_size));
	tracee_batch_call(batch, SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, place, sizeof(map), 0);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(exe));
	restore_borrow_end(batch, pidfd);
	return 0;
}

static void add_locks(struct tracee_batch *batch, const struct restore_mm *mm, const MmExtra *extra)
{
	array_for_each(segment, &mm->now) {
		bool on_fault = false;

		if (!(segment->flags & MAP_LOCKED))
			continue;
		for (size_t i = 0; i < extra->n_lock_on_fault; i++)
			if (extra->lock_on_fault[i]->start <= segment->start &&
			    extra->lock_on_fault[i]->start + extra->lock_on_fault[i]->size >= segment->end)
				on_fault = true;
		/* Where nothing may be accessed (a guard of a stack), it is locked too, but answers that it got no pages. */
		tracee_batch_call6(batch, segment->prot == PROT_NONE ? TRACEE_MAY_FAIL : 0, SYS_mlock2, segment->start,
				   segment->end - segment->start, on_fault ? MM_ONFAULT : 0, 0, 0, 0);
	}
}

static int flush(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
		 size_t least, struct error *error)
{
	int r;

	if (tracee_batch_count(batch) == 0 || tracee_batch_count(batch) < least)
		return 0;
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	tracee_batch_clear(batch);
	return r;
}

int restore_mm_attributes(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ MmExtra *extra = NULL;
	struct tracee_batch *batch;
	int r;

	if (process->has_attributes) /* guards cannot be installed in memory that has been locked since */
		return 0;
	r = restore_get(tree->images, IMAGE_MM_EXTRA, (uint32_t)process->pid, mm_extra, &extra, error);
	if (r < 0)
		return r;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot finish the memory of PID %d", process->pid);
	for (size_t i = 0; r == 0 && i < extra->n_names; i++) {
		/* Without CONFIG_ANON_VMA_NAME there are no names, and nobody misses them. */
		tracee_batch_try(batch, SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, extra->names[i]->start,
				 extra->names[i]->size, tracee_batch_string(batch, extra->names[i]->name));
		r = flush(tree, process, batch, MM_BATCH_CALLS, error);
	}
	for (size_t i = 0; r == 0 && i < extra->n_guards; i++) {
		tracee_batch_call(batch, SYS_madvise, extra->guards[i]->start, extra->guards[i]->size,
				  MM_GUARD_INSTALL);
		r = flush(tree, process, batch, MM_BATCH_CALLS, error);
	}
	r = r < 0 ? r : flush(tree, process, batch, 1, error);
	tracee_batch_free(batch);
	process->has_attributes = r == 0;
	return r;
}

int restore_mm_locks(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ MmExtra *extra = NULL;
	struct tracee_batch *batch;
	bool any = false;
	int r;

	array_for_each(segment, &process->mm->now)
		any = any || segment->flags & MAP_LOCKED;
	if (!any)
		return 0;
	r = restore_get(tree->images, IMAGE_MM_EXTRA, (uint32_t)process->pid, mm_extra, &extra, error);
	if (r < 0)
		return r;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot lock the memory of PID %d", process->pid);
	add_locks(batch, process->mm, extra);
	r = flush(tree, process, batch, 1, error);
	tracee_batch_free(batch);
	return r;
}

int restore_mm_seals(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
		     struct error *error)
{
	_cleanup_message_ MmExtra *extra = NULL;
	int r;

	r = restore_get(tree->images, IMAGE_MM_EXTRA, (uint32_t)process->pid, mm_extra, &extra, error);
	for (size_t i = 0; r == 0 && i < extra->n_sealed; i++)
		tracee_batch_call(batch, SYS_mseal, extra->sealed[i]->start, extra->sealed[i]->size, 0);
	return r;
}
