/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lock on the tree's TCP connections (net/lock.h), over the life of a session. Its table is made with the first layout; the
 * last one engages it, before there is a socket that could answer, and also before there is none that could: packets for an
 * address that is here already find nobody, and would be answered with a reset. It goes when the tree runs, or never will.
 * What is left by a page server that was killed goes after the next one has settled its sessions.
 */
#include <errno.h>
#include <stdlib.h>

#include "image/kinds.h"
#include "net/lock.h"
#include "pageserver/recover.h"
#include "restore/tcp-tuples.h"
#include "session.h"

static size_t count_connections(const struct net_tuples *tuples)
{
	size_t count = 0;

	array_for_each(tuple, &tuples->list)
		count += tuple->kind == NET_TUPLE_CONNECTION;
	return count;
}

int session_lock_check(struct session *session, struct image_blockers *blockers, struct error *error)
{
	struct image_kind_facts facts = image_kind_get(IMAGE_KIND_TCP_NO_LOCK);
	struct net_tuples tuples = { 0 };
	struct error why = ERROR_INIT;
	char name[JOURNAL_NAME_SIZE];
	int r = restore_tcp_tuples(session->incoming, session->restore.tcp_close, &tuples, error);
	size_t count = tuples.list.count, connections = count_connections(&tuples);

	net_tuples_deinit(&tuples);
	if (r < 0 || !count)
		return r;
	r = net_lock_probe(&why);
	if (r == 0)
		r = journal_name(session->registry->dir_fd, session->id, name, error);
	if (r == 0)
		return net_lock_new(NET_LOCK_TARGET, name, &session->net_lock, error);
	if (r == -ENOMEM)
		return error_set(error, r, "%s", why.message);
	session->lockless = true;
	if (!connections)
		log_debug(session->log, "session %s: no lock for TCP sockets that listen: %s", session->text, why.message);
	else
		image_blockers_add(blockers, 0, "address", facts.cause, facts.remedy, "%s", why.message);
	return 0;
}

int session_lock_prepare(struct session *session, struct error *error)
{
	return session->net_lock ? net_lock_prepare(session->net_lock, error) : 0;
}

/* Sockets may have come since the preflight. */
int session_lock_engage(struct session *session, struct error *error)
{
	struct image_kind_facts facts = image_kind_get(IMAGE_KIND_TCP_NO_LOCK);
	const struct net_tuples *tuples = &session->tuples;
	char name[JOURNAL_NAME_SIZE];
	int r;

	net_tuples_deinit(&session->tuples);
	r = restore_tcp_tuples(session->images, session->restore.tcp_close, &session->tuples, error);
	if (r == 0 && tuples->list.count && !session->net_lock && !session->lockless) {
		r = journal_name(session->registry->dir_fd, session->id, name, error);
		if (r == 0)
			r = net_lock_new(NET_LOCK_TARGET, name, &session->net_lock, error);
	}
	if (r == 0 && session->net_lock)
		r = net_lock_engage(session->net_lock, tuples, error);
	else if (r == 0 && count_connections(tuples))
		r = error_set(error, -EOPNOTSUPP, "TCP connections: %s; %s", facts.cause, facts.remedy);
	return r;
}

int session_lock_check_addresses(struct session *session, struct error *error)
{
	const struct image_blocker *first;
	struct image_blockers blockers;
	int r = 0;

	image_blockers_init(&blockers);
	restore_tcp_check_addresses(&session->tuples, &blockers);
	if (blockers.list.count) {
		first = &blockers.list.items[0];
		r = error_set(error, -EADDRNOTAVAIL, "%s %s: %s; %s%s", first->kind, first->object, first->cause, first->remedy,
			      blockers.list.count > 1 ? " (and more of them)" : "");
	}
	image_blockers_deinit(&blockers);
	return r;
}

void session_lock_release(struct session *session)
{
	struct error error = ERROR_INIT;

	if (session->net_lock && net_lock_release(session->net_lock, &error) < 0)
		log_error(session->log, "session %s: %s", session->text, error.message);
}

int request_packets(struct session *session, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	const WirePackets *message;
	int r = wire_unpack(payload, &wire_packets__descriptor, &base, error);

	if (r < 0)
		return r;
	message = (const WirePackets *)base;
	buffer_clear(&session->packets);
	r = buffer_append(&session->packets, message->packets.data, message->packets.len);
	return r < 0 ? error_set(error, r, "out of memory") : 0;
}

void session_lock_give_held(struct session *session)
{
	struct error error = ERROR_INIT;
	int r;

	if (!session->net_lock)
		return;
	r = net_lock_give_held(session->net_lock, session->packets.data, session->packets.size, &error);
	if (r < 0)
		log_debug(session->log, "session %s: packets that were held up: %s", session->text, error.message);
	else
		log_debug(session->log, "session %s: %d packets were held up", session->text, r);
	buffer_deinit(&session->packets);
}

/* Where the tree neither runs nor is killed, nobody may answer for it. */
static bool is_live(void *context, const char *name)
{
	const struct registry *registry = context;
	uint8_t session[JOURNAL_SESSION_SIZE];
	JournalEntry *entry;
	bool live;
	int r;

	if (!journal_name_parse(registry->dir_fd, name, session))
		return true;
	r = journal_read(registry->dir_fd, session, &entry, NULL);
	if (r < 0)
		return r != -ENOENT; /* what cannot be read may say COMMITTED */
	live = entry->phase == JOURNAL_COMMITTED;
	journal_entry__free_unpacked(entry, NULL);
	return live;
}

void recover_locks(struct registry *registry)
{
	struct error error = ERROR_INIT;
	int r = net_lock_remove_stale(NET_LOCK_TARGET, is_live, registry, &error);

	if (r < 0)
		log_warning(registry->log, "%s", error.message);
	else if (r > 0)
		log_warning(registry->log, "%d table%s of nftables removed that an earlier page server has left", r,
			    r > 1 ? "s" : "");
}
