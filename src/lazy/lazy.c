/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The object, adding a shell to it, its statistics and its end. The model is in private.h. */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/cleanup.h"

/* Missing pages closer together than this share a chunk; a gap costs a bit a page. */
#define CHUNK_GAP_PAGES UINT64_C(32768)

struct extents {
	struct lazy_extent *items; /* owned */
	size_t count;
	size_t capacity;
};

int lazy_make(const struct log *log, struct lazy **ret, struct error *error)
{
	struct lazy *lazy = calloc(1, sizeof(*lazy));
	pthread_rwlockattr_t attributes;

	if (!lazy)
		return error_set(error, -ENOMEM, "no memory for post-copy");
	lazy->log = log;
	lazy->keeper_fd = -1;
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&lazy->lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	pthread_mutex_init(&lazy->waiting_lock, NULL);
	lazy->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (lazy->wake_fd < 0) {
		int r = error_set_errno(error, -errno, "cannot wait for missing pages: no eventfd");

		lazy_destroy(lazy);
		return r;
	}
	*ret = lazy;
	return 0;
}

int lazy_new(const struct log *log, struct lazy **ret, struct error *error)
{
	struct lazy *lazy;
	int r = lazy_make(log, &lazy, error);

	if (r < 0)
		return r;
	r = lazy_userfault_features(&lazy->features, error);
	if (r < 0) {
		lazy_destroy(lazy);
		return r;
	}
	*ret = lazy;
	return 0;
}

void lazy_destroy(struct lazy *lazy)
{
	array_for_each(space, &lazy->spaces)
		lazy_space_free(*space);
	array_deinit(&lazy->spaces);
	array_for_each(victim, &lazy->victims)
		close(victim->pidfd);
	array_deinit(&lazy->victims);
	array_deinit(&lazy->waiting);
	if (lazy->keeper_fd >= 0)
		close(lazy->keeper_fd);
	if (lazy->wake_fd >= 0)
		close(lazy->wake_fd);
	pthread_rwlock_destroy(&lazy->lock);
	pthread_mutex_destroy(&lazy->waiting_lock);
	free(lazy);
}

void lazy_free(struct lazy *lazy)
{
	if (!lazy)
		return;
	if (lazy_missing(lazy) > 0 && !lazy_kill(lazy)) {
		/* Closing would show zeros: rather keep the descriptors to the end of this program. */
		log_debug(lazy->log, "post-copy: processes with missing pages could not be ended; they hang");
		array_for_each(space, &lazy->spaces)
			(*space)->uffd = -1;
	}
	lazy_link_done(lazy);
	lazy_destroy(lazy);
}

void lazy_leave(struct lazy *lazy)
{
	if (!lazy)
		return;
	if (lazy->keeper_fd >= 0 && lazy_missing(lazy) > 0)
		lazy_destroy(lazy);
	else
		lazy_free(lazy);
}

int lazy_insert_space(struct lazy *lazy, struct lazy_space *space)
{
	space->id = lazy->next_id;
	if (array_append(&lazy->spaces, space) < 0)
		return -ENOMEM;
	lazy->next_id++;
	return 0;
}

struct lazy_space *lazy_find_space(const struct lazy *lazy, uint32_t id)
{
	array_for_each(space, &lazy->spaces)
		if ((*space)->id == id)
			return *space;
	return NULL;
}

uint64_t lazy_missing(const struct lazy *lazy)
{
	uint64_t missing = 0;

	array_for_each(space, &lazy->spaces)
		if (!atomic_load(&(*space)->gone))
			missing += atomic_load(&(*space)->missing);
	return missing;
}

void lazy_wake(struct lazy *lazy)
{
	uint64_t one = 1;
	ssize_t n = write(lazy->wake_fd, &one, sizeof(one));

	(void)n; /* a full counter wakes as well */
}

void lazy_reap(struct lazy *lazy)
{
	size_t kept = 0;

	pthread_rwlock_wrlock(&lazy->lock);
	for (size_t i = 0; i < lazy->spaces.count; i++) {
		struct lazy_space *space = lazy->spaces.items[i];

		if (atomic_load(&space->missing) > 0 && !atomic_load(&space->gone)) {
			lazy->spaces.items[kept++] = space;
			continue;
		}
		lazy_waiting_end(lazy, space, 0, UINT64_MAX, false);
		lazy_link_gone(lazy, space);
		lazy_space_free(space);
	}
	lazy->spaces.count = kept;
	pthread_rwlock_unlock(&lazy->lock);
}

static int compare_runs(const void *a, const void *b)
{
	const struct lazy_run *one = a, *other = b;

	return (one->address > other->address) - (one->address < other->address);
}

