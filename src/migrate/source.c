/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "image/journal.h"
#include "net/lock.h"
#include "util/cleanup.h"
#include "util/stop-point.h"

#define LOOK_NS (5 * CLOCK_S) /* for all tries together */
#define LOOKS_FREE 25u /* a tree that has changed under so many looks is stopped for the next ones */
#define LOOK_STOP_NS (CLOCK_S / 2)
#define TRACES_MAX (1u << 16) /* processes with an area of ours at a time; room that is not used costs nothing */

void source_enter(struct source *source, enum phase phase)
{
	assert(phase_allows(source->phase, phase));
	source->phase = phase;
	source->watch.phase = (int)phase;
	if (source->shared)
		source->shared->phase = (int)phase;
	log_debug(source->log, "phase: %s", phase_name(phase));
	stop_point("%s", phase_name(phase));
}

/* In one allocation, which the caller frees. */
static int list_areas(const struct source *source, JournalEntry *entry, JournalArea ***ret)
{
	size_t count = source->traces ? tracee_traces_count(source->traces) : 0, position = 0, n = 0;
	JournalArea **pointers = malloc(count * (sizeof(*pointers) + sizeof(JournalArea)) + 1);
	JournalArea *areas;

	if (!pointers)
		return -ENOMEM;
	areas = (JournalArea *)(void *)(pointers + count);
	for (; n < count; n++) {
		journal_area__init(&areas[n]);
		if (!tracee_traces_next(source->traces, &position, &areas[n].pid, &areas[n].address, &areas[n].size))
			break;
		pointers[n] = &areas[n];
	}
	entry->areas = pointers;
	entry->n_areas = n;
	*ret = pointers;
	return 0;
}

int source_journal(struct source *source, enum journal_phase phase, struct error *error)
{
	static const char *const modes[] = { "hybrid", "precopy", "postcopy" };
	size_t count = source->dump ? source->dump->processes.count : 0;
	JournalEntry entry = JOURNAL_ENTRY__INIT;
	JournalProcess agent = JOURNAL_PROCESS__INIT;
	_cleanup_free_ JournalProcess *processes = calloc(count + 1, sizeof(*processes));
	_cleanup_free_ JournalProcess **pointers = calloc(count + 1, sizeof(JournalProcess *));
	_cleanup_free_ JournalArea **areas = NULL;
	_cleanup_(leftover_deinit) struct leftover leftover = { 0 };
	char boot[JOURNAL_BOOT_ID_MAX] = "";

	if (!processes || !pointers || list_areas(source, &entry, &areas) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	if (phase > JOURNAL_STARTED) {
		int r = leftover_note(source, &entry, &leftover, error);

		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < count; i++) {
		journal_process__init(&processes[i]);
		processes[i].pid = source->dump->processes.items[i]->pid;
		processes[i].start_time = source->dump->processes.items[i]->stat.start_time;
		pointers[i] = &processes[i];
	}
	(void)journal_process_fill(&agent, getpid(), NULL);
	(void)journal_boot_id(boot, NULL);
	entry.session = (ProtobufCBinaryData){ WIRE_SESSION_SIZE, source->session };
	entry.side = JOURNAL_SOURCE;
	entry.phase = phase;
	entry.n_processes = count;
	entry.processes = pointers;
	entry.peer = (char *)(uintptr_t)source->options->to;
	entry.agent = &agent;
	entry.freezer = source->shared ? source->shared->freezer : NULL;
	entry.boot_id = boot;
	entry.mode = (char *)(uintptr_t)modes[source->options->mode];
	entry.has_missing = 1;
	entry.missing = source->summary->pages_postcopy;
	entry.has_token = 1;
	entry.token = (ProtobufCBinaryData){ WIRE_TOKEN_SIZE, source->token };
	entry.has_started = 1;
	entry.started = (uint64_t)time(NULL);
	entry.tls_dir = (char *)(uintptr_t)source->options->tls_dir;
	entry.peer_boot_id = source->target_boot;
	entry.server_name = source->server_name;
	entry.hook = (char *)(uintptr_t)source->options->hook;
	if (count)
		entry.name = source->dump->processes.items[0]->stat.comm;
	return journal_write(source->state_fd, &entry, error);
}

/* Programs that cannot be moved as they move: this one, and the page server where it is built or installed. */
static void name_own_programs(struct source *source)
{
	static const char *const beside[] = { "migrate", "pageserver", "../sbin/pageserver" };
	char self[PATH_MAX - 32];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (length < 0)
		return;
	self[length] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return;
	*slash = '\0';
	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
		snprintf(source->own_paths[i], sizeof(source->own_paths[i]), "%s/%s", self, beside[i]);
		source->own_programs[i] = source->own_paths[i];
	}
	source->dump_options.own_programs = source->own_programs;
}

int source_check_cancel(const struct source *source, struct error *error)
{
	struct pollfd fd = { .fd = source->options->cancel_fd, .events = POLLIN };

	return poll(&fd, 1, 0) > 0 ? error_set(error, -ECANCELED, "interrupted") : 0;
}

