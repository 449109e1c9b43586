/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is registered with an io_uring: the mirror of dump/io-uring-objects.c.
 *
 * Model. Tables are made empty, in the size that they had, and then filled slot by slot, as a slot may be empty. Files and the
 * eventfd are registered by this program: the kernel keeps the open file, whoever registers it. Memory is that of the caller,
 * so buffers are registered by the shell; that takes each of their pages, which must be there. Numbers are a thread's own.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fdinfo.pb-c.h"
#include "restore/io-uring.h"
#include "restore/parts.h"

#define SLOTS_MAX    (1u << 20) /* of a table of files */
#define BUFFERS_MAX  (1u << 14)
#define NUMBERS_MAX  16	 /* of rings, a thread */
#define BUFFERS_ONCE 128 /* buffers of one batch */

int restore_io_uring_check(const IoUring *message, struct error *error)
{
	bool bad = message->file_slots > SLOTS_MAX || message->n_files > message->file_slots;

	for (size_t i = 0; i < message->n_files; i++)
		bad |= message->files[i]->slot >= message->file_slots;
	for (size_t i = 0; i < message->n_numbers; i++)
		bad |= message->numbers[i]->index >= NUMBERS_MAX;
	return bad ? error_set(error, -EPROTO, "what is registered with an io_uring is damaged") : 0;
}

static int ring_register(int fd, unsigned int opcode, void *argument, size_t size, struct error *error, const char *what)
{
	if (syscall(SYS_io_uring_register, fd, opcode, argument, size) < 0)
		return error_set_errno(error, -errno, "registering %s with an io_uring", what);
	return 0;
}

static int open_of(struct restore_tree *tree, uint32_t id, struct error *error)
{
	const struct restore_file *file = restore_file_find(tree->files, id);

	return file && file->fd >= 0 ? file->fd : error_set(error, -EPROTO, "a file registered with an io_uring is not open");
}

static int register_file(struct restore_tree *tree, int ring, const IoUringFile *entry, struct error *error)
{
	__s32 fd = open_of(tree, entry->file_id, error);
	__u64 tag = entry->tag;
	struct io_uring_rsrc_update2 update = {
		.offset = entry->slot, .data = (uintptr_t)&fd, .tags = (uintptr_t)&tag, .nr = 1
	};

	return fd < 0 ? fd : ring_register(ring, IORING_REGISTER_FILES_UPDATE2, &update, sizeof(update), error, "a file");
}

int restore_io_uring_files(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const IoUring *message = file->message->uring;
	struct io_uring_rsrc_register table = { .nr = message->file_slots, .flags = IORING_RSRC_REGISTER_SPARSE };
	struct io_uring_file_index_range range = { .off = message->alloc_start,
						   .len = message->alloc_end - message->alloc_start };
	int r = 0;

	if (message->file_slots)
		r = ring_register(file->fd, IORING_REGISTER_FILES2, &table, sizeof(table), error, "files");
	if (r == 0 && message->file_slots && message->alloc_end)
		r = ring_register(file->fd, IORING_REGISTER_FILE_ALLOC_RANGE, &range, 0, error, "slots to choose from");
	for (size_t i = 0; i < message->n_files && r == 0; i++)
		r = register_file(tree, file->fd, message->files[i], error);
	if (r == 0 && message->has_eventfd) {
		__s32 fd = open_of(tree, message->eventfd, error);

		r = fd < 0 ? fd
			   : ring_register(file->fd,
					   message->eventfd_async ? IORING_REGISTER_EVENTFD_ASYNC : IORING_REGISTER_EVENTFD,
					   &fd, 1, error, "an eventfd");
	}
	return r;
}

/* ---- buffers */

/* The calls that fill slots from `first` on; `ring` is the index of the call that has fetched the descriptor. */
static void add_buffers(struct tracee_batch *batch, int ring, const IoUringBuffers *message, uint32_t first, uint32_t count)
{
	struct iovec iovs[BUFFERS_ONCE];
	__u64 tags[BUFFERS_ONCE];
	struct io_uring_rsrc_update2 update = { .offset = first, .nr = count };
	uint64_t at;

	for (uint32_t i = 0; i < count; i++) {
		const IoUringBuffer *buffer = message->buffers[first + i];

		iovs[i] = (struct iovec){ .iov_base = (void *)(uintptr_t)(buffer->length ? buffer->address : 0), /* NOLINT */
					  .iov_len = buffer->length };
		tags[i] = buffer->tag;
	}
	at = tracee_batch_data(batch, &update, sizeof(update));
	tracee_batch_point(batch, at + offsetof(struct io_uring_rsrc_update2, data),
			   tracee_batch_data(batch, iovs, count * sizeof(iovs[0])));
	tracee_batch_point(batch, at + offsetof(struct io_uring_rsrc_update2, tags),
			   tracee_batch_data(batch, tags, count * sizeof(tags[0])));
	tracee_batch_call(batch, SYS_io_uring_register, TRACEE_RESULT(ring), IORING_REGISTER_BUFFERS_UPDATE, at,
			  sizeof(update));
}

