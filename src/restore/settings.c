/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What threads and processes have set for themselves: the mirror of dump/settings.c. Limits on speculation are asked for where
 * this processor has them, as one that is not affected refuses to be limited; everything else that fails is an error.
 */
#include <asm/prctl.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "parts.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65 /* 6.3 */
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67 /* 6.4 */
#endif
#define NODES_MAX_BYTES 128

void restore_setting_thread(struct tracee_batch *batch, const ThreadExtra *extra)
{
	if (extra->has_tsc)
		tracee_batch_call(batch, SYS_prctl, PR_SET_TSC, extra->tsc);
	if (extra->cpuid_fault)
		tracee_batch_call(batch, SYS_arch_prctl, ARCH_SET_CPUID, 0);
	if (extra->has_memory_error)
		tracee_batch_call(batch, SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, extra->memory_error, 0, 0);
	for (size_t i = 0; i < extra->n_speculation; i++)
		if (extra->speculation[i])
			tracee_batch_try(batch, SYS_prctl, PR_SET_SPECULATION_CTRL, i, extra->speculation[i], 0, 0);
	if (extra->has_memory_policy) {
		uint8_t nodes[NODES_MAX_BYTES + 8] = { 0 };
		size_t size = extra->memory_nodes.len < NODES_MAX_BYTES ? extra->memory_nodes.len : NODES_MAX_BYTES;

		if (size)
			memcpy(nodes, extra->memory_nodes.data, size);
		/* The kernel takes one bit less than it is told. */
		tracee_batch_call(batch, SYS_set_mempolicy, extra->memory_policy,
				  tracee_batch_data(batch, nodes, sizeof(nodes)), size ? size * 8 + 1 : 0);
	}
}

void restore_setting_process(struct tracee_batch *batch, const ProcessExtra *extra)
{
	if (extra->merge)
		tracee_batch_call(batch, SYS_prctl, PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
	/* While it is root, which it may have been when it asked for that. */
	if (extra->lock_future)
		tracee_batch_call(batch, SYS_mlockall, extra->lock_future & (MCL_FUTURE | MCL_ONFAULT));
}

void restore_setting_last(struct tracee_batch *batch, const ProcessExtra *extra)
{
	if (extra->no_exec_gain)
		tracee_batch_call(batch, SYS_prctl, PR_SET_MDWE, extra->no_exec_gain, 0, 0, 0);
}

/* Written by the process itself, as the kernel wants it; its number of a login session is a new one then. */
void restore_setting_login(struct tracee_batch *batch, uint32_t uid)
{
	char text[16];
	int fd;

	snprintf(text, sizeof(text), "%" PRIu32, uid);
	fd = tracee_batch_try(batch, SYS_openat, AT_FDCWD, tracee_batch_string(batch, "/proc/self/loginuid"),
			      O_WRONLY | O_CLOEXEC);
	tracee_batch_try(batch, SYS_write, TRACEE_RESULT(fd), tracee_batch_data(batch, text, strlen(text)), strlen(text));
	tracee_batch_try(batch, SYS_close, TRACEE_RESULT(fd));
}
