/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared memory between a process and its child: an anonymous shared mapping that both write, and a
 * sealed memfd that each of them maps and that the parent maps twice, at different addresses and
 * offsets.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>

#define PAGES 256u
#define SIZE (PAGES * VICTIM_PAGE)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

enum { ASK_VERIFY = 1, ASK_WRITE = 2 };

struct state {
	unsigned char *anonymous; /* shared by both processes; even pages the parent's, odd ones the
				     child's */
	unsigned char *memfd_map; /* all of the memfd, in both processes */
	unsigned char *second_map; /* the memfd from its second half on, read-only */
	int memfd;		   /* the memfd itself */
	uint64_t generation;	   /* counted in each process on its own, in step */
	struct victim_peer child;
};

static uint64_t seed(const struct state *s, size_t page, int kind)
{
	return (s->generation * 10 + (uint64_t)kind) * 1000 + page;
}

static void write_own(struct state *s, size_t first)
{
	for (size_t page = first; page < PAGES; page += 2) {
		victim_fill(s->anonymous + page * VICTIM_PAGE, VICTIM_PAGE, seed(s, page, 1));
		victim_fill(s->memfd_map + page * VICTIM_PAGE, VICTIM_PAGE, seed(s, page, 2));
	}
}

/* What a process sees, both its own pages and the other's; false with a reason in text. */
static bool look(const struct state *s, char *text, size_t size)
{
	unsigned char buffer[VICTIM_PAGE];

	for (size_t page = 0; page < PAGES; page++) {
		off_t at = (off_t)(page * VICTIM_PAGE);

		if (victim_differs(s->anonymous + at, VICTIM_PAGE, seed(s, page, 1)) >= 0) {
			snprintf(text, size, "shared anonymous page %zu is wrong", page);
			return false;
		}
		if (victim_differs(s->memfd_map + at, VICTIM_PAGE, seed(s, page, 2)) >= 0) {
			snprintf(text, size, "memfd page %zu is wrong in the mapping", page);
			return false;
		}
		if (page >= PAGES / 2 &&
		    memcmp(s->memfd_map + at, s->second_map + at - SIZE / 2, VICTIM_PAGE) != 0) {
			snprintf(text, size, "memfd page %zu differs in the second mapping", page);
			return false;
		}
		if (pread(s->memfd, buffer, sizeof(buffer), at) != sizeof(buffer) ||
		    memcmp(buffer, s->memfd_map + at, sizeof(buffer)) != 0) {
			snprintf(text, size, "memfd page %zu differs through the descriptor", page);
			return false;
		}
	}
	return true;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;

	if (request == ASK_VERIFY)
		look(s, text, size);
	if (request == ASK_WRITE) {
		s->generation++;
		write_own(s, 1);
	}
}

static void setup(struct state *s)
{
	s->anonymous = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	s->memfd = memfd_create("victim-memfd", MFD_ALLOW_SEALING);
	MUST(s->memfd >= 0 && ftruncate(s->memfd, SIZE) == 0 &&
	     fcntl(s->memfd, F_ADD_SEALS, SEALS) == 0);
	s->memfd_map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->memfd, 0);
	s->second_map = mmap(NULL, SIZE / 2, PROT_READ, MAP_SHARED, s->memfd, SIZE / 2);
	MUST(s->anonymous != MAP_FAILED && s->memfd_map != MAP_FAILED &&
	     s->second_map != MAP_FAILED);
	write_own(s, 0);
	write_own(s, 1);
	victim_peer_fork(&s->child, child_serve, s);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char text[VICTIM_TEXT_MAX] = "", target[64] = "";
	unsigned char page[VICTIM_PAGE];
	int seals = fcntl(s->memfd, F_GET_SEALS);

	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent: %.300s", text);
	if (!victim_peer_ask(v, &s->child, ASK_VERIFY) || !victim_peer_ask(v, &s->child, ASK_WRITE))
		return false;
	CHECK(v, seals == SEALS, "memfd: seals are %x", (unsigned int)seals);
	snprintf(text, sizeof(text), "/proc/self/fd/%d", s->memfd);
	CHECK(v,
	      readlink(text, target, sizeof(target) - 1) > 0 &&
		      strncmp(target, "/memfd:victim-memfd", 19) == 0,
	      "memfd: its name is %s", target);
	s->generation++;
	write_own(s, 0);
	/* Through the descriptor too, with the same content that the mapping should then show. */
	victim_fill(page, sizeof(page), seed(s, 0, 2));
	memset(s->memfd_map, 0, VICTIM_PAGE);
	CHECK(v, pwrite(s->memfd, page, sizeof(page), 0) == sizeof(page), "memfd: pwrite: %m");
	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent, after both wrote: %.300s", text);
	return victim_peer_ask(v, &s->child, ASK_VERIFY);
}

int main(int argc, char **argv)
{
	struct state s = {0};
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
