/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring(7): a new ring in the state of the one on the source.
 *
 * Model. The kernel counts submissions and completions by itself, so as many requests that do nothing go through the new ring
 * as went through the old one. Completions are taken only as far as they were taken there: what the kernel believes of the
 * room in the ring then holds. What is left of them is overwritten with what was there. Requests that the program has written
 * and not submitted are copied.
 *
 * At last each process that had the ring mapped gets it mapped: mm.c has kept the places. The kernel does not let one choose
 * the address of a ring. So all free address space is mapped for a moment, and then the place of the ring is the only one.
 *
 * What was registered with it is registered again: files when all are open, buffers by the process whose memory they are, when
 * its pages are there (image/ring-pages.h), numbers by the threads.
 *
 * If the source cannot tell whether IORING_SETUP_SUBMIT_ALL was set, it is: who does not count on it submits what is left after
 * an error again, and then finds nothing left.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/io-uring.h"
#include "image/mapping.h"
#include "mm.h"
#include "restore/file-kind.h"
#include "restore/io-uring.h"
#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/procfs.h"

#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define SETUP_KEPT  (IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
/* CLAMP and CQSIZE have done their work; which threads of the kernel's are shared (ATTACH_WQ) is a matter of speed. */
#define SETUP_KNOWN \
	(SETUP_KEPT | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_ATTACH_WQ | IORING_SETUP_NO_SQARRAY)

#define ADDRESS_TOP UINT64_C(0x7ffffffff000)
#define CALLS_MAX   300 /* of one batch */
#define SENT_AT_ONCE 64 /* completions */

struct ring {
	struct io_uring_params params;
	uint8_t *rings; /* mapped */
	uint8_t *sqes;	/* mapped */
	size_t rings_size, sqes_size;
};

static uint32_t *word(const struct ring *ring, uint32_t offset)
{
	return (uint32_t *)(void *)(ring->rings + offset);
}

static int check_message(const IoUring *message, struct error *error)
{
	uint32_t unread = message->cq_tail - message->cq_head, unsent = message->sq_tail - message->sq_head;

	if (message->sq_entries == 0 || message->sq_entries > 32768 || message->cq_entries > 65536 ||
	    message->sq_head > IMAGE_IO_URING_LIMIT || message->cq_tail > IMAGE_IO_URING_LIMIT ||
	    unread > message->cq_entries || message->setup & ~SETUP_KNOWN ||
	    unsent > message->sq_entries || message->sqes.len != message->sq_entries * sizeof(struct io_uring_sqe) ||
	    message->cqes.len != message->cq_entries * sizeof(struct io_uring_cqe) ||
	    message->array.len != (message->no_array ? 0 : message->sq_entries * sizeof(uint32_t)))
		return error_set(error, -EPROTO, "an io_uring is damaged");
	return restore_io_uring_check(message, error);
}

static int set_up(const IoUring *message, struct io_uring_params *params)
{
	*params = (struct io_uring_params){
		.flags = IORING_SETUP_CQSIZE | (message->no_array ? IORING_SETUP_NO_SQARRAY : 0) |
			 (message->has_setup ? message->setup & SETUP_KEPT : IORING_SETUP_SUBMIT_ALL),
		.cq_entries = message->cq_entries,
	};
	return (int)syscall(SYS_io_uring_setup, message->sq_entries, params);
}

/* ---- preflight */

int restore_io_uring_try(const IoUring *message, struct error *error)
{
	struct io_uring_params params;
	int fd, r = check_message(message, error);

	if (r < 0)
		return r;
	fd = set_up(message, &params);
	if (fd < 0)
		return 0;
	close(fd);
	return 1;
}

/* ---- the ring */

static void ring_unmap(struct ring *ring)
{
	if (ring->rings != MAP_FAILED)
		munmap(ring->rings, ring->rings_size);
	if (ring->sqes != MAP_FAILED)
		munmap(ring->sqes, ring->sqes_size);
}

