/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The session's thread: reads the control stream, frame by frame, and calls the request that the frame names, if the phase
 * allows it.
 *
 * Happy path: the phases of phase.h in order. Before the commit every failure - a broken stream, a bad frame, silence, a
 * failure left by another thread - ends the session: the tree is killed, the journal says ABORTED, the source is told why.
 * After the commit nothing here ends the tree: a broken control stream is closed and the thread waits until the source
 * comes back with an ASK stream.
 */
#include "session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

#include "util/cleanup.h"
#include "util/stop-point.h"

#define TICK          (500 * CLOCK_MS) /* how often a silent stream is looked up from */
#define LOCKS_TICK_MS 200

struct request {
	enum wire_type type; /* frame that asks for it */
	unsigned phases;     /* PHASE_BIT()s in which it is allowed */
	int (*run)(struct session *session, const struct buffer *payload, struct error *error);
};

static int request_abort(struct session *session, const struct buffer *payload, struct error *error)
{
	return error_set(error, -ECANCELED, "the source gives up");
}

/* A round may have no pages: then the next layout follows at once. */
#define BETWEEN_PAGES (PHASE_BIT(PHASE_CHECKED) | PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_ROUND))

static const struct request requests[] = {
	{ WIRE_IMAGE, PHASE_BIT(PHASE_NEW) | BETWEEN_PAGES, request_image },
	{ WIRE_PREFLIGHT, PHASE_BIT(PHASE_NEW), request_preflight },
	{ WIRE_LAYOUT, BETWEEN_PAGES, request_layout },
	{ WIRE_DROP, PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_ROUND), request_drop },
	{ WIRE_ROUND_END, PHASE_BIT(PHASE_LAID_OUT) | PHASE_BIT(PHASE_ROUND), request_round_end },
	{ WIRE_PREPARE, PHASE_BIT(PHASE_ROUND), request_prepare },
	{ WIRE_PACKETS, PHASE_BIT(PHASE_PREPARED), request_packets },
	{ WIRE_COMMIT, PHASE_BIT(PHASE_PREPARED), request_commit },
	{ WIRE_ABORT, PHASE_BEFORE_COMMIT, request_abort },
	{ WIRE_ASK_STATE, PHASE_BIT(PHASE_RUNNING) | PHASE_BIT(PHASE_COMPLETE), request_ask_state },
	{ WIRE_ENDED, PHASE_BIT(PHASE_COMPLETE), request_ended },
};

/* ---- small things ------------------------------------------------------------------------------------------------- */

void session_wake(struct session *session)
{
	eventfd_write(session->wake_fd, 1);
}

void session_fail(struct session *session, const struct error *error)
{
	pthread_mutex_lock(&session->lock);
	if (session->failure.code == 0)
		session->failure = *error;
	pthread_cond_broadcast(&session->changed);
	pthread_mutex_unlock(&session->lock);
	session_wake(session);
}

bool session_token_is(const struct session *session, const uint8_t *token, size_t size)
{
	volatile uint8_t difference = 0;

	if (size != WIRE_TOKEN_SIZE)
		return false;
	for (size_t i = 0; i < WIRE_TOKEN_SIZE; i++)
		difference |= (uint8_t)(token[i] ^ session->token[i]);
	return difference == 0;
}

enum phase session_phase(struct session *session)
{
	enum phase phase;

	pthread_mutex_lock(&session->lock);
	phase = session->phase;
	pthread_mutex_unlock(&session->lock);
	return phase;
}

int session_set_phase(struct session *session, enum phase phase, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&session->lock);
	if (phase_may_follow(session->phase, phase))
		session->phase = phase;
	else
		r = error_set(error, -EPROTO, "the session is %s and cannot become %s", phase_name(session->phase),
			      phase_name(phase));
	pthread_mutex_unlock(&session->lock);
	if (r < 0)
		return r;
	log_debug(session->log, "session %s: %s", session->text, phase_name(phase));
	stop_point("%s", phase_name(phase));
	return 0;
}

int session_send(struct session *session, enum wire_type type, const ProtobufCMessage *message, struct error *error)
{
	int r;

	if (!session->control)
		return error_set(error, -ENOTCONN, "the source is not connected");
	stream_set_cancel(session->control, -1);
	r = wire_send(session->control, type, message, clock_deadline(SESSION_ANSWER), error);
	stream_set_cancel(session->control, session->wake_fd);
	return r;
}

