/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Remote areas that stay in processes which run on between two stops: making and removing one costs a process some 300 us,
 * which the last stop of a move, whose time counts, saves.
 *
 * An area that is left is noted twice: in the hints, by which the next stop finds it again, and still in the traces, by which
 * tracee_traces_clean() removes it, also when this program is killed. Nobody but us knows its address, and a child has none
 * (MADV_DONTFORK), but a program may call execve(2), or unmap all that it finds: so it is believed only when the stub is read
 * from it again. Else it is forgotten, and another one made.
 *
 * Whoever reads the mappings of a running process must not take an area for the program's. It is known by what it is, not by
 * whose: processes that share memory see one another's. Its first page holds the stub and its size.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/pidmap.h"

#define STUB_MAX 1024 /* bytes of the stub, at most; the size of the area is behind them */

struct kept_area {
	pid_t pid;
	uint64_t address;
	uint64_t size;
	uint64_t slot_size;
	size_t slots;
	struct tracee_traces *traces; /* borrowed */
	int trace;                    /* slot in there */
};

struct kept_areas {
	ARRAY(struct kept_area) list; /* in no order */
	struct pidmap by_pid;         /* places in there, counted from 1 */
};

struct kept_areas *kept_new(void)
{
	return calloc(1, sizeof(struct kept_areas));
}

void kept_free(struct kept_areas *kept)
{
	if (!kept)
		return;
	array_deinit(&kept->list);
	pidmap_deinit(&kept->by_pid);
	free(kept);
}

/* The size of the area that begins there; 0: there is none. */
static uint64_t read_size(int mem_fd, uint64_t address)
{
	uint8_t page[STUB_MAX + sizeof(uint64_t)];
	uint64_t size;

	if (fdio_pread(mem_fd, page, sizeof(page), address) != (ssize_t)sizeof(page) ||
	    memcmp(page, tracee_stub, tracee_stub_size) != 0)
		return 0;
	memcpy(&size, page + STUB_MAX, sizeof(size));
	return size;
}

int kept_mark(struct tracee_process *process, struct error *error)
{
	return tracee_process_write(process, process->area_address + STUB_MAX, &process->area_size, sizeof(process->area_size),
				    error);
}

/* The last one takes its place. pidmap has no removal: a place whose area is another's is none. */
static void remove_at(struct kept_areas *kept, size_t place)
{
	kept->list.items[place] = kept->list.items[--kept->list.count];
	if (place < kept->list.count)
		(void)pidmap_put(&kept->by_pid, (uint32_t)kept->list.items[place].pid, (void *)(place + 1));
}

static struct kept_area *find(const struct kept_areas *kept, pid_t pid)
{
	uintptr_t place = (uintptr_t)pidmap_get(&kept->by_pid, (uint32_t)pid);

	return place && place <= kept->list.count && kept->list.items[place - 1].pid == pid ? &kept->list.items[place - 1]
											     : NULL;
}

void kept_take(struct tracee_process *process)
{
	struct tracee_private_process *own = process->own;
	struct kept_areas *kept = own->hints ? hints_kept(own->hints) : NULL;
	struct kept_area *area = kept ? find(kept, process->pid) : NULL;

	if (!area)
		return;
	if (read_size(process->mem_fd, area->address) == area->size) {
		process->area_address = area->address;
		process->area_size = area->size;
		own->slot_size = area->slot_size;
		own->slots = area->slots;
		own->slots_open = true;
		own->traces = area->traces;
		own->trace = area->trace;
	} else {
		traces_clear(area->traces, area->trace);
	}
	remove_at(kept, (size_t)(area - kept->list.items));
}

bool kept_leave(struct tracee_process *process)
{
	const struct tracee_private_process *own = process->own;
	struct kept_areas *kept = own->keep_area ? hints_kept(own->hints) : NULL;
	const struct kept_area area = { process->pid, process->area_address, process->area_size, own->slot_size,
					own->slots,   own->traces,           own->trace };

	if (!kept || !process->area_size || !own->slots_open || own->trace < 0 || process->exit_kill)
		return false;
	array_for_each (thread, &process->threads) {
		if ((*thread)->own->in_stub)
			return false;
	}
	if (array_append(&kept->list, area) < 0)
		return false;
	if (pidmap_put(&kept->by_pid, (uint32_t)process->pid, (void *)kept->list.count) < 0) {
		kept->list.count--;
		return false;
	}
	return true;
}

void tracee_hints_prune(struct tracee_hints *hints)
{
	struct kept_areas *kept = hints_kept(hints);

	for (size_t i = kept->list.count; i-- > 0;) {
		const struct kept_area *area = &kept->list.items[i];

		if (kill(area->pid, 0) == 0 || errno != ESRCH)
			continue;
		traces_clear(area->traces, area->trace);
		remove_at(kept, i);
	}
}

/* A mapping that may be the first page of one. */
static bool looks_like_stub(const struct procfs_map *map)
{
	return !map->shared && !map->inode && !map->name && map->end - map->start == PAGE_BYTES &&
	       map->prot == (PROT_READ | PROT_EXEC);
}

static void hide(struct procfs_maps *maps, size_t first, uint64_t end)
{
	size_t behind = first;

	while (behind < maps->count && maps->items[behind].end <= end)
		free(maps->items[behind++].name);
	memmove(maps->items + first, maps->items + behind, (maps->count - behind) * sizeof(*maps->items));
	maps->count -= behind - first;
}

int tracee_read_maps(pid_t pid, int mem_fd, struct procfs_maps *ret, struct error *error)
{
	_cleanup_fd_ int own_fd = -1;
	struct procfs_maps maps = { 0 };
	char path[64];
	int r = procfs_read_maps(pid, &maps, error);

	if (r < 0)
		return r;
	for (size_t i = 0; i < maps.count;) {
		uint64_t size;

		if (!looks_like_stub(&maps.items[i])) {
			i++;
			continue;
		}
		if (mem_fd < 0 && own_fd < 0) {
			snprintf(path, sizeof(path), "/proc/%d/mem", pid);
			own_fd = open(path, O_RDONLY | O_CLOEXEC);
		}
		size = read_size(mem_fd < 0 ? own_fd : mem_fd, maps.items[i].start);
		if (size)
			hide(&maps, i, maps.items[i].start + size);
		else
			i++;
	}
	*ret = maps;
	return 0;
}
