/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault thread: reads the userfaultfds, asks the source, puts in what comes.
 *
 * Happy path of a fault: poll, read (events.c notes who waits), one PAGE_REQUEST frame that names the page first and
 * then neighbours that are missing as well, a PAGES frame, UFFDIO_COPY, which wakes the thread. For a moment after each
 * fault or answer the thread polls without sleeping, and lets others run in between, which makes dense faults cheap.
 *
 * Only this thread changes the list of spaces and their areas, so it may look at them without the lock.
 *
 * Failure modes: a broken stream ends the call and keeps who waits; the next call asks for them again. A
 * process that ends says nothing to a userfaultfd: each space is probed a few times a second.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "private.h"

#include "transport/frame.h"
#include "transport/wire.h"
#include "util/cleanup.h"
#include "wire.pb-c.h"

#define SPIN_NS (150 * INT64_C(1000))
#define PROBE_NS (200 * CLOCK_MS)
#define SEND_DEADLINE (30 * CLOCK_S)
#define REQUEST_PAGES 16u
#define FRAMES_AT_ONCE 16
#define FIXED_FDS 4

struct fault_loop {
	struct lazy *lazy;          /* borrowed */
	struct stream *urgent;      /* borrowed; NULL: none now */
	int cancel_fd;              /* borrowed; -1: none */
	struct frame_reader reader; /* frames from the source */
	int64_t spin_until;         /* no sleeping before */
	int64_t probe_at;           /* next look for spaces that are gone */
	ARRAY(struct pollfd) fds;   /* FIXED_FDS, then one for each space */
};

/* ---- requests */

/* A new stream knows of no request. */
static void forget_requests(struct lazy *lazy)
{
	array_for_each(space, &lazy->spaces)
		array_for_each(chunk, &(*space)->chunks)
			bitmap_clear_range(&chunk->asked, 0, chunk->asked.bits);
	pthread_mutex_lock(&lazy->waiting_lock);
	array_for_each(waiting, &lazy->waiting)
		waiting->asked = false;
	pthread_mutex_unlock(&lazy->waiting_lock);
}

/* The next fault that nobody has been asked for. */
static bool next_request(struct lazy *lazy, struct lazy_waiting *ret)
{
	bool found = false;

	pthread_mutex_lock(&lazy->waiting_lock);
	array_for_each(waiting, &lazy->waiting) {
		if (!waiting->asked) {
			waiting->asked = true;
			*ret = *waiting;
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&lazy->waiting_lock);
	return found;
}

/* The page, and what is missing right behind it and has not been asked for. */
static uint32_t count_neighbours(struct lazy *lazy, const struct lazy_waiting *waiting)
{
	struct lazy_space *space = lazy_find_space(lazy, waiting->space);
	struct lazy_chunk *chunk = space ? lazy_space_find_chunk(space, waiting->source) : NULL;
	uint64_t first, run, pages = 1;

	if (!chunk)
		return 1;
	first = (waiting->source - chunk->source) / LAZY_PAGE;
	run = lazy_space_missing_run(space, waiting->source, REQUEST_PAGES);
	while (pages < run && !bitmap_test(&chunk->asked, first + pages))
		pages++;
	bitmap_set_range(&chunk->asked, first, pages);
	return (uint32_t)pages;
}

static int send_requests(struct fault_loop *loop, struct error *error)
{
	int64_t deadline = clock_deadline(SEND_DEADLINE);
	struct lazy_waiting waiting;
	bool sent = false;
	int r;

	if (!loop->urgent || atomic_load(&loop->lazy->waiting_count) == 0)
		return 0;
	while (next_request(loop->lazy, &waiting)) {
		struct wire_page_request request = {
			.address = waiting.source,
			.pid = (uint32_t)waiting.pid,
			.pages = count_neighbours(loop->lazy, &waiting),
		};
		struct iovec iov = { .iov_base = &request, .iov_len = sizeof(request) };

		r = frame_write(loop->urgent, WIRE_PAGE_REQUEST, 0, &iov, 1, deadline, error);
		if (r < 0)
			return error_wrap(error, r, "cannot ask for a page");
		sent = true;
	}
	return sent ? stream_flush(loop->urgent, deadline, error) : 0;
}

/* ---- reading userfaultfds */

static int read_events(struct fault_loop *loop, struct lazy_space *space, struct error *error)
{
	uint64_t before = atomic_load(&loop->lazy->faults);
	int r = lazy_events_read(loop->lazy, space, error);

	if (atomic_load(&loop->lazy->faults) != before)
		loop->spin_until = clock_now_ns() + SPIN_NS;
	return r;
}

/* By index: a fork appends. */
static int read_all_events(struct fault_loop *loop, struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < loop->lazy->spaces.count; i++)
		r = read_events(loop, loop->lazy->spaces.items[i], error);
	return r;
}

