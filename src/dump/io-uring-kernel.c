/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring(7) in the kernel's memory.
 *
 * Model. A table names the members of the kernel's structures that are of use; where they are is looked up once in the
 * kernel's own description of its types. What is not there under that name is not understood: then there is no reader, and
 * rings are told from outside (io-uring.c). From our descriptor of a ring the way leads over our table of descriptors to its
 * context.
 *
 * Requests are kept for later ones when they have ended, in a list of free ones. So those that are in flight are the others.
 *
 * The kernel describes a page frame by a structure in one long array. Where the array begins is found with a page of our own,
 * registered with a ring of our own.
 *
 * Failure modes. What is read may change while the process runs: an address where nothing is, or a list that does not end, is
 * -EFAULT. At the freeze nobody changes it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dump/io-uring.h"
#include "dump/kernel.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGE	     4096
#define REQUESTS_MAX 1000000 /* of a list of free ones */
#define TASKS_MAX    100000  /* that have used a ring */
#define NUMBERS_MAX  16	     /* of rings, a thread (IO_RINGFD_REG_MAX) */
#define CONTEXTS_MAX 1000000 /* of asynchronous I/O, a process */
#define LIST_SIZE    8	     /* the head of such a list: struct hlist_head */
#define LINK_SIZE    16	     /* struct hlist_node */
#define PARTS_CHUNK  1024    /* pieces of a buffer that are read at once */
#define FRAME_PRESENT (UINT64_C(1) << 63)
#define FRAME_NUMBER  ((UINT64_C(1) << 55) - 1)

/* Flags that are newer than Debian's headers. */
#define SETUP_NO_MMAP		(1U << 14)
#define SETUP_REGISTERED_FD	(1U << 15)
#define SETUP_NO_SQARRAY	(1U << 16)

enum member {
	TASK_FILES,
	TASK_PID,
	TASK_RINGS,
	FILES_TABLE,
	TABLE_FILES,
	FILE_INODE,
	FILE_DATA,
	INODE_NUMBER,
	PID_LEVEL,
	PID_NUMBERS,
	NUMBER_VALUE,
	RING_FLAGS,
	RING_FILES,
	RING_FILE_NODES,
	RING_BUFFERS,
	RING_BUFFER_NODES,
	RING_ALLOC_START,
	RING_ALLOC_END,
	RING_EVENTFD,
	RING_GROUPS,
	RING_RESTRICTED,
	RING_CLOCK,
	RING_MEMORY,
	RING_RECEIVE,
	RING_TASKS,
	RING_ALLOCATED,
	RING_FREE,
	EVENTFD_CONTEXT,
	EVENTFD_ASYNC,
	NODE_TAG,
	NODE_FILE,
	NODE_BUFFER,
	BUFFER_ADDRESS,
	BUFFER_LENGTH,
	BUFFER_PARTS,
	BUFFER_LIST,
	BUFFER_KERNEL,
	BUFFER_DIRECTION,
	PART_PAGE,
	PART_LENGTH,
	PART_OFFSET,
	USER_TASK,
	USER_RINGS,
	FREE_NEXT,
	INODE_PRIVATE,
	PID_TASKS,
	TASK_LINKS,
	TASK_MEMORY,
	MEMORY_CONTEXTS,
	CONTEXTS_COUNT,
	CONTEXTS_LIST,
	CONTEXT_NUMBER,
	CONTEXT_WAITING,
	MEMBERS
};

