/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring(7): rings at rest.
 *
 * Model. fdinfo tells how far a ring has come, and whether requests wait in it; the ring itself is mapped here, too, and what
 * lies in it is read. A ring is at rest when it has as many completions as submissions. On the target a new ring is brought as
 * far by requests that do nothing, so there is a limit to what a ring may have done.
 *
 * How a ring was set up is told nowhere. A reference of the same size, made here, shows where things are in it. Whether there
 * is an array of indices is seen by what lies in its place. The rest is tried, by calls that fail in either case, but in
 * different ways. Flags that only make a ring faster or promise something to the kernel (COOP_TASKRUN, TASKRUN_FLAG) need not
 * be known.
 *
 * Failure modes: blockers for requests in flight, and for all that cannot be told or made again.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "image/io-uring.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"

#define WAIT_NS	    (CLOCK_S / 5)  /* for requests in flight of a stopped process */
#define LOOK_NS	    (CLOCK_S / 50) /* of one that runs: the caller looks again, too */
#define WAIT_US	    2000
#define GROUPS_MAX  64		  /* of provided buffers that are asked for */
#define PAGE_UP(n)  (((n) + 4095) & ~(size_t)4095)

/* Numbers of io_uring_register(2) that are newer than Debian's headers. */
#define REGISTER_PBUF_STATUS 26
#define REGISTER_NAPI	     27

struct facts {
	uint32_t sq_mask, sq_head, sq_tail, cached_sq_head;
	uint32_t cq_mask, cq_head, cq_tail, cached_cq_tail;
	const char *refused; /* what it has that cannot be moved; NULL: nothing */
	bool busy;
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
	facts->refused = files			       ? "registered files"
			 : buffers		       ? "registered buffers"
			 : atoi(thread) > 0	       ? "a kernel thread that polls it (IORING_SETUP_SQPOLL)"
			 : strstr(info, "Personalities") ? "registered personalities"
			 : list_has_entries(info, "\nCqOverflowList:") ? "completions that did not fit"
			 : facts->cached_sq_head > IMAGE_IO_URING_LIMIT ? "too many requests that it has done"
							 : NULL;
	return true;
}

/* Reads fdinfo until the ring is at rest, or for some time. */
static bool look(const struct dump_file *file, struct facts *facts)
{
	int64_t deadline = clock_deadline(file->frozen ? WAIT_NS : LOOK_NS);

	for (;;) {
		*facts = (struct facts){ 0 };
		if (!parse_facts(dump_file_text(file), facts))
			return false;
		if (!facts->busy || clock_now_ns() > deadline)
			return true;
		usleep(WAIT_US);
		file->reader->info_number = -1; /* read it again */
	}
}

/* Threads of the kernel's in the process, which cannot be stopped like others. */
static bool has_workers(const struct dump_process *process)
{
	array_for_each (tid, &process->threads) {
		struct procfs_stat stat;

		if (procfs_read_stat(*tid, &stat, NULL) == 0 && strncmp(stat.comm, "iou-", 4) == 0)
			return true;
	}
	return false;
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

static void refuse(struct dump_context *ctx, const struct dump_file *file, const char *what)
{
	dump_refuse(ctx, file->process->pid, "descriptor", IMAGE_KIND_IO_URING_OTHER, "fd %d -> io_uring with %s", file->number,
		    what);
}

static int add_record(struct dump_context *ctx, const struct dump_file *file, const struct facts *facts,
		      const struct view *view, bool array, struct error *error)
{
	const struct io_uring_params *params = &view->params;
	uint8_t *rings = view->rings;
	OpenFile message = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	IoUring ring = IO_URING__INIT;

	ring.id = file->id;
	ring.flags = file->flags;
	ring.fown = &owner;
	ring.ino = file->st.st_ino;
	ring.sq_entries = params->sq_entries;
	ring.cq_entries = params->cq_entries;
	ring.no_array = !array;
	ring.sq_head = facts->cached_sq_head;
	ring.sq_tail = facts->sq_tail;
	ring.cq_head = facts->cq_head;
	ring.cq_tail = facts->cached_cq_tail;
	memcpy(&ring.cq_flags, rings + params->cq_off.flags, sizeof(ring.cq_flags));
	ring.sqes.data = view->sqes;
	ring.sqes.len = params->sq_entries * sizeof(struct io_uring_sqe);
	ring.cqes.data = rings + params->cq_off.cqes;
	ring.cqes.len = params->cq_entries * sizeof(struct io_uring_cqe);
	if (array) {
		ring.array.data = rings + params->sq_off.array;
		ring.array.len = params->sq_entries * sizeof(uint32_t);
	}
	message.type = FILE_TYPE__FILE_IO_URING;
	message.id = file->id;
	message.uring = &ring;
	return dump_file_add(ctx, &message, error);
}

static int describe(struct dump_context *ctx, const struct dump_file *file, const struct facts *facts, struct error *error)
{
	_cleanup_(view_close) struct view view;
	const char *special;
	uint32_t overflow = 0, dropped = 0;
	int r = reference_open(facts, 0, &view), array;

	if (r < 0)
		return error_set_errno(error, r, "io_uring_setup, for comparison");
	special = find_special(file->fd, view.fd);
	if (!special && view_map(&view, file->fd) < 0)
		special = "entries of another size";
	if (!special) {
		memcpy(&overflow, (uint8_t *)view.rings + view.params.cq_off.overflow, sizeof(overflow));
		memcpy(&dropped, (uint8_t *)view.rings + view.params.sq_off.dropped, sizeof(dropped));
	}
	if (overflow || dropped)
		special = "requests or completions that were dropped";
	if (special) {
		refuse(ctx, file, special);
		return 0;
	}
	array = has_array(file->fd, &view.params, view.rings);
	if (array < 0) {
		refuse(ctx, file, "no sign of whether it has an array of indices, as it has done too little");
		return 0;
	}
	return add_record(ctx, file, facts, &view, array, error);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct facts facts;

	if (!look(file, &facts)) {
		dump_file_block(ctx, file, "this kernel does not tell its state", "use a newer kernel");
		return 0;
	}
	if (!facts.refused && has_workers(file->process))
		facts.refused = "kernel threads that work for it";
	if (facts.refused) {
		refuse(ctx, file, facts.refused);
		return 0;
	}
	if (facts.busy) {
		dump_file_refuse(ctx, file, IMAGE_KIND_IO_URING_BUSY);
		return 0;
	}
	return describe(ctx, file, &facts, error);
}

const struct dump_file_kind dump_kind_io_uring = {
	.name = "io_uring",
	.type = FILE_TYPE__FILE_IO_URING,
	.match = match,
	.dump = dump,
};
