/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timer descriptors: intervals on three clocks, one of them read at each check and so full of
 * expirations, a one-shot far ahead in relative and in absolute time, one that has fired and not
 * been read, one disarmed, one close by.
 *
 * A pause may or may not count as time for a relative timer: up to PAUSE_S are allowed for it.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/timerfd.h>

#define PAUSE_S 10
#define S_NS INT64_C(1000000000)
#define FAR_S 5000

enum { FAST, SLOW, BOOT, FAR, FAR_ABSOLUTE, FIRED, DISARMED, NEAR, TIMERS };

struct state {
	int fds[TIMERS];
	int64_t fast_since; /* CLOCK_MONOTONIC, when FAST was last read */
	int64_t far_end;    /* CLOCK_MONOTONIC, when FAR should fire */
	int64_t absolute;   /* CLOCK_REALTIME, when FAR_ABSOLUTE should */
};

static const struct {
	int clock;
	int64_t interval; /* ns */
	const char *name;
} kinds[TIMERS] = {
	[FAST] = {CLOCK_MONOTONIC, 10000000, "fast"},
	[SLOW] = {CLOCK_REALTIME, 3600 * S_NS, "slow"},
	[BOOT] = {CLOCK_BOOTTIME, 20000000, "boot time"},
	[FAR] = {CLOCK_MONOTONIC, 0, "far"},
	[FAR_ABSOLUTE] = {CLOCK_REALTIME, 0, "far absolute"},
	[FIRED] = {CLOCK_MONOTONIC, 0, "fired"},
	[DISARMED] = {CLOCK_MONOTONIC, 0, "disarmed"},
	[NEAR] = {CLOCK_MONOTONIC, 0, "near"},
};

static void arm(int fd, int flags, int64_t value, int64_t interval)
{
	struct itimerspec spec = {.it_value = {value / S_NS, value % S_NS},
				  .it_interval = {interval / S_NS, interval % S_NS}};

	MUST(timerfd_settime(fd, flags, &spec, NULL) == 0);
}

static bool look(struct victim *v, struct state *s, int i, int64_t *ret_left)
{
	struct itimerspec spec;
	int64_t interval;

	CHECK(v, timerfd_gettime(s->fds[i], &spec) == 0, "%s: %m", kinds[i].name);
	interval = spec.it_interval.tv_sec * S_NS + spec.it_interval.tv_nsec;
	CHECK(v, interval == kinds[i].interval, "%s: interval %lld ns", kinds[i].name,
	      (long long)interval);
	*ret_left = spec.it_value.tv_sec * S_NS + spec.it_value.tv_nsec;
	return true;
}

static void fire(struct state *s)
{
	struct pollfd pfd = {.fd = s->fds[FIRED], .events = POLLIN};

	arm(s->fds[FIRED], 0, 1000000, 0);
	MUST(poll(&pfd, 1, 2000) == 1);
}

static void setup(struct state *s)
{
	int64_t second = S_NS;

	for (int i = 0; i < TIMERS; i++) {
		s->fds[i] = timerfd_create(kinds[i].clock,
					   i % 2 ? TFD_CLOEXEC | TFD_NONBLOCK : TFD_NONBLOCK);
		MUST(s->fds[i] >= 0);
	}
	arm(s->fds[FAST], 0, kinds[FAST].interval, kinds[FAST].interval);
	s->fast_since = victim_now_ns(CLOCK_MONOTONIC);
	arm(s->fds[SLOW], 0, 3000 * second, kinds[SLOW].interval);
	arm(s->fds[BOOT], 0, kinds[BOOT].interval, kinds[BOOT].interval);
	arm(s->fds[FAR], 0, FAR_S * second, 0);
	s->far_end = victim_now_ns(CLOCK_MONOTONIC) + FAR_S * second;
	s->absolute = victim_now_ns(CLOCK_REALTIME) + FAR_S * second;
	arm(s->fds[FAR_ABSOLUTE], TFD_TIMER_ABSTIME, s->absolute, 0);
	fire(s);
}

static bool expirations(struct victim *v, struct state *s, int i, uint64_t *ret_count)
{
	CHECK(v, WAIT_FOR(read(s->fds[i], ret_count, 8) == 8, 2000), "%s does not fire",
	      kinds[i].name);
	return true;
}

static bool far_check(struct victim *v, struct state *s)
{
	int64_t left, due;

	if (!look(v, s, FAR, &left))
		return false;
	due = s->far_end - victim_now_ns(CLOCK_MONOTONIC);
	CHECK(v, left >= due - S_NS && left < due + PAUSE_S * S_NS, "far: %lld ms left, not %lld",
	      (long long)left / 1000000, (long long)due / 1000000);
	s->far_end += left - due;
	if (!look(v, s, FAR_ABSOLUTE, &left))
		return false;
	due = s->absolute - victim_now_ns(CLOCK_REALTIME);
	CHECK(v, llabs(left - due) < S_NS, "far absolute: %lld ms left, not %lld",
	      (long long)left / 1000000, (long long)due / 1000000);
	if (!look(v, s, SLOW, &left))
		return false;
	CHECK(v, left > 0 && left <= 3000 * S_NS, "slow: %lld ms left", (long long)left / 1000000);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct pollfd pfd = {.fd = s->fds[NEAR], .events = POLLIN};
	int64_t left, now;
	uint64_t count = 0, due;

	if (!far_check(v, s) || !expirations(v, s, FAST, &count))
		return false;
	now = victim_now_ns(CLOCK_MONOTONIC);
	due = (uint64_t)(now - s->fast_since) / (uint64_t)kinds[FAST].interval;
	CHECK(v, count <= due + 2 && count + PAUSE_S * 100 + 2 >= due,
	      "fast: %llu expirations where %llu are due", (unsigned long long)count,
	      (unsigned long long)due);
	s->fast_since = now;
	if (!expirations(v, s, FIRED, &count))
		return false;
	CHECK(v, count == 1, "fired: %llu times", (unsigned long long)count);
	if (!look(v, s, FIRED, &left) || !expirations(v, s, BOOT, &count))
		return false;
	CHECK(v, left == 0, "fired: armed again");
	if (!expirations(v, s, BOOT, &count) || !look(v, s, DISARMED, &left))
		return false;
	CHECK(v, left == 0 && read(s->fds[DISARMED], &count, 8) < 0 && errno == EAGAIN,
	      "disarmed: it is not");
	arm(s->fds[NEAR], 0, 5000000, 0);
	CHECK(v, poll(&pfd, 1, 2000) == 1 && expirations(v, s, NEAR, &count),
	      "near: a new time has no effect");
	for (int i = 0; i < TIMERS; i++)
		CHECK(v,
		      fcntl(s->fds[i], F_GETFL) & O_NONBLOCK &&
			      fcntl(s->fds[i], F_GETFD) == (i % 2 ? FD_CLOEXEC : 0),
		      "%s: flags differ", kinds[i].name);
	fire(s);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
