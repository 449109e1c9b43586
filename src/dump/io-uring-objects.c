/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is registered with an io_uring: files, buffers, an eventfd, and numbers by which threads know it.
 *
 * Model. The kernel's memory shows which open file is in each slot (io-uring-kernel.c). Such a file is looked for among all
 * that the tree has open: those with the same inode are fetched, and where they are in the kernel is compared. A buffer is a
 * list of page frames. It is moved if a process that has the ring has just these frames mapped where the buffer was; it is
 * registered anew there.
 *
 * A request that uses a registered buffer writes to its frames, not through the page table: process->pins says so to those who
 * track what is written.
 *
 * Failure modes. What is not found is said by name: a file that no descriptor stands for any more, memory that has been
 * unmapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/files.h"
#include "dump/io-uring.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGE	      4096
#define FRAME_PRESENT (UINT64_C(1) << 63)
#define FRAME_NUMBER  ((UINT64_C(1) << 55) - 1)

/* ---- open files */

/* Our own descriptor of an open file of the tree. */
static int fetch(const struct dump_context *ctx, const struct dump_open *open)
{
	struct dump_process *process = dump_context_find(ctx, open->table);

	if (open->table == getpid())
		return fcntl(open->number, F_DUPFD_CLOEXEC, 0);
	return process ? (int)syscall(SYS_pidfd_getfd, process->pidfd, open->number, 0) : -1;
}

/*
 * The id of the open file whose struct file is `file`, or that keeps `data`; 0: none of the tree. `inode`: what its inode
 * number is, 0: not known.
 */
static uint32_t find_file(const struct dump_context *ctx, const struct dump_ring_kernel *kernel, uint64_t inode, uint64_t file,
			  uint64_t data)
{
	array_for_each (open, &ctx->files->open) {
		_cleanup_fd_ int fd = -1;
		uint64_t at, kept;

		if (inode ? open->ino != inode : open->type != FILE_TYPE__FILE_EVENTFD)
			continue;
		fd = fetch(ctx, open);
		if (fd >= 0 && dump_ring_kernel_file(kernel, fd, &at, &kept) == 0 && (file ? at == file : kept == data))
			return open->id;
	}
	return 0;
}

static int describe_files(const struct dump_context *ctx, const struct dump_ring_kernel *kernel,
			  const struct dump_ring_state *state, struct dump_arena *arena, IoUring *message,
			  const char **ret_special)
{
	IoUringFile *files = dump_arena_take(arena, state->files * sizeof(files[0]) + 1);

	message->files = dump_arena_take(arena, state->files * sizeof(message->files[0]) + 1);
	if (!files || !message->files)
		return -ENOMEM;
	message->has_file_slots = 1;
	message->file_slots = state->files;
	message->has_alloc_start = message->has_alloc_end = 1;
	message->alloc_start = state->alloc_start;
	message->alloc_end = state->alloc_end;
	for (uint32_t i = 0; i < state->files; i++) {
		IoUringFile *entry = &files[message->n_files];
		struct dump_ring_slot slot;
		uint64_t inode = 0;
		int r = dump_ring_kernel_slot(kernel, state, false, i, &slot);

		if (r == 0 && slot.object)
			r = dump_ring_kernel_inode(kernel, slot.object, &inode);
		if (r < 0)
			return r;
		if (!slot.object)
			continue;
		io_uring_file__init(entry);
		entry->slot = i;
		entry->tag = slot.tag;
		entry->file_id = find_file(ctx, kernel, inode, slot.object, 0);
		if (!entry->file_id)
			*ret_special = "a registered file that no descriptor stands for";
		message->files[message->n_files++] = entry;
	}
	return 0;
}

/* ---- buffers */

static size_t pages_of(const struct dump_ring_buffer *buffer)
{
	return (buffer->address % PAGE + buffer->length + PAGE - 1) / PAGE;
}

static bool is_writable(const struct dump_process *process, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < process->maps.count && start < end; i++) {
		const struct procfs_map *map = &process->maps.items[i];

		if (map->end <= start)
			continue;
		if (map->start > start || !(map->prot & PROT_WRITE))
			return false;
		start = map->end;
	}
	return start >= end;
}

