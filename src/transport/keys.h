/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `migrate keys` does: a private CA and one certificate for each side, into one directory. ECDSA on P-256.
 *
 *   ca.pem       ca-key.pem       the CA, 10 years; its key is needed for further certificates only
 *   server.pem   server-key.pem   for pageserver: serverAuth, the names as subject alternative names
 *   client.pem   client-key.pem   for migrate: clientAuth, the client's name as common and alternative name
 *
 * The user copies ca.pem and the pair for its role to each host.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "util/error.h"

#define KEYS_DAYS_DEFAULT 825

struct keys_options {
	const char *const *names; /* DNS names and IP addresses of the servers; borrowed */
	size_t name_count;        /* 0: this machine's host name, localhost and its addresses */
	const char *client;       /* name of the client; NULL: this machine's host name */
	uint32_t days;            /* validity of the two certificates; 0: KEYS_DAYS_DEFAULT */
	time_t start;             /* first second of validity, of the CA too; 0: now, less an hour for clocks that differ */
};

/*
 * Writes the six files. The directory is made (0700, parents 0755) if it does not exist. Each file appears whole or
 * not at all; an existing one is never replaced: -EEXIST, and nothing is written. Keys have mode 0600. If it fails
 * midway, the files written so far are removed again.
 */
int keys_generate(const char *dir, const struct keys_options *options, struct error *error);
