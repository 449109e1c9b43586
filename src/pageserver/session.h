/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of the page server: one session.
 *
 * Threads. The session's own thread is the tracer of the tree: it reads the control stream and makes all restore_*() calls.
 * Each bulk stream has a thread that writes pages; post-copy has one for faults. `lock` guards the members that say so;
 * `tree_lock` is held for reading while a page is written into the tree being built, and for writing while the tree is
 * changed. `wake_fd` (an eventfd) makes the session's thread look up from the control stream, `fault_fd` the one for faults;
 * `cut_fd` ends the bulk threads.
 *
 * Whoever ends first: other threads never touch the control stream; a failure of theirs is left in `failure`, and the
 * session's thread deals with it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"
#include "image/ipc.h"
#include "image/journal.h"
#include "lazy/lazy.h"
#include "net/tuples.h"
#include "pageserver/phase.h"
#include "pageserver/registry.h"
#include "restore/file-lock.h"
#include "restore/restore.h"
#include "tracee/freezer.h"
#include "transport/stream.h"
#include "transport/tcp.h"
#include "transport/wire.h"
#include "util/array.h"
#include "util/program.h"
#include "wire.pb-c.h"

#define SESSION_IDLE     (60 * CLOCK_S) /* no traffic for so long before the commit: aborted */
#define SESSION_ANSWER   (30 * CLOCK_S) /* for sending an answer */
#define SESSION_WORK     (60 * CLOCK_S) /* for one step of building the tree */
#define SESSION_GOODBYE  (60 * CLOCK_S) /* for the source to come back after COMPLETE */

struct session;

struct session_bulk {
	struct session *session; /* back pointer */
	unsigned index;          /* number of the stream */
	struct stream *stream;   /* owned by the thread, when it runs */
	pthread_t thread;        /* valid if `started` */
	bool started;            /* guarded by session->lock */
	uint32_t mark;           /* round whose end has come, 0: none; guarded by session->lock */
};

struct session_range {
	pid_t pid;        /* process */
	uint64_t address; /* page aligned */
	uint64_t pages;   /* at least 1 */
};
typedef ARRAY(struct session_range) session_ranges;

struct session_counters {
	_Atomic uint64_t pages;    /* pages that came as data */
	_Atomic uint64_t zeros;    /* pages that came as zeros */
	_Atomic uint64_t hashed;   /* pages that came as a hash and were found here */
	_Atomic uint64_t rejected; /* hashes that fitted nothing */
	_Atomic uint64_t pushed;   /* pages given to lazy_install() */
};

struct session {
	struct registry *registry;         /* borrowed */
	const struct log *log;             /* borrowed */
	uint8_t id[WIRE_SESSION_SIZE];     /* chosen by the source */
	uint8_t token[WIRE_TOKEN_SIZE];    /* chosen here */
	char text[WIRE_SESSION_TEXT];      /* id for people */
	char peer[TCP_ADDRESS_MAX];        /* address of the source, for messages */
	pthread_t thread;                  /* valid if `started` */
	bool started;                      /* the thread was made */
	int wake_fd;                       /* owned: eventfd for the session's thread */
	int cut_fd;                        /* owned: eventfd that ends the bulk threads */
	int fault_fd;                      /* owned: eventfd that makes the fault thread look up */

	pthread_mutex_t lock;              /* guards from here to `failure` */
	pthread_cond_t changed;            /* a mark, a stream or a failure has come */
	enum phase phase;                  /* where the session stands */
	struct stream *control_next;       /* a resumed control stream that waits to be taken; owned */
	struct stream *urgent;             /* owned; used by the fault thread when that runs */
	struct session_bulk bulk[WIRE_BULK_MAX];
	session_ranges rejected;           /* pages of this round whose hash did not fit */
	bool fault_end;                    /* the fault thread shall end */
	bool fault_done;                   /* it has ended by itself: nothing is missing, or it cannot go on */
	int fault_result;                  /* which of the two */
	bool stop;                         /* the program ends */
	bool broken;                       /* after the commit: a stream of the source has broken, the others go as well */
	bool ended;                        /* the thread is about to return */
	unsigned users;                    /* references by registry_find(); guarded by the registry's lock */
	struct error failure;              /* of another thread; code 0: none */

