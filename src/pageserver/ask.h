/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ASK streams: what became of a session. A thread of its own answers from the living session or from the journal. With
 * the session's token, and the session running here, the stream becomes the session's control stream.
 */
#pragma once

#include "pageserver/registry.h"
#include "transport/stream.h"

/* Takes the stream in any case. `token` may be NULL; both are copied. */
int ask_start(struct registry *registry, struct stream **stream, const uint8_t id[WIRE_SESSION_SIZE],
	      const uint8_t *token, size_t token_size, struct error *error);
