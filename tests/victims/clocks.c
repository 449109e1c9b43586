/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * clocks DIR [MS]: CLOCK_MONOTONIC and CLOCK_BOOTTIME, read all the time through the vDSO, never run backwards and make no
 * jumps (the longest one is noted as jump_ms). Points in time that are noted in memory, or held by the kernel, stay right: one
 * thread sleeps with clock_nanosleep(TIMER_ABSTIME), one waits with pthread_cond_timedwait(), both from point to point 50 ms
 * apart; between checks, MS after one (400), a timerfd and a POSIX timer on each of the two clocks run out, at points set with
 * TFD_TIMER_ABSTIME and TIMER_ABSTIME; so does ITIMER_REAL. Each does that once. late_ms says how long after its time, and
 * after a move, a POSIX timer did so at most. Two more timers, one of them periodic, have run out before, and their blocked
 * signals wait: there is one of each.
 *
 * A busy machine wakes threads late; what is judged is that nobody wakes early, or later than any pause of a move.
 */
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#define STEP_NS INT64_C(50000000)
#define FAR_MS 400
#define LATE_MAX_NS INT64_C(10000000000)
#define CLOCKS 2
#define WAITING 2 /* timers whose signal waits: of one shot, periodic */
#define PERIOD_MS 300
#define MOVE_NS INT64_C(250000000) /* a step of the clock that is taken for a pause */
#define SIGNAL_WAITING (SIGRTMIN + 1)

static const clockid_t clocks[CLOCKS] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};

struct sleeper {
	int64_t next;          /* where it sleeps to */
	atomic_long rounds;    /* points reached */
	atomic_long early_ns;  /* how much too early it woke, at most */
	atomic_long late_ns;   /* how much too late */
};

struct state {
	atomic_long back_ns[CLOCKS]; /* how far a clock has gone back, at most */
	atomic_long jump_ns;         /* the longest step ahead */
	atomic_long resumed;         /* CLOCK_MONOTONIC after the last pause */
	int64_t far_ns;
	struct sleeper nanosleep, condition;
	int fds[CLOCKS];
	timer_t timers[CLOCKS];
	int64_t due[CLOCKS]; /* when all four run out */
	timer_t waiting[WAITING];
};

static atomic_int fired[CLOCKS], alarms;
static atomic_long fired_at; /* CLOCK_MONOTONIC, of the first timer */

static void on_timer(int number, siginfo_t *info, void *context)
{
	if (number != SIGALRM && info->si_value.sival_int == 0)
		atomic_store(&fired_at, victim_now_ns(CLOCK_MONOTONIC));
	atomic_fetch_add(number == SIGALRM ? &alarms : &fired[info->si_value.sival_int & 1], 1);
}

static void keep_largest(atomic_long *place, int64_t value)
{
	if (value > atomic_load(place))
		atomic_store(place, value);
}

static void *watch_run(void *context)
{
	struct state *s = context;
	int64_t last[CLOCKS] = {victim_now_ns(clocks[0]), victim_now_ns(clocks[1])};

	for (;;) {
		for (int i = 0; i < CLOCKS; i++) {
			int64_t now = victim_now_ns(clocks[i]);

			keep_largest(&s->back_ns[i], last[i] - now);
			keep_largest(&s->jump_ns, now - last[i]);
			if (i == 0 && now - last[i] > MOVE_NS)
				atomic_store(&s->resumed, now);
			last[i] = now;
		}
		victim_sleep_us(100);
	}
	return NULL;
}

static struct timespec to_timespec(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static void woken(struct sleeper *sleeper)
{
	int64_t late = victim_now_ns(CLOCK_MONOTONIC) - sleeper->next;

	keep_largest(&sleeper->early_ns, -late);
	keep_largest(&sleeper->late_ns, late);
	atomic_fetch_add(&sleeper->rounds, 1);
	sleeper->next += STEP_NS * (late > 0 ? 1 + late / STEP_NS : 1);
}

static void *nanosleep_run(void *context)
{
	struct sleeper *sleeper = context;

	sleeper->next = victim_now_ns(CLOCK_MONOTONIC);
	for (;;) {
		struct timespec point = to_timespec(sleeper->next);

		if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &point, NULL) == 0)
			woken(sleeper);
	}
	return NULL;
}

