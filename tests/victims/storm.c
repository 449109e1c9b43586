/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * storm DIR: whatever a process can make and give up again, all the time: processes (fork, exec, exit, chains of them),
 * threads, mappings (mmap, munmap, mremap, mprotect, madvise), descriptors (open, close, dup, dup2, pipe). Each worker keeps
 * a table of what it holds and verifies content and exit status; what is wrong is told at the next check.
 *
 * A check lets all of them put down what they hold and stand still, so that the numbers in its note are those of a process
 * with nothing under way: descriptors, mappings, KiB resident. A test compares them from check to check. Then the storm goes
 * on; a worker that got nothing done since the check before has failed.
 */
#include "victim.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define SLOTS 48
#define PAGES_MAX 16
#define CHAIN 3
#define PROGRESS_MS 20000

struct worker {
	const char *name;
	void (*step)(struct worker *w); /* one thing, verified */
	void (*put_down)(struct worker *w); /* may be NULL */
	struct storm *storm;
	pthread_t thread;
	atomic_ulong done;	    /* steps */
	unsigned long at_check;	    /* of them, at the last check */
	uint64_t random;
	struct {
		unsigned char *at; /* mapping, NULL: none */
		size_t pages;
		uint64_t seed; /* of its content */
		int fd;	       /* descriptor, -1: none */
		int write_fd;  /* other end of a pipe, -1: fd is a file */
	} slots[SLOTS];
};

struct storm {
	struct victim *v;
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t changed;
	bool pause; /* all are to stand still */
	unsigned int paused;
	char problem[VICTIM_TEXT_MAX];
};

static void wrong(struct worker *w, const char *what)
{
	pthread_mutex_lock(&w->storm->lock);
	if (!w->storm->problem[0])
		snprintf(w->storm->problem, sizeof(w->storm->problem), "%s: %s (errno %d, step %lu)", w->name, what, errno,
			 atomic_load(&w->done));
	pthread_mutex_unlock(&w->storm->lock);
}

/* ---- processes */

static void expect_exit(struct worker *w, pid_t child, int wanted)
{
	int status;
	pid_t got;

	do
		got = waitpid(child, &status, 0);
	while (got < 0 && errno == EINTR);
	if (got != child)
		wrong(w, "waitpid");
	else if (!WIFEXITED(status) || WEXITSTATUS(status) != wanted)
		wrong(w, "exit status");
}

static void step_fork(struct worker *w)
{
	int wanted = (int)(victim_random(&w->random) & 0x7f);
	volatile unsigned char *page = w->slots[0].at;
	pid_t child;

	page[0] = (unsigned char)wanted;
	child = fork();
	if (child == 0) {
		page[1]++;
		_exit(page[0]);
	}
	if (child < 0)
		wrong(w, "fork");
	else
		expect_exit(w, child, wanted);
}

static void step_exec(struct worker *w)
{
	pid_t child = fork();

	if (child == 0) {
		execl("/bin/sh", "sh", "-c", "exit 23", (char *)NULL);
		_exit(127);
	}
	if (child < 0)
		wrong(w, "fork");
	else
		expect_exit(w, child, 23);
}

/* Children of children: each ends with what its own ended with, and one more. */
static int chain(int depth)
{
	int status;
	pid_t child;

	if (depth == 0)
		return 1;
	child = fork();
	if (child == 0)
		_exit(chain(depth - 1));
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return 100;
	return WEXITSTATUS(status) + 1;
}

static void step_chain(struct worker *w)
{
	pid_t child = fork();

	if (child == 0)
		_exit(chain(CHAIN - 1));
	if (child < 0)
		wrong(w, "fork");
	else
		expect_exit(w, child, CHAIN);
}

/* ---- threads */

static void *double_it(void *number)
{
	return (void *)((uintptr_t)number * 2);
}

static void step_thread(struct worker *w)
{
	uintptr_t number = victim_random(&w->random) >> 2;
	pthread_t thread;
	void *answer;

	if (pthread_create(&thread, NULL, double_it, (void *)number) != 0 || pthread_join(thread, &answer) != 0)
		wrong(w, "pthread_create or pthread_join");
	else if ((uintptr_t)answer != number * 2)
		wrong(w, "a thread's result");
}

/* ---- mappings */