bool session_take_over(struct session *session, struct stream **stream)
{
	struct stream *old = NULL;
	bool taken;

	pthread_mutex_lock(&session->lock);
	taken = session->phase < PHASE_FINISHED && !session->stop && !session->ended;
	if (taken) {
		old = session->control_next;
		session->control_next = steal_ptr(stream);
	}
	pthread_mutex_unlock(&session->lock);
	stream_free(old);
	session_wake(session);
	return taken;
}

void session_lose_source(struct session *session)
{
	pthread_mutex_lock(&session->lock);
	session->broken = true;
	pthread_mutex_unlock(&session->lock);
	session_wake(session);
}

static void drain(int fd)
{
	eventfd_t value;

	(void)eventfd_read(fd, &value);
}

static void drop_control(struct session *session)
{
	stream_free(session->control);
	session->control = NULL;
	frame_reader_deinit(&session->reader);
	frame_reader_init(&session->reader, &wire_table_server);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------ */

int session_check_failure(struct session *session, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&session->lock);
	if (session->failure.code < 0)
		r = error_set(error, session->failure.code, "%s", session->failure.message);
	else if (session->stop)
		r = error_set(error, -ECANCELED, "the page server is ending");
	pthread_mutex_unlock(&session->lock);
	return r;
}

static int check_idle(struct session *session, struct error *error)
{
	int64_t since = clock_now_ns() - atomic_load(&session->last_traffic);

	if (since > stop_point_wait(SESSION_IDLE))
		return error_set(error, -ETIMEDOUT, "nothing has come from the source for %d s", (int)(since / CLOCK_S));
	return 0;
}

/* A frame of a session that has not been committed. */
static int next_frame(struct session *session, struct error *error)
{
	int r;

	for (;;) {
		struct error local = ERROR_INIT;

		r = frame_reader_next(&session->reader, session->control, clock_deadline(TICK), &local);
		if (r != -ETIMEDOUT && r != -ECANCELED) {
			atomic_store(&session->last_traffic, clock_now_ns());
			if (r == -ENODATA)
				return error_set(error, -ECONNRESET, "the source has closed the connection");
			return r < 0 ? error_set(error, r, "%s", error_text(&local, r)) : 0;
		}
		if (r == -ECANCELED)
			drain(session->wake_fd);
		r = session_check_failure(session, error);
		if (r == 0)
			r = check_idle(session, error);
		if (r < 0)
			return r;
	}
}

/* ---- before the commit -------------------------------------------------------------------------------------------- */

static int peer_failure(const struct buffer *payload, struct error *error)
{
	WireFailure *failure = wire_failure__unpack(NULL, payload->size, payload->data);

	error_set(error, -ECANCELED, "the source gives up: %s", failure ? failure->message : "no reason given");
	if (failure)
		wire_failure__free_unpacked(failure, NULL);
	return -ECANCELED;
}

static int run_request(struct session *session, struct error *error)
{
	enum wire_type type = session->reader.frame.type;
	enum phase phase = session_phase(session);

	if (type == WIRE_FAILURE)
		return peer_failure(&session->reader.payload, error);
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		if (requests[i].type == type && (requests[i].phases & PHASE_BIT(phase)))
			return requests[i].run(session, &session->reader.payload, error);
	return error_set(error, -EPROTO, "%s is not allowed while the session is %s", wire_type_name(type),
			 phase_name(phase));
}

/* A commit that failed after the tree was let go, but before the thaw: nothing of it may see one. */
static void kill_let_go(struct session *session)
{
	if (session->tree && !session->tree->running)
		return;
	for (size_t i = session->process_count; i-- > 0;)
		if (journal_process_alive(&session->processes[i]))
			kill(session->processes[i].pid, SIGKILL);
	array_for_each(object, &session->ipc.list)
		image_ipc_remove(object);
}

static int kill_tree(struct session *session)
{
	int r = 0;

	pthread_rwlock_wrlock(&session->tree_lock);
	kill_let_go(session);
	/* Ending a shell runs calls in its parent's. */
	if (session->freezer)
		freezer_thaw(session->freezer, STREAM_NOWAIT, NULL);
	restore_tree_free(session->tree);
	session->tree = NULL;
	pthread_rwlock_unlock(&session->tree_lock);
	session_lock_release(session);
	if (session->freezer)
		r = freezer_remove(session->freezer, clock_deadline(2 * CLOCK_S), NULL);
	return r;
}

