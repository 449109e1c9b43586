/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * clonevm DIR: processes that share memory without being threads.
 *
 *	root
 *	+- plain	the root's memory (CLONE_VM), its own signal handlers
 *	|  +- copy	forked by plain: a copy of that memory
 *	+- handlers	memory and signal handlers (CLONE_VM, CLONE_SIGHAND); two threads
 *	+- twin		made by handlers as a child of the root (CLONE_PARENT), with all that handlers shares
 *	+- leader	memory, in a session of its own
 *	+- owner	forked: a copy of that memory
 *	+- heir		made by owner as a child of the root, with owner's memory
 *
 * SIGUSR2 makes any of them sleep(1), by execve(2), and SIGKILL may end it: then it is not asked any more. DIR/pids has the
 * PIDs of leader, owner and heir.
 * They are asked by a futex in memory that they share. All but the root use no library: its thread-local memory is the root's.
 */
#include "victim.h"

#include <limits.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { PLAIN, COPY, HANDLERS, SECOND, TWIN, LEADER, OWNER, HEIR, COUNT };
enum { ASK_COUNT = 1, ASK_MAP, ASK_HANDLE, ASK_READ };

#define STACK   65536
#define PAGES   64
#define PRIVATE 0x1234
#define OWNED	0x5678

struct slot {
	_Atomic uint32_t asked;    /* number of the last request */
	_Atomic uint32_t answered; /* and of the last that was served */
	int request;
	uint64_t result;
	long pid, tid;
};

struct state {
	struct slot *slots; /* COUNT of them, in memory shared by mapping: copy has to see it, too */
	uint64_t *words;    /* private memory, a word a page */
	uint64_t counter;
	uint64_t owned;     /* what owner and heir have counted in theirs */
	uint64_t only_mine; /* PRIVATE in copy's memory, OWNED in owner's, 0 in the root's */
	pid_t pid[COUNT];
	void *mapped;
	uint64_t counts; /* how often the words were counted up */
};

static struct state s;
static char stacks[COUNT][STACK] __attribute__((aligned(64)));

static long raw(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return ret;
}

static void on_signal(int signal)
{
	s.counter += (uint64_t)signal;
}

static void on_order(int signal)
{
	static char name[] = "/bin/sleep", time[] = "infinity";
	static char *const arguments[] = {name, time, NULL}, *const environment[] = {NULL};

	(void)signal;
	raw(SYS_execve, (long)name, (long)arguments, (long)environment, 0, 0);
}

struct kernel_action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

__attribute__((naked)) static void restorer(void)
{
	__asm__("mov $15, %eax; syscall");
}

static void serve_one(struct slot *slot)
{
	struct kernel_action action = {on_signal, 0x04000000, restorer, 0};

	slot->pid = raw(SYS_getpid, 0, 0, 0, 0, 0);
	slot->tid = raw(SYS_gettid, 0, 0, 0, 0, 0);
	switch (slot->request) {
	case ASK_COUNT:
		slot->result = ++s.counter;
		for (int i = 0; i < PAGES; i++)
			s.words[i * 512] += (uint64_t)i;
		break;
	case ASK_MAP:
		s.mapped = (void *)raw(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		*(uint64_t *)s.mapped = slot->result = (uint64_t)slot->tid;
		break;
	case ASK_HANDLE: slot->result = (uint64_t)raw(SYS_rt_sigaction, SIGUSR1, (long)&action, 0, 8, 0); break;
	case ASK_READ: slot->result = s.only_mine; break;
	default: break;
	}
}

/* Runs on a stack of its own in memory that others use. */
__attribute__((noinline)) static void serve(int who)
{
	struct slot *slot = &s.slots[who];
	uint32_t done = atomic_load(&slot->answered);

	for (;;) {
		while (atomic_load(&slot->asked) == done)
			raw(SYS_futex, (long)&slot->asked, FUTEX_WAIT, done, 0, 0);
		serve_one(slot);
		done++;
		atomic_store(&slot->answered, done);
		raw(SYS_futex, (long)&slot->answered, FUTEX_WAKE, INT_MAX, 0, 0);
	}
}

static int child(void *argument);

/* What clone(3) of the library does, for those that must not use it. */
static long clone_raw(unsigned long flags, int who)
{
	struct clone_args args = {
		.flags = flags & ~(unsigned long)CSIGNAL,
		.exit_signal = flags & CSIGNAL,
		.stack = (uintptr_t)stacks[who],
		.stack_size = STACK - 64,
	};
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %4, %%rdi\n\t"
			 "call *%5\n\t"
			 "1:"
			 : "=a"(ret)
			 : "0"(SYS_clone3), "D"(&args), "S"(sizeof(args)), "r"((long)who), "r"(child)
			 : "rcx", "r11", "memory");
	return ret;
}

