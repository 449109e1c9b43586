/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guards: pages that MADV_GUARD_INSTALL marks (Linux 6.13), and PROT_NONE pages. Touching either
 * must end in a SIGSEGV with the right address, taken on the alternate stack; the pages between
 * keep their content.
 */
#include "victim.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#define PAGES 32u
#define STACK_SIZE (64u << 10)

struct state {
	unsigned char *area;  /* PAGES pages, those of is_guard() guarded */
	unsigned char *fence; /* three pages, the middle one PROT_NONE */
	unsigned char *stack; /* alternate signal stack */
	bool guards;	      /* the kernel knows MADV_GUARD_INSTALL */
};

/* Where the handler leaves what it saw: a handler has no other way to give it. */
static sigjmp_buf escape;
static void *volatile fault_address;
static void *volatile handler_frame;
static volatile int fault_code;

static void on_segv(int number, siginfo_t *info, void *context)
{
	int here;

	(void)number;
	(void)context;
	fault_address = info->si_addr;
	fault_code = info->si_code;
	handler_frame = &here;
	siglongjmp(escape, 1);
}

static bool is_guard(unsigned int page)
{
	return page == 3 || (page >= 5 && page <= 7) || page == PAGES - 1;
}

static bool faults(struct victim *v, const struct state *s, unsigned char *at, bool writing,
		   const char *what)
{
	unsigned char *frame;

	fault_address = NULL;
	handler_frame = NULL;
	if (sigsetjmp(escape, 1) == 0) {
		if (writing)
			*(volatile unsigned char *)at = 1;
		else
			(void)*(volatile unsigned char *)at;
		return victim_fail(v, "%s: access to %p went through", what, (void *)at);
	}
	CHECK(v, fault_address == at, "%s: SIGSEGV says %p, not %p", what, fault_address,
	      (void *)at);
	frame = handler_frame;
	CHECK(v, frame >= s->stack && frame < s->stack + STACK_SIZE,
	      "%s: handler not on the alternate stack", what);
	return true;
}

static void setup(struct victim *v, struct state *s)
{
	struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t stack = {.ss_size = STACK_SIZE};

	s->area = mmap(NULL, PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s->fence = mmap(NULL, 3 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	s->stack =
		mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(s->area != MAP_FAILED && s->fence != MAP_FAILED && s->stack != MAP_FAILED);
	victim_fill(s->area, PAGES * VICTIM_PAGE, 1);
	victim_fill(s->fence, 3 * VICTIM_PAGE, 2);
	MUST(mprotect(s->fence + VICTIM_PAGE, VICTIM_PAGE, PROT_NONE) == 0);
	s->guards = true;
	for (unsigned int page = 0; page < PAGES && s->guards; page++) {
		victim_fill(s->area + page * VICTIM_PAGE, VICTIM_PAGE, 10 + page);
		if (is_guard(page))
			s->guards = madvise(s->area + page * VICTIM_PAGE, VICTIM_PAGE,
					    MADV_GUARD_INSTALL) == 0;
	}
	if (!s->guards && victim_arg_is(v, "need-guards"))
		victim_skip(v, "the kernel has no MADV_GUARD_INSTALL");
	stack.ss_sp = s->stack;
	MUST(sigaltstack(&stack, NULL) == 0);
	MUST(sigaction(SIGSEGV, &action, NULL) == 0);
}

static bool guards(struct victim *v, struct state *s)
{
	unsigned char *last = s->area + (PAGES - 1) * VICTIM_PAGE;

	for (unsigned int page = 0; page < PAGES; page++) {
		unsigned char *at = s->area + page * VICTIM_PAGE;

		if (!is_guard(page)) {
			CHECK(v, victim_differs(at, VICTIM_PAGE, 10 + page) < 0,
			      "page %u between guards is wrong", page);
			continue;
		}
		if (!faults(v, s, at + 100, false, "guard") ||
		    !faults(v, s, at + 4000, true, "guard"))
			return false;
	}
	CHECK(v, madvise(last, VICTIM_PAGE, MADV_GUARD_REMOVE) == 0, "MADV_GUARD_REMOVE: %m");
	CHECK(v, last[0] == 0 && last[4095] == 0, "a page whose guard was removed is not zero");
	CHECK(v, madvise(last, VICTIM_PAGE, MADV_GUARD_INSTALL) == 0, "MADV_GUARD_INSTALL: %m");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	ssize_t wrong;

	if (s->guards && !guards(v, s))
		return false;
	if (!s->guards)
		victim_note(v, "guards=unsupported");
	if (!faults(v, s, s->fence + VICTIM_PAGE, true, "PROT_NONE") ||
	    !faults(v, s, s->fence + 2 * VICTIM_PAGE - 1, false, "PROT_NONE"))
		return false;
	CHECK(v, mprotect(s->fence + VICTIM_PAGE, VICTIM_PAGE, PROT_READ) == 0, "mprotect: %m");
	wrong = victim_differs(s->fence, 3 * VICTIM_PAGE, 2);
	CHECK(v, wrong < 0, "content around and behind the PROT_NONE page: byte %zd is wrong",
	      wrong);
	CHECK(v, mprotect(s->fence + VICTIM_PAGE, VICTIM_PAGE, PROT_NONE) == 0, "mprotect: %m");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