static void abort_session(struct session *session, const struct error *error)
{
	struct error local = ERROR_INIT;
	enum phase phase = session_phase(session);
	bool has_prepared = phase == PHASE_PREPARED || phase == PHASE_COMMITTED, is_gone, hook_was_due, had_ipc;

	/* Written before anybody is told, or anything done: from here on it will never run, whatever happens to us. */
	if (phase != PHASE_NEW && session_journal(session, JOURNAL_ABORTED, &local) < 0)
		log_error(session->log, "session %s of %s: %s", session->text, session->peer, local.message);
	session_set_phase(session, PHASE_ABORTED, NULL);
	eventfd_write(session->cut_fd, 1);
	is_gone = kill_tree(session) == 0;
	log_error(session->log, "session %s of %s, %s: %s", session->text, session->peer, phase_name(phase),
		  error->message);
	if (session->control) {
		stream_set_cancel(session->control, -1);
		wire_send_failure(session->control, error->code, error->message);
	}
	had_ipc = session->ipc.list.count > 0;
	image_ipcs_deinit(&session->ipc); /* they are removed */
	hook_was_due = session->hook_prepared;
	session_hook_aborted(session);
	/* Without PREPARED no COMMIT is sent, so nobody will ever ask. */
	if (is_gone && !has_prepared)
		journal_remove(session->registry->dir_fd, session->id, NULL);
	else if ((hook_was_due || had_ipc) && session_journal(session, JOURNAL_ABORTED, &local) < 0)
		log_error(session->log, "session %s of %s: %s", session->text, session->peer, local.message);
}

static bool is_committed(struct session *session)
{
	enum phase phase = session_phase(session);

	return !(PHASE_BEFORE_COMMIT & PHASE_BIT(phase)) && phase != PHASE_ABORTED;
}

static int run_before_commit(struct session *session)
{
	struct error error = ERROR_INIT;
	int r = session_welcome(session->registry, session->control, session->token, &error);

	stop_point("%s", phase_name(PHASE_NEW));
	stream_set_cancel(session->control, session->wake_fd);
	while (r == 0 && !is_committed(session)) {
		r = next_frame(session, &error);
		if (r == -ECONNRESET && session->dry_run && session_phase(session) == PHASE_CHECKED)
			return -ECANCELED;
		if (r == 0)
			r = run_request(session, &error);
	}
	/* A commit that went wrong before the go has left the phase at COMMITTED. */
	if (r < 0 && session_phase(session) != PHASE_RUNNING && session_phase(session) != PHASE_COMPLETE) {
		abort_session(session, &error);
		return r;
	}
	if (r < 0) {
		log_warning(session->log, "session %s of %s: %s", session->text, session->peer, error.message);
		drop_control(session);
	}
	return 0;
}

/* ---- after it ----------------------------------------------------------------------------------------------------- */

/* What the processes have done to their memory is not known any more: rather no copy than one with wrong pages. */
static int lose_tree(struct session *session, int result, struct error *error)
{
	session_cut(session);
	pthread_rwlock_wrlock(&session->tree_lock);
	lazy_free(session->lazy);
	session->lazy = NULL;
	pthread_rwlock_unlock(&session->tree_lock);
	session->has_keeper = false;
	session_journal(session, JOURNAL_IN_DOUBT, NULL);
	return error_set(error, -ENOTRECOVERABLE, "missing pages cannot be followed any more (%s): the tree is ended",
			 strerror(-result));
}

static int check_faults(struct session *session, struct error *error)
{
	bool done;
	int result;

	pthread_mutex_lock(&session->lock);
	done = session->fault_done;
	result = session->fault_result;
	session->fault_done = false;
	pthread_mutex_unlock(&session->lock);
	if (!done)
		return 0;
	if (result < 0)
		return lose_tree(session, result, error);
	session_end_faults(session);
	return request_commit_complete(session, error);
}

static void take_next_control(struct session *session)
{
	struct error error = ERROR_INIT;
	struct stream *next;

	pthread_mutex_lock(&session->lock);
	next = steal_ptr(&session->control_next);
	pthread_mutex_unlock(&session->lock);
	if (!next)
		return;
	drop_control(session);
	session_cut(session);
	pthread_mutex_lock(&session->lock);
	session->broken = false;
	pthread_mutex_unlock(&session->lock);
	session->control = next;
	stream_set_cancel(next, session->wake_fd);
	if (session_start_faults(session, &error) < 0)
		log_error(session->log, "session %s: %s", session->text, error.message);
	error_clear(&error);
	log_info(session->log, "session %s: the source %s is back", session->text, stream_label(next));
	/* Its question was read by the thread that has handed it over. */
	if (request_ask_state(session, NULL, &error) < 0)
		drop_control(session);
}

