/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pages DIR [MIB [WRITERS [PAGES_PER_SECOND]]]: the victim that finds a wrong page. Defaults: 64
 * MiB, 2 writers, 0 pages a second, which means as fast as they can.
 *
 * Model: every page of the area holds {index, generation, words made from both, checksum}, or only
 * zeros. A separate table says for each page which generation it must have. Each writer owns the
 * pages whose index leaves its number as the remainder. It picks one at random, verifies it in
 * full, and rewrites it with the next generation; one write in 32 makes it zeros, one in 64 drops
 * it with MADV_DONTNEED. A reader goes round all pages meanwhile. A check verifies every page once
 * more. The first wrong page ever seen is remembered, and is the answer from then on.
 *
 * A page and its entry of the table are only touched under the page's lock, a byte in an array of
 * its own. Pages never written (one in four at first) are zeros: table entry 0.
 */
#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define WORDS (VICTIM_PAGE / sizeof(uint64_t))
#define ZEROS (UINT64_C(1) << 63) /* in a table entry: the page must be all zeros */
#define READER_PAGES_PER_MS 16u

struct state {
	uint64_t *area;	       /* pages of WORDS words */
	size_t pages;	       /* in the area */
	uint64_t *generation;  /* table: what each page must hold */
	atomic_uchar *locks;   /* one for each page */
	unsigned int writers;  /* threads */
	long rate;	       /* page writes a second of all writers together; 0: no limit */
	atomic_ullong written; /* pages, since the start */
	atomic_ullong read;    /* pages verified by the reader, since the start */
	atomic_int wrong;      /* 0: none so far; 1: first_wrong is being written; 2: it is there */
	char first_wrong[VICTIM_TEXT_MAX - 100];
};

struct writer {
	struct state *state;
	unsigned int number;
};

static void page_lock(struct state *s, size_t page)
{
	while (atomic_exchange_explicit(&s->locks[page], 1, memory_order_acquire) != 0)
		sched_yield();
}

static void page_unlock(struct state *s, size_t page)
{
	atomic_store_explicit(&s->locks[page], 0, memory_order_release);
}

static uint64_t word_of(size_t page, uint64_t generation, size_t word)
{
	uint64_t z = (uint64_t)page * UINT64_C(0xd1342543de82ef95) +
		     generation * UINT64_C(0x9e3779b97f4a7c15) + word;

	z = (z ^ (z >> 31)) * UINT64_C(0xbf58476d1ce4e5b9);
	return z ^ (z >> 29);
}

static void page_write(struct state *s, size_t page, uint64_t generation)
{
	uint64_t *at = s->area + page * WORDS, sum = 0;

	at[0] = page;
	at[1] = generation;
	for (size_t i = 2; i < WORDS - 1; i++) {
		at[i] = word_of(page, generation, i);
		sum = sum * 31 + at[i];
	}
	at[WORDS - 1] = sum;
	s->generation[page] = generation;
}

static void remember(struct state *s, size_t page, const char *format, unsigned long long a,
		     unsigned long long b, unsigned long long c)
{
	int none = 0;
	int used;

	if (!atomic_compare_exchange_strong(&s->wrong, &none, 1))
		return;
	used = snprintf(s->first_wrong, sizeof(s->first_wrong), "page %zu at %p: ", page,
			(void *)(s->area + page * WORDS));
	snprintf(s->first_wrong + used, sizeof(s->first_wrong) - (size_t)used, format, a, b, c);
	atomic_store(&s->wrong, 2);
}

/* The page's lock is held. */
static bool page_verify(struct state *s, size_t page)
{
	const uint64_t *at = s->area + page * WORDS;
	uint64_t expected = s->generation[page], sum = 0;

	if (expected == 0 || (expected & ZEROS) != 0) {
		for (size_t i = 0; i < WORDS; i++) {
			if (at[i] == 0)
				continue;
			remember(s, page, "should be zeros, word %llu is %llx, word 1 is %llx", i,
				 at[i], at[1]);
			return false;
		}
		return true;
	}
	if (at[0] != page || at[1] != expected) {
		remember(s, page, "generation %llu expected, found page %llu generation %llu",
			 expected, at[0], at[1]);
		return false;
	}
	for (size_t i = 2; i < WORDS - 1; i++) {
		sum = sum * 31 + at[i];
		if (at[i] == word_of(page, expected, i))
			continue;
		remember(s, page, "generation %llu is right, but word %llu is %llx", expected, i,
			 at[i]);
		return false;
	}
	if (at[WORDS - 1] != sum) {
		remember(s, page, "generation %llu is right, but the checksum is %llx, not %llx",
			 expected, at[WORDS - 1], sum);
		return false;
	}
	return true;
}

