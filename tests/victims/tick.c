/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tick DIR [MIB [PAGES_PER_SECOND [IDLE_THREADS [PROCESSES [DESCRIPTORS [MAPPINGS
 *      [CONNECTIONS FROM TO PORT]]]]]]]: sees its own downtime. Defaults:
 * 16 MiB, 0 pages a second, and none of the others: idle threads, idle children, open files (files, eventfds and both ends
 * of pipes, each its own), mappings of a page, and TCP connections from one IPv4 address to another.
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
 * Before that, it asks each thread and child for an answer, uses each descriptor and looks at each mapping; what this costs is
 * in no account.
 *
 * The memory is filled with words that do not compress. When the writer's thread is held up it does
 *not make up for what it missed, so that writes/elapsed is its real rate.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define STALL_NS 2000000
#define TICK_NS 1000000
#define ANSWER_MS 20000
#define SIGNAL_CHILD SIGRTMIN	      /* to a child, and back with its number */
#define SIGNAL_THREAD (SIGRTMIN + 1) /* to a thread, which counts it */

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

	/* What is only there to be many. */
	long threads, children, descriptors, mappings, connections;
	pthread_t *thread;     /* idle ones */
	atomic_ulong answered; /* signals that idle threads took, since the start */
	pid_t *child;
	bool *seen;	 /* by child: it has answered */
	int *descriptor; /* a file, an eventfd, the two ends of a pipe, and so on */
	ino_t file;	 /* that the first of each four has open */
	char **mapping;
	int *connection;
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

static void wait_signal(int number)
{
	sigset_t set;
	int taken;

	sigemptyset(&set);
	sigaddset(&set, number);
	MUST(sigwait(&set, &taken) == 0);
}

static void *idle_always(void *context)
{
	struct state *s = context;

	atomic_fetch_add(&s->started, 1);
	for (;;) {
		wait_signal(SIGNAL_THREAD);
		atomic_fetch_add(&s->answered, 1);
	}
	return NULL;
}

static pthread_t thread_start(void *(*run)(void *), struct state *s)
{
	pthread_attr_t attributes;
	pthread_t thread;

	MUST(pthread_attr_init(&attributes) == 0 &&
	     pthread_attr_setstacksize(&attributes, 64 << 10) == 0);
	MUST(pthread_create(&thread, &attributes, run, s) == 0);
	pthread_attr_destroy(&attributes);
	return thread;
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGNAL_CHILD);
	sigaddset(&set, SIGNAL_THREAD);
	MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void *allocate(long count, size_t size)
{
	void *array = calloc((size_t)count + 4, size);

	MUST(array);
	return array;
}

static void start_threads(struct state *s)
{
	s->thread = allocate(s->threads, sizeof(*s->thread));
	for (long i = 0; i < s->threads; i++)
		s->thread[i] = thread_start(idle_always, s);
}

static void start_children(struct state *s)
{
	s->child = allocate(s->children, sizeof(*s->child));
	s->seen = allocate(s->children, sizeof(*s->seen));
	for (long i = 0; i < s->children; i++) {
		s->child[i] = fork();
		MUST(s->child[i] >= 0);
		if (s->child[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;) {
				wait_signal(SIGNAL_CHILD);
				MUST(sigqueue(getppid(), SIGNAL_CHILD, (union sigval){ .sival_int = (int)i }) == 0);
			}
		}
	}
}