static void unmap(struct worker *w, int i)
{
	if (victim_differs(w->slots[i].at, w->slots[i].pages * VICTIM_PAGE, w->slots[i].seed) >= 0)
		wrong(w, "content of a mapping");
	if (munmap(w->slots[i].at, w->slots[i].pages * VICTIM_PAGE) < 0)
		wrong(w, "munmap");
	w->slots[i].at = NULL;
}

static void map(struct worker *w, int i)
{
	size_t pages = 1 + victim_random(&w->random) % PAGES_MAX;
	unsigned char *at =
		mmap(NULL, pages * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		wrong(w, "mmap");
		return;
	}
	w->slots[i].at = at;
	w->slots[i].pages = pages;
	w->slots[i].seed = victim_random(&w->random);
	victim_fill(at, pages * VICTIM_PAGE, w->slots[i].seed);
}

/* Smaller or larger, and most likely elsewhere; the content is made anew, as its seed counts from the start. */
static void resize(struct worker *w, int i)
{
	size_t pages = 1 + victim_random(&w->random) % PAGES_MAX, old = w->slots[i].pages;
	unsigned char *at = mremap(w->slots[i].at, old * VICTIM_PAGE, pages * VICTIM_PAGE, MREMAP_MAYMOVE);

	if (at == MAP_FAILED) {
		wrong(w, "mremap");
		return;
	}
	w->slots[i].at = at;
	w->slots[i].pages = pages;
	if (victim_differs(at, (pages < old ? pages : old) * VICTIM_PAGE, w->slots[i].seed) >= 0)
		wrong(w, "content after mremap");
	if (pages > old)
		victim_fill(at, pages * VICTIM_PAGE, w->slots[i].seed);
}

static void protect(struct worker *w, int i)
{
	size_t size = w->slots[i].pages * VICTIM_PAGE;

	if (mprotect(w->slots[i].at, size, PROT_READ) < 0)
		wrong(w, "mprotect");
	if (victim_differs(w->slots[i].at, size, w->slots[i].seed) >= 0)
		wrong(w, "content of a protected mapping");
	if (mprotect(w->slots[i].at, size, PROT_READ | PROT_WRITE) < 0)
		wrong(w, "mprotect");
	if (madvise(w->slots[i].at, size, MADV_DONTNEED) < 0)
		wrong(w, "madvise");
	for (size_t k = 0; k < size; k += VICTIM_PAGE / 2)
		if (w->slots[i].at[k])
			wrong(w, "content after MADV_DONTNEED");
	victim_fill(w->slots[i].at, size, w->slots[i].seed);
}

static void step_map(struct worker *w)
{
	int i = (int)(victim_random(&w->random) % SLOTS);

	if (!w->slots[i].at)
		map(w, i);
	else if (victim_random(&w->random) % 3 == 0)
		unmap(w, i);
	else if (victim_random(&w->random) % 2)
		resize(w, i);
	else
		protect(w, i);
}

static void put_down_maps(struct worker *w)
{
	for (int i = 0; i < SLOTS; i++)
		if (w->slots[i].at)
			unmap(w, i);
}

/* ---- descriptors */

static void close_slot(struct worker *w, int i)
{
	uint64_t got = 0;
	bool is_pipe = w->slots[i].write_fd >= 0;

	if ((is_pipe ? read(w->slots[i].fd, &got, sizeof(got)) : pread(w->slots[i].fd, &got, sizeof(got), 0)) !=
		    sizeof(got) ||
	    got != w->slots[i].seed)
		wrong(w, is_pipe ? "content of a pipe" : "content of a file");
	if (close(w->slots[i].fd) < 0 || (is_pipe && close(w->slots[i].write_fd) < 0))
		wrong(w, "close");
	w->slots[i].fd = w->slots[i].write_fd = -1;
}

static void open_slot(struct worker *w, int i)
{
	char name[VICTIM_PATH_MAX + 32]; /* victim_path() is the main thread's */
	int ends[2];

	w->slots[i].seed = victim_random(&w->random);
	if (victim_random(&w->random) % 2) {
		if (pipe2(ends, O_CLOEXEC) < 0) {
			wrong(w, "pipe2");
			return;
		}
		w->slots[i].fd = ends[0];
		w->slots[i].write_fd = ends[1];
	} else {
		snprintf(name, sizeof(name), "%s/storm-%d", w->storm->v->dir, i);
		w->slots[i].fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		ends[1] = w->slots[i].fd;
	}
	if (w->slots[i].fd < 0 || write(ends[1], &w->slots[i].seed, sizeof(uint64_t)) != sizeof(uint64_t))
		wrong(w, "open or write");
}