static void *condition_run(void *context)
{
	struct sleeper *sleeper = context;
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_condattr_t attributes;
	pthread_cond_t condition;

	MUST(pthread_condattr_init(&attributes) == 0 && pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
	MUST(pthread_cond_init(&condition, &attributes) == 0 && pthread_mutex_lock(&mutex) == 0);
	sleeper->next = victim_now_ns(CLOCK_MONOTONIC);
	for (;;) {
		struct timespec point = to_timespec(sleeper->next);

		if (pthread_cond_timedwait(&condition, &mutex, &point) == ETIMEDOUT)
			woken(sleeper);
	}
	return NULL;
}

static bool sleeper_check(struct victim *v, struct sleeper *sleeper, const char *name)
{
	long rounds = atomic_load(&sleeper->rounds);

	CHECK(v, WAIT_FOR(atomic_load(&sleeper->rounds) > rounds + 2, 5000), "%s does not wake any more", name);
	CHECK(v, atomic_load(&sleeper->early_ns) <= 0, "%s woke %ld ns early", name, atomic_load(&sleeper->early_ns));
	CHECK(v, atomic_load(&sleeper->late_ns) < LATE_MAX_NS, "%s woke %ld ns late", name, atomic_load(&sleeper->late_ns));
	return true;
}

/* Sets all four to a point that comes after this check, and after the next freeze if that is soon. */
static bool timers_set(struct victim *v, struct state *s)
{
	struct itimerval real = {.it_value = {.tv_sec = s->far_ns / 1000000000, .tv_usec = s->far_ns / 1000 % 1000000}};

	atomic_store(&alarms, 0);
	CHECK(v, setitimer(ITIMER_REAL, &real, NULL) == 0, "setitimer: %m");
	for (int i = 0; i < CLOCKS; i++) {
		struct itimerspec setting = {0};

		s->due[i] = victim_now_ns(clocks[i]) + s->far_ns;
		setting.it_value = to_timespec(s->due[i]);
		atomic_store(&fired[i], 0);
		CHECK(v, timerfd_settime(s->fds[i], TFD_TIMER_ABSTIME, &setting, NULL) == 0, "timerfd_settime: %m");
		CHECK(v, timer_settime(s->timers[i], TIMER_ABSTIME, &setting, NULL) == 0, "timer_settime: %m");
	}
	return true;
}

static bool timers_check(struct victim *v, struct state *s)
{
	int64_t since;

	for (int i = 0; i < CLOCKS; i++) {
		uint64_t ticks = 0;
		int64_t late;

		CHECK(v, read(s->fds[i], &ticks, sizeof(ticks)) == sizeof(ticks) && ticks == 1, "timerfd %d: %m", i);
		late = victim_now_ns(clocks[i]) - s->due[i];
		CHECK(v, late >= 0, "the timerfd of clock %d has run out %lld ns early", i, (long long)-late);
		CHECK(v, WAIT_FOR(atomic_load(&fired[i]) > 0, 5000), "the timer of clock %d does not run out", i);
		CHECK(v, atomic_load(&fired[i]) == 1, "the timer of clock %d has run out %d times", i, atomic_load(&fired[i]));
		CHECK(v, late < 3 * LATE_MAX_NS, "the timerfd of clock %d has run out %lld ns late", i, (long long)late);
	}
	since = atomic_load(&s->resumed) > s->due[0] ? atomic_load(&s->resumed) : s->due[0];
	victim_note(v, "late_ms=%lld", (long long)(atomic_load(&fired_at) - since) / 1000000);
	CHECK(v, WAIT_FOR(atomic_load(&alarms) > 0, 5000), "ITIMER_REAL does not run out");
	CHECK(v, atomic_load(&alarms) == 1, "ITIMER_REAL has run out %d times", atomic_load(&alarms));
	return true;
}

/* Lets both run out; their signals wait until the next check. */
static bool waiting_set(struct victim *v, struct state *s)
{
	for (int i = 0; i < WAITING; i++) {
		struct itimerspec setting = {.it_value.tv_nsec = 1, .it_interval.tv_nsec = i * PERIOD_MS * 1000000L};

		CHECK(v, timer_settime(s->waiting[i], 0, &setting, NULL) == 0, "timer_settime: %m");
	}
	return true;
}

static bool waiting_check(struct victim *v, struct state *s)
{
	struct timespec limit = {.tv_sec = 5}, none = {0};
	struct itimerspec setting;
	siginfo_t info;
	sigset_t set;

	/* The periodic one would have run out again by then, and not be about to. */
	WAIT_FOR(false, PERIOD_MS + PERIOD_MS / 6);
	CHECK(v, WAIT_FOR(timer_gettime(s->waiting[1], &setting) == 0 && setting.it_value.tv_nsec > PERIOD_MS * 500000L, 5000),
	      "the periodic timer has %ld ns left", setting.it_value.tv_nsec);
	for (int i = 0; i < WAITING; i++) {
		sigemptyset(&set);
		sigaddset(&set, SIGNAL_WAITING + i);
		CHECK(v, sigtimedwait(&set, &info, &limit) == SIGNAL_WAITING + i, "no signal of timer %d waits: %m", i);
		CHECK(v, info.si_code == SI_TIMER && info.si_value.sival_int == 77 + i && (i == 0) == (info.si_overrun == 0),
		      "the signal of timer %d: code %d, value %d, overruns %d", i, info.si_code, info.si_value.sival_int,
		      info.si_overrun);
		CHECK(v, sigtimedwait(&set, &info, &none) < 0, "timer %d has a second signal", i);
	}
	CHECK(v, timer_gettime(s->waiting[0], &setting) == 0 && setting.it_value.tv_sec == 0 && setting.it_value.tv_nsec == 0,
	      "the timer of one shot is armed");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	for (int i = 0; i < CLOCKS; i++)
		CHECK(v, atomic_load(&s->back_ns[i]) <= 0, "clock %d went back by %ld ns", i, atomic_load(&s->back_ns[i]));
	victim_note(v, "jump_ms=%ld monotonic=%lld", atomic_exchange(&s->jump_ns, 0) / 1000000,
		    (long long)victim_now_ns(CLOCK_MONOTONIC) / 1000000000);
	return sleeper_check(v, &s->nanosleep, "clock_nanosleep") &&
	       sleeper_check(v, &s->condition, "pthread_cond_timedwait") && timers_check(v, s) && waiting_check(v, s) &&
	       timers_set(v, s) && waiting_set(v, s);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
	static struct state s;
	pthread_t thread;
	sigset_t blocked;
	struct victim v;

	victim_start(&v, argc, argv);
	s.far_ns = victim_arg(&v, 0, FAR_MS) * 1000000;
	MUST(sigaction(SIGRTMIN, &action, NULL) == 0 && sigaction(SIGALRM, &action, NULL) == 0);
	sigemptyset(&blocked);
	for (int i = 0; i < WAITING; i++) {
		struct sigevent event = {
			.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGNAL_WAITING + i, .sigev_value.sival_int = 77 + i};

		sigaddset(&blocked, SIGNAL_WAITING + i);
		MUST(timer_create(CLOCK_MONOTONIC, &event, &s.waiting[i]) == 0);
	}
	MUST(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
	for (int i = 0; i < CLOCKS; i++) {
		struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = i};

		s.fds[i] = timerfd_create(clocks[i], TFD_CLOEXEC);
		MUST(s.fds[i] >= 0 && timer_create(clocks[i], &event, &s.timers[i]) == 0);
	}
	MUST(timers_set(&v, &s) && waiting_set(&v, &s));
	MUST(pthread_create(&thread, NULL, watch_run, &s) == 0);
	MUST(pthread_create(&thread, NULL, nanosleep_run, &s.nanosleep) == 0);
	MUST(pthread_create(&thread, NULL, condition_run, &s.condition) == 0);
	victim_run(&v, verify, &s);
}
