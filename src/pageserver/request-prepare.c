/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything but the go. Missing pages are dropped from the shells, so that none of an earlier round is taken for the last
 * one, and a userfaultfd is laid over the mappings that have some. Then the tree is finished and frozen by its cgroup: from
 * here on it would stand still even if its tracer were gone.
 */
#include <errno.h>
#include <stdlib.h>

#include "session.h"
#include "util/cleanup.h"
#include "util/stop-point.h"

static int add_missing(struct session *session, const session_ranges *missing, size_t first, size_t end,
		       struct error *error)
{
	struct restore_process *process = restore_tree_find(session->tree, missing->items[first].pid);
	struct lazy_run *runs = calloc(end - first, sizeof(*runs));
	int r;

	if (!runs)
		return error_set_errno(error, -ENOMEM, "cannot take the list of missing pages");
	for (size_t i = first; i < end; i++) {
		runs[i - first].address = missing->items[i].address;
		runs[i - first].pages = missing->items[i].pages;
		session->missing += missing->items[i].pages;
	}
	r = lazy_add(session->lazy, process->tracee, runs, end - first, NULL, session->tree->deadline, error);
	array_for_each(sharer, &session->tree->processes)
		if (r == 0 && (*sharer)->owner == process)
			r = lazy_add_sharer(session->lazy, (*sharer)->tracee, error);
	free(runs);
	return r;
}

static int start_lazy(struct session *session, const session_ranges *missing, struct error *error)
{
	int r = session_ranges_drop(session, missing, error);

	if (r == 0)
		r = session_ready_lazy(session, error);
	if (r < 0)
		return r;
	session->lazy = steal_ptr(&session->ready_lazy);
	session->has_keeper = true;
	for (size_t i = 0, end; r == 0 && i < missing->count; i = end) {
		for (end = i; end < missing->count && missing->items[end].pid == missing->items[i].pid; end++)
			;
		r = add_missing(session, missing, i, end, error);
	}
	return r < 0 ? r : session_start_faults(session, error);
}

static int finish(struct session *session, const session_ranges *missing, struct error *error)
{
	int r = 0;

	session->tree->deadline = clock_deadline(SESSION_WORK);
	if (missing->count)
		r = start_lazy(session, missing, error);
	if (r == 0)
		r = restore_tree_finish(session->tree, session->images, error);
	stop_point("restored");
	if (r == 0)
		r = session_note_processes(session, error);
	if (r == 0 && session->freezer)
		r = freezer_freeze(session->freezer, true, clock_deadline(10 * CLOCK_S), error);
	return r;
}

static bool has_urgent(struct session *session)
{
	bool has;

	pthread_mutex_lock(&session->lock);
	has = session->urgent != NULL;
	pthread_mutex_unlock(&session->lock);
	return has;
}

int request_prepare(struct session *session, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	const WirePrepare *message;
	session_ranges missing = { 0 };
	int r = wire_unpack(payload, &wire_prepare__descriptor, &base, error);

	if (r < 0)
		return r;
	message = (const WirePrepare *)base;
	if (!session->frozen)
		return error_set(error, -EPROTO, "PREPARE came before the last round");
	if (message->n_missing && !has_urgent(session))
		return error_set(error, -EPROTO, "PREPARE names missing pages, but there is no urgent stream");
	r = session_ranges_check(message->missing, message->n_missing, &missing, error);
	if (r < 0)
		return r;
	r = session_lock_check_addresses(session, error);
	if (r < 0) {
		array_deinit(&missing);
		return r;
	}
	pthread_rwlock_wrlock(&session->tree_lock);
	r = finish(session, &missing, error);
	pthread_rwlock_unlock(&session->tree_lock);
	array_deinit(&missing);
	if (r == 0)
		r = session_journal(session, JOURNAL_PREPARED, error);
	if (r == 0)
		r = session_set_phase(session, PHASE_PREPARED, error);
	return r < 0 ? r : session_send(session, WIRE_PREPARED, NULL, error);
}
