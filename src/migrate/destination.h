/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a tree goes: a page server (peer.c), or a directory (directory.c). The phases up to the freeze are the same for both
 * and know only these operations.
 *
 * A round calls images, laid_out, pages (any thread, one thread a stream), round_end, round_done, in this order; the round
 * of the freeze calls drop between laid_out and pages, and prepare and prepared around round_done: what is only sent and
 * what waits for an answer are separate, so that both sides work at the same time. `deadline` may be CLOCK_FOREVER. All
 * return 0 or a negative errno with `error` filled.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "transport/wire.h"
#include "util/error.h"

struct source;
struct source_jobs;

struct destination_operations {
	/* Looks at source->images, which describe the running tree; adds what stands in the way to the list of blockers. */
	int (*check)(struct source *source, struct error *error);
	/*
	 * source->images are what the tree looks like now. `frozen`: they are all of its state. `depth`: processes deeper
	 * below the root come in a later round; UINT32_MAX: all are there.
	 */
	int (*images)(struct source *source, bool frozen, uint32_t depth, int64_t deadline, struct error *error);
	int (*laid_out)(struct source *source, int64_t deadline, struct error *error);
	/* A run of pages on stream number `stream`; `data` as the header's kind says (wire.h). */
	int (*pages)(struct source *source, uint32_t stream, const struct wire_pages_header *header, const void *data,
		     int64_t deadline, struct error *error);
	int (*round_end)(struct source *source, int64_t deadline, struct error *error);
	/* All pages of the round are there, but for those added to `rejected`: they have to be sent again, with content. */
	int (*round_done)(struct source *source, struct source_jobs *rejected, int64_t deadline, struct error *error);
	/* Pages that have no content any more. */
	int (*drop)(struct source *source, const struct source_jobs *drops, int64_t deadline, struct error *error);
	/* Everything but the go; `late` are pages that come after it. */
	int (*prepare)(struct source *source, const struct source_jobs *late, int64_t deadline, struct error *error);
	int (*prepared)(struct source *source, int64_t deadline, struct error *error);
	/* The source gives up before the go. Keeps quiet about its own failure. */
	void (*abort)(struct source *source);
	/* Bytes that left so far, over all streams. Not while another thread sends. */
	uint64_t (*bytes)(const struct source *source);
	bool takes_hashes; /* WIRE_PAGES_HASH */
	bool takes_late;   /* pages can come after the go */
	bool shares_pages; /* a child begins as a copy of its parent there: pages that are equal need not be sent */
};

extern const struct destination_operations destination_peer;
extern const struct destination_operations destination_directory;
