/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * threads DIR [N]: N threads (4 unless given), each with registers of its own: integer, x87, SSE,
 * AVX and AVX-512 as far as the CPU has them, MXCSR, x87 control word, PKRU, FS and GS base.
 * regs_hold() in threads-regs.S loads them and waits without touching memory but for a flag: the
 * first thread spinning, the others in nanosleep(2).
 *
 * At a check every thread leaves the wait, stores its registers and compares; then TLS, name, mask,
 * scheduling, affinity, alternate stack, robust list, rseq. One more thread, made before the move,
 * ends after it: whoever joins it sees that only if the kernel still clears the word given to
 * set_tid_address(2).
 */
#include "victim.h"
#include "threads-regs.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#define STACK_SIZE (96u << 10)
#define ALTERNATE_SIZE (32u << 10)

struct member {
	struct regs regs;      /* loaded from and stored to by regs_hold() */
	struct state *state;   /* common to all */
	unsigned int number;   /* from 0 */
	pid_t tid;	       /* when it began */
	void *robust_head;     /* as registered by libc */
	unsigned long gs_base; /* set by arch_prctl */
	unsigned long fs_base; /* as at the start */
	int policy;	       /* of the scheduler */
	int priority;	       /* for SCHED_FIFO and SCHED_RR */
	cpu_set_t affinity;
	sigset_t mask;
	char name[16];
	unsigned char *alternate; /* signal stack */
	atomic_uint held;	  /* rounds begun */
	atomic_uint done;	  /* rounds verified */
	char reason[200];	  /* of the last round; empty if all was well */
};

struct state {
	struct member *members;
	unsigned int count;
	unsigned int level; /* of vector registers, REGS_SSE.. */
	bool pkru;	    /* the CPU has protection keys, and the kernel uses them */
	cpu_set_t cpus;	    /* that this process may use */
	atomic_uint round;  /* of verification */
	pthread_t leaving;  /* the thread that ends at the next check */
	atomic_int leave;   /* tells it to */
};

static __thread uint64_t tls_value = 7;
static __thread unsigned char tls_block[5000];

static bool say(struct member *m, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool say(struct member *m, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(m->reason, sizeof(m->reason), format, list);
	va_end(list);
	return false;
}

#define SEE(condition, ...)                         \
	do {                                        \
		if (!(condition))                   \
			return say(m, __VA_ARGS__); \
	} while (0)

static uint32_t pkru_read(void)
{
	uint32_t low, high;

	__asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

static void pkru_write(uint32_t value)
{
	__asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(value), "d"(0), "c"(0) : "memory");
}

/* Only keys 14 and 15 differ, which nobody allocates here. */
static uint32_t pkru_of(const struct member *m)
{
	return 0x55555554u ^ (m->number % 16 << 28);
}

static unsigned int level_detect(void)
{
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
		return REGS_AVX512;
	return __builtin_cpu_supports("avx") ? REGS_AVX : REGS_SSE;
}

static bool pkru_detect(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (c & (1u << 4)) != 0;
}

static void regs_prepare(struct member *m)
{
	struct regs *r = &m->regs;
	uint64_t seed = 1000 * m->number + atomic_load(&m->state->round);

	memset(r, 0, sizeof(*r));
	victim_fill(r->general, sizeof(r->general), seed);
	victim_fill(r->vector, sizeof(r->vector), seed + 1);
	victim_fill(r->mask, sizeof(r->mask), seed + 2);
	for (unsigned int i = 0; i < 8; i++) {
		long double value = (long double)(seed + 1) / 3 + i;

		memcpy(r->x87[i], &value, 10);
	}
	r->mxcsr = 0x1f80 | (m->number % 4 << 13);
	r->x87_control = (uint16_t)(0x037f | (m->number % 4 << 10));
	r->level = m->state->level;
	r->sleeping = m->number > 0;
	r->pause_sec = 0;
	r->pause_nsec = m->state->count > 16 ? 10000000 : 2000000;
}

static bool regs_check(struct member *m)
{
	const struct regs *r = &m->regs;
	size_t width = r->level == REGS_AVX512 ? 64 : r->level == REGS_AVX ? 32 : 16;

	SEE(r->bad == 0, "nanosleep returned other than 0 %llu times, last %lld",
	    (unsigned long long)r->bad, (long long)r->last_bad);
	for (unsigned int i = 0; i < REGS_GENERAL; i++)
		SEE(r->general[i] == r->general_out[i] || (r->sleeping && regs_syscall_changes(i)),
		    "integer register %u is %llx, not %llx", i,
		    (unsigned long long)r->general_out[i], (unsigned long long)r->general[i]);
	for (unsigned int i = 0; i < 8; i++)
		SEE(memcmp(r->x87[i], r->x87_out[i], 10) == 0, "x87 register %u has changed", i);
	for (unsigned int i = 0; i < (r->level == REGS_AVX512 ? 32u : 16u); i++)
		SEE(memcmp(r->vector[i], r->vector_out[i], width) == 0,
		    "vector register %u has changed (width %zu)", i, width);
	for (unsigned int i = 0; r->level == REGS_AVX512 && i < 8; i++)
		SEE(r->mask[i] == r->mask_out[i], "mask register k%u has changed", i);
	SEE(r->mxcsr_out == r->mxcsr, "MXCSR is %x, not %x", r->mxcsr_out, r->mxcsr);
	SEE(r->x87_control_out == r->x87_control, "x87 control word is %x, not %x",
	    r->x87_control_out, r->x87_control);
	SEE(!m->state->pkru || pkru_read() == pkru_of(m), "PKRU is %x, not %x", pkru_read(),
	    pkru_of(m));
	return true;
}

static struct rseq *rseq_area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* The kernel writes the CPU into the registered area whenever the thread is put onto another. */
static bool rseq_check(struct member *m)
{
	volatile struct rseq *area = rseq_area();
	cpu_set_t one;

	if (__rseq_size == 0)
		return true;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &m->state->cpus))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		SEE(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity: %m");
		SEE(area->cpu_id == (unsigned int)cpu && area->cpu_id_start == (unsigned int)cpu,
		    "on CPU %d rseq says %u and %u", cpu, area->cpu_id, area->cpu_id_start);
	}
	SEE(sched_setaffinity(0, sizeof(m->affinity), &m->affinity) == 0, "sched_setaffinity: %m");
	return true;
}