static const struct {
	const char *structure, *path;
} members[MEMBERS] = {
	[TASK_FILES] = { "task_struct", "files" },
	[TASK_PID] = { "task_struct", "thread_pid" },
	[TASK_RINGS] = { "task_struct", "io_uring" },
	[FILES_TABLE] = { "files_struct", "fdt" },
	[TABLE_FILES] = { "fdtable", "fd" },
	[FILE_INODE] = { "file", "f_inode" },
	[FILE_DATA] = { "file", "private_data" },
	[INODE_NUMBER] = { "inode", "i_ino" },
	[PID_LEVEL] = { "pid", "level" },
	[PID_NUMBERS] = { "pid", "numbers" },
	[NUMBER_VALUE] = { "upid", "nr" },
	[RING_FLAGS] = { "io_ring_ctx", "flags" },
	[RING_FILES] = { "io_ring_ctx", "file_table.data.nr" },
	[RING_FILE_NODES] = { "io_ring_ctx", "file_table.data.nodes" },
	[RING_BUFFERS] = { "io_ring_ctx", "buf_table.nr" },
	[RING_BUFFER_NODES] = { "io_ring_ctx", "buf_table.nodes" },
	[RING_ALLOC_START] = { "io_ring_ctx", "file_alloc_start" },
	[RING_ALLOC_END] = { "io_ring_ctx", "file_alloc_end" },
	[RING_EVENTFD] = { "io_ring_ctx", "io_ev_fd" },
	[RING_GROUPS] = { "io_ring_ctx", "io_bl_xa.xa_head" },
	[RING_RESTRICTED] = { "io_ring_ctx", "restricted" },
	[RING_CLOCK] = { "io_ring_ctx", "clockid" },
	[RING_MEMORY] = { "io_ring_ctx", "param_region.nr_pages" },
	[RING_RECEIVE] = { "io_ring_ctx", "zcrx_ctxs.xa_head" },
	[RING_TASKS] = { "io_ring_ctx", "tctx_list" },
	[RING_ALLOCATED] = { "io_ring_ctx", "nr_req_allocated" },
	[RING_FREE] = { "io_ring_ctx", "submit_state.free_list.next" },
	[EVENTFD_CONTEXT] = { "io_ev_fd", "cq_ev_fd" },
	[EVENTFD_ASYNC] = { "io_ev_fd", "eventfd_async" },
	[NODE_TAG] = { "io_rsrc_node", "tag" },
	[NODE_FILE] = { "io_rsrc_node", "file_ptr" },
	[NODE_BUFFER] = { "io_rsrc_node", "buf" },
	[BUFFER_ADDRESS] = { "io_mapped_ubuf", "ubuf" },
	[BUFFER_LENGTH] = { "io_mapped_ubuf", "len" },
	[BUFFER_PARTS] = { "io_mapped_ubuf", "nr_bvecs" },
	[BUFFER_LIST] = { "io_mapped_ubuf", "bvec" },
	[BUFFER_KERNEL] = { "io_mapped_ubuf", "is_kbuf" },
	[BUFFER_DIRECTION] = { "io_mapped_ubuf", "dir" },
	[PART_PAGE] = { "bio_vec", "bv_page" },
	[PART_LENGTH] = { "bio_vec", "bv_len" },
	[PART_OFFSET] = { "bio_vec", "bv_offset" },
	[USER_TASK] = { "io_tctx_node", "task" },
	[USER_RINGS] = { "io_uring_task", "registered_rings" },
	[FREE_NEXT] = { "io_wq_work_node", "next" },
	[INODE_PRIVATE] = { "inode", "i_private" },
	[PID_TASKS] = { "pid", "tasks" },
	[TASK_LINKS] = { "task_struct", "pid_links" },
	[TASK_MEMORY] = { "task_struct", "mm" },
	[MEMORY_CONTEXTS] = { "mm_struct", "ioctx_table" },
	[CONTEXTS_COUNT] = { "kioctx_table", "nr" },
	[CONTEXTS_LIST] = { "kioctx_table", "table" },
	[CONTEXT_NUMBER] = { "kioctx", "user_id" },
	[CONTEXT_WAITING] = { "kioctx", "active_reqs" },
};

struct dump_ring_kernel {
	struct dump_kernel *memory; /* owned */
	struct dump_kernel_member members[MEMBERS];
	uint32_t page_size; /* of what describes a page frame, */
	uint64_t pages;	    /* ... and where the array of them begins */
	uint32_t part_size; /* of struct bio_vec */
	uint32_t number_size; /* of struct upid */
};

/* Reading that goes on after a failure, which is then found in `failed`. */
struct reading {
	const struct dump_ring_kernel *kernel;
	int failed; /* 0, or a negative errno */
};

static void take_bytes(struct reading *reading, uint64_t address, void *to, size_t size)
{
	if (reading->failed == 0)
		reading->failed = dump_kernel_read(reading->kernel->memory, address, to, size);
	if (reading->failed < 0)
		memset(to, 0, size);
}

