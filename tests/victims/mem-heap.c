/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The heap: malloc()ed blocks of many sizes kept in brk memory, replaced at random, and a program
 * break that goes up and down after the move. The start of the heap as the kernel tells it stays
 * where it was.
 */
#include "victim.h"

#include <malloc.h>

#define BLOCKS 2000u
#define GROW (1u << 20)

struct block {
	unsigned char *at; /* owned */
	size_t size;	   /* bytes */
	uint64_t seed;	   /* of its content */
};

struct state {
	struct block blocks[BLOCKS];
	uint64_t random;	 /* state of victim_random() */
	void *last_break;	 /* after the last check */
	unsigned long start_brk; /* from /proc/self/stat */
};

static void block_new(struct state *s, struct block *b)
{
	b->size = 16 + victim_random(&s->random) % 6000;
	b->seed = victim_random(&s->random);
	b->at = malloc(b->size);
	MUST(b->at != NULL);
	victim_fill(b->at, b->size, b->seed);
}

static unsigned long heap_start(void)
{
	char text[2048], *field;

	MUST(victim_slurp("/proc/self/stat", text, sizeof(text)) > 0);
	field = strrchr(text, ')') + 1;
	/* After the bracket comes a blank and field 3; field 47 is where the heap begins. */
	for (int i = 3; i < 47; i++)
		field = strchr(field + 1, ' ');
	return strtoul(field, NULL, 10);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned char *grown;
	unsigned long start = heap_start();

	CHECK(v, sbrk(0) == s->last_break, "the break was %p and is %p", s->last_break, sbrk(0));
	CHECK(v, start == s->start_brk, "the heap began at %lx and begins at %lx", s->start_brk,
	      start);
	for (unsigned int i = 0; i < BLOCKS; i++) {
		struct block *b = &s->blocks[i];
		ssize_t wrong = victim_differs(b->at, b->size, b->seed);

		CHECK(v, wrong < 0, "block %u of %zu bytes: byte %zd is wrong", i, b->size, wrong);
	}
	grown = sbrk(GROW);
	CHECK(v, grown == s->last_break, "sbrk gave %p, not %p: %m", (void *)grown, s->last_break);
	for (size_t i = 0; i < GROW; i += 512)
		CHECK(v, grown[i] == 0, "new heap memory is not zero at %zu", i);
	victim_fill(grown, GROW, 5);
	CHECK(v, victim_differs(grown, GROW, 5) < 0, "new heap memory does not hold its content");
	CHECK(v, sbrk(-(intptr_t)GROW) == grown + GROW, "the break does not go down");
	for (unsigned int i = 0; i < 300; i++) {
		struct block *b = &s->blocks[victim_random(&s->random) % BLOCKS];

		free(b->at);
		block_new(s, b);
	}
	s->last_break = sbrk(0);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	MUST(mallopt(M_MMAP_THRESHOLD, 1 << 30) == 1 && mallopt(M_TRIM_THRESHOLD, 1 << 30) == 1);
	s.random = 42;
	for (unsigned int i = 0; i < BLOCKS; i++)
		block_new(&s, &s.blocks[i]);
	s.start_brk = heap_start();
	s.last_break = sbrk(0);
	victim_run(&v, verify, &s);
}
