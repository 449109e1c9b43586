/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the stub and the engine agree on: how a slot of the remote area is laid out. Read by the assembler, too, hence
 * plain numbers; run.c asserts that they match its structs.
 */
#pragma once

/* struct slot_header, at the start of a thread's slot */
#define SLOT_CALLS  0  /* address of the first call */
#define SLOT_COUNT  8  /* calls to run */
#define SLOT_UNDO   16 /* calls behind them that run only without a tracer */
#define SLOT_DONE   24 /* calls that have returned; written by the stub */
#define SLOT_SIGNAL 32 /* signal that ends the batch; 0: none, the tracer watches system calls */
#define SLOT_FRAME  40 /* address of the signal frame that leads back */
#define SLOT_BEGUN  48 /* 0 until the list is begun; written by the stub, unless it is not 0 */
#define SLOT_SIZE   64

/* struct slot_call */
#define CALL_NR     0
#define CALL_ARGS   8
#define CALL_RESULT 56 /* written by the stub */
#define CALL_FLAGS  64
#define CALL_SIZE   72

/* CALL_FLAGS: bit n below 6: argument n is the address of its value; bit 8: an error does not end the list */
#define CALL_MAY_FAIL 0x100
