/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A migration from connect to the end. Everything before COMMIT returns an error to migrate_send(), which rolls back;
 * what comes after it is settled here, since then the tree is not ours to thaw.
 */
#include "send.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "source.h"
#include "util/stop-point.h"

static int until_commit(struct source *source, struct error *error)
{
	int r;

	r = dump_context_new(source->options->pid, &source->dump_options, source->log, &source->dump, error);
	if (r < 0)
		return r;
	source_enter(source, PHASE_CONNECT);
	r = source_connect(source, error);
	if (r < 0)
		return r;
	source_enter(source, PHASE_PREFLIGHT);
	r = source_preflight(source, error);
	if (r < 0 || source->options->dry_run)
		return r;
	r = source_guard(source, error);
	if (r == 0)
		r = source_connect_streams(source, error);
	if (r < 0)
		return r;
	source_enter(source, PHASE_PRECOPY);
	r = round_precopy(source, error);
	if (r == 0)
		r = freeze_and_hand_over(source, error);
	return r;
}

/* COMMIT was sent and nothing came back. 0: it runs there. -ECANCELED: it never will. -EINPROGRESS: nobody knows. */
static int settle_doubt(struct source *source, struct error *error)
{
	const struct timespec pause = { .tv_nsec = 200000000 };
	int64_t deadline = clock_deadline(stop_point_wait(SOURCE_DOUBT_NS));
	char session[WIRE_SESSION_TEXT];

	source_enter(source, PHASE_DOUBT);
	source_journal(source, JOURNAL_IN_DOUBT, NULL);
	wire_session_text(source->session, session);
	log_warning(source->log, "no answer to COMMIT (%s); the tree stays frozen, asking the target",
		    error_text(error, error->code));
	do {
		uint32_t state = 0;

		error_clear(error);
		if (serve_ask(source, &state, error) == 0) {
			if (state == WIRE_STATE_RUNNING)
				return 0;
			if (state == WIRE_STATE_ABORTED)
				return error_set(error, -ECANCELED, "%s lost the connection at the switch and gave up",
						 source->options->to);
		}
		nanosleep(&pause, NULL);
	} while (clock_now_ns() < deadline);
	error_clear(error);
	error_set(error, -EINPROGRESS,
		  "in doubt: COMMIT was sent to %s and no answer came. PID %d is frozen here. See whether it runs there, then: "
		  "migrate resolve %s [--thaw|--kill]",
		  source->options->to, source->options->pid, session);
	return -EINPROGRESS;
}

static void count_streams(struct source *source)
{
	source_close_streams(source);
	source->summary->bytes_sent = source->closed_wire;
	source->summary->bytes_raw = source->closed_raw;
	source->summary->total_ms = (double)(clock_now_ns() - source->started) / 1e6;
}

/* It runs on the target: serve what is missing, end our copy. */
static int after_commit(struct source *source, struct error *error)
{
	struct error hook_error = ERROR_INIT;
	struct program hook;
	int64_t deadline;
	int r;

	source_journal(source, JOURNAL_RUNNING, NULL);
	/* Nobody waits for it: not the tree for its pages either. */
	(void)hook_start(source, "resumed", &hook, &hook_error);
	source_enter(source, PHASE_POSTCOPY);
	r = serve_postcopy(source, error);
	if (hook_wait(source, &hook, &hook_error) < 0 || hook_error.code < 0)
		log_warning(source->log, "%s", hook_error.message);
	if (r < 0) {
		error_wrap(error, r, "the tree runs on %s, but pages of it are still here; migrate resolve %s goes on",
			   source->options->to, source->summary->session);
		return MIGRATE_IN_DOUBT;
	}
	end_source_copy(source);
	source_enter(source, PHASE_DONE);
	deadline = clock_deadline(SOURCE_ANSWER_NS);
	if (wire_send(source->control, WIRE_ENDED, NULL, deadline, NULL) == 0)
		(void)wire_expect(source->control, &wire_table_client, WIRE_FINISHED, NULL, NULL, deadline, NULL);
	journal_remove(source->state_fd, source->session, NULL);
	return MIGRATE_MOVED;
}

/* Whatever was waited for when the user gave up. */
static void name_interrupt(const struct source *source, struct error *error)
{
	if (error->code != -ECANCELED || source_check_cancel(source, NULL) == 0)
		return;
	error_clear(error);
	error_set(error, -ECANCELED, "interrupted in phase %s", phase_name(source->phase));
}

static int roll_back(struct source *source, struct error *failure)
{
	struct error error = ERROR_INIT;
	bool ran = source->phase > PHASE_PREFLIGHT;

	name_interrupt(source, failure);
	end_rollback(source);
	if (ran && hook_run(source, "rolled-back", &error) < 0)
		log_warning(source->log, "%s", error.message);
	return MIGRATE_NOT_MOVED;
}

int migrate_send(const struct migrate_options *options, const struct log *log, struct migrate_summary *summary,
		 struct error *error)
{
	struct source source;
	int outcome, r;

	*summary = (struct migrate_summary){ 0 };
	r = source_init(&source, options, &destination_peer, log, summary, error);
	if (r == 0 && !options->dry_run)
		r = watch_start(&source, error);
	if (r == 0)
		r = until_commit(&source, error);
	if (source.phase == PHASE_COMMIT && r < 0)
		r = settle_doubt(&source, error);
	if (options->dry_run && r == 0) {
		source_enter(&source, PHASE_ROLLBACK);
		outcome = MIGRATE_MOVED;
	} else if (r == 0) {
		outcome = after_commit(&source, error);
	} else if (r == -EINPROGRESS) {
		outcome = MIGRATE_IN_DOUBT;
	} else {
		outcome = roll_back(&source, error);
	}
	source_describe(&source);
	count_streams(&source);
	source_deinit(&source);
	return outcome;
}