/* A member of the structure at `address`, as a number; 0 after a failure. */
static uint64_t take(struct reading *reading, uint64_t address, enum member index)
{
	const struct dump_kernel_member *member = &reading->kernel->members[index];
	uint64_t value = 0;

	if (reading->failed == 0 && address == 0)
		reading->failed = -EFAULT;
	take_bytes(reading, address + member->offset, &value, member->bits ? 1 : member->size);
	return member->bits ? value >> member->shift & ((1u << member->bits) - 1) : value;
}

static uint64_t place(const struct reading *reading, uint64_t address, enum member index)
{
	return address + reading->kernel->members[index].offset;
}

/* ---- files */

int dump_ring_kernel_file(const struct dump_ring_kernel *kernel, int fd, uint64_t *ret_file, uint64_t *ret_data)
{
	struct reading reading = { .kernel = kernel };
	uint64_t task = 0, table, file = 0, data;

	reading.failed = dump_kernel_task(kernel->memory, &task);
	table = take(&reading, take(&reading, take(&reading, task, TASK_FILES), FILES_TABLE), TABLE_FILES);
	take_bytes(&reading, table + (uint64_t)fd * sizeof(file), &file, sizeof(file));
	data = take(&reading, file, FILE_DATA);
	if (reading.failed < 0)
		return reading.failed;
	*ret_file = file;
	*ret_data = data;
	return 0;
}

int dump_ring_kernel_inode(const struct dump_ring_kernel *kernel, uint64_t file, uint64_t *ret)
{
	struct reading reading = { .kernel = kernel };
	uint64_t number = take(&reading, take(&reading, file, FILE_INODE), INODE_NUMBER);

	if (reading.failed == 0)
		*ret = number;
	return reading.failed;
}

/* ---- the ring */

/* What sets it apart from rings that can be made again. */
static const char *find_special(struct reading *reading, uint64_t ring, uint32_t setup)
{
	static const struct {
		uint32_t flags;
		const char *what;
	} kinds[] = {
		{ IORING_SETUP_IOPOLL, "completions that are polled for (IORING_SETUP_IOPOLL)" },
		{ IORING_SETUP_SQPOLL, "a kernel thread that polls it (IORING_SETUP_SQPOLL)" },
		{ IORING_SETUP_SINGLE_ISSUER, "one thread that may use it (IORING_SETUP_SINGLE_ISSUER)" },
		{ IORING_SETUP_SQE128 | IORING_SETUP_CQE32, "entries of another size" },
		{ IORING_SETUP_R_DISABLED, "restrictions, or is not enabled yet" },
		{ SETUP_NO_MMAP | SETUP_REGISTERED_FD, "memory of the program's (IORING_SETUP_NO_MMAP)" },
	};
	const uint32_t known = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
			       IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_ATTACH_WQ |
			       SETUP_NO_SQARRAY;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (setup & kinds[i].flags)
			return kinds[i].what;
	return setup & ~known			     ? "flags that are not known"
	       : take(reading, ring, RING_RESTRICTED) ? "restrictions"
	       : take(reading, ring, RING_GROUPS)     ? "provided buffers"
	       : take(reading, ring, RING_MEMORY)     ? "a registered region of memory"
	       : take(reading, ring, RING_RECEIVE)    ? "receive queues of a network card"
	       : take(reading, ring, RING_CLOCK) != CLOCK_MONOTONIC ? "a clock of its own"
						      : NULL;
}

static uint32_t count_in_flight(struct reading *reading, uint64_t ring)
{
	uint32_t allocated = (uint32_t)take(reading, ring, RING_ALLOCATED), idle = 0;
	uint64_t request = take(reading, ring, RING_FREE);

	while (request && idle < REQUESTS_MAX && reading->failed == 0) {
		idle++;
		request = take(reading, request, FREE_NEXT);
	}
	if (idle > allocated)
		reading->failed = -EFAULT;
	return allocated - idle;
}

