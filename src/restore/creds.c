/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Credentials of a thread (credentials(7), capabilities(7)). A shell is root with all that this program has, and the order
 * in which that is given up matters: inheritable and ambient sets while the bounding set is whole; groups before users;
 * users with SECBIT_NO_SETUID_FIXUP, so that changing them takes no capability away; then the securebits as they shall
 * be, then the capabilities as they shall be, and no_new_privs last.
 */
#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

#define CREDS_CAP_LAST 63 /* numbers that the kernel does not know are in no set */

static uint64_t set_of(size_t count, const uint32_t *words)
{
	return (count > 0 ? words[0] : 0) | (uint64_t)(count > 1 ? words[1] : 0) << 32;
}

static void add_capset(struct tracee_batch *batch, uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	for (int i = 0; i < 2; i++) {
		sets[i].effective = (uint32_t)(effective >> (32 * i));
		sets[i].permitted = (uint32_t)(permitted >> (32 * i));
		sets[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	tracee_batch_call(batch, SYS_capset, tracee_batch_data(batch, &header, sizeof(header)),
			  tracee_batch_data(batch, sets, sizeof(sets)));
}

void restore_creds_read_own(struct restore_own_creds *own)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { { 0 } };
	int count;

	memset(own, 0, sizeof(*own));
	getresuid(&own->uid[0], &own->uid[1], &own->uid[2]);
	getresgid(&own->gid[0], &own->gid[1], &own->gid[2]);
	if (syscall(SYS_capget, &header, sets) == 0) {
		own->effective = sets[0].effective | (uint64_t)sets[1].effective << 32;
		own->permitted = sets[0].permitted | (uint64_t)sets[1].permitted << 32;
		own->inheritable = sets[0].inheritable | (uint64_t)sets[1].inheritable << 32;
	}
	for (unsigned cap = 0; cap <= CREDS_CAP_LAST; cap++) {
		if (prctl(PR_CAPBSET_READ, cap) == 1)
			own->bounding |= UINT64_C(1) << cap;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
			own->ambient |= UINT64_C(1) << cap;
	}
	own->securebits = (uint32_t)prctl(PR_GET_SECUREBITS);
	count = getgroups(RESTORE_OWN_GROUPS, own->groups);
	own->group_count = count < 0 ? SIZE_MAX : (size_t)count;
}

/* A shell has our credentials: nothing to do for a thread that had the same. */
static bool same_as_own(const struct restore_own_creds *own, const Creds *creds, const ThreadExtra *extra)
{
	return creds->uid == own->uid[0] && creds->euid == own->uid[1] && creds->suid == own->uid[2] &&
	       creds->fsuid == own->uid[1] && creds->gid == own->gid[0] && creds->egid == own->gid[1] &&
	       creds->sgid == own->gid[2] && creds->fsgid == own->gid[1] && creds->secbits == own->securebits &&
	       set_of(creds->n_cap_eff, creds->cap_eff) == own->effective &&
	       set_of(creds->n_cap_prm, creds->cap_prm) == own->permitted &&
	       set_of(creds->n_cap_inh, creds->cap_inh) == own->inheritable &&
	       set_of(creds->n_cap_bnd, creds->cap_bnd) == own->bounding &&
	       set_of(extra->n_cap_amb, extra->cap_amb) == own->ambient && creds->n_groups == own->group_count &&
	       (creds->n_groups == 0 || memcmp(creds->groups, own->groups, creds->n_groups * sizeof(*creds->groups)) == 0);
}

static void add_capabilities_early(struct tracee_batch *batch, const struct restore_own_creds *own, const Creds *creds,
				   const ThreadExtra *extra)
{
	uint64_t bounding = set_of(creds->n_cap_bnd, creds->cap_bnd);
	uint64_t ambient = set_of(extra->n_cap_amb, extra->cap_amb);

	add_capset(batch, own->permitted, own->permitted, set_of(creds->n_cap_inh, creds->cap_inh));
	tracee_batch_call(batch, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (unsigned cap = 0; cap <= CREDS_CAP_LAST; cap++)
		if (ambient >> cap & 1)
			tracee_batch_call(batch, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	for (unsigned cap = 0; cap <= CREDS_CAP_LAST; cap++)
		if (!(bounding >> cap & 1) && own->bounding >> cap & 1)
			tracee_batch_call(batch, SYS_prctl, PR_CAPBSET_DROP, cap);
}

void restore_creds(struct tracee_batch *batch, const struct restore_own_creds *own, const Creds *creds,
		   const ThreadExtra *extra)
{
	if (same_as_own(own, creds, extra)) {
		if (extra->no_new_privs)
			tracee_batch_call(batch, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		return;
	}
	add_capabilities_early(batch, own, creds, extra);
	tracee_batch_call(batch, SYS_setgroups, creds->n_groups,
			  tracee_batch_data(batch, creds->groups, creds->n_groups * sizeof(*creds->groups)));
	tracee_batch_call(batch, SYS_setresgid, creds->gid, creds->egid, creds->sgid);
	tracee_batch_call(batch, SYS_prctl, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
	tracee_batch_call(batch, SYS_setresuid, creds->uid, creds->euid, creds->suid);
	tracee_batch_call(batch, SYS_setfsgid, creds->fsgid);
	tracee_batch_call(batch, SYS_setfsuid, creds->fsuid);
	tracee_batch_call(batch, SYS_prctl, PR_SET_SECUREBITS, creds->secbits);
	add_capset(batch, set_of(creds->n_cap_eff, creds->cap_eff), set_of(creds->n_cap_prm, creds->cap_prm),
		   set_of(creds->n_cap_inh, creds->cap_inh));
	if (extra->no_new_privs)
		tracee_batch_call(batch, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}
