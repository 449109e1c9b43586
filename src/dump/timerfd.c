/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * timerfd_create(2).
 *
 * fdinfo tells the clock, the flags and the expirations not read yet; the time left is asked with
 * timerfd_gettime(2), because fdinfo shows 0 for a periodic timer that has expired and was not
 * read. What is sent is the time left and when it was taken, so that the target can go on counting
 * from there.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>

#include "dump/file-kind.h"

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[timerfd]") == 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const char *info, *ticks, *clock, *flags;
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	TimerFd timer = TIMER_FD__INIT;
	struct itimerspec setting;
	unsigned long long count;
	struct timens_offsets tree;
	struct timespec now;
	int r;

	/* First, for it brings the count of expirations up to date. */
	if (timerfd_gettime(file->fd, &setting) < 0)
		return error_set_errno(error, -errno, "timerfd_gettime");
	clock_gettime(CLOCK_REALTIME, &now);
	r = timens_now(&ctx->clocks, &tree, error);
	if (r < 0)
		return r;
	info = dump_file_text(file);
	ticks = dump_file_info(info, "ticks");
	clock = dump_file_info(info, "clockid");
	flags = dump_file_info(info, "settime flags");
	if (!ticks || !clock || !flags || sscanf(ticks, "%llu", &count) != 1 ||
	    sscanf(clock, "%u", &timer.clockid) != 1 ||
	    sscanf(flags, "%o", &timer.settime_flags) != 1) {
		dump_file_block(ctx, file, "this kernel does not tell its state",
				"use a newer kernel");
		return 0;
	}
	timer.id = file->id;
	timer.flags = file->flags;
	timer.fown = &owner;
	timer.ticks = count;
	timer.vsec = (uint64_t)setting.it_value.tv_sec;
	timer.vnsec = (uint64_t)setting.it_value.tv_nsec;
	timer.isec = (uint64_t)setting.it_interval.tv_sec;
	timer.insec = (uint64_t)setting.it_interval.tv_nsec;
	timer.has_taken = 1;
	timer.taken = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	timer.has_monotonic = 1;
	timer.monotonic = (uint64_t)tree.monotonic;
	message.type = FILE_TYPE__FILE_TIMERFD;
	message.id = file->id;
	message.tfd = &timer;
	return dump_file_add(ctx, &message, error);
}

const struct dump_file_kind dump_kind_timerfd = {
	.name = "timerfd",
	.type = FILE_TYPE__FILE_TIMERFD,
	.match = match,
	.dump = dump,
};
