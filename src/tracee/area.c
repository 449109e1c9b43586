/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The remote area: one page with the stub, readable and executable, then a slot for each thread
 * that runs batches, readable and writable.
 *
 * It is mapped executable as a whole, the stub is written through /proc/PID/mem, and the first
 * thing the stub does is to make the slots writable: so no mapping is ever writable and executable.
 * In a source process it is not inherited by children (MADV_DONTFORK), which other threads may fork
 * meanwhile. Its address is chosen here, in a wide gap away from other mappings: the traces need it
 * before it exists, and no neighbour can merge with it.
 *
 * Growing: everybody leaves it, it is unmapped and made anew.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GAP_MARGIN (UINT64_C(1) << 20)
#define GAP_MIN                                                                                  \
	(UINT64_C(16) << 30) /* more than any area takes; an address space has gaps of terabytes \
			      */
#define USER_END      UINT64_C(0x7ffffffff000)
#define LOWEST	      (UINT64_C(1) << 30)
#define ADDRESS_TRIES 4

uint64_t area_slot_size(size_t batch_size)
{
	uint64_t size = (SLOT_BATCH + batch_size + FRAME_MAX + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);

	return size < SLOT_MIN ? SLOT_MIN : size;
}

uint64_t tracee_area_size(size_t threads, size_t batch_size)
{
	return PAGE_BYTES + threads * area_slot_size(batch_size);
}

uint64_t area_slot_address(const struct tracee_process *process, int slot)
{
	return process->area_address + PAGE_BYTES + (uint64_t)slot * process->own->slot_size;
}

uint64_t area_batch_address(const struct tracee_process *process, int slot)
{
	return area_slot_address(process, slot) + SLOT_BATCH;
}

/*
 * Not the gap into which the stack grows, if there is another. Where the vDSO lies above the stack (Linux 6.1, say) a process
 * that has mapped nothing has no other: then the lower half of that one, terabytes away from stack and mappings to come.
 */
uint64_t area_find_gap(const struct procfs_maps *maps, int n)
{
	uint64_t end = USER_END, below = 0;
	bool below_stack = false;

	for (size_t i = maps->count; i-- > 0;) {
		const struct procfs_map *map = &maps->items[i];

		if (map->start >= USER_END)
			continue;
		if (end > map->end && end - map->end >= GAP_MIN) {
			if (!below_stack && n-- == 0)
				return end;
			if (below_stack && end - map->end >= 2 * GAP_MIN)
				below = map->end + (end - map->end) / 2;
		}
		end = map->start;
		below_stack = map->name && strcmp(map->name, "[stack]") == 0;
	}
	return end >= LOWEST + GAP_MIN && n <= 0 ? end : below;
}

static int choose_address(struct tracee_process *process, uint64_t size, int attempt, uint64_t *ret,
			  struct error *error)
{
	struct procfs_maps maps = { 0 };
	uint64_t end = process->own->free_end;
	int r;

	process->own->free_end = 0;
	if (!end) {
		r = procfs_read_maps(process->threads.items[0]->tid, &maps, error);
		if (r < 0)
			return r;
		end = area_find_gap(&maps, attempt);
		procfs_maps_deinit(&maps);
	}
	if (!end || size > GAP_MIN - 2 * GAP_MARGIN)
		return error_set(error, -ENOMEM,
				 "PID %d: no room for %llu bytes in its address space",
				 process->pid, (unsigned long long)size);
	*ret = (end - GAP_MARGIN - size) & ~(PAGE_BYTES - 1);
	return 0;
}

static int map_at(struct tracee_thread *thread, uint64_t address, uint64_t size, int64_t deadline,
		  struct error *error)
{
	const uint64_t args[6] = { address,
				   size,
				   PROT_READ | PROT_EXEC,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
					   MAP_FIXED_NOREPLACE,
				   UINT64_MAX,
				   0 };
	struct tracee_private_process *own = thread->process->own;
	int64_t result;
	int r;

	if (own->traces) {
		r = traces_note(own->traces, thread->process->pid, address, size, &own->trace);
		if (r < 0)
			return error_set(
				error, r,
				"too many processes at once: no room to note the one of PID %d",
				thread->process->pid);
	}
	r = inject_call(thread, deadline, &result, error, SYS_mmap, args);
	if (r == 0 && result != (int64_t)address)
		r = result < 0 ? (int)result : -EEXIST;
	if (r < 0 && own->trace >= 0 && r != -ETIMEDOUT) {
		traces_clear(own->traces, own->trace);
		own->trace = -1;
	}
	return r;
}

static int map_somewhere(struct tracee_thread *thread, uint64_t size, int64_t deadline,
			 uint64_t *ret, struct error *error)
{
	struct tracee_process *process = thread->process;
	uint64_t address = process->own->wanted_address;
	int r = -EEXIST;

	/* A gap seen meanwhile may have been filled, by the area of another process that has the same memory, say. */
	for (int i = process->own->free_end ? -1 : 0; i < ADDRESS_TRIES && r == -EEXIST; i++) {
		if (!process->own->wanted_address) {
			r = choose_address(process, size, i, &address, error);
			if (r < 0)
				return r;
		}
		r = map_at(thread, address, size, deadline, error);
	}
	if (r < 0)
		return error_set_errno(error, r, "PID %d: cannot map %llu bytes at 0x%llx",
				       process->pid, (unsigned long long)size,
				       (unsigned long long)address);
	*ret = address;
	return 0;
}

