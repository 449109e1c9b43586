/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The go. In this order, as the downtime runs: the tree stops dying with its tracer; the journal says COMMITTED; the lock
 * on its connections goes; ptrace lets go of the tree, which its cgroup still holds; one write thaws it; the source is told.
 * What only tidies up comes after that.
 *
 * A failure before the thaw leaves nothing that could run: the session is aborted and the tree killed. If this program dies
 * in between, the next one finds PREPARED in the journal, kills what may be left in the frozen cgroup, and the session is
 * aborted; or it finds COMMITTED, and so the whole tree, in the cgroup or thawed already: it runs. (Were COMMITTED written
 * first, what is found alive could be about to die with its tracer.)
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "image/tcp-repair.h"
#include "net/lock.h"
#include "session.h"
#include "util/cleanup.h"
#include "util/stop-point.h"

#define LOCKS_WAIT (3 * CLOCK_S)

static int keep(struct session *session, struct error *error)
{
	int r;

	pthread_rwlock_wrlock(&session->tree_lock);
	r = restore_tree_keep(session->tree, error);
	pthread_rwlock_unlock(&session->tree_lock);
	return r;
}

/* It stays frozen and will be killed: of that its peers are not to hear, as the source has their connections. */
static void take_back(struct session *session)
{
	struct error error = ERROR_INIT;

	if (!session->net_lock)
		return;
	if (net_lock_engage(session->net_lock, &session->tuples, &error) < 0)
		log_error(session->log, "session %s: %s", session->text, error.message);
	for (size_t i = 0; i < session->process_count; i++) {
		error_clear(&error);
		if (journal_process_alive(&session->processes[i]) && image_tcp_hush(session->processes[i].pid, &error) < 0)
			log_error(session->log, "session %s: %s", session->text, error.message);
	}
}

static int go(struct session *session, struct error *error)
{
	int r;

	pthread_rwlock_wrlock(&session->tree_lock);
	session->tree->lock = session->net_lock; /* it goes before anything of the tree asks its peers */
	restore_tree_go(session->tree);
	pthread_rwlock_unlock(&session->tree_lock);
	stop_point("let-go");
	if (!session->freezer)
		return 0;
	/* The write is what thaws; that the kernel says so may take milliseconds. */
	r = freezer_thaw(session->freezer, STREAM_NOWAIT, error);
	if (r == -ETIMEDOUT) {
		error_clear(error);
		r = 0;
	}
	if (r == 0)
		return 0;
	/* The cgroup's end sets it free as well. */
	log_error(session->log, "session %s: %s", session->text, error_text(error, r));
	error_clear(error);
	r = freezer_remove(session->freezer, clock_deadline(5 * CLOCK_S), error);
	if (r < 0)
		take_back(session);
	return r;
}

/* Locks first: their list is the tree's. */
static void tidy(struct session *session)
{
	char name[WIRE_SESSION_TEXT + 16];
	struct error error = ERROR_INIT;
	struct freezer *freezer = NULL;

	session_drop_ready_lazy(session);
	session->locks = restore_locks_steal(session->tree);
	pthread_rwlock_wrlock(&session->tree_lock);
	restore_tree_free(session->tree);
	session->tree = NULL;
	pthread_rwlock_unlock(&session->tree_lock);
	image_set_free(session->images);
	session->images = NULL;
	if (!session->freezer)
		return;
	/* Taken over anew: one that does not know that the shells came from our own cgroup puts them beside it. */
	snprintf(name, sizeof(name), "pagestream-%s", session->text);
	if (freezer_thaw(session->freezer, clock_deadline(5 * CLOCK_S), &error) < 0)
		log_warning(session->log, "session %s: %s", session->text, error.message);
	error_clear(&error);
	if (freezer_new(name, 1, &freezer, NULL) == 0 && strcmp(freezer_path(freezer), freezer_path(session->freezer)) == 0 &&
	    freezer_remove(freezer, clock_deadline(5 * CLOCK_S), &error) < 0)
		log_warning(session->log, "session %s: %s", session->text, error.message);
	freezer_free(freezer);
	freezer_free(steal_ptr(&session->freezer));
}

