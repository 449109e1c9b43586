/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From one layout to another. Both are cut at the boundaries of either, so that each piece is all of one segment in each;
 * a piece is then unmapped, mapped, changed or left alone. Neighbouring pieces with the same step become one.
 */
#include <errno.h>
#include <sys/mman.h>

#include "image/mapping.h"
#include "restore/mm.h"

#define PLAN_KIND_MASK                                                                                               \
	(MAPPING_FILE_PRIVATE | MAPPING_FILE_SHARED | MAPPING_ANON_SHARED | MAPPING_ANON_PRIVATE | MAPPING_MEMFD |           \
	 MAPPING_SYSV | MAPPING_AIO | MAPPING_IO_URING)
#define PLAN_FLAGS_MASK  ((uint32_t)~MAP_LOCKED)
#define PLAN_GAP_BOTTOM  UINT64_C(0x100000000000)
#define PLAN_ADDRESS_END UINT64_C(0x7ffffffff000)
#define PLAN_GAP_MARGIN  (UINT64_C(1) << 30)

static bool has_offset(const struct restore_segment *segment)
{
	return !(segment->status & MAPPING_ANON_PRIVATE);
}

/* Same memory behind both, at the same place? */
static bool same_backing(const struct restore_segment *one, const struct restore_segment *other)
{
	return (one->status & PLAN_KIND_MASK) != 0 &&
	       (one->status & PLAN_KIND_MASK) == (other->status & PLAN_KIND_MASK) &&
	       (one->flags & PLAN_FLAGS_MASK) == (other->flags & PLAN_FLAGS_MASK) && one->shmid == other->shmid &&
	       one->fdflags == other->fdflags &&
	       (!has_offset(one) || one->pgoff - one->start == other->pgoff - other->start);
}

static int plan_add(struct restore_plan *plan, enum restore_step_kind kind, uint64_t start, uint64_t end,
		    const struct restore_segment *wanted, uint64_t advice_now)
{
	struct restore_step step = {
		.kind = kind,
		.start = start,
		.end = end,
		.wanted = wanted,
		.advice_now = advice_now,
	};

	for (size_t i = plan->steps.count; i-- > 0 && i + 4 > plan->steps.count;) {
		struct restore_step *last = &plan->steps.items[i];

		if (last->kind == kind && last->end == start && last->wanted == wanted &&
		    last->advice_now == advice_now) {
			last->end = end;
			return 0;
		}
	}
	return array_append(&plan->steps, step);
}

static int plan_piece(struct restore_plan *plan, uint64_t start, uint64_t end, const struct restore_segment *now,
		      const struct restore_segment *wanted)
{
	bool keep = now && wanted && same_backing(now, wanted);
	uint64_t advice_now = keep ? now->madv : 0;
	int r = 0;

	if (now && !keep)
		r = plan_add(plan, RESTORE_STEP_UNMAP, start, end, NULL, 0);
	if (r == 0 && wanted && !keep)
		r = plan_add(plan, RESTORE_STEP_MAP, start, end, wanted, 0);
	if (r == 0 && keep && now->prot != wanted->prot)
		r = plan_add(plan, RESTORE_STEP_PROTECT, start, end, wanted, 0);
	if (r == 0 && wanted && wanted->madv != advice_now)
		r = plan_add(plan, RESTORE_STEP_ADVISE, start, end, wanted, advice_now);
	return r;
}

/*
 * Is the wanted segment, of which the piece at `start` is looked at, made of pieces that the kernel may keep apart? Private
 * memory that was two mappings has two anon_vmas; what is mapped beside a piece that stays may as well become part of its
 * neighbour on the other side, and a file that is mapped once more is another open file.
 */
static bool is_patchwork(uint64_t start, const struct restore_segment *kept, const struct restore_segment *now,
			 const struct restore_segment *wanted, bool keep)
{
	if (start == wanted->start || wanted->status & (MAPPING_SYSV | MAPPING_AIO))
		return false;
	return keep ? kept != now : kept != NULL;
}

int restore_plan_make(const struct restore_segments *now, struct restore_segments *wanted, struct restore_plan *plan)
{
	const struct restore_segment *kept = NULL; /* of `now`, for the last piece of w that stays */
	uint64_t position = 0;
	size_t i = 0, k = 0;

	while (i < now->count || k < wanted->count) {
		const struct restore_segment *n = i < now->count ? &now->items[i] : NULL;
		struct restore_segment *w = k < wanted->count ? &wanted->items[k] : NULL;
		uint64_t n_start = n ? (n->start > position ? n->start : position) : UINT64_MAX;
		uint64_t w_start = w ? (w->start > position ? w->start : position) : UINT64_MAX;
		uint64_t start = n_start < w_start ? n_start : w_start;
		uint64_t n_end = n ? (n_start == start ? n->end : n->start) : UINT64_MAX;
		uint64_t w_end = w ? (w_start == start ? w->end : w->start) : UINT64_MAX;
		uint64_t end = n_end < w_end ? n_end : w_end;
		int r = plan_piece(plan, start, end, n && n_start == start ? n : NULL,
				   w && w_start == start ? w : NULL);

		if (r < 0)
			return r;
		if (w && w_start == start) {
			bool keep = n && n_start == start && same_backing(n, w);

			w->is_patchwork |= is_patchwork(start, kept, n, w, keep);
			kept = keep ? n : kept;
		}
		position = end;
		if (n && n->end <= position)
			i++;
		if (w && w->end <= position) {
			kept = NULL;
			k++;
		}
	}
	return 0;
}

uint64_t restore_plan_gap(const struct restore_segments *const *lists, size_t count, uint64_t size)
{
	static const uint64_t margins[] = { PLAN_GAP_MARGIN, PLAN_GAP_MARGIN >> 10, 0 };

	for (size_t m = 0; m < sizeof(margins) / sizeof(margins[0]); m++) {
		uint64_t candidate = PLAN_GAP_BOTTOM >> (4 * m), margin = margins[m];
		bool moved = true;

		while (moved && candidate + size + margin <= PLAN_ADDRESS_END) {
			moved = false;
			for (size_t l = 0; l < count; l++)
				for (size_t i = 0; i < lists[l]->count; i++) {
					const struct restore_segment *segment = &lists[l]->items[i];

					if (segment->start < candidate + size + margin &&
					    segment->end + margin > candidate) {
						candidate = segment->end + margin;
						moved = true;
					}
				}
		}
		if (candidate + size + margin <= PLAN_ADDRESS_END)
			return candidate;
	}
	return 0;
}
