/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Seccomp: each thread's mode and chain of filters.
 *
 * Model. A filter is never changed or taken away, and a new one is put in front of those before: so all chains of a tree
 * are branches of one tree, in which equal filters behind equal ones are taken for one and the same. (The kernel does not tell
 * whether they are; to a program it makes a difference only for SECCOMP_FILTER_FLAG_TSYNC, which fails for threads that have
 * filters that the caller has not.)
 *
 * Happy path: the freeze reads each thread's chain, oldest first, into the list; one IMAGE_SECCOMP record has all. Before
 * that, the preflight stops processes that have filters for a moment to look for what cannot be moved, as only a tracer may
 * read them.
 *
 * Failure modes: a filter that asks a listener (SECCOMP_RET_USER_NOTIF) is refused: the listener is mostly outside of the
 * tree, and nothing tells where.
 */
#include "seccomp.pb-c.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"
#include "util/cleanup.h"

#define LOOK_NS   (2 * CLOCK_S)
#define CHAIN_MAX 1024

/* A filter that some thread has. */
struct seccomp_filter {
	struct sock_filter *code; /* owned */
	size_t count;             /* instructions */
	uint32_t flags;
	int64_t before;           /* index of the one that was installed before it; -1: none */
};

struct dump_seccomp {
	ARRAY(struct seccomp_filter) filters; /* by index; owned */
};

void dump_seccomp_free(struct dump_seccomp *seccomp)
{
	if (!seccomp)
		return;
	array_for_each(filter, &seccomp->filters)
		free(filter->code);
	array_deinit(&seccomp->filters);
	free(seccomp);
}

/* ---- what cannot be moved */

