/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring(7): rings at rest.
 *
 * Model. fdinfo tells how far a ring has come; the ring itself is mapped here, too, and what lies in it is read. On the target
 * a new ring is brought as far by requests that do nothing, so there is a limit to what a ring may have done. How it was set
 * up, what is in flight and what is registered with it is read in the kernel's memory (io-uring-kernel.c, io-uring-objects.c),
 * after all descriptors were collected: what is registered are other open files.
 *
 * Where the kernel does not let itself be read, a ring is at rest when it has as many completions as submissions, and a
 * reference of the same size, made here, shows where things are in it. Whether there is an array of indices is seen by what
 * lies in its place. The rest is tried, by calls that fail in either case, but in different ways. Flags that only make a ring
 * faster or promise something to the kernel (COOP_TASKRUN, TASKRUN_FLAG) are then not known.
 *
 * Failure modes: blockers for requests in flight, and for all that cannot be told or made again.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dump/files.h"
#include "dump/io-uring.h"
#include "image/io-uring.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"
#include "util/log.h"

#define WAIT_NS	    (CLOCK_S / 5)  /* for requests in flight of a stopped process */
#define LOOK_NS	    (CLOCK_S / 50) /* of one that runs: the caller looks again, too */
#define WAIT_US	    2000
#define GROUPS_MAX  64		  /* of provided buffers that are asked for */
#define PAGE_UP(n)  (((n) + 4095) & ~(size_t)4095)

/* Numbers of io_uring_register(2) that are newer than Debian's headers. */
#define REGISTER_PBUF_STATUS 26
#define REGISTER_NAPI	     27
#define SETUP_NO_SQARRAY     (1U << 16)

struct facts {
	uint32_t sq_mask, sq_head, sq_tail, cached_sq_head;
	uint32_t cq_mask, cq_head, cq_tail, cached_cq_tail;
	const char *refused; /* what it has that cannot be moved; NULL: nothing */
	bool registered;     /* files or buffers */
	bool busy;
};

/* A ring as it was met among the descriptors. */
struct dump_ring {
	struct dump_process *process; /* borrowed */
	int number;
	int fd; /* ours, owned */
	uint32_t id, flags;
	uint64_t ino;
	FileOwner owner;
	struct facts facts;
	struct dump_ring_state state; /* if there is a reader of the kernel's memory */
};

struct dump_rings {
	ARRAY(struct dump_ring) list;
};

/* A ring in our own memory. */
struct view {
	int fd;	/* owned; -1: another's */
	struct io_uring_params params;
	void *rings, *sqes; /* MAP_FAILED: not mapped */
	size_t rings_size, sqes_size;
};

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[io_uring]") == 0;
}

/* ---- what fdinfo tells */

static bool number_of(const char *info, const char *name, uint32_t *ret)
{
	const char *text = dump_file_info(info, name);

	if (text)
		*ret = (uint32_t)strtoul(text, NULL, 0);
	return text;
}

/* Does anything follow the line "NAME:" that is indented, as entries of a list are? */
static bool list_has_entries(const char *info, const char *name)
{
	const char *text = strstr(info, name);

	text = text ? strchr(text, '\n') : NULL;
	return text && text[1] == ' ';
}

static bool parse_facts(const char *info, struct facts *facts)
{
	uint32_t files = 0, buffers = 0;
	const char *thread = dump_file_info(info, "SqThread");

	if (!number_of(info, "SqMask", &facts->sq_mask) || !number_of(info, "SqHead", &facts->sq_head) ||
	    !number_of(info, "SqTail", &facts->sq_tail) || !number_of(info, "CachedSqHead", &facts->cached_sq_head) ||
	    !number_of(info, "CqMask", &facts->cq_mask) || !number_of(info, "CqHead", &facts->cq_head) ||
	    !number_of(info, "CqTail", &facts->cq_tail) || !number_of(info, "CachedCqTail", &facts->cached_cq_tail) ||
	    !number_of(info, "UserFiles", &files) || !number_of(info, "UserBufs", &buffers) || !thread)
		return false;
	facts->busy = facts->cached_sq_head != facts->cached_cq_tail || list_has_entries(info, "\nPollList:");
	facts->registered = files || buffers;
	facts->refused = atoi(thread) > 0	       ? "a kernel thread that polls it (IORING_SETUP_SQPOLL)"
			 : strstr(info, "Personalities") ? "registered personalities"
			 : list_has_entries(info, "\nCqOverflowList:") ? "completions that did not fit"
			 : facts->cached_sq_head > IMAGE_IO_URING_LIMIT ? "too many requests that it has done"
							 : NULL;
	return true;
}

