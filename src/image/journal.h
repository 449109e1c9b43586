/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal: one small file a session in STATE_DIR/sessions/, named after the session, holding a packed JournalEntry.
 * Both sides keep one. It is replaced as a whole (write, fdatasync, rename), so it is there in the old state or in the
 * new one, never half; on a tmpfs that costs some tens of microseconds. STATE_DIR belongs on a file system that is empty
 * after a boot (/run), and the boot id in an entry tells when it was not.
 *
 * Calls block on the file system. Nothing is locked: each session has one writer. Directory and files are for the owner
 * only (0700, 0600), as an entry holds the session's token.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "journal.pb-c.h"
#include "util/array.h"
#include "util/error.h"

#define JOURNAL_SESSION_SIZE 16
#define JOURNAL_STATE_DIR_DEFAULT "/run/pagestream"

/* Kept on disk: the numbers never change. */
enum journal_side {
	JOURNAL_SOURCE = 1,
	JOURNAL_TARGET = 2,
};

enum journal_phase {
	JOURNAL_STARTED = 1,   /* nothing decided; the source runs */
	JOURNAL_PREPARED = 2,  /* target: ready, not committed. Source: frozen, COMMIT not sent */
	JOURNAL_COMMITTED = 3, /* target: has taken the right to run, may not have used it yet. Source: COMMIT was or is sent */
	JOURNAL_RUNNING = 4,   /* it runs on the target */
	JOURNAL_ABORTED = 5,   /* it will never run on the target */
	JOURNAL_DONE = 6,      /* it runs on the target and needs the source no more */
	JOURNAL_IN_DOUBT = 7,  /* source: COMMIT was sent, no answer came; frozen until it is known */
};

struct journal_list {
	ARRAY(JournalEntry *) entries; /* owned */
};

/* Makes STATE_DIR (0755) and STATE_DIR/sessions (0700) where they are missing. The caller closes the descriptor. */
int journal_open_dir(const char *state_dir, int *ret_fd, struct error *error);

/* Replaces the session's file. */
int journal_write(int dir_fd, const JournalEntry *entry, struct error *error);

/* -ENOENT: no such session; -EPROTO: damaged. The caller frees with journal_entry__free_unpacked(). */
int journal_read(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], JournalEntry **ret, struct error *error);

/* All entries that can be read; files that cannot be are skipped. */
int journal_list(int dir_fd, struct journal_list *ret, struct error *error);
void journal_list_deinit(struct journal_list *list);

/* -ENOENT is success. */
int journal_remove(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], struct error *error);

/*
 * A name for what lies outside of STATE_DIR and belongs to a session: "SESSION-DIRECTORY", so that only those that use the
 * same STATE_DIR take it for theirs. journal_name_parse(): false where it is another one's.
 */
#define JOURNAL_NAME_SIZE 64
int journal_name(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], char ret[JOURNAL_NAME_SIZE], struct error *error);
bool journal_name_parse(int dir_fd, const char *name, uint8_t ret_session[JOURNAL_SESSION_SIZE]);

/* Fills `entry` with this moment's start time of a process; -ESRCH. */
int journal_process_fill(JournalProcess *entry, pid_t pid, struct error *error);
/* Whether that very process still exists (a zombie does not). */
int journal_process_alive(const JournalProcess *entry);

/* boot_id of the running kernel, as text. */
#define JOURNAL_BOOT_ID_MAX 40
int journal_boot_id(char ret[JOURNAL_BOOT_ID_MAX], struct error *error);

/* "prepared", "in doubt", ... for people. */
const char *journal_phase_name(unsigned phase);