/* Makes the slots writable, with the stub itself. */
static int open_slots(struct tracee_thread *thread, int64_t deadline, struct error *error)
{
	struct tracee_process *process = thread->process;
	uint64_t start = process->area_address + PAGE_BYTES, size = process->area_size - PAGE_BYTES;
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "out of memory");
	tracee_batch_call(batch, SYS_mprotect, start, size, PROT_READ | PROT_WRITE);
	if (!process->exit_kill)
		tracee_batch_call(batch, SYS_madvise, process->area_address, process->area_size,
				  MADV_DONTFORK);
	r = tracee_batch_run(thread, batch, deadline, error);
	process->own->slots_open = r == 0;
	tracee_batch_free(batch);
	return r;
}

static int unpark_all(struct tracee_process *process, struct error *error)
{
	int r = 0;

	array_for_each (thread, &process->threads) {
		if ((*thread)->stopped && r == 0)
			r = thread_unpark(*thread, error);
		(*thread)->own->slot = -1;
	}
	return r;
}

int area_ensure(struct tracee_thread *thread, size_t slots, size_t batch_size, int64_t deadline,
		struct error *error)
{
	struct tracee_process *process = thread->process;
	struct tracee_private_process *own = process->own;
	uint64_t slot_size = area_slot_size(batch_size);
	int r;

	if (process->area_size && own->slots >= slots && own->slot_size >= slot_size)
		return 0;
	/* what is not used costs nothing: room for everybody at once, rather than growing later */
	if (!process->exit_kill && slots < process->threads.count)
		slots = process->threads.count;
	if (process->area_size) {
		slots = slots > own->slots ? slots : own->slots;
		slot_size = slot_size > own->slot_size ? slot_size : own->slot_size;
		r = area_unmap(process, deadline, error);
		if (r < 0)
			return r;
	}
	r = map_somewhere(thread, PAGE_BYTES + slots * slot_size, deadline, &process->area_address,
			  error);
	if (r < 0)
		return r;
	process->area_size = PAGE_BYTES + slots * slot_size;
	own->slots = slots;
	own->slot_size = slot_size;
	own->slots_used = 0;
	own->slots_open = false;
	r = tracee_process_write(process, process->area_address, tracee_stub, tracee_stub_size,
				 error);
	if (r == 0 && !process->exit_kill)
		r = kept_mark(process, error);
	if (r == 0)
		r = open_slots(thread, deadline, error);
	if (r < 0)
		area_unmap(process, clock_deadline(GRACE_NS), NULL);
	return r;
}

int area_unmapped(struct tracee_process *process, int64_t result, struct error *error)
{
	struct tracee_private_process *own = process->own;

	if (result < 0)
		return error_set_errno(error, (int)result, "PID %d: cannot unmap the remote area", process->pid);
	if (own->trace >= 0)
		traces_clear(own->traces, own->trace);
	own->trace = -1;
	own->slots = own->slots_used = 0;
	process->area_address = process->area_size = 0;
	return 0;
}

int area_unmap(struct tracee_process *process, int64_t deadline, struct error *error)
{
	const uint64_t args[6] = { process->area_address, process->area_size };
	struct tracee_thread *by = NULL;
	int64_t result = 0;
	int r;

	if (!process->area_size)
		return 0;
	r = unpark_all(process, error);
	array_for_each (thread, &process->threads) {
		if (!by && (*thread)->stopped)
			by = *thread;
	}
	if (r == 0)
		r = by ? inject_call(by, deadline, &result, error, SYS_munmap, args) : -ESRCH;
	if (r == 0)
		return area_unmapped(process, result, error);
	if (r == -ESRCH)
		area_unmapped(process, 0, NULL);
	return r;
}

/* Two mappings, moved one after the other: the stub, then the slots. */
int tracee_process_move_area(struct tracee_process *process, uint64_t address, int64_t deadline,
			     struct error *error)
{
	const uint64_t parts[2][2] = { { 0, PAGE_BYTES },
				       { PAGE_BYTES, process->area_size - PAGE_BYTES } };
	struct tracee_private_process *own = process->own;
	int r = 0;

	if (!process->exit_kill)
		return error_set(error, -EINVAL,
				 "PID %d is not a shell: its remote area stays where it is",
				 process->pid);
	own->wanted_address = address;
	if (!process->area_size || process->area_address == address)
		return 0;
	array_for_each (thread, &process->threads) {
		if (r == 0)
			r = thread_unpark(*thread, error);
		(*thread)->own->frame_stale = true;
	}
	for (int i = 0; i < 2 && r == 0; i++) {
		const uint64_t args[6] = {
			process->area_address + parts[i][0], parts[i][1],	    parts[i][1],
			MREMAP_MAYMOVE | MREMAP_FIXED,	     address + parts[i][0], 0
		};
		int64_t result = 0;

		r = inject_call(process->threads.items[0], deadline, &result, error, SYS_mremap,
				args);
		if (r == 0 && result < 0)
			r = error_set_errno(error, (int)result,
					    "PID %d: cannot move the remote area to 0x%llx",
					    process->pid, (unsigned long long)address);
	}
	if (r < 0)
		return r;
	process->area_address = address;
	return 0;
}

int tracee_process_unmap_area(struct tracee_process *process, int64_t deadline, struct error *error)
{
	return area_unmap(process, deadline, error);
}

int tracee_process_reserve_area(struct tracee_process *process, size_t threads, size_t batch_size,
				int64_t deadline, struct error *error)
{
	if (process->threads.count == 0)
		return error_set(error, -ESRCH, "PID %d has no stopped thread", process->pid);
	return area_ensure(process->threads.items[0], threads, batch_size, deadline, error);
}
