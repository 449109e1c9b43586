/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop: accepts connections, brings each to its HELLO, and reaps sessions that have ended. The only file here that
 * knows libuv. A connection has ten seconds from the accept to its HELLO, and there is a limit of such connections;
 * the sessions' threads are not disturbed by any of it.
 */
#include "pageserver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

#include "connection.h"
#include "recover.h"
#include "transport/tcp.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define HELLO_MS    10000
#define PENDING_MAX 64

struct server {
	struct registry registry;
	const struct log *log;       /* borrowed */
	struct tls_context *tls;     /* owned */
	int listen_fd;               /* owned */
	uv_loop_t loop;
	uv_poll_t listener;          /* on listen_fd */
	uv_signal_t terminate;       /* SIGTERM */
	uv_signal_t interrupt;       /* SIGINT */
	uv_async_t async;            /* a session has ended */
	unsigned pending;            /* connections before their HELLO */
	bool stopping;               /* a signal has come */
};

/* A connection in the loop: freed when both handles are closed. */
struct pending {
	struct server *server;         /* borrowed */
	struct connection *connection; /* owned */
	uv_poll_t poll;
	uv_timer_t timer;
	uv_os_fd_t watched;            /* a copy of the socket, so that the poll outlives its hand-over; owned */
	unsigned open;                 /* handles not closed yet */
};

/* ---- connections -------------------------------------------------------------------------------------------------- */

static void pending_closed(uv_handle_t *handle)
{
	struct pending *pending = handle->data;

	if (--pending->open > 0)
		return;
	pending->server->pending--;
	connection_free(pending->connection);
	if (pending->watched >= 0)
		close(pending->watched);
	free(pending);
}

static void pending_end(struct pending *pending)
{
	if (uv_is_closing((uv_handle_t *)&pending->timer))
		return;
	uv_close((uv_handle_t *)&pending->poll, pending_closed);
	uv_close((uv_handle_t *)&pending->timer, pending_closed);
}

static void pending_ready(uv_poll_t *poll, int status, int events);

static void pending_step(struct pending *pending)
{
	struct error error = ERROR_INIT;
	int r = connection_step(pending->connection, &error);

	if (r == CONNECTION_WANTS_READ || r == CONNECTION_WANTS_WRITE) {
		uv_poll_start(&pending->poll, r == CONNECTION_WANTS_READ ? UV_READABLE : UV_WRITABLE, pending_ready);
		return;
	}
	if (r < 0)
		log_warning(pending->server->log, "%s: %s", connection_peer(pending->connection), error_text(&error, r));
	pending_end(pending);
}

static void pending_ready(uv_poll_t *poll, int status, int events)
{
	pending_step(poll->data);
}

static void pending_late(uv_timer_t *timer)
{
	struct pending *pending = timer->data;

	log_warning(pending->server->log, "%s: no HELLO has come within %d s", connection_peer(pending->connection),
		    HELLO_MS / 1000);
	connection_refuse(pending->connection, -ETIMEDOUT, "no HELLO has come in time");
	pending_end(pending);
}

/* Takes `fd` in any case. */
static int pending_new(struct server *server, int fd, const char *peer, struct error *error)
{
	struct pending *pending = calloc(1, sizeof(*pending));
	int r;

	if (!pending) {
		close(fd);
		return error_set_errno(error, -ENOMEM, "cannot accept a connection");
	}
	pending->server = server;
	pending->watched = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	r = pending->watched < 0 ? error_set_errno(error, -errno, "cannot accept a connection") : 0;
	if (r == 0)
		r = connection_new(&server->registry, server->tls, fd, peer, &pending->connection, error);
	if (r < 0) {
		cleanup_fd(&pending->watched);
		close(fd);
		free(pending);
		return r;
	}
	uv_timer_init(&server->loop, &pending->timer);
	r = uv_poll_init(&server->loop, &pending->poll, pending->watched);
	pending->timer.data = pending->poll.data = pending;
	server->pending++;
	if (r < 0) {
		pending->open = 1;
		uv_close((uv_handle_t *)&pending->timer, pending_closed);
		return error_set_errno(error, r, "cannot watch a connection");
	}
	pending->open = 2;
	uv_timer_start(&pending->timer, pending_late, HELLO_MS, 0);
	pending_step(pending);
	return 0;
}

