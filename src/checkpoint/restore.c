/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a directory to a running tree:
 *
 *   open the directory, which checks it; list what is in the way on this host
 *   level by level of the tree: make the processes, put their pages in place. A child begins as a copy of its parent, so
 *   what is equal stays shared
 *   descriptors, registers and all the rest; then let go
 *
 * Until the end the processes are shells that the kernel kills with this program, so a failure leaves nothing.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "image/tree-name.h"
#include "net/lock.h"
#include "pstree.pb-c.h"
#include "private.h"
#include "restore/accept-queue.h"
#include "restore/file-lock.h"
#include "restore/files.h"
#include "restore/tcp-tuples.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/stop-point.h"

#define WORK_NS (60 * CLOCK_S) /* for one step of the kernel's work in the shells */

static int report(const struct checkpoint *checkpoint, const struct image_blockers *blockers, struct error *error)
{
	image_blockers_log_notes(blockers, checkpoint->log);
	if (image_blockers_empty(blockers))
		return 0;
	image_blockers_log(blockers, checkpoint->log);
	return error_set(error, -EBUSY, "%s cannot be restored here: %zu object%s in the way", checkpoint->options->path,
			 blockers->list.count, blockers->list.count == 1 ? " is" : "s are");
}

static int check(struct checkpoint *checkpoint, struct error *error)
{
	const struct image_set *images = image_directory_set(checkpoint->directory);
	struct net_tuples tuples = { 0 };
	struct image_blockers blockers;
	int r;

	if (!image_set_find(images, IMAGE_PSTREE, 0))
		return error_set(error, -EINVAL,
				 "%s holds pages only: it is a pre-dump, or a round of another checkpoint, to which it belongs",
				 checkpoint->options->path);
	r = image_directory_check_hollow(checkpoint->directory, error);
	if (r < 0)
		return r;
	image_blockers_init(&blockers);
	r = restore_check(images, &blockers, error);
	if (r == 0)
		r = restore_files_check(images, false, &blockers, error);
	if (r == 0)
		r = restore_tcp_tuples(images, !checkpoint->options->restore.tcp_established, &tuples, error);
	if (r == 0)
		restore_tcp_check_addresses(&tuples, &blockers);
	if (r == 0 && checkpoint->options->restore.tcp_established)
		restore_accept_queue_check(images, &blockers);
	net_tuples_deinit(&tuples);
	if (r == 0)
		r = report(checkpoint, &blockers, error);
	image_blockers_deinit(&blockers);
	return r;
}

struct search {
	const char *name;
	bool found;
};

static bool is_it(void *context, const char *session)
{
	struct search *search = context;

	search->found |= strcmp(session, search->name) == 0;
	return true;
}

static bool has_connections(const struct checkpoint *checkpoint)
{
	return checkpoint->options->restore.tcp_established &&
	       (image_set_find(image_directory_set(checkpoint->directory), IMAGE_TCP_STREAM, IMAGE_ANY) ||
		restore_accept_queue_is_needed(image_directory_set(checkpoint->directory)));
}

/*
 * The dump has left a lock on connections and listening sockets, unless it was made on another host: then there is one for the
 * connections from now on. It goes when the tree runs, also when that has closed its connections.
 */
static int take_lock(struct checkpoint *checkpoint, struct error *error)
{
	char name[IMAGE_TREE_NAME_SIZE];
	struct search search = { .name = name };
	bool needed = has_connections(checkpoint);
	int r;

	r = image_tree_name(image_directory_set(checkpoint->directory), name, needed ? error : NULL);
	if (r < 0 && !needed) /* not one of our directories */
		return 0;
	if (r == 0)
		r = net_lock_remove_stale(NET_LOCK_CHECKPOINT, is_it, &search, error);
	if (r >= 0 && !search.found && !needed)
		return 0;
	if (r >= 0)
		r = net_lock_new(NET_LOCK_CHECKPOINT, name, &checkpoint->lock, error);
	if (r < 0)
		return r;
	checkpoint->lock_found = search.found;
	checkpoint->tree->lock = checkpoint->lock;
	return net_lock_prepare(checkpoint->lock, error);
}

static void leave_lock(struct checkpoint *checkpoint, bool failed)
{
	struct error error = ERROR_INIT;

	if (failed && checkpoint->lock && !checkpoint->lock_found && net_lock_release(checkpoint->lock, &error) < 0)
		log_error(checkpoint->log, "%s", error.message);
	net_lock_free(checkpoint->lock);
}

static void note_time(const struct checkpoint *checkpoint, const char *what)
{
	log_debug(checkpoint->log, "%s after %.3f ms", what, (double)(clock_now_ns() - checkpoint->began) / (double)CLOCK_MS);
}

static int check_cancel(const struct checkpoint *checkpoint, struct error *error)
{
	struct pollfd fd = { .fd = checkpoint->options->cancel_fd, .events = POLLIN };

	return poll(&fd, 1, 0) > 0 ? error_set(error, -ECANCELED, "interrupted: nothing was restored") : 0;
}

static size_t count_wanted(const struct image_set *images)
{
	size_t cursor = 0, count = 0;

	while (image_set_next(images, IMAGE_PSTREE, IMAGE_ANY, &cursor))
		count++;
	return count;
}

