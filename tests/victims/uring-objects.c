/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * uring-objects DIR [files|buffers|eventfd|counts]: an io_uring, and what is registered with it.
 *
 * files	a table with files in some slots: one of two open files of the same name, a pipe's ends, an eventfd
 * buffers	memory that requests write to by its number; while nobody asks, they do so all the time, and no fault tells
 * eventfd	an eventfd that counts completions, and a number by which the thread knows the ring
 * counts	requests without completion, and completions that another ring has sent
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define ENTRIES	  8
#define SLOTS	  9
#define SIZE	  ((size_t)(48 << 10))
#define SMALL	  100 /* bytes of a buffer that begins within a page */
#define CONTENTS  3
#define RING_FD	  5   /* the number of the ring in the thread */

#ifndef IORING_ENTER_REGISTERED_RING
#define IORING_ENTER_REGISTERED_RING (1U << 4)
#endif

enum { SLOT_FILE = 1, SLOT_READ = 3, SLOT_WRITE = 4, SLOT_EVENT = 7 };
enum { BUFFER_LARGE = 0, BUFFER_SMALL = 2, BUFFERS = 3 }; /* nothing is in between */

struct ring {
	int fd;
	struct io_uring_params params;
	unsigned char *rings;
	struct io_uring_sqe *sqes;
};

struct state {
	struct ring ring, other;
	int files[2];	  /* open files of one name */
	off_t position;	  /* of the second one */
	int pipe[2];
	int event;	  /* registered as a file, or for completions */
	unsigned char *buffer, *small;
	unsigned int content; /* what was read last into the buffer */
	ssize_t wrong;	  /* where the buffer was found not to be what was read into it; -1: nowhere */
	uint64_t round;
};

static unsigned int *word(const struct ring *ring, unsigned int offset)
{
	return (unsigned int *)(void *)(ring->rings + offset);
}

static void setup(struct victim *v, struct ring *ring)
{
	size_t size;

	ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &ring->params);
	if (ring->fd < 0)
		victim_skip(v, "no io_uring: %m");
	size = ring->params.sq_off.array + ENTRIES * 4;
	ring->rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ENTRIES * sizeof(*ring->sqes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
			  IORING_OFF_SQES);
	MUST(ring->rings != MAP_FAILED && ring->sqes != MAP_FAILED);
}

static struct io_uring_sqe *request(struct ring *ring, int opcode, int fd, const void *at, size_t size)
{
	unsigned int *tail = word(ring, ring->params.sq_off.tail), place = *tail % ENTRIES;
	struct io_uring_sqe *sqe = &ring->sqes[place];

	*sqe = (struct io_uring_sqe){
		.opcode = (unsigned char)opcode, .fd = fd, .addr = (uintptr_t)at, .len = (unsigned int)size, .user_data = 77,
	};
	word(ring, ring->params.sq_off.array)[place] = place;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	return sqe;
}

/* The result of the next completion; -ENODATA: there is none. */
static int fetch(struct ring *ring)
{
	unsigned int *head = word(ring, ring->params.cq_off.head);
	const struct io_uring_cqe *cqes = (const struct io_uring_cqe *)(void *)(ring->rings + ring->params.cq_off.cqes);
	int result;

	if (!WAIT_FOR(__atomic_load_n(word(ring, ring->params.cq_off.tail), __ATOMIC_ACQUIRE) != *head, 5000))
		return -ENODATA;
	result = cqes[*head % ring->params.cq_entries].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

/* Submits what was written; the result of the first of it. */
static int run(struct ring *ring)
{
	return syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) == 1 ? fetch(ring) : -errno;
}

static long ring_register(const struct state *s, unsigned int opcode, void *argument, unsigned int size)
{
	return syscall(SYS_io_uring_register, s->ring.fd, opcode, argument, size);
}

/* ---- files */

static void files_setup(struct victim *v, struct state *s)
{
	int slots[SLOTS] = { -1, 0, -1, 0, 0, -1, -1, 0, -1 };
	unsigned char content[SIZE];

	victim_fill(content, SIZE, 9);
	s->files[0] = open(victim_path(v, "file"), O_RDWR | O_CREAT, 0644);
	s->files[1] = open(victim_path(v, "file"), O_RDWR);
	s->event = eventfd(0, 0);
	MUST(pipe(s->pipe) == 0 && s->event >= 0 && write(s->files[0], content, SIZE) == (ssize_t)SIZE);
	/* Both at the start: nothing but the kernel knows them apart. */
	MUST(lseek(s->files[0], 0, SEEK_SET) == 0);
	slots[SLOT_FILE] = s->files[1];
	slots[SLOT_READ] = s->pipe[0];
	slots[SLOT_WRITE] = s->pipe[1];
	slots[SLOT_EVENT] = s->event;
	MUST(ring_register(s, IORING_REGISTER_FILES, slots, SLOTS) == 0);
}

