/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content of private memory. process_vm_writev(2) is the quick way, for mappings that may be written; what it refuses
 * (read-only mappings, PROT_NONE) is written through /proc/PID/mem, which a tracer may use whatever the protection.
 */
#include <errno.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "parts.h"

#define PAGES_DROP_BATCH  200
#define PAGES_DROP_VECTOR 1024   /* UIO_MAXIOV; 16 KiB in the remote area */
#define PAGES_PIDFD_SELF  -10000 /* PIDFD_SELF_THREAD, linux/pidfd.h of 6.14 */

int restore_pages_write(struct restore_process *process, uint64_t address, const void *data, size_t size,
			struct error *error)
{
	const uint8_t *from = data;

	while (size > 0) {
		struct iovec local = { .iov_base = (void *)from, .iov_len = size };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)address, .iov_len = size };
		ssize_t written = process_vm_writev(process->pid, &local, 1, &remote, 1, 0);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return tracee_process_write(process->tracee, address, from, size, error);
		from += written;
		address += (uint64_t)written;
		size -= (size_t)written;
	}
	return 0;
}

static int drop_one_by_one(struct restore_tree *tree, struct restore_process *process, struct tracee_batch *batch,
			   const struct restore_range *ranges, size_t count, struct error *error)
{
	int r = 0;

	tracee_batch_clear(batch);
	for (size_t i = 0; r == 0 && i < count; i++) {
		tracee_batch_call(batch, SYS_madvise, ranges[i].start, ranges[i].size, MADV_DONTNEED);
		if (i + 1 < count && (i + 1) % PAGES_DROP_BATCH != 0)
			continue;
		r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
		tracee_batch_clear(batch);
	}
	return r;
}

/* Up to PAGES_DROP_VECTOR ranges. False: the kernel has not dropped all of them. */
static bool drop_together(struct restore_tree *tree, struct restore_process *process, struct tracee_batch *batch,
			  const struct restore_range *ranges, size_t count)
{
	struct iovec vector[PAGES_DROP_VECTOR];
	uint64_t place;
	size_t size = 0;
	int call;

	for (size_t i = 0; i < count; i++) {
		vector[i] = (struct iovec){ .iov_base = (void *)(uintptr_t)ranges[i].start, .iov_len = ranges[i].size };
		size += ranges[i].size;
	}
	tracee_batch_clear(batch);
	place = tracee_batch_data(batch, vector, count * sizeof(vector[0]));
	call = tracee_batch_try(batch, SYS_process_madvise, (uint64_t)PAGES_PIDFD_SELF, place, count, MADV_DONTNEED, 0);
	return tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, NULL) == 0 &&
	       tracee_batch_result(batch, call) == (int64_t)size;
}

/*
 * One process_madvise(2) drops many ranges with one flush of the TLB: 0.6 us a page instead of 2.7. Kernels before 6.14 do
 * not let a process do this to itself.
 */
int restore_pages_drop(struct restore_tree *tree, struct restore_process *process, const struct restore_range *ranges,
		       size_t count, struct error *error)
{
	struct tracee_batch *batch;
	bool together = true;
	int r = 0;

	if (count == 0)
		return 0;
	batch = tracee_batch_new();
	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot drop pages of PID %d", process->pid);
	for (size_t i = 0; r == 0 && i < count; i += PAGES_DROP_VECTOR) {
		size_t n = count - i < PAGES_DROP_VECTOR ? count - i : PAGES_DROP_VECTOR;

		together = together && drop_together(tree, process, batch, ranges + i, n);
		if (!together)
			r = drop_one_by_one(tree, process, batch, ranges + i, n, error);
	}
	tracee_batch_free(batch);
	return r;
}