static int ring_map(int fd, const IoUring *message, struct ring *ring, struct error *error)
{
	const struct io_uring_params *params = &ring->params;

	if (params->sq_entries != message->sq_entries || params->cq_entries != message->cq_entries ||
	    !(params->features & IORING_FEAT_SINGLE_MMAP))
		return error_set(error, -EOPNOTSUPP, "this kernel makes rings of another form");
	ring->rings_size = message->no_array ? params->cq_off.cqes + message->cqes.len
					     : params->sq_off.array + message->array.len;
	ring->sqes_size = message->sqes.len;
	ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
	if (ring->rings == MAP_FAILED || ring->sqes == MAP_FAILED)
		return error_set_errno(error, -errno, "mapping a ring");
	return 0;
}

/* Submits `count` requests, which lie in the ring. */
static int submit(int fd, uint32_t count, struct error *error)
{
	long r = syscall(SYS_io_uring_enter, fd, count, 0, 0, NULL, 0);

	return r == (long)count ? 0 : error_set_errno(error, r < 0 ? -errno : -EIO, "requests that do nothing");
}

/* Completions are taken as far as they were. */
static void take_completions(const IoUring *message, const struct ring *ring, uint32_t tail)
{
	__atomic_store_n(word(ring, ring->params.cq_off.head), tail < message->cq_head ? tail : message->cq_head,
			 __ATOMIC_RELEASE);
}

/* Requests that do nothing, as many as were done; those that were without a completion come last. */
static int advance(int fd, const IoUring *message, const struct ring *ring, struct error *error)
{
	const struct io_uring_params *params = &ring->params;
	struct io_uring_sqe *sqes = (void *)ring->sqes;
	uint32_t answered = message->sq_head < message->cq_tail ? message->sq_head : message->cq_tail;
	int r = 0;

	memset(ring->sqes, 0, ring->sqes_size); /* IORING_OP_NOP is 0 */
	for (uint32_t i = 0; !message->no_array && i < params->sq_entries; i++)
		word(ring, params->sq_off.array)[i] = i;
	for (uint32_t done = 0; done < message->sq_head && r == 0;) {
		uint32_t end = done < answered ? answered : message->sq_head;
		uint32_t count = end - done < params->sq_entries ? end - done : params->sq_entries;

		for (uint32_t i = 0; i < params->sq_entries && done >= answered; i++)
			sqes[i].flags = IOSQE_CQE_SKIP_SUCCESS;
		__atomic_store_n(word(ring, params->sq_off.tail), done + count, __ATOMIC_RELEASE);
		r = submit(fd, count, error);
		done += count;
		take_completions(message, ring, done);
	}
	return r;
}

/* Completions that no request of the ring's own stands for: more than one of a request. Another ring sends them. */
static int add_completions(int fd, const IoUring *message, const struct ring *ring, struct error *error)
{
	struct io_uring_params params = { .flags = IORING_SETUP_CQSIZE, .cq_entries = SENT_AT_ONCE };
	IoUring form = IO_URING__INIT;
	_cleanup_(ring_unmap) struct ring other = { .rings = MAP_FAILED, .sqes = MAP_FAILED };
	_cleanup_fd_ int from = (int)syscall(SYS_io_uring_setup, SENT_AT_ONCE, &params);
	int r;

	if (from < 0)
		return error_set_errno(error, -errno, "io_uring_setup");
	form.sq_entries = form.cq_entries = SENT_AT_ONCE;
	form.sqes.len = SENT_AT_ONCE * sizeof(struct io_uring_sqe);
	form.cqes.len = SENT_AT_ONCE * sizeof(struct io_uring_cqe);
	form.array.len = SENT_AT_ONCE * sizeof(uint32_t);
	other.params = params;
	r = ring_map(from, &form, &other, error);
	for (uint32_t i = 0; i < SENT_AT_ONCE && r == 0; i++) {
		struct io_uring_sqe *sqe = (struct io_uring_sqe *)(void *)other.sqes + i;

		*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_MSG_RING, .fd = fd, .flags = IOSQE_CQE_SKIP_SUCCESS };
		word(&other, params.sq_off.array)[i] = i;
	}
	for (uint32_t tail = message->sq_head, sent = 0; tail < message->cq_tail && r == 0;) {
		uint32_t left = message->cq_tail - tail, count = left < SENT_AT_ONCE ? left : SENT_AT_ONCE;

		if (count > message->cq_entries)
			count = message->cq_entries;
		sent += count;
		__atomic_store_n(word(&other, params.sq_off.tail), sent, __ATOMIC_RELEASE);
		r = submit(from, count, error);
		tail += count;
		take_completions(message, ring, tail);
	}
	return r;
}