/* What a filter answers is mostly a constant. One that is computed may be anything; that is not held against it. */
static bool asks_listener(const struct sock_filter *code, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (code[i].code == (BPF_RET | BPF_K) && (code[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF)
			return true;
	return false;
}

static void refuse_listener(struct dump_context *ctx, pid_t pid, pid_t tid)
{
	dump_refuse(ctx, pid, "process", IMAGE_KIND_SECCOMP_LISTENER, "seccomp filter of thread %d", tid);
}

/* The filters of a running process; it is stopped meanwhile. */
static int look_at_filters(struct dump_context *ctx, const struct dump_process *process, struct error *error)
{
	_cleanup_free_ struct sock_filter *code = calloc(BPF_MAXINSNS, sizeof(*code));
	struct tracee_process *tracee = NULL;
	bool found = false;
	int r;

	if (!code)
		return error_set_errno(error, -ENOMEM, "cannot read the seccomp filters of PID %d", process->pid);
	r = tracee_process_stop_all(process->pid, NULL, clock_deadline(LOOK_NS), &tracee, error);
	if (r == -EBUSY) { /* traced: that is a blocker of its own */
		error_clear(error);
		return 0;
	}
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && !found && i < tracee->threads.count; i++) {
		for (uint32_t index = 0; r == 0 && !found; index++) {
			size_t count;
			uint32_t flags;

			r = tracee_thread_get_filter(tracee->threads.items[i], index, code, &count, &flags, error);
			found = r == 0 && asks_listener(code, count);
		}
		if (found)
			refuse_listener(ctx, process->pid, tracee->threads.items[i]->tid);
		/* The last one; or a thread without filters. */
		if (r == -ENOENT || r == -EINVAL) {
			error_clear(error);
			r = 0;
		}
	}
	tracee_process_release(tracee);
	return r;
}

int dump_seccomp_check(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	uint32_t mode = 0;

	array_for_each(tid, &process->threads) {
		struct dump_status status;

		if (dump_status_read(process->pid, *tid, &status, NULL) < 0)
			continue;
		mode = status.seccomp > mode ? status.seccomp : mode;
		dump_status_deinit(&status);
	}
	process->seccomp = mode != SECCOMP_MODE_DISABLED;
	if (mode == SECCOMP_MODE_DISABLED)
		return 0;
	if (!tracee_seccomp_may_suspend()) {
		dump_blocker_add(ctx, process->pid, "process", "this program may not look behind a seccomp filter: it has "
				 "one itself, or lacks CAP_SYS_ADMIN",
				 "run migrate outside of the container, or without its filter", "seccomp mode %u", mode);
		return 0;
	}
	return mode == SECCOMP_MODE_FILTER ? look_at_filters(ctx, process, error) : 0;
}

/* ---- the freeze */

/* The index of a filter behind `before`, added if it is new. */
static int64_t filter_index(struct dump_seccomp *seccomp, int64_t before, const struct sock_filter *code, size_t count,
			    uint32_t flags)
{
	struct seccomp_filter filter = { .count = count, .flags = flags, .before = before };
	size_t size = count * sizeof(*code);

	for (size_t i = 0; i < seccomp->filters.count; i++) {
		const struct seccomp_filter *other = &seccomp->filters.items[i];

		if (other->before == before && other->count == count && other->flags == flags &&
		    memcmp(other->code, code, size) == 0)
			return (int64_t)i;
	}
	filter.code = malloc(size);
	if (!filter.code)
		return -ENOMEM;
	memcpy(filter.code, code, size);
	if (array_append(&seccomp->filters, filter) < 0) {
		free(filter.code);
		return -ENOMEM;
	}
	return (int64_t)seccomp->filters.count - 1;
}

static int read_chain(struct dump_context *ctx, struct tracee_thread *thread, struct sock_filter *code, int64_t *ret_last,
		      struct error *error)
{
	int64_t last = -1;

	for (uint32_t index = 0; index < CHAIN_MAX; index++) {
		size_t count;
		uint32_t flags;
		int r = tracee_thread_get_filter(thread, index, code, &count, &flags, error);

		if (r == -ENOENT)
			break;
		if (r < 0)
			return r;
		if (asks_listener(code, count))
			refuse_listener(ctx, thread->process->pid, thread->tid);
		last = filter_index(ctx->seccomp, last, code, count, flags);
		if (last < 0)
			return error_set_errno(error, (int)last, "cannot keep the seccomp filters of thread %d", thread->tid);
	}
	*ret_last = last;
	return 0;
}

int dump_seccomp_thread(struct dump_context *ctx, struct tracee_thread *thread, int64_t mode, CoreThread *core,
			struct error *error)
{
	_cleanup_free_ struct sock_filter *code = NULL;
	int64_t last = -1;
	int r;

	if (mode <= SECCOMP_MODE_DISABLED)
		return 0;
	core->has_seccomp_mode = true;
	core->seccomp_mode = mode == SECCOMP_MODE_STRICT ? SECCOMP_MODE__SECCOMP_STRICT : SECCOMP_MODE__SECCOMP_FILTER;
	if (mode == SECCOMP_MODE_STRICT)
		return 0;
	code = calloc(BPF_MAXINSNS, sizeof(*code));
	if (!ctx->seccomp)
		ctx->seccomp = calloc(1, sizeof(*ctx->seccomp));
	if (!ctx->seccomp || !code)
		return error_set_errno(error, -ENOMEM, "cannot keep the seccomp filters of thread %d", thread->tid);
	r = read_chain(ctx, thread, code, &last, error);
	if (r < 0)
		return r;
	core->has_seccomp_filter = true;
	core->seccomp_filter = (uint32_t)last;
	return 0;
}

int dump_seccomp_record(struct dump_context *ctx, struct error *error)
{
	_cleanup_(dump_arena_deinit) struct dump_arena arena = { 0 };
	SeccompFilters message = SECCOMP_FILTERS__INIT;
	SeccompFilter *filters;
	size_t count = ctx->seccomp ? ctx->seccomp->filters.count : 0;

	if (count == 0)
		return 0;
	filters = dump_arena_take(&arena, count * sizeof(*filters));
	message.seccomp_filters = dump_arena_take(&arena, count * sizeof(*message.seccomp_filters));
	if (!filters || !message.seccomp_filters)
		return error_set_errno(error, -ENOMEM, "cannot keep the seccomp filters");
	for (size_t i = 0; i < count; i++) {
		const struct seccomp_filter *filter = &ctx->seccomp->filters.items[i];

		filters[i] = (SeccompFilter)SECCOMP_FILTER__INIT;
		filters[i].filter.data = (uint8_t *)filter->code;
		filters[i].filter.len = filter->count * sizeof(*filter->code);
		filters[i].has_prev = filter->before >= 0;
		filters[i].prev = filter->before >= 0 ? (uint32_t)filter->before : 0;
		filters[i].has_flags = filter->flags != 0;
		filters[i].flags = filter->flags;
		message.seccomp_filters[i] = &filters[i];
	}
	message.n_seccomp_filters = count;
	return image_set_add(ctx->images, IMAGE_SECCOMP, 0, &message.base, error);
}
