/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `migrate resolve`: settles a session whose migrate is gone, or gave up in doubt. The tree is frozen in its cgroup, and what
 * decides is who has the right to run:
 *
 *   COMMIT was not sent        ours: thaw. The journal says so, as COMMITTED is written before it is sent
 *   the target says ABORTED    ours: thaw
 *   the target says RUNNING    the target's: serve what it misses, then kill ours
 *   it says neither, or        the operator decides. A decision is only taken against an answer, never against what the
 *   cannot be asked            target says: that would make two, or none
 *
 * Each step can be repeated, so an end in the midst of it leaves a session that can be resolved.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/tcp-repair.h"
#include "source.h"
#include "util/cleanup.h"
#include "util/fdio.h"
#include "wire.pb-c.h"

#define PAGE UINT64_C(4096)

static int check_entry(const JournalEntry *entry, const char *text, struct error *error)
{
	if (entry->side != JOURNAL_SOURCE)
		return error_set(error, -EINVAL, "session %s is the target side's; resolve it on its source", text);
	if (entry->agent && journal_process_alive(entry->agent))
		return error_set(error, -EBUSY, "session %s is under way: its migrate is PID %d", text, entry->agent->pid);
	return 0;
}

/* From here on the session is under way again. */
static int claim(struct source *source, JournalEntry *entry, JournalProcess *agent, struct error *error)
{
	int r = journal_process_fill(agent, getpid(), error);
	JournalProcess *before = entry->agent;

	if (r < 0)
		return r;
	entry->agent = agent;
	r = journal_write(source->state_fd, entry, error);
	entry->agent = before;
	return r;
}

/* The root of the tree, if it is still the same process. */
static pid_t root_of(const JournalEntry *entry)
{
	return entry->n_processes && journal_process_alive(entry->processes[0]) ? entry->processes[0]->pid : 0;
}

/* What the stop has left in the processes. They run: a frozen thread does not leave a remote area. */
static void clean(struct source *source, const JournalEntry *entry, int64_t deadline)
{
	struct error error = ERROR_INIT;
	int r = 0;

	for (size_t i = 0; r == 0 && i < entry->n_areas; i++)
		r = tracee_traces_add(source->traces, entry->areas[i]->pid, entry->areas[i]->address, entry->areas[i]->size);
	if (tracee_traces_clean(source->traces, deadline, &error) < 0)
		log_warning(source->log, "%s", error.message);
}

/* Connections that end without a word, as the other copy has them; or the contrary, for who was killed in the midst of it. */
static void hush(struct source *source, const JournalEntry *entry, bool on)
{
	for (size_t i = 0; i < entry->n_processes; i++) {
		struct error error = ERROR_INIT;
		int r = 0;

		if (journal_process_alive(entry->processes[i]))
			r = on ? image_tcp_hush(entry->processes[i]->pid, &error) :
				 image_tcp_wake(entry->processes[i]->pid, false, &error);
		if (r < 0)
			log_error(source->log, "%s", error.message);
	}
}

/* Perhaps not for the first time: whether the one who was killed has done it is not known. */
static void run_hook(struct source *source, const char *event)
{
	struct error error = ERROR_INIT;

	if (hook_run(source, event, &error) < 0)
		log_warning(source->log, "%s", error.message);
}

static int thaw(struct source *source, const JournalEntry *entry, struct error *error)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);
	int r;

	hush(source, entry, false);
	r = lock_remove(source, entry->session.data, error);
	if (r == 0 && source->freezer)
		r = freezer_thaw(source->freezer, deadline, error);
	if (r < 0)
		return r;
	clean(source, entry, deadline);
	if (source->freezer)
		r = freezer_remove(source->freezer, deadline, error);
	if (r == 0)
		r = journal_remove(source->state_fd, entry->session.data, error);
	if (r == 0)
		run_hook(source, "rolled-back");
	if (r == 0 && root_of(entry))
		printf("PID %d runs on here\n", root_of(entry));
	else if (r == 0)
		printf("the copy here is ended, too\n");
	return r;
}

