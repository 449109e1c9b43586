/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A batch from the inside: what batch.c builds and run.c executes. */
#pragma once

#include "internal.h"

#include "util/buffer.h"

/* A call as the stub reads it; stub.h has the offsets. */
struct slot_call {
	int64_t nr;	  /* system call */
	uint64_t args[6]; /* values, or addresses of values */
	int64_t result;	  /* written by the stub */
	uint64_t flags;	  /* bit n: argument n is an address; CALL_MAY_FAIL */
};

struct slot_header {
	uint64_t calls;	 /* address of the first call */
	uint64_t count;	 /* calls to run */
	uint64_t undo;	 /* calls behind them */
	uint64_t done;	 /* written by the stub */
	uint64_t signal; /* that ends the batch, or 0 */
	uint64_t frame;	 /* address of the signal frame */
	uint64_t begun;	 /* the list was begun; set beforehand where the stub must not write */
	uint64_t spare;
};

/* 8 bytes of the input that get an address at the run. */
struct batch_pointer {
	uint64_t at;	 /* offset in the input */
	uint64_t target; /* token */
};

struct tracee_batch {
	ARRAY(struct slot_call) calls;
	ARRAY(struct slot_call) undos;
	ARRAY(struct batch_pointer) pointers;
	struct buffer data;  /* input bytes */
	size_t space;	     /* bytes of output */
	bool no_memory;	     /* building failed */
	struct buffer image; /* of the last run: header, calls, undo calls, output, input, as in the
				slot */
};

/* Bytes that the batch takes in a slot. */
size_t batch_image_size(const struct tracee_batch *batch);

/* Bytes from the start of the image that are read back after the run. */
size_t batch_result_size(const struct tracee_batch *batch);

/* Lays the batch out in its `image` for a slot at `address`. */
int batch_lay_out(struct tracee_batch *batch, uint64_t address, struct error *error);

/* The header and the calls of the image. */
struct slot_header *batch_header(const struct tracee_batch *batch);
struct slot_call *batch_calls(const struct tracee_batch *batch);