static void page_step(struct state *s, size_t page, uint64_t dice)
{
	uint64_t next;

	page_lock(s, page);
	if (page_verify(s, page)) {
		next = (s->generation[page] & ~ZEROS) + 1;
		if (dice % 64 == 0 &&
		    madvise(s->area + page * WORDS, VICTIM_PAGE, MADV_DONTNEED) == 0) {
			s->generation[page] = next | ZEROS;
		} else if (dice % 32 == 1) {
			memset(s->area + page * WORDS, 0, VICTIM_PAGE);
			s->generation[page] = next | ZEROS;
		} else {
			page_write(s, page, next);
		}
	}
	page_unlock(s, page);
	atomic_fetch_add_explicit(&s->written, 1, memory_order_relaxed);
}

static void *write_always(void *context)
{
	struct writer *w = context;
	struct state *s = w->state;
	uint64_t random = 77 + w->number;
	int64_t start = victim_now_ns(CLOCK_MONOTONIC), done = 0, due;
	size_t own = (s->pages - w->number + s->writers - 1) / s->writers;

	for (;;) {
		due = done + 256;
		if (s->rate > 0) {
			double share = (double)s->rate / s->writers;

			due = (int64_t)((double)(victim_now_ns(CLOCK_MONOTONIC) - start) / 1e9 *
					share);
			/*
			 * After a long pause go on at the rate, without making up for what was
			 * missed.
			 */
			if (due - done > share / 20 + 10) {
				start += (int64_t)((double)(due - done) / share * 1e9);
				due = done;
			}
		}
		for (; done < due; done++)
			page_step(s, victim_random(&random) % own * s->writers + w->number,
				  victim_random(&random));
		if (s->rate > 0)
			victim_sleep_us(1000);
	}
	return NULL;
}

static void *read_always(void *context)
{
	struct state *s = context;

	for (size_t page = 0;; page = (page + 1) % s->pages) {
		page_lock(s, page);
		page_verify(s, page);
		page_unlock(s, page);
		atomic_fetch_add_explicit(&s->read, 1, memory_order_relaxed);
		if (page % READER_PAGES_PER_MS == 0)
			victim_sleep_us(1000);
	}
	return NULL;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	for (size_t page = 0; page < s->pages && atomic_load(&s->wrong) == 0; page++) {
		page_lock(s, page);
		page_verify(s, page);
		page_unlock(s, page);
	}
	if (atomic_load(&s->wrong) != 0) {
		WAIT_FOR(atomic_load(&s->wrong) == 2, 1000);
		return victim_fail(v, "%s", s->first_wrong);
	}
	victim_note(v, "pages=%zu writes=%llu reads=%llu", s->pages,
		    (unsigned long long)atomic_load(&s->written),
		    (unsigned long long)atomic_load(&s->read));
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct writer *writers;
	pthread_t thread;
	struct victim v;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 64) << 8;
	s.writers = (unsigned int)victim_arg(&v, 1, 2);
	s.rate = victim_arg(&v, 2, 0);
	MUST(s.pages > 0 && s.writers < s.pages);
	s.area = mmap(NULL, s.pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s.generation = calloc(s.pages, sizeof(*s.generation));
	s.locks = calloc(s.pages, sizeof(*s.locks));
	writers = calloc(s.writers + 1, sizeof(*writers));
	MUST(s.area != MAP_FAILED && s.generation != NULL && s.locks != NULL && writers != NULL);
	for (size_t page = 0; page < s.pages; page++)
		if (page % 4 != 3)
			page_write(&s, page, 1);
	for (unsigned int i = 0; i < s.writers; i++) {
		writers[i] = (struct writer){.state = &s, .number = i};
		MUST(pthread_create(&thread, NULL, write_always, &writers[i]) == 0);
	}
	MUST(pthread_create(&thread, NULL, read_always, &s) == 0);
	MUST(WAIT_FOR(atomic_load(&s.read) > 0 && (s.writers == 0 || atomic_load(&s.written) > 0),
		      10000));
	victim_run(&v, verify, &s);
}
