/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mem-cow DIR [MIB]: a child that shares MIB mebibytes with its parent copy-on-write, but for the
 * pages that one of them has written since: every eighth the child's, the one after it the
 * parent's. Each check writes one more such pair. The note tells Rss and Pss of the parent, from
 * which a test sees whether the sharing was kept.
 */
#include "victim.h"

#include <sys/mman.h>

enum { ASK_VERIFY = 1, ASK_WRITE = 2 };

struct state {
	unsigned char *area; /* private anonymous, filled before the fork */
	size_t pages;
	unsigned char *own_generation; /* per page: 0 as before the fork, else the write that made
					  it differ */
	uint64_t side;		       /* 1 in the parent, 2 in the child */
	unsigned char step;	       /* writes so far */
	struct victim_peer child;
};

static uint64_t seed(const struct state *s, size_t page)
{
	return s->own_generation[page] == 0
		       ? page
		       : (s->side << 40) + ((uint64_t)s->own_generation[page] << 32) + page;
}

static void write_own(struct state *s)
{
	s->step++;
	for (size_t page = s->side + s->step % 4 * 2u; page < s->pages; page += 8) {
		s->own_generation[page] = s->step;
		victim_fill(s->area + page * VICTIM_PAGE, VICTIM_PAGE, seed(s, page));
	}
}

static bool look(const struct state *s, char *text, size_t size)
{
	for (size_t page = 0; page < s->pages; page++) {
		if (victim_differs(s->area + page * VICTIM_PAGE, VICTIM_PAGE, seed(s, page)) < 0)
			continue;
		snprintf(text, size, "page %zu (%s) is wrong", page,
			 s->own_generation[page] ? "written" : "shared");
		return false;
	}
	return true;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;

	s->side = 2;
	if (request == ASK_VERIFY)
		look(s, text, size);
	if (request == ASK_WRITE)
		write_own(s);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char text[VICTIM_TEXT_MAX] = "", rss[64] = "?", pss[64] = "?";

	if (victim_status_line("/proc/self/smaps_rollup", "Rss", rss, sizeof(rss)) &&
	    victim_status_line("/proc/self/smaps_rollup", "Pss", pss, sizeof(pss)))
		victim_note(v, "rss_kb=%ld pss_kb=%ld", strtol(rss, NULL, 10),
			    strtol(pss, NULL, 10));
	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent: %.300s", text);
	if (!victim_peer_ask(v, &s->child, ASK_VERIFY))
		return false;
	write_own(s);
	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent, after writing: %.300s", text);
	return victim_peer_ask(v, &s->child, ASK_WRITE) &&
	       victim_peer_ask(v, &s->child, ASK_VERIFY);
}

int main(int argc, char **argv)
{
	struct state s = {.side = 1};
	struct victim v;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 16) << 8;
	s.area = mmap(NULL, s.pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s.own_generation = calloc(s.pages, 1);
	MUST(s.area != MAP_FAILED && s.own_generation != NULL);
	for (size_t page = 0; page < s.pages; page++)
		victim_fill(s.area + page * VICTIM_PAGE, VICTIM_PAGE, seed(&s, page));
	victim_peer_fork(&s.child, child_serve, &s);
	write_own(&s);
	MUST(victim_peer_ask(&v, &s.child, ASK_WRITE));
	victim_run(&v, verify, &s);
}