int dump_ring_kernel_state(const struct dump_ring_kernel *kernel, int fd, struct dump_ring_state *ret)
{
	struct reading reading = { .kernel = kernel };
	struct dump_ring_state state = { 0 };
	uint64_t eventfd;
	int r = dump_ring_kernel_file(kernel, fd, &state.file, &state.context);

	if (r < 0)
		return r;
	state.setup = (uint32_t)take(&reading, state.context, RING_FLAGS);
	state.in_flight = count_in_flight(&reading, state.context);
	state.files = (uint32_t)take(&reading, state.context, RING_FILES);
	state.buffers = (uint32_t)take(&reading, state.context, RING_BUFFERS);
	state.alloc_start = (uint32_t)take(&reading, state.context, RING_ALLOC_START);
	state.alloc_end = (uint32_t)take(&reading, state.context, RING_ALLOC_END);
	state.refused = find_special(&reading, state.context, state.setup);
	eventfd = take(&reading, state.context, RING_EVENTFD);
	if (eventfd) {
		state.eventfd = take(&reading, eventfd, EVENTFD_CONTEXT);
		state.eventfd_async = take(&reading, eventfd, EVENTFD_ASYNC) & 1;
	}
	if (reading.failed == 0)
		*ret = state;
	return reading.failed;
}

int dump_ring_kernel_slot(const struct dump_ring_kernel *kernel, const struct dump_ring_state *state, bool buffers,
			  uint32_t index, struct dump_ring_slot *ret)
{
	struct reading reading = { .kernel = kernel };
	uint64_t nodes = take(&reading, state->context, buffers ? RING_BUFFER_NODES : RING_FILE_NODES), node = 0;
	struct dump_ring_slot slot = { 0 };

	take_bytes(&reading, nodes + index * sizeof(node), &node, sizeof(node));
	if (node && reading.failed == 0) {
		slot.object = take(&reading, node, buffers ? NODE_BUFFER : NODE_FILE);
		slot.tag = take(&reading, node, NODE_TAG);
		if (!buffers)
			slot.object &= ~UINT64_C(7); /* FFS_MASK: notes about the file in the lowest bits of its address */
	}
	if (reading.failed == 0)
		*ret = slot;
	return reading.failed;
}

/* ---- buffers */

int dump_ring_kernel_buffer(const struct dump_ring_kernel *kernel, uint64_t object, struct dump_ring_buffer *ret)
{
	struct reading reading = { .kernel = kernel };
	struct dump_ring_buffer buffer = {
		.address = take(&reading, object, BUFFER_ADDRESS),
		.length = (uint32_t)take(&reading, object, BUFFER_LENGTH),
		.parts = (uint32_t)take(&reading, object, BUFFER_PARTS),
		.list = place(&reading, object, BUFFER_LIST),
		.ordinary = !take(&reading, object, BUFFER_KERNEL) && take(&reading, object, BUFFER_DIRECTION) == 3,
	};

	if (reading.failed == 0)
		*ret = buffer;
	return reading.failed;
}

/* Frames of one piece; how many there are in it. */
static size_t add_frames(const struct dump_ring_kernel *kernel, const uint8_t *part, uint64_t *frames, size_t room)
{
	uint64_t page = 0, first;
	uint32_t length = 0, offset = 0;
	size_t count;

	memcpy(&page, part + kernel->members[PART_PAGE].offset, sizeof(page));
	memcpy(&length, part + kernel->members[PART_LENGTH].offset, sizeof(length));
	memcpy(&offset, part + kernel->members[PART_OFFSET].offset, sizeof(offset));
	first = (page - kernel->pages) / kernel->page_size + offset / PAGE;
	count = (offset % PAGE + (size_t)length + PAGE - 1) / PAGE;
	for (size_t i = 0; i < count && i < room; i++)
		frames[i] = first + i;
	return count;
}

int dump_ring_kernel_frames(const struct dump_ring_kernel *kernel, const struct dump_ring_buffer *buffer, uint64_t *frames,
			    size_t count)
{
	struct reading reading = { .kernel = kernel };
	uint8_t chunk[PARTS_CHUNK * 16];
	size_t found = 0;

	for (uint32_t done = 0; done < buffer->parts && reading.failed == 0;) {
		uint32_t now = buffer->parts - done < PARTS_CHUNK ? buffer->parts - done : PARTS_CHUNK;

		take_bytes(&reading, buffer->list + (uint64_t)done * kernel->part_size, chunk, now * kernel->part_size);
		for (uint32_t i = 0; i < now && found < count; i++)
			found += add_frames(kernel, chunk + i * kernel->part_size, frames + found, count - found);
		done += now;
	}
	return reading.failed < 0 ? reading.failed : found != count ? -EFAULT : 0;
}

/* ---- threads that know the ring by number */

