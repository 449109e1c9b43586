/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mem-churn DIR [SEED [STEPS_PER_SECOND]]: an address space that never stays the same, and knows what every page of it must
 * hold. Defaults: 1, 400.
 *
 * Model: areas, each empty or a mapping of a kind; a table says of each page of an area what it holds. A thread takes steps
 * at random: maps, unmaps (all, or the second half), moves, grows, shrinks, empties, makes guards and takes them away,
 * protects, writes values or zeros, moves the program break; forks children, pokes them, lets them execve(2), ends them. A
 * child is a copy with a copy of the table: it takes steps of its own when it is poked, on a stack that is deeper than its
 * parent's, over a frame that it has changed.
 *
 * A check verifies every page of every process.
 */
#include "victim.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#define AREAS 24
#define PAGES 64u /* most of an area */
#define CHILDREN 3
#define CHILD_STEPS 20
#define CHILD_STACK (256u << 10)
#define SHALLOW (3 * VICTIM_PAGE)
#define FILE_SEED UINT64_C(0xf11e0000)

enum kind { NOTHING, ANON, FILE_PRIVATE, SHARED, BREAK };

/* What a page holds: a seed of victim_fill() or one of these. */
enum { ZEROS = 0, AS_FILE = 1, GUARD = 2, SEED_FIRST = 16 };

enum { ASK_VERIFY = 1, ASK_STEPS = 2, ASK_EXEC = 3 };

struct area {
	enum kind kind;
	unsigned char *at;
	size_t pages;
	bool read_only;
	uint64_t holds[PAGES];
};

struct child {
	pid_t pid; /* 0: none */
	int to, from;
};

struct churn {
	struct area areas[AREAS];
	struct child children[CHILDREN];
	uint64_t random, next_seed;
	unsigned long long steps, forks, execs;
	int file;		    /* PAGES pages of FILE_SEED and up */
	bool child;
	char dir[VICTIM_PATH_MAX];
	pthread_mutex_t lock;	    /* of all before; not used by children */
	unsigned char *shallow;	    /* of a child: a part of a frame that its parent has too */
	long rate;
};

static size_t dice(struct churn *c, size_t sides)
{
	return (size_t)(victim_random(&c->random) >> 20) % sides;
}

/* ---- what areas hold */

static bool is_zeros(const unsigned char *at)
{
	return at[0] == 0 && memcmp(at, at + 1, VICTIM_PAGE - 1) == 0;
}

static bool area_verify(struct churn *c, size_t index, char *text, size_t size)
{
	struct area *area = &c->areas[index];

	for (size_t page = 0; area->kind != NOTHING && page < area->pages; page++) {
		const unsigned char *at = area->at + page * VICTIM_PAGE;
		uint64_t holds = area->holds[page];
		bool good = holds == ZEROS ? is_zeros(at)
			    : holds == GUARD ? true
			    : victim_differs(at, VICTIM_PAGE, holds == AS_FILE ? FILE_SEED + page : holds) < 0;

		if (good)
			continue;
		snprintf(text, size, "area %zu of kind %d, page %zu of %zu at %p should hold %llx and begins with %02x%02x",
			 index, (int)area->kind, page, area->pages, at, (unsigned long long)holds, at[0], at[1]);
		return false;
	}
	return true;
}

static bool all_verify(struct churn *c, char *text, size_t size)
{
	text[0] = '\0';
	for (size_t i = 0; i < AREAS; i++)
		if (!area_verify(c, i, text, size))
			return false;
	if (c->shallow && victim_differs(c->shallow, SHALLOW, (uint64_t)getpid()) >= 0) {
		snprintf(text, size, "a frame that the parent has too is not the child's");
		return false;
	}
	return true;
}

static void set_all(struct area *area, uint64_t holds)
{
	for (size_t page = 0; page < PAGES; page++)
		area->holds[page] = holds;
}

/* ---- steps in one area */

