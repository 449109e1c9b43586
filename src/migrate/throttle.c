/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thread with two states: the tree stands still for `percent` of a slice, then it runs for the rest. Both waits are
 * timed waits on a condition, so that an order (hold, stop) ends them at once. Slices are short: what a user of the
 * process would see as a stall is the standing part of one.
 *
 * The running part is counted from the moment at which the thaw is done: however long the kernel takes to freeze a
 * large tree, it always gets its share to run.
 *
 * When freezing or thawing fails (the cgroup is gone: somebody removed it), the thread thaws and ends.
 */
#include "throttle.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "util/clock.h"

#define SLICE_NS (10 * CLOCK_MS)

struct throttle {
	struct freezer *freezer; /* borrowed */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* an order was given, or `frozen` has changed */
	unsigned percent;
	bool frozen; /* the tree stands still */
	bool hold;   /* order: let it run */
	bool stop;   /* order: let it run, and end */
	int result;  /* first failure, and */
	struct error error;
};

/* Waits for an order, at most until `end`; true if there is one. */
static bool wait_order(struct throttle *throttle, int64_t end)
{
	const struct timespec until = { .tv_sec = end / CLOCK_S, .tv_nsec = end % CLOCK_S };
	int r = 0;

	while (!throttle->hold && !throttle->stop && r == 0)
		r = pthread_cond_timedwait(&throttle->changed, &throttle->lock, &until);
	return throttle->hold || throttle->stop;
}

static void set_frozen(struct throttle *throttle, bool frozen)
{
	int r;

	r = frozen ? freezer_freeze(throttle->freezer, false, 0, &throttle->error) :
		     freezer_thaw_nowait(throttle->freezer, &throttle->error);
	if (r < 0 && throttle->result == 0)
		throttle->result = r;
	throttle->frozen = frozen;
	pthread_cond_broadcast(&throttle->changed);
}

static void *run(void *data)
{
	struct throttle *throttle = data;

	pthread_mutex_lock(&throttle->lock);
	while (!throttle->stop && throttle->result == 0) {
		int64_t still;

		if (throttle->hold) {
			pthread_cond_wait(&throttle->changed, &throttle->lock);
			continue;
		}
		still = SLICE_NS * throttle->percent / 100;
		set_frozen(throttle, true);
		wait_order(throttle, clock_deadline(still));
		set_frozen(throttle, false);
		wait_order(throttle, clock_deadline(SLICE_NS - still));
	}
	pthread_mutex_unlock(&throttle->lock);
	return NULL;
}

int throttle_start(struct freezer *freezer, unsigned percent, struct throttle **ret, struct error *error)
{
	struct throttle *throttle = calloc(1, sizeof(*throttle));
	pthread_condattr_t attributes;
	int r;

	if (!throttle)
		return error_set(error, -ENOMEM, "out of memory");
	throttle->freezer = freezer;
	throttle->percent = percent < THROTTLE_MAX ? percent : THROTTLE_MAX;
	pthread_mutex_init(&throttle->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&throttle->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	r = -pthread_create(&throttle->thread, NULL, run, throttle);
	if (r < 0) {
		pthread_cond_destroy(&throttle->changed);
		pthread_mutex_destroy(&throttle->lock);
		free(throttle);
		return error_set_errno(error, r, "cannot start a thread");
	}
	*ret = throttle;
	return 0;
}

void throttle_set(struct throttle *throttle, unsigned percent)
{
	pthread_mutex_lock(&throttle->lock);
	throttle->percent = percent < THROTTLE_MAX ? percent : THROTTLE_MAX;
	pthread_mutex_unlock(&throttle->lock);
}

void throttle_hold(struct throttle *throttle)
{
	if (!throttle)
		return;
	pthread_mutex_lock(&throttle->lock);
	throttle->hold = true;
	pthread_cond_broadcast(&throttle->changed);
	while (throttle->frozen)
		pthread_cond_wait(&throttle->changed, &throttle->lock);
	pthread_mutex_unlock(&throttle->lock);
}

void throttle_release(struct throttle *throttle)
{
	if (!throttle)
		return;
	pthread_mutex_lock(&throttle->lock);
	throttle->hold = false;
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
}

int throttle_stop(struct throttle *throttle, struct error *error)
{
	int r;

	if (!throttle)
		return 0;
	pthread_mutex_lock(&throttle->lock);
	throttle->stop = true;
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
	pthread_join(throttle->thread, NULL);
	r = throttle->result;
	if (r < 0)
		error_set(error, r, "cannot slow the processes down: %s", error_text(&throttle->error, r));
	pthread_cond_destroy(&throttle->changed);
	pthread_mutex_destroy(&throttle->lock);
	free(throttle);
	return r;
}
