/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * userfaultfd(2): taking one out of a shell, and the ioctls on it with their errors sorted.
 *
 * A userfaultfd belongs to the address space of whoever called userfaultfd(2), so the shell has to; pidfd_getfd(2)
 * copies the descriptor and the shell closes its own. Faults of the kernel on the process's behalf have to wait as
 * well, so this is not the unprivileged kind: the shell still needs CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"

#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct lazy_uffdio_poison)
#define uffdio_poison lazy_uffdio_poison
struct lazy_uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated; /* bytes done, or a negative errno */
};
#endif

#define NEEDED_FEATURES                                                                                                \
	((uint64_t)(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |                   \
		    UFFD_FEATURE_EVENT_UNMAP))
#define WISHED_FEATURES ((uint64_t)UFFD_FEATURE_THREAD_ID)

/* The last page that a process can have (4-level page tables); the kernel does not map anything there. */
#define LAST_PAGE UINT64_C(0x7fffffffe000)

static void cleanup_batch(struct tracee_batch **batch)
{
	tracee_batch_free(*batch);
}

int lazy_userfault_features(uint64_t *ret, struct error *error)
{
	_cleanup_fd_ int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API };

	if (fd < 0)
		return error_set_errno(error, -errno, "userfaultfd, which post-copy needs");
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return error_set_errno(error, -errno, "UFFDIO_API");
	if ((api.features & NEEDED_FEATURES) != NEEDED_FEATURES)
		return error_set(error, -EOPNOTSUPP,
				 "userfaultfd of this kernel does not report fork and mremap: "
				 "no post-copy");
	*ret = api.features & (NEEDED_FEATURES | WISHED_FEATURES);
	return 0;
}

int lazy_userfault_take(struct tracee_process *process, uint64_t features, int64_t deadline, int *ret_fd,
			struct error *error)
{
	_cleanup_(cleanup_batch) struct tracee_batch *batch = tracee_batch_new();
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	_cleanup_fd_ int fd = -1;
	struct tracee_thread *thread;
	int64_t closed = 0;
	int r, inside, code;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	if (process->threads.count == 0)
		return error_set(error, -EINVAL, "PID %d: no thread is stopped", process->pid);
	thread = process->threads.items[0];
	tracee_batch_call(batch, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	tracee_batch_undo(batch, SYS_close, TRACEE_RESULT(0));
	r = tracee_batch_run(thread, batch, deadline, error);
	if (r < 0)
		return error_wrap(error, r, "cannot wait for missing pages");
	inside = (int)tracee_batch_result(batch, 0);
	fd = (int)syscall(SYS_pidfd_getfd, process->pidfd, inside, 0);
	code = errno;
	r = tracee_thread_call(thread, deadline, &closed, error, SYS_close, (uint64_t)inside, 0, 0, 0, 0, 0);
	if (fd < 0)
		return error_set_errno(error, -code, "PID %d: pidfd_getfd of its userfaultfd", process->pid);
	if (r < 0)
		return r;
	if (closed < 0)
		return error_set_errno(error, (int)closed, "PID %d: close of its userfaultfd", process->pid);
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return error_set_errno(error, -errno, "PID %d: UFFDIO_API", process->pid);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int lazy_userfault_register(int fd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

/* `done` is what the kernel wrote back: bytes or a negative errno. */
static int64_t put_result(int r, int code, int64_t done)
{
	if (r == 0 || done > 0)
		return (r == 0 && done <= 0) ? -EIO : done / (int64_t)LAZY_PAGE;
	if (code == ENOSPC) /* the exit of the process is under way */
		return -ESRCH;
	return -code;
}

int64_t lazy_userfault_put(int fd, uint64_t target, const void *data, uint64_t pages)
{
	struct uffdio_zeropage zero = { .range = { .start = target, .len = pages * LAZY_PAGE } };
	struct uffdio_copy copy = { .dst = target, .src = (uintptr_t)data, .len = pages * LAZY_PAGE };
	int r;

	if (data) {
		r = ioctl(fd, UFFDIO_COPY, &copy);
		return put_result(r, errno, copy.copy);
	}
	r = ioctl(fd, UFFDIO_ZEROPAGE, &zero);
	return put_result(r, errno, zero.zeropage);
}

int64_t lazy_userfault_poison(int fd, uint64_t target, uint64_t pages)
{
	struct uffdio_poison poison = { .range = { .start = target, .len = pages * LAZY_PAGE } };
	int r = ioctl(fd, UFFDIO_POISON, &poison);

	return put_result(r, errno, poison.updated);
}

void lazy_userfault_wake(int fd, uint64_t start, uint64_t size)
{
	struct uffdio_range range = { .start = start, .len = size };

	/* Fails only for what is no range: then nobody waits there. */
	ioctl(fd, UFFDIO_WAKE, &range);
}

bool lazy_userfault_alive(int fd)
{
	int64_t r = lazy_userfault_put(fd, LAST_PAGE, NULL, 1);

	return r != -ESRCH;
}

/* Refused before anything else is looked at. */
bool lazy_userfault_changing(int fd)
{
	return lazy_userfault_put(fd, LAST_PAGE, NULL, 1) == -EAGAIN;
}
