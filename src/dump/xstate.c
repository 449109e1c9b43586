/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The xsave area of a thread (NT_X86_XSTATE): 512 bytes of the old FXSAVE format, a header whose first word says which
 * components are in use, then the components at places that CPUID tells. Components not in use are not sent. The part
 * that CRIU knows is filled in for its tools; the restore goes by ThreadExtra.
 */
#include <errno.h>
#include <string.h>

#include "image/host.h"
#include "parts.h"

#define XSAVE_LEGACY_SIZE 512
#define XSAVE_HEADER_END  576
#define XSAVE_FIRST       2 /* component 0 and 1 are the legacy area */
#define XSAVE_LAST        62

static uint32_t *xstate_words(struct dump_arena *arena, const uint8_t *from, size_t count)
{
	uint32_t *words = dump_arena_take(arena, count * sizeof(*words));

	if (words)
		memcpy(words, from, count * sizeof(*words));
	return words;
}

/* Layout of FXSAVE: Intel SDM volume 1, table 10-2. */
static int xstate_fpu(const uint8_t *area, uint64_t bits, struct dump_arena *arena, X86Fpu *fpu)
{
	uint16_t control[4];
	uint32_t mxcsr[2];
	uint64_t pointers[2];

	memcpy(control, area, sizeof(control));
	memcpy(pointers, area + 8, sizeof(pointers));
	memcpy(mxcsr, area + 24, sizeof(mxcsr));
	fpu->cwd = control[0];
	fpu->swd = control[1];
	fpu->twd = control[2];
	fpu->fop = control[3];
	fpu->rip = pointers[0];
	fpu->rdp = pointers[1];
	fpu->mxcsr = mxcsr[0];
	fpu->mxcsr_mask = mxcsr[1];
	fpu->n_st_space = 32;
	fpu->st_space = xstate_words(arena, area + 32, 32);
	fpu->n_xmm_space = 64;
	fpu->xmm_space = xstate_words(arena, area + 160, 64);
	fpu->xsave = dump_arena_take(arena, sizeof(*fpu->xsave));
	if (!fpu->st_space || !fpu->xmm_space || !fpu->xsave)
		return -ENOMEM;
	*fpu->xsave = (X86Xsave)X86_XSAVE__INIT;
	fpu->xsave->xstate_bv = bits & 7;
	fpu->xsave->n_ymmh_space = 64;
	fpu->xsave->ymmh_space = xstate_words(arena, area + XSAVE_HEADER_END, 64);
	return fpu->xsave->ymmh_space ? 0 : -ENOMEM;
}

static int xstate_components(const struct image_xsave_layout *layout, const uint8_t *area, size_t size, uint64_t bits,
			     struct dump_arena *arena, ThreadExtra *extra)
{
	size_t room = (size_t)__builtin_popcountll(bits);

	extra->components = dump_arena_take(arena, room * sizeof(*extra->components));
	if (!extra->components)
		return -ENOMEM;
	for (unsigned number = XSAVE_FIRST; number <= XSAVE_LAST; number++) {
		XsaveComponent *component;
		size_t offset, length;

		if (!(bits >> number & 1))
			continue;
		offset = layout->offset[number];
		length = layout->size[number];
		if (length == 0 || offset + length > size)
			return -EPROTO;
		component = dump_arena_take(arena, sizeof(*component));
		if (!component)
			return -ENOMEM;
		*component = (XsaveComponent)XSAVE_COMPONENT__INIT;
		component->number = number;
		component->state.data = dump_arena_take(arena, length);
		component->state.len = length;
		if (!component->state.data)
			return -ENOMEM;
		memcpy(component->state.data, area + offset, length);
		extra->components[extra->n_components++] = component;
	}
	return 0;
}

int dump_xstate(const struct image_xsave_layout *layout, struct tracee_thread *thread, struct dump_arena *arena,
		X86Fpu *fpu, ThreadExtra *extra, struct error *error)
{
	uint8_t *area = dump_arena_take(arena, TRACEE_XSTATE_MAX);
	size_t size;
	uint64_t bits;
	int r;

	if (!area)
		return error_set_errno(error, -ENOMEM, "cannot keep the registers of thread %d", thread->tid);
	r = tracee_thread_get_xstate(thread, area, TRACEE_XSTATE_MAX, &size, error);
	if (r < 0)
		return r;
	memcpy(&bits, area + XSAVE_LEGACY_SIZE, sizeof(bits));
	extra->fxsave.data = area;
	extra->fxsave.len = XSAVE_LEGACY_SIZE;
	extra->xstate_bv = bits;
	r = xstate_fpu(area, bits, arena, fpu);
	if (r == 0)
		r = xstate_components(layout, area, size, bits, arena, extra);
	if (r < 0)
		return error_set_errno(error, r, "cannot keep the vector registers of thread %d", thread->tid);
	return 0;
}