int request_commit(struct session *session, const struct buffer *payload, struct error *error)
{
	struct error local = ERROR_INIT;
	int r = session_check_failure(session, error);

	if (r == 0)
		r = keep(session, error);
	stop_point("kept");
	if (r == 0)
		r = session_journal(session, JOURNAL_COMMITTED, error);
	if (r == 0)
		r = session_set_phase(session, PHASE_COMMITTED, error);
	if (r == 0)
		r = go(session, error);
	if (r < 0)
		return r;
	session_lock_release(session);
	session_lock_give_held(session);
	session_hook_running(session);
	session_set_phase(session, PHASE_RUNNING, NULL);
	r = session_send(session, WIRE_RUNNING, NULL, error);
	stop_point("running-sent");
	/* After the answer, which the downtime waits for: a restart finds a thawed tree running, whatever this says. */
	if (session_journal(session, JOURNAL_RUNNING, &local) < 0)
		log_error(session->log, "session %s: %s", session->text, local.message);
	log_info(session->log, "session %s: PID %d of %s runs here, %llu pages are to come", session->text,
		 session->processes[0].pid, session->peer, (unsigned long long)session->missing);
	tidy(session);
	if (!session->lazy) {
		int done = request_commit_complete(session, r < 0 ? NULL : error);

		return r < 0 ? r : done;
	}
	return r;
}

int request_commit_complete(struct session *session, struct error *error)
{
	WireComplete message = WIRE_COMPLETE__INIT;
	struct lazy_statistics statistics = { 0 };
	struct error local = ERROR_INIT;

	if (session->lazy)
		lazy_statistics(session->lazy, &statistics);
	session->has_keeper = false;
	session_set_phase(session, PHASE_COMPLETE, NULL);
	atomic_store(&session->last_traffic, clock_now_ns());
	if (session_journal(session, JOURNAL_RUNNING, &local) < 0)
		log_error(session->log, "session %s: %s", session->text, local.message);
	message.has_faults = message.has_fault_us_p50 = message.has_fault_us_p99 = message.has_zero_filled = true;
	message.faults = statistics.faults;
	message.fault_us_p50 = statistics.p50_us;
	message.fault_us_p99 = statistics.p99_us;
	message.zero_filled = statistics.zero_filled;
	/* Without the source: it asks when it comes back. */
	return session->control ? session_send(session, WIRE_COMPLETE, &message.base, error) : 0;
}

int request_ended_locks(struct session *session, size_t *ret_left, struct error *error)
{
	size_t left = 0;
	int r;

	if (!session->locks) {
		*ret_left = 0;
		return 0;
	}
	r = restore_locks_take(session->locks, clock_deadline(CLOCK_S), &left, error);
	if (r == 0 && left == 0) {
		restore_locks_free(session->locks);
		session->locks = NULL;
	}
	*ret_left = left;
	return r;
}

int request_ended(struct session *session, const struct buffer *payload, struct error *error)
{
	int64_t deadline = clock_deadline(LOCKS_WAIT);
	struct error local = ERROR_INIT;
	size_t left = 0;
	int r;

	while ((r = request_ended_locks(session, &left, &local)) == 0 && left && clock_now_ns() < deadline)
		usleep(2000);
	if (r < 0 || left)
		log_warning(session->log, "session %s: %zu locks on files could not be taken over%s%s", session->text, left,
			    r < 0 ? ": " : "", r < 0 ? local.message : "");
	error_clear(&local);
	if (session_journal(session, JOURNAL_DONE, &local) < 0)
		log_error(session->log, "session %s: %s", session->text, local.message);
	r = session_send(session, WIRE_FINISHED, NULL, error);
	session_set_phase(session, PHASE_FINISHED, NULL);
	return r;
}
