/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of kinds: what a process tree can hold, and what becomes of it. A kind is a line of kinds.def, so a new one
 * needs no other edit for its name and, if it is refused, its cause and remedy; what refuses names the kind
 * (dump_refuse() of dump/dump.h). `migrate check --kinds` prints the table, docs/coverage.md adds the tests to it.
 */
#pragma once

#include <stdbool.h>

enum image_kind {
#define GROUP(heading)
#define RESTORED(id, name) IMAGE_KIND_##id,
#define REFUSED(id, name, cause, remedy) IMAGE_KIND_##id,
#include "image/kinds.def"
#undef GROUP
#undef RESTORED
#undef REFUSED
	IMAGE_KIND_COUNT
};

struct image_kind_facts {
	const char *group;  /* "Sockets" */
	const char *name;   /* "UNIX sockets" */
	const char *cause;  /* why it is refused; NULL: it is restored */
	const char *remedy; /* what the user can do; NULL likewise */
};

/* Static, for each kind below IMAGE_KIND_COUNT. */
struct image_kind_facts image_kind_get(enum image_kind kind);

static inline bool image_kind_is_restored(const struct image_kind_facts *facts)
{
	return !facts->cause;
}
