/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that the process has given up by MADV_GUARD_INSTALL (6.13) while they were missing. No event tells of it, and
 * UFFDIO_COPY would put a page over the guard. So whoever is about to put pages looks first: where the page table has
 * something, there is nothing to be put any more, and when the guard is taken away the page is zero, as it should be.
 *
 * A guard, and a page in swap, are SWAPPED and not PRESENT (GUARD itself is told since 6.16 only). Zero pages need no
 * look: UFFDIO_ZEROPAGE lets a guard be.
 *
 * Which process a fork's child is shows at its first fault, or seems so: the thread may be that of a debugger, or of a
 * ps, that reads its memory. A page map is only believed when a page that was put into the space has turned up there.
 *
 * Left open, as nothing holds the process between the look and the copy: a guard installed in that very microsecond; one
 * that was installed and removed with no look in between (the page has its old content, not zeros); guards in a fork's
 * child that has not faulted yet.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "private.h"

#define PAGE_IS_SWAPPED_ABI (UINT64_C(1) << 4)

struct region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

/* struct pm_scan_arg of linux/fs.h, Linux 6.7. */
struct scan {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t regions; /* address */
	uint64_t region_count;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan)

int lazy_guards_watch(struct lazy_space *space, pid_t pid, bool known)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (space->pagemap_fd >= 0)
		close(space->pagemap_fd);
	space->pagemap_fd = fd;
	atomic_store(&space->pagemap_proven, known);
	return 0;
}

uint64_t lazy_guards_look(const struct lazy_space *space, uint64_t target, uint64_t pages, uint64_t *ret_guarded)
{
	struct region region = { 0 };
	struct scan scan = {
		.size = sizeof(scan),
		.start = target,
		.end = target + pages * LAZY_PAGE,
		.regions = (uintptr_t)&region,
		.region_count = 1,
		.category_mask = PAGE_IS_SWAPPED_ABI,
		.return_mask = PAGE_IS_SWAPPED_ABI,
	};

	/* Fails before 6.7, where there are no guards, and when the memory is gone, which the copy will tell. */
	if (!atomic_load(&space->pagemap_proven) || ioctl(space->pagemap_fd, SCAN_IOCTL, &scan) <= 0)
		return pages;
	*ret_guarded = (region.end - region.start) / LAZY_PAGE;
	return (region.start - target) / LAZY_PAGE;
}

static bool is_present(const struct lazy_space *space, uint64_t target)
{
	uint64_t entry = 0;

	return pread(space->pagemap_fd, &entry, sizeof(entry), (off_t)(target / LAZY_PAGE * sizeof(entry))) ==
		       (ssize_t)sizeof(entry) &&
	       entry >> 63;
}

int64_t lazy_guards_put(struct lazy_space *space, uint64_t target, const void *data, uint64_t pages)
{
	bool seems = space->pagemap_fd >= 0 && !atomic_load(&space->pagemap_proven);
	bool before = seems && is_present(space, target);
	int64_t r = lazy_userfault_put(space->uffd, target, data, pages);

	if (seems && !before && r > 0 && is_present(space, target))
		atomic_store(&space->pagemap_proven, true);
	return r;
}
