/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of this folder share: one migration, seen from the source. Used by one thread, except where said. */
#pragma once

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backing.h"
#include "destination.h"
#include "dump/dump.h"
#include "estimate.h"
#include "image/ipc.h"
#include "image/journal.h"
#include "image/tree-name.h"
#include "phase.h"
#include "send.h"
#include "throttle.h"
#include "tracee/freezer.h"
#include "tracee/tracee.h"
#include "track/track.h"
#include "transport/filter.h"
#include "transport/stream.h"
#include "transport/tls.h"
#include "transport/wire.h"
#include "util/pageset.h"
#include "util/program.h"

#define SOURCE_CONNECT_NS (10 * CLOCK_S)   /* TCP, TLS and HELLO of one stream */
#define SOURCE_ANSWER_NS (60 * CLOCK_S)    /* the target's answer before the freeze */
#define SOURCE_ROUND_NS (300 * CLOCK_S)    /* what the sockets hold at the end of a round, on the slowest link */
#define SOURCE_HANDOVER_NS (10 * CLOCK_S)  /* from the freeze to PREPARED: longer, and the tree is thawed */
#define SOURCE_RUNNING_NS (5 * CLOCK_S)    /* from COMMIT to RUNNING; after it we are in doubt */
#define SOURCE_DOUBT_NS (30 * CLOCK_S)     /* how long the target is asked before the operator has to */
#define SOURCE_STOP_NS (5 * CLOCK_S)

/* Bit of a pagemap entry: mapped once (Documentation/admin-guide/mm/pagemap.rst). */
#define SOURCE_PM_EXCLUSIVE (UINT64_C(1) << 56)

/* Pages to send: of a process, or of a shared memory object (pid 0). */
struct source_job {
	pid_t pid;
	uint32_t shared;
	uint64_t address; /* or offset */
	uint64_t pages;
	bool zero; /* known to read as zeros: not read */
};

struct source_jobs {
	ARRAY(struct source_job) list;
	uint64_t pages; /* sum, without zero ones */
};

/* The memory of one process, or of several that share it, as tracked and as the target has it. */
struct source_memory {
	pid_t pid;              /* of the first one that has it */
	unsigned depth;         /* below the root */
	struct track *track;    /* owned */
	struct pageset held;    /* pages with content that the target has */
	struct pageset fresh;   /* written, by this round's scan; in post-copy: missing at the switch */
	struct pageset missing; /* after the switch: not pushed yet */
	struct backings laid_out; /* at the last scan: what the target has laid out by then */
	int mem_fd;             /* /proc/PID/mem, owned */
	int map_fd;             /* /proc/PID/pagemap, owned */
	bool reads_direct;      /* at the last scan: dump_process's */
	bool untrusted;         /* pages may have been written without a trace: all go at the freeze */
	bool may_share;         /* pages with other processes of the tree, since a fork */
	bool seen;              /* during a refresh */
	bool inherits;          /* made from its parent's copy in this round: pages equal to the parent's are there */
};

/* What a guardian needs to know if we die; in shared memory. */
struct source_shared {
	_Atomic int phase;        /* enum phase */
	char freezer[1024];       /* path of the cgroup; "" while there is none */
	uint8_t session[JOURNAL_SESSION_SIZE];
	struct dump_tcp_mark tcp_marks[DUMP_TCP_MARKS]; /* sockets that are just being read */
	_Atomic pid_t queue_holder; /* ends by itself when we do, but has to be waited for; 0: none */
	char kept_lock[IMAGE_TREE_NAME_SIZE]; /* session of the NET_LOCK_CHECKPOINT that is there; "" while there is none */
};

struct dedup;

/* What the watcher thread shows. `pages` and what was measured are under source->lock. */
struct source_watch {
	pthread_t thread;
	bool running;
	int stop_fd;         /* readable: end */
	_Atomic int phase;   /* enum phase */
	uint32_t round;
	uint64_t pages_round; /* to send in the round, and */
	uint64_t pages_done;  /* taken of them */
	uint64_t pages_taken; /* in all rounds */
	double dirty_bytes_per_s, downtime_ms;
	unsigned throttle_percent;
	/* the thread's own */
	uint64_t seen;   /* pages sent when it last looked */
	int64_t seen_at; /* and when that was */
	double rate;     /* bytes a second, smoothed */
	unsigned rested; /* intervals since the freeze */
};
struct directory;
struct objects;