static int wait_event(struct session *session, struct error *error)
{
	struct pollfd look = { .fd = session->wake_fd, .events = POLLIN };
	int r = -EAGAIN;

	if (session->control)
		r = frame_reader_next(&session->reader, session->control, clock_deadline(TICK), error);
	else
		poll(&look, 1, LOCKS_TICK_MS);
	if (r == -ECANCELED || r == -ETIMEDOUT || r == -EAGAIN) {
		drain(session->wake_fd);
		error_clear(error);
		return -EAGAIN;
	}
	return r;
}

/* COMPLETE, and the source does not come back: its copy is ended or will be, so locks are all that is open. */
static bool waited_enough(struct session *session)
{
	int64_t now = clock_now_ns();
	size_t left = 0;

	if (session_phase(session) != PHASE_COMPLETE || session->control)
		return false;
	if (session->locks)
		request_ended_locks(session, &left, NULL);
	return (left == 0 && !session->locks) || now - atomic_load(&session->last_traffic) > stop_point_wait(SESSION_GOODBYE);
}

static int check_broken(struct session *session, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&session->lock);
	if (session->broken && session->control)
		r = error_set(error, -ECONNRESET, "another stream of it is broken");
	session->broken = false;
	pthread_mutex_unlock(&session->lock);
	return r;
}

/* Not if the source has come back meanwhile. */
static void finish(struct session *session)
{
	bool back;

	pthread_mutex_lock(&session->lock);
	back = session->control_next != NULL;
	if (!back)
		session->phase = PHASE_FINISHED;
	pthread_mutex_unlock(&session->lock);
	if (back)
		return;
	session_journal(session, JOURNAL_DONE, NULL);
	stop_point("%s", phase_name(PHASE_FINISHED));
}

static void run_after_commit(struct session *session)
{
	while (session_phase(session) != PHASE_FINISHED) {
		struct error error = ERROR_INIT;
		int r;

		pthread_mutex_lock(&session->lock);
		r = session->stop;
		pthread_mutex_unlock(&session->lock);
		if (r)
			return;
		take_next_control(session);
		session_hook_check(session, false);
		r = session_start_faults(session, &error);
		if (r == 0)
			r = check_faults(session, &error);
		if (r == -ENOTRECOVERABLE) {
			log_error(session->log, "session %s: %s", session->text, error.message);
			return;
		}
		if (r == 0)
			r = check_broken(session, &error);
		if (r == 0)
			r = wait_event(session, &error);
		if (r == 0)
			r = run_request(session, &error);
		if (r < 0 && r != -EAGAIN && session->control) {
			log_warning(session->log, "session %s: lost the source %s: %s", session->text, session->peer,
				    error_text(&error, r));
			drop_control(session);
			atomic_store(&session->last_traffic, clock_now_ns());
		}
		if (waited_enough(session))
			finish(session);
	}
}

void *session_main(void *argument)
{
	struct session *session = argument;

	if (is_committed(session) || run_before_commit(session) == 0)
		run_after_commit(session);
	session_cut(session);
	session_drop_ready_lazy(session);
	session_hook_check(session, true);
	log_debug(session->log,
		  "session %s: ends %s: %llu pages, %llu zero, %llu found by hash, %llu hashes rejected, %llu pushed",
		  session->text, phase_name(session_phase(session)), (unsigned long long)session->counters.pages,
		  (unsigned long long)session->counters.zeros, (unsigned long long)session->counters.hashed,
		  (unsigned long long)session->counters.rejected, (unsigned long long)session->counters.pushed);
	/* The tracer of what may be left of the tree is this thread. */
	restore_tree_free(session->tree);
	session->tree = NULL;
	pthread_rwlock_wrlock(&session->tree_lock);
	if (is_committed(session))
		lazy_leave(session->lazy);
	else
		lazy_free(session->lazy);
	session->lazy = NULL;
	pthread_rwlock_unlock(&session->tree_lock);
	if (session->control)
		(void)stream_shutdown(session->control, clock_deadline(CLOCK_S), NULL);
	drop_control(session);
	pthread_mutex_lock(&session->lock);
	session->ended = true;
	pthread_mutex_unlock(&session->lock);
	/* It may be freed from here on, but for what session_free() waits for: this thread. */
	session->registry->wake(session->registry->wake_data);
	return NULL;
}
