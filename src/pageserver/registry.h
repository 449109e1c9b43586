/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sessions that live in this program, and what they share: options, journal directory, memory.
 *
 * The loop's thread makes the registry and frees it when all sessions are gone. All calls may come from any thread. A
 * session that registry_find() returns is referenced: registry_put().
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/journal.h"
#include "pageserver/pageserver.h"
#include "transport/wire.h"
#include "util/array.h"

struct session;

struct registry {
	const struct pageserver_options *options; /* borrowed */
	const struct log *log;                    /* borrowed */
	int dir_fd;                               /* owned: directory of the journals */
	char boot_id[JOURNAL_BOOT_ID_MAX];        /* of this kernel */
	char host[64];                            /* this host's name */
	int64_t pruned_at;                        /* when old journals were last removed; of the loop's thread */
	pthread_mutex_t lock;                     /* guards what follows */
	ARRAY(struct session *) sessions;         /* owned */
	uint64_t memory_taken;                    /* bytes granted to sessions that have not finished */
	unsigned helpers;                         /* threads without a session that still run */
	bool stopping;                            /* no new session */
	void (*wake)(void *data);                 /* tells the loop that a session or helper has ended */
	void *wake_data;                          /* its argument */
};

int registry_init(struct registry *registry, const struct pageserver_options *options, const struct log *log,
		  struct error *error);
/* After registry_stop() and when registry_idle() says so. */
void registry_deinit(struct registry *registry);

/* -EEXIST: there is one of that id. Takes the session on success. */
int registry_add(struct registry *registry, struct session *session, struct error *error);
/* NULL: none. */
struct session *registry_find(struct registry *registry, const uint8_t id[WIRE_SESSION_SIZE]);
void registry_put(struct registry *registry, struct session *session);
/* Joins and frees the sessions that have ended and that nobody holds. For the loop's thread. */
void registry_reap(struct registry *registry);
/* Tells all sessions to end. */
void registry_stop(struct registry *registry);
bool registry_idle(struct registry *registry);

/*
 * Bytes that a new tree may have now. registry_claim() takes as many (whatever is available: the preflight has told),
 * registry_unclaim() gives them back.
 */
uint64_t registry_available(struct registry *registry);
void registry_claim(struct registry *registry, uint64_t bytes);
void registry_unclaim(struct registry *registry, uint64_t bytes);

/* Counts a detached thread. -ECANCELED when the program is ending. */
int registry_helper_begin(struct registry *registry);
void registry_helper_end(struct registry *registry);
