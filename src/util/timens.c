/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "timens.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#define FILE_MAX 256

bool timens_is_supported(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { { 0 } };

	return access("/proc/self/ns/time", F_OK) == 0 && syscall(SYS_capget, &header, sets) == 0 &&
	       sets[0].effective >> CAP_SYS_ADMIN & 1 && sets[0].effective >> CAP_SYS_TIME & 1;
}

/* "NAME SECONDS NANOSECONDS" at the start of a line; the seconds may be negative, the nanoseconds are not. */
static int64_t find_offset(const char *text, const char *name)
{
	int64_t seconds, ns;
	const char *line = strstr(text, name);

	if (!line || sscanf(line + strlen(name), "%" SCNd64 " %" SCNd64, &seconds, &ns) != 2)
		return 0;
	return seconds * CLOCK_S + ns;
}

int timens_read(pid_t pid, struct timens_offsets *ret, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/timens_offsets", pid ? pid : getpid());
	r = fdio_read_file(-1, path, FILE_MAX, &text);
	if (r < 0 && access("/proc/self/timens_offsets", F_OK) < 0) {
		*ret = (struct timens_offsets){ 0 }; /* no time namespaces in this kernel */
		return 0;
	}
	if (r < 0)
		return error_set_errno(error, r == -ENOENT ? -ESRCH : r, "cannot read %s", path);
	ret->monotonic = find_offset((const char *)text.data, "monotonic");
	ret->boottime = find_offset((const char *)text.data, "boottime");
	return 0;
}

static int64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * CLOCK_S + now.tv_nsec;
}

int timens_now(const struct timens_offsets *offsets, struct timens_offsets *ret, struct error *error)
{
	struct timens_offsets own;
	int r = timens_read(0, &own, error);

	if (r < 0)
		return r;
	ret->monotonic = read_clock(CLOCK_MONOTONIC) - own.monotonic + offsets->monotonic;
	ret->boottime = read_clock(CLOCK_BOOTTIME) - own.boottime + offsets->boottime;
	return 0;
}

/* Rounded down, as the nanoseconds of an offset are never negative. */
static int64_t whole_seconds(int64_t ns)
{
	return ns / CLOCK_S - (ns % CLOCK_S < 0);
}

int timens_unshare(const struct timens_offsets *offsets)
{
	int64_t monotonic = whole_seconds(offsets->monotonic), boottime = whole_seconds(offsets->boottime);
	char path[64], text[128];
	int fd, r;

	if (unshare(CLONE_NEWTIME) < 0)
		return -errno;
	/* The file is one of processes, but is found for the number of a thread too. */
	snprintf(path, sizeof(path), "/proc/%d/timens_offsets", (int)syscall(SYS_gettid));
	snprintf(text, sizeof(text), "monotonic %" PRId64 " %" PRId64 "\nboottime %" PRId64 " %" PRId64 "\n", monotonic,
		 offsets->monotonic - monotonic * CLOCK_S, boottime, offsets->boottime - boottime * CLOCK_S);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : errno ? -errno : -EIO;
	close(fd);
	return r;
}
