/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is about a process on this host, and is not taken along: it is no part of the tree, and nothing of the program breaks
 * without it, but its user may want to know. A note is added once, for the first process that it holds for, and only where the
 * process differs from this program: what both have is the host's way of starting programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define NOTE_FILE_MAX 16384

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

void dump_notes(struct dump_context *ctx, const struct dump_process *process)
{
	note_cgroup(ctx, process);
	note_label(ctx, process);
	note_autogroup(ctx, process);
}
