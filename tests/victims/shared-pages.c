/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * shared-pages DIR [MIB [PAGES_PER_SECOND [KINDS]]]: finds a wrong page of what two processes share. KINDS is any of a
 * (anonymous shared memory), m (memfd), s (file of /dev/shm, deleted), d (file of DIR, deleted), n (memfd that is only open,
 * never mapped), p (file of /dev/shm/shared that keeps its name, victim-PID), h (the same in /dev/shm), f (children that end at
 * once write, too); all of them but p, h and f unless said otherwise. MIB of each: 16 unless said otherwise. PAGES_PER_SECOND
 * of each process: 2000 unless said otherwise, 0 for memory that nobody writes.
 *
 * Model: every page holds {index, generation, words made from both}, or zeros. A table, in shared memory as well, says which
 * generation it must have, and has a lock for each page. A parent and its child write pages at random, each time by another
 * way: through the first mapping, through a second one, through one that is made and taken away again, or with pwrite(2). Some
 * pages become zeros, some holes; files grow and shrink. Before each write, and in a check, pages are verified; the first
 * wrong one ever is the answer from then on.
 */
#include "victim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define WORDS (VICTIM_PAGE / sizeof(uint64_t))
#define KINDS "amsdn"
#define KINDS_MAX 6
#define TAIL_MAX 5000u /* bytes behind the last page of a file that grows and shrinks */

struct table {
	atomic_int wrong; /* 0: none so far; 1: its text is being written; 2: it is there */
	char text[VICTIM_TEXT_MAX - 100];
	atomic_ullong written;
	atomic_uint tail[KINDS_MAX]; /* bytes behind the last page of each segment */
	atomic_uint stop; /* in a check: nobody writes while this is not 0, */
	atomic_int writing; /* and so many are writing */
	uint64_t entries[]; /* for each segment, for each page: its generation; then as many locks, bytes */
};

struct segment {
	char kind;	   /* of KINDS */
	int fd;		   /* -1: anonymous */
	unsigned char *map;    /* all of it, or NULL */
	unsigned char *second; /* the same again, or NULL */
	uint64_t *generation;  /* in the table */
	atomic_uchar *locks;   /* in the table */
};

struct state {
	struct segment segments[KINDS_MAX];
	size_t count;
	size_t pages; /* of each */
	long rate;
	struct table *table;
	bool forks; /* KINDS has an f */
	pid_t child;
};

static uint64_t word_of(size_t page, uint64_t generation, size_t word)
{
	uint64_t z = (uint64_t)page * UINT64_C(0xd1342543de82ef95) + generation * UINT64_C(0x9e3779b97f4a7c15) + word;

	z = (z ^ (z >> 31)) * UINT64_C(0xbf58476d1ce4e5b9);
	return z ^ (z >> 29);
}

/* Generation 0, and every 16th, is zeros. */
static void page_fill(uint64_t *to, size_t page, uint64_t generation)
{
	memset(to, 0, VICTIM_PAGE);
	if (generation % 16 == 0)
		return;
	to[0] = page;
	to[1] = generation;
	for (size_t i = 2; i < WORDS; i++)
		to[i] = word_of(page, generation, i);
}

static bool page_verify(struct state *s, const struct segment *segment, size_t page, bool by_read)
{
	uint64_t wanted[WORDS], found[WORDS];
	int none = 0;

	page_fill(wanted, page, segment->generation[page]);
	if (!segment->map || (by_read && segment->fd >= 0)) {
		if (pread(segment->fd, found, VICTIM_PAGE, (off_t)(page * VICTIM_PAGE)) != (ssize_t)VICTIM_PAGE)
			memset(found, 0xff, sizeof(found));
	} else {
		memcpy(found, (by_read ? segment->second : segment->map) + page * VICTIM_PAGE, VICTIM_PAGE);
	}
	if (memcmp(wanted, found, VICTIM_PAGE) == 0)
		return true;
	if (atomic_compare_exchange_strong(&s->table->wrong, &none, 1)) {
		snprintf(s->table->text, sizeof(s->table->text),
			 "kind %c page %zu: generation %llu expected, found page %llu generation %llu last word %llx (%s)",
			 segment->kind, page, (unsigned long long)segment->generation[page], (unsigned long long)found[0],
			 (unsigned long long)found[1], (unsigned long long)found[WORDS - 1], by_read ? "read" : "map");
		atomic_store(&s->table->wrong, 2);
	}
	return false;
}

static bool put_transient(const struct segment *segment, size_t page, const uint64_t *data)
{
	off_t at = (off_t)(page * VICTIM_PAGE);
	unsigned char *map;

	if (segment->fd >= 0)
		map = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, at);
	else /* an old size of 0 makes a second mapping of shared memory */
		map = mremap(segment->map + at, 0, VICTIM_PAGE, MREMAP_MAYMOVE);
	if (map == MAP_FAILED)
		return false;
	memcpy(map, data, VICTIM_PAGE);
	munmap(map, VICTIM_PAGE);
	return true;
}

