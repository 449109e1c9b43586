/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sessions made, for a source that calls or for a tree that an earlier page server has left; and freed. */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "net/lock.h"
#include "net/queue.h"
#include "util/cleanup.h"

static int session_new(struct registry *registry, const uint8_t *id, const char *peer, struct session **ret,
		       struct error *error)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return error_set_errno(error, -ENOMEM, "cannot begin a session");
	session->registry = registry;
	session->log = registry->log;
	memcpy(session->id, id, WIRE_SESSION_SIZE);
	wire_session_text(id, session->text);
	snprintf(session->peer, sizeof(session->peer), "%s", peer);
	session->hook.pidfd = -1;
	session->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	session->cut_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	session->fault_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&session->lock, NULL);
	pthread_cond_init(&session->changed, NULL);
	pthread_rwlock_init(&session->tree_lock, NULL);
	frame_reader_init(&session->reader, &wire_table_server);
	atomic_store(&session->last_traffic, clock_now_ns());
	for (unsigned i = 0; i < WIRE_BULK_MAX; i++) {
		session->bulk[i].session = session;
		session->bulk[i].index = i;
	}
	if (session->wake_fd < 0 || session->cut_fd < 0 || session->fault_fd < 0) {
		session_free(session);
		return error_set_errno(error, -EMFILE, "cannot begin a session");
	}
	*ret = session;
	return 0;
}

void session_free(struct session *session)
{
	if (!session)
		return;
	if (session->started)
		pthread_join(session->thread, NULL);
	if (session->claimed)
		registry_unclaim(session->registry, session->claimed);
	stream_free(session->control);
	stream_free(session->control_next);
	stream_free(session->urgent);
	frame_reader_deinit(&session->reader);
	image_set_free(session->incoming);
	image_set_free(session->images);
	freezer_free(session->freezer);
	net_lock_free(session->net_lock);
	net_queue_free(session->queue);
	net_tuples_deinit(&session->tuples);
	buffer_deinit(&session->packets);
	restore_locks_free(session->locks);
	free(session->processes);
	image_ipcs_deinit(&session->ipc);
	array_deinit(&session->rejected);
	pthread_rwlock_destroy(&session->tree_lock);
	pthread_cond_destroy(&session->changed);
	pthread_mutex_destroy(&session->lock);
	cleanup_fd(&session->wake_fd);
	cleanup_fd(&session->cut_fd);
	cleanup_fd(&session->fault_fd);
	free(session);
}

/* `users` keeps the loop from freeing it before the thread is there. */
static int session_start(struct registry *registry, struct session *session, struct error *error)
{
	int r;

	session->users = 1;
	r = registry_add(registry, session, error);
	if (r < 0) {
		if (session->control)
			wire_send_failure(session->control, r, error_text(error, r));
		lazy_leave(session->lazy);
		session_free(session);
		return r;
	}
	r = -pthread_create(&session->thread, NULL, session_main, session);
	if (r < 0) {
		error_set_errno(error, r, "cannot begin a session");
		pthread_mutex_lock(&session->lock);
		session->ended = true;
		pthread_mutex_unlock(&session->lock);
	} else {
		session->started = true;
	}
	registry_put(registry, session);
	return r;
}

int session_open(struct registry *registry, struct stream **control, const uint8_t *id, const char *peer,
		 struct error *error)
{
	_cleanup_stream_ struct stream *stream = steal_ptr(control);
	JournalEntry *entry = NULL;
	struct session *session;
	int r;

	/* The id of a session that was aborted, or runs, cannot be used again. */
	if (journal_read(registry->dir_fd, id, &entry, NULL) == 0) {
		r = error_set(error, -EEXIST, "there was a session of this id already: it is %s",
			      journal_phase_name(entry->phase));
		journal_entry__free_unpacked(entry, NULL);
		wire_send_failure(stream, r, error->message);
		return r;
	}
	r = session_new(registry, id, peer, &session, error);
	if (r == 0)
		r = wire_random(session->token, sizeof(session->token), error);
	if (r == 0)
		r = image_set_new(&session->incoming);
	if (r < 0) {
		wire_send_failure(stream, r, error_text(error, r));
		return r;
	}
	session->control = steal_ptr(&stream);
	return session_start(registry, session, error);
}

int session_resume(struct registry *registry, const JournalEntry *entry, struct lazy *lazy, struct error *error)
{
	struct session *session;
	int r = session_new(registry, entry->session.data, entry->peer ? entry->peer : "?", &session, error);

	if (r < 0) {
		lazy_leave(lazy);
		return r;
	}
	if (entry->has_token && entry->token.len == WIRE_TOKEN_SIZE)
		memcpy(session->token, entry->token.data, WIRE_TOKEN_SIZE);
	session->processes = calloc(entry->n_processes ? entry->n_processes : 1, sizeof(*session->processes));
	for (size_t i = 0; session->processes && i < entry->n_processes; i++) {
		journal_process__init(&session->processes[i]);
		session->processes[i].pid = entry->processes[i]->pid;
		session->processes[i].start_time = entry->processes[i]->start_time;
		session->process_count++;
	}
	session->phase = PHASE_RUNNING;
	session->lazy = lazy;
	session->has_keeper = true;
	session->missing = entry->missing;
	return session_start(registry, session, error);
}
