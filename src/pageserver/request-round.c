/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Within a round: pages that have gone; and its end, when all bulk streams have brought all of it. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "session.h"
#include "util/stop-point.h"

int request_drop(struct session *session, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	const WireRanges *message;
	session_ranges ranges = { 0 };
	int r = wire_unpack(payload, &wire_ranges__descriptor, &base, error);

	if (r < 0)
		return r;
	message = (const WireRanges *)base;
	r = session_ranges_check(message->ranges, message->n_ranges, &ranges, error);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&session->tree_lock);
	session->tree->deadline = clock_deadline(SESSION_WORK);
	r = session_ranges_drop(session, &ranges, error);
	pthread_rwlock_unlock(&session->tree_lock);
	array_deinit(&ranges);
	return r;
}

/* Lock held. */
static bool all_marked(const struct session *session)
{
	for (unsigned i = 0; i < session->bulk_count; i++)
		if (session->bulk[i].mark != session->round)
			return false;
	return true;
}

static void wait_a_second(struct session *session)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	pthread_cond_timedwait(&session->changed, &session->lock, &until);
}

/* Takes the marks and the rejected pages, so that a repetition of what was rejected ends with marks of its own. */
static int wait_for_marks(struct session *session, session_ranges *rejected, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&session->lock);
	while (r == 0 && !all_marked(session)) {
		if (session->failure.code < 0)
			r = error_set(error, session->failure.code, "%s", session->failure.message);
		else if (session->stop)
			r = error_set(error, -ECANCELED, "the page server is ending");
		else if (clock_now_ns() - atomic_load(&session->last_traffic) > stop_point_wait(SESSION_IDLE))
			r = error_set(error, -ETIMEDOUT, "the pages of round %u do not come to an end",
				      session->round);
		else
			wait_a_second(session);
	}
	for (unsigned i = 0; i < session->bulk_count; i++)
		session->bulk[i].mark = 0;
	rejected->items = session->rejected.items;
	rejected->count = session->rejected.count;
	rejected->capacity = session->rejected.capacity;
	session->rejected.items = NULL;
	session->rejected.count = session->rejected.capacity = 0;
	pthread_mutex_unlock(&session->lock);
	return r;
}

static int reply(struct session *session, const session_ranges *rejected, struct error *error)
{
	WireRoundDone answer = WIRE_ROUND_DONE__INIT;
	WireRange *items = calloc(rejected->count + 1, sizeof(*items));
	WireRange **list = calloc(rejected->count + 1, sizeof(*list));
	int r;

	for (size_t i = 0; items && list && i < rejected->count; i++) {
		wire_range__init(&items[i]);
		items[i].pid = rejected->items[i].pid;
		items[i].address = rejected->items[i].address;
		items[i].pages = rejected->items[i].pages;
		list[i] = &items[i];
	}
	answer.round = session->round;
	answer.rejected = list;
	answer.n_rejected = rejected->count;
	r = items && list ? session_send(session, WIRE_ROUND_DONE, &answer.base, error)
			  : error_set_errno(error, -ENOMEM, "cannot answer the end of a round");
	free(items);
	free(list);
	return r;
}

int request_round_end(struct session *session, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	session_ranges rejected = { 0 };
	int r = wire_unpack(payload, &wire_round__descriptor, &base, error);

	if (r < 0)
		return r;
	if (((const WireRound *)base)->round != session->round)
		return error_set(error, -EPROTO, "the end of round %u came in round %u",
				 ((const WireRound *)base)->round, session->round);
	r = wait_for_marks(session, &rejected, error);
	if (r == 0)
		r = session_set_phase(session, PHASE_ROUND, error);
	if (r == 0)
		r = reply(session, &rejected, error);
	array_deinit(&rejected);
	return r;
}