static bool files_check(struct victim *v, struct state *s)
{
	unsigned char wanted[SIZE], got[4096];
	uint64_t one = 1, count = 0;
	int number = (int)s->round;

	victim_fill(wanted, SIZE, 9);
	if (s->position + (off_t)sizeof(got) > (off_t)SIZE)
		s->position = lseek(s->files[1], 0, SEEK_SET);
	request(&s->ring, IORING_OP_READ, SLOT_FILE, got, sizeof(got))->flags = IOSQE_FIXED_FILE;
	s->ring.sqes[(*word(&s->ring, s->ring.params.sq_off.tail) - 1) % ENTRIES].off = UINT64_MAX; /* where it is */
	CHECK(v, run(&s->ring) == sizeof(got), "a read of the registered file");
	CHECK(v, memcmp(got, wanted + s->position, sizeof(got)) == 0, "it did not read from %lld", (long long)s->position);
	s->position += sizeof(got);
	CHECK(v, lseek(s->files[1], 0, SEEK_CUR) == s->position, "the registered file is another one");
	CHECK(v, lseek(s->files[0], 0, SEEK_CUR) == 0, "the registered file is the other one of its name");
	request(&s->ring, IORING_OP_WRITE, SLOT_WRITE, &number, sizeof(number))->flags = IOSQE_FIXED_FILE;
	CHECK(v, run(&s->ring) == sizeof(number), "a write to the registered pipe");
	number = 0;
	request(&s->ring, IORING_OP_READ, SLOT_READ, &number, sizeof(number))->flags = IOSQE_FIXED_FILE;
	CHECK(v, run(&s->ring) == sizeof(number) && number == (int)s->round, "the pipe gave %d", number);
	request(&s->ring, IORING_OP_WRITE, SLOT_EVENT, &one, sizeof(one))->flags = IOSQE_FIXED_FILE;
	CHECK(v, run(&s->ring) == sizeof(one), "a write to the registered eventfd");
	CHECK(v, read(s->event, &count, sizeof(count)) == sizeof(count) && count == 1, "the eventfd counts %llu",
	      (unsigned long long)count);
	for (int slot = 0; slot < SLOTS; slot++) {
		bool empty = slot != SLOT_FILE && slot != SLOT_READ && slot != SLOT_WRITE && slot != SLOT_EVENT;

		request(&s->ring, IORING_OP_FSYNC, slot, NULL, 0)->flags = IOSQE_FIXED_FILE;
		CHECK(v, (run(&s->ring) == -EBADF) == empty, "slot %d", slot);
	}
	return true;
}

/* ---- buffers */

