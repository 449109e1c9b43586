/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An io_uring as the kernel's own memory shows it (dump/kernel.h), for io-uring.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dump/file-kind.h"
#include "pagestream-files.pb-c.h"

/* ---- io-uring-kernel.c: what is where */

struct dump_ring_kernel;

/* What a ring is, and has. Addresses are the kernel's. */
struct dump_ring_state {
	uint64_t file;		 /* of its struct file */
	uint64_t context;	 /* of its struct io_ring_ctx */
	uint32_t setup;		 /* IORING_SETUP_* */
	uint32_t in_flight;	 /* requests that have not ended */
	uint32_t files, buffers; /* slots of the tables of files and buffers */
	uint32_t alloc_start, alloc_end; /* slots that the kernel itself may choose */
	uint64_t eventfd;	 /* of its struct eventfd_ctx; 0: none */
	bool eventfd_async;	 /* only for what ends asynchronously */
	const char *refused;	 /* what it has that cannot be moved, or NULL */
};

/* A slot of a table. */
struct dump_ring_slot {
	uint64_t object; /* struct file, or struct io_mapped_ubuf; 0: the slot is empty */
	uint64_t tag;	 /* of the completion when it goes */
};

/* A registered buffer. */
struct dump_ring_buffer {
	uint64_t address;
	uint32_t length;
	uint32_t parts;	 /* pieces of memory that are next to each other in the machine */
	uint64_t list;	 /* of them */
	bool ordinary;	 /* the program's memory, for both directions */
};

/* A thread that knows the ring by a number of its own (IORING_REGISTER_RING_FDS). */
struct dump_ring_number {
	pid_t tid;
	uint32_t index;
};

struct dump_ring_numbers {
	ARRAY(struct dump_ring_number) list;
};

/* -EOPNOTSUPP, -EPERM, ...: this kernel does not show its memory, or has its rings in another form. Some 10 ms. */
int dump_ring_kernel_open(struct dump_ring_kernel **ret, struct error *error);
void dump_ring_kernel_free(struct dump_ring_kernel *kernel);

/* Of our own descriptor: its struct file, and what the kind of file keeps of it. */
int dump_ring_kernel_file(const struct dump_ring_kernel *kernel, int fd, uint64_t *ret_file, uint64_t *ret_data);
/* Inode number of a struct file. */
int dump_ring_kernel_inode(const struct dump_ring_kernel *kernel, uint64_t file, uint64_t *ret);
/* `fd`: our descriptor of the ring. -EFAULT, or what else reading fails with: the ring is changing. */
int dump_ring_kernel_state(const struct dump_ring_kernel *kernel, int fd, struct dump_ring_state *ret);
/* Slot `index` of the table of files (or buffers). */
int dump_ring_kernel_slot(const struct dump_ring_kernel *kernel, const struct dump_ring_state *state, bool buffers,
			  uint32_t index, struct dump_ring_slot *ret);
int dump_ring_kernel_buffer(const struct dump_ring_kernel *kernel, uint64_t object, struct dump_ring_buffer *ret);
/* Page frames of a buffer, `count` of them from its first page on. */
int dump_ring_kernel_frames(const struct dump_ring_kernel *kernel, const struct dump_ring_buffer *buffer, uint64_t *frames,
			    size_t count);
int dump_ring_kernel_numbers(const struct dump_ring_kernel *kernel, const struct dump_ring_state *state,
			     struct dump_ring_numbers *ret);

/*
 * Linux AIO, which is understood likewise: has the context of that number requests that wait for a descriptor (IOCB_CMD_POLL)?
 * -ENOENT: there is no such context.
 */
int dump_ring_kernel_aio(const struct dump_ring_kernel *kernel, int pidfd, pid_t pid, uint64_t number, bool *ret_waits);

/* io-uring.c: the reader, opened when it is first wanted; NULL: there is none. */
const struct dump_ring_kernel *dump_ring_kernel_get(struct dump_context *ctx);

/* ---- io-uring-objects.c */

/*
 * What is registered with the ring into `message`; arrays are in the arena. `ret_special`: what of it cannot be moved, or
 * untouched. After all descriptors were collected.
 */
int dump_ring_objects(struct dump_context *ctx, const struct dump_ring_kernel *kernel, uint32_t file_id,
		      const struct dump_ring_state *state, struct dump_arena *arena, IoUring *message,
		      const char **ret_special, struct error *error);
