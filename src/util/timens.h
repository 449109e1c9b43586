/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Time namespaces (time_namespaces(7), Linux 5.6): processes in one see CLOCK_MONOTONIC and CLOCK_BOOTTIME shifted by an
 * offset against the clocks of the machine, which is fixed when the first process enters.
 *
 * Offsets are nanoseconds against the machine's clocks, whatever namespace this program is in. Nothing here blocks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct timens_offsets {
	int64_t monotonic; /* ns added to the machine's clock */
	int64_t boottime;
};

/* Can a namespace with other offsets be made here: by this kernel, with the rights of this program? */
bool timens_is_supported(void);

/* The offsets that children of the process get (and that it has, unless it has just unshared); 0: this one. */
int timens_read(pid_t pid, struct timens_offsets *ret, struct error *error);

/* What the clocks show to a process with these offsets now. */
int timens_now(const struct timens_offsets *offsets, struct timens_offsets *ret, struct error *error);

/*
 * Children that this thread makes from now on are in a new namespace; the thread itself is not. No locks, no memory: may be
 * called in a forked child of a program with threads. 0 or a negative errno.
 */
int timens_unshare(const struct timens_offsets *offsets);
