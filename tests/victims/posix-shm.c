/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX shared memory of a process and its child, all in /dev/shm: an object that both have mapped, with a process-shared
 * mutex (robust, with priority inheritance) that the child holds and the parent waits for, and a condition variable; one that
 * is open only, with content that was written; one that is open for reading only; and a named semaphore that a thread waits on.
 */
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

#define SIZE (200 * VICTIM_PAGE + 1000)

/* At the start of the mapped object. */
struct shared {
	pthread_mutex_t mutex; /* held by the child most of the time */
	pthread_mutex_t meeting;
	pthread_cond_t changed;
	uint64_t turn; /* under `meeting` */
	uint64_t locked; /* by the parent's thread, how many times */
	unsigned char data[SIZE - 4096];
};

struct state {
	char mapped_name[64], open_name[64], read_name[64], semaphore_name[64];
	struct shared *shared;
	int mapped_fd, open_fd, read_fd;
	sem_t *semaphore, *answer;
	uint64_t generation;
	struct victim_peer child;
};

static void init_shared(struct shared *shared)
{
	pthread_mutexattr_t attributes;
	pthread_condattr_t condition;

	MUST(pthread_mutexattr_init(&attributes) == 0 && pthread_condattr_init(&condition) == 0);
	MUST(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
	MUST(pthread_mutex_init(&shared->meeting, &attributes) == 0);
	MUST(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
	MUST(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
	MUST(pthread_mutex_init(&shared->mutex, &attributes) == 0);
	MUST(pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED) == 0);
	MUST(pthread_cond_init(&shared->changed, &condition) == 0);
}

enum { ASK_LOCK = 1, ASK_HAND_ON = 2 };

/* The child holds the mutex. When asked it gives it away for a moment, and takes it again behind the parent's thread. */
static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	uint64_t before = s->shared->locked;

	if (request == ASK_LOCK) {
		MUST(pthread_mutex_lock(&s->shared->mutex) == 0);
		return;
	}
	if (victim_differs(s->shared->data, sizeof(s->shared->data), s->generation) >= 0) {
		snprintf(text, size, "the child sees wrong content");
		return;
	}
	s->generation++;
	pthread_mutex_unlock(&s->shared->mutex);
	if (!WAIT_FOR(__atomic_load_n(&s->shared->locked, __ATOMIC_SEQ_CST) > before, 10000))
		snprintf(text, size, "the parent's thread did not get the mutex");
	MUST(pthread_mutex_lock(&s->shared->mutex) == 0);
}

static void *take_mutex(void *context)
{
	struct state *s = context;

	for (;;) {
		MUST(pthread_mutex_lock(&s->shared->mutex) == 0);
		__atomic_add_fetch(&s->shared->locked, 1, __ATOMIC_SEQ_CST);
		MUST(pthread_mutex_unlock(&s->shared->mutex) == 0);
		victim_sleep_us(20000);
	}
	return NULL;
}

/* Answers each post of the semaphore. */
static void *answer_posts(void *context)
{
	struct state *s = context;

	for (;;) {
		if (sem_wait(s->semaphore) < 0)
			continue;
		MUST(pthread_mutex_lock(&s->shared->meeting) == 0);
		s->shared->turn++;
		pthread_cond_broadcast(&s->shared->changed);
		MUST(pthread_mutex_unlock(&s->shared->meeting) == 0);
	}
	return NULL;
}

static int make(const char *name, size_t size)
{
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0640);

	MUST(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	return fd;
}

static void setup(struct state *s)
{
	unsigned char page[VICTIM_PAGE];
	pthread_t thread;
	int fd;

	snprintf(s->mapped_name, sizeof(s->mapped_name), "/victim-mapped-%d", getpid());
	snprintf(s->open_name, sizeof(s->open_name), "/victim-open-%d", getpid());
	snprintf(s->read_name, sizeof(s->read_name), "/victim-read-%d", getpid());
	snprintf(s->semaphore_name, sizeof(s->semaphore_name), "/victim-%d", getpid());
	s->mapped_fd = make(s->mapped_name, SIZE);
	s->shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->mapped_fd, 0);
	MUST(s->shared != MAP_FAILED);
	init_shared(s->shared);
	victim_fill(s->shared->data, sizeof(s->shared->data), 0);
	s->open_fd = make(s->open_name, 0);
	victim_fill(page, sizeof(page), 1);
	MUST(write(s->open_fd, page, 1000) == 1000);
	fd = make(s->read_name, 0);
	MUST(write(fd, page, sizeof(page)) == sizeof(page) && close(fd) == 0);
	s->read_fd = shm_open(s->read_name, O_RDONLY, 0);
	s->semaphore = sem_open(s->semaphore_name, O_CREAT | O_EXCL, 0600, 0);
	MUST(s->read_fd >= 0 && s->semaphore != SEM_FAILED);
	victim_peer_fork(&s->child, child_serve, s);
	MUST(pthread_create(&thread, NULL, answer_posts, s) == 0);
}