static bool is_cancelled(const struct fault_loop *loop)
{
	struct pollfd fd = { .fd = loop->cancel_fd, .events = POLLIN };

	return loop->cancel_fd >= 0 && poll(&fd, 1, 0) > 0;
}

/* ---- answers */

static int install(struct fault_loop *loop, const struct wire_pages_header *header, const uint8_t *data,
		   struct error *error)
{
	uint32_t done = 0;

	while (done < header->pages) {
		uint32_t left = header->pages - done;
		uint32_t slice = left < LAZY_SLICE_PAGES ? left : LAZY_SLICE_PAGES;
		uint64_t offset = done * LAZY_PAGE;
		int r = lazy_install_slice(loop->lazy, (pid_t)header->pid, header->address + offset,
					   data ? data + offset : NULL, slice, error);

		if (r == -EAGAIN) {
			r = read_all_events(loop, error);
			if (r == 0 && is_cancelled(loop))
				r = error_set(error, -ECANCELED, "cancelled");
			if (r < 0)
				return r;
			sched_yield();
			continue;
		}
		if (r < 0)
			return r;
		done += slice;
	}
	return 0;
}

static int source_failed(const struct buffer *payload, struct error *error)
{
	WireFailure *failure;
	int r = wire_unpack(payload, &wire_failure__descriptor, (ProtobufCMessage **)(void *)&failure, error);

	if (r < 0)
		return r;
	r = error_set(error, -ECONNRESET, "the source gives up: %s", failure->message);
	wire_failure__free_unpacked(failure, NULL);
	return r;
}

static int handle_frame(struct fault_loop *loop, struct error *error)
{
	const struct frame_reader *reader = &loop->reader;
	struct wire_pages_header header;
	const uint8_t *data;
	int r;

	switch (reader->frame.type) {
	case WIRE_MARK:
		return 0;
	case WIRE_FAILURE:
		return source_failed(&reader->payload, error);
	case WIRE_PAGES:
		break;
	default:
		return error_set(error, -EPROTO, "%s frame among the pages", wire_type_name(reader->frame.type));
	}
	r = wire_parse_pages(&reader->payload, &header, &data, error);
	if (r < 0)
		return r;
	if (header.pid == 0 || header.kind == WIRE_PAGES_HASH)
		return error_set(error, -EPROTO, "pages of this kind cannot come after the resume");
	return install(loop, &header, header.kind == WIRE_PAGES_ZERO ? NULL : data, error);
}

static int read_frames(struct fault_loop *loop, struct error *error)
{
	for (int i = 0; i < FRAMES_AT_ONCE; i++) {
		int r = frame_reader_next(&loop->reader, loop->urgent, STREAM_NOWAIT, error);

		if (r == -EAGAIN)
			return 0;
		if (r == -ENODATA) {
			error_clear(error);
			return error_set(error, -ECONNRESET,
					 "the source has closed the stream while pages are missing");
		}
		if (r == 0)
			r = handle_frame(loop, error);
		if (r < 0)
			return r;
		loop->spin_until = clock_now_ns() + SPIN_NS;
	}
	return 0;
}

/* ---- waiting */

