/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Building batches, and laying them out.
 *
 * Image in a slot: header | calls | undo calls | output | input. What is read back after a run
 * (header to output) is one piece. Tokens are replaced here; an argument that is the result of an
 * earlier call becomes the address of that result, and a flag tells the stub to load from there.
 */
#include "batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stub.h"

#define ALIGNMENT 16

_Static_assert(sizeof(struct slot_call) == CALL_SIZE &&
		       offsetof(struct slot_call, args) == CALL_ARGS &&
		       offsetof(struct slot_call, result) == CALL_RESULT &&
		       offsetof(struct slot_call, flags) == CALL_FLAGS,
	       "stub.h and struct slot_call differ");
_Static_assert(sizeof(struct slot_header) == SLOT_SIZE &&
		       offsetof(struct slot_header, count) == SLOT_COUNT &&
		       offsetof(struct slot_header, undo) == SLOT_UNDO &&
		       offsetof(struct slot_header, done) == SLOT_DONE &&
		       offsetof(struct slot_header, signal) == SLOT_SIGNAL &&
		       offsetof(struct slot_header, frame) == SLOT_FRAME &&
		       offsetof(struct slot_header, begun) == SLOT_BEGUN,
	       "stub.h and struct slot_header differ");

static size_t align(size_t size)
{
	return (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

struct tracee_batch *tracee_batch_new(void)
{
	return calloc(1, sizeof(struct tracee_batch));
}

void tracee_batch_free(struct tracee_batch *batch)
{
	if (!batch)
		return;
	array_deinit(&batch->calls);
	array_deinit(&batch->undos);
	array_deinit(&batch->pointers);
	buffer_deinit(&batch->data);
	buffer_deinit(&batch->image);
	free(batch);
}

void tracee_batch_clear(struct tracee_batch *batch)
{
	array_clear(&batch->calls);
	array_clear(&batch->undos);
	array_clear(&batch->pointers);
	buffer_clear(&batch->data);
	buffer_clear(&batch->image);
	batch->space = 0;
	batch->no_memory = false;
}

int tracee_batch_call6(struct tracee_batch *batch, unsigned flags, long nr, uint64_t a0,
		       uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
	struct slot_call call = {
		.nr = nr,
		.args = { a0, a1, a2, a3, a4, a5 },
		.flags = flags & TRACEE_MAY_FAIL ? CALL_MAY_FAIL : 0,
	};

	if (array_append(&batch->calls, call) < 0) {
		batch->no_memory = true;
		return 0;
	}
	return (int)(batch->calls.count - 1);
}

void tracee_batch_undo6(struct tracee_batch *batch, long nr, uint64_t a0, uint64_t a1, uint64_t a2,
			uint64_t a3, uint64_t a4, uint64_t a5)
{
	struct slot_call call = { .nr = nr,
				  .args = { a0, a1, a2, a3, a4, a5 },
				  .flags = CALL_MAY_FAIL };

	if (array_append(&batch->undos, call) < 0)
		batch->no_memory = true;
}

uint64_t tracee_batch_data(struct tracee_batch *batch, const void *data, size_t size)
{
	size_t offset = batch->data.size, padded = align(size);
	uint8_t *place = buffer_extend(&batch->data, padded);

	if (!place) {
		batch->no_memory = true;
		return TRACEE_TOKEN_DATA;
	}
	if (size)
		memcpy(place, data, size);
	memset(place + size, 0, padded - size);
	return TRACEE_TOKEN_DATA | offset;
}

uint64_t tracee_batch_string(struct tracee_batch *batch, const char *string)
{
	return tracee_batch_data(batch, string, strlen(string) + 1);
}

void tracee_batch_point(struct tracee_batch *batch, uint64_t token, uint64_t target)
{
	struct batch_pointer pointer = { .at = token & ~TRACEE_TOKEN_TAG_MASK, .target = target };

	if (array_append(&batch->pointers, pointer) < 0)
		batch->no_memory = true;
}

uint64_t tracee_batch_space(struct tracee_batch *batch, size_t size)
{
	uint64_t offset = batch->space;

	batch->space += align(size);
	return TRACEE_TOKEN_SPACE | offset;
}

size_t tracee_batch_count(const struct tracee_batch *batch)
{
	return batch->calls.count;
}

static size_t calls_size(const struct tracee_batch *batch)
{
	return align((batch->calls.count + batch->undos.count) * CALL_SIZE);
}

size_t batch_result_size(const struct tracee_batch *batch)
{
	return SLOT_SIZE + calls_size(batch) + batch->space;
}

size_t batch_image_size(const struct tracee_batch *batch)
{
	return batch_result_size(batch) + batch->data.size;
}

struct slot_header *batch_header(const struct tracee_batch *batch)
{
	return (struct slot_header *)batch->image.data;
}

struct slot_call *batch_calls(const struct tracee_batch *batch)
{
	return (struct slot_call *)(batch->image.data + SLOT_SIZE);
}

/* A value that is no token stays as it is. */
static uint64_t replace(const struct tracee_batch *batch, uint64_t address, uint64_t value)
{
	uint64_t offset = value & ~TRACEE_TOKEN_TAG_MASK;

	switch (value & TRACEE_TOKEN_TAG_MASK) {
	case TRACEE_TOKEN_RESULT: return address + SLOT_SIZE + offset * CALL_SIZE + CALL_RESULT;
	case TRACEE_TOKEN_SPACE: return address + SLOT_SIZE + calls_size(batch) + offset;
	case TRACEE_TOKEN_DATA: return address + batch_result_size(batch) + offset;
	default: return value;
	}
}

static void lay_out_call(const struct tracee_batch *batch, uint64_t address, struct slot_call *call)
{
	call->result = -ECANCELED;
	for (unsigned i = 0; i < 6; i++) {
		if ((call->args[i] & TRACEE_TOKEN_TAG_MASK) == TRACEE_TOKEN_RESULT)
			call->flags |= UINT64_C(1) << i;
		call->args[i] = replace(batch, address, call->args[i]);
	}
}

int batch_lay_out(struct tracee_batch *batch, uint64_t address, struct error *error)
{
	struct slot_call *calls;
	uint8_t *data;

	buffer_clear(&batch->image);
	if (batch->no_memory || !buffer_extend(&batch->image, batch_image_size(batch)))
		return error_set(error, -ENOMEM, "out of memory");
	memset(batch->image.data, 0, batch_result_size(batch));
	*batch_header(batch) = (struct slot_header){
		.calls = address + SLOT_SIZE,
		.count = batch->calls.count,
		.undo = batch->undos.count,
	};
	calls = batch_calls(batch);
	if (batch->calls.count)
		memcpy(calls, batch->calls.items, batch->calls.count * CALL_SIZE);
	if (batch->undos.count)
		memcpy(calls + batch->calls.count, batch->undos.items,
		       batch->undos.count * CALL_SIZE);
	for (size_t i = 0; i < batch->calls.count + batch->undos.count; i++)
		lay_out_call(batch, address, calls + i);
	data = batch->image.data + batch_result_size(batch);
	if (batch->data.size)
		memcpy(data, batch->data.data, batch->data.size);
	array_for_each (pointer, &batch->pointers) {
		uint64_t value = replace(batch, address, pointer->target);

		memcpy(data + pointer->at, &value, sizeof(value));
	}
	return 0;
}

const void *tracee_batch_output(const struct tracee_batch *batch, uint64_t token)
{
	return batch->image.data + SLOT_SIZE + calls_size(batch) + (token & ~TRACEE_TOKEN_TAG_MASK);
}

int64_t tracee_batch_result(const struct tracee_batch *batch, int index)
{
	if (batch->image.size == 0 || index < 0 || (size_t)index >= batch->calls.count)
		return -ECANCELED;
	return batch_calls(batch)[index].result;
}
