/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection from its first byte to its HELLO: handshake, who it is, what it wants; then it belongs to a session or to
 * nobody. Steps never block; the loop calls connection_step() when the socket is ready, and gives up when the time is over.
 */
#pragma once

#include "pageserver/registry.h"
#include "transport/tls.h"

enum connection_step {
	CONNECTION_DONE = 0,        /* handed over: free it */
	CONNECTION_WANTS_READ = 1,  /* wait for the socket */
	CONNECTION_WANTS_WRITE = 2,
};

struct connection;

/* Takes `fd` on success. */
int connection_new(struct registry *registry, struct tls_context *tls, int fd, const char *peer,
		   struct connection **ret, struct error *error);
/* An enum connection_step or a negative errno; then the peer has been told, and the error is to be logged. */
int connection_step(struct connection *connection, struct error *error);
const char *connection_peer(const struct connection *connection);
/* Says to the peer, as far as it can be reached, why nothing comes of it. */
void connection_refuse(struct connection *connection, int code, const char *message);
void connection_free(struct connection *connection);
