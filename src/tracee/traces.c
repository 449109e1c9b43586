/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A table in shared memory of remote areas, and how another process takes them away.
 *
 * An area is noted before it is mapped and struck off after it is unmapped, so the table may name
 * areas that do not exist, never the reverse. The cleaner believes only what it sees: a mapping
 * that starts at the noted address, is anonymous and executable, and holds the stub (or still
 * zeros). It waits for the threads to have left it, and any call that was injected to be over (it
 * may be the one that makes the area): both end by themselves, after a moment.
 */
#include "internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "util/cleanup.h"

#define SLOT_FREE   0
#define SLOT_FILLED 1
#define SLOT_BUSY   2

struct trace {
	_Atomic uint32_t state; /* SLOT_*; the rest is valid in SLOT_FILLED */
	pid_t pid;
	uint64_t address;
	uint64_t size;
};

struct tracee_traces {
	size_t count; /* slots */
	size_t bytes; /* of the mapping */
	_Atomic size_t hint; /* slots below are taken, most likely */
	struct trace traces[];
};

int tracee_traces_new(size_t count, struct tracee_traces **ret, struct error *error)
{
	size_t bytes = sizeof(struct tracee_traces) + count * sizeof(struct trace);
	struct tracee_traces *traces;

	traces = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (traces == MAP_FAILED)
		return error_set_errno(error, -errno, "cannot map %zu bytes", bytes);
	traces->count = count;
	traces->bytes = bytes;
	*ret = traces;
	return 0;
}

void tracee_traces_free(struct tracee_traces *traces)
{
	if (traces)
		munmap(traces, traces->bytes);
}

size_t tracee_traces_count(const struct tracee_traces *traces)
{
	size_t count = 0;

	for (size_t i = 0; i < traces->count; i++)
		count += atomic_load(&traces->traces[i].state) == SLOT_FILLED;
	return count;
}

bool tracee_traces_next(const struct tracee_traces *traces, size_t *position, pid_t *ret_pid,
			uint64_t *ret_address, uint64_t *ret_size)
{
	while (*position < traces->count) {
		const struct trace *trace = &traces->traces[(*position)++];

		if (atomic_load(&trace->state) != SLOT_FILLED)
			continue;
		*ret_pid = trace->pid;
		*ret_address = trace->address;
		*ret_size = trace->size;
		return true;
	}
	return false;
}

int tracee_traces_add(struct tracee_traces *traces, pid_t pid, uint64_t address, uint64_t size)
{
	int slot;

	return traces_note(traces, pid, address, size, &slot);
}

int traces_note(struct tracee_traces *traces, pid_t pid, uint64_t address, uint64_t size,
		int *ret_slot)
{
	size_t start = atomic_load(&traces->hint);

	for (size_t n = 0; n < traces->count; n++) {
		size_t i = (start + n) % traces->count;
		struct trace *trace = &traces->traces[i];
		uint32_t expected = SLOT_FREE;

		if (!atomic_compare_exchange_strong(&trace->state, &expected, SLOT_BUSY))
			continue;
		trace->pid = pid;
		trace->address = address;
		trace->size = size;
		atomic_store(&trace->state, SLOT_FILLED);
		atomic_store(&traces->hint, i + 1);
		*ret_slot = (int)i;
		return 0;
	}
	return -ENOSPC;
}

void traces_clear(struct tracee_traces *traces, int slot)
{
	atomic_store(&traces->traces[slot].state, SLOT_FREE);
	atomic_store(&traces->hint, (size_t)slot);
}

/* ---- cleaning */

/* Is there an area of ours at this address? */
static bool holds_stub(const struct tracee_process *process, uint64_t address)
{
	const size_t size = tracee_stub_size;
	struct procfs_maps maps = { 0 };
	const struct procfs_map *map;
	_cleanup_free_ uint8_t *code = calloc(2, size);
	bool found = false;

	if (!code || procfs_read_maps(process->threads.items[0]->tid, &maps, NULL) < 0)
		return false;
	map = procfs_maps_find(&maps, address);
	if (map && map->start == address && !map->inode && !map->name && (map->prot & PROT_EXEC) &&
	    tracee_process_read(process, address, code, size, NULL) == 0)
		found = memcmp(code, tracee_stub, size) == 0 ||
			memcmp(code, code + size, size) == 0;
	procfs_maps_deinit(&maps);
	return found;
}

static bool anyone_inside(const struct tracee_process *process, const struct trace *trace)
{
	array_for_each (thread, &process->threads) {
		if ((*thread)->regs.rip - trace->address < trace->size ||
		    inject_is_under_way(*thread))
			return true;
	}
	return false;
}

/* 0: clean, -EAGAIN: a thread is still inside. */
static int clean_once(const struct trace *trace, int64_t deadline, struct error *error)
{
	const uint64_t args[6] = { trace->address, trace->size };
	struct tracee_process *process = NULL;
	int64_t result = 0;
	int r;

	r = tracee_process_stop_all(trace->pid, NULL, deadline, &process, error);
	if (r < 0)
		return r;
	if (anyone_inside(process, trace)) {
		r = -EAGAIN;
	} else if (holds_stub(process, trace->address)) {
		r = inject_call(process->threads.items[0], deadline, &result, error, SYS_munmap,
				args);
		if (r == 0 && result < 0)
			r = error_set_errno(error, (int)result,
					    "PID %d: cannot unmap the remote area", trace->pid);
	}
	tracee_process_release(process);
	return r;
}

static int clean(const struct trace *trace, int64_t deadline, struct error *error)
{
	const struct timespec pause = { .tv_sec = 0, .tv_nsec = 200 * 1000 };
	struct error local = ERROR_INIT;
	int r;

	for (;;) {
		error_clear(&local);
		r = clean_once(trace, deadline, &local);
		if (r == -ESRCH)
			return 0;
		/* -EBUSY: the kernel has not yet let go of what the dead tracer held */
		if (r != -EAGAIN && r != -EBUSY)
			break;
		if (clock_now_ns() > deadline) {
			r = r == -EAGAIN ? -ETIMEDOUT : r;
			break;
		}
		nanosleep(&pause, NULL);
	}
	return r < 0 ? error_set(error, r, "%s", error_text(&local, r)) : 0;
}

int tracee_traces_clean(struct tracee_traces *traces, int64_t deadline, struct error *error)
{
	int r = 0;

	for (size_t i = 0; i < traces->count; i++) {
		int one;

		if (atomic_load(&traces->traces[i].state) != SLOT_FILLED)
			continue;
		one = clean(&traces->traces[i], deadline, error);
		if (one == 0)
			traces_clear(traces, (int)i);
		r = r < 0 ? r : one;
	}
	return r;
}
