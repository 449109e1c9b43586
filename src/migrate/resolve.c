/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `migrate resolve`: settles a session whose migrate is gone, or gave up in doubt. The tree is frozen in its cgroup. Asked
 * without a decision, the target says what it knows: not running there - thaw; running and complete - kill ours; running
 * with pages missing - serve them from here, then kill ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/* The processes of the entry that are still the same ones. */
static pid_t root_of(const JournalEntry *entry)
{
	return entry->n_processes && journal_process_alive(entry->processes[0]) ? entry->processes[0]->pid : 0;
}

static int thaw(struct source *source, const JournalEntry *entry, struct error *error)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);
	int r;

	r = freezer_thaw(source->freezer, deadline, error);
	for (size_t i = 0; r == 0 && i < entry->n_processes; i++)
		freezer_restore(source->freezer, entry->processes[i]->pid, NULL);
	if (r == 0)
		r = freezer_remove(source->freezer, deadline, error);
	if (r == 0)
		r = journal_remove(source->state_fd, entry->session.data, error);
	if (r == 0)
		printf("PID %d runs on here\n", root_of(entry));
	return r;
}

static int finish(struct source *source, const JournalEntry *entry, struct error *error)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);

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
		struct track_runs runs = { 0 };
		char path[64];
		int r = memory ? 0 : -ENOMEM;

		if (r == 0) {
			memory->pid = entry->processes[i]->pid;
			snprintf(path, sizeof(path), "/proc/%d/mem", memory->pid);
			memory->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
			r = array_append(&source->memory, memory);
		}
		if (r == 0)
			r = procfs_read_maps(memory->pid, &maps, error);
		for (size_t j = 0; r == 0 && j < maps.count; j++) {
			const struct procfs_map *map = &maps.items[j];
			uint64_t pages = (map->end - map->start) / PAGE;
			_cleanup_fd_ int pagemap = -1;

			if (map->shared || map->inode || (map->name && strncmp(map->name, "[v", 2) == 0))
				continue;
			snprintf(path, sizeof(path), "/proc/%d/pagemap", memory->pid);
			pagemap = open(path, O_RDONLY | O_CLOEXEC);
			for (uint64_t page = 0; r == 0 && page < pages; page++) {
				uint64_t bits = 0;

				if (fdio_pread(pagemap, &bits, 8, (map->start / PAGE + page) * 8) == 8 && bits >> 62)
					r = pageset_add(&memory->missing, map->start / PAGE + page, 1);
			}
		}
		procfs_maps_deinit(&maps);
		track_runs_deinit(&runs);
		if (r < 0)
			return error_set_errno(error, r, "cannot look at PID %d", entry->processes[i]->pid);
	}
	return 0;
}

static int ask(struct source *source, const JournalEntry *entry, struct error *error)
{
	uint32_t state = 0;
	int r;

	r = tls_context_new(TLS_CLIENT, source->options->tls_dir, &source->tls, error);
	if (r == 0)
		r = serve_ask(source, &state, error);
	if (r < 0)
		return error_wrap(error, r, "%s cannot be asked; if you know what became of it there, say --thaw or --kill",
				  source->options->to);
	switch (state) {
	case WIRE_STATE_ABORTED:
		return thaw(source, entry, error);
	case WIRE_STATE_RUNNING:
		break;
	default:
		return error_set(error, -ENOENT,
				 "%s knows nothing of this session; see whether PID %d runs there, then say --thaw or --kill",
				 source->options->to, root_of(entry));
	}
	if (entry->missing) {
		r = note_all(source, entry, error);
		if (r == 0)
			r = source_connect_streams(source, error);
		if (r == 0)
			r = serve_postcopy(source, error);
	}
	return r < 0 ? r : finish(source, entry, error);
}

static void take_entry(struct source *source, struct migrate_options *options, const JournalEntry *entry)
{
	options->to = entry->peer ? entry->peer : "";
	options->tls_dir = entry->tls_dir && entry->tls_dir[0] ? entry->tls_dir : TLS_DIR_DEFAULT;
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
	struct source source;
	int r;

	r = wire_session_parse(text, session, error);
	if (r < 0)
		return r;
	r = source_init(&source, &options, log, &summary, error);
	if (r == 0)
		r = journal_read(source.state_fd, session, &entry, error);
	if (r == 0)
		r = check_entry(entry, text, error);
	if (r == 0) {
		take_entry(&source, &options, entry);
		r = freezer_new(entry->freezer && entry->freezer[0] ? entry->freezer : "pagestream",
				options.pid ? options.pid : 1, &source.freezer, error);
	}
	if (r == 0)
		r = decision == MIGRATE_THAW ? thaw(&source, entry, error) :
		    decision == MIGRATE_KILL ? finish(&source, entry, error) :
					       ask(&source, entry, error);
	journal_entry__free_unpacked(entry, NULL);
	source_deinit(&source);
	return r;
}
