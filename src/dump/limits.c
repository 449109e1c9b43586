/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the target has to grant: hard limits and CPUs of a running process. /proc/PID/limits has one line a resource, in
 * the order of the RLIMIT_* numbers, with the hard limit in a column of its own.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define LIMITS_FILE_MAX    16384
#define LIMITS_HARD_COLUMN 47
#define AFFINITY_MAX       1024

bool dump_affinity_is_all(const struct dump_host *host, const uint8_t *mask, size_t size)
{
	for (long cpu = 0; cpu < host->online; cpu++)
		if ((size_t)cpu / 8 >= size || !(mask[cpu / 8] >> (cpu % 8) & 1))
			return false;
	return true;
}

static int limits_read(const struct dump_process *process, uint64_t *limits)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	char *line, *rest;
	int r, resource = 0;

	r = fdio_read_file(process->proc_fd, "limits", LIMITS_FILE_MAX, &text);
	if (r < 0)
		return r;
	strtok_r((char *)text.data, "\n", &rest); /* headings */
	while ((line = strtok_r(NULL, "\n", &rest)) && resource < RLIM_NLIMITS) {
		if (strlen(line) <= LIMITS_HARD_COLUMN)
			return -EPROTO;
		limits[resource++] = strncmp(line + LIMITS_HARD_COLUMN, "unlimited", 9) == 0
					     ? UINT64_MAX
					     : strtoull(line + LIMITS_HARD_COLUMN, NULL, 10);
	}
	return resource == RLIM_NLIMITS ? 0 : -EPROTO;
}

/* Masks of threads that are bound to some CPUs; equal ones once. */
static int limits_affinity(const struct dump_context *ctx, const struct dump_process *process,
			   struct dump_arena *arena, ProcessExtra *extra)
{
	extra->affinity = dump_arena_take(arena, process->threads.count * sizeof(*extra->affinity));
	if (!extra->affinity)
		return -ENOMEM;
	array_for_each(tid, &process->threads) {
		uint8_t mask[AFFINITY_MAX] = { 0 };
		long size = syscall(SYS_sched_getaffinity, *tid, sizeof(mask), mask);
		ProtobufCBinaryData *last = extra->n_affinity ? &extra->affinity[extra->n_affinity - 1] : NULL;

		if (size <= 0 || dump_affinity_is_all(ctx->host, mask, (size_t)size) ||
		    (last && last->len == (size_t)size && memcmp(last->data, mask, last->len) == 0))
			continue;
		extra->affinity[extra->n_affinity].len = (size_t)size;
		extra->affinity[extra->n_affinity].data = dump_arena_take(arena, (size_t)size);
		if (!extra->affinity[extra->n_affinity].data)
			return -ENOMEM;
		memcpy(extra->affinity[extra->n_affinity++].data, mask, (size_t)size);
	}
	return 0;
}

/* IMAGE_CREDS of the group leader; at the freeze each thread's are in its IMAGE_CORE. */
static int limits_creds(struct dump_context *ctx, struct dump_process *process, struct dump_arena *arena,
			struct error *error)
{
	ThreadExtra extra = THREAD_EXTRA__INIT;
	Creds creds = CREDS__INIT;
	const struct dump_status *status;
	int r;

	r = dump_process_status(process, &status, error);
	if (r < 0)
		return r;
	r = dump_creds(status, 0, arena, &creds, &extra);
	if (r < 0)
		return error_set_errno(error, r, "cannot keep the credentials of PID %d", process->pid);
	return image_set_add(ctx->images, IMAGE_CREDS, (uint32_t)process->pid, &creds.base, error);
}

int dump_limits(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	_cleanup_(dump_arena_deinit) struct dump_arena arena = { 0 };
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	ProcessExtra extra = PROCESS_EXTRA__INIT;
	uint64_t limits[RLIM_NLIMITS];
	int r;

	r = limits_read(process, limits);
	if (r == 0)
		r = limits_affinity(ctx, process, &arena, &extra);
	if (r < 0)
		return error_set_errno(error, r, "cannot read the limits of PID %d", process->pid);
	extra.hard_limits = limits;
	extra.n_hard_limits = RLIM_NLIMITS;
	extra.has_seccomp = extra.seccomp = process->seccomp;
	extra.has_oom_score_adj = fdio_read_file(process->proc_fd, "oom_score_adj", 64, &text) == 0;
	extra.oom_score_adj = extra.has_oom_score_adj ? atoi((const char *)text.data) : 0;
	r = image_set_add(ctx->images, IMAGE_PROCESS_EXTRA, (uint32_t)process->pid, &extra.base, error);
	return r < 0 ? r : limits_creds(ctx, process, &arena, error);
}
