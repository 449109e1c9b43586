/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Event descriptors: values from zero to the greatest, a semaphore, flags, and one shared by dup.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#define GREATEST UINT64_C(0xfffffffffffffffe)

struct state {
	int value, value_dup; /* 12345 */
	int semaphore;	      /* 3 */
	int zero;	      /* 0, non-blocking */
	int greatest;	      /* the greatest value: writing more would block */
};

static bool take(struct victim *v, int fd, uint64_t wanted, const char *what)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	uint64_t found = 0;

	CHECK(v, poll(&pfd, 1, 0) == 1, "%s: nothing to read", what);
	CHECK(v, read(fd, &found, sizeof(found)) == sizeof(found), "%s: %m", what);
	CHECK(v, found == wanted, "%s: %llu, not %llu", what, (unsigned long long)found,
	      (unsigned long long)wanted);
	return true;
}

static void fill(struct state *s)
{
	MUST(eventfd_write(s->value, 12345) == 0 && eventfd_write(s->semaphore, 3) == 0 &&
	     eventfd_write(s->greatest, GREATEST) == 0);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	uint64_t one = 1;

	CHECK(v, fcntl(s->zero, F_GETFL) & O_NONBLOCK && fcntl(s->zero, F_GETFD) == FD_CLOEXEC,
	      "zero: flags differ");
	CHECK(v, !(fcntl(s->value, F_GETFL) & O_NONBLOCK) && fcntl(s->value, F_GETFD) == 0,
	      "value: flags differ");
	CHECK(v, write(s->greatest, &one, sizeof(one)) < 0 && errno == EAGAIN,
	      "the greatest value takes more");
	if (!take(v, s->value, 12345, "value") || !take(v, s->greatest, GREATEST, "greatest"))
		return false;
	for (int i = 0; i < 3; i++)
		if (!take(v, s->semaphore, 1, "semaphore"))
			return false;
	CHECK(v, read(s->semaphore, &one, sizeof(one)) < 0 && errno == EAGAIN,
	      "semaphore: more than 3");
	CHECK(v, read(s->zero, &one, sizeof(one)) < 0 && errno == EAGAIN, "zero is not zero");
	CHECK(v, eventfd_write(s->value, 7) == 0, "write: %m");
	if (!take(v, s->value_dup, 7, "value through its dup"))
		return false;
	CHECK(v, eventfd_write(s->zero, 9) == 0, "write: %m");
	if (!take(v, s->zero, 9, "zero, after a write"))
		return false;
	fill(s);
	return true;
}

int main(int argc, char **argv)
{
	struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	s.value = eventfd(0, 0);
	s.value_dup = dup(s.value);
	s.semaphore = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK);
	s.zero = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	s.greatest = eventfd(0, EFD_NONBLOCK);
	MUST(s.value >= 0 && s.value_dup >= 0 && s.semaphore >= 0 && s.zero >= 0 &&
	     s.greatest >= 0);
	fill(&s);
	victim_run(&v, verify, &s);
}