static int bring_as_far(int fd, const IoUring *message, const struct ring *ring, struct error *error)
{
	const struct io_uring_params *params = &ring->params;
	int r = advance(fd, message, ring, error);

	if (r == 0 && message->cq_tail > message->sq_head)
		r = add_completions(fd, message, ring, error);
	if (r == 0 &&
	    (*word(ring, params->sq_off.head) != message->sq_head || *word(ring, params->cq_off.tail) != message->cq_tail ||
	     *word(ring, params->cq_off.overflow) != 0))
		r = error_set(error, -EIO, "an io_uring did not come out as it was");
	return r;
}

static void fill(const IoUring *message, const struct ring *ring)
{
	const struct io_uring_params *params = &ring->params;

	memcpy(ring->sqes, message->sqes.data, message->sqes.len);
	memcpy(ring->rings + params->cq_off.cqes, message->cqes.data, message->cqes.len);
	if (!message->no_array)
		memcpy(ring->rings + params->sq_off.array, message->array.data, message->array.len);
	*word(ring, params->cq_off.flags) = message->cq_flags;
	__atomic_store_n(word(ring, params->cq_off.head), message->cq_head, __ATOMIC_RELEASE);
	__atomic_store_n(word(ring, params->sq_off.tail), message->sq_tail, __ATOMIC_RELEASE);
}

static int open_io_uring(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	_cleanup_(ring_unmap) struct ring ring = { .rings = MAP_FAILED, .sqes = MAP_FAILED };
	const IoUring *message = file->message->uring;
	int r = check_message(message, error);

	if (r < 0)
		return r;
	file->fd = set_up(message, &ring.params);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "io_uring_setup");
	r = ring_map(file->fd, message, &ring, error);
	if (r == 0)
		r = bring_as_far(file->fd, message, &ring, error);
	if (r < 0)
		return r;
	fill(message, &ring);
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_io_uring = {
	.name = "io_uring",
	.type = FILE_TYPE__FILE_IO_URING,
	.open = open_io_uring,
	.finish = restore_io_uring_files,
};

/* ---- mappings of it */

static const struct restore_file *find_ring(const struct restore_tree *tree, uint32_t ino)
{
	array_for_each (file, &tree->files->list)
		if (file->message->type == FILE_TYPE__FILE_IO_URING && (uint32_t)file->message->uring->ino == ino &&
		    file->fd >= 0)
			return file;
	return NULL;
}

static int run(struct restore_tree *tree, const struct restore_process *process, struct tracee_batch *batch,
	       struct error *error)
{
	int r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);

	tracee_batch_free(batch);
	return r;
}

/* Takes the place for the mapping, which is the only free one, gives it up and maps the ring. */
static int map_one(struct restore_tree *tree, const struct restore_process *process, const struct restore_segment *segment,
		   struct error *error)
{
	const struct restore_file *file = find_ring(tree, segment->shmid);
	uint64_t size = segment->end - segment->start;
	struct tracee_batch *batch;
	int pidfd, fd, mapped, r;

