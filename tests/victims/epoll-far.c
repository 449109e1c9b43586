/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * epoll sets whose members are not at hand: one whose number was closed and one whose number is another file's by now, while
 * the files live on under other numbers; one that only a child has; one that a child added under a number that is another
 * file's here; sets in sets, three deep, with a member that is ready in the innermost. One edge is due, and must not be lost.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { ASK_WRITE = 1, ASK_DRAIN };
enum { CLOSED, REUSED, CHILDS, ADDED, EDGE, MEMBERS };

struct state {
	int set, middle, outer;
	int files[MEMBERS]; /* numbers under which they live on; those of the child are in the child only */
	struct victim_peer child;
};

static uint64_t data_of(int member)
{
	return UINT64_C(0xab00000000000000) + (uint64_t)member;
}

static void add(int set, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	eventfd_t value;

	for (int i = CHILDS; i <= ADDED; i++)
		if ((request == ASK_WRITE ? eventfd_write(s->files[i], 1) : eventfd_read(s->files[i], &value)) < 0)
			snprintf(text, size, "the child's eventfd %d: %m", i);
}

static void setup(struct state *s)
{
	int number, here;

	s->set = epoll_create1(0);
	s->middle = epoll_create1(EPOLL_CLOEXEC);
	s->outer = epoll_create1(0);
	MUST(s->set >= 0 && s->middle >= 0 && s->outer >= 0);
	for (int i = 0; i < MEMBERS; i++)
		s->files[i] = eventfd(0, EFD_NONBLOCK);
	add(s->set, s->files[EDGE], EPOLLIN | EPOLLET | EPOLLWAKEUP, data_of(EDGE));
	add(s->set, s->files[CHILDS], EPOLLIN, data_of(CHILDS));
	for (int i = CLOSED; i <= REUSED; i++) {
		number = s->files[i];
		add(s->set, number, EPOLLIN, data_of(i));
		s->files[i] = fcntl(number, F_DUPFD_CLOEXEC, 100);
		MUST(s->files[i] >= 100 && close(number) == 0);
		if (i == REUSED)
			MUST(dup2(s->outer, number) == number);
	}
	/* The child adds its file under the number that it has there, and which is another one here. */
	here = s->files[ADDED];
	victim_peer_fork(&s->child, child_serve, s);
	add(s->set, here, EPOLLIN, data_of(ADDED));
	MUST(close(s->files[CHILDS]) == 0 && dup2(s->middle, here) == here);
	add(s->middle, s->set, EPOLLIN, 1);
	add(s->outer, s->middle, EPOLLIN, 2);
	MUST(eventfd_write(s->files[EDGE], 1) == 0);
}

/* Which members have an event now; an edge shows once. */
static bool look(struct victim *v, struct state *s, unsigned int *ret_seen)
{
	struct epoll_event found[16];
	int count = epoll_wait(s->set, found, 16, 0);

	CHECK(v, count >= 0, "epoll_wait: %m");
	*ret_seen = 0;
	for (int i = 0; i < count; i++) {
		uint64_t member = found[i].data.u64 - data_of(0);

		CHECK(v, member < MEMBERS, "data %llx", (unsigned long long)found[i].data.u64);
		*ret_seen |= 1u << member;
	}
	return true;
}

static bool verify(struct victim *v, void *context)
{
	const unsigned int level = 1u << CLOSED | 1u << REUSED | 1u << CHILDS | 1u << ADDED;
	struct state *s = context;
	struct epoll_event event;
	unsigned int seen;
	eventfd_t value;

	CHECK(v, epoll_wait(s->outer, &event, 1, 0) == 1 && event.data.u64 == 2,
	      "the outer set does not see the edge that is due");
	if (!look(v, s, &seen))
		return false;
	CHECK(v, seen == 1u << EDGE, "members %x at first, not %x: an edge was due", seen, 1u << EDGE);
	if (!look(v, s, &seen))
		return false;
	CHECK(v, seen == 0, "members %x although nothing happened", seen);
	CHECK(v, eventfd_write(s->files[CLOSED], 1) == 0 && eventfd_write(s->files[REUSED], 1) == 0, "eventfd: %m");
	if (!victim_peer_ask(v, &s->child, ASK_WRITE) || !look(v, s, &seen))
		return false;
	CHECK(v, seen == level, "members %x, not %x", seen, level);
	CHECK(v, epoll_wait(s->outer, &event, 1, 0) == 1 && event.data.u64 == 2, "the outer set sees nothing");
	CHECK(v, eventfd_read(s->files[CLOSED], &value) == 0 && eventfd_read(s->files[REUSED], &value) == 0, "eventfd: %m");
	if (!victim_peer_ask(v, &s->child, ASK_DRAIN))
		return false;
	CHECK(v, eventfd_read(s->files[EDGE], &value) == 0 && eventfd_write(s->files[EDGE], 1) == 0, "eventfd: %m");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