/* Nothing begins or ends while it is looked at. NULL when it does not stop. */
static struct tracee_tree *stop_for_look(const struct source *source)
{
	const struct tracee_options options = { .traces = source->traces, .hints = source->hints, .keep_areas = true };
	struct tracee_tree *stopped = NULL;

	if (tracee_tree_stop(source->options->pid, &options, clock_deadline(LOOK_STOP_NS), &stopped, NULL) < 0)
		return NULL;
	return stopped;
}

static int look_at_stopped(struct source *source,
			   int (*look)(struct dump_context *, struct image_set *, struct error *), struct error *error)
{
	struct tracee_tree *stopped;
	int r;

	throttle_hold(source->throttle);
	stopped = stop_for_look(source);
	r = look(source->dump, source->images, error);
	tracee_tree_release(stopped);
	throttle_release(source->throttle);
	return r;
}

int source_look(struct source *source, int (*look)(struct dump_context *, struct image_set *, struct error *),
		struct error *error)
{
	int64_t deadline = clock_deadline(LOOK_NS);
	int r;

	for (unsigned tries = 1;; tries++) {
		r = source_check_cancel(source, error);
		if (r < 0)
			return r;
		image_set_free(source->images);
		source->images = NULL;
		if (image_set_new(&source->images) < 0)
			return error_set(error, -ENOMEM, "out of memory");
		r = tries <= LOOKS_FREE ? look(source->dump, source->images, error) : look_at_stopped(source, look, error);
		if ((r != -ESRCH && r != -ENOENT) || clock_now_ns() >= deadline || memory_is_gone(source->options->pid))
			return r;
		error_clear(error);
	}
}

int source_fill_freezer(struct source *source, struct error *error)
{
	for (size_t i = 0; i < source->dump->processes.count; i++) {
		int r = freezer_add(source->freezer, source->dump->processes.items[i]->pid, error);

		if (r < 0 && r != -ESRCH)
			return r;
		if (r < 0)
			error_clear(error);
	}
	return 0;
}

int source_guard(struct source *source, struct error *error)
{
	char name[64];
	int r = track_probe(&source->track_kind, error);

	if (r == 0)
		r = guardian_start(source, error);
	if (r == 0)
		r = source_journal(source, JOURNAL_STARTED, error);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "pagestream-%.16s", source->summary->session);
	r = lock_prepare(source, error);
	if (r < 0)
		return r;
	r = freezer_new(name, source->options->pid, &source->freezer, error);
	source->dump->freezer = source->freezer;
	if (r == 0 && (size_t)snprintf(source->shared->freezer, sizeof(source->shared->freezer), "%s",
				       freezer_path(source->freezer)) >= sizeof(source->shared->freezer))
		r = error_set(error, -ENAMETOOLONG, "the cgroup %s has too long a name", freezer_path(source->freezer));
	return r;
}

void source_describe(struct source *source)
{
	if (!source->dump)
		return;
	source->summary->processes = (uint32_t)source->dump->processes.count;
	array_for_each(process, &source->dump->processes)
		source->summary->threads += (uint32_t)(*process)->threads.count;
}

int source_init(struct source *source, const struct migrate_options *options,
		const struct destination_operations *destination, const struct log *log, struct migrate_summary *summary,
		struct error *error)
{
	int r;

	*source = (struct source){ .options = options, .destination = destination, .log = log, .summary = summary,
				   .state_fd = -1, .guardian_fd = -1, .watch.stop_fd = -1, .started = clock_now_ns() };
	pthread_mutex_init(&source->lock, NULL);
	source->dump_options.tcp_close = options->tcp_close;
	source->dump_options.ext_unix = options->ext_unix;
	source->dump_options.tcp_established = !options->tcp_close;
	name_own_programs(source);
	source->dedup = dedup_new();
	source->hints = tracee_hints_new();
	if (!source->dedup || !source->hints)
		return error_set(error, -ENOMEM, "out of memory");
	r = wire_random(source->session, sizeof(source->session), error);
	if (r == 0)
		wire_session_text(source->session, summary->session);
	if (r == 0)
		r = tracee_traces_new(TRACES_MAX, &source->traces, error);
	if (r == 0)
		r = journal_open_dir(options->state_dir, &source->state_fd, error);
	if (r == 0)
		lock_remove_stale(source);
	return r;
}

void source_deinit(struct source *source)
{
	watch_stop(source);
	source_close_streams(source);
	tls_context_unref(source->tls);
	rate_bucket_unref(source->bucket);
	memory_free(source);
	dump_context_free(source->dump); /* before the guardian goes, whose memory its marks are in */
	array_deinit(&source->files_made);
	image_set_free(source->images);
	freezer_free(source->freezer);
	net_lock_free(source->net_lock);
	tracee_hints_free(source->hints);
	guardian_dismiss(source);
	tracee_traces_free(source->traces);
	dedup_free(source->dedup);
	cleanup_fd(&source->state_fd);
	pthread_mutex_destroy(&source->lock);
}
