/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guard pages are page table entries, not mappings: PAGEMAP_SCAN (6.7) finds them by a category of their own (6.16). One
 * walk over the whole address space; page tables that are not there cost nothing. On a kernel that lacks the category
 * (EINVAL) there is no way to see them, and a guard page of such a source becomes an ordinary page of zeros.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "parts.h"
#include "util/cleanup.h"

#define GUARDS_REGIONS     256
#define GUARDS_PAGE_GUARD  (UINT64_C(1) << 8)
#define GUARDS_ADDRESS_END UINT64_C(0x7ffffffff000)

/* Documentation/admin-guide/mm/pagemap.rst, "struct pm_scan_arg" and "struct page_region". */
struct guards_scan {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end; /* where it stopped */
	uint64_t vector;
	uint64_t vector_length;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

struct guards_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

#define GUARDS_SCAN_IOCTL _IOWR('f', 16, struct guards_scan)

struct guards_list {
	ARRAY(struct guards_region) regions;
};

static int guards_collect(int pagemap_fd, struct guards_list *list)
{
	struct guards_region regions[GUARDS_REGIONS];
	struct guards_scan scan = {
		.size = sizeof(scan),
		.end = GUARDS_ADDRESS_END,
		.vector = (uintptr_t)regions,
		.vector_length = GUARDS_REGIONS,
		.category_mask = GUARDS_PAGE_GUARD,
		.return_mask = GUARDS_PAGE_GUARD,
	};

	while (scan.start < scan.end) {
		int found = ioctl(pagemap_fd, GUARDS_SCAN_IOCTL, &scan);

		if (found < 0 && errno == EINTR)
			continue;
		if (found < 0)
			return errno == EINVAL || errno == ENOTTY ? 0 : -errno;
		for (int i = 0; i < found; i++) {
			struct guards_region *last =
				list->regions.count ? &list->regions.items[list->regions.count - 1] : NULL;

			if (last && last->end == regions[i].start)
				last->end = regions[i].end;
			else if (array_append(&list->regions, regions[i]) < 0)
				return -ENOMEM;
		}
		if (scan.walk_end <= scan.start)
			return 0;
		scan.start = scan.walk_end;
	}
	return 0;
}

static int guards_message(const struct guards_list *list, struct dump_arena *arena, MmExtra *extra)
{
	AddressRange *entries = dump_arena_take(arena, list->regions.count * sizeof(*entries));
	AddressRange **pointers = dump_arena_take(arena, list->regions.count * sizeof(*pointers));

	if (!entries || !pointers)
		return -ENOMEM;
	for (size_t i = 0; i < list->regions.count; i++) {
		entries[i] = (AddressRange)ADDRESS_RANGE__INIT;
		entries[i].start = list->regions.items[i].start;
		entries[i].size = list->regions.items[i].end - list->regions.items[i].start;
		pointers[i] = &entries[i];
	}
	extra->guards = pointers;
	extra->n_guards = list->regions.count;
	return 0;
}

int dump_guards(const struct dump_process *process, struct dump_arena *arena, MmExtra *extra, struct error *error)
{
	struct guards_list list = { 0 };
	_cleanup_fd_ int fd = openat(process->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : guards_collect(fd, &list);

	if (r == 0)
		r = guards_message(&list, arena, extra);
	array_deinit(&list.regions);
	if (r < 0)
		return error_set_errno(error, r, "cannot scan the guard pages of PID %d", process->pid);
	return 0;
}
