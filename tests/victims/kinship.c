/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kinship DIR: what a process has from being somebody's child.
 *
 *	root			a subreaper
 *	+- parent
 *	|  +- child		wants SIGUSR1 when its parent ends (PR_SET_PDEATHSIG)
 *	+- orphan		such a child of the last check, whose parent has ended
 *	+- other		sends SIGUSR2 when it ends (clone(2))
 *	+- silent		sends nothing
 *
 * A check ends the parent and wants the child to be told and to be the root's; ends the others; and makes new ones.
 * Children hold memory, and say whether it is right. So a check in the middle of a move gives a process to another parent.
 */
#include "victim.h"

#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SIZE (64 * VICTIM_PAGE)

struct answer {
	pid_t pid, parent;
	int told; /* SIGUSR1 has come so often */
	bool right;
};

struct slot {
	int ask[2], answer[2]; /* pipes of a child */
};

struct state {
	struct slot slots[2]; /* of the child and the orphan, by turns */
	int turn;             /* which one is the child's */
	pid_t parent, child, orphan, other, silent;
};

static volatile sig_atomic_t told, ended, other_ended;

static void on_signal(int number)
{
	if (number == SIGUSR1)
		told = told + 1;
	else if (number == SIGUSR2)
		other_ended = other_ended + 1;
	else
		ended = ended + 1;
}

static void handle(int number)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	MUST(sigaction(number, &action, NULL) == 0);
}

static pid_t clone_with(int notify)
{
	struct clone_args arguments = {.exit_signal = (uint64_t)notify};
	pid_t pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));

	MUST(pid >= 0);
	return pid;
}

_Noreturn static void serve(struct slot *slot)
{
	uint64_t seed = (uint64_t)getpid();
	unsigned char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct answer answer = {.pid = getpid()};
	char byte;

	MUST(memory != MAP_FAILED);
	victim_fill(memory, SIZE, seed);
	told = 0;
	handle(SIGUSR1);
	MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
	while (read(slot->ask[0], &byte, 1) == 1) {
		answer.parent = getppid();
		answer.told = told;
		answer.right = victim_differs(memory, SIZE, seed) < 0;
		MUST(write(slot->answer[1], &answer, sizeof(answer)) == sizeof(answer));
	}
	_exit(0);
}

static struct answer ask(struct slot *slot)
{
	struct answer answer = {.pid = 0};
	struct pollfd fd = {.fd = slot->answer[0], .events = POLLIN};

	/* SIGCHLD interrupts poll(2). */
	if (write(slot->ask[1], "", 1) == 1 && WAIT_FOR(poll(&fd, 1, 0) == 1, 5000))
		(void)!read(fd.fd, &answer, sizeof(answer));
	return answer;
}

static void make(struct state *s)
{
	s->parent = clone_with(SIGCHLD);
	if (s->parent == 0) {
		if (clone_with(SIGCHLD) == 0)
			serve(&s->slots[s->turn]);
		for (;;)
			pause();
	}
	s->child = ask(&s->slots[s->turn]).pid;
	MUST(s->child > 0);
	s->other = clone_with(SIGUSR2);
	s->silent = s->other ? clone_with(0) : 0;
	while (s->other == 0 || s->silent == 0)
		pause();
}

static bool check_child(struct victim *v, struct state *s)
{
	struct answer answer = ask(&s->slots[s->turn]);

	CHECK(v, answer.pid == s->child && answer.parent == s->parent, "child %d of %d, not %d of %d", answer.pid,
	      answer.parent, s->child, s->parent);
	CHECK(v, answer.right && answer.told == 0, "the child's memory is %sright, it was told %d times",
	      answer.right ? "" : "not ", answer.told);
	kill(s->parent, SIGKILL);
	CHECK(v, waitpid(s->parent, NULL, 0) == s->parent, "the parent does not end: %m");
	CHECK(v, WAIT_FOR((answer = ask(&s->slots[s->turn])).told == 1, 5000), "that its parent ends is told %d times",
	      answer.told);
	CHECK(v, answer.parent == getpid(), "the child is given to %d", answer.parent);
	return true;
}

static bool check_orphan(struct victim *v, struct state *s)
{
	struct answer answer;

	if (s->orphan == 0)
		return true;
	answer = ask(&s->slots[!s->turn]);
	CHECK(v, answer.pid == s->orphan && answer.parent == getpid() && answer.told == 1 && answer.right,
	      "the orphan %d of %d, told %d times, memory %sright", answer.pid, answer.parent, answer.told,
	      answer.right ? "" : "not ");
	kill(s->orphan, SIGKILL);
	CHECK(v, waitpid(s->orphan, NULL, 0) == s->orphan, "the orphan does not end: %m");
	return true;
}

static bool check_signals(struct victim *v, struct state *s)
{
	int before = other_ended, usual;

	CHECK(v, waitpid(s->other, NULL, WNOHANG) < 0, "a plain wait sees the clone");
	usual = ended;
	kill(s->other, SIGKILL);
	kill(s->silent, SIGKILL);
	CHECK(v, waitpid(s->other, NULL, __WCLONE) == s->other, "the clone does not end: %m");
	CHECK(v, waitpid(s->silent, NULL, __WCLONE) == s->silent, "the silent one does not end: %m");
	CHECK(v, other_ended == before + 1 && ended == usual, "SIGUSR2 has come %d times, SIGCHLD %d times",
	      other_ended - before, ended - usual);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (!check_orphan(v, s) || !check_child(v, s) || !check_signals(v, s))
		return false;
	s->orphan = s->child;
	s->turn = !s->turn;
	make(s);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	handle(SIGCHLD);
	handle(SIGUSR2);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	for (int i = 0; i < 2; i++)
		MUST(pipe(s.slots[i].ask) == 0 && pipe(s.slots[i].answer) == 0);
	make(&s);
	victim_run(&v, verify, &s);
}
