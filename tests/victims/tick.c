/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tick DIR [MIB [PAGES_PER_SECOND [IDLE_THREADS [PROCESSES [DESCRIPTORS [MAPPINGS]]]]]]: sees its own downtime. Defaults:
 * 16 MiB, 0 pages a second, and none of the others: idle threads, idle children, open files (files, eventfds and both ends
 * of pipes, each its own) and mappings of a page.
 *
 * A thread of its own wakes each millisecond, reads CLOCK_REALTIME and records the gap since the
 *time before. A second one writes random pages of the resident memory at the given rate. A check
 *answers for the time since the check before it (the first one: since the start) and begins a new
 *account:
 *
 *	longest_us	the longest gap between two ticks
 *	stalls_us	sum of all gaps longer than 2 ms
 *	stalls		their number
 *	ticks, writes	how often the two threads did their work
 *	elapsed_us	length of the account
 *
 * The memory is filled with words that do not compress. When the writer's thread is held up it does
 *not make up for what it missed, so that writes/elapsed is its real rate.
 */
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define STALL_NS 2000000
#define TICK_NS 1000000

struct state {
	unsigned char *area;  /* resident memory */
	size_t pages;	      /* in it */
	long rate;	      /* page writes a second */
	pthread_mutex_t lock; /* guards the account */
	int64_t longest_ns;   /* account: see above */
	int64_t stalls_ns;
	unsigned long stalls;
	unsigned long ticks;
	atomic_ulong writes;
	atomic_uint started; /* threads that have begun */
	int64_t since_ns;    /* begin of the account, CLOCK_REALTIME */
};

static void account_tick(struct state *s, int64_t gap)
{
	pthread_mutex_lock(&s->lock);
	s->ticks++;
	if (gap > s->longest_ns)
		s->longest_ns = gap;
	if (gap > STALL_NS) {
		s->stalls_ns += gap;
		s->stalls++;
	}
	pthread_mutex_unlock(&s->lock);
}

static void *tick_always(void *context)
{
	struct state *s = context;
	struct timespec next;
	int64_t last, now;

	atomic_fetch_add(&s->started, 1);
	clock_gettime(CLOCK_MONOTONIC, &next);
	last = victim_now_ns(CLOCK_REALTIME);
	for (;;) {
		next.tv_nsec += TICK_NS;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
		now = victim_now_ns(CLOCK_REALTIME);
		account_tick(s, now - last);
		if (now - last > STALL_NS)
			clock_gettime(CLOCK_MONOTONIC, &next);
		last = now;
	}
	return NULL;
}

static void *write_always(void *context)
{
	struct state *s = context;
	uint64_t random = 1;
	int64_t start = victim_now_ns(CLOCK_MONOTONIC), done = 0, due;

	atomic_fetch_add(&s->started, 1);
	for (;;) {
		due = (int64_t)((double)(victim_now_ns(CLOCK_MONOTONIC) - start) / 1e9 *
				(double)s->rate);
		if (due - done > s->rate / 100 + 10) {
			start = victim_now_ns(CLOCK_MONOTONIC);
			done = due = 0;
		}
		for (; done < due; done++) {
			uint64_t number = victim_random(&random);
			uint64_t *at = (uint64_t *)(s->area + number % s->pages * VICTIM_PAGE +
						    (number >> 32) % 512 * 8);

			*at = number;
			atomic_fetch_add_explicit(&s->writes, 1, memory_order_relaxed);
		}
		victim_sleep_us(500);
	}
	return NULL;
}

static void *idle_always(void *context)
{
	struct state *s = context;

	atomic_fetch_add(&s->started, 1);
	for (;;)
		pause();
	return NULL;
}

static void thread_start(void *(*run)(void *), struct state *s)
{
	pthread_attr_t attributes;
	pthread_t thread;

	MUST(pthread_attr_init(&attributes) == 0 &&
	     pthread_attr_setstacksize(&attributes, 64 << 10) == 0);
	MUST(pthread_create(&thread, &attributes, run, s) == 0);
	pthread_attr_destroy(&attributes);
}

static void start_children(long count)
{
	for (long i = 0; i < count; i++) {
		pid_t child = fork();

		MUST(child >= 0);
		if (child == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
}

static void open_files(struct victim *v, long count)
{
	struct rlimit limit;

	MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = limit.rlim_max;
	MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	for (long i = 0; i < count; i += 4) {
		int ends[2];

		MUST(open(victim_path(v, "file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600) >= 0);
		MUST(eventfd((unsigned int)i, EFD_CLOEXEC) >= 0);
		MUST(pipe2(ends, O_CLOEXEC) == 0);
	}
}

/* Neighbours differ, so that the kernel does not make one mapping of them. */
static void map_pages(long count)
{
	for (long i = 0; i < count; i++) {
		int protection = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;

		MUST(mmap(NULL, VICTIM_PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	}
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	int64_t now = victim_now_ns(CLOCK_REALTIME);

	pthread_mutex_lock(&s->lock);
	victim_note(
		v, "longest_us=%lld stalls_us=%lld stalls=%lu ticks=%lu writes=%lu elapsed_us=%lld",
		(long long)s->longest_ns / 1000, (long long)s->stalls_ns / 1000, s->stalls,
		s->ticks, (unsigned long)atomic_exchange(&s->writes, 0),
		(long long)(now - s->since_ns) / 1000);
	s->longest_ns = s->stalls_ns = 0;
	s->stalls = s->ticks = 0;
	s->since_ns = now;
	pthread_mutex_unlock(&s->lock);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct victim v;
	long idle;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 16) << 8;
	s.rate = victim_arg(&v, 1, 0);
	idle = victim_arg(&v, 2, 0);
	MUST(s.pages > 0);
	s.area = mmap(NULL, s.pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(s.area != MAP_FAILED);
	victim_fill(s.area, s.pages * VICTIM_PAGE, 1);
	start_children(victim_arg(&v, 3, 0));
	open_files(&v, victim_arg(&v, 4, 0));
	map_pages(victim_arg(&v, 5, 0));
	for (long i = 0; i < idle; i++)
		thread_start(idle_always, &s);
	s.since_ns = victim_now_ns(CLOCK_REALTIME);
	if (s.rate > 0)
		thread_start(write_always, &s);
	thread_start(tick_always, &s);
	MUST(WAIT_FOR(atomic_load(&s.started) == (unsigned int)idle + (s.rate > 0) + 1, 10000));
	victim_run(&v, verify, &s);
}
