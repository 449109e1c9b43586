/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `migrate dump` and `migrate pre-dump`: a process tree into a checkpoint directory (image/directory.h). One blocking call
 * that goes through the phases of a migration (phase.h) with a directory as the destination. Every failure leaves the tree
 * running as it was, and no directory, or one that is marked as incomplete where its removal fails.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "send.h"
#include "util/error.h"
#include "util/log.h"

/* What becomes of the tree. */
enum migrate_after {
	MIGRATE_AFTER_KILL, /* it ends, once the directory is complete */
	MIGRATE_AFTER_RUN,  /* it goes on, before the directory is complete */
	MIGRATE_AFTER_STOP, /* the same, but stopped as by SIGSTOP */
};

struct migrate_checkpoint_options {
	pid_t pid;
	const char *path;       /* of the directory */
	const char *parent;     /* an earlier checkpoint of the same tree, or NULL */
	const char *state_dir;
	enum migrate_after after;
	bool pre_dump;          /* pages only, from the running tree: something for a dump to build upon */
	bool tcp_close;
	bool ext_unix;          /* UNIX sockets may be connected to processes outside of the tree */
	bool tcp_established;   /* TCP connections come along; otherwise they are in the way */
	uint64_t ghost_limit;   /* bytes of a deleted file; 0: the usual */
	bool shell_job;         /* it shares a terminal with processes outside of the tree */
	bool file_locks;        /* locks on files come along; otherwise they are in the way */
	uint64_t downtime_limit_ns;
	bool json;              /* no progress on a terminal */
	int cancel_fd;          /* as in struct migrate_options */
};

/* 0 or a negative errno with `error`. `summary` is always filled, as far as it applies. */
int migrate_checkpoint(const struct migrate_checkpoint_options *options, const struct log *log, struct migrate_summary *summary,
		    struct error *error);