static void accept_ready(uv_poll_t *poll, int status, int events)
{
	struct server *server = poll->data;

	for (;;) {
		char peer[TCP_ADDRESS_MAX] = "?";
		struct error error = ERROR_INIT;
		int fd = -1, r = tcp_accept(server->listen_fd, NULL, &fd, peer, &error);

		if (r == -EAGAIN)
			return;
		if (r == 0 && server->pending >= PENDING_MAX) {
			close(fd);
			log_warning(server->log, "%s: refused: %d connections without a HELLO are the limit", peer,
				    PENDING_MAX);
			continue;
		}
		if (r == 0)
			r = pending_new(server, fd, peer, &error);
		if (r < 0) {
			log_warning(server->log, "%s: %s", peer, error_text(&error, r));
			return;
		}
	}
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

static void close_handle(uv_handle_t *handle, void *argument)
{
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

static void check_end(struct server *server)
{
	registry_reap(&server->registry);
	recover_prune(&server->registry);
	if (server->stopping && registry_idle(&server->registry) && server->pending == 0)
		uv_walk(&server->loop, close_handle, NULL);
}

static void session_ended(uv_async_t *async)
{
	check_end(async->data);
}

static void end_pending(uv_handle_t *handle, void *argument)
{
	struct server *server = argument;

	if (handle->type == UV_TIMER && handle->data != server)
		pending_end(handle->data);
}

static void signal_came(uv_signal_t *signal, int number)
{
	struct server *server = signal->data;

	if (server->stopping)
		return;
	server->stopping = true;
	log_info(server->log, "ending: signal %d", number);
	uv_poll_stop(&server->listener);
	uv_walk(&server->loop, end_pending, server);
	registry_stop(&server->registry);
	uv_async_send(&server->async);
}

static void wake_loop(void *data)
{
	struct server *server = data;

	uv_async_send(&server->async);
}

/* ---- the beginning ------------------------------------------------------------------------------------------------ */

static int start_loop(struct server *server, struct error *error)
{
	int r = uv_loop_init(&server->loop);

	if (r < 0)
		return error_set_errno(error, r, "cannot start the event loop");
	uv_async_init(&server->loop, &server->async, session_ended);
	uv_signal_init(&server->loop, &server->terminate);
	uv_signal_init(&server->loop, &server->interrupt);
	uv_poll_init(&server->loop, &server->listener, server->listen_fd);
	server->async.data = server->terminate.data = server->interrupt.data = server->listener.data = server;
	uv_signal_start(&server->terminate, signal_came, SIGTERM);
	uv_signal_start(&server->interrupt, signal_came, SIGINT);
	uv_poll_start(&server->listener, UV_READABLE, accept_ready);
	server->registry.wake = wake_loop;
	server->registry.wake_data = server;
	return 0;
}

static void run_loop(struct server *server)
{
	/* The walk that ends it can only happen when nothing is pending, which a closing connection makes true late. */
	for (;;) {
		uv_run(&server->loop, UV_RUN_ONCE);
		if (!uv_loop_alive(&server->loop))
			break;
		if (server->stopping)
			check_end(server);
	}
	uv_loop_close(&server->loop);
}

int pageserver_run(const struct pageserver_options *options, const struct log *log,
		   void (*ready)(const char *address, void *data), void *data, struct error *error)
{
	struct server server = { .log = log, .listen_fd = -1 };
	char address[TCP_ADDRESS_MAX];
	int r;

	signal(SIGPIPE, SIG_IGN);
	fdio_raise_limit(); /* a tree of thousands of processes, files and threads needs descriptors */
	r = tls_context_new(TLS_SERVER, options->tls_dir, &server.tls, error);
	if (r < 0)
		return r;
	r = registry_init(&server.registry, options, log, error);
	if (r == 0) {
		r = tcp_listen(options->listen, &server.listen_fd, address, error);
		if (r == 0)
			r = start_loop(&server, error);
		if (r == 0)
			r = recover_sessions(&server.registry, error);
		if (r == 0) {
			recover_locks(&server.registry);
			ready(address, data);
			run_loop(&server);
		}
		registry_deinit(&server.registry);
	}
	cleanup_fd(&server.listen_fd);
	tls_context_unref(server.tls);
	return r;
}
