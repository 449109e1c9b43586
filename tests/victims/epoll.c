/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An epoll set: level- and edge-triggered members, one-shot ones both armed and spent, one
 * exclusive, one nested set; each with 64 bits of data. A check compares /proc/self/fdinfo line by
 * line with what was there at first, then makes events happen. An edge may be seen once more after
 * a move, so an event too many there is no fault.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { LEVEL, EDGE, ONESHOT, SPENT, EXCLUSIVE, PIPE, MEMBERS };

struct state {
	int set;   /* the epoll descriptor */
	int outer; /* a second set, in which the first is a member */
	int fds[MEMBERS];
	int pipe_out;	  /* write end of fds[PIPE] */
	char lines[2048]; /* sorted members as fdinfo had them */
};

static const uint32_t events[MEMBERS] = {EPOLLIN,
					 EPOLLIN | EPOLLET,
					 EPOLLIN | EPOLLONESHOT,
					 EPOLLIN | EPOLLONESHOT,
					 EPOLLIN | EPOLLEXCLUSIVE,
					 EPOLLIN | EPOLLRDHUP | EPOLLPRI};

static uint64_t data_of(int member)
{
	return UINT64_C(0xfeed0000cafe0000) + (uint64_t)member;
}

static int line_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/*
 * The "tfd: .. events: .. data: .." part of each member, sorted; what follows names inodes, which
 * may change.
 */
static void members_read(const struct state *s, char *to, size_t size)
{
	char path[64], text[4096], *lines[64], *line, *save = NULL;
	size_t count = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", s->set);
	to[0] = '\0';
	if (victim_slurp(path, text, sizeof(text)) < 0)
		return;
	for (line = strtok_r(text, "\n", &save); line != NULL && count < 64;
	     line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "tfd:", 4) != 0)
			continue;
		line[strcspn(line, "p")] = '\0'; /* "pos:" */
		lines[count++] = line;
	}
	qsort(lines, count, sizeof(lines[0]), line_compare);
	for (size_t i = 0; i < count; i++) {
		strncat(to, lines[i], size - strlen(to) - 1);
		strncat(to, "\n", size - strlen(to) - 1);
	}
}

/*
 * All data seen by waiting until a pass brings nothing or the same again; bit n stands for member
 * n.
 */
static bool collect(struct victim *v, struct state *s, unsigned int *ret_seen)
{
	struct epoll_event found[16];
	int count;

	*ret_seen = 0;
	for (int pass = 0; pass < 3; pass++) {
		count = epoll_wait(s->set, found, 16, 0);
		CHECK(v, count >= 0, "epoll_wait: %m");
		for (int i = 0; i < count; i++) {
			uint64_t member = found[i].data.u64 - data_of(0);

			CHECK(v, member < MEMBERS, "epoll_wait gave data %llx",
			      (unsigned long long)found[i].data.u64);
			CHECK(v, found[i].events == EPOLLIN, "member %d: events %x", (int)member,
			      found[i].events);
			*ret_seen |= 1u << member;
		}
	}
	return true;
}

static void member_add(struct state *s, int op, int member)
{
	struct epoll_event event = {.events = events[member], .data.u64 = data_of(member)};

	MUST(epoll_ctl(s->set, op, s->fds[member], &event) == 0);
}

static void spend(struct state *s)
{
	struct epoll_event found[16];

	MUST(eventfd_write(s->fds[SPENT], 1) == 0);
	MUST(epoll_wait(s->set, found, 16, 1000) == 1 && found[0].data.u64 == data_of(SPENT));
}

static void setup(struct state *s)
{
	struct epoll_event inner = {.events = EPOLLIN, .data.u64 = 77};
	int ends[2];

	s->set = epoll_create1(EPOLL_CLOEXEC);
	s->outer = epoll_create1(0);
	MUST(s->set >= 0 && s->outer >= 0);
	for (int i = 0; i < MEMBERS; i++)
		s->fds[i] = i == PIPE ? 0 : eventfd(0, EFD_NONBLOCK);
	MUST(pipe2(ends, O_NONBLOCK) == 0);
	s->fds[PIPE] = ends[0];
	s->pipe_out = ends[1];
	for (int i = 0; i < MEMBERS; i++)
		member_add(s, EPOLL_CTL_ADD, i);
	MUST(epoll_ctl(s->outer, EPOLL_CTL_ADD, s->set, &inner) == 0);
	spend(s);
	members_read(s, s->lines, sizeof(s->lines));
	MUST(s->lines[0] != '\0');
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned int seen,
		all = 1u << LEVEL | 1u << EDGE | 1u << ONESHOT | 1u << EXCLUSIVE | 1u << PIPE;
	struct epoll_event event;
	char lines[2048];
	uint64_t value;
	char byte;

	members_read(s, lines, sizeof(lines));
	CHECK(v, strcmp(lines, s->lines) == 0, "members are '%.150s', were '%.150s'", lines,
	      s->lines);
	CHECK(v, fcntl(s->set, F_GETFD) == FD_CLOEXEC && fcntl(s->outer, F_GETFD) == 0,
	      "close-on-exec differs");
	if (!collect(v, s, &seen))
		return false;
	CHECK(v, (seen & ~(1u << EDGE)) == 0, "events before anything happened: %x", seen);
	for (int i = 0; i < MEMBERS; i++)
		CHECK(v, i == PIPE || i == SPENT || eventfd_write(s->fds[i], 1) == 0,
		      "eventfd: %m");
	CHECK(v, write(s->pipe_out, "x", 1) == 1, "pipe: %m");
	CHECK(v, epoll_wait(s->outer, &event, 1, 1000) == 1 && event.data.u64 == 77,
	      "the outer set sees nothing");
	if (!collect(v, s, &seen))
		return false;
	CHECK(v, seen == all, "events of members %x, not %x", seen, all);
	for (int i = 0; i < MEMBERS; i++)
		CHECK(v, i == PIPE || read(s->fds[i], &value, sizeof(value)) == sizeof(value),
		      "eventfd: %m");
	CHECK(v, read(s->fds[PIPE], &byte, 1) == 1, "pipe: %m");
	/* Both one-shots are spent now; arming must work, and one is spent again. */
	member_add(s, EPOLL_CTL_MOD, ONESHOT);
	member_add(s, EPOLL_CTL_MOD, SPENT);
	spend(s);
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
