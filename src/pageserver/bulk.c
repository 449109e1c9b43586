/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bulk streams: one thread each, which writes pages to their final place as they come.
 *
 * A page goes into the tree being built until the PREPARE, and from then on through lazy_install(). Everything that a
 * frame names is checked against the tree; a frame that does not fit ends the session before the commit, and the stream
 * after it. The buffer of a stream is used again for each frame.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"
#include "transport/filter.h"
#include "util/cleanup.h"
#include "util/fdio.h"

static const uint8_t zeros[WIRE_RUN_PAGES_MAX * WIRE_PAGE];

struct bulk_scratch {
	struct buffer payload;                           /* of the frame */
	uint8_t page[WIRE_RUN_PAGES_MAX * WIRE_PAGE];    /* what the target holds */
};

/* ---- one frame ---------------------------------------------------------------------------------------------------- */

static int reject(struct session *session, const struct wire_pages_header *header, struct error *error)
{
	struct session_range range = { .pid = (pid_t)header->pid, .address = header->address, .pages = 1 };
	int r;

	atomic_fetch_add(&session->counters.rejected, 1);
	pthread_mutex_lock(&session->lock);
	r = array_append(&session->rejected, range);
	pthread_mutex_unlock(&session->lock);
	return r < 0 ? error_set_errno(error, r, "cannot note a page") : 0;
}

static int find_process(struct session *session, uint32_t pid, struct restore_process **ret, struct error *error)
{
	struct restore_process *process = restore_tree_find(session->tree, (pid_t)pid);

	if (!process)
		return error_set(error, -EPROTO, "pages came for PID %u, which is not in the tree", pid);
	*ret = process;
	return 0;
}

/* A page that the target is said to hold: it is looked at before it is believed. */
static int write_hashed(struct session *session, const struct wire_pages_header *header, const uint8_t *data,
			struct bulk_scratch *scratch, struct error *error)
{
	struct wire_page_copy copy;
	struct restore_process *from, *to = NULL;
	uint8_t hash[WIRE_HASH_SIZE];
	int r;

	memcpy(&copy, data, sizeof(copy));
	r = find_process(session, header->pid, &to, error);
	if (r < 0)
		return r;
	from = restore_tree_find(session->tree, (pid_t)copy.pid);
	if (!from || fdio_pread(from->tracee->mem_fd, scratch->page, WIRE_PAGE, copy.address) != WIRE_PAGE)
		return reject(session, header, error);
	r = wire_hash(scratch->page, WIRE_PAGE, hash);
	if (r < 0)
		return error_set_errno(error, r, "cannot check a page");
	if (memcmp(hash, copy.hash, sizeof(hash)) != 0)
		return reject(session, header, error);
	atomic_fetch_add(&session->counters.hashed, 1);
	return restore_pages_write(to, header->address, scratch->page, WIRE_PAGE, error);
}

/* What reads as zeros already costs no memory. */
static int write_zeros(struct restore_process *process, uint64_t address, size_t size, struct bulk_scratch *scratch,
		       struct error *error)
{
	/* Not by process_vm_readv(2), which gives a process its own copy of a page that it shares with its parent. */
	if (fdio_pread(process->tracee->mem_fd, scratch->page, size, address) == (ssize_t)size &&
	    memcmp(scratch->page, zeros, size) == 0)
		return 0;
	return restore_pages_write(process, address, zeros, size, error);
}

/* tree_lock is held for reading. */
static int write_tree(struct session *session, const struct wire_pages_header *header, const uint8_t *data,
		      struct bulk_scratch *scratch, struct error *error)
{
	size_t size = (size_t)header->pages * WIRE_PAGE;
	struct restore_process *process = NULL;
	int r;

	if (!session->tree)
		return error_set(error, -EPROTO, "pages came before the first layout");
	if (header->kind == WIRE_PAGES_HASH && header->pid)
		return write_hashed(session, header, data, scratch, error);
	if (header->kind == WIRE_PAGES_HASH)
		return error_set(error, -EPROTO, "a page of shared memory came as a hash");
	atomic_fetch_add(header->kind == WIRE_PAGES_DATA ? &session->counters.pages : &session->counters.zeros,
			 header->pages);
	if (header->kind == WIRE_PAGES_ZERO)
		data = zeros;
	if (header->pid == 0 && data == zeros)
		return restore_shared_drop(session->tree, header->shared, header->address, size, error);
	if (header->pid == 0)
		return restore_shared_write(session->tree, header->shared, header->address, data, size, error);
	r = find_process(session, header->pid, &process, error);
	if (r < 0)
		return r;
	return data == zeros ? write_zeros(process, header->address, size, scratch, error)
			     : restore_pages_write(process, header->address, data, size, error);
}

static int push(struct session *session, struct lazy *lazy, const struct wire_pages_header *header, const uint8_t *data,
		struct error *error)
{
	if (header->kind == WIRE_PAGES_HASH || header->pid == 0)
		return error_set(error, -EPROTO, "pages of that kind cannot come after the freeze");
	atomic_fetch_add(&session->counters.pushed, header->pages);
	return lazy_install(lazy, (pid_t)header->pid, header->address, header->kind == WIRE_PAGES_DATA ? data : NULL,
			    header->pages, error);
}

