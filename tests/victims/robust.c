/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A robust mutex in shared memory, held by a child. At a check the child dies without letting go of
 * it: the kernel must find the child's robust list and tell the parent, who then gets EOWNERDEAD. A
 * thread of the parent does the same with a second mutex. Then both are made consistent and taken
 * by new holders.
 */
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

struct shared {
	pthread_mutex_t of_child;
	pthread_mutex_t of_thread;
	atomic_bool child_holds;
	atomic_bool thread_holds;
	atomic_bool thread_ends;
};

struct state {
	struct shared *shared; /* seen by the child too */
	pid_t child;
	pthread_t thread;
};

static void child_start(struct state *s)
{
	atomic_store(&s->shared->child_holds, false);
	s->child = fork();
	MUST(s->child >= 0);
	if (s->child == 0) {
		if (pthread_mutex_lock(&s->shared->of_child) != 0)
			_exit(1);
		atomic_store(&s->shared->child_holds, true);
		for (;;)
			pause();
	}
}

static void *thread_run(void *context)
{
	struct state *s = context;

	MUST(pthread_mutex_lock(&s->shared->of_thread) == 0);
	atomic_store(&s->shared->thread_holds, true);
	while (!atomic_load(&s->shared->thread_ends))
		victim_sleep_us(1000);
	return NULL;
}

static bool take_over(struct victim *v, pthread_mutex_t *mutex, const char *what)
{
	struct timespec until;
	int result;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	result = pthread_mutex_timedlock(mutex, &until);
	CHECK(v, result == EOWNERDEAD, "after the death of the %s that held it the mutex says %s",
	      what, strerror(result));
	CHECK(v, pthread_mutex_consistent(mutex) == 0 && pthread_mutex_unlock(mutex) == 0,
	      "%s's mutex is unusable", what);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	int status = 0;

	CHECK(v, pthread_mutex_trylock(&s->shared->of_child) == EBUSY,
	      "the child's mutex is not held");
	CHECK(v, pthread_mutex_trylock(&s->shared->of_thread) == EBUSY,
	      "the thread's mutex is not held");
	CHECK(v, kill(s->child, SIGTERM) == 0, "kill: %m");
	if (!take_over(v, &s->shared->of_child, "child"))
		return false;
	CHECK(v,
	      waitpid(s->child, &status, 0) == s->child && WIFSIGNALED(status) &&
		      WTERMSIG(status) == SIGTERM,
	      "the child ended with %x", (unsigned int)status);
	atomic_store(&s->shared->thread_ends, true);
	if (!take_over(v, &s->shared->of_thread, "thread"))
		return false;
	CHECK(v, pthread_join(s->thread, NULL) == 0, "the thread cannot be joined");
	child_start(s);
	atomic_store(&s->shared->thread_ends, false);
	atomic_store(&s->shared->thread_holds, false);
	CHECK(v, pthread_create(&s->thread, NULL, thread_run, s) == 0, "cannot make a thread");
	CHECK(v,
	      WAIT_FOR(atomic_load(&s->shared->child_holds) &&
			       atomic_load(&s->shared->thread_holds),
		       5000),
	      "the new holders do not get the mutexes");
	return true;
}

int main(int argc, char **argv)
{
	struct state s = {0};
	pthread_mutexattr_t attributes;
	struct victim v;

	victim_start(&v, argc, argv);
	s.shared = mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	MUST(s.shared != MAP_FAILED && pthread_mutexattr_init(&attributes) == 0);
	MUST(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
	MUST(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
	MUST(pthread_mutex_init(&s.shared->of_child, &attributes) == 0);
	MUST(pthread_mutex_init(&s.shared->of_thread, &attributes) == 0);
	child_start(&s);
	MUST(pthread_create(&s.thread, NULL, thread_run, &s) == 0);
	MUST(WAIT_FOR(atomic_load(&s.shared->child_holds) && atomic_load(&s.shared->thread_holds),
		      5000));
	victim_run(&v, verify, &s);
}
