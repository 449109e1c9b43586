/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals: the action of every one with handler, flags, mask and restorer as the kernel keeps them;
 * masks of two threads; pending ones, private to a thread and shared, with all that sigqueue gave
 * them, and several of one number in their order. At a check they are taken and sent anew, and
 * handlers are run: their flags and masks must have effect.
 */
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

/* As rt_sigaction(2) has it: libc's struct hides the restorer. */
struct kernel_action {
	void (*handler)(int number);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

#define SIGNALS 64
#define SHARED (SIGRTMIN + 1)	    /* queued three times to the process */
#define PRIVATE (SIGRTMIN + 2)	    /* queued twice to the other thread */
#define MAIN_PRIVATE (SIGRTMIN + 3) /* queued once to the main thread */
#define ONCE (SIGRTMIN + 10)	    /* SA_RESETHAND */
#define MASKED (SIGRTMIN + 11)	    /* its handler's mask has SIGRTMIN + 12 and SIGUSR2 */
#define NODEFER (SIGRTMIN + 13)

struct state {
	struct kernel_action actions[SIGNALS + 1]; /* as set up */
	pthread_t other;
	sigset_t main_mask, other_mask;
	atomic_uint asked, answered;  /* rounds of the other thread */
	atomic_bool sent;	      /* lets the other thread send again */
	char reason[VICTIM_TEXT_MAX]; /* of its round */
};

static volatile sig_atomic_t runs;  /* of handlers since it was zeroed */
static volatile sig_atomic_t value; /* si_value seen by the last one */
static sigset_t mask_in_handler;    /* of the last one */

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	runs = runs + 1;
	value = info->si_value.sival_int;
	pthread_sigmask(SIG_SETMASK, NULL, &mask_in_handler);
}

static bool action_get(int number, struct kernel_action *ret_action)
{
	return syscall(SYS_rt_sigaction, number, NULL, ret_action, 8) == 0;
}

static void actions_setup(void)
{
	static const int flags[] = {0,
				    SA_RESTART,
				    SA_ONSTACK,
				    SA_NOCLDSTOP,
				    SA_NOCLDWAIT,
				    SA_NODEFER,
				    SA_RESTART | SA_ONSTACK};

	for (int number = 1; number <= SIGNALS; number++) {
		struct sigaction action = {.sa_sigaction = on_signal};

		/*
		 * 32 and 33 are libc's own; faults keep their default so that a fault of ours
		 * shows.
		 */
		if (number == SIGKILL || number == SIGSTOP || number == 32 || number == 33 ||
		    number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE ||
		    number == SIGABRT || number == SIGTERM)
			continue;
		action.sa_flags = SA_SIGINFO | flags[number % 7];
		if (number % 5 == 0)
			action.sa_handler = SIG_IGN;
		if (number % 7 == 0 && number < 32)
			action.sa_handler = SIG_DFL;
		sigaddset(&action.sa_mask, number % 31 + 1);
		if (number == ONCE)
			action = (struct sigaction){.sa_sigaction = on_signal,
						    .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND)};
		if (number == NODEFER)
			action = (struct sigaction){.sa_sigaction = on_signal,
						    .sa_flags = SA_SIGINFO | SA_NODEFER};
		if (number == MASKED) {
			action = (struct sigaction){.sa_sigaction = on_signal,
						    .sa_flags = SA_SIGINFO | SA_ONSTACK};
			sigaddset(&action.sa_mask, SIGRTMIN + 12);
			sigaddset(&action.sa_mask, SIGUSR2);
		}
		if (number == SHARED || number == PRIVATE || number == MAIN_PRIVATE ||
		    number == SIGUSR1)
			action = (struct sigaction){.sa_sigaction = on_signal,
						    .sa_flags = SA_SIGINFO};
		MUST(sigaction(number, &action, NULL) == 0);
	}
}

static void send_shared(void)
{
	for (int i = 1; i <= 3; i++)
		MUST(sigqueue(getpid(), SHARED, (union sigval){.sival_int = 1000 + i}) == 0);
	MUST(kill(getpid(), SIGUSR1) == 0);
}