	pthread_rwlock_t tree_lock;        /* guards `tree` and `lazy` against the bulk threads */
	struct restore_tree *tree;         /* owned; NULL before the first layout and after the go */
	struct lazy *lazy;                 /* owned; NULL while nothing is missing */

	/* For the session's thread only. */
	struct stream *control;            /* owned; NULL: broken, in post-copy */
	struct frame_reader reader;        /* of the control stream */
	struct restore_options restore;    /* what the source wants */
	struct image_set *incoming;        /* records of the coming layout; owned */
	struct image_set *images;          /* records of the last layout; owned */
	struct lazy *ready_lazy;           /* with its keeper, to become `lazy` at the PREPARE; owned */
	struct freezer *freezer;           /* owned; NULL: no cgroup v2 here */
	struct net_queue *queue;           /* for connections nobody has accepted; owned, NULL: it cannot, or none listens */
	struct net_lock *net_lock;         /* on its TCP sockets; owned, NULL: it has none, or */
	struct net_tuples tuples;          /* what it has been engaged with; owned */
	struct buffer packets;             /* that the source has held up; owned */
	bool lockless;                     /* there can be no such lock here */
	struct program hook;               /* the one that runs, or none */
	bool hook_prepared;                /* "prepare" was started, and nothing has ended what it did */
	pid_t root;                        /* of the tree; set then */
	struct restore_locks *locks;       /* to be taken when the source's copy has gone; owned */
	pthread_t fault_thread;            /* valid if `fault_started` */
	bool fault_started;                /* it runs, or has not been joined */
	bool frozen;                       /* the last layout is the final one */
	bool dry_run;                      /* only the preflight is wanted */
	bool postcopy;                     /* pages may be missing at the switch */
	bool has_keeper;                   /* a keeper holds the userfaultfds */
	uint32_t round;                    /* of the last layout */
	unsigned bulk_count;               /* bulk streams of the session */
	uint64_t claimed;                  /* bytes of memory claimed from the registry */
	uint64_t missing;                  /* pages missing at the switch */
	struct image_ipcs ipc;             /* System V objects that the tree has, for the journal; owned */
	JournalProcess *processes;         /* of the tree, for the journal; owned */
	size_t process_count;              /* number of them */

	_Atomic int64_t last_traffic;      /* when something came last, any stream */
	struct session_counters counters;
};

/* ---- session.c: its thread; the argument is the session */
void *session_main(void *argument);

/* ---- session-new.c */

/* A session and its thread for a new control stream, which it takes in any case. */
int session_open(struct registry *registry, struct stream **control, const uint8_t *id, const char *peer,
		 struct error *error);
/* A session that a pageserver before us has left running: makes its thread. Takes `lazy`. */
int session_resume(struct registry *registry, const JournalEntry *entry, struct lazy *lazy, struct error *error);
void session_free(struct session *session);

/* ---- session.c */
void session_wake(struct session *session);
/* Leaves a failure of another thread for the session's. */
void session_fail(struct session *session, const struct error *error);
bool session_token_is(const struct session *session, const uint8_t *token, size_t size);
enum phase session_phase(struct session *session);
int session_set_phase(struct session *session, enum phase phase, struct error *error);
/* A failure that another thread has left, or the end of the program. */
int session_check_failure(struct session *session, struct error *error);
/* Sends on the control stream, not disturbed by wake_fd. -ENOTCONN without one. */
int session_send(struct session *session, enum wire_type type, const ProtobufCMessage *message, struct error *error);
/* After the commit: all streams of the source live and die together. It comes back. */
void session_lose_source(struct session *session);
/* A hand-over of a new control stream of the source (the ASK stream); takes it, unless the session needs the source no more. */
bool session_take_over(struct session *session, struct stream **stream);