/* The TID of a thread as we see it; 0: we do not. */
static pid_t tid_of(struct reading *reading, uint64_t task, uint64_t level)
{
	uint64_t pid = take(reading, task, TASK_PID);

	if (take(reading, pid, PID_LEVEL) < level)
		return 0;
	return (pid_t)take(reading, place(reading, pid, PID_NUMBERS) + level * reading->kernel->number_size, NUMBER_VALUE);
}

static int add_numbers(struct reading *reading, uint64_t task, uint64_t level, const struct dump_ring_state *state,
		       struct dump_ring_numbers *ret)
{
	uint64_t rings[NUMBERS_MAX], user = take(reading, task, TASK_RINGS);
	pid_t tid = tid_of(reading, task, level);
	int r = 0;

	if (!user || !tid)
		return 0;
	take_bytes(reading, place(reading, user, USER_RINGS), rings, sizeof(rings));
	for (uint32_t i = 0; i < NUMBERS_MAX && r == 0; i++) {
		struct dump_ring_number number = { .tid = tid, .index = i };

		if (rings[i] == state->file)
			r = array_append(&ret->list, number);
	}
	return r;
}

int dump_ring_kernel_numbers(const struct dump_ring_kernel *kernel, const struct dump_ring_state *state,
			     struct dump_ring_numbers *ret)
{
	struct reading reading = { .kernel = kernel };
	uint64_t head = place(&reading, state->context, RING_TASKS), at = 0, self = 0, level;
	int r = 0;

	reading.failed = dump_kernel_task(kernel->memory, &self);
	level = take(&reading, take(&reading, self, TASK_PID), PID_LEVEL);
	/* A list of the kernel's begins with the address of its first entry, and leads back to where it began. */
	take_bytes(&reading, head, &at, sizeof(at));
	for (size_t i = 0; at != head && i < TASKS_MAX && r == 0 && reading.failed == 0; i++) {
		r = add_numbers(&reading, take(&reading, at, USER_TASK), level, state, ret);
		take_bytes(&reading, at, &at, sizeof(at));
	}
	return r < 0 ? r : reading.failed;
}

/* ---- Linux AIO */

/* The struct mm_struct of a process, by our pidfd of it. */
static uint64_t memory_of(struct reading *reading, int pidfd, pid_t pid)
{
	uint64_t file = 0, data = 0, self = 0, level, object, task;

	if (reading->failed == 0)
		reading->failed = dump_ring_kernel_file(reading->kernel, pidfd, &file, &data);
	if (reading->failed == 0)
		reading->failed = dump_kernel_task(reading->kernel->memory, &self);
	level = take(reading, take(reading, self, TASK_PID), PID_LEVEL);
	/* Since 6.9 the inode of a pidfd keeps it, before that the open file did. */
	object = data ? data : take(reading, take(reading, file, FILE_INODE), INODE_PRIVATE);
	/* The list of those of whose process it is the number begins with the second head, and goes by their second link. */
	task = 0;
	take_bytes(reading, place(reading, object, PID_TASKS) + LIST_SIZE, &task, sizeof(task));
	task -= reading->kernel->members[TASK_LINKS].offset + LINK_SIZE;
	if (reading->failed == 0 && tid_of(reading, task, level) != pid)
		reading->failed = -EOPNOTSUPP;
	return take(reading, task, TASK_MEMORY);
}

int dump_ring_kernel_aio(const struct dump_ring_kernel *kernel, int pidfd, pid_t pid, uint64_t number, bool *ret_waits)
{
	struct reading reading = { .kernel = kernel };
	uint64_t table = take(&reading, memory_of(&reading, pidfd, pid), MEMORY_CONTEXTS);
	uint64_t count = table ? take(&reading, table, CONTEXTS_COUNT) : 0;

	for (uint64_t i = 0; i < count && i < CONTEXTS_MAX && reading.failed == 0; i++) {
		uint64_t context = 0, first = 0;

		take_bytes(&reading, place(&reading, table, CONTEXTS_LIST) + i * sizeof(context), &context, sizeof(context));
		if (!context || take(&reading, context, CONTEXT_NUMBER) != number)
			continue;
		take_bytes(&reading, place(&reading, context, CONTEXT_WAITING), &first, sizeof(first));
		if (reading.failed == 0)
			*ret_waits = first != place(&reading, context, CONTEXT_WAITING);
		return reading.failed;
	}
	return reading.failed < 0 ? reading.failed : -ENOENT;
}

