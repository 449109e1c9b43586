/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a pageserver before this one has left: its journals are read and brought to an end. Called before listening. */
#pragma once

#include "pageserver/registry.h"

int recover_sessions(struct registry *registry, struct error *error);

/* Removes locks on connections (net/lock.h) that belong to none of them any more. */
void recover_locks(struct registry *registry);

/* Runs the operator's program (hook.c) and waits for it; a failure is only logged. */
void recover_hook(struct registry *registry, const JournalEntry *entry, const char *event);

/*
 * Later on, for the loop's thread, as often as it likes: removes, once an hour, journals of sessions that ended more than a
 * week ago. Reads all journals then.
 */
void recover_prune(struct registry *registry);
