/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "private.h"

#define PIECE_PAGES 512
#define PIECE_SIZE  (PIECE_PAGES * TRACK_PAGE)

/* A page of the page cache and one of the process's own are different even in the same frame. */
#define IDENTITY                                                                                                     \
	(TRACK_PAGEMAP_PRESENT | TRACK_PAGEMAP_SWAPPED | TRACK_PAGEMAP_FILE | TRACK_PAGEMAP_FRAME)

struct frames_piece {
	uint64_t start;
	uint64_t entries[PIECE_PAGES]; /* what counts of them; 0: nothing noted */
};

/* Index of the first piece that ends behind the address. */
static size_t find(struct frames *frames, uint64_t address)
{
	size_t low = 0, high = frames->pieces.count;

	if (frames->near < high && frames->pieces.items[frames->near]->start == address / PIECE_SIZE * PIECE_SIZE)
		return frames->near;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (frames->pieces.items[middle]->start + PIECE_SIZE > address)
			high = middle;
		else
			low = middle + 1;
	}
	frames->near = low;
	return low;
}

static uint64_t *find_entry(struct frames *frames, uint64_t address)
{
	size_t at = find(frames, address);

	if (at == frames->pieces.count || frames->pieces.items[at]->start > address)
		return NULL;
	return &frames->pieces.items[at]->entries[address % PIECE_SIZE / TRACK_PAGE];
}

bool frames_same(struct frames *frames, uint64_t address, uint64_t entry)
{
	const uint64_t *noted = find_entry(frames, address);

	return noted && *noted == (entry & IDENTITY);
}

int frames_note(struct frames *frames, uint64_t address, uint64_t entry)
{
	uint64_t *noted = find_entry(frames, address);
	struct frames_piece *piece;
	size_t at;

	if (!noted) {
		if (array_reserve(&frames->pieces, 1) < 0)
			return -ENOMEM;
		piece = calloc(1, sizeof(*piece));
		if (!piece)
			return -ENOMEM;
		piece->start = address / PIECE_SIZE * PIECE_SIZE;
		at = find(frames, address);
		memmove(&frames->pieces.items[at + 1], &frames->pieces.items[at],
			(frames->pieces.count - at) * sizeof(piece));
		frames->pieces.items[at] = piece;
		frames->pieces.count++;
		noted = &piece->entries[address % PIECE_SIZE / TRACK_PAGE];
	}
	*noted = entry & IDENTITY;
	return 0;
}

void frames_prune(struct frames *frames, const struct procfs_maps *maps)
{
	size_t kept = 0, map = 0;

	for (size_t i = 0; i < frames->pieces.count; i++) {
		struct frames_piece *piece = frames->pieces.items[i];

		while (map < maps->count && maps->items[map].end <= piece->start)
			map++;
		if (map < maps->count && maps->items[map].start < piece->start + PIECE_SIZE)
			frames->pieces.items[kept++] = piece;
		else
			free(piece);
	}
	frames->pieces.count = kept;
}

void frames_deinit(struct frames *frames)
{
	array_for_each(piece, &frames->pieces)
		free(*piece);
	array_deinit(&frames->pieces);
}
