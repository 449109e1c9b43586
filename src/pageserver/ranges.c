/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ranges of pages as the source names them: checked once, here, then in the order in which they are used. */
#include <errno.h>
#include <stdlib.h>

#include "session.h"

#define USER_SPACE_END (UINT64_C(1) << 56) /* with five-level page tables; the kernel refuses the rest itself */

static int by_place(const void *a, const void *b)
{
	const struct session_range *left = a, *right = b;

	if (left->pid != right->pid)
		return left->pid < right->pid ? -1 : 1;
	return (left->address > right->address) - (left->address < right->address);
}

static bool range_ok(const WireRange *range)
{
	return range->pid > 0 && range->address % WIRE_PAGE == 0 && range->pages > 0 && range->address < USER_SPACE_END &&
	       range->pages <= (USER_SPACE_END - range->address) / WIRE_PAGE;
}

int session_ranges_check(WireRange *const *ranges, size_t count, session_ranges *ret, struct error *error)
{
	session_ranges list = { 0 };
	bool sorted = true;

	if (array_reserve(&list, count) < 0)
		return error_set_errno(error, -ENOMEM, "cannot take %zu ranges of pages", count);
	for (size_t i = 0; i < count; i++) {
		const WireRange *range = ranges[i];
		struct session_range item = { .pid = range->pid, .address = range->address, .pages = range->pages };

		if (!range_ok(range)) {
			array_deinit(&list);
			return error_set(error, -EPROTO, "%llu pages at 0x%llx of PID %d are no range of pages",
					 (unsigned long long)range->pages, (unsigned long long)range->address,
					 range->pid);
		}
		if (list.count && by_place(&list.items[list.count - 1], &item) > 0)
			sorted = false;
		list.items[list.count++] = item;
	}
	if (!sorted)
		qsort(list.items, list.count, sizeof(list.items[0]), by_place);
	for (size_t i = 1; i < list.count; i++) {
		const struct session_range *before = &list.items[i - 1], *range = &list.items[i];

		if (before->pid == range->pid && before->address + before->pages * WIRE_PAGE > range->address) {
			error_set(error, -EPROTO, "the ranges of PID %d overlap at 0x%llx", range->pid,
				  (unsigned long long)range->address);
			array_deinit(&list);
			return -EPROTO;
		}
	}
	ret->items = list.items;
	ret->count = list.count;
	ret->capacity = list.capacity;
	return 0;
}

static int drop_process(struct session *session, const struct session_range *ranges, size_t count, struct error *error)
{
	struct restore_process *process = restore_tree_find(session->tree, ranges[0].pid);
	ARRAY(struct restore_range) drops = { 0 };
	int r;

	if (!process)
		return error_set(error, -EPROTO, "PID %d, whose pages are to be dropped, is not in the tree", ranges[0].pid);
	if (array_reserve(&drops, count) < 0)
		return error_set_errno(error, -ENOMEM, "cannot drop pages of PID %d", process->pid);
	for (size_t i = 0; i < count; i++) {
		struct restore_range drop = { .start = ranges[i].address, .size = ranges[i].pages * WIRE_PAGE };
		struct restore_range *last = drops.count ? &drops.items[drops.count - 1] : NULL;

		if (last && last->start + last->size == drop.start)
			last->size += drop.size;
		else
			drops.items[drops.count++] = drop;
	}
	r = restore_pages_drop(session->tree, process, drops.items, drops.count, error);
	array_deinit(&drops);
	return r;
}

int session_ranges_drop(struct session *session, const session_ranges *ranges, struct error *error)
{
	int r = 0;

	for (size_t i = 0, end; r == 0 && i < ranges->count; i = end) {
		for (end = i; end < ranges->count && ranges->items[end].pid == ranges->items[i].pid; end++)
			;
		r = drop_process(session, ranges->items + i, end - i, error);
	}
	return r;
}
