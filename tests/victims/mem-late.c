/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mem-late DIR [MIB]: uses what the kernel offers for memory on pages that may be missing still:
 *
 *	check 1, 2	touch only what the checks themselves need
 *	check 3		guards, locks, seals, protects, populates, collapses, and forks with pages that are not for the child
 *	further ones	parent and child verify all that is left
 */
#include "victim.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif
#define SYS_MSEAL 462

#define FEW (8 * VICTIM_PAGE) /* what has to be waited for */

enum { ASK_NOTHING = 1, ASK_VERIFY = 2 };
enum { GUARDED, SEALED, HIDDEN, POPULATED, LOCKED, COLLAPSED, NOT_FORKED, AREAS };

struct state {
	unsigned char *area[AREAS];
	size_t size;   /* of each */
	int sink;      /* write(2) to it shows whether a page can be read */
	bool changed;  /* check 3 has been */
	bool guards;   /* the kernel has them, and it has installed them */
	bool in_child; /* of check 3 */
	struct victim_peer child;
};

static uint64_t seed_of(int area, size_t page)
{
	return ((uint64_t)area << 32) + page;
}

/* Every third one, as a run of two. */
static bool is_guarded(const struct state *s, int area, size_t page)
{
	return s->changed && s->guards && area == GUARDED && page % 6 < 2;
}

static bool page_is_right(const struct state *s, int area, size_t page)
{
	const unsigned char *at = s->area[area] + page * VICTIM_PAGE;

	if (is_guarded(s, area, page))
		return write(s->sink, at, 1) < 0 && errno == EFAULT;
	return victim_differs(at, VICTIM_PAGE, seed_of(area, page)) < 0;
}

static bool look(const struct state *s, char *text, size_t size)
{
	for (int area = 0; area < AREAS; area++) {
		/* Guards of a child that has not faulted when they are due are not promised (src/lazy/guards.c). */
		if (s->in_child && (area == NOT_FORKED || area == GUARDED))
			continue;
		if (s->changed && area == HIDDEN && mprotect(s->area[area], s->size, PROT_READ) < 0)
			return snprintf(text, size, "mprotect: %s", strerror(errno)) < 0;
		for (size_t page = 0; page < s->size / VICTIM_PAGE; page++)
			if (!page_is_right(s, area, page)) {
				snprintf(text, size, "page %zu of area %d is wrong", page, area);
				return false;
			}
		if (s->changed && area == HIDDEN && mprotect(s->area[area], s->size, PROT_NONE) < 0)
			return snprintf(text, size, "mprotect: %s", strerror(errno)) < 0;
	}
	return true;
}

/* Where a guard was is an empty page. */
static bool take_guard_away(struct victim *v, struct state *s)
{
	unsigned char *at = s->area[GUARDED] + 6 * VICTIM_PAGE;

	if (!s->guards)
		return true;
	CHECK(v, madvise(at, VICTIM_PAGE, MADV_GUARD_REMOVE) == 0, "MADV_GUARD_REMOVE: %m");
	CHECK(v, at[0] == 0 && memcmp(at, at + 1, VICTIM_PAGE - 1) == 0, "where a guard was is %u", at[0]);
	CHECK(v, madvise(at, VICTIM_PAGE, MADV_GUARD_INSTALL) == 0, "MADV_GUARD_INSTALL: %m");
	return true;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;

	s->in_child = true;
	if (request == ASK_VERIFY)
		look(s, text, size);
}

static bool change(struct victim *v, struct state *s)
{
	s->guards = true;
	for (size_t page = 0; page < s->size / VICTIM_PAGE && s->guards; page += 6)
		s->guards = madvise(s->area[GUARDED] + page * VICTIM_PAGE, 2 * VICTIM_PAGE, MADV_GUARD_INSTALL) == 0;
	victim_note(v, "guards=%d", s->guards);
	CHECK(v, mprotect(s->area[HIDDEN], s->size, PROT_NONE) == 0, "mprotect: %m");
	CHECK(v, syscall(SYS_MSEAL, s->area[SEALED], s->size, 0) == 0 || errno == ENOSYS, "mseal: %m");
	CHECK(v, madvise(s->area[POPULATED], FEW, MADV_POPULATE_READ) == 0, "MADV_POPULATE_READ: %m");
	CHECK(v, mlock(s->area[LOCKED], FEW) == 0, "mlock: %m");
	(void)madvise(s->area[COLLAPSED], s->size, MADV_HUGEPAGE);
	(void)madvise(s->area[COLLAPSED], s->size, MADV_COLLAPSE); /* refused while anything is missing */
	CHECK(v, madvise(s->area[NOT_FORKED], s->size, MADV_DONTFORK) == 0, "MADV_DONTFORK: %m");
	s->changed = true;
	victim_peer_fork(&s->child, child_serve, s);
	return victim_peer_ask(v, &s->child, ASK_NOTHING);
}

static bool verify(struct victim *v, void *context)
{
	char text[VICTIM_TEXT_MAX] = "";
	struct state *s = context;

	if (v->number < 3) {
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
	return take_guard_away(v, s) && victim_peer_ask(v, &s->child, ASK_VERIFY);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	s.size = (size_t)victim_arg(&v, 0, 14) * 256 / AREAS * VICTIM_PAGE;
	s.sink = memfd_create("sink", MFD_CLOEXEC);
	MUST(s.sink >= 0);
	for (int area = 0; area < AREAS; area++) {
		/* Fences keep the areas from becoming one mapping. */
		s.area[area] = mmap(NULL, s.size + 2 * VICTIM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(s.area[area] != MAP_FAILED);
		s.area[area] += VICTIM_PAGE;
		MUST(mprotect(s.area[area], s.size, PROT_READ | PROT_WRITE) == 0);
		for (size_t page = 0; page < s.size / VICTIM_PAGE; page++)
			victim_fill(s.area[area] + page * VICTIM_PAGE, VICTIM_PAGE, seed_of(area, page));
	}
	victim_run(&v, verify, &s);
}
