/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lock on the tree's TCP connections (net/lock.h), over the life of a move.
 *
 * Its table is made before the freeze, for a tree that has TCP sockets, and is engaged by dump_frozen(). It is removed before
 * the tree runs on here, or when our copy has ended: until then the kernel must not answer for what runs elsewhere. So it
 * stays while nobody knows who runs, and goes with `migrate resolve`. If we are killed before the commit, the guardian removes
 * it; if both are, the next migrate of the same state directory does.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "image/kinds.h"
#include "net/lock.h"
#include "source.h"
#include "util/buffer.h"
#include "wire.pb-c.h"

static int name_lock(const struct source *source, char name[JOURNAL_NAME_SIZE], struct error *error)
{
	return journal_name(source->state_fd, source->session, name, error);
}

/* Where there can be none, source->net_lock stays NULL, and `why` says it. */
static int make(struct source *source, struct error *why, struct error *error)
{
	char name[JOURNAL_NAME_SIZE];
	int r = net_lock_probe(why);

	if (r == -ENOMEM)
		return error_set(error, r, "%s", why->message);
	source->dump->lockless = r < 0;
	if (r < 0)
		return 0;
	r = name_lock(source, name, error);
	return r < 0 ? r : net_lock_new(NET_LOCK_SOURCE, name, &source->net_lock, error);
}

int lock_check(struct source *source, struct error *error)
{
	struct error why = ERROR_INIT;
	int r;

	if (!source->dump->has_tcp)
		return 0;
	r = make(source, &why, error);
	if (r < 0 || source->net_lock)
		return r;
	if (!source->dump->has_connections || source->options->tcp_close)
		log_debug(source->log, "no lock for TCP sockets that listen: %s", why.message);
	else
		dump_refuse(source->dump, source->options->pid, "process", IMAGE_KIND_TCP_NO_LOCK, "%s", why.message);
	return 0;
}

/* A tree whose first TCP socket was met at the freeze has been let go again. */
int lock_prepare(struct source *source, struct error *error)
{
	struct error why = ERROR_INIT;
	int r = source->dump->has_tcp && !source->net_lock ? make(source, &why, error) : 0;

	source->dump->lock = source->net_lock;
	return r == 0 && source->net_lock ? net_lock_prepare(source->net_lock, error) : r;
}

int lock_open(struct source *source, struct error *error)
{
	struct error local = ERROR_INIT;
	int r = source->net_lock ? net_lock_release(source->net_lock, error) : 0;

	if (r == 0 && source->net_lock && net_lock_give_held(source->net_lock, NULL, 0, &local) < 0)
		log_debug(source->log, "packets that were held up: %s", local.message);
	return r;
}

void lock_release(struct source *source)
{
	struct error error = ERROR_INIT;

	if (source->net_lock && net_lock_release(source->net_lock, &error) < 0)
		log_error(source->log, "%s", error.message);
}

int lock_send_held(struct source *source, int64_t deadline, struct error *error)
{
	_cleanup_buffer_ struct buffer packets = BUFFER_INIT;
	WirePackets message = WIRE_PACKETS__INIT;

	if (!source->net_lock)
		return 0;
	if (net_lock_take_held(source->net_lock, &packets) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	if (!packets.size)
		return 0;
	message.packets.data = packets.data;
	message.packets.len = packets.size;
	return wire_send(source->control, WIRE_PACKETS, &message.base, deadline, error);
}

int lock_remove(const struct source *source, const uint8_t session[WIRE_SESSION_SIZE], struct error *error)
{
	char name[JOURNAL_NAME_SIZE];
	int r = journal_name(source->state_fd, session, name, error);

	return r < 0 ? r : net_lock_remove(NET_LOCK_SOURCE, name, error);
}

/* Under way, or with its right to run given away. What was never committed runs here, or will. */
static bool is_live(void *context, const char *name)
{
	const struct source *source = context;
	uint8_t session[JOURNAL_SESSION_SIZE];
	JournalEntry *entry;
	bool live;
	int r;

	if (!journal_name_parse(source->state_fd, name, session))
		return true;
	r = journal_read(source->state_fd, session, &entry, NULL);
	if (r < 0)
		return r != -ENOENT; /* what cannot be read may say COMMITTED */
	live = (entry->phase != JOURNAL_STARTED && entry->phase != JOURNAL_PREPARED) ||
	       (entry->agent && journal_process_alive(entry->agent));
	journal_entry__free_unpacked(entry, NULL);
	return live;
}

void lock_remove_stale(struct source *source)
{
	struct error error = ERROR_INIT;
	int r = net_lock_remove_stale(NET_LOCK_SOURCE, is_live, source, &error);

	if (r < 0)
		log_warning(source->log, "%s", error.message);
	else if (r > 0)
		log_warning(source->log, "%d table%s of nftables removed that an earlier migrate has left", r,
			    r > 1 ? "s" : "");
}