static void area_map(struct churn *c, struct area *area)
{
	size_t pages = 1 + dice(c, PAGES);
	enum kind kind = (enum kind)(ANON + dice(c, 3));
	int flags = kind == ANON ? MAP_PRIVATE | MAP_ANONYMOUS : kind == SHARED ? MAP_SHARED | MAP_ANONYMOUS : MAP_PRIVATE;

	/* Shared memory has one table; a child's would not know of the parent's writes. */
	if (kind == SHARED && c->child)
		return;
	area->at = mmap(NULL, pages * VICTIM_PAGE, PROT_READ | PROT_WRITE, flags, kind == FILE_PRIVATE ? c->file : -1, 0);
	MUST(area->at != MAP_FAILED);
	area->kind = kind;
	area->pages = pages;
	area->read_only = false;
	set_all(area, kind == FILE_PRIVATE ? AS_FILE : ZEROS);
}

static void area_unmap(struct churn *c, struct area *area)
{
	size_t keep = dice(c, 2) ? area->pages / 2 : 0;

	if (area->kind == BREAK)
		return;
	MUST(munmap(area->at + keep * VICTIM_PAGE, (area->pages - keep) * VICTIM_PAGE) == 0);
	area->pages = keep;
	if (!keep)
		area->kind = NOTHING;
}