/* How the ring is, by the kernel's memory if that can be read. False: this kernel does not tell. */
static bool look_once(const struct dump_file *file, const struct dump_ring_kernel *kernel, struct dump_ring *ring)
{
	ring->facts = (struct facts){ 0 };
	if (!parse_facts(dump_file_text(file), &ring->facts))
		return false;
	if (kernel && dump_ring_kernel_state(kernel, file->fd, &ring->state) < 0)
		ring->facts.busy = true; /* it is changing */
	else if (kernel)
		ring->facts.busy = ring->state.in_flight;
	return true;
}

/* Looks until the ring is at rest, or for some time. */
static bool look(const struct dump_file *file, const struct dump_ring_kernel *kernel, struct dump_ring *ring)
{
	int64_t deadline = clock_deadline(file->frozen ? WAIT_NS : LOOK_NS);

	for (;;) {
		if (!look_once(file, kernel, ring))
			return false;
		if (!ring->facts.busy || clock_now_ns() > deadline)
			return true;
		usleep(WAIT_US);
		file->reader->info_number = -1; /* read it again */
	}
}

/* ---- the ring itself */

static void view_close(struct view *view)
{
	if (view->rings != MAP_FAILED)
		munmap(view->rings, view->rings_size);
	if (view->sqes != MAP_FAILED)
		munmap(view->sqes, view->sqes_size);
	if (view->fd >= 0)
		close(view->fd);
}

/* A ring of the same size. */
static int reference_open(const struct facts *facts, uint32_t flags, struct view *ret)
{
	*ret = (struct view){ .fd = -1, .rings = MAP_FAILED, .sqes = MAP_FAILED };
	ret->params.flags = IORING_SETUP_CQSIZE | flags;
	ret->params.cq_entries = facts->cq_mask + 1;
	ret->fd = (int)syscall(SYS_io_uring_setup, facts->sq_mask + 1, &ret->params);
	return ret->fd < 0 ? -errno : 0;
}

static size_t rings_size(const struct io_uring_params *params, bool array)
{
	return array ? params->sq_off.array + params->sq_entries * sizeof(uint32_t)
		     : params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
}

