/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What post-copy needs and takes time to make: the keeper is a program to be started. Made with the first layout, while the
 * source's tree runs, so that the PREPARE, which is in the downtime, finds it ready. A session that turns out to have no
 * missing pages lets it go again.
 */
#include <errno.h>

#include "session.h"
#include "util/cleanup.h"

static void cleanup_lazy(struct lazy **lazy)
{
	lazy_free(*lazy);
}

int session_ready_lazy(struct session *session, struct error *error)
{
	_cleanup_(cleanup_lazy) struct lazy *lazy = NULL;
	struct error local = ERROR_INIT;
	char path[108];
	pid_t keeper;
	int r;

	if (session->ready_lazy)
		return 0;
	if (!session_keeper_path(session->registry, session->text, path, sizeof(path)))
		return error_set(error, -ENAMETOOLONG, "the state directory %s has too long a name",
				 session->registry->options->state_dir);
	r = lazy_new(session->log, &lazy, error);
	if (r == 0)
		r = lazy_keeper_start(lazy, path, &keeper, error);
	if (r < 0)
		return r;
	/* What ends this program's cgroup, as the stop of a service, shall end the keeper as little as the tree. */
	if (session->freezer && freezer_restore(session->freezer, keeper, &local) < 0)
		log_debug(session->log, "session %s: the keeper stays in this cgroup: %s", session->text, local.message);
	session->ready_lazy = steal_ptr(&lazy);
	return 0;
}

static void keeper_lost(void *context)
{
	struct session *session = context;
	struct error error = ERROR_INIT;
	char path[108];
	int r = -ENAMETOOLONG;

	if (session_keeper_path(session->registry, session->text, path, sizeof(path)))
		r = lazy_keeper_start(session->lazy, path, NULL, &error);
	if (r < 0)
		log_error(session->log,
			  "session %s: the keeper of missing pages has gone, and no other can be started (%s): the end of this "
			  "page server would now end the tree",
			  session->text, error_text(&error, r));
	else
		log_warning(session->log, "session %s: the keeper of missing pages has gone; another one has been started",
			    session->text);
	error_clear(&error);
}

void session_watch_keeper(struct session *session)
{
	lazy_keeper_on_loss(session->lazy, keeper_lost, session);
}

void session_drop_ready_lazy(struct session *session)
{
	lazy_free(steal_ptr(&session->ready_lazy));
}
