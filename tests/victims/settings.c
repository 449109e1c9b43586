/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * settings DIR: what prctl(2) and its like set for a thread or process, each read back and, where that is possible, tried:
 * time stamps that are forbidden in one thread only, what a memory error does, memory policy, memory that does not become
 * executable, merged memory, huge pages for those who ask, memory to come that is locked (MCL_ONFAULT in a child), the login
 * uid, an alternate stack that is disarmed in its handlers; SCHED_DEADLINE and reset-on-fork.
 */
#include "victim.h"

#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#define THP_EXCEPT_ADVISED 2
#define MDWE_REFUSE_EXEC_GAIN 1
#define LOGIN "4711"
#define STACK_SIZE (64u << 10)
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

/* struct sched_attr of the kernel. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

struct thread {
	void (*setup)(struct thread *t);
	bool (*check)(struct thread *t, char *reason, size_t size);
	struct attributes wanted;
	atomic_int ready, asked, answered;
	char reason[200];
};

struct state {
	int no_exec_gain, merge, huge_pages; /* as read when set up; what this kernel lacks is as it is */
	bool login;
	struct victim_peer child; /* MCL_ONFAULT */
	struct thread threads[3];
	stack_t stack;
};

/* ---- threads */

static sigjmp_buf after_fault;

static void on_fault(int number)
{
	siglongjmp(after_fault, 1);
}

static void tsc_setup(struct thread *t)
{
	MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
}

static bool tsc_check(struct thread *t, char *reason, size_t size)
{
	int mode = 0;

	snprintf(reason, size, "a thread may read the time stamp counter");
	if (prctl(PR_GET_TSC, &mode) < 0 || mode != PR_TSC_SIGSEGV)
		return false;
	if (sigsetjmp(after_fault, 1) == 0) {
		__builtin_ia32_rdtsc();
		return false;
	}
	return true;
}

static void schedule_setup(struct thread *t)
{
	struct attributes set = t->wanted;

	if (syscall(SYS_sched_setattr, 0, &set, 0) < 0)
		t->wanted.policy = UINT32_MAX; /* not here */
}

static bool schedule_check(struct thread *t, char *reason, size_t size)
{
	struct attributes now = {.size = sizeof(now)};

	if (t->wanted.policy == UINT32_MAX)
		return true;
	if (syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0) < 0)
		return false;
	snprintf(reason, size, "policy %u flags %llx priority %u, runtime %llu of %llu every %llu; wanted is policy %u",
		 now.policy, (unsigned long long)now.flags, now.priority, (unsigned long long)now.runtime,
		 (unsigned long long)now.deadline, (unsigned long long)now.period, t->wanted.policy);
	return now.policy == t->wanted.policy && now.flags == t->wanted.flags && now.priority == t->wanted.priority &&
	       (now.policy != 6 || (now.runtime == t->wanted.runtime && now.deadline == t->wanted.deadline &&
				    now.period == t->wanted.period));
}

/* Without the vDSO's clocks: one of them may not read the time stamp counter. */
static void *thread_run(void *context)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	struct thread *t = context;

	t->setup(t);
	atomic_store(&t->ready, 1);
	for (;;) {
		if (atomic_load(&t->asked) == atomic_load(&t->answered)) {
			syscall(SYS_nanosleep, &pause, NULL);
			continue;
		}
		if (t->check(t, t->reason, sizeof(t->reason)))
			t->reason[0] = '\0';
		atomic_fetch_add(&t->answered, 1);
	}
	return NULL;
}

static bool thread_ask(struct victim *v, struct thread *t)
{
	int round = atomic_fetch_add(&t->asked, 1) + 1;

	CHECK(v, WAIT_FOR(atomic_load(&t->answered) == round, 5000), "a thread does not answer");
	CHECK(v, !t->reason[0], "%s", t->reason);
	return true;
}

/* ---- memory */