static int child(void *argument)
{
	int who = (int)(long)argument;

	if (who == PLAIN) {
		s.pid[COPY] = (pid_t)raw(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (s.pid[COPY] == 0) {
			s.only_mine = PRIVATE;
			serve(COPY);
		}
	}
	if (who == OWNER) {
		s.only_mine = OWNED;
		s.pid[HEIR] = (pid_t)clone_raw(CLONE_VM | CLONE_PARENT, HEIR);
		s.slots[OWNER].result = (uint64_t)s.pid[HEIR];
	}
	if (who == HANDLERS) {
		clone_raw(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, SECOND);
		s.pid[TWIN] = (pid_t)clone_raw(CLONE_VM | CLONE_SIGHAND | CLONE_PARENT, TWIN);
	}
	if (who == LEADER)
		raw(SYS_setsid, 0, 0, 0, 0, 0);
	serve(who);
	return 0;
}

/* It may have ended, or have begun another program. */
static bool is_there(int who)
{
	char path[64], name[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/comm", s.pid[who]);
	if (victim_slurp(path, name, sizeof(name)) <= 0 || strncmp(name, "clonevm", 7) != 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/status", s.pid[who]);
	return victim_status_line(path, "State", name, sizeof(name)) && name[0] != 'Z';
}

static bool ask(struct victim *v, int who, int request, uint64_t *ret)
{
	struct slot *slot = &s.slots[who];
	uint32_t number = atomic_load(&slot->asked) + 1;

	slot->request = request;
	atomic_store(&slot->asked, number);
	syscall(SYS_futex, &slot->asked, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	CHECK(v, WAIT_FOR(atomic_load(&slot->answered) == number, 5000), "%d does not answer", who);
	CHECK(v, slot->pid == s.pid[who], "%d is PID %ld, not %d", who, slot->pid, s.pid[who]);
	*ret = slot->result;
	return true;
}

static bool check_memory(struct victim *v)
{
	static const int sharers[] = {PLAIN, HANDLERS, SECOND, TWIN, LEADER};
	uint64_t result, before;

	for (size_t i = 0; i < sizeof(sharers) / sizeof(sharers[0]); i++) {
		before = s.counter;
		if (!is_there(sharers[i]))
			continue;
		if (!ask(v, sharers[i], ASK_COUNT, &result))
			return false;
		CHECK(v, s.counter == before + 1, "what %d writes is not seen", sharers[i]);
		s.counts++;
	}
	for (int i = 0; i < PAGES; i++)
		CHECK(v, s.words[i * 512] == (uint64_t)i * s.counts, "page %d has %lu after %lu times", i, s.words[i * 512],
		      s.counts);
	for (size_t i = 0; i < sizeof(sharers) / sizeof(sharers[0]); i++) {
		if (!is_there(sharers[i]))
			continue;
		if (!ask(v, sharers[i], ASK_MAP, &result))
			return false;
		CHECK(v, *(uint64_t *)s.mapped == result, "what %d maps is not seen", sharers[i]);
		CHECK(v, munmap(s.mapped, 4096) == 0, "munmap: %m");
	}
	if (!ask(v, COPY, ASK_READ, &result))
		return false;
	CHECK(v, result == PRIVATE && s.only_mine == 0, "the copy has the memory of all others");
	before = s.counter;
	if (!ask(v, COPY, ASK_COUNT, &result))
		return false;
	CHECK(v, s.counter == before, "the copy writes into the memory of all others");
	return true;
}

static bool check_heir(struct victim *v)
{
	static const int both[] = {OWNER, HEIR};
	uint64_t result, before = s.counter;

	for (size_t i = 0; i < 2; i++) {
		if (!is_there(both[i]))
			continue;
		if (!ask(v, both[i], ASK_READ, &result))
			return false;
		CHECK(v, result == OWNED, "%d has 0x%lx in its memory", both[i], result);
		if (!ask(v, both[i], ASK_COUNT, &result))
			return false;
		CHECK(v, result == s.owned + 1 && s.counter == before, "%d counts to %lu after %lu", both[i], result, s.owned);
		s.owned = result;
	}
	return true;
}

static bool check_handlers(struct victim *v)
{
	struct sigaction now;
	uint64_t result;

	CHECK(v, signal(SIGUSR1, SIG_IGN) != SIG_ERR, "signal: %m");
	if (!ask(v, PLAIN, ASK_HANDLE, &result))
		return false;
	CHECK(v, result == 0 && sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == SIG_IGN,
	      "handlers of one that does not share them are the root's");
	if (!ask(v, TWIN, ASK_HANDLE, &result))
		return false;
	CHECK(v, result == 0 && sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == on_signal,
	      "a handler set by one that shares them is not the root's");
	result = s.counter;
	CHECK(v,
	      kill(s.pid[HANDLERS], SIGUSR1) == 0 &&
		      WAIT_FOR(((volatile struct state *)&s)->counter == result + SIGUSR1, 5000),
	      "a handler set by another one is not run");
	return true;
}

static bool check_kinship(struct victim *v)
{
	static const int children[] = {PLAIN, HANDLERS, TWIN, LEADER, OWNER, HEIR};
	char path[64], value[32];

	for (size_t i = 0; i < sizeof(children) / sizeof(children[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%d/status", s.pid[children[i]]);
		CHECK(v, victim_status_line(path, "PPid", value, sizeof(value)) && atoi(value) == getpid(), "%d has parent %s",
		      children[i], value);
	}
	CHECK(v, getsid(s.pid[LEADER]) == s.pid[LEADER] && getsid(s.pid[PLAIN]) == getsid(0), "sessions");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	return check_memory(v) && check_heir(v) && check_handlers(v) && check_kinship(v);
}

int main(int argc, char **argv)
{
	struct victim v;
	FILE *pids;

	victim_start(&v, argc, argv);
	MUST(signal(SIGUSR2, on_order) != SIG_ERR);
	s.slots = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	s.words = mmap(NULL, PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(s.slots != MAP_FAILED && s.words != MAP_FAILED);
	s.pid[PLAIN] = (pid_t)clone_raw(CLONE_VM | SIGCHLD, PLAIN);
	s.pid[HANDLERS] = (pid_t)clone_raw(CLONE_VM | CLONE_SIGHAND | CLONE_FILES | SIGCHLD, HANDLERS);
	s.pid[SECOND] = s.pid[HANDLERS];
	s.pid[LEADER] = (pid_t)clone_raw(CLONE_VM | SIGCHLD, LEADER);
	MUST(s.pid[PLAIN] > 0 && s.pid[HANDLERS] > 0 && s.pid[LEADER] > 0);
	MUST(WAIT_FOR(*(volatile pid_t *)&s.pid[TWIN] > 0 && *(volatile pid_t *)&s.pid[COPY] > 0 &&
		      getsid(s.pid[LEADER]) == s.pid[LEADER], 5000));
	s.pid[OWNER] = fork();
	MUST(s.pid[OWNER] >= 0);
	if (s.pid[OWNER] == 0)
		return child((void *)(long)OWNER);
	MUST(WAIT_FOR(s.slots[OWNER].result > 0, 5000));
	s.pid[HEIR] = (pid_t)s.slots[OWNER].result;
	pids = fopen(victim_path(&v, "pids"), "w");
	MUST(pids && fprintf(pids, "%d %d %d\n", s.pid[LEADER], s.pid[OWNER], s.pid[HEIR]) > 0 && fclose(pids) == 0);
	victim_run(&v, verify, NULL);
}
