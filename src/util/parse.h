/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers, sizes and addresses as people type them. Each answers bad input with a sentence that quotes it. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "error.h"

#define PARSE_HOST_MAX 256

struct parse_address {
	char host[PARSE_HOST_MAX]; /* name or address, without brackets; empty: any */
	char port[8];              /* decimal */
};

int parse_uint(const char *text, uint64_t max, const char *what, uint64_t *ret, struct error *error);
/* Bytes: a number with an optional K, M, G or T (powers of 1024), "MiB" and "MB" forms too. */
int parse_size(const char *text, const char *what, uint64_t *ret, struct error *error);
int parse_pid(const char *text, pid_t *ret, struct error *error);
/* "HOST:PORT", "[V6]:PORT", and, where `host_optional` is non-zero, "PORT" and ":PORT". */
int parse_host_port(const char *text, int host_optional, struct parse_address *ret, struct error *error);
