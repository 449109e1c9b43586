/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "thread-pages.h"

#include <errno.h>
#include <sys/mman.h>

#include "mapping.h"

#define PAGE UINT64_C(4096)
#define STACK_PAGES 4    /* around the stack pointer */
#define LIST_MAX 2048    /* as many robust futexes as the kernel follows (ROBUST_LIST_LIMIT) */
#define LIST_FLAG 1u     /* of a pointer in the list: a futex with priority inheritance */

/* struct robust_list_head of linux/futex.h. */
struct list_head {
	uint64_t next;
	int64_t offset; /* from an entry to its futex */
	uint64_t pending;
};

bool image_mapping_may_be_late(const Mapping *mapping)
{
	return mapping->status & MAPPING_ANON_PRIVATE && !(mapping->flags & MAP_LOCKED) &&
	       !(mapping->madv >> MADV_WIPEONFORK & 1);
}

static int add(struct pageset *pages, uint64_t address, uint64_t size)
{
	return pageset_add(pages, address / PAGE, (address + size - 1) / PAGE - address / PAGE + 1);
}

static int add_entry(struct pageset *pages, const struct list_head *head, uint64_t entry)
{
	int r = add(pages, entry, sizeof(uint64_t));

	return r < 0 ? r : add(pages, entry + (uint64_t)head->offset, sizeof(uint32_t));
}

static int add_robust_list(uint64_t address, image_memory_read *read, void *context, struct pageset *pages)
{
	struct list_head head;
	uint64_t entry;
	int r = add(pages, address, sizeof(head));

	if (r < 0 || read(context, address, &head, sizeof(head)) < 0)
		return r;
	if (head.pending)
		r = add_entry(pages, &head, head.pending & ~(uint64_t)LIST_FLAG);
	entry = head.next & ~(uint64_t)LIST_FLAG;
	for (unsigned i = 0; r == 0 && entry && entry != address && i < LIST_MAX; i++) {
		r = add_entry(pages, &head, entry);
		if (read(context, entry, &entry, sizeof(entry)) < 0)
			break;
		entry &= ~(uint64_t)LIST_FLAG;
	}
	return r;
}

int image_thread_pages(const Core *core, image_memory_read *read, void *context, struct pageset *pages)
{
	const X86Thread *machine = core->thread_info;
	const CoreThread *thread = core->thread_core;
	uint64_t stack;
	int r;

	if (!machine || !thread)
		return 0;
	stack = machine->gpregs->sp / PAGE;
	r = pageset_add(pages, stack ? stack - 1 : 0, STACK_PAGES);
	if (r == 0)
		r = add(pages, machine->gpregs->ip, 1);
	if (r == 0 && machine->clear_tid_addr)
		r = add(pages, machine->clear_tid_addr, sizeof(uint32_t));
	if (r == 0 && thread->rseq_entry && thread->rseq_entry->rseq_abi_pointer)
		r = add(pages, thread->rseq_entry->rseq_abi_pointer, thread->rseq_entry->rseq_abi_size);
	if (r == 0 && thread->futex_rla)
		r = add_robust_list(thread->futex_rla, read, context, pages);
	return r;
}