static int finish(struct source *source, const JournalEntry *entry, struct error *error)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);
	struct error locked = ERROR_INIT;

	hush(source, entry, true);
	for (size_t i = entry->n_processes; i-- > 0;) {
		_cleanup_fd_ int pidfd = -1;

		if (!journal_process_alive(entry->processes[i]))
			continue;
		pidfd = (int)syscall(SYS_pidfd_open, entry->processes[i]->pid, 0);
		if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
			return error_set_errno(error, -errno, "cannot end PID %d", entry->processes[i]->pid);
	}
	for (size_t i = 0; i < entry->n_processes; i++)
		while (journal_process_alive(entry->processes[i]) && clock_now_ns() < deadline)
			usleep(1000);
	leftover_end(entry);
	if (lock_remove(source, entry->session.data, &locked) < 0)
		log_error(source->log, "%s", locked.message);
	if (source->freezer)
		(void)freezer_remove(source->freezer, deadline, NULL);
	if (source->control && wire_send(source->control, WIRE_ENDED, NULL, deadline, NULL) == 0)
		(void)wire_expect(source->control, &wire_table_client, WIRE_FINISHED, NULL, NULL, deadline, NULL);
	printf("the copy here is ended; it runs on %s\n", entry->peer ? entry->peer : "the target");
	return journal_remove(source->state_fd, entry->session.data, error);
}

/* All pages that the frozen tree has: the target takes those that it misses. */
static int note_all(struct source *source, const JournalEntry *entry, struct error *error)
{
	for (size_t i = 0; i < entry->n_processes; i++) {
		struct source_memory *memory = calloc(1, sizeof(*memory));
		struct procfs_maps maps = { 0 };
		char path[64];
		int r = memory ? 0 : -ENOMEM;

		if (r == 0 && !journal_process_alive(entry->processes[i]))
			r = error_set(error, -ESRCH, "PID %d, which has pages that the target misses, is gone",
				      entry->processes[i]->pid);

		if (r == 0) {
			memory->pid = entry->processes[i]->pid;
			snprintf(path, sizeof(path), "/proc/%d/mem", procfs_live_thread(memory->pid));
			memory->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
			r = array_append(&source->memory, memory);
		}
		if (r == 0)
			r = procfs_read_maps(procfs_live_thread(memory->pid), &maps, error);
		for (size_t j = 0; r == 0 && j < maps.count; j++) {
			const struct procfs_map *map = &maps.items[j];
			uint64_t pages = (map->end - map->start) / PAGE;
			_cleanup_fd_ int pagemap = -1;

			if (map->shared || map->inode || (map->name && strncmp(map->name, "[v", 2) == 0))
				continue;
			snprintf(path, sizeof(path), "/proc/%d/pagemap", procfs_live_thread(memory->pid));
			pagemap = open(path, O_RDONLY | O_CLOEXEC);
			for (uint64_t page = 0; r == 0 && page < pages; page++) {
				uint64_t bits = 0;

				if (fdio_pread(pagemap, &bits, 8, (map->start / PAGE + page) * 8) == 8 && bits >> 62)
					r = pageset_add(&memory->missing, map->start / PAGE + page, 1);
			}
		}
		procfs_maps_deinit(&maps);
		if (r < 0)
			return error_set_errno(error, r, "cannot look at PID %d", entry->processes[i]->pid);
	}
	return 0;
}

/*
 * What the target says, as an enum wire_answer. It takes a moment to notice that the former connection is gone. A session
 * that ends just now may take our stream along: the second time the journal there answers.
 */
static int ask(struct source *source, uint32_t *ret_state, struct error *error)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	int64_t deadline = clock_deadline(SOURCE_CONNECT_NS);
	int r = 0;

	if (!source->tls)
		r = tls_context_new(TLS_CLIENT, source->options->tls_dir, &source->tls, error);
	if (r == 0)
		r = serve_ask(source, ret_state, error);
	for (int again = 3; clock_now_ns() < deadline; again--) {
		if (r < 0 ? r != -ECONNRESET || again <= 0 : *ret_state != WIRE_STATE_PREPARED)
			break;
		nanosleep(&pause, NULL);
		error_clear(error);
		r = serve_ask(source, ret_state, error);
	}
	return r;
}

static int run_there(struct source *source, const JournalEntry *entry, struct error *error)
{
	int r = 0;

	if (!source->complete) {
		r = note_all(source, entry, error);
		if (r == 0)
			r = serve_postcopy(source, error);
	}
	if (r == 0)
		return finish(source, entry, error);
	error_wrap(error, r, "it runs on %s, but pages of it are still here", source->options->to);
	return -EINPROGRESS;
}