static bool put_child(const struct segment *segment, size_t page, const uint64_t *data)
{
	pid_t pid = segment->map ? fork() : -1;

	if (pid == 0) {
		memcpy(segment->map + page * VICTIM_PAGE, data, VICTIM_PAGE);
		_exit(0);
	}
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

static bool put_hole(const struct segment *segment, size_t page)
{
	off_t at = (off_t)(page * VICTIM_PAGE);

	if (segment->fd >= 0)
		return fallocate(segment->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, VICTIM_PAGE) == 0;
	return madvise(segment->map + at, VICTIM_PAGE, MADV_REMOVE) == 0;
}

static void page_put(struct state *s, const struct segment *segment, size_t page, uint64_t dice)
{
	uint64_t generation = segment->generation[page] + 1, data[WORDS];
	bool done = false;

	page_fill(data, page, generation);
	if (generation % 16 == 0 && dice % 2)
		done = put_hole(segment, page);
	else if (s->forks && dice % 64 == 4)
		done = put_child(segment, page, data);
	else if (dice % 4 == 0)
		done = put_transient(segment, page, data);
	else if (dice % 4 == 1 && segment->second)
		done = memcpy(segment->second + page * VICTIM_PAGE, data, VICTIM_PAGE) != NULL;
	else if (dice % 4 == 2 && segment->fd >= 0)
		done = pwrite(segment->fd, data, VICTIM_PAGE, (off_t)(page * VICTIM_PAGE)) == (ssize_t)VICTIM_PAGE;
	if (!done && segment->map)
		memcpy(segment->map + page * VICTIM_PAGE, data, VICTIM_PAGE);
	else if (!done)
		MUST(pwrite(segment->fd, data, VICTIM_PAGE, (off_t)(page * VICTIM_PAGE)) == (ssize_t)VICTIM_PAGE);
	segment->generation[page] = generation;
}

/* Behind the last page a file has a tail of so many bytes 'T'; the parent changes it. */
static void tail_step(struct state *s, size_t index, uint64_t dice)
{
	struct segment *segment = &s->segments[index];
	unsigned int bytes = (unsigned int)(dice % TAIL_MAX);
	char tail[TAIL_MAX];

	if (segment->fd < 0)
		return;
	memset(tail, 'T', sizeof(tail));
	MUST(ftruncate(segment->fd, (off_t)(s->pages * VICTIM_PAGE)) == 0);
	MUST(pwrite(segment->fd, tail, bytes, (off_t)(s->pages * VICTIM_PAGE)) == (ssize_t)bytes);
	atomic_store(&s->table->tail[index], bytes);
}

static bool tail_verify(struct victim *v, struct state *s, size_t index)
{
	const struct segment *segment = &s->segments[index];
	unsigned int bytes = atomic_load(&s->table->tail[index]);
	char tail[TAIL_MAX + 1];
	ssize_t got;

	if (segment->fd < 0)
		return true;
	got = pread(segment->fd, tail, sizeof(tail), (off_t)(s->pages * VICTIM_PAGE));
	CHECK(v, got == (ssize_t)bytes, "kind %c: its tail has %zd bytes, not %u", segment->kind, got, bytes);
	for (ssize_t i = 0; i < got; i++)
		CHECK(v, tail[i] == 'T', "kind %c: byte %zd of its tail is %x", segment->kind, i, (unsigned char)tail[i]);
	return true;
}

static void lock_page(const struct segment *segment, size_t page)
{
	while (atomic_exchange_explicit(&segment->locks[page], 1, memory_order_acquire))
		sched_yield();
}

static void step(struct state *s, uint64_t *random, bool parent)
{
	size_t index = victim_random(random) % s->count, page = victim_random(random) % s->pages;
	const struct segment *segment = &s->segments[index];
	uint64_t dice = victim_random(random);

	lock_page(segment, page);
	if (page_verify(s, segment, page, dice >> 20 & 1))
		page_put(s, segment, page, dice);
	atomic_store_explicit(&segment->locks[page], 0, memory_order_release);
	if (parent && (dice >> 16) % 50 == 0)
		tail_step(s, index, victim_random(random));
	atomic_fetch_add(&s->table->written, 1);
}

static void write_for_ever(struct state *s, bool parent)
{
	int64_t start = victim_now_ns(CLOCK_MONOTONIC), done = 0;
	uint64_t random = parent ? 17 : 71;

	for (;; victim_sleep_us(1000)) {
		int64_t due = (int64_t)((double)(victim_now_ns(CLOCK_MONOTONIC) - start) / 1e9 * (double)s->rate);

		if (due - done > s->rate / 10 + 10) { /* after a long pause: go on, without making up for it */
			start += (int64_t)((double)(due - done) / (double)s->rate * 1e9);
			due = done;
		}
		for (; done < due; done++) {
			atomic_fetch_add(&s->table->writing, 1);
			if (!atomic_load(&s->table->stop))
				step(s, &random, parent);
			atomic_fetch_sub(&s->table->writing, 1);
		}
	}
}

static void *write_thread(void *context)
{
	write_for_ever(context, true);
	return NULL;
}

static int segment_open(struct victim *v, char kind, size_t size)
{
	char path[VICTIM_PATH_MAX + 64];
	int fd;

	if (kind == 'a')
		return -1;
	if (kind == 's' || kind == 'p' || kind == 'h')
		snprintf(path, sizeof(path), "/dev/shm/%svictim-%d", kind == 'p' ? "shared/" : "", getpid());
	else
		snprintf(path, sizeof(path), "%s", victim_path(v, "segment"));
	if (kind == 'm' || kind == 'n')
		fd = memfd_create("shared-pages", MFD_CLOEXEC);
	else
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno == ENOENT && (kind == 's' || kind == 'p' || kind == 'h'))
		victim_skip(v, "there is no /dev/shm");
	MUST(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	MUST(kind == 'm' || kind == 'n' || kind == 'p' || kind == 'h' || unlink(path) == 0);
	return fd;
}

static unsigned char *segment_map(const struct segment *segment, size_t size)
{
	int flags = MAP_SHARED | (segment->fd < 0 ? MAP_ANONYMOUS : 0);
	unsigned char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, segment->fd, 0);

	MUST(map != MAP_FAILED);
	return map;
}

