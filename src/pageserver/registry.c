/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "registry.h"

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define LOCK_WAIT (2 * CLOCK_S)

/*
 * Two page servers would each take the other's sessions for those of a dead one. The lock goes with the program, though
 * not at once: its children close their copies of the descriptor a moment after they are made.
 */
static int lock_dir(struct registry *registry, struct error *error)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	int64_t deadline = clock_deadline(LOCK_WAIT);

	while (flock(registry->dir_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return error_set_errno(error, -errno, "cannot lock the directory %s", registry->options->state_dir);
		if (clock_now_ns() > deadline)
			return error_set(error, -EBUSY,
					 "another page server uses the directory %s; --state-dir names another one",
					 registry->options->state_dir);
		nanosleep(&pause, NULL);
	}
	return 0;
}

int registry_init(struct registry *registry, const struct pageserver_options *options, const struct log *log,
		  struct error *error)
{
	int r;

	memset(registry, 0, sizeof(*registry));
	registry->options = options;
	registry->log = log;
	registry->dir_fd = -1;
	gethostname(registry->host, sizeof(registry->host) - 1);
	r = journal_boot_id(registry->boot_id, error);
	if (r == 0)
		r = journal_open_dir(options->state_dir, &registry->dir_fd, error);
	if (r == 0)
		r = lock_dir(registry, error);
	if (r < 0)
		cleanup_fd(&registry->dir_fd);
	else
		pthread_mutex_init(&registry->lock, NULL);
	return r;
}

void registry_deinit(struct registry *registry)
{
	array_deinit(&registry->sessions);
	cleanup_fd(&registry->dir_fd);
	pthread_mutex_destroy(&registry->lock);
}

static struct session *find(struct registry *registry, const uint8_t *id)
{
	array_for_each(session, &registry->sessions)
		if (memcmp((*session)->id, id, WIRE_SESSION_SIZE) == 0)
			return *session;
	return NULL;
}

int registry_add(struct registry *registry, struct session *session, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&registry->lock);
	if (registry->stopping)
		r = error_set(error, -ECANCELED, "the page server is ending");
	else if (find(registry, session->id))
		r = error_set(error, -EEXIST, "session %s exists already", session->text);
	else if (array_append(&registry->sessions, session) < 0)
		r = error_set_errno(error, -ENOMEM, "cannot begin a session");
	pthread_mutex_unlock(&registry->lock);
	return r;
}

struct session *registry_find(struct registry *registry, const uint8_t id[WIRE_SESSION_SIZE])
{
	struct session *session;

	pthread_mutex_lock(&registry->lock);
	session = find(registry, id);
	if (session)
		session->users++;
	pthread_mutex_unlock(&registry->lock);
	return session;
}

void registry_put(struct registry *registry, struct session *session)
{
	bool wake;

	pthread_mutex_lock(&registry->lock);
	wake = --session->users == 0;
	pthread_mutex_unlock(&registry->lock);
	if (wake && registry->wake)
		registry->wake(registry->wake_data);
}

static bool has_ended(struct session *session)
{
	bool ended;

	pthread_mutex_lock(&session->lock);
	ended = session->ended;
	pthread_mutex_unlock(&session->lock);
	return ended;
}

void registry_reap(struct registry *registry)
{
	for (;;) {
		struct session *gone = NULL;

		pthread_mutex_lock(&registry->lock);
		for (size_t i = 0; !gone && i < registry->sessions.count; i++) {
			struct session *session = registry->sessions.items[i];

			if (session->users || !has_ended(session))
				continue;
			gone = session;
			registry->sessions.items[i] = registry->sessions.items[--registry->sessions.count];
		}
		pthread_mutex_unlock(&registry->lock);
		if (!gone)
			return;
		session_free(gone);
	}
}

void registry_stop(struct registry *registry)
{
	pthread_mutex_lock(&registry->lock);
	registry->stopping = true;
	array_for_each(session, &registry->sessions) {
		pthread_mutex_lock(&(*session)->lock);
		(*session)->stop = true;
		pthread_cond_broadcast(&(*session)->changed);
		pthread_mutex_unlock(&(*session)->lock);
		session_wake(*session);
	}
	pthread_mutex_unlock(&registry->lock);
}

bool registry_idle(struct registry *registry)
{
	bool idle;

	pthread_mutex_lock(&registry->lock);
	idle = registry->sessions.count == 0 && registry->helpers == 0;
	pthread_mutex_unlock(&registry->lock);
	return idle;
}

uint64_t registry_available(struct registry *registry)
{
	uint64_t free_bytes = memory_available(), limit = registry->options->max_memory, taken;

	pthread_mutex_lock(&registry->lock);
	taken = registry->memory_taken;
	pthread_mutex_unlock(&registry->lock);
	if (limit) {
		limit = limit > taken ? limit - taken : 0;
		return limit < free_bytes ? limit : free_bytes;
	}
	return free_bytes;
}

void registry_claim(struct registry *registry, uint64_t bytes)
{
	pthread_mutex_lock(&registry->lock);
	registry->memory_taken += bytes;
	pthread_mutex_unlock(&registry->lock);
}

void registry_unclaim(struct registry *registry, uint64_t bytes)
{
	pthread_mutex_lock(&registry->lock);
	registry->memory_taken -= bytes;
	pthread_mutex_unlock(&registry->lock);
}

int registry_helper_begin(struct registry *registry)
{
	int r = 0;

	pthread_mutex_lock(&registry->lock);
	if (registry->stopping)
		r = -ECANCELED;
	else
		registry->helpers++;
	pthread_mutex_unlock(&registry->lock);
	return r;
}

void registry_helper_end(struct registry *registry)
{
	pthread_mutex_lock(&registry->lock);
	registry->helpers--;
	/* Under the lock: the loop frees the registry as soon as it sees none. */
	if (registry->wake)
		registry->wake(registry->wake_data);
	pthread_mutex_unlock(&registry->lock);
}
