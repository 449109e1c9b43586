/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mem-events DIR [MIB]: changes its memory map on request, to be asked while pages are missing:
 *
 *	check 1		all is as at the start
 *	check 2		touches only what the checks themselves need
 *	check 3		forks, unmaps, moves, empties and protects; reads nothing of the areas
 *	further ones	parent and child verify all that is left
 *
 * Check 3 notes how long it took.
 */
#include "victim.h"

#include <sys/mman.h>
#include <sys/wait.h>

enum { ASK_NOTHING = 1, ASK_VERIFY = 2 };
enum { GONE, MOVED, EMPTIED, STAYS, AREAS };

struct state {
	unsigned char *area[AREAS]; /* each of so many pages */
	size_t pages;
	bool changed; /* check 3 has been; never in the child */
	struct victim_peer child;
};

static bool look(const struct state *s, char *text, size_t size)
{
	size_t half = s->pages / 2;

	for (int area = 0; area < AREAS; area++) {
		for (size_t page = 0; page < s->pages; page++) {
			const unsigned char *at = s->area[area] + page * VICTIM_PAGE;
			uint64_t seed = ((uint64_t)area << 32) + page;

			if (s->changed && area == GONE && page >= half)
				break;
			if (s->changed && area == EMPTIED && page < half) {
				if (at[0] == 0 && memcmp(at, at + 1, VICTIM_PAGE - 1) == 0)
					continue;
			} else if (victim_differs(at, VICTIM_PAGE, seed) < 0) {
				continue;
			}
			snprintf(text, size, "page %zu of area %d is wrong (first byte %u)", page, area,
				 at[0]);
			return false;
		}
	}
	return true;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	if (request == ASK_VERIFY)
		look(context, text, size);
}

static bool change(struct victim *v, struct state *s)
{
	size_t size = s->pages * VICTIM_PAGE;
	struct timespec begin, end;
	unsigned char *place;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	victim_peer_fork(&s->child, child_serve, s);
	CHECK(v, munmap(s->area[GONE] + size / 2, size / 2) == 0, "munmap: %m");
	place = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(v, place != MAP_FAILED, "mmap: %m");
	place = mremap(s->area[MOVED], size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	CHECK(v, place != MAP_FAILED, "mremap: %m");
	s->area[MOVED] = place;
	CHECK(v, madvise(s->area[EMPTIED], size / 2, MADV_DONTNEED) == 0, "madvise: %m");
	CHECK(v, mprotect(s->area[STAYS] + size / 4, size / 2, PROT_READ) == 0, "mprotect: %m");
	s->changed = true;
	clock_gettime(CLOCK_MONOTONIC, &end);
	victim_note(v, "change_ms=%ld",
		    (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	char text[VICTIM_TEXT_MAX] = "";
	struct state *s = context;

	if (v->number == 2) {
		/* Brings the pages that check 3 runs on. */
		struct victim_peer peer;

		victim_peer_fork(&peer, child_serve, s);
		close(peer.to);
		close(peer.from);
		CHECK(v, waitpid(peer.pid, NULL, 0) == peer.pid, "waitpid: %m");
		return true;
	}
	if (v->number == 3)
		return change(v, s);
	if (!look(s, text, sizeof(text)))
		return victim_fail(v, "parent: %.300s", text);
	return !s->changed || victim_peer_ask(v, &s->child, ASK_VERIFY);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 16) * 256 / AREAS;
	for (int area = 0; area < AREAS; area++) {
		size_t size = s.pages * VICTIM_PAGE;

		/* Fences keep the areas from becoming one mapping. */
		s.area[area] = mmap(NULL, size + 2 * VICTIM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(s.area[area] != MAP_FAILED);
		s.area[area] += VICTIM_PAGE;
		MUST(mprotect(s.area[area], size, PROT_READ | PROT_WRITE) == 0);
		for (size_t page = 0; page < s.pages; page++)
			victim_fill(s.area[area] + page * VICTIM_PAGE, VICTIM_PAGE, ((uint64_t)area << 32) + page);
	}
	victim_run(&v, verify, &s);
}
