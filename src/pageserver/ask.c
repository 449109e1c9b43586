/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"
#include "util/cleanup.h"

#define ASK_WAIT (10 * CLOCK_S)

struct ask {
	struct registry *registry;      /* borrowed: counts this thread */
	struct stream *stream;          /* owned */
	uint8_t id[WIRE_SESSION_SIZE];  /* of whom */
	uint8_t token[WIRE_TOKEN_SIZE]; /* proof, if `has_token` */
	bool has_token;
};

static void ask_free(struct ask *ask)
{
	stream_free(ask->stream);
	free(ask);
}

static enum wire_answer answer_of_phase(enum phase phase)
{
	if (phase == PHASE_ABORTED)
		return WIRE_STATE_ABORTED;
	/* COMMITTED may still fail; it is over in milliseconds, and the source asks again. */
	if (PHASE_BIT(phase) & (PHASE_BEFORE_COMMIT | PHASE_BIT(PHASE_COMMITTED)))
		return WIRE_STATE_PREPARED;
	return WIRE_STATE_RUNNING;
}

/* Of a session that does not live here. */
static enum wire_answer answer_of_journal(const JournalEntry *entry)
{
	switch (entry->phase) {
	/* It ended, and ABORTED could not be written. recover.c has seen to those of earlier page servers. */
	case JOURNAL_STARTED:
	case JOURNAL_PREPARED:
	case JOURNAL_RUNNING:
	case JOURNAL_DONE:
		return WIRE_STATE_RUNNING;
	case JOURNAL_ABORTED:
		return WIRE_STATE_ABORTED;
	default:
		return WIRE_STATE_UNKNOWN;
	}
}

static void answer(struct ask *ask, WireAnswer *ret)
{
	struct session *session = registry_find(ask->registry, ask->id);
	JournalEntry *entry = NULL;

	ret->state = WIRE_STATE_UNKNOWN;
	if (session) {
		enum phase phase = session_phase(session);

		ret->state = answer_of_phase(phase);
		ret->has_missing = phase == PHASE_RUNNING;
		ret->missing = phase == PHASE_RUNNING;
		if (phase == PHASE_RUNNING) {
			struct lazy_statistics statistics = { 0 };

			pthread_rwlock_rdlock(&session->tree_lock);
			if (session->lazy)
				lazy_statistics(session->lazy, &statistics);
			pthread_rwlock_unlock(&session->tree_lock);
			if (statistics.missing_left)
				ret->missing = statistics.missing_left;
		}
		registry_put(ask->registry, session);
	} else if (journal_read(ask->registry->dir_fd, ask->id, &entry, NULL) == 0) {
		if (entry->side == JOURNAL_TARGET)
			ret->state = answer_of_journal(entry);
		ret->has_missing = entry->has_missing;
		ret->missing = entry->missing;
		journal_entry__free_unpacked(entry, NULL);
	}
}

/* Who asks has given up the control stream: what comes on it no more need not be waited for. */
static void give_up(struct session *session)
{
	struct error error = ERROR_INIT;

	error_set(&error, -ECANCELED, "the source has lost the connection and asks anew");
	session_fail(session, &error);
}

/* 1: the session has the stream now, and answers itself when it is ready for new streams. */
static int try_take_over(struct ask *ask)
{
	struct session *session = ask->has_token ? registry_find(ask->registry, ask->id) : NULL;
	enum phase phase;
	int taken = 0;

	if (!session)
		return 0;
	phase = session_phase(session);
	if (!session_token_is(session, ask->token, sizeof(ask->token))) {
		taken = 0;
	} else if (PHASE_BIT(phase) & PHASE_BEFORE_COMMIT) {
		give_up(session);
	} else if (answer_of_phase(phase) == WIRE_STATE_RUNNING) {
		taken = session_take_over(session, &ask->stream);
	}
	registry_put(ask->registry, session);
	return taken;
}

/*
 * A session that nobody holds any more needs the source no more, if it runs: ENDED is answered at once. For one that has
 * stopped living here only for a moment (in the middle of ending) the same is true.
 */
static int ask_once(struct ask *ask, struct buffer *payload, struct error *error)
{
	WireAnswer message = WIRE_ANSWER__INIT;
	struct frame frame;
	int r = frame_read(ask->stream, &wire_table_server, &frame, payload, clock_deadline(ASK_WAIT), error);

	if (r < 0)
		return r;
	if (frame.type == WIRE_ASK_STATE && try_take_over(ask))
		return 1;
	answer(ask, &message);
	if (frame.type == WIRE_ENDED && message.state == WIRE_STATE_RUNNING && message.missing == 0)
		return wire_send(ask->stream, WIRE_FINISHED, NULL, clock_deadline(ASK_WAIT), error);
	if (frame.type != WIRE_ASK_STATE)
		return error_set(error, -EPROTO, "%s is not allowed on a stream that asks", wire_type_name(frame.type));
	return wire_send(ask->stream, WIRE_ANSWER, &message.base, clock_deadline(ASK_WAIT), error);
}

static void *ask_main(void *argument)
{
	struct ask *ask = argument;
	struct registry *registry = ask->registry;
	struct error error = ERROR_INIT;
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	int r = session_welcome(registry, ask->stream, NULL, &error);

	while (r == 0)
		r = ask_once(ask, &payload, &error);
	if (r < 0 && r != -ENODATA) {
		log_warning(registry->log, "%s: %s", stream_label(ask->stream), error_text(&error, r));
		wire_send_failure(ask->stream, r, error_text(&error, r));
	}
	ask_free(ask);
	registry_helper_end(registry);
	return NULL;
}

int ask_start(struct registry *registry, struct stream **stream, const uint8_t id[WIRE_SESSION_SIZE],
	      const uint8_t *token, size_t token_size, struct error *error)
{
	_cleanup_stream_ struct stream *owned = steal_ptr(stream);
	struct ask *ask = calloc(1, sizeof(*ask));
	pthread_attr_t attributes;
	pthread_t thread;
	int r;

	if (!ask)
		return error_set_errno(error, -ENOMEM, "cannot answer");
	ask->registry = registry;
	memcpy(ask->id, id, WIRE_SESSION_SIZE);
	ask->has_token = token && token_size == WIRE_TOKEN_SIZE;
	if (ask->has_token)
		memcpy(ask->token, token, WIRE_TOKEN_SIZE);
	r = registry_helper_begin(registry);
	if (r < 0) {
		free(ask);
		return error_set(error, r, "the page server is ending");
	}
	ask->stream = steal_ptr(&owned);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	r = -pthread_create(&thread, &attributes, ask_main, ask);
	pthread_attr_destroy(&attributes);
	if (r < 0) {
		ask_free(ask);
		registry_helper_end(registry);
		return error_set_errno(error, r, "cannot answer");
	}
	return 0;
}
