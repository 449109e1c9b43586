/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The urgent stream and the thread that answers faults with it. It runs from the PREPARE on, since building the rest of the
 * tree may touch missing pages already, and until nothing is missing.
 *
 * When the stream breaks after the commit the thread goes on without one: faults wait, but forks and changes of the memory
 * map, which the kernel holds up until they are taken note of, go through, and so do pages on their way in the bulk
 * streams. The next urgent stream is taken as soon as it joins, and all who wait are asked for again.
 */
#include <errno.h>
#include <sys/eventfd.h>

#include "session.h"
#include "util/cleanup.h"

int session_welcome(struct registry *registry, struct stream *stream, const uint8_t *token, struct error *error)
{
	WireWelcome welcome = WIRE_WELCOME__INIT;

	welcome.version = WIRE_VERSION;
	welcome.boot_id = registry->boot_id;
	welcome.host = registry->host;
	if (token) {
		welcome.has_token = true;
		welcome.token.data = (uint8_t *)(uintptr_t)token;
		welcome.token.len = WIRE_TOKEN_SIZE;
	}
	return wire_send(stream, WIRE_WELCOME, &welcome.base, clock_deadline(10 * CLOCK_S), error);
}

int session_join_urgent(struct session *session, struct stream **stream, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&session->lock);
	if (session->phase == PHASE_NEW || session->phase >= PHASE_FINISHED || session->ended)
		r = error_set(error, -EPROTO, "the session is %s and takes no urgent stream",
			      phase_name(session->phase));
	else if (session->urgent)
		r = error_set(error, -EEXIST, "the session has an urgent stream already");
	else
		r = session_welcome(session->registry, *stream, NULL, error);
	if (r == 0) {
		session->urgent = steal_ptr(stream);
		eventfd_write(session->fault_fd, 1);
	}
	pthread_mutex_unlock(&session->lock);
	return r;
}

/* What to go on with. Under one lock with the wake-up, which must never interrupt a stream that is in use. */
static int next_stream(struct session *session, struct stream **ret, struct error *error)
{
	eventfd_t value;
	int r = 0;

	pthread_mutex_lock(&session->lock);
	(void)eventfd_read(session->fault_fd, &value);
	*ret = session->urgent;
	if (session->fault_end)
		r = error_set(error, -ECANCELED, "cancelled");
	pthread_mutex_unlock(&session->lock);
	return r;
}

static void drop_urgent(struct session *session)
{
	struct stream *urgent;

	pthread_mutex_lock(&session->lock);
	urgent = steal_ptr(&session->urgent);
	pthread_mutex_unlock(&session->lock);
	stream_free(urgent);
}

/* One stream's life, or the time without any. -EAGAIN: look for another one. */
static int run_faults(struct session *session, struct error *error)
{
	struct stream *urgent;
	int r = next_stream(session, &urgent, error);

	if (r < 0)
		return r;
	r = lazy_run_faults(session->lazy, urgent, session->fault_fd, error);
	if (r == -ECANCELED)
		return -EAGAIN;
	if (r == 0 || !urgent || r == -ENOTRECOVERABLE)
		return r;
	/* It goes on in any case: a COMMIT may come before the session's thread has noticed. */
	if (session_phase(session) <= PHASE_PREPARED) {
		session_fail(session, error);
	} else {
		log_warning(session->log,
			    "session %s: the urgent stream of %s is broken (%s); the tree waits for missing pages",
			    session->text, session->peer, error_text(error, r));
		session_lose_source(session);
	}
	drop_urgent(session);
	return -EAGAIN;
}

static void *fault_main(void *argument)
{
	struct session *session = argument;
	struct error error = ERROR_INIT;
	int r;

	while ((r = run_faults(session, &error)) == -EAGAIN)
		error_clear(&error);
	if (r < 0 && r != -ECANCELED)
		session_fail(session, &error);
	pthread_mutex_lock(&session->lock);
	session->fault_done = r != -ECANCELED;
	session->fault_result = r;
	pthread_mutex_unlock(&session->lock);
	session_wake(session);
	return NULL;
}

int session_start_faults(struct session *session, struct error *error)
{
	enum phase phase = session_phase(session);
	int r;

	if (session->fault_started || !session->lazy || phase >= PHASE_COMPLETE)
		return 0;
	pthread_mutex_lock(&session->lock);
	session->fault_done = session->fault_end = false;
	pthread_mutex_unlock(&session->lock);
	session_watch_keeper(session);
	r = -pthread_create(&session->fault_thread, NULL, fault_main, session);
	if (r < 0)
		return error_set_errno(error, r, "cannot start the fault thread");
	session->fault_started = true;
	return 0;
}

void session_end_faults(struct session *session)
{
	pthread_mutex_lock(&session->lock);
	session->fault_end = true;
	eventfd_write(session->fault_fd, 1);
	pthread_mutex_unlock(&session->lock);
	if (session->fault_started)
		pthread_join(session->fault_thread, NULL);
	session->fault_started = false;
	drop_urgent(session);
}

/* Bulk streams first: a page on its way may wait for the fault thread to read what the process has done. */
void session_cut(struct session *session)
{
	eventfd_t value;

	eventfd_write(session->cut_fd, 1);
	session_end_bulk(session);
	session_end_faults(session);
	(void)eventfd_read(session->cut_fd, &value);
}
