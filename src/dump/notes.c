/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is about a process on this host, and is not taken along: it is no part of the tree, and nothing of the program breaks
 * without it, but its user may want to know. A note is added once, for the first process that it holds for, and only where the
 * process differs from this program: what both have is the host's way of starting programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#ifndef PR_SCHED_CORE
#define PR_SCHED_CORE	  62 /* 5.14 */
#define PR_SCHED_CORE_GET 0
#endif
#define NOTE_FILE_MAX	 16384
#define FLAGS_IO_FLUSHER 0x00180000u /* PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE in field 9 of /proc/PID/stat */

/* A file of /proc/PID and the same of this program; false when they are equal or the first cannot be read. */
static bool differs(const struct dump_process *process, const char *name, struct buffer *text)
{
	_cleanup_buffer_ struct buffer own = BUFFER_INIT;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	if (fdio_read_file(process->proc_fd, name, NOTE_FILE_MAX, text) < 0)
		return false;
	return fdio_read_file(-1, path, NOTE_FILE_MAX, &own) < 0 || strcmp((char *)own.data, (char *)text->data) != 0;
}

/* "0::/path" is the cgroup of version 2; without it the first line counts. */
static void note_cgroup(struct dump_context *ctx, const struct dump_process *process)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	const char *line, *path;

	if (!differs(process, "cgroup", &text))
		return;
	line = strstr((char *)text.data, "0::");
	if (!line)
		line = (char *)text.data;
	path = strchr(line, '/');
	if (path)
		image_blockers_note(&ctx->blockers, process->pid, "cgroup %.*s: the copy is put where the program is that "
				    "restores it", (int)strcspn(path, "\n"), path);
}

static void note_label(struct dump_context *ctx, const struct dump_process *process)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;

	if (differs(process, "attr/current", &text) && ((char *)text.data)[0])
		image_blockers_note(&ctx->blockers, process->pid, "security label %.*s: the copy has that of the program that "
				    "restores it", (int)strcspn((char *)text.data, "\n"), (char *)text.data);
}

/* "/autogroup-NUMBER nice N": a session's share of the processor. */
static void note_autogroup(struct dump_context *ctx, const struct dump_process *process)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	const char *nice;

	if (process->stat.sid != process->pid || fdio_read_file(process->proc_fd, "autogroup", NOTE_FILE_MAX, &text) < 0)
		return;
	nice = strstr((char *)text.data, " nice ");
	if (nice && atoi(nice + strlen(" nice ")) != 0)
		image_blockers_note(&ctx->blockers, process->pid, "nice value %d of its session's autogroup: the copy has 0",
				    atoi(nice + strlen(" nice ")));
}

/* struct sched_attr of the kernel, second version (sched_setattr(2), 5.3). */
struct clamp_attributes {
	uint8_t first_version[48];
	uint32_t minimum;
	uint32_t maximum;
};

/* Both need a kernel that is built for them: CONFIG_UCLAMP_TASK, CONFIG_SCHED_CORE. */
static void note_scheduling(struct dump_context *ctx, const struct dump_process *process)
{
	struct clamp_attributes own = { .minimum = 0 }, theirs = { .minimum = 0 };
	uint64_t cookie = 0;

	if (syscall(SYS_sched_getattr, 0, &own, sizeof(own), 0) == 0 &&
	    syscall(SYS_sched_getattr, process->pid, &theirs, sizeof(theirs), 0) == 0 &&
	    (own.minimum != theirs.minimum || own.maximum != theirs.maximum))
		image_blockers_note(&ctx->blockers, process->pid, "utilization clamps %u to %u: the copy has %u to %u",
				    theirs.minimum, theirs.maximum, own.minimum, own.maximum);
	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, process->pid, 0 /* of the thread */, &cookie) == 0 && cookie)
		image_blockers_note(&ctx->blockers, process->pid,
				    "a cookie of core scheduling: the copy shares processor cores with everybody");
}

static void note_flusher(struct dump_context *ctx, const struct dump_process *process)
{
	if ((process->stat.flags & FLAGS_IO_FLUSHER) == FLAGS_IO_FLUSHER)
		image_blockers_note(&ctx->blockers, process->pid, "PR_SET_IO_FLUSHER: the copy is no I/O flusher");
}

void dump_notes(struct dump_context *ctx, const struct dump_process *process)
{
	note_cgroup(ctx, process);
	note_label(ctx, process);
	note_autogroup(ctx, process);
	note_scheduling(ctx, process);
	note_flusher(ctx, process);
}