/* Registers the mappings that hold missing pages, and makes the extents of the chunks. `runs` are sorted. */
static int register_mappings(int fd, pid_t pid, const struct procfs_maps *maps, const struct lazy_run *runs,
			     size_t count, struct extents *extents, struct error *error)
{
	const struct procfs_map *map = NULL;

	for (size_t i = 0; i < count; i++) {
		uint64_t address = runs[i].address, end = address + runs[i].pages * LAZY_PAGE;

		while (address < end) {
			uint64_t stop;

			if (!map || address >= map->end) {
				int r;

				map = procfs_maps_find(maps, address);
				if (!map)
					return error_set(error, -EINVAL, "PID %d: missing page 0x%lx is in no mapping",
							 pid, (unsigned long)address);
				r = lazy_userfault_register(fd, map->start, map->end);
				if (r < 0)
					return error_set_errno(error, r, "PID %d: cannot wait for pages of 0x%lx-0x%lx",
							       pid, (unsigned long)map->start, (unsigned long)map->end);
			}
			stop = end < map->end ? end : map->end;
			if (extents->count > 0) {
				struct lazy_extent *last = &extents->items[extents->count - 1];
				uint64_t last_end = last->source + last->pages * LAZY_PAGE;

				if (last->source >= map->start && address - last_end <= CHUNK_GAP_PAGES * LAZY_PAGE) {
					last->pages = (stop - last->source) / LAZY_PAGE;
					address = stop;
					continue;
				}
			}
			if (array_append(extents, ((struct lazy_extent){ address, (stop - address) / LAZY_PAGE })) < 0)
				return error_set(error, -ENOMEM, "no memory for missing pages");
			address = stop;
		}
	}
	return 0;
}

static int check_runs(const struct lazy_run *runs, size_t count, struct error *error)
{
	for (size_t i = 0; i < count; i++) {
		if (runs[i].address % LAZY_PAGE || runs[i].pages == 0 || runs[i].pages > UINT64_C(1) << 35 ||
		    runs[i].address >> 47 ||
		    (i > 0 && runs[i - 1].address + runs[i - 1].pages * LAZY_PAGE > runs[i].address))
			return error_set(error, -EINVAL, "missing pages at 0x%lx: not a valid run",
					 (unsigned long)runs[i].address);
	}
	return 0;
}

/* The tables, and the space into the list; takes `fd` when it succeeds. */
static int add_space(struct lazy *lazy, pid_t pid, const struct extents *extents, const struct lazy_run *runs,
		     size_t count, int fd, struct error *error)
{
	struct lazy_space *space;
	int r = lazy_space_new(pid, extents->items, extents->count, fd, &space);

	if (r < 0)
		return error_set_errno(error, r, "PID %d: tables of missing pages", pid);
	space->pid = pid;
	r = lazy_guards_watch(space, pid, true);
	if (r < 0) {
		space->uffd = -1;
		lazy_space_free(space);
		return error_set_errno(error, r, "PID %d: pagemap", pid);
	}
	for (size_t i = 0; i < count; i++) {
		uint64_t address = runs[i].address, left = runs[i].pages;

		while (left > 0) {
			const struct lazy_chunk *chunk = lazy_space_find_chunk(space, address);
			uint64_t room = chunk->missing.bits - (address - chunk->source) / LAZY_PAGE;

			room = room < left ? room : left;
			lazy_space_set_missing(space, address, room);
			address += room * LAZY_PAGE;
			left -= room;
		}
	}
	pthread_rwlock_wrlock(&lazy->lock);
	r = lazy_insert_space(lazy, space);
	pthread_rwlock_unlock(&lazy->lock);
	if (r < 0) {
		space->uffd = -1;
		lazy_space_free(space);
		return error_set(error, r, "no memory for PID %d", pid);
	}
	lazy_link_space(lazy, space);
	return 0;
}

int lazy_add_sharer(struct lazy *lazy, const struct tracee_process *shell, struct error *error)
{
	_cleanup_fd_ int pidfd = fcntl(shell->pidfd, F_DUPFD_CLOEXEC, 0);
	int r;

	if (pidfd < 0)
		return error_set_errno(error, -errno, "PID %d: pidfd", shell->pid);
	r = lazy_victim_add(lazy, shell->pid, pidfd);
	if (r < 0)
		return error_set(error, r, "no memory for PID %d", shell->pid);
	steal_fd(&pidfd);
	return 0;
}

int lazy_add(struct lazy *lazy, struct tracee_process *shell, const struct lazy_run *missing, size_t count,
	     const struct procfs_maps *maps, int64_t deadline, struct error *error)
{
	_cleanup_(procfs_maps_deinit) struct procfs_maps own_maps = { .items = NULL };
	_cleanup_free_ struct lazy_run *runs = NULL;
	struct extents extents = { .items = NULL };
	_cleanup_fd_ int fd = -1;
	int r;

	if (count == 0)
		return 0;
	runs = malloc(count * sizeof(*runs));
	if (!runs)
		return error_set(error, -ENOMEM, "no memory for %zu runs of missing pages", count);
	memcpy(runs, missing, count * sizeof(*runs));
	qsort(runs, count, sizeof(*runs), compare_runs);
	r = check_runs(runs, count, error);
	if (r == 0 && !maps) {
		r = procfs_read_maps(shell->pid, &own_maps, error);
		maps = &own_maps;
	}
	if (r == 0)
		r = lazy_userfault_take(shell, lazy->features, deadline, &fd, error);
	if (r == 0)
		r = lazy_add_sharer(lazy, shell, error);
	if (r < 0)
		return r;
	r = register_mappings(fd, shell->pid, maps, runs, count, &extents, error);
	if (r == 0)
		r = add_space(lazy, shell->pid, &extents, runs, count, fd, error);
	if (r == 0)
		steal_fd(&fd);
	array_deinit(&extents);
	return r;
}
