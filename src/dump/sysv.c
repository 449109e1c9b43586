/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who uses an object of System V IPC. The kernel keeps the PIDs of the last users; those who wait are found by the system
 * call that they are in: from the registers of a stopped thread, or /proc/PID/syscall of a running one. Threads are looked
 * at only where there are sets or queues at all.
 */
#include "sysv.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define SYSCALL_TEXT 256

bool dump_sysv_is(const char *name)
{
	return name && strncmp(name, DUMP_SYSV_NAME, strlen(DUMP_SYSV_NAME)) == 0;
}

enum dump_sysv_user dump_sysv_user(const struct dump_context *ctx, pid_t pid)
{
	struct procfs_stat stat;

	if (pid <= 0)
		return DUMP_SYSV_NOBODY;
	if (dump_context_find(ctx, pid))
		return DUMP_SYSV_OURS;
	return procfs_read_stat(pid, &stat, NULL) == 0 && stat.state != 'Z' ? DUMP_SYSV_STRANGER : DUMP_SYSV_NOBODY;
}

static bool stopped_waits(const struct dump_process *process, uint32_t id, const long calls[2])
{
	array_for_each(thread, &process->tracee->threads) {
		const struct user_regs_struct *regs = &(*thread)->regs;
		int64_t nr = (int64_t)regs->orig_rax;

		if ((nr == calls[0] || nr == calls[1]) && (uint32_t)regs->rdi == id && tracee_regs_in_syscall(regs))
			return true;
	}
	return false;
}

static bool running_waits(const struct dump_process *process, uint32_t id, const long calls[2])
{
	array_for_each(tid, &process->threads) {
		_cleanup_buffer_ struct buffer text = BUFFER_INIT;
		char path[64], *end;
		long nr;

		snprintf(path, sizeof(path), "task/%d/syscall", *tid);
		if (fdio_read_file(process->proc_fd, path, SYSCALL_TEXT, &text) < 0)
			continue;
		nr = strtol((const char *)text.data, &end, 10);
		if (end != (const char *)text.data && (nr == calls[0] || nr == calls[1]) && strtoull(end, NULL, 16) == id)
			return true;
	}
	return false;
}

bool dump_sysv_waits(struct dump_context *ctx, uint32_t id, const long calls[2])
{
	array_for_each(process, &ctx->processes)
		if ((*process)->tracee ? stopped_waits(*process, id, calls) : running_waits(*process, id, calls))
			return true;
	return false;
}

void dump_sysv_refuse(struct dump_context *ctx, const char *what, uint32_t id, uint32_t key, pid_t pid)
{
	struct procfs_stat stat = { .comm = "?" };
	char who[64] = "";

	if (pid && procfs_read_stat(pid, &stat, NULL) == 0)
		snprintf(who, sizeof(who), ", as PID %d (%s) does", pid, stat.comm);
	dump_refuse(ctx, 0, "System V", IMAGE_KIND_SYSV_OUTSIDE, "%s %u (key 0x%08x)%s", what, id, key, who);
}

int dump_sysv(struct dump_context *ctx, struct error *error)
{
	int r = dump_sysv_segments(ctx, error);

	if (r == 0)
		r = dump_sysv_sets(ctx, error);
	return r < 0 ? r : dump_sysv_queues(ctx, error);
}