static void buffers_setup(struct victim *v, struct state *s)
{
	struct iovec iovs[BUFFERS] = { 0 };
	unsigned char content[SIZE];

	s->files[0] = open(victim_path(v, "file"), O_RDWR | O_CREAT, 0644);
	MUST(s->files[0] >= 0);
	for (unsigned int i = 0; i < CONTENTS; i++) {
		victim_fill(content, SIZE, 20 + i);
		MUST(write(s->files[0], content, SIZE) == (ssize_t)SIZE);
	}
	s->buffer = mmap(NULL, SIZE + VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(s->buffer != MAP_FAILED);
	s->small = s->buffer + SIZE + 50;
	iovs[BUFFER_LARGE] = (struct iovec){ s->buffer, SIZE };
	iovs[BUFFER_SMALL] = (struct iovec){ s->small, SMALL };
	if (ring_register(s, IORING_REGISTER_BUFFERS, iovs, BUFFERS) < 0)
		victim_skip(v, "no registered buffers: %m");
}

static int read_fixed(struct state *s, unsigned int buffer, void *at, size_t size, unsigned int content)
{
	struct io_uring_sqe *sqe = request(&s->ring, IORING_OP_READ_FIXED, s->files[0], at, size);

	sqe->off = content * SIZE;
	sqe->buf_index = (unsigned short)buffer;
	return run(&s->ring);
}

/* Other content in the buffer, of which the page table knows nothing. */
static bool buffers_go_on(struct victim *v, struct state *s)
{
	unsigned int next = (s->content + 1) % CONTENTS;
	ssize_t at = victim_differs(s->buffer, SIZE, 20 + s->content);
	int r = read_fixed(s, BUFFER_LARGE, s->buffer, SIZE, next);

	/* A move has passed before anybody asks. */
	if (at >= 0 && s->wrong < 0)
		s->wrong = at;
	s->content = next;
	return r == (int)SIZE || victim_fail(v, "a read to the registered buffer: %d", r);
}

static bool buffers_check(struct victim *v, struct state *s)
{
	int r;

	CHECK(v, s->wrong < 0, "wrong content at %zd of the registered buffer", s->wrong);
	memset(s->small, 0, SMALL);
	r = read_fixed(s, BUFFER_SMALL, s->small, SMALL, 1);
	CHECK(v, r == SMALL, "a read to the small buffer: %d", r);
	CHECK(v, victim_differs(s->small, SMALL, 21) < 0, "wrong content of the small buffer");
	r = read_fixed(s, BUFFER_LARGE, s->buffer + SIZE - 8, 16, 1);
	CHECK(v, r == -EFAULT, "a read behind the end of the buffer: %d", r);
	r = read_fixed(s, 1, s->buffer, 16, 1);
	CHECK(v, r == -EFAULT, "a read to an empty slot: %d", r);
	return buffers_go_on(v, s);
}

/* ---- an eventfd, and a number for the ring */

static void event_setup(struct victim *v, struct state *s)
{
	struct io_uring_rsrc_update update = { .offset = RING_FD, .data = (unsigned int)s->ring.fd };

	s->event = eventfd(0, EFD_NONBLOCK);
	MUST(s->event >= 0 && ring_register(s, IORING_REGISTER_EVENTFD, &s->event, 1) == 0);
	if (ring_register(s, IORING_REGISTER_RING_FDS, &update, 1) != 1)
		victim_skip(v, "no numbers for rings: %m");
}

static bool event_check(struct victim *v, struct state *s)
{
	uint64_t count = 0;
	long r;

	CHECK(v, read(s->event, &count, sizeof(count)) < 0 && errno == EAGAIN, "the eventfd counts what nobody asked for");
	request(&s->ring, IORING_OP_NOP, -1, NULL, 0);
	r = syscall(SYS_io_uring_enter, RING_FD, 1, 0, IORING_ENTER_REGISTERED_RING, NULL, 0);
	CHECK(v, r == 1, "by its number: %ld, %m", r);
	CHECK(v, fetch(&s->ring) == 0, "no completion");
	CHECK(v, read(s->event, &count, sizeof(count)) == sizeof(count) && count == 1, "the eventfd counts %llu",
	      (unsigned long long)count);
	return true;
}

/* ---- counts */

static bool counts_check(struct victim *v, struct state *s)
{
	for (unsigned int i = 0; i < 5; i++) {
		request(&s->ring, IORING_OP_NOP, -1, NULL, 0)->flags = IOSQE_CQE_SKIP_SUCCESS;
		CHECK(v, syscall(SYS_io_uring_enter, s->ring.fd, 1, 0, 0, NULL, 0) == 1, "without completion: %m");
	}
	for (unsigned int i = 0; i < 7; i++) {
		request(&s->other, IORING_OP_MSG_RING, s->ring.fd, NULL, 40 + i);
		CHECK(v, run(&s->other) == 0, "a message to the ring");
	}
	for (unsigned int i = 0; i < 7; i++) {
		int r = fetch(&s->ring);

		CHECK(v, r == (int)(40 + i), "the message says %d", r);
	}
	request(&s->ring, IORING_OP_NOP, -1, NULL, 0);
	CHECK(v, run(&s->ring) == 0, "a request");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	s->round++;
	return victim_arg_is(v, "files")   ? files_check(v, s)
	       : victim_arg_is(v, "buffers") ? buffers_check(v, s)
	       : victim_arg_is(v, "eventfd") ? event_check(v, s)
					     : counts_check(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s.ring);
	setup(&v, &s.other);
	if (victim_arg_is(&v, "files"))
		files_setup(&v, &s);
	if (victim_arg_is(&v, "eventfd"))
		event_setup(&v, &s);
	if (!victim_arg_is(&v, "buffers"))
		victim_run(&v, verify, &s);
	buffers_setup(&v, &s);
	MUST(buffers_go_on(&v, &s));
	s.wrong = -1; /* there was nothing in it */
	victim_ready(&v);
	for (;;) {
		if (victim_asked(&v))
			victim_answer(&v, verify(&v, &s));
		MUST(buffers_go_on(&v, &s));
		victim_sleep_us(2000);
	}
}
