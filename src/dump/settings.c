/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What threads and processes have set for themselves by calls that no other part asks about: time stamps and CPUID that are
 * forbidden, speculation, what a memory error does, memory policy; memory that is never executable once it was writable,
 * merged, without huge pages, or locked as it comes. Asked in the batches of thread.c; what is as usual is not recorded.
 *
 * That memory to come is locked (mlockall(2) with MCL_FUTURE) is told by nothing; but so is a page that is mapped then, and a
 * locked mapping refuses MADV_COLD. Without MCL_ONFAULT it has its page. Nor can it be mapped where no more may be locked.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "parts.h"

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66 /* 6.3 */
#endif
#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68 /* 6.4 */
#endif
#define PAGE_BYTES UINT64_C(4096)
#define NODES_MAX  1024 /* bits of a node mask; what the kernel is built for may be less */

void dump_setting_ask(struct tracee_batch *batch, struct dump_setting_query *query)
{
	query->tsc = tracee_batch_space(batch, sizeof(int));
	query->mode = tracee_batch_space(batch, sizeof(int));
	query->nodes = tracee_batch_space(batch, NODES_MAX / 8);
	tracee_batch_call(batch, SYS_prctl, PR_GET_TSC, query->tsc);
	query->cpuid = tracee_batch_try(batch, SYS_arch_prctl, ARCH_GET_CPUID, 0);
	query->memory_error = tracee_batch_try(batch, SYS_prctl, PR_MCE_KILL_GET, 0, 0, 0, 0);
	for (unsigned i = 0; i < DUMP_SPECULATIONS; i++)
		query->speculation[i] = tracee_batch_try(batch, SYS_prctl, PR_GET_SPECULATION_CTRL, i, 0, 0, 0);
	query->policy = tracee_batch_try(batch, SYS_get_mempolicy, query->mode, query->nodes, NODES_MAX, 0, 0);
}

static size_t used_bytes(const uint8_t *mask, size_t size)
{
	while (size && !mask[size - 1])
		size--;
	return size;
}

int dump_setting_answer(const struct tracee_batch *batch, const struct dump_setting_query *query, struct dump_arena *arena,
			ThreadExtra *extra)
{
	const uint8_t *nodes = tracee_batch_output(batch, query->nodes);
	int64_t memory_error = tracee_batch_result(batch, query->memory_error);
	int tsc, mode;

	memcpy(&tsc, tracee_batch_output(batch, query->tsc), sizeof(tsc));
	memcpy(&mode, tracee_batch_output(batch, query->mode), sizeof(mode));
	extra->has_tsc = tsc != PR_TSC_ENABLE;
	extra->tsc = (uint32_t)tsc;
	extra->has_cpuid_fault = extra->cpuid_fault = tracee_batch_result(batch, query->cpuid) == 0;
	extra->has_memory_error = memory_error >= 0 && memory_error != PR_MCE_KILL_DEFAULT;
	extra->memory_error = (uint32_t)memory_error;
	extra->speculation = dump_arena_take(arena, DUMP_SPECULATIONS * sizeof(*extra->speculation));
	if (!extra->speculation)
		return -ENOMEM;
	for (unsigned i = 0; i < DUMP_SPECULATIONS; i++) {
		int64_t control = tracee_batch_result(batch, query->speculation[i]);

		extra->speculation[i] = control > 0 && control & PR_SPEC_PRCTL ? (uint32_t)control & ~PR_SPEC_PRCTL : 0;
		if (extra->speculation[i])
			extra->n_speculation = i + 1;
	}
	if (tracee_batch_result(batch, query->policy) < 0 || mode == MPOL_DEFAULT)
		return 0;
	extra->has_memory_policy = extra->has_memory_nodes = true;
	extra->memory_policy = (uint32_t)mode;
	extra->memory_nodes.len = used_bytes(nodes, NODES_MAX / 8);
	extra->memory_nodes.data = dump_arena_take(arena, extra->memory_nodes.len);
	if (!extra->memory_nodes.data)
		return -ENOMEM;
	memcpy(extra->memory_nodes.data, nodes, extra->memory_nodes.len);
	return 0;
}

void dump_setting_process_ask(struct tracee_batch *batch, struct dump_process_setting_query *query)
{
	query->no_exec_gain = tracee_batch_try(batch, SYS_prctl, PR_GET_MDWE, 0, 0, 0, 0);
	query->merge = tracee_batch_try(batch, SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
	query->huge_pages = tracee_batch_try(batch, SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0, 0);
}

/* Positive results only. */
static uint32_t flags_of(const struct tracee_batch *batch, int call, protobuf_c_boolean *ret_has)
{
	int64_t result = tracee_batch_result(batch, call);

	*ret_has = result > 0;
	return result > 0 ? (uint32_t)result : 0;
}

void dump_setting_process_answer(const struct tracee_batch *batch, const struct dump_process_setting_query *query,
				 ProcessExtra *extra)
{
	extra->no_exec_gain = flags_of(batch, query->no_exec_gain, &extra->has_no_exec_gain);
	extra->merge = flags_of(batch, query->merge, &extra->has_merge);
	extra->huge_pages = flags_of(batch, query->huge_pages, &extra->has_huge_pages);
}

int dump_setting_locks(struct dump_context *ctx, const struct dump_process *process, const struct dump_status *status,
		       ProcessExtra *extra, struct error *error)
{
	const struct tracee_process *tracee = process->tracee;
	struct tracee_batch *batch;
	uint64_t resident;
	int page, cold, seen, r;

	if (!status->locked_kib)
		return 0;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot ask PID %d", process->pid);
	resident = tracee_batch_space(batch, 1);
	page = tracee_batch_try(batch, SYS_mmap, 0, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX,
				0);
	cold = tracee_batch_try(batch, SYS_madvise, TRACEE_RESULT(page), PAGE_BYTES, MADV_COLD);
	seen = tracee_batch_try(batch, SYS_mincore, TRACEE_RESULT(page), PAGE_BYTES, resident);
	tracee_batch_try(batch, SYS_munmap, TRACEE_RESULT(page), PAGE_BYTES);
	r = tracee_batch_run(tracee->threads.items[0], batch, ctx->deadline, error);
	if (r == 0 && (tracee_batch_result(batch, page) == -EAGAIN || tracee_batch_result(batch, cold) == -EINVAL)) {
		bool is_resident = tracee_batch_result(batch, page) < 0 ||
				   (tracee_batch_result(batch, seen) == 0 &&
				    *(const uint8_t *)tracee_batch_output(batch, resident) & 1);

		extra->has_lock_future = true;
		extra->lock_future = (uint32_t)MCL_FUTURE | (is_resident ? 0 : (uint32_t)MCL_ONFAULT);
	}
	tracee_batch_free(batch);
	return r;
}