static void send_private(pthread_t to, int number, int count)
{
	for (int i = 1; i <= count; i++)
		MUST(pthread_sigqueue(
			     to, number,
			     (union sigval){.sival_ptr = (void *)(UINT64_C(0x123400000000) +
								  (uint64_t)i)}) == 0);
}

/* Takes one pending signal and compares; reason is filled in on false. */
static bool take(char *reason, size_t size, int number, int code, union sigval wanted)
{
	struct timespec none = {0};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	memset(&info, 0, sizeof(info));
	if (sigtimedwait(&set, &info, &none) != number)
		snprintf(reason, size, "signal %d is not pending (%s)", number, strerror(errno));
	else if (info.si_code != code || info.si_pid != getpid() || info.si_uid != getuid())
		snprintf(reason, size, "signal %d: code %d pid %d uid %u, not %d %d %u", number,
			 info.si_code, (int)info.si_pid, info.si_uid, code, (int)getpid(),
			 getuid());
	else if (code == SI_QUEUE && info.si_value.sival_ptr != wanted.sival_ptr)
		snprintf(reason, size, "signal %d: value %p, not %p", number,
			 info.si_value.sival_ptr, wanted.sival_ptr);
	else
		return true;
	return false;
}

static bool take_private(char *reason, size_t size, int number, int count)
{
	for (int i = 1; i <= count; i++)
		if (!take(reason, size, number, SI_QUEUE,
			  (union sigval){.sival_ptr =
						 (void *)(UINT64_C(0x123400000000) + (uint64_t)i)}))
			return false;
	return true;
}

static void other_round(struct state *s)
{
	char pending[64] = "", wanted[64];
	sigset_t mask;

	s->reason[0] = '\0';
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (memcmp(&mask, &s->other_mask, 8) != 0)
		snprintf(s->reason, sizeof(s->reason), "the other thread's mask differs");
	snprintf(wanted, sizeof(wanted), "%016llx", 1ULL << (PRIVATE - 1));
	victim_status_line("/proc/thread-self/status", "SigPnd", pending, sizeof(pending));
	if (strcmp(pending, wanted) != 0)
		snprintf(s->reason, sizeof(s->reason),
			 "the other thread's own pending signals are %s, not %s", pending, wanted);
	if (s->reason[0] == '\0')
		take_private(s->reason, sizeof(s->reason), PRIVATE, 2);
}

static void *other_run(void *context)
{
	struct state *s = context;

	pthread_sigmask(SIG_SETMASK, &s->other_mask, NULL);
	for (unsigned int round = 0;; round++) {
		send_private(pthread_self(), PRIVATE, 2);
		atomic_store(&s->answered, round);
		while (atomic_load(&s->asked) == round)
			victim_sleep_us(2000);
		other_round(s);
		atomic_store(&s->sent, false);
		atomic_store(&s->answered, ~round);
		while (!atomic_load(&s->sent))
			victim_sleep_us(1000);
	}
	return NULL;
}

static bool actions_check(struct victim *v, const struct state *s)
{
	struct kernel_action now;

	for (int number = 1; number <= SIGNALS; number++) {
		const struct kernel_action *was = &s->actions[number];

		CHECK(v, action_get(number, &now), "signal %d: %m", number);
		CHECK(v, now.handler == was->handler, "signal %d: handler %p, not %p", number,
		      (void *)now.handler, (void *)was->handler);
		CHECK(v, now.flags == was->flags, "signal %d: flags %lx, not %lx", number,
		      now.flags, was->flags);
		CHECK(v, now.mask == was->mask, "signal %d: mask %llx, not %llx", number,
		      (unsigned long long)now.mask, (unsigned long long)was->mask);
		CHECK(v, now.restorer == was->restorer, "signal %d: restorer differs", number);
	}
	return true;
}

