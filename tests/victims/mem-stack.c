/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The main thread's stack: small at the move, and each check grows it some 700 KiB deeper than the
 * one before by recursion with alloca(). A second area made with MAP_GROWSDOWN is grown as well.
 * Frames below are checked on the way back.
 */
#include "victim.h"

#include <alloca.h>
#include <sys/mman.h>

#define FRAME_SIZE 3000u
#define DEEPEST 1800u /* frames; with FRAME_SIZE some 5.5 MiB of the usual limit of 8 MiB */
#define GROW_AREA (4u << 20)

struct state {
	unsigned int depth;	   /* frames of the next check */
	unsigned char *grows_top;  /* end of the area made with MAP_GROWSDOWN */
	size_t grows_used;	   /* bytes below grows_top that have been written */
	unsigned char marker[256]; /* in main()'s frame */
};

static unsigned int recurse(unsigned int depth)
{
	unsigned char *frame = alloca(FRAME_SIZE + depth % 7 * 16);
	unsigned int good;

	victim_fill(frame, FRAME_SIZE, depth);
	good = depth > 0 ? recurse(depth - 1) : 0;
	return good + (victim_differs(frame, FRAME_SIZE, depth) < 0);
}

static bool grow(struct victim *v, struct state *s)
{
	ssize_t wrong;

	for (size_t used = 0; used < s->grows_used; used += VICTIM_PAGE) {
		wrong = victim_differs(s->grows_top - used - VICTIM_PAGE, VICTIM_PAGE, used);
		CHECK(v, wrong < 0, "MAP_GROWSDOWN area: wrong byte in page %zu from the top",
		      used / VICTIM_PAGE);
	}
	if (s->grows_used + 16 * VICTIM_PAGE > GROW_AREA)
		return true;
	for (int i = 0; i < 16; i++, s->grows_used += VICTIM_PAGE)
		victim_fill(s->grows_top - s->grows_used - VICTIM_PAGE, VICTIM_PAGE, s->grows_used);
	return true;
}

static void setup(struct state *s)
{
	/*
	 * Room below for the area to grow into: a hole that nobody else is given while it is only
	 * unmapped.
	 */
	unsigned char *room =
		mmap(NULL, 3 * GROW_AREA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(room != MAP_FAILED);
	s->grows_top = room + 3 * GROW_AREA;
	MUST(munmap(room, 3 * GROW_AREA) == 0);
	MUST(mmap(s->grows_top - 4 * VICTIM_PAGE, 4 * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1,
		  0) == s->grows_top - 4 * VICTIM_PAGE);
	for (; s->grows_used < 4 * VICTIM_PAGE; s->grows_used += VICTIM_PAGE)
		victim_fill(s->grows_top - s->grows_used - VICTIM_PAGE, VICTIM_PAGE, s->grows_used);
	victim_fill(s->marker, sizeof(s->marker), 99);
	s->depth = 200;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char perms[5], flags[256] = "";
	unsigned int good;

	CHECK(v, victim_differs(s->marker, sizeof(s->marker), 99) < 0,
	      "main()'s frame has changed");
	CHECK(v, victim_mapping(s, perms, flags, sizeof(flags)), "the stack has no mapping");
	CHECK(v, strstr(flags, " gd ") != NULL, "the stack does not grow any more:%s", flags);
	good = recurse(s->depth);
	CHECK(v, good == s->depth + 1, "%u of %u frames hold what was put there", good,
	      s->depth + 1);
	if (s->depth + 220 < DEEPEST)
		s->depth += 220;
	return grow(v, s);
}

int main(int argc, char **argv)
{
	struct state s = {0};
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