/* To another place, of another size or the same. What is new behind the end is as if it were mapped now. */
static void area_move(struct churn *c, struct area *area)
{
	size_t pages = dice(c, 2) ? area->pages : 1 + dice(c, PAGES);
	unsigned char *place;

	if (area->kind == BREAK)
		return;
	for (size_t page = 0; page < area->pages; page++)
		if (area->holds[page] == GUARD && pages != area->pages)
			return;
	if (area->kind == SHARED && pages > area->pages)
		return; /* behind the end of the object is SIGBUS */
	place = mmap(NULL, (pages + 2) * VICTIM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(place != MAP_FAILED);
	MUST(munmap(place, VICTIM_PAGE) == 0 && munmap(place + (pages + 1) * VICTIM_PAGE, VICTIM_PAGE) == 0);
	area->at = mremap(area->at, area->pages * VICTIM_PAGE, pages * VICTIM_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			  place + VICTIM_PAGE);
	MUST(area->at != MAP_FAILED);
	for (size_t page = area->pages; page < pages; page++)
		area->holds[page] = area->kind == FILE_PRIVATE ? AS_FILE : ZEROS;
	area->pages = pages;
}

static void area_advise(struct churn *c, struct area *area)
{
	size_t first = dice(c, area->pages), n = 1 + dice(c, area->pages - first);
	unsigned char *at = area->at + first * VICTIM_PAGE;
	bool guard = area->kind == ANON && dice(c, 3) == 0;

	if (area->kind == SHARED)
		return; /* its pages stay */
	if (guard && madvise(at, n * VICTIM_PAGE, MADV_GUARD_INSTALL) == 0) {
		for (size_t page = first; page < first + n; page++)
			area->holds[page] = GUARD;
		return;
	}
	madvise(at, n * VICTIM_PAGE, MADV_GUARD_REMOVE);
	MUST(madvise(at, n * VICTIM_PAGE, MADV_DONTNEED) == 0);
	for (size_t page = first; page < first + n; page++)
		area->holds[page] = area->kind == FILE_PRIVATE ? AS_FILE : ZEROS;
}

/* Values, and zeros where something else was. */
static void area_write(struct churn *c, struct area *area)
{
	size_t count = 1 + dice(c, 8);

	if (area->read_only) {
		MUST(mprotect(area->at, area->pages * VICTIM_PAGE, PROT_READ | PROT_WRITE) == 0);
		area->read_only = false;
	}
	for (size_t i = 0; i < count; i++) {
		size_t page = dice(c, area->pages);
		unsigned char *at = area->at + page * VICTIM_PAGE;

		if (area->holds[page] == GUARD || (area->kind == SHARED && c->child))
			continue;
		area->holds[page] = dice(c, 4) ? c->next_seed++ : ZEROS;
		if (area->holds[page] == ZEROS)
			memset(at, 0, VICTIM_PAGE);
		else
			victim_fill(at, VICTIM_PAGE, area->holds[page]);
	}
}

static void area_protect(struct area *area)
{
	MUST(mprotect(area->at, area->pages * VICTIM_PAGE, PROT_READ) == 0);
	area->read_only = true;
}

/* The C library's own memory is below, and does not grow. */
static void break_move(struct churn *c)
{
	struct area *area = &c->areas[0];
	size_t pages = 1 + dice(c, PAGES);

	MUST(sbrk((intptr_t)(pages - area->pages) * (intptr_t)VICTIM_PAGE) != (void *)-1);
	for (size_t page = area->pages; page < pages; page++)
		area->holds[page] = ZEROS;
	area->pages = pages;
}

static void step(struct churn *c)
{
	struct area *area = &c->areas[dice(c, AREAS)];

	c->steps++;
	if (dice(c, 20) == 0)
		break_move(c);
	else if (area->kind == NOTHING)
		area_map(c, area);
	else
		switch (dice(c, 10)) {
		case 0: area_unmap(c, area); break;
		case 1: area_move(c, area); break;
		case 2: area_advise(c, area); break;
		case 3: area_protect(area); break;
		default: area_write(c, area); break;
		}
}

/* ---- children */

static _Noreturn void child_serve(struct churn *c, int requests, int answers)
{
	char text[VICTIM_TEXT_MAX];
	unsigned char request;

	for (;;) {
		ssize_t got = read(requests, &request, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			_exit(0);
		memset(text, 0, sizeof(text));
		if (request == ASK_EXEC) {
			char fds[2][16];

			snprintf(fds[0], sizeof(fds[0]), "%d", requests);
			snprintf(fds[1], sizeof(fds[1]), "%d", answers);
			execl("/proc/self/exe", "mem-churn", c->dir, "--child", fds[0], fds[1], (char *)NULL);
			_exit(1);
		}
		for (int i = 0; request == ASK_STEPS && i < CHILD_STEPS; i++)
			step(c);
		if (request == ASK_VERIFY)
			all_verify(c, text, sizeof(text));
		if (write(answers, text, sizeof(text)) != (ssize_t)sizeof(text))
			_exit(1);
	}
}

/* Its stack pointer is far from the parent's, and what lies between is its own. */
static __attribute__((noinline)) _Noreturn void child_dive(struct churn *c, int requests, int answers)
{
	volatile unsigned char room[CHILD_STACK];

	for (size_t i = 0; i < sizeof(room); i += VICTIM_PAGE)
		room[i] = 1;
	child_serve(c, requests, answers);
}

static void child_fork(struct churn *c, struct child *child, unsigned char *shallow)
{
	int down[2], up[2];

	MUST(pipe(down) == 0 && pipe(up) == 0);
	child->pid = fork();
	MUST(child->pid >= 0);
	if (child->pid == 0) {
		for (size_t i = 0; i < CHILDREN; i++)
			if (c->children[i].to) {
				close(c->children[i].to);
				close(c->children[i].from);
			}
		close(down[1]);
		close(up[0]);
		c->child = true;
		c->random ^= (uint64_t)getpid() << 32;
		for (size_t i = 0; i < AREAS; i++) /* the parent's table does not hold here */
			if (c->areas[i].kind == SHARED) {
				munmap(c->areas[i].at, c->areas[i].pages * VICTIM_PAGE);
				c->areas[i].kind = NOTHING;
			}
		victim_fill(shallow, SHALLOW, (uint64_t)getpid());
		c->shallow = shallow;
		child_dive(c, down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	child->to = down[1];
	child->from = up[0];
	c->forks++;
}

/* "" in `text`: it answers, and all is well. */
static void child_ask(struct child *child, unsigned char request, char *text, size_t size)
{
	struct pollfd pfd = { .fd = child->from, .events = POLLIN };
	char answer[VICTIM_TEXT_MAX];

	snprintf(text, size, "child %d does not answer", (int)child->pid);
	if (write(child->to, &request, 1) != 1)
		return;
	if (!WAIT_FOR(poll(&pfd, 1, 0) == 1, 10000) || read(child->from, answer, sizeof(answer)) != sizeof(answer))
		return;
	snprintf(text, size, "%s%.300s", answer[0] ? "child: " : "", answer);
}

static void child_end(struct child *child)
{
	close(child->to);
	close(child->from);
	waitpid(child->pid, NULL, 0);
	*child = (struct child){ 0 };
}

static void children_step(struct churn *c, unsigned char *shallow)
{
	struct child *child = &c->children[dice(c, CHILDREN)];
	char text[VICTIM_TEXT_MAX] = "";

	if (!child->pid) {
		child_fork(c, child, shallow);
		return;
	}
	switch (dice(c, 16)) {
	case 0: child_end(child); break;
	case 1:
		child_ask(child, ASK_EXEC, text, sizeof(text));
		c->execs++;
		break;
	default: child_ask(child, ASK_STEPS, text, sizeof(text)); break;
	}
	if (text[0]) {
		dprintf(2, "%s\n", text);
		abort();
	}
}

/* ---- the parent */

static __attribute__((noinline)) void *churn_always(void *context)
{
	struct churn *c = context;
	unsigned char shallow[SHALLOW];

	victim_fill(shallow, sizeof(shallow), 1);
	for (;;) {
		pthread_mutex_lock(&c->lock);
		if (dice(c, 50) == 0)
			children_step(c, shallow);
		else
			step(c);
		MUST(victim_differs(shallow, sizeof(shallow), 1) < 0);
		pthread_mutex_unlock(&c->lock);
		victim_sleep_us(1000000 / c->rate);
	}
	return NULL;
}

static bool verify(struct victim *v, void *context)
{
	struct churn *c = context;
	char text[VICTIM_TEXT_MAX] = "";

	pthread_mutex_lock(&c->lock);
	all_verify(c, text, sizeof(text));
	for (size_t i = 0; i < CHILDREN && !text[0]; i++)
		if (c->children[i].pid)
			child_ask(&c->children[i], ASK_VERIFY, text, sizeof(text));
	pthread_mutex_unlock(&c->lock);
	victim_note(v, "steps=%llu forks=%llu execs=%llu", c->steps, c->forks, c->execs);
	return !text[0] || victim_fail(v, "%s", text);
}

static void begin(struct churn *c, const char *dir)
{
	void *volatile room; /* or the compiler leaves it out */
	char path[VICTIM_PATH_MAX + 8];

	/* From here on the C library does not move the break. */
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	room = malloc(100 << 10);
	free(room);
	snprintf(c->dir, sizeof(c->dir), "%s", dir);
	snprintf(path, sizeof(path), "%s/data", dir);
	c->next_seed = SEED_FIRST;
	c->file = open(path, O_RDONLY | O_CLOEXEC);
	MUST(c->file >= 0);
	MUST(sbrk((intptr_t)(VICTIM_PAGE - (uintptr_t)sbrk(0) % VICTIM_PAGE)) != (void *)-1);
	c->areas[0] = (struct area){ .kind = BREAK, .at = sbrk(VICTIM_PAGE), .pages = 1 };
	MUST(c->areas[0].at != (void *)-1);
}

int main(int argc, char **argv)
{
	static struct churn c;
	unsigned char page[VICTIM_PAGE];
	pthread_t thread;
	struct victim v;
	int fd;

	victim_start(&v, argc, argv);
	if (victim_arg_is(&v, "--child")) {
		c.child = true;
		c.random = (uint64_t)getpid();
		begin(&c, v.dir);
		for (int i = 0; i < CHILD_STEPS; i++)
			step(&c);
		MUST(write((int)victim_arg(&v, 2, -1), (char[VICTIM_TEXT_MAX]){ 0 }, VICTIM_TEXT_MAX) == VICTIM_TEXT_MAX);
		child_serve(&c, (int)victim_arg(&v, 1, -1), (int)victim_arg(&v, 2, -1));
	}
	fd = open(victim_path(&v, "data"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	for (uint64_t i = 0; i < PAGES; i++) {
		victim_fill(page, sizeof(page), FILE_SEED + i);
		MUST(write(fd, page, sizeof(page)) == (ssize_t)sizeof(page));
	}
	MUST(close(fd) == 0);
	c.random = (uint64_t)victim_arg(&v, 0, 1);
	c.rate = victim_arg(&v, 1, 400);
	MUST(c.rate > 0 && pthread_mutex_init(&c.lock, NULL) == 0);
	begin(&c, v.dir);
	MUST(pthread_create(&thread, NULL, churn_always, &c) == 0);
	victim_run(&v, verify, &c);
}
