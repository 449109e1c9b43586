/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kernel interfaces that are newer than the headers of the oldest system this is built on (Linux 6.1): numbers of the
 * kernel's ABI, under names of our own. See Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst.
 */
#pragma once

#include <linux/ioctl.h>
#include <stdint.h>

/* userfaultfd features: 6.4, 6.7. */
#define ABI_UFFD_WP_UNPOPULATED (UINT64_C(1) << 13)
#define ABI_UFFD_WP_ASYNC       (UINT64_C(1) << 15)

/* Categories of pages: 6.7; guards 6.16. */
#define ABI_PAGE_WPALLOWED (UINT64_C(1) << 0) /* of the mapping: registered for asynchronous write protection */
#define ABI_PAGE_WRITTEN (UINT64_C(1) << 1)
#define ABI_PAGE_FILE    (UINT64_C(1) << 2)
#define ABI_PAGE_PRESENT (UINT64_C(1) << 3)
#define ABI_PAGE_SWAPPED (UINT64_C(1) << 4)
#define ABI_PAGE_ZERO    (UINT64_C(1) << 5)
#define ABI_PAGE_HUGE    (UINT64_C(1) << 6)
#define ABI_PAGE_GUARD   (UINT64_C(1) << 8)

/* Write-protect what matches and is in a mapping that takes it. */
#define ABI_SCAN_PROTECT UINT64_C(1)

/* What the kernel writes per run of equal pages. */
struct abi_page_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

/* In and out. */
struct abi_pagemap_scan {
	uint64_t size;                /* of this struct */
	uint64_t flags;               /* ABI_SCAN_* */
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;            /* out: where it stopped */
	uint64_t vec;                 /* address of the array of regions */
	uint64_t vec_len;             /* its length */
	uint64_t max_pages;           /* 0: no limit */
	uint64_t category_inverted;
	uint64_t category_mask;       /* all of these */
	uint64_t category_anyof_mask; /* and, unless 0, one of these */
	uint64_t return_mask;         /* which of them to tell */
};

#define ABI_PAGEMAP_SCAN _IOWR('f', 16, struct abi_pagemap_scan)
