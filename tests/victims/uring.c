/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * uring DIR [busy]: two io_urings, one with an array of indices and one without. Each has gone round several times, has
 * completions that nobody has fetched, and requests that are written and not submitted. A check fetches the first, submits the
 * others, and does the same again. With "busy", a read of an empty pipe is in flight in the first, until a check writes to it.
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif

#define RINGS	 2
#define ENTRIES	 8
#define SIZE	 4000
#define UNSENT	 3
#define UNREAD	 5

struct ring {
	int fd;
	struct io_uring_params params;
	unsigned char *rings;
	struct io_uring_sqe *sqes;
	uint64_t next;	  /* user_data of the next request */
	uint64_t awaited; /* of the next completion */
	unsigned char buffer[SIZE];
};

struct state {
	struct ring rings[RINGS];
	int file;
	int pipe[2]; /* in flight: a read from here; -1: none */
	char byte;
};

static unsigned int *word(const struct ring *ring, unsigned int offset)
{
	return (unsigned int *)(void *)(ring->rings + offset);
}

static struct io_uring_sqe *request(struct ring *ring)
{
	unsigned int *tail = word(ring, ring->params.sq_off.tail), place = *tail % ring->params.sq_entries;
	struct io_uring_sqe *sqe = &ring->sqes[place];

	memset(sqe, 0, sizeof(*sqe));
	sqe->user_data = ring->next++;
	if (!(ring->params.flags & IORING_SETUP_NO_SQARRAY))
		word(ring, ring->params.sq_off.array)[place] = place;
	return sqe;
}

static void written(struct ring *ring)
{
	unsigned int *tail = word(ring, ring->params.sq_off.tail);

	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
}

/* Requests that read the file; they end at once, in order. */
static void write_requests(struct state *s, struct ring *ring, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = request(ring);

		sqe->opcode = IORING_OP_READ;
		sqe->fd = s->file;
		sqe->addr = (uintptr_t)ring->buffer;
		sqe->len = SIZE;
		written(ring);
	}
}

static bool submit(struct ring *ring, unsigned int count)
{
	return syscall(SYS_io_uring_enter, ring->fd, count, 0, 0, NULL, 0) == (long)count;
}

static unsigned int unread(const struct ring *ring)
{
	return __atomic_load_n(word(ring, ring->params.cq_off.tail), __ATOMIC_ACQUIRE) - *word(ring, ring->params.cq_off.head);
}

static bool fetch(struct victim *v, struct ring *ring, unsigned int count, int result)
{
	unsigned int *head = word(ring, ring->params.cq_off.head);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(void *)(ring->rings + ring->params.cq_off.cqes);

	CHECK(v, WAIT_FOR(unread(ring) >= count, 5000), "%u completions, not %u", unread(ring), count);
	for (unsigned int i = 0; i < count; i++) {
		const struct io_uring_cqe *cqe = &cqes[*head % ring->params.cq_entries];

		CHECK(v, cqe->user_data == ring->awaited, "completion of %llu, not of %llu", (unsigned long long)cqe->user_data,
		      (unsigned long long)ring->awaited);
		CHECK(v, cqe->res == result, "request %llu: result %d", (unsigned long long)cqe->user_data, cqe->res);
		ring->awaited++;
		__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	}
	return true;
}

/* What a move finds: completions unread, requests unsent. */
static bool leave(struct state *s, struct ring *ring)
{
	write_requests(s, ring, UNREAD);
	if (!submit(ring, UNREAD))
		return false;
	write_requests(s, ring, UNSENT);
	return true;
}

static bool ring_check(struct victim *v, struct state *s, struct ring *ring)
{
	CHECK(v, unread(ring) == UNREAD, "%u completions wait, not %u", unread(ring), UNREAD);
	if (!fetch(v, ring, UNREAD, SIZE))
		return false;
	memset(ring->buffer, 0, SIZE);
	CHECK(v, submit(ring, UNSENT), "submitting what was written before: %m");
	if (!fetch(v, ring, UNSENT, SIZE))
		return false;
	CHECK(v, victim_differs(ring->buffer, SIZE, 5) < 0, "wrong content");
	for (int i = 0; i < 10; i++) {
		write_requests(s, ring, ENTRIES);
		CHECK(v, submit(ring, ENTRIES), "submitting: %m");
		if (!fetch(v, ring, ENTRIES, SIZE))
			return false;
	}
	CHECK(v, leave(s, ring), "submitting: %m");
	return true;
}

/* A read that waits. */
static void start_read(struct state *s)
{
	struct io_uring_sqe *sqe = request(&s->rings[0]);

	sqe->opcode = IORING_OP_READ;
	sqe->fd = s->pipe[0];
	sqe->addr = (uintptr_t)&s->byte;
	sqe->len = 1;
	written(&s->rings[0]);
	MUST(submit(&s->rings[0], 1));
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (s->pipe[0] >= 0) {
		CHECK(v, write(s->pipe[1], "x", 1) == 1, "pipe: %m");
		CHECK(v, WAIT_FOR(syscall(SYS_io_uring_enter, s->rings[0].fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0) == 0 &&
				  unread(&s->rings[0]) > 0, 5000), "the read does not end");
		if (!fetch(v, &s->rings[0], 1, 1))
			return false;
		start_read(s);
		return true;
	}
	for (int i = 0; i < RINGS; i++)
		if (!ring_check(v, s, &s->rings[i]))
			return false;
	return true;
}

static void ring_setup(struct victim *v, struct ring *ring, unsigned int flags)
{
	size_t size;

	ring->params.flags = flags;
	ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &ring->params);
	if (ring->fd < 0)
		victim_skip(v, "no io_uring: %m");
	size = flags & IORING_SETUP_NO_SQARRAY ? ring->params.cq_off.cqes + ring->params.cq_entries * 16
					       : ring->params.sq_off.array + ENTRIES * 4;
	ring->rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ENTRIES * sizeof(*ring->sqes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
			  IORING_OFF_SQES);
	MUST(ring->rings != MAP_FAILED && ring->sqes != MAP_FAILED);
}

int main(int argc, char **argv)
{
	static struct state s;
	static unsigned char content[SIZE];
	struct victim v;

	victim_start(&v, argc, argv);
	victim_fill(content, SIZE, 5);
	s.file = open(victim_path(&v, "file"), O_RDWR | O_CREAT, 0644);
	MUST(s.file >= 0 && write(s.file, content, SIZE) == SIZE);
	ring_setup(&v, &s.rings[0], 0);
	ring_setup(&v, &s.rings[1], IORING_SETUP_NO_SQARRAY);
	s.pipe[0] = -1;
	if (victim_arg_is(&v, "busy")) {
		MUST(pipe(s.pipe) == 0);
		start_read(&s);
	}
	for (int i = 0; i < RINGS && s.pipe[0] < 0; i++)
		MUST(leave(&s, &s.rings[i]));
	victim_run(&v, verify, &s);
}
