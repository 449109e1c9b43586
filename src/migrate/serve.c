/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Post-copy, seen from the source: the tree runs on the target, ours is frozen and only read. A thread answers page
 * requests on the urgent stream; another pushes what nobody has asked for, going on behind the page of the last fault;
 * the caller waits for COMPLETE. Each page is sent once, by whichever thread takes it out of the missing set first.
 *
 * When the link breaks, or one stream of it, faults on the target wait; we connect again, ask for the session, open the
 * streams anew, and push everything that the target did not confirm: it ignores what it has.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#include "source.h"
#include "util/cleanup.h"
#include "util/stop-point.h"
#include "wire.pb-c.h"

#define PAGE UINT64_C(4096)
#define RECONNECT_NS (3600 * CLOCK_S)

/* How long COMPLETE may take when another stream has ended, as the target's end of the urgent one does just before it. */
#define COMPLETE_NS (2 * CLOCK_S)

struct server {
	struct source *source;
	struct stream *stream;
	int broken_fd;    /* eventfd, borrowed: this stream has failed */
	pthread_t thread;
	int result;
	struct error error;
	uint8_t data[WIRE_RUN_PAGES_MAX * WIRE_PAGE];
};

static int send_one(struct server *server, struct source_memory *memory, uint64_t page, uint64_t pages, int64_t deadline)
{
	struct wire_pages_header header = {
		.pid = (uint32_t)memory->pid,
		.address = page * PAGE,
		.pages = (uint32_t)pages,
		.kind = WIRE_PAGES_DATA,
	};

	if (pages_read(memory, page * PAGE, pages, server->data) < 0) {
		if (pages > 1) {
			int r = 0;

			for (uint64_t i = 0; r == 0 && i < pages; i++)
				r = send_one(server, memory, page + i, 1, deadline);
			return r;
		}
		header.kind = WIRE_PAGES_ZERO; /* asked for, but nothing is there: it reads as zeros here, too */
	}
	return wire_send_pages(server->stream, &header, server->data, deadline, &server->error);
}

/* Requested pages go out whatever was sent before: a request may come because a stream broke. */
static int answer(struct server *server, const struct wire_page_request *request)
{
	struct source *source = server->source;
	struct source_memory *memory = memory_find(source, (pid_t)request->pid);
	int64_t deadline = clock_deadline(SOURCE_ANSWER_NS);
	int r;

	if (!memory || request->pages < 1 || request->pages > WIRE_RUN_PAGES_MAX || request->address % PAGE)
		return error_set(&server->error, -EPROTO, "the target asked for %u pages at 0x%llx of PID %u",
				 request->pages, (unsigned long long)request->address, request->pid);
	pthread_mutex_lock(&source->lock);
	pageset_remove(&memory->missing, request->address / PAGE, request->pages);
	source->summary->pages_faulted++;
	source->summary->pages_sent += request->pages;
	pthread_mutex_unlock(&source->lock);
	source->push_hint_pid = (int)request->pid;
	source->push_hint_page = request->address / PAGE + request->pages;
	r = send_one(server, memory, request->address / PAGE, request->pages, deadline);
	return r < 0 ? r : stream_flush(server->stream, deadline, &server->error);
}

static void *urgent_run(void *data)
{
	struct server *server = data;
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	struct frame frame;

	while (server->result == 0) {
		struct wire_page_request request;

		server->result = frame_read(server->stream, &wire_table_request, &frame, &payload, CLOCK_FOREVER,
					    &server->error);
		if (server->result < 0)
			break;
		if (frame.type != WIRE_PAGE_REQUEST || payload.size != sizeof(request)) {
			server->result = -EPROTO;
			break;
		}
		memcpy(&request, payload.data, sizeof(request));
		server->result = answer(server, &request);
	}
	eventfd_write(server->broken_fd, 1);
	return NULL;
}

/* The next missing run: behind the last fault if there is one, else anywhere. */
static uint64_t take_missing(struct source *source, struct source_memory **ret, uint64_t *ret_page)
{
	struct source_memory *hinted = memory_find(source, source->push_hint_pid);
	uint64_t n = 0;

	pthread_mutex_lock(&source->lock);
	if (hinted)
		n = pageset_next(&hinted->missing, source->push_hint_page, WIRE_RUN_PAGES_MAX, ret_page);
	if (n)
		*ret = hinted;
	for (size_t i = 0; !n && i < source->memory.count; i++) {
		*ret = source->memory.items[i];
		n = pageset_next(&(*ret)->missing, 0, WIRE_RUN_PAGES_MAX, ret_page);
	}
	if (n) {
		pageset_remove(&(*ret)->missing, *ret_page, n);
		source->summary->pages_sent += n;
	}
	if (n && *ret == hinted)
		source->push_hint_page = *ret_page + n;
	pthread_mutex_unlock(&source->lock);
	return n;
}

static void *push_run(void *data)
{
	struct server *server = data;
	struct source_memory *memory;
	WireRound mark = WIRE_ROUND__INIT;
	uint64_t page, n;

	while (server->result == 0 && (n = take_missing(server->source, &memory, &page)))
		server->result = send_one(server, memory, page, n, CLOCK_FOREVER);
	mark.round = server->source->round + 1;
	if (server->result == 0)
		server->result = wire_send(server->stream, WIRE_MARK, &mark.base, CLOCK_FOREVER, &server->error);
	if (server->result < 0)
		eventfd_write(server->broken_fd, 1);
	return NULL;
}

static int expect_complete(struct source *source, WireComplete **ret, int64_t deadline, struct error *error)
{
	return wire_expect(source->control, &wire_table_client, WIRE_COMPLETE, &wire_complete__descriptor,
			   (ProtobufCMessage **)(void *)ret, deadline, error);
}