static bool check_file(struct victim *v, const char *name, int fd, size_t size)
{
	char path[64], link[64], target[128] = "";
	struct stat here, open_one;

	snprintf(path, sizeof(path), "/dev/shm%s", name);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	CHECK(v, stat(path, &here) == 0 && fstat(fd, &open_one) == 0, "%s: %m", path);
	CHECK(v, here.st_ino == open_one.st_ino && here.st_dev == open_one.st_dev, "%s is not the file that is open", path);
	CHECK(v, (size_t)here.st_size == size && (here.st_mode & 07777) == 0640, "%s has %lld bytes, mode %o", path,
	      (long long)here.st_size, here.st_mode);
	CHECK(v, readlink(link, target, sizeof(target) - 1) > 0 && strcmp(target, path) == 0, "%s is known as %s", path,
	      target);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned char page[VICTIM_PAGE];
	uint64_t turn = s->shared->turn;
	sem_t *again;

	if (!check_file(v, s->mapped_name, s->mapped_fd, SIZE) || !check_file(v, s->open_name, s->open_fd, 1000) ||
	    !check_file(v, s->read_name, s->read_fd, VICTIM_PAGE))
		return false;
	CHECK(v, victim_differs(s->shared->data, sizeof(s->shared->data), s->generation) < 0, "the mapped object is wrong");
	CHECK(v, pread(s->open_fd, page, 1000, 0) == 1000 && victim_differs(page, 1000, s->generation + 1) < 0,
	      "the open object is wrong");
	CHECK(v, lseek(s->open_fd, 0, SEEK_CUR) == 1000, "its position is %lld", (long long)lseek(s->open_fd, 0, SEEK_CUR));
	CHECK(v, pread(s->read_fd, page, sizeof(page), 0) == sizeof(page) && victim_differs(page, sizeof(page), 1) < 0,
	      "the object for reading is wrong");
	again = sem_open(s->semaphore_name, 0);
	/* By its name, and by the mapping that there was: the C library may give the same for both. */
	CHECK(v, again != SEM_FAILED, "the semaphore is not there under its name: %m");
	CHECK(v, sem_post(s->generation % 2 ? again : s->semaphore) == 0, "sem_post: %m");
	CHECK(v, WAIT_FOR(__atomic_load_n(&s->shared->turn, __ATOMIC_SEQ_CST) == turn + 1, 10000),
	      "the one that waits on the semaphore was not woken");
	CHECK(v, sem_close(again) == 0, "sem_close: %m");
	if (!victim_peer_ask(v, &s->child, ASK_HAND_ON))
		return false;
	s->generation++;
	victim_fill(s->shared->data, sizeof(s->shared->data), s->generation);
	victim_fill(page, 1000, s->generation + 1);
	CHECK(v, pwrite(s->open_fd, page, 1000, 0) == 1000, "pwrite: %m");
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { .generation = 0 };
	pthread_t thread;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	MUST(victim_peer_ask(&v, &s.child, ASK_LOCK));
	MUST(pthread_create(&thread, NULL, take_mutex, &s) == 0);
	victim_run(&v, verify, &s);
}