static bool kernel_check(struct member *m)
{
	struct sched_param param;
	unsigned long base = 0;
	void *head = NULL;
	size_t size = 0;
	cpu_set_t cpus;
	sigset_t mask;
	stack_t stack;
	char name[16] = "";

	SEE(syscall(SYS_gettid) == m->tid, "thread ID was %d and is %ld", m->tid,
	    syscall(SYS_gettid));
	SEE(prctl(PR_GET_NAME, name) == 0 && strcmp(name, m->name) == 0, "name is '%s', not '%s'",
	    name, m->name);
	SEE(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0 && memcmp(&mask, &m->mask, 8) == 0,
	    "signal mask differs");
	SEE(syscall(SYS_sched_getscheduler, 0) == m->policy, "policy is %ld, not %d",
	    syscall(SYS_sched_getscheduler, 0), m->policy);
	SEE(syscall(SYS_sched_getparam, 0, &param) == 0 && param.sched_priority == m->priority,
	    "priority is %d, not %d", param.sched_priority, m->priority);
	SEE(getpriority(PRIO_PROCESS, 0) == (int)(m->number % 5), "nice is %d",
	    getpriority(PRIO_PROCESS, 0));
	SEE(sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_EQUAL(&cpus, &m->affinity),
	    "affinity differs");
	SEE(sigaltstack(NULL, &stack) == 0 && stack.ss_sp == m->alternate &&
		    stack.ss_size == ALTERNATE_SIZE && stack.ss_flags == 0,
	    "alternate stack is %p+%zu", stack.ss_sp, stack.ss_size);
	SEE(syscall(SYS_get_robust_list, 0, &head, &size) == 0 && head == m->robust_head &&
		    size == 24,
	    "robust list is %p, not %p", head, m->robust_head);
	SEE(syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0 && base == m->gs_base,
	    "GS base is %lx, not %lx", base, m->gs_base);
	SEE(syscall(SYS_arch_prctl, ARCH_GET_FS, &base) == 0 && base == m->fs_base,
	    "FS base is %lx, not %lx", base, m->fs_base);
	return true;
}

static bool tls_check(struct member *m, unsigned int round)
{
	SEE(tls_value == m->number * 1000u + round, "TLS variable is %llu",
	    (unsigned long long)tls_value);
	SEE(victim_differs(tls_block, sizeof(tls_block), m->number + round) < 0,
	    "TLS array differs");
	tls_value++;
	victim_fill(tls_block, sizeof(tls_block), m->number + round + 1);
	return true;
}

static void member_setup(struct member *m)
{
	struct sched_param param = {0};
	static const int policies[] = {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_FIFO, SCHED_RR};
	stack_t stack = {.ss_size = ALTERNATE_SIZE};
	size_t size;

	m->tid = (pid_t)syscall(SYS_gettid);
	snprintf(m->name, sizeof(m->name), "member-%u", m->number);
	MUST(prctl(PR_SET_NAME, m->name) == 0);
	sigemptyset(&m->mask);
	sigaddset(&m->mask, SIGRTMIN + (int)(m->number % 20));
	sigaddset(&m->mask, SIGUSR1);
	MUST(pthread_sigmask(SIG_SETMASK, &m->mask, NULL) == 0);
	MUST(setpriority(PRIO_PROCESS, 0, (int)(m->number % 5)) == 0);
	m->policy = m->number > 0 ? policies[m->number % 5] : SCHED_OTHER;
	m->priority =
		m->policy == SCHED_FIFO || m->policy == SCHED_RR ? 1 + (int)(m->number % 7) : 0;
	param.sched_priority = m->priority;
	if (syscall(SYS_sched_setscheduler, 0, m->policy, &param) < 0)
		m->policy = m->priority = 0;
	m->affinity = m->state->cpus;
	if (m->number % 3 == 2 && CPU_COUNT(&m->affinity) > 1)
		for (int cpu = 0, keep = -1; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &m->affinity)) {
				if (keep >= 0)
					CPU_CLR(cpu, &m->affinity);
				keep = cpu;
			}
	MUST(sched_setaffinity(0, sizeof(m->affinity), &m->affinity) == 0);
	stack.ss_sp = m->alternate = malloc(ALTERNATE_SIZE);
	MUST(m->alternate != NULL && sigaltstack(&stack, NULL) == 0);
	MUST(syscall(SYS_get_robust_list, 0, &m->robust_head, &size) == 0);
	m->gs_base = 0x10000000ul + m->number * 4096ul;
	MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, m->gs_base) == 0);
	MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &m->fs_base) == 0);
	if (m->state->pkru)
		pkru_write(pkru_of(m));
	tls_value = m->number * 1000u;
	victim_fill(tls_block, sizeof(tls_block), m->number);
}