/* The same open file under another number, or under that of a third one that comes free for it. */
static void dup_slot(struct worker *w, int i)
{
	int copy = dup(w->slots[i].fd), other = copy < 0 ? -1 : dup(copy);

	if (copy < 0 || other < 0 || dup2(w->slots[i].fd, other) != other || close(w->slots[i].fd) < 0 || close(copy) < 0)
		wrong(w, "dup");
	w->slots[i].fd = other;
}

static void step_file(struct worker *w)
{
	int i = (int)(victim_random(&w->random) % SLOTS);

	if (w->slots[i].fd < 0)
		open_slot(w, i);
	else if (victim_random(&w->random) % 2)
		dup_slot(w, i);
	else
		close_slot(w, i);
}

static void put_down_files(struct worker *w)
{
	for (int i = 0; i < SLOTS; i++)
		if (w->slots[i].fd >= 0)
			close_slot(w, i);
}

/* ---- all of them */

static struct worker workers[] = {
	{ .name = "fork", .step = step_fork },
	{ .name = "exec", .step = step_exec },
	{ .name = "chain", .step = step_chain },
	{ .name = "thread", .step = step_thread },
	{ .name = "map", .step = step_map, .put_down = put_down_maps },
	{ .name = "file", .step = step_file, .put_down = put_down_files },
};
#define WORKERS (sizeof(workers) / sizeof(workers[0]))

static void stand_still(struct worker *w)
{
	struct storm *s = w->storm;

	if (w->put_down)
		w->put_down(w);
	pthread_mutex_lock(&s->lock);
	s->paused++;
	pthread_cond_broadcast(&s->changed);
	while (s->pause)
		pthread_cond_wait(&s->changed, &s->lock);
	s->paused--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void *work(void *context)
{
	struct worker *w = context;

	for (;;) {
		bool pause;

		pthread_mutex_lock(&w->storm->lock);
		pause = w->storm->pause;
		pthread_mutex_unlock(&w->storm->lock);
		if (pause)
			stand_still(w);
		w->step(w);
		atomic_fetch_add(&w->done, 1);
	}
	return NULL;
}

static void wait_paused(struct storm *s, bool pause)
{
	pthread_mutex_lock(&s->lock);
	s->pause = pause;
	pthread_cond_broadcast(&s->changed);
	while (s->paused != (pause ? WORKERS : 0))
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static unsigned int count_entries(const char *path)
{
	unsigned int count = 0;
	DIR *dir = opendir(path);

	MUST(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count - 3; /* "." and ".." and that of `dir` itself */
}

static void note_numbers(struct victim *v)
{
	static char text[1 << 20];
	unsigned int maps = 0;
	char resident[64] = "";

	MUST(victim_slurp("/proc/self/maps", text, sizeof(text)) > 0);
	for (const char *line = text; (line = strchr(line, '\n')); line++)
		maps++;
	MUST(victim_status_line("/proc/self/status", "VmRSS", resident, sizeof(resident)));
	victim_note(v, "descriptors=%u mappings=%u resident=%ld tasks=%u", count_entries("/proc/self/fd"), maps,
		    strtol(resident, NULL, 10), count_entries("/proc/self/task"));
}

static bool verify(struct victim *v, void *context)
{
	struct storm *s = context;

	for (size_t i = 0; i < WORKERS; i++)
		CHECK(v, WAIT_FOR(atomic_load(&workers[i].done) >= workers[i].at_check + 2, PROGRESS_MS), "no progress: %s",
		      workers[i].name);
	wait_paused(s, true);
	note_numbers(v);
	for (size_t i = 0; i < WORKERS; i++)
		workers[i].at_check = atomic_load(&workers[i].done);
	wait_paused(s, false);
	CHECK(v, !s->problem[0], "%s", s->problem);
	return true;
}

int main(int argc, char **argv)
{
	static struct storm s = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	static struct victim v;

	victim_start(&v, argc, argv);
	s.v = &v;
	for (size_t i = 0; i < WORKERS; i++) {
		struct worker *w = &workers[i];

		w->storm = &s;
		w->random = i + 1;
		for (int k = 0; k < SLOTS; k++)
			w->slots[k].fd = w->slots[k].write_fd = -1;
		if (w->step == step_fork)
			map(w, 0);
		MUST(pthread_create(&w->thread, NULL, work, w) == 0);
	}
	victim_run(&v, verify, &s);
}
