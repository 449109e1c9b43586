/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that have to be there before a thread runs, when others may come later: those that it needs at once (around the stack
 * pointer, the instruction pointer), those that the kernel writes when the thread is set up (struct rseq), and those that
 * the kernel looks at when the thread ends: userfaultfd does not serve a thread that is ending, so the clearing of its TID and
 * its robust futexes would be lost without a word (fs/userfaultfd.c, handle_userfault(), PF_EXITING).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core.pb-c.h"
#include "mm.pb-c.h"
#include "util/pageset.h"

/*
 * Whether pages of the mapping may come later at all. Not with MADV_WIPEONFORK: what a fork's child misses there is zero, of
 * which no event tells. To lock memory takes all of its pages.
 */
bool image_mapping_may_be_late(const Mapping *mapping);

/* Reads the memory that the thread has; 0 or a negative errno. */
typedef int image_memory_read(void *context, uint64_t address, void *data, size_t size);

/* Adds them. What cannot be read is left out. 0 or -ENOMEM. */
int image_thread_pages(const Core *core, image_memory_read *read, void *context, struct pageset *pages);
