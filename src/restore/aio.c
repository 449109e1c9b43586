/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings of Linux AIO.
 *
 * Model. The layout has kept the place of a ring free (mm.c maps what cannot be touched there). While the shell has no
 * descriptors, io_setup(2) makes a ring of the same size, and mremap(2) moves it to its place, which gives the context its old
 * number. The kernel counts events by itself, so it has to see as many: reads of /dev/null, which end at once. As many as the
 * ring's head says are fetched again; those that are left stand for the events that nobody has fetched on the source, and are
 * overwritten with them.
 *
 * Failure modes. The kernel makes rings larger by the number of CPUs: a ring smaller than the smallest here is a blocker.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/aio.h"
#include "restore/parts.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define CHUNK	    64 /* requests of one io_submit() */
#define CHUNKS_MAX  80 /* of one batch */
#define NULL_NUMBER 1  /* of /dev/null in the shell: behind the pidfd, which is 0 */

/* Events that a ring of that size has room for, and what to ask io_setup(2) for to get it: the kernel doubles, and adds 2. */
static uint32_t room_of(const AioRing *ring)
{
	return (uint32_t)((ring->ring_len - sizeof(struct image_aio_head)) / sizeof(struct io_event));
}

static uint32_t request_for(const AioRing *ring)
{
	return (room_of(ring) - 2) / 2;
}

static int check_ring(const AioRing *ring, struct error *error)
{
	uint32_t nr = ring->ring_len > 4095 ? room_of(ring) : 0;
	uint32_t waiting = nr ? (ring->tail + nr - ring->head) % nr : 0;

	if (nr == 0 || ring->ring_len & 4095 || ring->head >= nr || ring->tail >= nr ||
	    ring->events.len != waiting * sizeof(struct io_event))
		return error_set(error, -EPROTO, "a ring of asynchronous I/O is damaged");
	return 0;
}

/* ---- preflight */

static uint32_t possible_cpus(void)
{
	char text[64];
	unsigned int first = 0, last = 0;
	_cleanup_fd_ int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : fdio_pread(fd, text, sizeof(text) - 1, 0);

	text[got > 0 ? got : 0] = '\0';
	return sscanf(text, "%u-%u", &first, &last) == 2 ? last + 1 : 1;
}

int restore_aio_check(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_MM, IMAGE_ANY, &cursor))) {
		_cleanup_message_ AddressSpace *mm = NULL;
		int r = image_unpack(record, address_space, &mm, error);

		for (size_t i = 0; r == 0 && i < mm->n_aios; i++) {
			r = check_ring(mm->aios[i], error);
			if (r == 0 && request_for(mm->aios[i]) < 4 * possible_cpus())
				image_blockers_add(blockers, (pid_t)record->id, "mapping",
						   "this host has more CPUs, for which the kernel makes larger rings",
						   "restore on a host with fewer CPUs, or end the asynchronous I/O",
						   "%llx [aio]", (unsigned long long)mm->aios[i]->id);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- making a ring */

static int run(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
	       struct error *error)
{
	return tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
}

/* Makes the context; its number until it is moved. */
static int set_up(struct restore_tree *tree, const struct restore_process *process, const AioRing *ring, uint64_t *ret,
		  struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	uint64_t place;
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	place = tracee_batch_space(batch, sizeof(uint64_t));
	tracee_batch_call(batch, SYS_io_setup, request_for(ring), place);
	r = run(tree, process, batch, error);
	if (r == 0)
		memcpy(ret, tracee_batch_output(batch, place), sizeof(*ret));
	tracee_batch_free(batch);
	return r;
}

/* Adds `count` requests that end at once; `fetch`: their events are taken. */
static void add_requests(struct tracee_batch *batch, const AioRing *ring, uint32_t count, bool fetch)
{
	struct iocb request = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = NULL_NUMBER };
	uint64_t list[CHUNK] = { 0 }, one = tracee_batch_data(batch, &request, sizeof(request));
	uint64_t all = tracee_batch_data(batch, list, count * sizeof(list[0]));

	for (uint32_t i = 0; i < count; i++)
		tracee_batch_point(batch, all + i * sizeof(list[0]), one);
	tracee_batch_call(batch, SYS_io_submit, ring->id, count, all);
	if (fetch)
		tracee_batch_call(batch, SYS_io_getevents, ring->id, count, count,
				  tracee_batch_space(batch, count * sizeof(struct io_event)), 0);
}

/* One batch of requests, `total` at most; returns how many. */
static int advance_some(struct restore_tree *tree, const struct restore_process *process, const AioRing *ring, int null_fd,
			uint32_t total, bool fetch, struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	uint32_t added = 0;
	int pidfd, null, r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	pidfd = restore_borrow_begin(batch);
	null = restore_borrow(batch, pidfd, null_fd);
	for (int i = 0; i < CHUNKS_MAX && added < total; i++) {
		uint32_t count = total - added < CHUNK ? total - added : CHUNK;

		add_requests(batch, ring, count, fetch);
		added += count;
	}
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(null));
	restore_borrow_end(batch, pidfd);
	r = run(tree, process, batch, error);
	tracee_batch_free(batch);
	return r < 0 ? r : (int)added;
}