	if (!file)
		return error_set(error, -EPROTO, "the io_uring mapped at %llx is not open", (unsigned long long)segment->start);
	batch = tracee_batch_new();
	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	pidfd = restore_borrow_begin(batch);
	fd = restore_borrow(batch, pidfd, file->fd);
	tracee_batch_call(batch, SYS_munmap, segment->start, size);
	mapped = tracee_batch_call(batch, SYS_mmap, 0, size, segment->prot, MAP_SHARED, TRACEE_RESULT(fd), segment->pgoff);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fd));
	restore_borrow_end(batch, pidfd);
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	if (r == 0 && (uint64_t)tracee_batch_result(batch, mapped) != segment->start)
		r = error_set(error, -EIO, "the kernel maps a ring at %llx instead of %llx",
			      (unsigned long long)tracee_batch_result(batch, mapped), (unsigned long long)segment->start);
	tracee_batch_free(batch);
	return r;
}

/* ---- the only free place */

struct hole {
	uint64_t start, end;
};

struct holes {
	ARRAY(struct hole) list;
};

/* Below this address the kernel gives no memory by itself. */
static uint64_t lowest_address(void)
{
	char text[32] = "";
	_cleanup_fd_ int fd = open("/proc/sys/vm/mmap_min_addr", O_RDONLY | O_CLOEXEC);
	uint64_t lowest = fd >= 0 && fdio_pread(fd, text, sizeof(text) - 1, 0) > 0 ? strtoull(text, NULL, 10) : 0;

	return lowest < 4096 ? 4096 : (lowest + 4095) & ~UINT64_C(4095);
}

static int find_holes(const struct restore_process *process, struct holes *ret, struct error *error)
{
	struct procfs_maps maps;
	uint64_t at = lowest_address();
	int r = procfs_read_maps(process->pid, &maps, error);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i <= maps.count; i++) {
		uint64_t start = i < maps.count && maps.items[i].start < ADDRESS_TOP ? maps.items[i].start : ADDRESS_TOP;
		struct hole hole = { at, start };

		if (start > at)
			r = array_append(&ret->list, hole);
		if (i < maps.count && maps.items[i].end > at)
			at = maps.items[i].end;
	}
	procfs_maps_deinit(&maps);
	return r < 0 ? error_set(error, r, "no memory for a list of holes") : 0;
}

/* Maps nothing into all holes, or takes it out again. */
static int fill_holes(struct restore_tree *tree, const struct restore_process *process, const struct holes *holes, bool in,
		      struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < holes->list.count; i += CALLS_MAX) {
		struct tracee_batch *batch = tracee_batch_new();

		if (!batch)
			return error_set(error, -ENOMEM, "no memory for a batch");
		for (size_t k = i; k < holes->list.count && k < i + CALLS_MAX; k++) {
			const struct hole *hole = &holes->list.items[k];

			if (in)
				tracee_batch_call(batch, SYS_mmap, hole->start, hole->end - hole->start, PROT_NONE,
						  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
						  UINT64_MAX, 0);
			else
				tracee_batch_call(batch, SYS_munmap, hole->start, hole->end - hole->start);
		}
		r = run(tree, process, batch, error);
	}
	return r;
}

static int map_process(struct restore_tree *tree, const struct restore_process *process, struct error *error)
{
	struct holes holes = { 0 };
	int r = find_holes(process, &holes, error);

	if (r == 0)
		r = fill_holes(tree, process, &holes, true, error);
	array_for_each (segment, &process->mm->now)
		if (r == 0 && segment->status & MAPPING_IO_URING)
			r = map_one(tree, process, segment, error);
	if (r == 0)
		r = fill_holes(tree, process, &holes, false, error);
	array_deinit(&holes.list);
	return r;
}

static bool has_rings(const struct restore_process *process)
{
	if (!process->mm)
		return false;
	array_for_each (segment, &process->mm->now)
		if (segment->status & MAPPING_IO_URING)
			return true;
	return false;
}

int restore_io_uring_map(struct restore_tree *tree, struct error *error)
{
	array_for_each (process, &tree->processes) {
		int r = has_rings(*process) ? map_process(tree, *process, error) : 0;

		if (r < 0)
			return error_wrap(error, r, "PID %d", (*process)->pid);
	}
	return 0;
}