static void *member_run(void *context)
{
	struct member *m = context;
	struct state *s = m->state;

	member_setup(m);
	for (unsigned int round = 0;; round++) {
		regs_prepare(m);
		atomic_store(&m->held, round + 1);
		regs_hold(&m->regs);
		m->reason[0] = '\0';
		if (regs_check(m) && kernel_check(m) && tls_check(m, round))
			rseq_check(m);
		atomic_store(&m->done, round + 1);
		while (atomic_load(&s->round) != round + 1)
			victim_sleep_us(1000);
	}
	return NULL;
}

static void *leave_later(void *context)
{
	struct state *s = context;

	while (atomic_load(&s->leave) == 0)
		victim_sleep_us(2000);
	return (void *)0x1234;
}

static bool leaver_check(struct victim *v, struct state *s)
{
	struct timespec until;
	void *value = NULL;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	atomic_store(&s->leave, 1);
	CHECK(v, pthread_timedjoin_np(s->leaving, &value, &until) == 0,
	      "the end of a thread is not seen by its joiner");
	CHECK(v, value == (void *)0x1234, "the joined thread returned %p", value);
	atomic_store(&s->leave, 0);
	CHECK(v, pthread_create(&s->leaving, NULL, leave_later, s) == 0,
	      "cannot make a new thread");
	return true;
}

static bool all_held(struct state *s, unsigned int round)
{
	for (unsigned int i = 0; i < s->count; i++)
		if (atomic_load(&s->members[i].held) != round)
			return false;
	return true;
}

static bool all_done(struct state *s, unsigned int round)
{
	for (unsigned int i = 0; i < s->count; i++)
		if (atomic_load(&s->members[i].done) != round)
			return false;
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned int round = atomic_load(&s->round) + 1;

	for (unsigned int i = 0; i < s->count; i++)
		*(volatile uint32_t *)&s->members[i].regs.leave = 1;
	WAIT_FOR(all_done(s, round), 20000);
	for (unsigned int i = 0; i < s->count; i++) {
		struct member *m = &s->members[i];

		CHECK(v, atomic_load(&m->done) == round, "thread %u (%d) does not run", i, m->tid);
		CHECK(v, m->reason[0] == '\0', "thread %u (%d): %s", i, m->tid, m->reason);
	}
	if (!leaver_check(v, s))
		return false;
	atomic_store(&s->round, round);
	CHECK(v, WAIT_FOR(all_held(s, round + 1), 20000), "a thread does not go on to round %u",
	      round + 1);
	victim_note(v, "threads=%u vectors=%s pkru=%d rseq=%d", s->count,
		    s->level == REGS_AVX512 ? "avx512"
		    : s->level == REGS_AVX  ? "avx"
					    : "sse",
		    s->pkru, __rseq_size > 0);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	pthread_attr_t attributes;
	pthread_t thread;
	struct victim v;

	victim_start(&v, argc, argv);
	s.count = (unsigned int)victim_arg(&v, 0, 4);
	s.level = level_detect();
	s.pkru = pkru_detect();
	s.members = aligned_alloc(64, (sizeof(*s.members) * (s.count + 1) + 63) / 64 * 64);
	MUST(s.members != NULL && sched_getaffinity(0, sizeof(s.cpus), &s.cpus) == 0);
	memset(s.members, 0, sizeof(*s.members) * s.count);
	MUST(pthread_attr_init(&attributes) == 0 &&
	     pthread_attr_setstacksize(&attributes, STACK_SIZE) == 0);
	for (unsigned int i = 0; i < s.count; i++) {
		s.members[i].state = &s;
		s.members[i].number = i;
		MUST(pthread_create(&thread, &attributes, member_run, &s.members[i]) == 0);
	}
	MUST(pthread_create(&s.leaving, NULL, leave_later, &s) == 0);
	MUST(WAIT_FOR(all_held(&s, 1), 20000));
	victim_run(&v, verify, &s);
}
