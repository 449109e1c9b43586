/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timers: the three interval timers; POSIX timers with gaps in their kernel IDs, on four clocks,
 * that tell by signal, by signal to one thread, or not at all. A check wants each to go on with its
 * ID, interval and rate, the far one-shots to have no more time left than before, and a timer whose
 * signal is blocked to count overruns.
 *
 * What a pause takes away from a timer is not judged; that it fires at its rate afterwards is.
 */
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define INTERVAL_MS 20
#define WINDOW_MS 300
#define FAR_S 5000

enum { PLAIN, TO_THREAD, SILENT, BLOCKED, FAR, FAR_REALTIME, CPU, TIMERS };

struct state {
	int ids[TIMERS];     /* as the kernel numbers them */
	pthread_t thread;    /* gets the signals of TO_THREAD */
	pid_t tid;	     /* the same */
	int64_t far_left[2]; /* ns, of FAR and FAR_REALTIME at the last check */
};

#define SIGNAL_PLAIN (SIGRTMIN + 1)
#define SIGNAL_THREAD (SIGRTMIN + 2)
#define SIGNAL_BLOCKED (SIGRTMIN + 3)
#define SIGNAL_FAR (SIGRTMIN + 4)
#define SIGNAL_CPU (SIGRTMIN + 5)

/* Filled in by handlers. */
static atomic_uint counts[65];	 /* per signal */
static atomic_uint wrong_values; /* sigval other than the timer's */
static atomic_uint wrong_thread; /* SIGNAL_THREAD taken by another thread */
static pid_t expected_tid;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)context;
	atomic_fetch_add(&counts[number], 1);
	if (number >= SIGRTMIN &&
	    (info->si_code != SI_TIMER || info->si_value.sival_int != number * 100))
		atomic_fetch_add(&wrong_values, 1);
	if (number == SIGNAL_THREAD && syscall(SYS_gettid) != expected_tid)
		atomic_fetch_add(&wrong_thread, 1);
}

static int timer_make(int clock, int notify, int number, pid_t tid)
{
	struct sigevent event = {.sigev_notify = notify,
				 .sigev_signo = number,
				 .sigev_value.sival_int = number * 100};
	int id = -1;

	event._sigev_un._tid = tid;
	MUST(syscall(SYS_timer_create, clock, &event, &id) == 0);
	return id;
}

static void timer_arm(int id, int64_t first_ns, int64_t interval_ns)
{
	struct itimerspec spec = {
		.it_value = {.tv_sec = first_ns / 1000000000, .tv_nsec = first_ns % 1000000000},
		.it_interval = {.tv_sec = interval_ns / 1000000000,
				.tv_nsec = interval_ns % 1000000000},
	};

	MUST(syscall(SYS_timer_settime, id, 0, &spec, NULL) == 0);
}

static bool timer_look(struct victim *v, int id, const char *name, int64_t interval_ns,
		       int64_t *ret_left)
{
	struct itimerspec spec;

	CHECK(v, syscall(SYS_timer_gettime, id, &spec) == 0, "timer %d (%s): %m", id, name);
	CHECK(v,
	      (int64_t)spec.it_interval.tv_sec * 1000000000 + spec.it_interval.tv_nsec ==
		      interval_ns,
	      "timer %d (%s): interval %ld.%09ld", id, name, (long)spec.it_interval.tv_sec,
	      spec.it_interval.tv_nsec);
	*ret_left = (int64_t)spec.it_value.tv_sec * 1000000000 + spec.it_value.tv_nsec;
	CHECK(v, *ret_left > 0, "timer %d (%s) is not armed", id, name);
	return true;
}

static void *thread_run(void *context)
{
	sigset_t set;

	(void)context;
	sigfillset(&set);
	sigdelset(&set, SIGNAL_THREAD);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	*(pid_t *)context = (pid_t)syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

static void signals_setup(void)
{
	static const int numbers[] = {SIGALRM, SIGVTALRM, SIGPROF};
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigset_t set;

	for (int i = 0; i < 3; i++)
		MUST(sigaction(numbers[i], &action, NULL) == 0);
	for (int number = SIGNAL_PLAIN; number <= SIGNAL_CPU; number++)
		MUST(sigaction(number, &action, NULL) == 0);
	sigemptyset(&set);
	sigaddset(&set, SIGNAL_BLOCKED);
	MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static void timers_setup(struct state *s)
{
	struct itimerval interval = {.it_interval.tv_usec = INTERVAL_MS * 1000,
				     .it_value.tv_usec = INTERVAL_MS * 1000};
	int64_t step = INTERVAL_MS * INT64_C(1000000);
	int spare[3];

	spare[0] = timer_make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
	s->ids[PLAIN] = timer_make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGNAL_PLAIN, 0);
	spare[1] = timer_make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
	s->ids[TO_THREAD] = timer_make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGNAL_THREAD, s->tid);
	s->ids[SILENT] = timer_make(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0);
	spare[2] = timer_make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
	s->ids[BLOCKED] = timer_make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGNAL_BLOCKED, 0);
	s->ids[FAR] = timer_make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGNAL_FAR, 0);
	s->ids[FAR_REALTIME] = timer_make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGNAL_FAR, 0);
	s->ids[CPU] = timer_make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGNAL_CPU, 0);
	for (int i = 0; i < 3; i++)
		MUST(syscall(SYS_timer_delete, spare[i]) == 0);
	timer_arm(s->ids[PLAIN], step, step);
	timer_arm(s->ids[TO_THREAD], step, step);
	timer_arm(s->ids[SILENT], step, step);
	timer_arm(s->ids[BLOCKED], 1000000, 1000000);
	timer_arm(s->ids[FAR], FAR_S * INT64_C(1000000000), 0);
	timer_arm(s->ids[FAR_REALTIME], FAR_S * INT64_C(1000000000), 0);
	timer_arm(s->ids[CPU], step, step);
	s->far_left[0] = s->far_left[1] = FAR_S * INT64_C(1000000000);
	MUST(setitimer(ITIMER_REAL, &interval, NULL) == 0 &&
	     setitimer(ITIMER_VIRTUAL, &interval, NULL) == 0 &&
	     setitimer(ITIMER_PROF, &interval, NULL) == 0);
}