struct source {
	const struct migrate_options *options;
	const struct destination_operations *destination;
	const struct log *log;
	struct migrate_summary *summary;
	enum phase phase;
	int64_t started, frozen_at;
	uint64_t frozen_bytes;   /* sent before `frozen_at` */
	uint8_t session[WIRE_SESSION_SIZE];
	uint8_t token[WIRE_TOKEN_SIZE];
	char server_name[256];   /* that the target's certificate must prove */
	char target_boot[64];
	struct directory *directory; /* where it goes, or NULL; borrowed */
	struct tls_context *tls;
	struct rate_bucket *bucket; /* NULL: no limit */
	struct stream *control, *urgent;
	struct stream *bulk[WIRE_BULK_MAX];
	uint32_t bulk_count;
	uint64_t closed_wire, closed_raw; /* of streams that are closed already */
	struct dump_options dump_options;
	char own_paths[3][PATH_MAX];         /* migrate and pageserver, wherever they are beside us */
	const char *own_programs[4];         /* the same, then NULL */
	struct dump_context *dump;
	struct image_set *images;
	ARRAY(uint32_t) files_made;           /* objects that are files in memory, which the target had not */
	enum track_kind track_kind;
	ARRAY(struct source_memory *) memory; /* owned */
	struct pidmap memory_by_pid;          /* the same, by PID; owned */
	struct image_tree tree;               /* for which they are; owned */
	struct objects *objects;              /* shared memory, as the target has it; owned, NULL before the first scan */
	struct tracee_traces *traces;
	struct tracee_hints *hints;
	struct tracee_tree *stopped;
	struct freezer *freezer;
	struct net_lock *net_lock; /* the tree has TCP sockets; owned, NULL otherwise */
	struct throttle *throttle; /* while pre-copy slows the tree down */
	struct dedup *dedup;
	uint32_t round;
	bool complete;           /* the target has answered that nothing is missing there */
	int64_t scanned_at;      /* when the last round looked for written pages; 0: none did */
	uint64_t dirty_pages;    /* expected at a freeze now */
	double pages_per_ns;     /* measured sending rate */
	int state_fd;            /* journal directory */
	struct source_watch watch;
	struct source_shared *shared;
	pid_t guardian;
	int guardian_fd;         /* write end: its closing tells the guardian of our end */
	pthread_mutex_t lock;    /* summary counts, held sets and missing sets while several threads send */
	_Atomic uint64_t push_hint_page; /* page of the last fault, and */
	_Atomic int push_hint_pid;       /* its process: pushing goes on there */
};

/* phase changes; the guardian and the log see them */
void source_enter(struct source *source, enum phase phase);
int source_journal(struct source *source, enum journal_phase phase, struct error *error);
/* -ECANCELED once the user wants us to give up. For the moments before the commit at which nothing waits for a stream. */
int source_check_cancel(const struct source *source, struct error *error);
/*
 * A new source->images by dump_preflight() or dump_layout(). The tree runs: a process that ends while it is looked at makes
 * it look again.
 */
int source_look(struct source *source, int (*look)(struct dump_context *, struct image_set *, struct error *),
		struct error *error);
/* What has to be there before the tree is touched: the guardian, the journal, a cgroup to hold the tree. */
int source_guard(struct source *source, struct error *error);
/* Puts the size of the tree into the summary. */
void source_describe(struct source *source);
/* Moves the tree's processes into the freezer's cgroup while they run: that takes milliseconds. Again for new ones. */
int source_fill_freezer(struct source *source, struct error *error);

/* connect.c */
int source_connect(struct source *source, struct error *error);
int source_connect_streams(struct source *source, struct error *error);
int source_open_stream(struct source *source, enum wire_role role, uint32_t index, int64_t deadline,
		       struct stream **ret, struct error *error);
void source_close_streams(struct source *source);
/* On the wire so far, all streams together. Not while another thread sends. */
uint64_t source_bytes_sent(const struct source *source);

/* preflight.c */
int source_preflight(struct source *source, struct error *error);

/* memory.c */
int memory_refresh(struct source *source, struct error *error);
struct source_memory *memory_find(struct source *source, pid_t pid);
/* That of the process's parent, if its own begins as a copy of that on the target; NULL otherwise. */
struct source_memory *memory_of_parent(struct source *source, const struct source_memory *memory);
/* It has ended, or is a zombie. */
bool memory_is_gone(pid_t pid);
void memory_free(struct source *source);
/* Ends tracking; what the target has is still known. */
void memory_stop_tracking(struct source *source);
/*
 * Written pages of all processes up to `depth`; in mode postcopy only shared ones, unless `frozen`. With `frozen`, the drops
 * too, as ranges for the target.
 */
int memory_scan(struct source *source, unsigned depth, bool frozen, struct source_jobs *jobs,
		struct source_jobs *drops, struct error *error);