static int advance(struct restore_tree *tree, const struct restore_process *process, const AioRing *ring, uint32_t total,
		   bool fetch, struct error *error)
{
	_cleanup_fd_ int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int r = null_fd < 0 ? error_set_errno(error, -errno, "/dev/null") : 0;

	for (uint32_t done = 0; r >= 0 && done < total; done += (uint32_t)r) {
		r = advance_some(tree, process, ring, null_fd, total - done, fetch, error);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : 0;
}

static int move(struct restore_tree *tree, const struct restore_process *process, const AioRing *ring, uint64_t from,
		struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	tracee_batch_call(batch, SYS_mremap, from, ring->ring_len, ring->ring_len, MREMAP_MAYMOVE | MREMAP_FIXED, ring->id);
	r = run(tree, process, batch, error);
	tracee_batch_free(batch);
	return r;
}

static int compare_head(const struct restore_process *process, const AioRing *ring, struct error *error)
{
	struct image_aio_head head = { 0 };

	if (pread(process->tracee->mem_fd, &head, sizeof(head), (off_t)ring->id) != (ssize_t)sizeof(head) ||
	    head.magic != IMAGE_AIO_MAGIC || head.nr != room_of(ring) || head.head != ring->head || head.tail != ring->tail)
		return error_set(error, -EIO, "a ring of asynchronous I/O did not come out as it was: room for %u, %u to %u",
				 head.nr, head.head, head.tail);
	return 0;
}

static int write_events(const struct restore_process *process, const AioRing *ring, struct error *error)
{
	const size_t size = sizeof(struct io_event);

	for (size_t i = 0; i * size < ring->events.len; i++) {
		size_t place = (ring->head + i) % room_of(ring);

		if (pwrite(process->tracee->mem_fd, ring->events.data + i * size, size,
			   (off_t)(ring->id + sizeof(struct image_aio_head) + place * size)) != (ssize_t)size)
			return error_set_errno(error, -errno, "writing events of asynchronous I/O");
	}
	return 0;
}

static int make_ring(struct restore_tree *tree, const struct restore_process *process, const AioRing *ring,
		     struct error *error)
{
	uint64_t made = 0;
	int r = check_ring(ring, error);

	if (r == 0)
		r = set_up(tree, process, ring, &made, error);
	if (r == 0)
		r = move(tree, process, ring, made, error);
	if (r == 0)
		r = advance(tree, process, ring, ring->head, true, error);
	if (r == 0)
		r = advance(tree, process, ring, (uint32_t)(ring->events.len / sizeof(struct io_event)), false, error);
	if (r == 0)
		r = compare_head(process, ring, error);
	return r < 0 ? r : write_events(process, ring, error);
}

int restore_aio(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	_cleanup_message_ AddressSpace *mm = NULL;
	int r = restore_get(tree->images, IMAGE_MM, (uint32_t)process->pid, address_space, &mm, error);

	for (size_t i = 0; r == 0 && i < mm->n_aios; i++) {
		r = make_ring(tree, process, mm->aios[i], error);
		if (r < 0)
			error_wrap(error, r, "asynchronous I/O at %llx", (unsigned long long)mm->aios[i]->id);
	}
	return r;
}
