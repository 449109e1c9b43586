/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings of Linux AIO (io_setup(2)).
 *
 * Model. A ring is a mapping that the kernel made, whose address is the number of the context. Its first bytes tell how many
 * events it has room for, and from where to where events lie that nobody has fetched. They travel with the mapping.
 *
 * Requests in flight are shown nowhere. Of a stopped process no new ones come, and those on files end by themselves, so where
 * files are open with O_DIRECT (all others are served by io_submit(2) itself) a time without any event is waited for.
 * IOCB_CMD_POLL, which may wait for ever, is seen in the kernel's memory, if that can be read (io-uring-kernel.c).
 *
 * Failure modes: a ring of a parent, which a fork leaves as plain memory in the child, is a blocker; so are requests that go
 * on ending, or that wait for a descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <string.h>
#include <unistd.h>

#include "dump/io-uring.h"
#include "dump/parts.h"
#include "image/aio.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"

#define QUIET_US    10000
#define DEADLINE_NS (CLOCK_S / 5)

bool dump_aio_is(const struct procfs_map *map)
{
	return map->name && strncmp(map->name, "/[aio]", 6) == 0;
}

/* The parent, or one of its, has the same ring: its own. */
static bool is_inherited(const struct dump_context *ctx, const struct dump_process *process, const struct procfs_map *map)
{
	array_for_each(other, &ctx->processes) {
		if (*other == process)
			return false;
		array_for_each(candidate, &(*other)->maps)
			if (dump_aio_is(candidate) && candidate->inode == map->inode && candidate->start == map->start)
				return true;
	}
	return false;
}

static int read_head(int mem_fd, const struct procfs_map *map, struct image_aio_head *ret, struct error *error)
{
	ssize_t got = fdio_pread(mem_fd, ret, sizeof(*ret), (off_t)map->start);

	if (got != (ssize_t)sizeof(*ret))
		return error_set_errno(error, got < 0 ? (int)got : -EIO, "reading a ring of asynchronous I/O");
	if (ret->magic != IMAGE_AIO_MAGIC || ret->length != sizeof(*ret) || ret->nr == 0 || ret->tail >= ret->nr ||
	    ret->nr > (map->end - map->start - sizeof(*ret)) / sizeof(struct io_event))
		return error_set(error, -EPROTO, "a ring of asynchronous I/O is of an unknown form");
	ret->head %= ret->nr;
	return 0;
}

/* 1: no event came for some time; 0: they go on. */
static int wait_quiet(int mem_fd, const struct procfs_map *map, struct image_aio_head *head, struct error *error)
{
	int64_t deadline = clock_deadline(DEADLINE_NS);
	uint32_t before;
	int r;

	do {
		before = head->tail;
		usleep(QUIET_US);
		r = read_head(mem_fd, map, head, error);
		if (r < 0 || head->tail == before)
			return r < 0 ? r : 1;
	} while (clock_now_ns() < deadline);
	return 0;
}

static int read_events(int mem_fd, const struct procfs_map *map, const struct image_aio_head *head, struct dump_arena *arena,
		       AioRing *ring, struct error *error)
{
	uint32_t count = (head->tail + head->nr - head->head) % head->nr;
	struct io_event *events = dump_arena_take(arena, count * sizeof(*events) + 1);

	if (!events)
		return error_set(error, -ENOMEM, "no memory for events of asynchronous I/O");
	for (uint32_t i = 0; i < count; i++) {
		off_t at = (off_t)(map->start + sizeof(*head) + (head->head + i) % head->nr * sizeof(*events));

		if (fdio_pread(mem_fd, &events[i], sizeof(*events), at) != (ssize_t)sizeof(*events))
			return error_set(error, -EIO, "reading events of asynchronous I/O");
	}
	ring->has_events = 1;
	ring->events.data = (uint8_t *)events;
	ring->events.len = count * sizeof(*events);
	return 0;
}

static bool waits_for_descriptor(struct dump_context *ctx, const struct dump_process *process, const struct procfs_map *map)
{
	const struct dump_ring_kernel *kernel = dump_ring_kernel_get(ctx);
	bool waits = false;

	return kernel && dump_ring_kernel_aio(kernel, process->pidfd, process->pid, map->start, &waits) == 0 && waits;
}

int dump_aio_map(struct dump_context *ctx, struct dump_process *process, const struct procfs_map *map,
		 struct dump_arena *arena, AioRing **ret, struct error *error)
{
	_cleanup_fd_ int mem_fd = openat(process->proc_fd, "mem", O_RDONLY | O_CLOEXEC);
	AioRing *ring = dump_arena_take(arena, sizeof(*ring));
	struct image_aio_head head;
	int r;

	if (mem_fd < 0 || !ring)
		return error_set_errno(error, ring ? -errno : -ENOMEM, "looking at a ring of asynchronous I/O");
	*ret = NULL;
	process->pins |= process->reads_direct;
	if (is_inherited(ctx, process, map)) {
		dump_refuse(ctx, process->pid, "mapping", IMAGE_KIND_AIO_OTHER, "%llx-%llx %s",
			    (unsigned long long)map->start, (unsigned long long)map->end, map->name);
		return 0;
	}
	if (waits_for_descriptor(ctx, process, map)) {
		dump_refuse(ctx, process->pid, "mapping", IMAGE_KIND_AIO_POLL, "%llx-%llx %s", (unsigned long long)map->start,
			    (unsigned long long)map->end, map->name);
		return 0;
	}
	r = read_head(mem_fd, map, &head, error);
	if (r == 0 && process->tracee && process->reads_direct) {
		r = wait_quiet(mem_fd, map, &head, error);
		if (r == 0)
			dump_refuse(ctx, process->pid, "mapping", IMAGE_KIND_AIO_OTHER, "%llx-%llx %s",
				    (unsigned long long)map->start, (unsigned long long)map->end, map->name);
		if (r <= 0)
			return r;
		r = 0;
	}
	if (r < 0)
		return r;
	aio_ring__init(ring);
	ring->id = map->start;
	ring->nr_req = head.nr;
	ring->ring_len = (uint32_t)(map->end - map->start);
	ring->has_head = ring->has_tail = 1;
	ring->head = head.head;
	ring->tail = head.tail;
	r = read_events(mem_fd, map, &head, arena, ring, error);
	if (r == 0)
		*ret = ring;
	return r;
}
