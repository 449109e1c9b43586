/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>

#include "parts.h"

/* A capability set as two words, the low one first. */
static int creds_set(struct dump_arena *arena, uint64_t set, size_t *ret_count, uint32_t **ret_words)
{
	uint32_t *words = dump_arena_take(arena, 2 * sizeof(*words));

	if (!words)
		return -ENOMEM;
	words[0] = (uint32_t)set;
	words[1] = (uint32_t)(set >> 32);
	*ret_count = 2;
	*ret_words = words;
	return 0;
}

int dump_creds(const struct dump_status *status, uint32_t securebits, struct dump_arena *arena, Creds *creds,
	       ThreadExtra *extra)
{
	creds->uid = status->uid[0];
	creds->euid = status->uid[1];
	creds->suid = status->uid[2];
	creds->fsuid = status->uid[3];
	creds->gid = status->gid[0];
	creds->egid = status->gid[1];
	creds->sgid = status->gid[2];
	creds->fsgid = status->gid[3];
	creds->secbits = securebits;
	creds->groups = dump_arena_take(arena, status->groups.count * sizeof(*creds->groups));
	if (!creds->groups || creds_set(arena, status->cap_inh, &creds->n_cap_inh, &creds->cap_inh) < 0 ||
	    creds_set(arena, status->cap_prm, &creds->n_cap_prm, &creds->cap_prm) < 0 ||
	    creds_set(arena, status->cap_eff, &creds->n_cap_eff, &creds->cap_eff) < 0 ||
	    creds_set(arena, status->cap_bnd, &creds->n_cap_bnd, &creds->cap_bnd) < 0 ||
	    creds_set(arena, status->cap_amb, &extra->n_cap_amb, &extra->cap_amb) < 0)
		return -ENOMEM;
	if (status->groups.count)
		memcpy(creds->groups, status->groups.items, status->groups.count * sizeof(*creds->groups));
	creds->n_groups = status->groups.count;
	extra->no_new_privs = status->no_new_privs;
	return 0;
}
