/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System V semaphores of a process and two children: a set with a key and many values; adjustments (SEM_UNDO) of both signs
 * and of every size, which show when the child that has them ends; and a set that was never used but is waited for by a
 * child, which the parent wakes. With "thread": a thread has adjustments apart from its process, which cannot be moved.
 */
#include "victim.h"

#include <sched.h>
#include <signal.h>
#include <sys/sem.h>
#include <sys/wait.h>

#define COUNT 300

union semun {
	int value;
	struct semid_ds *set;
	unsigned short *values;
};

static const struct {
	int number, before, adjustment;
} undos[] = { { 3, 5, -2 }, { 70, 1, 1 }, { 71, 30000, 1 }, { 150, 20000, 20000 }, { 299, 0, -32766 }, { 12, 7, 7 } };

#define UNDOS (sizeof(undos) / sizeof(undos[0]))

struct state {
	key_t key;
	int set, fresh, result; /* ids */
	unsigned short values[COUNT];
	pid_t holder, waiter;
	uint64_t generation;
};

static void operate(int set, int number, int op, int flags)
{
	struct sembuf buffer = { (unsigned short)number, (short)op, (short)flags };

	MUST(semop(set, &buffer, 1) == 0);
}

/* Has adjustments, and gives the value back where that leaves one. */
static void hold(const struct state *s)
{
	for (size_t i = 0; i < UNDOS; i++) {
		int left = undos[i].adjustment;

		/* An adjustment of +n is what taking n leaves. */
		while (left) {
			int step = left > 16000 ? 16000 : left < -16000 ? -16000 : left;

			if (step > 0)
				operate(s->set, undos[i].number, -step, SEM_UNDO);
			else
				operate(s->set, undos[i].number, -step, SEM_UNDO);
			left -= step;
		}
	}
	for (;;)
		pause();
}

static pid_t start(struct state *s, void (*run)(const struct state *))
{
	pid_t pid = fork();

	MUST(pid >= 0);
	if (pid == 0) {
		run(s);
		_exit(0);
	}
	return pid;
}

static void wait_for_it(const struct state *s)
{
	struct sembuf buffer = { 0, -1, 0 };

	for (;;) {
		MUST(semop(s->fresh, &buffer, 1) == 0);
		operate(s->result, 0, 1, 0);
	}
}

static int value_with_holder(const struct state *s, size_t undo)
{
	(void)s;
	return undos[undo].before - undos[undo].adjustment;
}

static void begin(struct state *s)
{
	union semun argument = { .values = s->values };

	for (int i = 0; i < COUNT; i++)
		s->values[i] = (unsigned short)((s->generation * 31 + (uint64_t)i) % 32768);
	for (size_t i = 0; i < UNDOS; i++)
		s->values[undos[i].number] = (unsigned short)undos[i].before;
	MUST(semctl(s->set, 0, SETALL, argument) == 0);
	/* Values that the adjustments pass through. */
	s->holder = start(s, hold);
	for (size_t i = 0; i < UNDOS; i++)
		MUST(WAIT_FOR(semctl(s->set, undos[i].number, GETVAL) == value_with_holder(s, i), 10000));
}

static void setup(struct state *s)
{
	/* So that the ids are none that a host begins with. */
	for (int i = 0; i < 3; i++)
		MUST(semctl(semget(IPC_PRIVATE, 1, 0600), 0, IPC_RMID) == 0);
	s->key = 0x70620000 | (getpid() & 0xffff);
	s->set = semget(s->key, COUNT, IPC_CREAT | IPC_EXCL | 0606);
	s->fresh = semget(IPC_PRIVATE, 1, 0600);
	s->result = semget(IPC_PRIVATE, 1, 0600);
	MUST(s->set >= 0 && s->fresh >= 0 && s->result >= 0);
	operate(s->result, 0, 1, 0);
	operate(s->result, 0, -1, 0);
	begin(s);
	s->waiter = start(s, wait_for_it);
	MUST(WAIT_FOR(semctl(s->fresh, 0, GETNCNT) == 1, 10000));
}

static bool verify_values(struct victim *v, const struct state *s)
{
	unsigned short now[COUNT];
	union semun argument = { .values = now };
	struct semid_ds info;

	CHECK(v, semget(s->key, 0, 0) == s->set, "the key leads to set %d, not %d", semget(s->key, 0, 0), s->set);
	argument.set = &info;
	CHECK(v, semctl(s->set, 0, IPC_STAT, argument) == 0 && info.sem_nsems == COUNT && (info.sem_perm.mode & 0777) == 0606,
	      "the set has %lu semaphores, mode %o", (unsigned long)info.sem_nsems, info.sem_perm.mode);
	argument.values = now;
	CHECK(v, semctl(s->set, 0, GETALL, argument) == 0, "GETALL: %m");
	for (size_t i = 0; i < UNDOS; i++) {
		int number = undos[i].number, pid = semctl(s->set, number, GETPID);

		CHECK(v, now[number] == value_with_holder(s, i), "semaphore %d is %u", number, now[number]);
		CHECK(v, pid == s->holder, "semaphore %d was last used by PID %d, not %d", number, pid, s->holder);
		now[number] = s->values[number];
	}
	for (int i = 0; i < COUNT; i++)
		CHECK(v, now[i] == s->values[i], "semaphore %d is %u, not %u", i, now[i], s->values[i]);
	CHECK(v, semctl(s->set, 0, GETPID) == getpid(), "semaphore 0 was last used by PID %d", semctl(s->set, 0, GETPID));
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct sembuf taken = { 0, -1, 0 };
	struct timespec limit = { .tv_sec = 10 };
	int status;

	if (!verify_values(v, s))
		return false;
	kill(s->holder, SIGKILL);
	CHECK(v, waitpid(s->holder, &status, 0) == s->holder, "waitpid: %m");
	for (size_t i = 0; i < UNDOS; i++)
		CHECK(v, semctl(s->set, undos[i].number, GETVAL) == undos[i].before,
		      "semaphore %d is %d after the end of the process that had an adjustment of %d", undos[i].number,
		      semctl(s->set, undos[i].number, GETVAL), undos[i].adjustment);
	CHECK(v, semctl(s->fresh, 0, GETVAL) == 0, "the set that is waited for is %d", semctl(s->fresh, 0, GETVAL));
	operate(s->fresh, 0, 1, 0);
	CHECK(v, semtimedop(s->result, &taken, 1, &limit) == 0, "the one that waits was not woken: %m");
	CHECK(v, WAIT_FOR(semctl(s->fresh, 0, GETNCNT) == 1, 10000), "it does not wait again");
	s->generation++;
	begin(s);
	return true;
}

static int wait_for_ever(void *context)
{
	(void)context;
	for (;;)
		pause();
	return 0;
}

static void start_thread(const struct state *s)
{
	static char stack[65536] __attribute__((aligned(16)));

	operate(s->result, 0, 1, SEM_UNDO);
	operate(s->result, 0, -1, SEM_UNDO);
	MUST(clone(wait_for_ever, stack + sizeof(stack), CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD,
		   NULL) > 0);
}

int main(int argc, char **argv)
{
	struct state s = { 0 };
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	if (victim_arg_is(&v, "thread"))
		start_thread(&s);
	victim_run(&v, verify, &s);
}