static int take_pages(struct session *session, struct bulk_scratch *scratch, struct error *error)
{
	struct wire_pages_header header;
	const uint8_t *data;
	struct lazy *lazy;
	int r = wire_parse_pages(&scratch->payload, &header, &data, error);

	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&session->tree_lock);
	lazy = session->lazy;
	if (!lazy)
		r = write_tree(session, &header, data, scratch, error);
	pthread_rwlock_unlock(&session->tree_lock);
	/* Not under the lock: it may wait for a process that changes its memory map. It is freed after this thread. */
	return lazy ? push(session, lazy, &header, data, error) : r;
}

static int take_mark(struct session_bulk *bulk, const struct buffer *payload, struct error *error)
{
	_cleanup_message_ ProtobufCMessage *base = NULL;
	int r = wire_unpack(payload, &wire_round__descriptor, &base, error);

	if (r < 0)
		return r;
	pthread_mutex_lock(&bulk->session->lock);
	bulk->mark = ((const WireRound *)base)->round;
	pthread_cond_broadcast(&bulk->session->changed);
	pthread_mutex_unlock(&bulk->session->lock);
	return 0;
}

/* ---- the thread --------------------------------------------------------------------------------------------------- */

static int bulk_loop(struct session_bulk *bulk, struct bulk_scratch *scratch, struct error *error)
{
	struct session *session = bulk->session;
	struct frame frame;
	int r;

	for (;;) {
		r = frame_read(bulk->stream, &wire_table_pages, &frame, &scratch->payload, CLOCK_FOREVER, error);
		if (r < 0)
			return r;
		atomic_store(&session->last_traffic, clock_now_ns());
		if (frame.type == WIRE_PAGES)
			r = take_pages(session, scratch, error);
		else if (frame.type == WIRE_MARK)
			r = take_mark(bulk, &scratch->payload, error);
		else
			r = error_set(error, -EPROTO, "%s is not allowed on a bulk stream",
				      wire_type_name(frame.type));
		if (r < 0)
			return r;
	}
}

static void *bulk_main(void *argument)
{
	struct session_bulk *bulk = argument;
	struct session *session = bulk->session;
	struct bulk_scratch *scratch = calloc(1, sizeof(*scratch));
	struct error error = ERROR_INIT;
	int r;

	r = session_welcome(session->registry, bulk->stream, NULL, &error);
	if (r == 0)
		r = stream_lz4_push(&bulk->stream, STREAM_LZ4_NEVER, &error);
	stream_set_cancel(bulk->stream, session->cut_fd);
	if (r == 0)
		r = scratch ? bulk_loop(bulk, scratch, &error) : error_set_errno(&error, -ENOMEM, "bulk stream");
	error_wrap(&error, r, "bulk stream %u", bulk->index);
	if (session_phase(session) <= PHASE_PREPARED) {
		session_fail(session, &error);
	} else if (r != -ECANCELED && r != -ENODATA) {
		log_warning(session->log, "session %s: %s", session->text, error_text(&error, r));
		stream_set_cancel(bulk->stream, -1);
		if (r == -EPROTO)
			wire_send_failure(bulk->stream, r, error_text(&error, r));
		session_lose_source(session);
	}
	stream_free(bulk->stream);
	bulk->stream = NULL;
	if (scratch)
		buffer_deinit(&scratch->payload);
	free(scratch);
	return NULL;
}

int session_join_bulk(struct session *session, unsigned index, struct stream **stream, struct error *error)
{
	struct session_bulk *bulk;
	int r = 0;

	if (index >= WIRE_BULK_MAX)
		return error_set(error, -EPROTO, "there is no bulk stream %u: %u is the limit", index, WIRE_BULK_MAX);
	bulk = &session->bulk[index];
	pthread_mutex_lock(&session->lock);
	if (session->phase == PHASE_NEW || session->phase >= PHASE_FINISHED || session->ended) {
		r = error_set(error, -EPROTO, "the session is %s and takes no bulk stream",
			      phase_name(session->phase));
	} else if (bulk->started) {
		r = error_set(error, -EEXIST, "bulk stream %u exists already", index);
	} else {
		bulk->stream = *stream;
		r = -pthread_create(&bulk->thread, NULL, bulk_main, bulk);
		bulk->started = r == 0;
		if (r == 0)
			*stream = NULL;
		else
			error_set_errno(error, r, "bulk stream %u", index);
	}
	pthread_mutex_unlock(&session->lock);
	return r;
}

void session_end_bulk(struct session *session)
{
	for (unsigned i = 0; i < WIRE_BULK_MAX; i++) {
		struct session_bulk *bulk = &session->bulk[i];
		bool started;

		pthread_mutex_lock(&session->lock);
		started = bulk->started;
		pthread_mutex_unlock(&session->lock);
		if (!started)
			continue;
		pthread_join(bulk->thread, NULL);
		pthread_mutex_lock(&session->lock);
		bulk->started = false;
		bulk->mark = 0;
		pthread_mutex_unlock(&session->lock);
	}
}