/* All streams live and die together: a broken one would never be missed on a control stream that says nothing. */
static int wait_complete(struct source *source, int broken_fd, struct error *error)
{
	_cleanup_message_ WireComplete *complete = NULL;
	int r;

	stream_set_cancel(source->control, broken_fd);
	r = expect_complete(source, &complete, CLOCK_FOREVER, error);
	stream_set_cancel(source->control, -1);
	if (r == -ECANCELED) {
		error_clear(error);
		r = expect_complete(source, &complete, clock_deadline(COMPLETE_NS), error);
	}
	if (r < 0)
		return r;
	stop_point("complete");
	pthread_mutex_lock(&source->lock);
	source->summary->pages_faulted = complete->faults;
	pthread_mutex_unlock(&source->lock);
	source->summary->fault_us_p50 = complete->fault_us_p50;
	source->summary->fault_us_p99 = complete->fault_us_p99;
	return 0;
}

/* The target has all: what is still on the list (after a reconnection everything is) need not go out again. */
static void stop_pushing(struct source *source)
{
	pthread_mutex_lock(&source->lock);
	array_for_each(memory, &source->memory)
		array_clear(&(*memory)->missing.chunks);
	pthread_mutex_unlock(&source->lock);
}

/* One life of the link: 0 when the target is complete. */
static int serve(struct source *source, struct error *error)
{
	struct server *servers = calloc(1 + source->bulk_count, sizeof(*servers));
	_cleanup_fd_ int broken_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint32_t started = 0;
	int r = 0;

	if (!servers || broken_fd < 0) {
		free(servers);
		return error_set(error, -ENOMEM, "out of memory");
	}
	for (uint32_t i = 0; r == 0 && i < 1 + source->bulk_count; i++) {
		servers[i].source = source;
		servers[i].broken_fd = broken_fd;
		servers[i].stream = i ? source->bulk[i - 1] : source->urgent;
		stream_set_cancel(servers[i].stream, -1);
		r = -pthread_create(&servers[i].thread, NULL, i ? push_run : urgent_run, &servers[i]);
		started += r == 0;
	}
	if (r < 0)
		error_set_errno(error, r, "cannot start a thread");
	else
		r = wait_complete(source, broken_fd, error);
	if (r == 0)
		stop_pushing(source);
	/* Whatever the reason, the streams have done their work: closing the sockets' reading side wakes the threads. */
	for (uint32_t i = 0; i < started; i++) {
		if (r < 0 || i == 0)
			shutdown(stream_fd(servers[i].stream), SHUT_RDWR);
		pthread_join(servers[i].thread, NULL);
	}
	free(servers);
	return r;
}

/* Asks what became of the session; on the way the control stream is made anew. */
int serve_ask(struct source *source, uint32_t *ret_state, struct error *error)
{
	_cleanup_message_ WireAnswer *answer = NULL;
	char boot[sizeof(source->target_boot)];
	int64_t deadline = clock_deadline(stop_point_wait(SOURCE_CONNECT_NS));
	int r;

	memcpy(boot, source->target_boot, sizeof(boot));
	source_close_streams(source);
	r = source_open_stream(source, WIRE_ASK, 0, deadline, &source->control, error);
	if (r == 0)
		r = wire_send(source->control, WIRE_ASK_STATE, NULL, deadline, error);
	if (r == 0)
		r = wire_expect(source->control, &wire_table_client, WIRE_ANSWER, &wire_answer__descriptor,
				(ProtobufCMessage **)(void *)&answer, deadline, error);
	if (r < 0)
		return r;
	*ret_state = answer->state;
	source->complete = answer->state == WIRE_STATE_RUNNING && answer->has_missing && answer->missing == 0;
	/* A target that was booted anew has no copy of anything. */
	if (answer->state == WIRE_STATE_UNKNOWN && boot[0] && strcmp(boot, source->target_boot) != 0)
		*ret_state = WIRE_STATE_ABORTED;
	memcpy(source->target_boot, boot, sizeof(boot));
	return 0;
}

static int reconnect(struct source *source, struct error *error)
{
	int64_t deadline = clock_deadline(RECONNECT_NS);
	const struct timespec pause = { .tv_nsec = 200000000 };

	for (;;) {
		uint32_t state = 0;
		int r;

		error_clear(error);
		r = serve_ask(source, &state, error);
		if (r == 0 && state != WIRE_STATE_RUNNING)
			return error_set(error, -ENOENT, "the target does not know of the running tree any more");
		if (r == 0 && !source->complete)
			r = source_connect_streams(source, error);
		if (r == 0)
			return 0;
		if (clock_now_ns() > deadline)
			return r;
		nanosleep(&pause, NULL);
	}
}

/* Nothing that was sent is known to have arrived. */
static int miss_all(struct source *source, struct error *error)
{
	int r = 0;

	pthread_mutex_lock(&source->lock);
	array_for_each(memory, &source->memory)
		if (r == 0)
			r = pageset_copy(&(*memory)->missing, &(*memory)->fresh);
	pthread_mutex_unlock(&source->lock);
	return r < 0 ? error_set_errno(error, r, "cannot note the missing pages") : 0;
}

int serve_postcopy(struct source *source, struct error *error)
{
	int r;

	array_for_each(memory, &source->memory)
		if (pageset_copy(&(*memory)->fresh, &(*memory)->missing) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	/* After doubt there is only the stream that has asked. */
	r = source->urgent ? 0 : reconnect(source, error);
	while (r == 0 && !source->complete) {
		r = serve(source, error);
		if (r == 0)
			return 0;
		log_warning(source->log, "the link broke while pages are missing on the target (%s); connecting again",
			    error_text(error, r));
		r = miss_all(source, error);
		if (r == 0)
			r = reconnect(source, error);
	}
	return r;
}