/*
 * objects.c: content of shared memory objects. objects_scan() adds jobs for the pages that differ from what the target has,
 * of all objects of the last layout; with `frozen` it may use all processors. objects_read() reads the pages of a job, and
 * objects_note() says that this page is being sent (`zero`: as zeros; NULL: it is a hole) and tells whether the target had
 * content there; any thread may call these two, one thread a page.
 */
int objects_scan(struct source *source, bool frozen, struct source_jobs *jobs, struct error *error);
int objects_read(struct source *source, const struct source_job *job, uint8_t *data);
bool objects_note(struct source *source, uint32_t id, uint64_t offset, const uint8_t *page, bool zero);
void objects_free(struct objects *objects);

/* pages.c */
struct dedup *dedup_new(void);
void dedup_free(struct dedup *dedup);
int pages_send(struct source *source, const struct source_jobs *jobs, bool may_hash, int64_t deadline,
	       struct error *error);
/* Reads pages of a process: 0, or -EFAULT when one cannot be read. */
int pages_read(const struct source_memory *memory, uint64_t address, uint64_t pages, uint8_t *data);

/* round.c */
int round_precopy(struct source *source, struct error *error);
/* A single round of all processes, however much is written meanwhile. */
int round_once(struct source *source, struct error *error);

/*
 * freeze.c. freeze_prepare() stops the tree and gives the destination all that is left of it; freeze_hold() makes the stop
 * outlive us; freeze_and_hand_over() does both, and commits.
 */
int freeze_prepare(struct source *source, struct error *error);
int freeze_hold(struct source *source, struct error *error);
int freeze_and_hand_over(struct source *source, struct error *error);

/* serve.c */
int serve_postcopy(struct source *source, struct error *error);
/*
 * Connects again and asks for the session: `ret_state` is an enum wire_answer, `source->complete` is set by it. The other
 * streams are closed.
 */
int serve_ask(struct source *source, uint32_t *ret_state, struct error *error);

/* end.c: the copy here is killed; or lets go of it, which then runs on as before; or does so because the move failed. */
void end_source_copy(struct source *source);
void end_release(struct source *source);
void end_rollback(struct source *source);

/*
 * lock.c. lock_check(): whether there can be one, if the tree needs it; after dump_preflight(), a blocker if not.
 * lock_prepare(): its table, which drops nothing yet. lock_open(): the kernel answers again, and is given what was held up;
 * lock_release(): the lock goes when there is nothing here that could answer. lock_send_held(): the target is given it.
 */
int lock_check(struct source *source, struct error *error);
int lock_prepare(struct source *source, struct error *error);
int lock_open(struct source *source, struct error *error);
int lock_send_held(struct source *source, int64_t deadline, struct error *error);
void lock_release(struct source *source);
/* Of a session whose migrate is gone; and of all of which nothing is known any more. */
int lock_remove(const struct source *source, const uint8_t session[WIRE_SESSION_SIZE], struct error *error);
void lock_remove_stale(struct source *source);

/* leftover.c: what of the tree outlives its processes, and ends with the copy here when it runs elsewhere. */
struct leftover {
	struct image_ipcs objects;
	JournalIpc **ipc;     /* owned, one allocation each */
	JournalFile **files;
};
/* Puts it into an entry, which must not be used any more after leftover_deinit(). */
int leftover_note(const struct source *source, JournalEntry *entry, struct leftover *ret, struct error *error);
void leftover_deinit(struct leftover *leftover);
/* Removes what the entry names, if it is still that. */
void leftover_end(const JournalEntry *entry);

/* guardian.c */
int guardian_start(struct source *source, struct error *error);
void guardian_dismiss(struct source *source);

/* source.c */
int source_init(struct source *source, const struct migrate_options *options,
		const struct destination_operations *destination, const struct log *log, struct migrate_summary *summary,
		struct error *error);
void source_deinit(struct source *source);

/* watch.c: what the user sees meanwhile */
int watch_start(struct source *source, struct error *error);
/* A round begins that has so many pages to send. */
void watch_round(struct source *source, uint64_t pages);
void watch_estimate(struct source *source, const struct estimate *estimate);
/* Takes the line off the terminal. Without watch_start() it does nothing. */
void watch_stop(struct source *source);

/* hook.c. Without a hook all is success. hook_start() does not wait. */
int hook_start(const struct source *source, const char *event, struct program *ret, struct error *error);
int hook_wait(const struct source *source, struct program *hook, struct error *error);
int hook_run(const struct source *source, const char *event, struct error *error);
