/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linux AIO: two contexts, one small and one that has gone round several times. In each, events wait that nobody has fetched:
 * in the second they lie over the end of the ring. A check fetches them, finds all of them in order, sees that more requests
 * can be made, up to what there is room for, and leaves others waiting. Files are read with O_DIRECT where that works.
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>

#define CONTEXTS 2
#define BLOCK	 4096
#define BLOCKS	 8

/* The kernel's fs/aio.c. */
struct ring {
	unsigned int id, nr, head, tail, magic, compat, incompat, length;
	struct io_event events[];
};

struct state {
	aio_context_t contexts[CONTEXTS];
	unsigned int waiting[CONTEXTS];	 /* events left there */
	uint64_t number[CONTEXTS];	 /* of the first of them */
	uint64_t next[CONTEXTS];	 /* of the next request */
	int file;
	unsigned char *buffer;		 /* BLOCK bytes */
};

static unsigned int tail_of(const struct state *s, int context)
{
	return __atomic_load_n(&((const struct ring *)s->contexts[context])->tail, __ATOMIC_ACQUIRE);
}

/* Makes requests that read block `number % BLOCKS`, one after the other, so that they end in this order. */
static bool submit(struct state *s, int context, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		struct iocb request = {.aio_data = s->next[context],
				       .aio_lio_opcode = IOCB_CMD_PREAD,
				       .aio_fildes = (unsigned int)s->file,
				       .aio_buf = (uintptr_t)s->buffer,
				       .aio_nbytes = BLOCK,
				       .aio_offset = (int64_t)(s->next[context] % BLOCKS * BLOCK)};
		struct iocb *list = &request;
		unsigned int before = tail_of(s, context);

		if (syscall(SYS_io_submit, s->contexts[context], 1, &list) != 1 ||
		    !WAIT_FOR(tail_of(s, context) != before, 5000))
			return false;
		s->next[context]++;
	}
	s->waiting[context] += count;
	return true;
}

static bool fetch(struct victim *v, struct state *s, int context, unsigned int count)
{
	struct io_event events[64];
	struct timespec limit = {.tv_sec = 5};
	unsigned int got = 0;

	while (got < count) {
		unsigned int room = count - got < 64 ? count - got : 64;
		long some = syscall(SYS_io_getevents, s->contexts[context], 1L, (long)room, events, &limit);

		CHECK(v, some > 0, "context %d: %u of %u events, then %ld: %m", context, got, count, some);
		for (long i = 0; i < some; i++) {
			CHECK(v, events[i].data == s->number[context], "context %d: event %llu, not %llu", context,
			      (unsigned long long)events[i].data, (unsigned long long)s->number[context]);
			CHECK(v, events[i].res == BLOCK, "context %d: result %lld", context, (long long)events[i].res);
			s->number[context]++;
		}
		got += (unsigned int)some;
	}
	s->waiting[context] -= count;
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	for (int i = 0; i < CONTEXTS; i++) {
		const struct ring *ring = (const struct ring *)s->contexts[i];
		unsigned int there = (ring->tail + ring->nr - ring->head) % ring->nr, again = ring->nr / 2;

		CHECK(v, there == s->waiting[i], "context %d: %u events wait, not %u", i, there, s->waiting[i]);
		if (!fetch(v, s, i, s->waiting[i]))
			return false;
		memset(s->buffer, 0, BLOCK);
		CHECK(v, submit(s, i, again) && fetch(v, s, i, again), "context %d: %u more requests: %m", i, again);
		CHECK(v, victim_differs(s->buffer, BLOCK, (s->next[i] - 1) % BLOCKS) < 0, "context %d: wrong content", i);
		CHECK(v, submit(s, i, 3 + (unsigned int)i * 20), "context %d: %m", i);
	}
	return true;
}

static void setup(struct victim *v, struct state *s)
{
	const char *path = victim_path(v, "file");

	MUST(posix_memalign((void **)&s->buffer, BLOCK, BLOCK) == 0);
	s->file = open(path, O_RDWR | O_CREAT, 0644);
	MUST(s->file >= 0);
	for (int i = 0; i < BLOCKS; i++) {
		victim_fill(s->buffer, BLOCK, (uint64_t)i);
		MUST(write(s->file, s->buffer, BLOCK) == BLOCK);
	}
	MUST(close(s->file) == 0);
	s->file = open(path, O_RDONLY | O_DIRECT);
	if (s->file < 0)
		s->file = open(path, O_RDONLY);
	MUST(s->file >= 0);
	if (syscall(SYS_io_setup, 8, &s->contexts[0]) < 0)
		victim_skip(v, "no Linux AIO: %m");
	MUST(syscall(SYS_io_setup, 200, &s->contexts[1]) == 0);
	MUST(submit(s, 0, 2));
	/* Round and round, and then over the end. */
	for (int i = 0; i < 6; i++)
		MUST(submit(s, 1, 97) && fetch(v, s, 1, 97));
	while (((const struct ring *)s->contexts[1])->tail + 5 < ((const struct ring *)s->contexts[1])->nr)
		MUST(submit(s, 1, 1) && fetch(v, s, 1, 1));
	MUST(submit(s, 1, 20));
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