/* Is there memory? Newer kernels map more than there is, and leave the rest empty. */
static bool is_there(const uint8_t *at)
{
	uint8_t byte;
	struct iovec to = { .iov_base = &byte, .iov_len = 1 }, from = { .iov_base = (void *)at, .iov_len = 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

/* Are there `size` bytes to be mapped, and not a page more? */
static bool is_as_long(int fd, uint64_t offset, size_t size)
{
	size_t end = PAGE_UP(size), length = end + 4096;
	uint8_t *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
	bool good;

	if (map == MAP_FAILED) {
		length = end;
		map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
	}
	if (map == MAP_FAILED)
		return false;
	good = is_there(map + end - 1) && (length == end || !is_there(map + end));
	munmap(map, length);
	return good;
}

/* 1: there is an array of indices, 0: there is none, -1: not known. */
static int has_array(int fd, const struct io_uring_params *params, const uint8_t *rings)
{
	size_t with = PAGE_UP(rings_size(params, true)), without = PAGE_UP(rings_size(params, false));

	if (with != without)
		return is_as_long(fd, IORING_OFF_SQ_RING, with) ? 1 : is_as_long(fd, IORING_OFF_SQ_RING, without) ? 0 : -1;
	for (size_t i = 0; i < params->sq_entries * sizeof(uint32_t); i++)
		if (rings[params->sq_off.array + i])
			return 1;
	/* All zeros, in use: no program gives the first entry time and again. */
	return ((const uint32_t *)(const void *)rings)[params->sq_off.tail / 4] > 1 && params->sq_entries > 1 ? 0 : -1;
}

static int view_map(struct view *view, int fd)
{
	view->rings_size = PAGE_UP(rings_size(&view->params, true));
	if (!is_as_long(fd, IORING_OFF_SQ_RING, view->rings_size))
		view->rings_size = PAGE_UP(rings_size(&view->params, false));
	view->sqes_size = PAGE_UP(view->params.sq_entries * sizeof(struct io_uring_sqe));
	if (!is_as_long(fd, IORING_OFF_SQ_RING, view->rings_size) || !is_as_long(fd, IORING_OFF_SQES, view->sqes_size))
		return -EOPNOTSUPP;
	view->rings = mmap(NULL, view->rings_size, PROT_READ, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	view->sqes = mmap(NULL, view->sqes_size, PROT_READ, MAP_SHARED, fd, IORING_OFF_SQES);
	return view->rings == MAP_FAILED || view->sqes == MAP_FAILED ? -errno : 0;
}

/* What a call that fails on every ring fails with. */
static int probe(int fd, unsigned int opcode, void *argument)
{
	return syscall(SYS_io_uring_register, fd, opcode, argument, 1) < 0 ? errno : 0;
}

/* What sets the ring apart from the reference, or NULL. */
static const char *find_special(int fd, int reference)
{
	if (syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0) < 0)
		return "restrictions, or is not enabled yet";
	if (probe(fd, IORING_REGISTER_EVENTFD, NULL) == EEXIST)
		return "one thread that may use it (IORING_SETUP_SINGLE_ISSUER)";
	if (probe(fd, IORING_REGISTER_EVENTFD, NULL) != probe(reference, IORING_REGISTER_EVENTFD, NULL))
		return "a registered eventfd";
	if (probe(fd, REGISTER_NAPI, NULL) != probe(reference, REGISTER_NAPI, NULL))
		return "completions that are polled for (IORING_SETUP_IOPOLL)";
	for (uint32_t group = 0; group < GROUPS_MAX; group++) {
		uint32_t one[10] = { group }, other[10] = { group };

		if (probe(fd, REGISTER_PBUF_STATUS, one) != probe(reference, REGISTER_PBUF_STATUS, other))
			return "provided buffers";
	}
	return NULL;
}

/* ---- the record */

static void refuse(struct dump_context *ctx, const struct dump_process *process, int number, const char *what)
{
	dump_refuse(ctx, process->pid, "descriptor", IMAGE_KIND_IO_URING_OTHER, "fd %d -> io_uring with %s", number, what);
}

/* Everything but what is registered; points into the view. */
static void fill_message(struct dump_ring *ring, const struct view *view, bool array, IoUring *message)
{
	const struct io_uring_params *params = &view->params;
	uint8_t *rings = view->rings;

	message->id = ring->id;
	message->flags = ring->flags;
	message->fown = &ring->owner;
	message->ino = ring->ino;
	message->sq_entries = params->sq_entries;
	message->cq_entries = params->cq_entries;
	message->no_array = !array;
	message->sq_head = ring->facts.cached_sq_head;
	message->sq_tail = ring->facts.sq_tail;
	message->cq_head = ring->facts.cq_head;
	message->cq_tail = ring->facts.cached_cq_tail;
	memcpy(&message->cq_flags, rings + params->cq_off.flags, sizeof(message->cq_flags));
	message->sqes.data = view->sqes;
	message->sqes.len = params->sq_entries * sizeof(struct io_uring_sqe);
	message->cqes.data = rings + params->cq_off.cqes;
	message->cqes.len = params->cq_entries * sizeof(struct io_uring_cqe);
	if (array) {
		message->array.data = rings + params->sq_off.array;
		message->array.len = params->sq_entries * sizeof(uint32_t);
	}
}

/* 1: there is an array of indices, 0: there is none, -1: `ret_special` says what keeps the ring from being moved. */
static int examine(const struct dump_ring *ring, bool known, struct view *view, const char **ret_special)
{
	uint32_t overflow = 0, dropped = 0;
	int array = -1;

	*ret_special = known ? ring->state.refused : find_special(ring->fd, view->fd);
	if (!*ret_special && view_map(view, ring->fd) < 0)
		*ret_special = "entries of another size";
	if (*ret_special)
		return -1;
	memcpy(&overflow, (uint8_t *)view->rings + view->params.cq_off.overflow, sizeof(overflow));
	memcpy(&dropped, (uint8_t *)view->rings + view->params.sq_off.dropped, sizeof(dropped));
	if (known)
		array = !(ring->state.setup & SETUP_NO_SQARRAY);
	else
		array = has_array(ring->fd, &view->params, view->rings);
	if (overflow || dropped)
		*ret_special = "requests or completions that were dropped";
	else if (array < 0)
		*ret_special = "no sign of whether it has an array of indices, as it has done too little";
	return *ret_special ? -1 : array;
}

static int describe(struct dump_context *ctx, struct dump_ring *ring, const struct dump_ring_kernel *kernel,
		    struct error *error)
{
	_cleanup_(view_close) struct view view;
	OpenFile message = OPEN_FILE__INIT;
	struct dump_arena arena = { 0 };
	IoUring described = IO_URING__INIT;
	const char *special = NULL;
	int r = reference_open(&ring->facts, 0, &view), array;

	if (r < 0)
		return error_set_errno(error, r, "io_uring_setup, for comparison");
	array = examine(ring, kernel, &view, &special);
	if (!special && kernel) {
		described.has_setup = 1;
		described.setup = ring->state.setup;
		r = dump_ring_objects(ctx, kernel, ring->id, &ring->state, &arena, &described, &special, error);
	}
	if (r < 0 && r != -ENOMEM && !ring->process->tracee) {
		error_clear(error);
		special = "objects that are just being registered";
		r = 0;
	}
	if (special)
		refuse(ctx, ring->process, ring->number, special);
	if (r == 0 && !special) {
		fill_message(ring, &view, array, &described);
		message.type = FILE_TYPE__FILE_IO_URING;
		message.id = ring->id;
		message.uring = &described;
		r = dump_file_add(ctx, &message, error);
	}
	dump_arena_deinit(&arena);
	return r;
}

const struct dump_ring_kernel *dump_ring_kernel_get(struct dump_context *ctx)
{
	struct dump_files *files = dump_files_get(ctx);
	struct error why = ERROR_INIT;

	if (!files)
		return NULL;
	if (!files->ring_kernel && !files->ring_kernel_tried && dump_ring_kernel_open(&files->ring_kernel, &why) < 0)
		log_debug(ctx->log, "the kernel's memory cannot be read: %s", why.message);
	files->ring_kernel_tried = true;
	return files->ring_kernel;
}

static int note(struct dump_context *ctx, const struct dump_file *file, const struct dump_ring *found, struct error *error)
{
	struct dump_files *files = ctx->files;
	struct dump_ring ring = *found;

	if (!files->rings)
		files->rings = calloc(1, sizeof(*files->rings));
	ring.process = file->process;
	ring.number = file->number;
	ring.id = file->id;
	ring.flags = file->flags;
	ring.ino = file->st.st_ino;
	ring.owner = file->owner;
	ring.fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	if (ring.fd < 0)
		return error_set_errno(error, -errno, "copying the descriptor of an io_uring");
	if (files->rings && array_append(&files->rings->list, ring) == 0)
		return 0;
	close(ring.fd);
	return error_set(error, -ENOMEM, "no memory for an io_uring");
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const struct dump_ring_kernel *kernel = dump_ring_kernel_get(ctx);
	struct dump_ring ring = { .fd = -1 };

	if (!look(file, kernel, &ring)) {
		dump_file_block(ctx, file, "this kernel does not tell its state", "use a newer kernel");
		return 0;
	}
	if (!ring.facts.refused && ring.facts.registered && !kernel)
		ring.facts.refused = "registered files or buffers, which this kernel shows nobody (BPF, BTF)";
	if (ring.facts.refused) {
		refuse(ctx, file->process, file->number, ring.facts.refused);
		return 0;
	}
	if (ring.facts.busy) {
		dump_file_refuse(ctx, file, IMAGE_KIND_IO_URING_BUSY);
		return 0;
	}
	return note(ctx, file, &ring, error);
}

/* Memory that is pinned by something else than rings that are moved. */
static int check_pinned(struct dump_context *ctx, struct error *error)
{
	array_for_each (process, &ctx->processes) {
		const struct dump_status *status;
		int r = dump_process_status(*process, &status, error);

		if (r < 0)
			return r;
		if ((*process)->vm_id == (uint32_t)(*process)->pid && status->pinned_kib > (*process)->ring_pages * 4)
			dump_refuse(ctx, (*process)->pid, "memory", IMAGE_KIND_MEMORY_PINNED, "%llu KiB pinned",
				    (unsigned long long)status->pinned_kib);
	}
	return 0;
}

static bool is_open(const struct dump_files *files, uint64_t ino)
{
	array_for_each (open, &files->open)
		if (open->type == FILE_TYPE__FILE_IO_URING && open->ino == ino)
			return true;
	return false;
}

/* Rings that are mapped, and that no descriptor stands for any more. */
static void check_mapped(struct dump_context *ctx)
{
	array_for_each (process, &ctx->processes)
		for (size_t i = 0; i < (*process)->maps.count; i++) {
			const struct procfs_map *map = &(*process)->maps.items[i];

			if (map->name && strcmp(map->name, "anon_inode:[io_uring]") == 0 && map->offset == 0 &&
			    !is_open(ctx->files, map->inode))
				dump_refuse(ctx, (*process)->pid, "mapping", IMAGE_KIND_IO_URING_OTHER,
					    "%llx-%llx io_uring without a descriptor", (unsigned long long)map->start,
					    (unsigned long long)map->end);
		}
}

static int finish(struct dump_context *ctx, struct error *error)
{
	int r = 0;

	array_for_each (process, &ctx->processes)
		(*process)->ring_pages = 0;
	for (size_t i = 0; r == 0 && ctx->files->rings && i < ctx->files->rings->list.count; i++)
		r = describe(ctx, &ctx->files->rings->list.items[i], ctx->files->ring_kernel, error);
	check_mapped(ctx);
	return r == 0 ? check_pinned(ctx, error) : r;
}

void dump_rings_free(struct dump_rings *rings)
{
	if (!rings)
		return;
	array_for_each (ring, &rings->list)
		close(ring->fd);
	array_deinit(&rings->list);
	free(rings);
}

const struct dump_file_kind dump_kind_io_uring = {
	.name = "io_uring",
	.type = FILE_TYPE__FILE_IO_URING,
	.match = match,
	.dump = dump,
	.finish = finish,
};
