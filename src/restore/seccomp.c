/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Seccomp: the filters of the threads of a process.
 *
 * They are installed while the shell is still root and while ptrace suspends them (tracee/seccomp.c), so that neither the
 * right to install them nor what they forbid is in the way; they are in force from the go on. A chain is installed oldest
 * first, one call a batch, since a filter has up to 32 KiB.
 *
 * What all threads of a process have in common is installed in all of them at once (SECCOMP_FILTER_FLAG_TSYNC), so that it
 * is one and the same filter for the kernel as it was: else the program could not use that flag any more. That the program
 * can be held up by mitigations of speculation is no part of a filter: prctl(2) tells of them, so none are asked for here.
 *
 * Failure modes: records that name filters which are not there (-EPROTO); no memory, in the kernel or here.
 */
#include "seccomp.pb-c.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "parts.h"
#include "util/array.h"

#define CHAIN_MAX 1024

/* The indices of a thread's filters, oldest first. */
struct chain {
	uint32_t *items; /* owned */
	size_t count;
	size_t capacity;
};

static int read_chain(const SeccompFilters *filters, const CoreThread *core, pid_t tid, struct chain *chain,
		      struct error *error)
{
	uint32_t index = core->seccomp_filter;

	if (core->seccomp_mode != SECCOMP_MODE__SECCOMP_FILTER)
		return 0;
	for (;;) {
		if (index >= filters->n_seccomp_filters || chain->count == CHAIN_MAX)
			return error_set(error, -EPROTO, "the seccomp filters of thread %d are incomplete", tid);
		if (array_append(chain, index) < 0)
			return error_set_errno(error, -ENOMEM, "cannot read the seccomp filters of thread %d", tid);
		if (!filters->seccomp_filters[index]->has_prev)
			break;
		index = filters->seccomp_filters[index]->prev;
	}
	for (size_t i = 0; i < chain->count / 2; i++) {
		uint32_t other = chain->items[i];

		chain->items[i] = chain->items[chain->count - 1 - i];
		chain->items[chain->count - 1 - i] = other;
	}
	return 0;
}

static int install(struct restore_tree *tree, struct tracee_thread *thread, const SeccompFilter *filter, bool all,
		   struct error *error)
{
	struct sock_fprog program = { .len = (unsigned short)(filter->filter.len / sizeof(struct sock_filter)) };
	uint64_t flags = (filter->flags & SECCOMP_FILTER_FLAG_LOG) | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
	struct tracee_batch *batch;
	uint64_t token;
	int r;

	if (filter->filter.len == 0 || filter->filter.len % sizeof(struct sock_filter) != 0 ||
	    filter->filter.len / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return error_set(error, -EPROTO, "a seccomp filter of thread %d is damaged", thread->tid);
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot install the seccomp filters of thread %d", thread->tid);
	token = tracee_batch_data(batch, &program, sizeof(program));
	tracee_batch_point(batch, token + offsetof(struct sock_fprog, filter),
			   tracee_batch_data(batch, filter->filter.data, filter->filter.len));
	tracee_batch_call(batch, SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | (all ? SECCOMP_FILTER_FLAG_TSYNC : 0), token);
	r = tracee_batch_run(thread, batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static int set_strict(struct restore_tree *tree, struct tracee_thread *thread, struct error *error)
{
	int64_t result;
	int r = tracee_thread_call(thread, tree->deadline, &result, error, SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0,
				   0, 0);

	if (r == 0 && result < 0)
		r = error_set_errno(error, (int)result, "cannot restrict thread %d as it was (seccomp)", thread->tid);
	return r;
}

/* How many filters all of them begin with. */
static size_t common_length(const struct chain *chains, size_t count)
{
	size_t common = chains[0].count;

	for (size_t i = 1; i < count; i++) {
		size_t same = 0;

		while (same < common && same < chains[i].count && chains[i].items[same] == chains[0].items[same])
			same++;
		common = same;
	}
	return common;
}

static int apply(struct restore_tree *tree, const SeccompFilters *filters, const struct restore_seccomp_thread *threads,
		 const struct chain *chains, size_t count, struct error *error)
{
	size_t common = common_length(chains, count);
	int r = 0;

	for (size_t i = 0; r == 0 && i < common; i++)
		r = install(tree, threads[0].thread, filters->seccomp_filters[chains[0].items[i]], count > 1, error);
	for (size_t t = 0; r == 0 && t < count; t++) {
		for (size_t i = common; r == 0 && i < chains[t].count; i++)
			r = install(tree, threads[t].thread, filters->seccomp_filters[chains[t].items[i]], false, error);
		if (r == 0 && threads[t].core->seccomp_mode == SECCOMP_MODE__SECCOMP_STRICT)
			r = set_strict(tree, threads[t].thread, error);
	}
	return r;
}

int restore_seccomp_apply(struct restore_tree *tree, const struct restore_seccomp_thread *threads, size_t count,
			  struct error *error)
{
	const struct image_record *record = image_set_find(tree->images, IMAGE_SECCOMP, 0);
	SeccompFilters none = SECCOMP_FILTERS__INIT, *filters = &none;
	_cleanup_message_ SeccompFilters *unpacked = NULL;
	struct chain *chains = calloc(count, sizeof(*chains));
	int r = chains ? 0 : error_set_errno(error, -ENOMEM, "cannot install seccomp filters");

	if (r == 0 && !tracee_seccomp_may_suspend())
		r = error_set(error, -EPERM, "seccomp filters can be installed only by a program that has none itself");
	if (r == 0 && record) {
		r = image_unpack(record, seccomp_filters, &unpacked, error);
		filters = unpacked;
	}
	for (size_t i = 0; r == 0 && i < count; i++)
		r = read_chain(filters, threads[i].core, threads[i].thread->tid, &chains[i], error);
	if (r == 0)
		r = apply(tree, filters, threads, chains, count, error);
	for (size_t i = 0; chains && i < count; i++)
		array_deinit(&chains[i]);
	free(chains);
	return r;
}