/* Uses the CPU for so long by its own clock. */
static void burn(int64_t ms)
{
	int64_t end = victim_now_ns(CLOCK_PROCESS_CPUTIME_ID) + ms * 1000000;

	while (victim_now_ns(CLOCK_PROCESS_CPUTIME_ID) < end)
		for (volatile int i = 0; i < 10000; i++)
			;
}

static bool intervals_check(struct victim *v)
{
	static const int which[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
	struct itimerval now;

	for (int i = 0; i < 3; i++) {
		CHECK(v, getitimer(which[i], &now) == 0, "getitimer: %m");
		CHECK(v,
		      now.it_interval.tv_sec == 0 && now.it_interval.tv_usec / 1000 == INTERVAL_MS,
		      "interval timer %d: interval %ld.%06ld", i, (long)now.it_interval.tv_sec,
		      (long)now.it_interval.tv_usec);
	}
	return true;
}

static bool rate_check(struct victim *v, int number, const char *name, int64_t window_ns,
		       bool cpu_time)
{
	unsigned int count = atomic_load(&counts[number]);
	unsigned int due = (unsigned int)(window_ns / (INTERVAL_MS * 1000000));

	/*
	 * The kernel counts CPU time in its own steps, up to a whole tick for a part of one, and a busy
	 * machine delays signals so that they merge.
	 */
	CHECK(v, count >= due / (cpu_time ? 4 : 2), "%s fired %u times where %u are due", name,
	      count, due);
	CHECK(v, count <= due * (cpu_time ? 2 : 1) + 3, "%s fired %u times where %u are due", name, count, due);
	return true;
}

static bool rates_check(struct victim *v)
{
	int64_t start, wall, cpu = victim_now_ns(CLOCK_PROCESS_CPUTIME_ID);

	for (int number = 0; number <= 64; number++)
		atomic_store(&counts[number], 0);
	start = victim_now_ns(CLOCK_MONOTONIC);
	burn(WINDOW_MS);
	wall = victim_now_ns(CLOCK_MONOTONIC) - start;
	cpu = victim_now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	return rate_check(v, SIGALRM, "ITIMER_REAL", wall, false) &&
	       rate_check(v, SIGVTALRM, "ITIMER_VIRTUAL", cpu, true) &&
	       rate_check(v, SIGPROF, "ITIMER_PROF", cpu, true) &&
	       rate_check(v, SIGNAL_PLAIN, "the plain timer", wall, false) &&
	       rate_check(v, SIGNAL_THREAD, "the thread's timer", wall, false) &&
	       rate_check(v, SIGNAL_CPU, "the CPU time timer", cpu, true);
}

static bool overrun_check(struct victim *v)
{
	struct timespec limit = {.tv_sec = 2}, none = {0};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGNAL_BLOCKED);
	/* What may have been queued at any time, also before a move, comes first; the last one counts what happens now. */
	for (int i = 0; i < 4; i++)
		sigtimedwait(&set, &info, &none);
	WAIT_FOR(false, 50); /* one long sleep would be cut short by the other timers */
	CHECK(v, sigtimedwait(&set, &info, &limit) == SIGNAL_BLOCKED, "the blocked timer's signal does not come: %m");
	CHECK(v, info.si_code == SI_TIMER && info.si_value.sival_int == SIGNAL_BLOCKED * 100,
	      "the blocked timer's signal: code %d value %d", info.si_code, info.si_value.sival_int);
	CHECK(v, info.si_overrun >= 20, "%d overruns after 50 ms at an interval of 1 ms",
	      info.si_overrun);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	int64_t step = INTERVAL_MS * INT64_C(1000000), left;

	if (!intervals_check(v) || !timer_look(v, s->ids[PLAIN], "plain", step, &left) ||
	    !timer_look(v, s->ids[TO_THREAD], "thread", step, &left) ||
	    !timer_look(v, s->ids[SILENT], "silent", step, &left) ||
	    !timer_look(v, s->ids[BLOCKED], "blocked", 1000000, &left) ||
	    !timer_look(v, s->ids[CPU], "CPU", step, &left))
		return false;
	for (int i = 0; i < 2; i++) {
		if (!timer_look(v, s->ids[FAR + i], "far", 0, &left))
			return false;
		CHECK(v, left <= s->far_left[i] && left > s->far_left[i] - INT64_C(600000000000),
		      "far timer %d: %lld ms left, before %lld", i, (long long)left / 1000000,
		      (long long)s->far_left[i] / 1000000);
		s->far_left[i] = left;
	}
	if (!rates_check(v) || !overrun_check(v))
		return false;
	CHECK(v, atomic_load(&wrong_values) == 0, "%u timer signals with a wrong code or value",
	      atomic_load(&wrong_values));
	CHECK(v, atomic_load(&wrong_thread) == 0, "%u signals were taken by the wrong thread",
	      atomic_load(&wrong_thread));
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	signals_setup();
	MUST(pthread_create(&s.thread, NULL, thread_run, &s.tid) == 0);
	MUST(WAIT_FOR(*(volatile pid_t *)&s.tid != 0, 5000));
	expected_tid = s.tid;
	timers_setup(&s);
	victim_run(&v, verify, &s);
}