/* Has the process these frames mapped there? */
static int compare_frames(const struct dump_process *process, const struct dump_ring_kernel *kernel,
			  const struct dump_ring_buffer *buffer, bool *ret)
{
	size_t count = pages_of(buffer);
	_cleanup_fd_ int fd = openat(process->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint64_t *frames = malloc(count * sizeof(*frames) + 1), *mapped = malloc(count * sizeof(*mapped) + 1);
	off_t at = (off_t)(buffer->address / PAGE * sizeof(*mapped));
	int r;

	if (!frames || !mapped || fd < 0)
		return fd < 0 ? -errno : -ENOMEM;
	r = dump_ring_kernel_frames(kernel, buffer, frames, count);
	if (r < 0)
		return r;
	*ret = fdio_pread(fd, mapped, count * sizeof(*mapped), at) == (ssize_t)(count * sizeof(*mapped)) &&
	       is_writable(process, buffer->address / PAGE * PAGE, (buffer->address / PAGE + count) * PAGE);
	for (size_t i = 0; i < count && *ret; i++)
		*ret = mapped[i] & FRAME_PRESENT && (mapped[i] & FRAME_NUMBER) == frames[i];
	return 0;
}

/* Are all of them this process's memory? */
static int compare_memory(const struct dump_process *process, const struct dump_ring_kernel *kernel,
			  const struct dump_ring_buffer *buffers, size_t count, bool *ret)
{
	int r = 0;

	*ret = true;
	for (size_t i = 0; i < count && r == 0 && *ret; i++)
		if (buffers[i].length)
			r = compare_frames(process, kernel, &buffers[i], ret);
	return r;
}

static int find_memory(const struct dump_context *ctx, const struct dump_ring_kernel *kernel, uint32_t file_id,
		       const struct dump_ring_buffer *buffers, size_t count, struct dump_process **ret)
{
	bool found = false;

	array_for_each (descriptor, &ctx->files->descriptors) {
		int r = descriptor->file_id == file_id
				? compare_memory(descriptor->process, kernel, buffers, count, &found)
				: 0;

		if (r < 0)
			return r;
		if (found) {
			*ret = descriptor->process;
			return 0;
		}
	}
	return 0;
}

/* The slots; false: one is of a kind that cannot be moved. */
static int read_buffers(const struct dump_ring_kernel *kernel, const struct dump_ring_state *state,
			struct dump_ring_buffer *buffers, IoUringBuffer *entries, bool *ret_ordinary)
{
	*ret_ordinary = true;
	for (uint32_t i = 0; i < state->buffers; i++) {
		struct dump_ring_slot slot;
		int r = dump_ring_kernel_slot(kernel, state, true, i, &slot);

		if (r == 0 && slot.object)
			r = dump_ring_kernel_buffer(kernel, slot.object, &buffers[i]);
		if (r < 0)
			return r;
		*ret_ordinary &= !slot.object || buffers[i].ordinary;
		io_uring_buffer__init(&entries[i]);
		entries[i].address = buffers[i].address;
		entries[i].length = buffers[i].length;
		entries[i].tag = slot.tag;
	}
	return 0;
}

static int describe_buffers(struct dump_context *ctx, const struct dump_ring_kernel *kernel, uint32_t file_id,
			    const struct dump_ring_state *state, struct dump_arena *arena, const char **ret_special)
{
	struct dump_ring_buffer *buffers = dump_arena_take(arena, state->buffers * sizeof(buffers[0]) + 1);
	IoUringBuffer *entries = dump_arena_take(arena, state->buffers * sizeof(entries[0]) + 1);
	IoUringBuffers message = IO_URING_BUFFERS__INIT;
	struct dump_process *memory = NULL, *owner;
	bool ordinary;
	int r;

	message.buffers = dump_arena_take(arena, state->buffers * sizeof(message.buffers[0]) + 1);
	if (!buffers || !entries || !message.buffers)
		return -ENOMEM;
	r = read_buffers(kernel, state, buffers, entries, &ordinary);
	if (r == 0 && ordinary)
		r = find_memory(ctx, kernel, file_id, buffers, state->buffers, &memory);
	if (r < 0)
		return r;
	if (!memory) {
		*ret_special = ordinary ? "registered buffers whose memory is not mapped there any more, or read-only"
					: "registered buffers that are not the program's memory";
		return 0;
	}
	owner = dump_context_find(ctx, (pid_t)memory->vm_id);
	memory = owner ? owner : memory;
	for (uint32_t i = 0; i < state->buffers; i++) {
		message.buffers[message.n_buffers++] = &entries[i];
		memory->ring_pages += buffers[i].length ? pages_of(&buffers[i]) : 0;
	}
	message.file_id = file_id;
	memory->pins = true;
	return image_set_add(ctx->images, IMAGE_RING_BUFFERS, (uint32_t)memory->pid, &message.base, NULL);
}

/* ---- numbers */

/* The descriptor of the ring in the process that has the thread; NULL: it has none, or there is no such process. */
static const struct dump_descriptor *find_descriptor(const struct dump_context *ctx, uint32_t file_id, pid_t tid)
{
	array_for_each (process, &ctx->processes)
		array_for_each (thread, &(*process)->threads) {
			if (*thread != tid)
				continue;
			array_for_each (descriptor, &ctx->files->descriptors)
				if (descriptor->file_id == file_id &&
				    (uint32_t)descriptor->process->pid == (*process)->files_id)
					return descriptor;
		}
	return NULL;
}

static bool is_in_tree(const struct dump_context *ctx, pid_t tid)
{
	array_for_each (process, &ctx->processes)
		array_for_each (thread, &(*process)->threads)
			if (*thread == tid)
				return true;
	return false;
}

static int describe_numbers(const struct dump_context *ctx, uint32_t file_id, const struct dump_ring_numbers *numbers,
			    struct dump_arena *arena, IoUring *message, const char **ret_special)
{
	IoUringNumber *entries = dump_arena_take(arena, numbers->list.count * sizeof(entries[0]) + 1);

	message->numbers = dump_arena_take(arena, numbers->list.count * sizeof(message->numbers[0]) + 1);
	if (!entries || !message->numbers)
		return -ENOMEM;
	array_for_each (number, &numbers->list) {
		const struct dump_descriptor *descriptor = find_descriptor(ctx, file_id, number->tid);
		IoUringNumber *entry = &entries[message->n_numbers];

		if (!is_in_tree(ctx, number->tid))
			continue;
		if (!descriptor) {
			*ret_special = "a thread that knows it by a registered number alone";
			continue;
		}
		io_uring_number__init(entry);
		entry->tid = (uint32_t)number->tid;
		entry->index = number->index;
		entry->fd = (uint32_t)descriptor->number;
		message->numbers[message->n_numbers++] = entry;
	}
	return 0;
}

int dump_ring_objects(struct dump_context *ctx, const struct dump_ring_kernel *kernel, uint32_t file_id,
		      const struct dump_ring_state *state, struct dump_arena *arena, IoUring *message,
		      const char **ret_special, struct error *error)
{
	struct dump_ring_numbers numbers = { 0 };
	int r = 0;

	if (state->files)
		r = describe_files(ctx, kernel, state, arena, message, ret_special);
	if (r == 0 && state->buffers)
		r = describe_buffers(ctx, kernel, file_id, state, arena, ret_special);
	if (r == 0 && state->eventfd) {
		message->has_eventfd = message->has_eventfd_async = 1;
		message->eventfd = find_file(ctx, kernel, 0, 0, state->eventfd);
		message->eventfd_async = state->eventfd_async;
		if (!message->eventfd)
			*ret_special = "a registered eventfd that no descriptor stands for";
	}
	if (r == 0)
		r = dump_ring_kernel_numbers(kernel, state, &numbers);
	if (r == 0)
		r = describe_numbers(ctx, file_id, &numbers, arena, message, ret_special);
	array_deinit(&numbers.list);
	return r < 0 ? error_set_errno(error, r, "what is registered with an io_uring") : 0;
}