/* ---- opening */

static int find_members(struct dump_ring_kernel *kernel, const struct dump_kernel_types *types, struct error *error)
{
	for (size_t i = 0; i < MEMBERS; i++) {
		struct dump_kernel_member *member = &kernel->members[i];

		if (!dump_kernel_types_find(types, members[i].structure, members[i].path, member) ||
		    (member->size > sizeof(uint64_t) && i != RING_TASKS && i != CONTEXT_WAITING))
			return error_set(error, -EOPNOTSUPP, "this kernel has no %s.%s", members[i].structure,
					 members[i].path);
	}
	kernel->page_size = dump_kernel_types_size(types, "page");
	kernel->part_size = dump_kernel_types_size(types, "bio_vec");
	kernel->number_size = dump_kernel_types_size(types, "upid");
	if (!kernel->page_size || kernel->part_size != 16 || !kernel->number_size)
		return error_set(error, -EOPNOTSUPP, "this kernel has pages or buffers of another form");
	return 0;
}

/* The number of the frame that the page has. */
static int own_frame(const void *page, uint64_t *ret)
{
	_cleanup_fd_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd < 0 || fdio_pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) != sizeof(entry))
		return -EIO;
	if (!(entry & FRAME_PRESENT) || !(entry & FRAME_NUMBER))
		return -EPERM;
	*ret = entry & FRAME_NUMBER;
	return 0;
}

/* Where the kernel keeps what it knows of the page: as a ring has it for which the page is registered. */
static int own_description(const struct dump_ring_kernel *kernel, int ring, void *page, uint64_t *ret)
{
	struct iovec iov = { .iov_base = page, .iov_len = PAGE };
	struct reading reading = { .kernel = kernel };
	struct dump_ring_state state;
	struct dump_ring_buffer buffer;
	struct dump_ring_slot slot;
	int r = syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1) < 0 ? -errno : 0;

	if (r == 0)
		r = dump_ring_kernel_state(kernel, ring, &state);
	if (r == 0)
		r = state.buffers == 1 ? dump_ring_kernel_slot(kernel, &state, true, 0, &slot) : -EOPNOTSUPP;
	if (r == 0)
		r = dump_ring_kernel_buffer(kernel, slot.object, &buffer);
	/* A reader that does not understand what it reads shows itself here. */
	if (r == 0 && (buffer.address != (uintptr_t)page || buffer.length != PAGE || !buffer.ordinary || buffer.parts != 1))
		r = -EOPNOTSUPP;
	if (r < 0)
		return r;
	*ret = take(&reading, buffer.list, PART_PAGE);
	return reading.failed;
}

static int find_pages(struct dump_ring_kernel *kernel, struct error *error)
{
	struct io_uring_params params = { 0 };
	_cleanup_fd_ int ring = (int)syscall(SYS_io_uring_setup, 1, &params);
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	uint64_t frame = 0, description = 0;
	int r = ring < 0 || page == MAP_FAILED ? -errno : own_description(kernel, ring, page, &description);

	if (r == 0)
		r = own_frame(page, &frame);
	if (page != MAP_FAILED)
		munmap(page, PAGE);
	if (r < 0)
		return error_set_errno(error, r, "looking at a ring of our own in the kernel's memory");
	kernel->pages = description - frame * kernel->page_size;
	return 0;
}

int dump_ring_kernel_open(struct dump_ring_kernel **ret, struct error *error)
{
	struct dump_ring_kernel *kernel = calloc(1, sizeof(*kernel));
	struct dump_kernel_types *types = NULL;
	int r = kernel ? dump_kernel_open(&kernel->memory, error) : error_set(error, -ENOMEM, "no memory for a reader");

	if (r == 0)
		r = dump_kernel_types_read(&types, error);
	if (r == 0)
		r = find_members(kernel, types, error);
	if (r == 0)
		r = find_pages(kernel, error);
	dump_kernel_types_free(types);
	if (r < 0) {
		dump_ring_kernel_free(kernel);
		return r;
	}
	*ret = kernel;
	return 0;
}

void dump_ring_kernel_free(struct dump_ring_kernel *kernel)
{
	if (!kernel)
		return;
	dump_kernel_free(kernel->memory);
	free(kernel);
}
