/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A round begins: the tree is brought to the records that have come. The shells sit in a cgroup of their own from the
 * beginning, as moving a process costs milliseconds; clones of a shell are born into it.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "restore/files.h"
#include "session.h"
#include "util/cleanup.h"

/*
 * Below the cgroup of init, so that what ends this program's cgroup does not end the tree, which is to be left there.
 * Without cgroup v2 the tree is let go process by process.
 */
static int freezer_make(struct session *session, struct error *error)
{
	char name[WIRE_SESSION_TEXT + 16];
	struct error local = ERROR_INIT;
	int r;

	snprintf(name, sizeof(name), "pagestream-%s", session->text);
	r = freezer_new(name, 1, &session->freezer, &local);
	if (r < 0) {
		error_clear(&local);
		r = freezer_new(name, getpid(), &session->freezer, &local);
	}
	if (r == -EOPNOTSUPP) {
		log_warning(session->log, "session %s: %s: the processes of the tree are let go one by one", session->text,
			    local.message);
		return 0;
	}
	return r < 0 ? error_set(error, r, "%s", error_text(&local, r)) : 0;
}

static int freezer_fill(struct session *session, struct error *error)
{
	int r = 0;

	if (!session->freezer)
		return 0;
	array_for_each(process, &session->tree->processes) {
		if (r == 0 && (*process)->created)
			r = freezer_add(session->freezer, (*process)->pid, error);
	}
	return r;
}

/* What outlives the shells is in the journal before it is made. */
static int note_ipc(struct session *session, struct error *error)
{
	struct image_ipcs now = { 0 };
	bool is_new = false;
	int r = image_ipc_list(session->images, &now, error);

	array_for_each(object, &now.list) {
		if (r < 0 || image_ipc_has(&session->ipc, object))
			continue;
		is_new = true;
		r = array_append(&session->ipc.list, *object) < 0 ? error_set(error, -ENOMEM, "out of memory") : 0;
	}
	image_ipcs_deinit(&now);
	return r == 0 && is_new ? session_journal(session, JOURNAL_STARTED, error) : r;
}

static int layout(struct session *session, unsigned depth, struct error *error)
{
	int64_t begin = clock_now_ns();
	int r = 0;

	pthread_rwlock_wrlock(&session->tree_lock);
	if (!session->tree) {
		r = restore_tree_new(&session->restore, session->log, &session->tree, error);
		if (r == 0)
			session->tree->queue = session->queue;
		if (r == 0)
			r = freezer_make(session, error);
		if (r == 0)
			r = session_journal(session, JOURNAL_STARTED, error);
		if (r == 0)
			r = session_lock_prepare(session, error);
	}
	if (r == 0)
		r = note_ipc(session, error);
	if (r == 0 && session->frozen)
		r = session_lock_engage(session, error);
	if (r == 0) {
		session->tree->deadline = clock_deadline(SESSION_WORK);
		session->tree->depth = depth;
		r = restore_tree_layout(session->tree, session->images, error);
	}
	if (r == 0)
		r = freezer_fill(session, error);
	if (r == 0)
		r = session_hook_prepare(session, error);
	if (r == 0 && session->postcopy)
		r = session_ready_lazy(session, error);
	pthread_rwlock_unlock(&session->tree_lock);
	log_debug(session->log, "session %s: layout %u in %lld us", session->text, session->round,
		  (long long)((clock_now_ns() - begin) / 1000));
	return r;
}

int request_layout(struct session *session, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	_cleanup_free_ uint32_t *made = NULL;
	WireRound answer = WIRE_ROUND__INIT;
	const WireLayout *message;
	int r = wire_unpack(payload, &wire_layout__descriptor, &base, error);

	if (r < 0)
		return r;
	message = (const WireLayout *)base;
	if (message->round <= session->round || session->frozen)
		return error_set(error, -EPROTO, "round %u cannot follow %sround %u", message->round,
				 session->frozen ? "the last " : "", session->round);
	session->round = message->round;
	session->frozen = message->frozen;
	image_set_free(session->images);
	session->images = session->incoming;
	session->incoming = NULL;
	r = image_set_new(&session->incoming);
	if (r == 0)
		r = layout(session, message->has_depth ? message->depth : UINT_MAX, error);
	if (r == 0)
		r = session_set_phase(session, PHASE_LAID_OUT, error);
	if (r < 0)
		return r;
	answer.round = session->round;
	answer.n_files_made = restore_files_made(session->tree, NULL, 0);
	made = calloc(answer.n_files_made + 1, sizeof(*made));
	if (!made)
		return error_set(error, -ENOMEM, "out of memory");
	restore_files_made(session->tree, made, answer.n_files_made);
	answer.files_made = made;
	return session_send(session, WIRE_LAID_OUT, &answer.base, error);
}
