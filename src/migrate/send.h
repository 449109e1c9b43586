/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `migrate send`: moves a process tree to a page server. One blocking call that takes a migration through its phases
 * (phase.h). Until the commit every failure leaves the tree running here as it was; after it the tree runs on the target,
 * or is held frozen here until it is known (MIGRATE_IN_DOUBT).
 *
 * Needs root. Relies on what track.h, tracee.h, freezer.h and dump.h rely on.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"
#include "util/log.h"

enum migrate_mode {
	MIGRATE_HYBRID,   /* rounds, then what is left on demand */
	MIGRATE_PRECOPY,  /* everything before the switch */
	MIGRATE_POSTCOPY, /* everything on demand */
};

/* Exit status of `migrate send`. */
enum migrate_outcome {
	MIGRATE_MOVED = 0,
	MIGRATE_NOT_MOVED = 1, /* the source runs on */
	MIGRATE_USAGE = 2,
	MIGRATE_IN_DOUBT = 3, /* held; `migrate resolve` */
};

struct migrate_options {
	const char *to;             /* HOST:PORT */
	const char *tls_dir;
	const char *state_dir;
	const char *hook;           /* program, or NULL */
	enum migrate_mode mode;
	uint64_t downtime_limit_ns; /* what the freeze shall cost */
	uint64_t downtime_most_ns;  /* mode precopy: expected to cost more than this, it is not done */
	uint64_t max_bandwidth;     /* bytes a second, 0: no limit */
	uint32_t streams;           /* bulk streams */
	pid_t pid;
	bool tcp_close;
	bool ext_unix; /* UNIX sockets may be connected to processes outside of the tree */
	bool dry_run;
	bool json;     /* no progress on a terminal */
	int cancel_fd; /* readable: give up before the commit (an eventfd or signalfd); borrowed */
};

/* What the summary says. */
struct migrate_summary {
	char session[40];            /* hexadecimal */
	double downtime_ms;          /* from the first thread's stop to the target's RUNNING */
	double total_ms;
	uint32_t rounds;             /* before the freeze */
	uint32_t throttle_percent;   /* most of its time that the tree was made to stand still during them */
	uint32_t processes, threads;
	uint64_t bytes_sent;         /* on the wire, all streams */
	uint64_t bytes_frozen;       /* of them, while nobody ran: from the first thread's stop to the target's RUNNING */
	uint64_t bytes_raw;          /* before compression and encryption */
	uint64_t pages_sent;         /* with their content */
	uint64_t pages_zero;         /* read as zeros */
	uint64_t pages_deduplicated; /* as a hash, or shared with a parent */
	uint64_t pages_resent;       /* of pages_sent: sent before in an earlier state */
	uint64_t pages_postcopy;     /* missing at the switch */
	uint64_t pages_faulted;      /* asked for by a fault */
	uint64_t fault_us_p50, fault_us_p99;
	double dirty_bytes_per_s;    /* at the last round */
	double link_bytes_per_s;     /* measured */
};

/* Returns an enum migrate_outcome; unless it is MIGRATE_MOVED, `error` says why. `summary` is always filled. */
int migrate_send(const struct migrate_options *options, const struct log *log, struct migrate_summary *summary,
		 struct error *error);

/* `migrate resolve`, `status`, `cancel`. Return an exit status; print to stdout. */
enum migrate_decision {
	MIGRATE_ASK,  /* ask the target, do what its answer says */
	MIGRATE_THAW, /* the operator knows that no copy runs there */
	MIGRATE_KILL, /* the operator knows that the copy runs there */
};
int migrate_resolve(const char *session, enum migrate_decision decision, const char *state_dir,
		    const struct log *log, struct error *error);
int migrate_status(const char *state_dir, const char *session, bool json, struct error *error);
int migrate_cancel(const char *state_dir, const char *session, struct error *error);