static bool handlers_check(struct victim *v, struct state *s)
{
	struct kernel_action now;

	runs = 0;
	CHECK(v, sigqueue(getpid(), MASKED, (union sigval){.sival_int = 55}) == 0, "sigqueue: %m");
	CHECK(v, WAIT_FOR(runs == 1, 2000), "the handler of signal %d ran %d times", MASKED,
	      (int)runs);
	CHECK(v, value == 55, "the handler saw value %d", (int)value);
	CHECK(v,
	      sigismember(&mask_in_handler, SIGRTMIN + 12) == 1 &&
		      sigismember(&mask_in_handler, SIGUSR2) == 1 &&
		      sigismember(&mask_in_handler, MASKED) == 1,
	      "sa_mask has no effect");
	runs = 0;
	CHECK(v, raise(NODEFER) == 0 && WAIT_FOR(runs == 1, 2000),
	      "the handler of signal %d did not run", NODEFER);
	CHECK(v, sigismember(&mask_in_handler, NODEFER) == 0, "SA_NODEFER has no effect");
	runs = 0;
	CHECK(v, raise(ONCE) == 0 && WAIT_FOR(runs == 1, 2000),
	      "the handler of signal %d did not run", ONCE);
	CHECK(v, action_get(ONCE, &now) && now.handler == SIG_DFL, "SA_RESETHAND has no effect");
	CHECK(v, syscall(SYS_rt_sigaction, ONCE, &s->actions[ONCE], NULL, 8) == 0,
	      "rt_sigaction: %m");
	return true;
}

static bool pending_check(struct victim *v, struct state *s)
{
	char text[64] = "", wanted[64];
	char *reason = v->reason;

	victim_status_line("/proc/self/status", "ShdPnd", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "%016llx", 1ULL << (SHARED - 1) | 1ULL << (SIGUSR1 - 1));
	CHECK(v, strcmp(text, wanted) == 0, "shared pending signals are %s, not %s", text, wanted);
	victim_status_line("/proc/self/status", "SigPnd", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "%016llx", 1ULL << (MAIN_PRIVATE - 1));
	CHECK(v, strcmp(text, wanted) == 0, "the main thread's own pending signals are %s, not %s",
	      text, wanted);
	for (int i = 1; i <= 3; i++)
		if (!take(reason, sizeof(v->reason), SHARED, SI_QUEUE,
			  (union sigval){.sival_int = 1000 + i}))
			return false;
	if (!take(reason, sizeof(v->reason), SIGUSR1, SI_USER, (union sigval){0}) ||
	    !take_private(reason, sizeof(v->reason), MAIN_PRIVATE, 1))
		return false;
	send_shared();
	send_private(pthread_self(), MAIN_PRIVATE, 1);
	(void)s;
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned int round = atomic_load(&s->asked);
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	CHECK(v, memcmp(&mask, &s->main_mask, 8) == 0, "the main thread's mask differs");
	if (!actions_check(v, s) || !handlers_check(v, s) || !pending_check(v, s))
		return false;
	atomic_store(&s->asked, round + 1);
	CHECK(v, WAIT_FOR(atomic_load(&s->answered) == ~round, 5000),
	      "the other thread does not answer");
	CHECK(v, s->reason[0] == '\0', "%s", s->reason);
	atomic_store(&s->sent, true);
	CHECK(v, WAIT_FOR(atomic_load(&s->answered) == round + 1, 5000),
	      "the other thread does not go on");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	actions_setup();
	sigemptyset(&s.main_mask);
	sigaddset(&s.main_mask, SHARED);
	sigaddset(&s.main_mask, PRIVATE);
	sigaddset(&s.main_mask, MAIN_PRIVATE);
	sigaddset(&s.main_mask, SIGUSR1);
	s.other_mask = s.main_mask;
	sigaddset(&s.main_mask, SIGWINCH);
	/* Everything that handlers_check() sends is for the main thread. */
	sigaddset(&s.other_mask, MASKED);
	sigaddset(&s.other_mask, NODEFER);
	sigaddset(&s.other_mask, SIGURG);
	MUST(pthread_sigmask(SIG_SETMASK, &s.main_mask, NULL) == 0);
	send_shared();
	send_private(pthread_self(), MAIN_PRIVATE, 1);
	atomic_store(&s.answered, ~0u);
	MUST(pthread_create(&s.other, NULL, other_run, &s) == 0);
	MUST(WAIT_FOR(atomic_load(&s.answered) == 0, 5000));
	/* Only now: libc sets one of its own when the first thread is made. */
	for (int number = 1; number <= SIGNALS; number++)
		MUST(action_get(number, &s.actions[number]));
	victim_run(&v, verify, &s);
}
