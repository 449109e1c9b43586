/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checkpoint is a migration to a directory whose go never comes:
 *
 *   as for a move: preflight, rounds while the tree runs, freeze, the state and the last dirty pages
 *   a tree that goes on is let go now, and the records are written while it runs; one that ends is held by the freezer
 *   until the directory is complete, and only then killed
 */
#include "checkpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "directory.h"
#include "net/lock.h"
#include "source.h"
#include "util/stop-point.h"

/*
 * Who talks to a tree that is ended shall wait for it until it is restored. The name is known to the guardian before the table
 * is there.
 */
static int prepare_lock(struct source *source, struct error *error)
{
	char name[IMAGE_TREE_NAME_SIZE];
	int r;

	if (!source->dump_options.tcp_established)
		return 0;
	/* It may still get a connection; without a lock that is refused then. */
	if (!source->dump->has_tcp && net_lock_probe(NULL) < 0)
		return 0;
	r = image_tree_name(source->images, name, error);
	if (r == 0)
		r = net_lock_new(NET_LOCK_CHECKPOINT, name, &source->dump->kept_lock, error);
	if (r < 0)
		return r;
	strcpy(source->shared->kept_lock, name);
	return net_lock_prepare(source->dump->kept_lock, error);
}

static void release_lock(struct source *source)
{
	struct error error = ERROR_INIT;

	if (source->dump && source->dump->kept_lock && net_lock_release(source->dump->kept_lock, &error) < 0)
		log_error(source->log, "%s", error.message);
}

static int until_stopped(struct source *source, const struct migrate_checkpoint_options *options, struct error *error)
{
	int r = dump_context_new(options->pid, &source->dump_options, source->log, &source->dump, error);

	if (r == 0)
		r = directory_new(options->path, options->parent, !options->pre_dump, &source->directory, error);
	if (r < 0)
		return r;
	source_enter(source, PHASE_CONNECT);
	source_enter(source, PHASE_PREFLIGHT);
	r = source_preflight(source, error);
	if (r == 0)
		r = source_guard(source, error);
	if (r < 0)
		return r;
	if (options->after == MIGRATE_AFTER_KILL && !options->pre_dump)
		r = prepare_lock(source, error);
	if (r < 0)
		return r;
	source_enter(source, PHASE_PRECOPY);
	if (options->pre_dump)
		return round_once(source, error);
	r = round_precopy(source, error);
	return r < 0 ? r : freeze_prepare(source, error);
}

/* A pre-dump is not to be restored: of its records only that one stays which says what it is of. */
static int keep_inventory(struct source *source, struct error *error)
{
	const struct image_record *record = image_set_find(source->images, IMAGE_INVENTORY, 0);
	struct image_set *only;
	int r = image_set_new(&only);

	if (r == 0)
		r = image_set_add_bytes(only, record->type, record->id, record->data, record->size, error);
	if (r < 0)
		return r;
	image_set_free(source->images);
	source->images = only;
	return 0;
}

static void stop_all(const struct source *source)
{
	array_for_each(process, &source->dump->processes)
		syscall(SYS_pidfd_send_signal, (*process)->pidfd, SIGSTOP, NULL, 0);
}

static int let_go(struct source *source, const struct migrate_checkpoint_options *options, struct error *error)
{
	int r;

	if (options->after == MIGRATE_AFTER_STOP && !options->pre_dump)
		stop_all(source);
	end_release(source);
	r = options->pre_dump ? keep_inventory(source, error) : 0;
	if (r == 0)
		r = directory_complete(source, error);
	source_enter(source, r < 0 ? PHASE_FAILED : PHASE_DONE);
	return r;
}

static int end_tree(struct source *source, struct error *error)
{
	int r = freeze_hold(source, error);

	if (r == 0)
		r = directory_complete(source, error);
	if (r < 0) {
		release_lock(source);
		end_rollback(source);
		return r;
	}
	source_enter(source, PHASE_COMMIT);
	stop_point("killing");
	end_source_copy(source);
	if (!source->dump->has_tcp)
		release_lock(source);
	source->summary->downtime_ms = (double)(clock_now_ns() - source->frozen_at) / (double)CLOCK_MS;
	journal_remove(source->state_fd, source->session, NULL);
	source_enter(source, PHASE_DONE);
	return 0;
}

int migrate_checkpoint(const struct migrate_checkpoint_options *options, const struct log *log, struct migrate_summary *summary,
		    struct error *error)
{
	const struct migrate_options move = {
		.to = options->path, .state_dir = options->state_dir, .mode = MIGRATE_HYBRID,
		.downtime_limit_ns = options->downtime_limit_ns, .pid = options->pid, .streams = 1,
		.tcp_close = options->tcp_close, .ext_unix = options->ext_unix, .json = options->json,
		.cancel_fd = options->cancel_fd,
	};
	struct source source;
	int r;

	*summary = (struct migrate_summary){ 0 };
	r = source_init(&source, &move, &destination_directory, log, summary, error);
	source.dump_options.ghost_limit = options->ghost_limit;
	source.dump_options.shell_job = options->shell_job;
	source.dump_options.tcp_established = options->tcp_established;
	source.dump_options.tcp_loopback = true; /* where it is restored, they may be met again */
	source.dump_options.refuse_locks = !options->file_locks;
	source.bulk_count = 1;
	if (r == 0)
		r = watch_start(&source, error);
	if (r == 0)
		r = until_stopped(&source, options, error);
	if (r < 0)
		release_lock(&source);
	if (r < 0)
		end_rollback(&source);
	else if (options->pre_dump || options->after != MIGRATE_AFTER_KILL)
		r = let_go(&source, options, error);
	else
		r = end_tree(&source, error);
	source_describe(&source);
	summary->bytes_sent = summary->bytes_raw = source.directory ? source.destination->bytes(&source) : 0;
	summary->total_ms = (double)(clock_now_ns() - source.started) / (double)CLOCK_MS;
	directory_free(source.directory);
	if (source.dump)
		net_lock_free(source.dump->kept_lock);
	source_deinit(&source);
	return r;
}
