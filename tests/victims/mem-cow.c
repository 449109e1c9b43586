/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mem-cow DIR [MIB [CHILDREN]]: children that share MIB mebibytes with their parent copy-on-write,
 * but for the pages that one of them has written since: each child writes an eighth, and one more
 * with every check, until it has written half of them; the parent writes few. The note tells Rss and Pss of the parent, from
 * which a test sees whether the sharing was kept. A file DIR/fork makes the next check fork one
 * more child, a file DIR/end makes it end the oldest.
 */
#include "victim.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { ASK_VERIFY = 1, ASK_WRITE = 2, CHILDREN_MAX = 16 };

struct state {
	unsigned char *area; /* private anonymous, filled before the fork */
	size_t pages;
	unsigned char *own_generation; /* per page: 0 as before the fork, else the write that made
					  it differ */
	uint64_t *own_side;	       /* per page: whose write that was */
	uint64_t side;		       /* 1 in the parent, others in the children */
	uint64_t sides;		       /* given away so far */
	unsigned char step;	       /* writes so far */
	struct victim_peer children[CHILDREN_MAX];
	size_t count; /* of them */
};

/* What was written before a fork has the parent's side in the child as well: see add_child(). */
static uint64_t seed(const struct state *s, size_t page)
{
	return s->own_generation[page] == 0
		       ? page
		       : (s->own_side[page] << 40) + ((uint64_t)s->own_generation[page] << 32) + page;
}

static void write_own(struct state *s)
{
	size_t stride = s->side == 1 ? 128 : 8;

	s->step++;
	for (size_t page = (s->side + s->step % 4 * 2u) % 8; page < s->pages; page += stride) {
		s->own_generation[page] = s->step;
		s->own_side[page] = s->side;
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

	if (request == ASK_VERIFY)
		look(s, text, size);
	if (request == ASK_WRITE)
		write_own(s);
}

/* The child's side is set before the fork, so that it has it however early it is moved. */
static void add_child(struct state *s)
{
	MUST(s->count < CHILDREN_MAX);
	s->side = ++s->sides;
	victim_peer_fork(&s->children[s->count++], child_serve, s);
	s->side = 1;
}

static bool end_child(struct victim *v, struct state *s)
{
	/* Not by closing its pipe: its younger siblings have copies of this end. */
	kill(s->children[0].pid, SIGKILL);
	close(s->children[0].to);
	close(s->children[0].from);
	CHECK(v, waitpid(s->children[0].pid, NULL, 0) == s->children[0].pid, "waitpid: %m");
	s->count--;
	memmove(s->children, s->children + 1, s->count * sizeof(s->children[0]));
	return true;
}

static bool ask_all(struct victim *v, struct state *s, unsigned char request)
{
	for (size_t i = 0; i < s->count; i++)
		if (!victim_peer_ask(v, &s->children[i], request))
			return false;
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char text[VICTIM_TEXT_MAX] = "", rss[64] = "?", pss[64] = "?";

	if (unlink(victim_path(v, "fork")) == 0)
		add_child(s);
	if (unlink(victim_path(v, "end")) == 0 && !end_child(v, s))
		return false;
	if (victim_status_line("/proc/self/smaps_rollup", "Rss", rss, sizeof(rss)) &&
	    victim_status_line("/proc/self/smaps_rollup", "Pss", pss, sizeof(pss)))
		victim_note(v, "rss_kb=%ld pss_kb=%ld", strtol(rss, NULL, 10),
			    strtol(pss, NULL, 10));
	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent: %.300s", text);
	if (!ask_all(v, s, ASK_VERIFY))
		return false;
	write_own(s);
	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent, after writing: %.300s", text);
	return ask_all(v, s, ASK_WRITE) && ask_all(v, s, ASK_VERIFY);
}

int main(int argc, char **argv)
{
	static struct state s = {.side = 1, .sides = 1};
	struct victim v;
	long children;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 16) << 8;
	children = victim_arg(&v, 1, 1);
	s.area = mmap(NULL, s.pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s.own_generation = calloc(s.pages, 1);
	s.own_side = calloc(s.pages, sizeof(*s.own_side));
	MUST(s.area != MAP_FAILED && s.own_generation != NULL && s.own_side != NULL);
	for (size_t page = 0; page < s.pages; page++)
		victim_fill(s.area + page * VICTIM_PAGE, VICTIM_PAGE, seed(&s, page));
	for (long i = 0; i < children; i++)
		add_child(&s);
	write_own(&s);
	MUST(ask_all(&v, &s, ASK_WRITE));
	victim_run(&v, verify, &s);
}
