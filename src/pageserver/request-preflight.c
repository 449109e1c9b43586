/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source describes its tree; the answer lists all that stands in the way here. Makes nothing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/queue.h"
#include "restore/files.h"
#include "session.h"
#include "util/timens.h"

int request_image(struct session *session, const struct buffer *payload, struct error *error)
{
	struct wire_image_header header;

	if (payload->size < sizeof(header))
		return error_set(error, -EPROTO, "an IMAGE frame of %zu bytes is too short", payload->size);
	memcpy(&header, payload->data, sizeof(header));
	if (header.type == 0 || header.type >= IMAGE_TYPE_MAX || strcmp(image_type_name(header.type), "?") == 0)
		return error_set(error, -EPROTO, "there are no image records of type %u", header.type);
	return image_set_add_bytes(session->incoming, header.type, header.id, payload->data + sizeof(header),
				   payload->size - sizeof(header), error);
}

static void check_memory(struct session *session, uint64_t wanted, uint64_t available,
			 struct image_blockers *blockers)
{
	if (wanted > available) {
		image_blockers_add(blockers, 0, "memory", "the target has too little memory for the tree",
				   "free memory on the target, or start pageserver with a larger --max-memory",
				   "%llu MiB needed, %llu MiB available", (unsigned long long)(wanted >> 20),
				   (unsigned long long)(available >> 20));
		return;
	}
	registry_claim(session->registry, wanted);
	session->claimed = wanted;
}

/* Found out where there are listening sockets: it takes some 40 ms. What it takes to do it is kept for the freeze. */
static bool can_queue(struct session *session)
{
	struct error why = ERROR_INIT;

	if (!session->net_lock || session->restore.tcp_close)
		return false;
	if (net_queue_new(&session->queue, &why) == 0 && net_queue_try(session->queue, &why) == 0)
		return true;
	log_debug(session->log, "session %s: no connections that nobody has accepted: %s", session->text, why.message);
	return false;
}

static int reply(struct session *session, const struct image_blockers *blockers, uint64_t available,
		 struct error *error)
{
	WirePreflightReply message = WIRE_PREFLIGHT_REPLY__INIT;
	WireNote *notes = calloc(blockers->notes.count + 1, sizeof(*notes));
	WireNote **note_list = calloc(blockers->notes.count + 1, sizeof(*note_list));
	size_t count = blockers->list.count, used = 0;
	WireBlocker *items = calloc(count + 1, sizeof(*items));
	WireBlocker **list = calloc(count + 1, sizeof(*list));
	const struct timens_offsets machine = { 0 };
	struct timens_offsets now;
	int r = -ENOMEM;

	for (size_t i = 0; items && list && i < count; i++) {
		const struct image_blocker *blocker = &blockers->list.items[i];

		wire_blocker__init(&items[used]);
		items[used].has_pid = blocker->pid != 0;
		items[used].pid = blocker->pid;
		items[used].kind = blocker->kind;
		items[used].object = blocker->object;
		items[used].cause = blocker->cause;
		items[used].remedy = blocker->remedy;
		list[used] = &items[used];
		used++;
	}
	for (size_t i = 0; notes && note_list && i < blockers->notes.count; i++) {
		wire_note__init(&notes[i]);
		notes[i].pid = blockers->notes.items[i].pid;
		notes[i].text = blockers->notes.items[i].text;
		note_list[i] = &notes[i];
	}
	if (items && list && notes && note_list && !blockers->incomplete) {
		message.notes = note_list;
		message.n_notes = blockers->notes.count;
		message.blockers = list;
		message.n_blockers = used;
		message.has_memory_available = true;
		message.memory_available = available;
		message.has_accept_queues = true;
		message.accept_queues = can_queue(session);
		/* Read last: what passes until the source has the answer makes its clocks go ahead here, never back. */
		if (timens_is_supported() && timens_now(&machine, &now, NULL) == 0) {
			message.has_monotonic = message.has_boottime = true;
			message.monotonic = now.monotonic;
			message.boottime = now.boottime;
		}
		r = session_send(session, WIRE_PREFLIGHT_REPLY, &message.base, error);
	} else {
		error_set_errno(error, r, "cannot answer the preflight");
	}
	free(items);
	free(list);
	free(notes);
	free(note_list);
	return r;
}

int request_preflight(struct session *session, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	struct image_blockers blockers;
	const WirePreflight *message;
	uint64_t available;
	int r = wire_unpack(payload, &wire_preflight__descriptor, &base, error);

	if (r < 0)
		return r;
	message = (const WirePreflight *)base;
	if (message->bulk > WIRE_BULK_MAX)
		return error_set(error, -EPROTO, "%u bulk streams are too many: %u is the limit", message->bulk,
				 WIRE_BULK_MAX);
	session->bulk_count = message->has_bulk && message->bulk ? message->bulk : 1;
	session->restore.tcp_close = message->tcp_close;
	session->restore.ext_unix = message->ext_unix;
	session->restore.tcp_established = !message->tcp_close;
	session->dry_run = message->dry_run;
	session->postcopy = message->postcopy;
	available = registry_available(session->registry);
	image_blockers_init(&blockers);
	r = restore_check(session->incoming, &blockers, error);
	if (r == 0)
		r = restore_files_check(session->incoming, true, &blockers, error);
	if (r == 0)
		r = session_lock_check(session, &blockers, error);
	/* Before the answer: the source's other streams come as soon as it has that. */
	if (r == 0)
		r = session_set_phase(session, PHASE_CHECKED, error);
	if (r == 0) {
		check_memory(session, message->memory, available, &blockers);
		r = reply(session, &blockers, available, error);
	}
	image_blockers_deinit(&blockers);
	image_set_free(session->incoming);
	session->incoming = NULL;
	return r == 0 ? image_set_new(&session->incoming) : r;
}