static void raise_limit(void)
{
	struct rlimit limit;

	MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = limit.rlim_max;
	MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void connect_all(struct victim *v, struct state *s)
{
	struct sockaddr_in from = { .sin_family = AF_INET }, to = { .sin_family = AF_INET };

	s->connection = allocate(s->connections, sizeof(*s->connection));
	if (s->connections == 0)
		return;
	MUST(v->argc == 10 && inet_pton(AF_INET, v->argv[7], &from.sin_addr) == 1 &&
	     inet_pton(AF_INET, v->argv[8], &to.sin_addr) == 1);
	to.sin_port = htons((uint16_t)victim_arg(v, 9, 0));
	for (long i = 0; i < s->connections; i++) {
		int fd = s->connection[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		MUST(fd >= 0 && bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0);
		MUST(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	}
}

static void open_files(struct victim *v, struct state *s)
{
	struct stat status;

	s->descriptor = allocate(s->descriptors, sizeof(*s->descriptor));
	for (long i = 0; i < s->descriptors; i += 4) {
		int *group = s->descriptor + i;

		group[0] = open(victim_path(v, "file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		group[1] = eventfd((unsigned int)i + 1, EFD_CLOEXEC | EFD_NONBLOCK);
		MUST(group[0] >= 0 && lseek(group[0], i, SEEK_SET) == i && group[1] >= 0);
		MUST(pipe2(group + 2, O_CLOEXEC | O_NONBLOCK) == 0);
		MUST(fstat(group[0], &status) == 0);
		s->file = status.st_ino;
	}
}

/* Neighbours differ, so that the kernel does not make one mapping of them. */
static int protection(long i)
{
	return i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
}

static void map_pages(struct state *s)
{
	s->mapping = allocate(s->mappings, sizeof(*s->mapping));
	for (long i = 0; i < s->mappings; i++) {
		s->mapping[i] = mmap(NULL, VICTIM_PAGE, protection(i), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		MUST(s->mapping[i] != MAP_FAILED);
	}
}

static bool check_threads(struct victim *v, struct state *s)
{
	unsigned long wanted = atomic_load(&s->answered) + (unsigned long)s->threads;

	for (long i = 0; i < s->threads; i++)
		CHECK(v, pthread_kill(s->thread[i], SIGNAL_THREAD) == 0, "thread %ld is gone", i);
	CHECK(v, WAIT_FOR(atomic_load(&s->answered) == wanted, ANSWER_MS), "%ld of %ld threads have not answered",
	      (long)(wanted - atomic_load(&s->answered)), s->threads);
	return true;
}

static bool check_children(struct victim *v, struct state *s)
{
	struct timespec limit = { .tv_sec = ANSWER_MS / 1000 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGNAL_CHILD);
	memset(s->seen, 0, (size_t)s->children * sizeof(*s->seen));
	for (long i = 0; i < s->children; i++) {
		CHECK(v, waitpid(s->child[i], NULL, WNOHANG) == 0, "child %ld, PID %d, does not live", i, s->child[i]);
		CHECK(v, kill(s->child[i], SIGNAL_CHILD) == 0, "child %ld, PID %d: %m", i, s->child[i]);
	}
	for (long n = 0; n < s->children; n++) {
		long i;

		CHECK(v, sigtimedwait(&set, &info, &limit) == SIGNAL_CHILD, "%ld of %ld children have not answered",
		      s->children - n, s->children);
		i = info.si_value.sival_int;
		CHECK(v, i >= 0 && i < s->children && s->child[i] == info.si_pid && !s->seen[i], "PID %d answers as child %ld",
		      info.si_pid, i);
		s->seen[i] = true;
	}
	return true;
}

static bool check_connections(struct victim *v, struct state *s)
{
	for (long i = 0; i < s->connections; i++) {
		struct tcp_info info;
		socklen_t size = sizeof(info);

		CHECK(v, getsockopt(s->connection[i], IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
				 info.tcpi_state == TCP_ESTABLISHED,
		      "connection %ld of %ld is not established", i, s->connections);
	}
	return true;
}

static bool check_descriptors(struct victim *v, struct state *s)
{
	for (long i = 0; i < s->descriptors; i += 4) {
		const int *group = s->descriptor + i;
		struct stat status;
		uint64_t value = 0;
		long sent = i, got = -1;

		for (int k = 0; k < 4; k++)
			CHECK(v, fcntl(group[k], F_GETFD) == FD_CLOEXEC, "descriptor %d is not as it was", group[k]);
		CHECK(v, fstat(group[0], &status) == 0 && status.st_ino == s->file && lseek(group[0], 0, SEEK_CUR) == i,
		      "descriptor %d is another file, or elsewhere in it", group[0]);
		CHECK(v, read(group[1], &value, sizeof(value)) == sizeof(value) && value == (uint64_t)i + 1,
		      "eventfd %d has %llu, not %ld", group[1], (unsigned long long)value, i + 1);
		CHECK(v, write(group[1], &value, sizeof(value)) == sizeof(value), "eventfd %d: %m", group[1]);
		CHECK(v, write(group[3], &sent, sizeof(sent)) == sizeof(sent) &&
				 read(group[2], &got, sizeof(got)) == sizeof(got) && got == sent,
		      "what is written to %d does not come out of %d", group[3], group[2]);
	}
	return true;
}

static int compare_mapping(const void *key, const void *line)
{
	const uintptr_t *range = line;
	uintptr_t address = *(const uintptr_t *)key;

	return address < range[0] ? -1 : address >= range[1];
}

/* Each is where it was, with its protection. */
static bool check_mappings(struct victim *v, struct state *s)
{
	uintptr_t(*range)[3] = allocate(2 * s->mappings + 4096, sizeof(*range)); /* begin, end, may be written */
	size_t count = 0, most = 2 * (size_t)s->mappings + 4096;
	long wrong = -1;
	char line[512], permissions[5];
	FILE *maps = s->mappings > 0 ? fopen("/proc/self/maps", "re") : NULL;

	while (maps && count < most && fgets(line, sizeof(line), maps)) {
		MUST(sscanf(line, "%lx-%lx %4s", &range[count][0], &range[count][1], permissions) == 3);
		range[count++][2] = permissions[1] == 'w';
	}
	if (maps)
		fclose(maps);
	for (long i = 0; i < s->mappings && wrong < 0; i++) {
		const uintptr_t *found = bsearch(&s->mapping[i], range, count, sizeof(*range), compare_mapping);

		if (!found || found[2] != !(i % 2))
			wrong = i;
	}
	free(range);
	CHECK(v, wrong < 0, "mapping %ld of %ld is not there, or has another protection", wrong, s->mappings);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	int64_t now = victim_now_ns(CLOCK_REALTIME);
	bool good;

	pthread_mutex_lock(&s->lock);
	victim_note(
		v, "longest_us=%lld stalls_us=%lld stalls=%lu ticks=%lu writes=%lu elapsed_us=%lld",
		(long long)s->longest_ns / 1000, (long long)s->stalls_ns / 1000, s->stalls,
		s->ticks, (unsigned long)atomic_exchange(&s->writes, 0),
		(long long)(now - s->since_ns) / 1000);
	pthread_mutex_unlock(&s->lock);
	good = check_threads(v, s) && check_children(v, s) && check_descriptors(v, s) && check_mappings(v, s) &&
	       check_connections(v, s);
	pthread_mutex_lock(&s->lock);
	s->longest_ns = s->stalls_ns = 0;
	s->stalls = s->ticks = 0;
	s->since_ns = victim_now_ns(CLOCK_REALTIME);
	pthread_mutex_unlock(&s->lock);
	return good;
}

int main(int argc, char **argv)
{
	static struct state s = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct victim v;

	victim_start(&v, argc, argv);
	s.pages = (size_t)victim_arg(&v, 0, 16) << 8;
	s.rate = victim_arg(&v, 1, 0);
	s.threads = victim_arg(&v, 2, 0);
	s.children = victim_arg(&v, 3, 0);
	s.descriptors = victim_arg(&v, 4, 0);
	s.mappings = victim_arg(&v, 5, 0);
	s.connections = victim_arg(&v, 6, 0);
	MUST(s.pages > 0);
	s.area = mmap(NULL, s.pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(s.area != MAP_FAILED);
	victim_fill(s.area, s.pages * VICTIM_PAGE, 1);
	block_signals();
	start_children(&s);
	raise_limit();
	open_files(&v, &s);
	connect_all(&v, &s);
	map_pages(&s);
	start_threads(&s);
	s.since_ns = victim_now_ns(CLOCK_REALTIME);
	if (s.rate > 0)
		thread_start(write_always, &s);
	thread_start(tick_always, &s);
	MUST(WAIT_FOR(atomic_load(&s.started) == (unsigned int)s.threads + (s.rate > 0) + 1, 10000));
	victim_run(&v, verify, &s);
}