/* ---- bulk.c, postcopy.c: streams that join; they take the stream on success */
int session_join_bulk(struct session *session, unsigned index, struct stream **stream, struct error *error);
int session_join_urgent(struct session *session, struct stream **stream, struct error *error);
/* Ends the threads of all bulk streams. */
void session_end_bulk(struct session *session);
/* Starts the fault thread if pages are missing and it does not run yet, with or without an urgent stream. */
int session_start_faults(struct session *session, struct error *error);
/* Ends the fault thread and the urgent stream. */
void session_end_faults(struct session *session);
/* Ends all streams but the control stream, so that new ones can join. */
void session_cut(struct session *session);
/* Sends a WELCOME without a token. */
int session_welcome(struct registry *registry, struct stream *stream, const uint8_t *token, struct error *error);

/* ---- requests, by frame: each answers on the control stream */
int request_image(struct session *session, const struct buffer *payload, struct error *error);
int request_preflight(struct session *session, const struct buffer *payload, struct error *error);
int request_layout(struct session *session, const struct buffer *payload, struct error *error);
int request_drop(struct session *session, const struct buffer *payload, struct error *error);
int request_round_end(struct session *session, const struct buffer *payload, struct error *error);
int request_prepare(struct session *session, const struct buffer *payload, struct error *error);
int request_packets(struct session *session, const struct buffer *payload, struct error *error);
int request_commit(struct session *session, const struct buffer *payload, struct error *error);
int request_ask_state(struct session *session, const struct buffer *payload, struct error *error);
int request_ended(struct session *session, const struct buffer *payload, struct error *error);
/* After the last page: tells the source. */
int request_commit_complete(struct session *session, struct error *error);
/* Locks that the source's copy has held: one try each. Number left, or an error. */
int request_ended_locks(struct session *session, size_t *ret_left, struct error *error);

/*
 * ---- lock.c: the lock on TCP sockets. Whether there can be one: a blocker if not. Its table, which drops nothing yet. All of
 * the last layout's. The kernel answers again.
 */
int session_lock_check(struct session *session, struct image_blockers *blockers, struct error *error);
int session_lock_prepare(struct session *session, struct error *error);
int session_lock_engage(struct session *session, struct error *error);
/* Both sides keep quiet, and addresses have been moved: those of all connections are here now, or it is an error. */
int session_lock_check_addresses(struct session *session, struct error *error);
void session_lock_release(struct session *session);
/* Once all runs: what was held up on the way to its connections is delivered. */
void session_lock_give_held(struct session *session);

/*
 * ---- hook.c: "prepare" is run once, when there is a tree. "running" is started only; session_hook_check() sees whether it has
 * ended, or waits for it. "aborted" is run if there was a "prepare".
 */
int session_hook_prepare(struct session *session, struct error *error);
void session_hook_running(struct session *session);
void session_hook_check(struct session *session, bool to_end);
void session_hook_aborted(struct session *session);

/* ---- keeper.c */
/* Makes `ready_lazy`, once. */
int session_ready_lazy(struct session *session, struct error *error);
void session_drop_ready_lazy(struct session *session);
/* A keeper that is killed is replaced, by the fault thread. The new one is in this program's cgroup. */
void session_watch_keeper(struct session *session);

/* ---- session-journal.c */
int session_journal(struct session *session, enum journal_phase phase, struct error *error);
int session_note_processes(struct session *session, struct error *error);
/* Path of the keeper's socket; false: too long. */
bool session_keeper_path(const struct registry *registry, const char *text, char *path, size_t size);

/* ---- ranges.c: ranges of the peer, checked: aligned, not empty, in user space; ordered by process and address */
int session_ranges_check(WireRange *const *ranges, size_t count, session_ranges *ret, struct error *error);
/* Drops them in the tree. tree_lock is held. */
int session_ranges_drop(struct session *session, const session_ranges *ranges, struct error *error);

/* ---- memory.c */
uint64_t memory_available(void);