static size_t count_made(const struct restore_tree *tree)
{
	return tree->processes.count + tree->zombies.count;
}

static int build(struct checkpoint *checkpoint, struct error *error)
{
	const struct image_set *images = image_directory_set(checkpoint->directory);
	struct restore_tree *tree = checkpoint->tree;
	size_t wanted = count_wanted(images), before;
	int r = 0;

	tree->depth = 0;
	do {
		before = count_made(tree);
		tree->deadline = clock_deadline(WORK_NS);
		stop_point("restore-level %u", tree->depth);
		r = check_cancel(checkpoint, error);
		if (r == 0)
			r = restore_tree_layout(tree, images, error);
		note_time(checkpoint, "laid out");
		if (r == 0 && tree->depth == 0)
			r = checkpoint_fill_objects(checkpoint, error);
		if (r == 0)
			r = checkpoint_fill_processes(checkpoint, error);
		note_time(checkpoint, "pages");
		tree->depth++;
	} while (r == 0 && count_made(tree) < wanted && count_made(tree) > before);
	tree->depth = UINT_MAX;
	return r;
}

static int finish(struct checkpoint *checkpoint, struct error *error)
{
	struct restore_tree *tree = checkpoint->tree;
	int r = 0;

	tree->deadline = clock_deadline(WORK_NS);
	if (checkpoint->lazy) {
		r = restore_tree_lock(tree, image_directory_set(checkpoint->directory), error);
		if (r == 0)
			r = checkpoint_lazy_begin(checkpoint->lazy, checkpoint, error);
	}
	if (r == 0)
		r = restore_tree_finish(tree, image_directory_set(checkpoint->directory), error);
	note_time(checkpoint, "finished");
	stop_point("restore-finished");
	if (r == 0)
		r = check_cancel(checkpoint, error);
	if (r == 0)
		r = restore_tree_keep(tree, error);
	if (r < 0)
		return r;
	restore_tree_go(tree);
	return 0;
}

/* The holders of locks on files are gone, unless somebody else has taken them meanwhile. */
static void take_locks(struct checkpoint *checkpoint)
{
	struct restore_locks *locks = restore_locks_steal(checkpoint->tree);
	struct error error = ERROR_INIT;
	size_t left = 0;

	if (!locks)
		return;
	if (restore_locks_take(locks, clock_deadline(CLOCK_S), &left, &error) < 0 || left)
		log_warning(checkpoint->log, "%zu locks on files could not be taken again%s%s", left,
			    error.code ? ": " : "", error.code ? error.message : "");
	restore_locks_free(locks);
}

static void describe(struct checkpoint *checkpoint)
{
	checkpoint->summary->pid = checkpoint->tree->processes.items[0]->pid;
	checkpoint->summary->processes = (uint32_t)checkpoint->tree->processes.count;
	array_for_each(process, &checkpoint->tree->processes)
		checkpoint->summary->threads += (uint32_t)(*process)->tracee->threads.count;
}

/* A restore that was not to be interrupted says of which tree it is. */
static int restore(struct checkpoint *checkpoint, struct error *error)
{
	int r = build(checkpoint, error);

	if (r == 0) {
		describe(checkpoint);
		r = finish(checkpoint, error);
	}
	if (r == 0 || r == -ECANCELED || checkpoint->tree->processes.count == 0)
		return r;
	return error_wrap(error, r, "PID %d of %s", checkpoint->tree->processes.items[0]->pid, checkpoint->options->path);
}

int checkpoint_restore(const struct checkpoint_restore_options *options, const struct log *log,
		       struct checkpoint_summary *summary, struct checkpoint_lazy **ret_lazy, struct error *error)
{
	struct checkpoint checkpoint = { .options = options, .log = log, .summary = summary, .began = clock_now_ns() };
	int r;

	*summary = (struct checkpoint_summary){ 0 };
	checkpoint.restore = options->restore;
	checkpoint.restore.checkpoint = true;
	r = image_directory_open(options->path, &checkpoint.directory, error);
	note_time(&checkpoint, "opened");
	if (r == 0)
		r = check(&checkpoint, error);
	note_time(&checkpoint, "checked");
	if (r == 0)
		r = restore_tree_new(&checkpoint.restore, log, &checkpoint.tree, error);
	if (r == 0)
		r = take_lock(&checkpoint, error);
	if (r == 0 && options->lazy_pages)
		r = checkpoint_lazy_new(&checkpoint, &checkpoint.lazy, error);
	if (r == 0)
		r = restore(&checkpoint, error);
	summary->ready_ms = (double)(clock_now_ns() - checkpoint.began) / (double)CLOCK_MS;
	if (r == 0)
		take_locks(&checkpoint);
	restore_tree_free(checkpoint.tree);
	if (r == 0 && checkpoint.lazy)
		*ret_lazy = steal_ptr(&checkpoint.lazy);
	else if (r == 0)
		*ret_lazy = NULL;
	checkpoint_lazy_free(checkpoint.lazy);
	leave_lock(&checkpoint, r < 0);
	image_directory_free(checkpoint.directory);
	return r;
}
