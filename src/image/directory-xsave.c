/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Vector state between ThreadExtra (components of the xsave area by number) and CRIU's message (a list of numbers for each).
 * Numbers and sizes of components: Intel SDM volume 1, chapter 13. CRIU has no place for AMX: that stays with us.
 */
#include <errno.h>
#include <string.h>

#include "directory-private.h"

#define FXSAVE_SIZE 512
#define FXSAVE_ST   32
#define FXSAVE_XMM  160
#define ST_WORDS    32
#define XMM_WORDS   64

/* A component that both sides have. */
struct component {
	unsigned number;
	size_t size;   /* bytes of it */
	size_t count;  /* of numbers in the list, as CRIU writes them */
	size_t width;  /* bytes of each */
	size_t n_offset, list_offset; /* in X86Xsave */
};

#define COMPONENT(number, size, width, field)                                                                        \
	{ number, size, (size) / (width), width, offsetof(X86Xsave, n_##field), offsetof(X86Xsave, field) }

#define YMM 2

static const struct component components[] = {
	COMPONENT(YMM, 256, 4, ymmh_space), COMPONENT(5, 64, 8, opmask_reg), COMPONENT(6, 512, 8, zmm_upper),
	COMPONENT(7, 1024, 8, hi16_zmm),    COMPONENT(9, 8, 4, pkru),
};

static size_t list_count(const X86Xsave *xsave, const struct component *component)
{
	size_t count;

	memcpy(&count, (const char *)xsave + component->n_offset, sizeof(count));
	return count;
}

int image_xsave_export(struct image_arena *arena, ThreadExtra *extra, X86Xsave *xsave)
{
	for (size_t i = 0; i < extra->n_components; i++)
		for (size_t k = 0; k < sizeof(components) / sizeof(components[0]); k++) {
			const XsaveComponent *from = extra->components[i];
			const struct component *to = &components[k];
			void *list;

			if (from->number != to->number || from->state.len != to->size || to->number == YMM)
				continue;
			list = image_arena_take(arena, to->size);
			if (!list)
				return -ENOMEM;
			memcpy(list, from->state.data, to->size);
			memcpy((char *)xsave + to->n_offset, &to->count, sizeof(to->count));
			memcpy((char *)xsave + to->list_offset, &list, sizeof(list));
			xsave->xstate_bv |= UINT64_C(1) << to->number;
		}
	return 0;
}

/* Layout of FXSAVE: Intel SDM volume 1, table 10-2. */
static void import_legacy(const X86Fpu *fpu, uint8_t *area)
{
	uint16_t control[4] = { (uint16_t)fpu->cwd, (uint16_t)fpu->swd, (uint16_t)fpu->twd, (uint16_t)fpu->fop };
	uint64_t pointers[2] = { fpu->rip, fpu->rdp };
	uint32_t mxcsr[2] = { fpu->mxcsr, fpu->mxcsr_mask };

	memcpy(area, control, sizeof(control));
	memcpy(area + 8, pointers, sizeof(pointers));
	memcpy(area + 24, mxcsr, sizeof(mxcsr));
	memcpy(area + FXSAVE_ST, fpu->st_space, ST_WORDS * sizeof(uint32_t));
	memcpy(area + FXSAVE_XMM, fpu->xmm_space, XMM_WORDS * sizeof(uint32_t));
}

static void drop_component(ThreadExtra *extra, unsigned number)
{
	size_t kept = 0;

	for (size_t i = 0; i < extra->n_components; i++)
		if (extra->components[i]->number != number)
			extra->components[kept++] = extra->components[i];
	extra->n_components = kept;
	extra->xstate_bv &= ~(UINT64_C(1) << number);
}

static int put_component(struct image_arena *arena, ThreadExtra *extra, const struct component *component,
			 const X86Xsave *xsave)
{
	XsaveComponent *place = NULL;
	const void *list;
	size_t at = 0;

	for (size_t i = 0; i < extra->n_components; i++)
		if (extra->components[i]->number == component->number)
			place = extra->components[i];
	if (!place) {
		XsaveComponent **larger = image_arena_take(arena, (extra->n_components + 1) * sizeof(*larger));

		place = image_arena_take(arena, sizeof(*place));
		if (!larger || !place)
			return -ENOMEM;
		xsave_component__init(place);
		place->number = component->number;
		/* They stay in the order of their numbers. */
		while (at < extra->n_components && extra->components[at]->number < component->number)
			at++;
		if (extra->n_components) {
			memcpy(larger, extra->components, at * sizeof(*larger));
			memcpy(larger + at + 1, extra->components + at, (extra->n_components - at) * sizeof(*larger));
		}
		larger[at] = place;
		extra->components = larger;
		extra->n_components++;
	}
	place->state.data = image_arena_take(arena, component->size);
	if (!place->state.data)
		return -ENOMEM;
	place->state.len = component->size;
	memcpy(&list, (const char *)xsave + component->list_offset, sizeof(list));
	memcpy(place->state.data, list, component->size);
	extra->xstate_bv |= UINT64_C(1) << component->number;
	return 0;
}

int image_xsave_import(struct image_arena *arena, const X86Fpu *fpu, ThreadExtra *extra)
{
	uint8_t *area = image_arena_take(arena, FXSAVE_SIZE);

	if (!area)
		return -ENOMEM;
	if (fpu->n_st_space < ST_WORDS || fpu->n_xmm_space < XMM_WORDS)
		return -EPROTO;
	if (extra->fxsave.len == FXSAVE_SIZE)
		memcpy(area, extra->fxsave.data, FXSAVE_SIZE);
	import_legacy(fpu, area);
	extra->fxsave.data = area;
	extra->fxsave.len = FXSAVE_SIZE;
	/* The two legacy parts count as in use without an xsave message. */
	extra->xstate_bv = (extra->xstate_bv & ~UINT64_C(3)) | (fpu->xsave ? fpu->xsave->xstate_bv & 3 : 3);
	for (size_t i = 0; fpu->xsave && i < sizeof(components) / sizeof(components[0]); i++) {
		size_t count = list_count(fpu->xsave, &components[i]);
		bool used = fpu->xsave->xstate_bv >> components[i].number & 1;
		int r;

		if (count == 0)
			continue;
		if (used && count != components[i].count)
			return -EPROTO;
		if (!used) {
			drop_component(extra, components[i].number);
			continue;
		}
		r = put_component(arena, extra, &components[i], fpu->xsave);
		if (r < 0)
			return r;
	}
	return 0;
}
