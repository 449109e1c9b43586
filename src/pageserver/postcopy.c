/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The urgent stream and the thread that answers faults with it. It runs from the PREPARE on, since building the rest of the
 * tree may touch missing pages already. When the stream breaks it ends; the session's thread starts it anew when the
 * source has come back with another stream.
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
	if (r == 0)
		session->urgent = steal_ptr(stream);
	pthread_mutex_unlock(&session->lock);
	if (r == 0)
		session_wake(session);
	return r;
}

static void *fault_main(void *argument)
{
	struct session *session = argument;
	struct error error = ERROR_INIT;
	int r = lazy_run_faults(session->lazy, session->urgent, session->cut_fd, &error);

	if (r < 0)
		log_debug(session->log, "session %s: urgent stream: %s", session->text, error_text(&error, r));
	if (r < 0 && session_phase(session) <= PHASE_PREPARED)
		session_fail(session, &error);
	pthread_mutex_lock(&session->lock);
	session->fault_done = true;
	session->fault_result = r;
	pthread_mutex_unlock(&session->lock);
	session_wake(session);
	return NULL;
}

int session_start_faults(struct session *session, struct error *error)
{
	bool ready;
	int r;

	pthread_mutex_lock(&session->lock);
	ready = session->urgent && !session->fault_started && session->lazy && session->phase < PHASE_COMPLETE;
	if (ready)
		session->fault_done = false;
	pthread_mutex_unlock(&session->lock);
	if (!ready)
		return 0;
	r = -pthread_create(&session->fault_thread, NULL, fault_main, session);
	if (r < 0)
		return error_set_errno(error, r, "cannot start the fault thread");
	session->fault_started = true;
	return 0;
}

void session_end_faults(struct session *session)
{
	struct stream *urgent;

	if (session->fault_started)
		pthread_join(session->fault_thread, NULL);
	session->fault_started = false;
	pthread_mutex_lock(&session->lock);
	urgent = steal_ptr(&session->urgent);
	session->fault_done = false;
	pthread_mutex_unlock(&session->lock);
	stream_free(urgent);
}

void session_cut(struct session *session)
{
	eventfd_t value;

	eventfd_write(session->cut_fd, 1);
	session_end_bulk(session);
	session_end_faults(session);
	(void)eventfd_read(session->cut_fd, &value);
}