static int settle(struct source *source, const JournalEntry *entry, enum migrate_decision decision, struct error *error)
{
	bool sent = entry->phase != JOURNAL_STARTED && entry->phase != JOURNAL_PREPARED;
	uint32_t state = WIRE_STATE_ABORTED;
	int r = sent ? ask(source, &state, error) : 0;

	if (r == 0 && state == WIRE_STATE_RUNNING && decision == MIGRATE_THAW)
		return error_set(error, -EEXIST, "PID %d runs on %s: thawed, there would be two", root_of(entry),
				 source->options->to);
	if (r == 0 && state == WIRE_STATE_ABORTED && decision == MIGRATE_KILL)
		return error_set(error, -EEXIST, "%s has no copy of it: with PID %d killed, there would be none",
				 source->options->to, root_of(entry));
	if (r == 0 && state == WIRE_STATE_RUNNING)
		run_hook(source, "resumed");
	if (r == 0 && state == WIRE_STATE_RUNNING)
		return run_there(source, entry, error);
	if (r == 0 && state == WIRE_STATE_ABORTED)
		return thaw(source, entry, error);
	if (decision != MIGRATE_ASK) {
		log_warning(source->log, "%s cannot say what became of it%s%s: as you say", source->options->to,
			    r < 0 ? ": " : "", r < 0 ? error_text(error, r) : "");
		error_clear(error);
		source_close_streams(source);
		if (decision == MIGRATE_THAW)
			return thaw(source, entry, error);
		run_hook(source, "resumed");
		return finish(source, entry, error);
	}
	if (r < 0)
		error_wrap(error, r, "%s cannot be asked; if you know what became of it there, say --thaw or --kill",
			   source->options->to);
	else
		error_set(error, -EINPROGRESS,
			  "%s knows nothing of this session; see whether PID %d runs there, then say --thaw or --kill",
			  source->options->to, root_of(entry));
	return -EINPROGRESS;
}

static void take_entry(struct source *source, struct migrate_options *options, const JournalEntry *entry)
{
	options->to = entry->peer ? entry->peer : "";
	options->tls_dir = entry->tls_dir && entry->tls_dir[0] ? entry->tls_dir : TLS_DIR_DEFAULT;
	options->hook = entry->hook && entry->hook[0] ? entry->hook : NULL;
	options->streams = 1;
	options->pid = root_of(entry);
	options->cancel_fd = -1;
	memcpy(source->session, entry->session.data, sizeof(source->session));
	if (entry->token.len == sizeof(source->token))
		memcpy(source->token, entry->token.data, sizeof(source->token));
	snprintf(source->server_name, sizeof(source->server_name), "%s", entry->server_name ? entry->server_name : "");
	snprintf(source->target_boot, sizeof(source->target_boot), "%s", entry->peer_boot_id ? entry->peer_boot_id : "");
	source->phase = PHASE_POSTCOPY;
}

int migrate_resolve(const char *text, enum migrate_decision decision, const char *state_dir, const struct log *log,
		    struct error *error)
{
	struct migrate_options options = { .state_dir = state_dir, .cancel_fd = -1 };
	struct migrate_summary summary;
	uint8_t session[WIRE_SESSION_SIZE];
	JournalEntry *entry = NULL;
	JournalProcess agent;
	struct source source;
	int r;

	r = wire_session_parse(text, session, error);
	if (r < 0)
		return r;
	r = source_init(&source, &options, &destination_peer, log, &summary, error);
	if (r == 0)
		r = journal_read(source.state_fd, session, &entry, error);
	if (r == 0)
		r = check_entry(entry, text, error);
	if (r == 0)
		r = claim(&source, entry, &agent, error);
	if (r == 0) {
		take_entry(&source, &options, entry);
		if (entry->freezer && entry->freezer[0])
			r = freezer_open(entry->freezer, &source.freezer, error);
		if (r == -ENOENT) { /* thawed, or ended, already */
			error_clear(error);
			r = 0;
		}
	}
	if (r == 0)
		r = settle(&source, entry, decision, error);
	journal_entry__free_unpacked(entry, NULL);
	source_deinit(&source);
	return r;
}