static int fill_fds(struct fault_loop *loop, struct error *error)
{
	struct lazy *lazy = loop->lazy;

	array_clear(&loop->fds);
	if (array_reserve(&loop->fds, FIXED_FDS + lazy->spaces.count) < 0)
		return error_set(error, -ENOMEM, "no memory to wait for faults");
	loop->fds.items[0] = (struct pollfd){ .fd = lazy->wake_fd, .events = POLLIN };
	loop->fds.items[1] = (struct pollfd){ .fd = loop->cancel_fd, .events = POLLIN };
	loop->fds.items[2] = (struct pollfd){ .fd = loop->urgent ? stream_fd(loop->urgent) : -1, .events = POLLIN };
	loop->fds.items[3] = (struct pollfd){ .fd = lazy->keeper_fd }; /* its end */
	loop->fds.count = FIXED_FDS;
	array_for_each(space, &lazy->spaces)
		loop->fds.items[loop->fds.count++] = (struct pollfd){ .fd = (*space)->uffd, .events = POLLIN };
	return 0;
}

static void probe(struct fault_loop *loop)
{
	array_for_each(space, &loop->lazy->spaces)
		if (!lazy_userfault_alive((*space)->uffd))
			atomic_store(&(*space)->gone, true);
	loop->probe_at = clock_now_ns() + PROBE_NS;
	if (loop->lazy->walk_due)
		lazy_victim_walk(loop->lazy);
	lazy_reap(loop->lazy);
}

/* Until there is another, the end of this program would be that of the processes. */
static void lose_keeper(struct lazy *lazy)
{
	if (lazy->keeper_fd >= 0)
		close(steal_fd(&lazy->keeper_fd));
	lazy->keeper_wanted = false;
	if (lazy->keeper_lost)
		lazy->keeper_lost(lazy->keeper_context);
}

/* Waits for something and handles it. */
static int turn(struct fault_loop *loop, struct error *error)
{
	bool pending = loop->urgent && stream_pending(loop->urgent);
	int64_t now = clock_now_ns();
	bool spin = now < loop->spin_until;
	const struct pollfd *fds;
	uint64_t wakes;
	int n, r = fill_fds(loop, error);

	if (r < 0)
		return r;
	fds = loop->fds.items;
	n = poll(loop->fds.items, loop->fds.count, spin || pending ? 0 : clock_poll_ms(loop->probe_at));
	if (n < 0)
		return errno == EINTR ? 0 : error_set_errno(error, -errno, "waiting for faults");
	if (n == 0 && spin && !pending)
		sched_yield();
	if (fds[1].revents)
		return error_set(error, -ECANCELED, "cancelled");
	for (size_t i = FIXED_FDS; n > 0 && r == 0 && i < loop->fds.count; i++)
		if (fds[i].revents)
			r = read_events(loop, loop->lazy->spaces.items[i - FIXED_FDS], error);
	if (r == 0)
		r = send_requests(loop, error);
	if (r == 0 && loop->urgent && (pending || fds[2].revents))
		r = read_frames(loop, error);
	if (r == 0 && fds[0].revents && read(loop->lazy->wake_fd, &wakes, sizeof(wakes)) > 0)
		lazy_reap(loop->lazy);
	if (r == 0 && loop->lazy->keeper_wanted && (fds[3].revents || loop->lazy->keeper_fd < 0))
		lose_keeper(loop->lazy);
	if (r == 0 && now >= loop->probe_at)
		probe(loop);
	return r;
}

int lazy_run_faults(struct lazy *lazy, struct stream *urgent, int cancel_fd, struct error *error)
{
	struct fault_loop loop = { .lazy = lazy, .urgent = urgent, .cancel_fd = cancel_fd };
	int r = 0;

	frame_reader_init(&loop.reader, &wire_table_pages);
	forget_requests(lazy);
	lazy_reap(lazy);
	while (r == 0 && lazy->spaces.count > 0) {
		if (lazy->walk_due)
			lazy_victim_walk(lazy);
		r = turn(&loop, error);
	}
	if (atomic_load(&lazy->lost)) {
		r = -ENOTRECOVERABLE;
	} else if (lazy->spaces.count == 0) {
		lazy_link_done(lazy);
		if (r < 0)
			error_clear(error);
		r = 0;
	}
	array_deinit(&loop.fds);
	frame_reader_deinit(&loop.reader);
	return r;
}
