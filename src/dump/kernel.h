/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's own memory, for what it tells nowhere else: which open files a program has registered with an io_uring. It is
 * only read: nothing of what is looked at is changed by it.
 *
 * Needs CAP_BPF and CAP_PERFMON, and a kernel that describes its types (CONFIG_DEBUG_INFO_BTF, /sys/kernel/btf/vmlinux) and is
 * not locked down to confidentiality. Linux 5.10. Nothing blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* kernel-types.c: where a member of a structure is. */
struct dump_kernel_member {
	uint32_t offset; /* in bytes, from the start of the structure */
	uint32_t size;	 /* in bytes; 0: not known, as for a structure */
	uint32_t shift;	 /* of a bit field: how far it is from the lowest bit of the byte at `offset` */
	uint32_t bits;	 /* of a bit field: its width; 0: it is none */
};

struct dump_kernel_types;

/* -EOPNOTSUPP when the kernel does not describe its types. Reads some megabytes. */
int dump_kernel_types_read(struct dump_kernel_types **ret, struct error *error);
/* `path`: a member, and members of it: "file_table.data.nr". False when this kernel has none of that name. */
bool dump_kernel_types_find(const struct dump_kernel_types *types, const char *structure, const char *path,
			    struct dump_kernel_member *ret);
/* The size of a structure; 0: this kernel has none of that name. */
uint32_t dump_kernel_types_size(const struct dump_kernel_types *types, const char *structure);
void dump_kernel_types_free(struct dump_kernel_types *types);

/* kernel.c */
#define DUMP_KERNEL_READ_MAX 32768 /* bytes of one call */

struct dump_kernel;

int dump_kernel_open(struct dump_kernel **ret, struct error *error);
void dump_kernel_free(struct dump_kernel *kernel);
/* -EFAULT when nothing is there. */
int dump_kernel_read(const struct dump_kernel *kernel, uint64_t address, void *to, size_t size);
/* The address of the calling thread's struct task_struct. */
int dump_kernel_task(const struct dump_kernel *kernel, uint64_t *ret);
