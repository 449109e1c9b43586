/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * timerfd_create(2).
 *
 * A timer goes on as if no move had been: the time that has passed for the tree since it was looked
 * at (clocks.c) is taken off, and expirations that fell into it are counted. A timer of the wall
 * clock that was set to a point in time keeps that point.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "restore/file-kind.h"
#include "restore/parts.h"

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif

#define SECOND INT64_C(1000000000)

static struct timespec to_timespec(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };
}

/* Fills in what to set, and the expirations by now. */
static void plan(const TimerFd *message, int64_t elapsed, struct itimerspec *setting, int *ret_flags,
		 uint64_t *ret_ticks)
{
	int64_t left = (int64_t)message->vsec * SECOND + (int64_t)message->vnsec;
	int64_t interval = (int64_t)message->isec * SECOND + (int64_t)message->insec;
	bool wall = message->clockid == CLOCK_REALTIME || message->clockid == CLOCK_REALTIME_ALARM;

	*ret_ticks = message->ticks;
	*ret_flags = 0;
	setting->it_interval = to_timespec(interval);
	if (left == 0) {
		setting->it_value = to_timespec(0);
		return;
	}
	if (wall && (message->settime_flags & TFD_TIMER_ABSTIME) && message->has_taken) {
		*ret_flags = (int)message->settime_flags &
			     (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
		setting->it_value = to_timespec((int64_t)message->taken + left);
		return;
	}
	if (elapsed >= left && interval > 0) {
		int64_t missed = (elapsed - left) / interval + 1;

		*ret_ticks += (uint64_t)missed;
		left += missed * interval;
	}
	setting->it_value = to_timespec(left > elapsed ? left - elapsed : 1);
}

static int open_timerfd(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const TimerFd *message = file->message->tfd;
	struct itimerspec setting;
	uint64_t ticks;
	int flags;

	file->fd = timerfd_create((clockid_t)message->clockid, TFD_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "timerfd_create for clock %u",
				       message->clockid);
	plan(message, message->has_monotonic ? restore_clocks_elapsed(tree, message->monotonic) : 0, &setting, &flags, &ticks);
	if (timerfd_settime(file->fd, flags, &setting, NULL) < 0)
		return error_set_errno(error, -errno, "timerfd_settime");
	if (ticks > 0 && ioctl(file->fd, TFD_IOC_SET_TICKS, &ticks) < 0) {
		/*
		 * A kernel without it: the timer expires at once, so that whoever waits is not left
		 * waiting.
		 */
		setting.it_value = to_timespec(1);
		if (timerfd_settime(file->fd, 0, &setting, NULL) < 0)
			return error_set_errno(error, -errno, "timerfd_settime");
	}
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_timerfd = {
	.name = "timerfd",
	.type = FILE_TYPE__FILE_TIMERFD,
	.open = open_timerfd,
};