static void segment_setup(struct victim *v, struct state *s, char kind)
{
	struct segment *segment = &s->segments[s->count];
	size_t size = s->pages * VICTIM_PAGE;

	segment->kind = kind;
	segment->fd = segment_open(v, kind, size);
	segment->generation = s->table->entries + s->count * s->pages;
	segment->locks = (atomic_uchar *)(s->table->entries + KINDS_MAX * s->pages) + s->count * s->pages;
	if (kind != 'n') {
		segment->map = segment_map(segment, size);
		segment->second = segment->fd >= 0 ? segment_map(segment, size) : mremap(segment->map, 0, size, MREMAP_MAYMOVE);
		MUST(segment->second != MAP_FAILED);
	}
	/* One page in four stays a hole. */
	for (size_t page = 0; page < s->pages; page++)
		if (page % 4 != 3)
			page_put(s, segment, page, 3);
	s->count++;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct table *table = s->table;

	CHECK(v, kill(s->child, 0) == 0, "the child is gone");
	atomic_store(&table->stop, 1);
	CHECK(v, WAIT_FOR(atomic_load(&table->writing) == 0, 20000), "a writer does not stop");
	for (size_t i = 0; i < s->count; i++) {
		for (size_t page = 0; page < s->pages && !atomic_load(&table->wrong); page++)
			(void)(page_verify(s, &s->segments[i], page, false) && page_verify(s, &s->segments[i], page, true));
		if (!tail_verify(v, s, i))
			return false;
	}
	atomic_store(&table->stop, 0);
	CHECK(v, !atomic_load(&table->wrong), "%s", table->text);
	victim_note(v, "segments=%zu pages=%zu writes=%llu", s->count, s->pages,
		    (unsigned long long)atomic_load(&table->written));
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	const char *kinds;
	pthread_t thread;
	struct victim v;
	size_t size;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 16) << 8;
	s.rate = victim_arg(&v, 1, 2000);
	kinds = v.argc > 2 ? v.argv[2] : KINDS;
	s.forks = strchr(kinds, 'f') != NULL;
	MUST(s.pages > 0 && strlen(kinds) <= KINDS_MAX + (s.forks ? 1u : 0u) && strspn(kinds, KINDS "phf") == strlen(kinds));
	size = sizeof(struct table) + KINDS_MAX * s.pages * (sizeof(uint64_t) + 1);
	s.table = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(s.table != MAP_FAILED);
	for (; *kinds; kinds++)
		if (*kinds != 'f')
			segment_setup(&v, &s, *kinds);
	s.child = fork();
	MUST(s.child >= 0);
	if (s.child == 0 && s.rate > 0)
		write_for_ever(&s, false);
	while (s.child == 0)
		pause();
	MUST(s.rate == 0 || pthread_create(&thread, NULL, write_thread, &s) == 0);
	MUST(s.rate == 0 || WAIT_FOR(atomic_load(&s.table->written) > 0, 10000));
	victim_run(&v, verify, &s);
}