static int register_buffers(struct restore_tree *tree, const struct restore_process *process, int fd,
			    const IoUringBuffers *message, uint32_t first, struct error *error)
{
	struct io_uring_rsrc_register table = { .nr = (uint32_t)message->n_buffers, .flags = IORING_RSRC_REGISTER_SPARSE };
	uint32_t left = (uint32_t)message->n_buffers - first;
	struct tracee_batch *batch = tracee_batch_new();
	int pidfd, ring, r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	pidfd = restore_borrow_begin(batch);
	ring = restore_borrow(batch, pidfd, fd);
	if (first == 0)
		tracee_batch_call(batch, SYS_io_uring_register, TRACEE_RESULT(ring), IORING_REGISTER_BUFFERS2,
				  tracee_batch_data(batch, &table, sizeof(table)), sizeof(table));
	add_buffers(batch, ring, message, first, left < BUFFERS_ONCE ? left : BUFFERS_ONCE);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(ring));
	restore_borrow_end(batch, pidfd);
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static int register_all(struct restore_tree *tree, const struct image_record *record, struct error *error)
{
	const struct restore_process *process = restore_tree_find(tree, (pid_t)record->id);
	_cleanup_message_ IoUringBuffers *message = NULL;
	int fd, r = image_unpack(record, io_uring_buffers, &message, error);

	if (r < 0)
		return r;
	if (!process || message->n_buffers > BUFFERS_MAX)
		return error_set(error, -EPROTO, "no such process, or too many buffers");
	fd = open_of(tree, message->file_id, error);
	if (fd < 0)
		return fd;
	for (uint32_t first = 0; first < message->n_buffers && r == 0; first += BUFFERS_ONCE)
		r = register_buffers(tree, process, fd, message, first, error);
	return r;
}

int restore_io_uring_buffers(struct restore_tree *tree, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(tree->images, IMAGE_RING_BUFFERS, IMAGE_ANY, &cursor))) {
		int r = register_all(tree, record, error);

		if (r < 0)
			return error_wrap(error, r, "buffers registered with an io_uring of PID %u", record->id);
	}
	return 0;
}

/* ---- numbers */

static struct tracee_thread *find_thread(const struct restore_tree *tree, pid_t tid)
{
	array_for_each (process, &tree->processes)
		array_for_each (thread, &(*process)->tracee->threads)
			if ((*thread)->tid == tid)
				return *thread;
	return NULL;
}

static int register_number(struct restore_tree *tree, struct tracee_thread *thread, const IoUringNumber *number,
			   struct error *error)
{
	struct io_uring_rsrc_update update = { .offset = number->index, .data = number->fd };
	struct tracee_batch *batch = tracee_batch_new();
	int r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	tracee_batch_call(batch, SYS_io_uring_register, number->fd, IORING_REGISTER_RING_FDS,
			  tracee_batch_data(batch, &update, sizeof(update)), 1);
	r = tracee_batch_run(thread, batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static int register_numbers(struct restore_tree *tree, const IoUring *message, struct error *error)
{
	for (size_t i = 0; i < message->n_numbers; i++) {
		struct tracee_thread *thread = find_thread(tree, (pid_t)message->numbers[i]->tid);
		int r = thread ? register_number(tree, thread, message->numbers[i], error)
			       : error_set(error, -EPROTO, "thread %u is not in the tree", message->numbers[i]->tid);

		if (r < 0)
			return error_wrap(error, r, "the number of an io_uring");
	}
	return 0;
}

int restore_io_uring_numbers(struct restore_tree *tree, struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && tree->files && i < tree->files->list.count; i++) {
		const OpenFile *message = tree->files->list.items[i].message;

		if (message->type == FILE_TYPE__FILE_IO_URING)
			r = register_numbers(tree, message->uring, error);
	}
	return r;
}
