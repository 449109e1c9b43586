/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * calls DIR: three threads, each in calls_inner(), called by calls_middle(), called by calls_outer(), with its number (0 for
 * the main thread) in the argument; for a debugger that looks at the checkpoint. The others have the numbers 100, 200, 300
 * and 400 in YMM7, where there is AVX, and wait in pause(2). Variables to print are below; two of them point into memory
 * that is shared, and into a file that is deleted.
 */
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define OTHERS 2
#define NUMBER 424242

volatile long calls_number = NUMBER;
volatile long calls_never_written[2000]; /* stays as the kernel gave it */
const char *volatile calls_heap, *volatile calls_shared, *volatile calls_deleted, *volatile calls_argument;
static atomic_int waiting;
static const uint64_t numbers[4] = { 100, 200, 300, 400 };

/* Loads the register, counts itself in, and never comes back: all in one piece, so that the compiler has no say. */
static void hold_avx(void)
{
	__asm__ volatile("vmovdqu (%0), %%ymm7\n\tlock incl %1\n1:\tmov %2, %%eax\n\tsyscall\n\tjmp 1b"
			 :
			 : "r"(numbers), "m"(waiting), "i"(SYS_pause)
			 : "rax", "rcx", "r11", "xmm7", "memory");
}

static void hold(void)
{
	if (__builtin_cpu_supports("avx"))
		hold_avx();
	atomic_fetch_add(&waiting, 1);
	for (;;)
		pause();
}

static bool verify(struct victim *v, void *context)
{
	CHECK(v, calls_number == NUMBER, "the number is %ld", calls_number);
	CHECK(v, strcmp(calls_shared, "in shared memory") == 0, "shared memory has changed");
	CHECK(v, strcmp(calls_deleted, "in a deleted file") == 0, "the deleted file has changed");
	return true;
}

static __attribute__((noipa)) void calls_inner(int number, struct victim *v)
{
	if (number != 0)
		hold();
	victim_run(v, verify, NULL);
}

static __attribute__((noipa)) void calls_middle(int number, struct victim *v)
{
	calls_inner(number, v);
	__asm__ volatile("" : : "r"(number) : "memory"); /* no tail call, and the number stays known */
}

static __attribute__((noipa)) void calls_outer(int number, struct victim *v)
{
	calls_middle(number, v);
	__asm__ volatile("" : : "r"(number) : "memory");
}

static void *other(void *context)
{
	char name[16];

	snprintf(name, sizeof(name), "calls-%d", *(int *)context);
	prctl(PR_SET_NAME, name);
	calls_outer(*(int *)context, NULL);
	return NULL;
}

static char *map_deleted(struct victim *v)
{
	const char *path = victim_path(v, "gone");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char *at;

	MUST(fd >= 0 && ftruncate(fd, 4 * (off_t)VICTIM_PAGE) == 0 && unlink(path) == 0);
	at = mmap(NULL, 4 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(at != MAP_FAILED && close(fd) == 0);
	return at;
}

int main(int argc, char **argv)
{
	static int names[OTHERS];
	struct victim v;
	char *shared, *deleted;

	victim_start(&v, argc, argv);
	shared = mmap(NULL, 8 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(shared != MAP_FAILED);
	shared += 5 * VICTIM_PAGE;
	deleted = map_deleted(&v) + 2 * VICTIM_PAGE;
	calls_heap = strdup("on the heap");
	calls_shared = strcpy(shared, "in shared memory");
	calls_deleted = strcpy(deleted, "in a deleted file");
	calls_argument = argv[1];
	for (int i = 0; i < OTHERS; i++) {
		pthread_t thread;

		names[i] = i + 1;
		MUST(pthread_create(&thread, NULL, other, &names[i]) == 0);
	}
	MUST(WAIT_FOR(atomic_load(&waiting) == OTHERS, 10000));
	calls_outer(0, &v);
	return 0;
}