/* Whether a new mapping is locked, and has its page. */
static void locks_look(char *text, size_t size, bool want_page)
{
	char perms[5], flags[256];
	unsigned char page = 0;
	void *at = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	text[0] = '\0';
	if (at == MAP_FAILED || !victim_mapping(at, perms, flags, sizeof(flags)))
		snprintf(text, size, "a new mapping: %m");
	else if (!strstr(flags, " lo "))
		snprintf(text, size, "a new mapping is not locked:%s", flags);
	else if (mincore(at, VICTIM_PAGE, &page) < 0 || (page & 1) != want_page)
		snprintf(text, size, "a new mapping has %s page", page & 1 ? "its" : "no");
	munmap(at, VICTIM_PAGE);
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	if (request == 1) {
		MUST(mlockall(MCL_FUTURE | MCL_ONFAULT) == 0);
		/* What lets one notice. */
		MUST(mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	}
	locks_look(text, size, false);
}

static bool memory_check(struct victim *v, struct state *s)
{
	char text[VICTIM_TEXT_MAX];
	unsigned long nodes[16] = {0};
	int mode = -1;
	void *at;

	CHECK(v, prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY, "a memory error does %d",
	      prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
	CHECK(v, syscall(SYS_get_mempolicy, &mode, nodes, sizeof(nodes) * 8, 0, 0) == 0 || errno == ENOSYS,
	      "get_mempolicy: %m");
	CHECK(v, (mode == MPOL_BIND && nodes[0] == 1) || errno == ENOSYS, "memory policy %d of nodes %lx", mode, nodes[0]);
	CHECK(v, prctl(PR_GET_MDWE, 0, 0, 0, 0) == s->no_exec_gain, "PR_GET_MDWE: %d", prctl(PR_GET_MDWE, 0, 0, 0, 0));
	CHECK(v, prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == s->merge, "PR_GET_MEMORY_MERGE: %d",
	      prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
	CHECK(v, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == s->huge_pages, "PR_GET_THP_DISABLE: %d",
	      prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	at = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(v, (at == MAP_FAILED) == (s->no_exec_gain == MDWE_REFUSE_EXEC_GAIN), "memory to write and to execute: %m");
	if (at != MAP_FAILED)
		munmap(at, VICTIM_PAGE);
	locks_look(text, sizeof(text), true);
	CHECK(v, !text[0], "%s", text);
	return victim_peer_ask(v, &s->child, 2);
}

static void memory_setup(struct state *s)
{
	unsigned long node = 1;

	victim_peer_fork(&s->child, child_serve, NULL);
	MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
	MUST(syscall(SYS_set_mempolicy, MPOL_BIND, &node, 64) == 0 || errno == ENOSYS);
	prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0);
	prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
	if (prctl(PR_SET_THP_DISABLE, 1, THP_EXCEPT_ADVISED, 0, 0) < 0)
		MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	s->no_exec_gain = prctl(PR_GET_MDWE, 0, 0, 0, 0);
	s->merge = prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
	s->huge_pages = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
	MUST(mlockall(MCL_FUTURE) == 0);
	MUST(mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
}

/* ---- the whole */

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char login[32] = "";
	stack_t stack;

	for (size_t i = 0; i < sizeof(s->threads) / sizeof(s->threads[0]); i++)
		if (!thread_ask(v, &s->threads[i]))
			return false;
	CHECK(v, sigaltstack(NULL, &stack) == 0 && stack.ss_sp == s->stack.ss_sp &&
	      (unsigned int)stack.ss_flags == SS_AUTODISARM, "alternate stack: flags %x", (unsigned int)stack.ss_flags);
	CHECK(v, !s->login || victim_slurp("/proc/self/loginuid", login, sizeof(login)) > 0, "loginuid: %m");
	CHECK(v, !s->login || strcmp(login, LOGIN) == 0, "loginuid is %s", login);
	return memory_check(v, s);
}

int main(int argc, char **argv)
{
	static struct state s = {
		.threads = {{.setup = tsc_setup, .check = tsc_check},
			    {.setup = schedule_setup,
			     .check = schedule_check,
			     .wanted = {.size = sizeof(struct attributes), .policy = 6, .runtime = 2000000,
					.deadline = 20000000, .period = 40000000}},
			    {.setup = schedule_setup,
			     .check = schedule_check,
			     .wanted = {.size = sizeof(struct attributes), .policy = SCHED_RR, .flags = 1, .priority = 7}}},
	};
	FILE *login;
	struct victim v;

	victim_start(&v, argc, argv);
	MUST(signal(SIGSEGV, on_fault) != SIG_ERR);
	login = fopen("/proc/self/loginuid", "we");
	s.login = login && fputs(LOGIN, login) >= 0;
	if (login)
		s.login = fclose(login) == 0 && s.login;
	s.stack = (stack_t){.ss_sp = malloc(STACK_SIZE), .ss_size = STACK_SIZE, .ss_flags = (int)SS_AUTODISARM};
	MUST(s.stack.ss_sp && sigaltstack(&s.stack, NULL) == 0);
	memory_setup(&s);
	for (size_t i = 0; i < sizeof(s.threads) / sizeof(s.threads[0]); i++) {
		pthread_t thread;

		MUST(pthread_create(&thread, NULL, thread_run, &s.threads[i]) == 0);
		MUST(WAIT_FOR(atomic_load(&s.threads[i].ready), 5000));
	}
	MUST(victim_peer_ask(&v, &s.child, 1));
	victim_run(&v, verify, &s);
}
