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
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define SYSCALL_TEXT 256
#define ROUNDING_S   2 /* seconds that two clocks read one after the other, and without fractions, may differ by */

bool dump_sysv_is(const char *name)
{
	return name && strncmp(name, DUMP_SYSV_NAME, strlen(DUMP_SYSV_NAME)) == 0;
}

/*
 * Has the process begun after that time? The kernel notes full seconds, of a clock that may be set: so what seems to be so may
 * be the process's all the same.
 */
static bool began_after(const struct dump_process *process, int64_t last)
{
	struct timespec now, up;
	int64_t age;

	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &up);
	age = up.tv_sec - (int64_t)process->stat.start_time / sysconf(_SC_CLK_TCK);
	return last > 0 && now.tv_sec - age > last + ROUNDING_S;
}

enum dump_sysv_user dump_sysv_user(const struct dump_context *ctx, pid_t pid, int64_t last)
{
	const struct dump_process *process = pid > 0 ? dump_context_find(ctx, pid) : NULL;
	struct procfs_stat stat;

	if (pid <= 0)
		return DUMP_SYSV_NOBODY;
	if (process)
		return began_after(process, last) ? DUMP_SYSV_EARLIER : DUMP_SYSV_OURS;
	return procfs_read_stat(pid, &stat, NULL) == 0 && (stat.state != 'Z' || stat.threads > 1) ?
		       DUMP_SYSV_STRANGER : DUMP_SYSV_NOBODY;
}

static void note(struct dump_sysv_waits *waits, int64_t call, uint64_t id)
{
	struct dump_sysv_wait wait = { .call = (long)call, .id = (uint32_t)id };

	if (call != SYS_semop && call != SYS_semtimedop && call != SYS_msgrcv && call != SYS_msgsnd)
		return;
	if (array_append(&waits->list, wait) < 0)
		waits->failed = true;
}

static void note_stopped(const struct dump_process *process, struct dump_sysv_waits *waits)
{
	array_for_each(thread, &process->tracee->threads)
		if (tracee_regs_in_syscall(&(*thread)->regs))
			note(waits, (int64_t)(*thread)->regs.orig_rax, (*thread)->regs.rdi);
}

static void note_running(const struct dump_process *process, struct dump_sysv_waits *waits)
{
	array_for_each(tid, &process->threads) {
		_cleanup_buffer_ struct buffer text = BUFFER_INIT;
		char path[64], *end;
		long nr;

		snprintf(path, sizeof(path), "task/%d/syscall", *tid);
		if (fdio_read_file(process->proc_fd, path, SYSCALL_TEXT, &text) < 0)
			continue;
		nr = strtol((const char *)text.data, &end, 10);
		if (end != (const char *)text.data)
			note(waits, nr, strtoull(end, NULL, 16));
	}
}

bool dump_sysv_waits_on(struct dump_context *ctx, struct dump_sysv_waits *waits, uint32_t id, const long calls[2])
{
	for (size_t i = 0; !waits->filled && i < ctx->processes.count; i++) {
		if (ctx->processes.items[i]->tracee)
			note_stopped(ctx->processes.items[i], waits);
		else
			note_running(ctx->processes.items[i], waits);
	}
	waits->filled = true;
	array_for_each(wait, &waits->list)
		if (wait->id == id && (wait->call == calls[0] || wait->call == calls[1]))
			return true;
	return false;
}

void dump_sysv_describe(const struct ipc_perm *perm, uint32_t id, IpcDescription *ret)
{
	ipc_description__init(ret);
	ret->id = id;
	ret->key = (uint32_t)perm->__key;
	ret->uid = perm->uid;
	ret->gid = perm->gid;
	ret->cuid = perm->cuid;
	ret->cgid = perm->cgid;
	ret->mode = perm->mode;
}

void dump_sysv_refuse(struct dump_context *ctx, const char *what, uint32_t id, uint32_t key, pid_t pid)
{
	struct procfs_stat stat = { .comm = "?" };
	char who[64] = "";

	if (pid && procfs_read_stat(pid, &stat, NULL) == 0)
		snprintf(who, sizeof(who), ", as PID %d (%s) does", pid, stat.comm);
	dump_refuse(ctx, 0, "System V", IMAGE_KIND_SYSV_OUTSIDE, "%s %u (key 0x%08x)%s", what, id, key, who);
}

void dump_sysv_refuse_earlier(struct dump_context *ctx, const char *what, uint32_t id, uint32_t key, pid_t pid)
{
	dump_refuse(ctx, pid, "System V", IMAGE_KIND_SYSV_EARLIER, "%s %u (key 0x%08x)", what, id, key);
}

int dump_sysv(struct dump_context *ctx, struct error *error)
{
	struct dump_sysv_waits waits = { .filled = false };
	int r = dump_sysv_segments(ctx, error);

	if (r == 0)
		r = dump_sysv_sets(ctx, &waits, error);
	if (r == 0)
		r = dump_sysv_queues(ctx, &waits, error);
	if (r == 0 && waits.failed)
		r = error_set(error, -ENOMEM, "out of memory");
	array_deinit(&waits.list);
	return r;
}
