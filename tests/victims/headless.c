/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * headless DIR: a process whose main thread has ended while two others run on. What is the process's is still there: memory,
 * descriptors, working directory, signals and timers, and a child that is to be told when its parent ends.
 */
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SIZE   (64 * VICTIM_PAGE)
#define NUMBER 77
#define NAME   "second"

static struct victim v;
static _Atomic uint64_t counted, timer_ran;
static pid_t first, second, child;
static uint8_t *memory, *shared;
static timer_t timer;

static void on_timer(int signal)
{
	(void)signal;
	timer_ran++;
}

static void *count(void *argument)
{
	pthread_setname_np(pthread_self(), NAME);
	second = gettid();
	child = fork();
	MUST(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		shared[0] = 1;
		for (;;)
			pause();
	}
	for (;; counted++)
		victim_sleep_us(1000);
	return argument;
}

static bool check_threads(void)
{
	uint64_t before = counted;
	char path[64], value[64];

	snprintf(path, sizeof(path), "/proc/%d/status", getpid());
	CHECK(&v, victim_status_line(path, "State", value, sizeof(value)) && value[0] == 'Z', "the main thread is %s", value);
	CHECK(&v, gettid() == first && gettid() != getpid(), "this thread is %d, it was %d", gettid(), first);
	CHECK(&v, WAIT_FOR(counted > before, 5000), "the other thread does not run");
	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", second);
	CHECK(&v, victim_slurp(path, value, sizeof(value)) > 0 && strcmp(value, NAME "\n") == 0, "the other thread is %s",
	      value);
	return true;
}

static bool check_process(void)
{
	struct itimerspec once = {.it_value.tv_nsec = 1000000};
	uint64_t before = timer_ran;
	char path[256], value[32];

	CHECK(&v, victim_differs(memory, SIZE, 1) < 0 && victim_differs(shared + VICTIM_PAGE, SIZE - VICTIM_PAGE, 2) < 0,
	      "memory is wrong");
	CHECK(&v, pread(NUMBER, path, 7, 0) == 7 && memcmp(path, "content", 7) == 0, "the open file: %m");
	CHECK(&v, getcwd(path, sizeof(path)) && strcmp(path, "/proc") == 0, "the working directory is %s", path);
	CHECK(&v, timer_settime(timer, 0, &once, NULL) == 0 && WAIT_FOR(timer_ran == before + 1, 5000), "the timer: %m");
	snprintf(path, sizeof(path), "/proc/%d/status", child);
	CHECK(&v, victim_status_line(path, "PPid", value, sizeof(value)) && atoi(value) == getpid(), "the child has parent %s",
	      value);
	CHECK(&v, waitpid(child, NULL, WNOHANG) == 0, "the child has ended");
	return true;
}

static bool verify(struct victim *victim, void *context)
{
	(void)context;
	return victim == &v && check_threads() && check_process();
}

static void *lead(void *argument)
{
	char path[64], value[32];

	first = gettid();
	snprintf(path, sizeof(path), "/proc/%d/status", getpid());
	MUST(WAIT_FOR(victim_status_line(path, "State", value, sizeof(value)) && value[0] == 'Z', 5000));
	MUST(WAIT_FOR(shared[0] == 1, 5000));
	victim_run(&v, verify, argument);
}

int main(int argc, char **argv)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	pthread_t threads[2];
	int fd;

	victim_start(&v, argc, argv);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(memory != MAP_FAILED && shared != MAP_FAILED);
	victim_fill(memory, SIZE, 1);
	victim_fill(shared + VICTIM_PAGE, SIZE - VICTIM_PAGE, 2);
	shared[0] = 0;
	fd = open(victim_path(&v, "file"), O_RDWR | O_CREAT, 0600);
	MUST(fd >= 0 && write(fd, "content", 7) == 7 && dup2(fd, NUMBER) == NUMBER && close(fd) == 0);
	MUST(chdir("/proc") == 0 && signal(SIGUSR1, on_timer) != SIG_ERR);
	MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	MUST(pthread_create(&threads[0], NULL, lead, NULL) == 0 && pthread_create(&threads[1], NULL, count, NULL) == 0);
	syscall(SYS_exit, 0);
}
