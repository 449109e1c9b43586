/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target side: takes process trees from `migrate send` and runs them here.
 *
 * pageserver_run() listens until SIGTERM or SIGINT. Sessions that have not been committed are aborted then; trees that run
 * and still miss pages stay with their keepers, and the next pageserver with the same state directory goes on with them.
 *
 * Needs root: CAP_SYS_ADMIN, CAP_SYS_PTRACE, and whatever the trees need. Linux 5.14.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/log.h"

struct pageserver_options {
	const char *listen;      /* [HOST:]PORT */
	const char *tls_dir;     /* ca.pem, server.pem, server-key.pem */
	const char *hook;        /* program that is run at turning points, see hook.c; NULL: none */
	const char *state_dir;   /* journals and keepers' sockets */
	const char *const *allow; /* names that a client's certificate may have; any of the CA if there are none */
	size_t allow_count;      /* number of names in `allow` */
	uint64_t max_memory;     /* bytes that all trees being received may have together; 0: what the host has free */
};

/*
 * Blocks until a signal ends it. `options` and `log` are borrowed. Calls ready(text, data) once when it listens on the
 * address `text`. 0 after a signal, an error if it cannot begin.
 */
int pageserver_run(const struct pageserver_options *options, const struct log *log,
		   void (*ready)(const char *address, void *data), void *data, struct error *error);
