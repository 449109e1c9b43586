/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The mirror of dump/xstate.c: the area is put together from components, at the places that this processor has for them. */
#include <errno.h>
#include <string.h>

#include "image/host.h"
#include "parts.h"

#define XSAVE_LEGACY_SIZE 512
#define XSAVE_HEADER_END  576

int restore_xstate(const struct image_xsave_layout *layout, struct tracee_thread *thread, const ThreadExtra *extra,
		   struct error *error)
{
	_Alignas(64) uint8_t area[TRACEE_XSTATE_MAX] = { 0 };
	size_t size = XSAVE_HEADER_END;

	if (extra->fxsave.len != XSAVE_LEGACY_SIZE)
		return error_set(error, -EPROTO, "the registers of thread %d are incomplete", thread->tid);
	memcpy(area, extra->fxsave.data, XSAVE_LEGACY_SIZE);
	memcpy(area + XSAVE_LEGACY_SIZE, &extra->xstate_bv, sizeof(extra->xstate_bv));
	for (size_t i = 0; i < extra->n_components; i++) {
		const XsaveComponent *component = extra->components[i];
		size_t offset, length;

		offset = component->number < 64 ? layout->offset[component->number] : 0;
		length = component->number < 64 ? layout->size[component->number] : 0;
		if (length == 0 || length != component->state.len || offset + length > sizeof(area))
			return error_set(error, -EOPNOTSUPP, "this processor has no register state %u, which thread %d "
					 "uses", component->number, thread->tid);
		memcpy(area + offset, component->state.data, length);
		if (offset + length > size)
			size = offset + length;
	}
	return tracee_thread_set_xstate(thread, area, size, error);
}
