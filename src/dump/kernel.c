/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's own memory, read by a BPF program.
 *
 * Model. The program copies memory of the kernel to an array that we have mapped, or puts there where the calling thread's
 * description is. It is attached to nothing, but run as a test of it is (BPF_PROG_TEST_RUN): with our arguments, on our thread,
 * about a microsecond a call. The kernel's copy does not fail on an address where nothing is, but says so.
 *
 * Failure modes: -EPERM, or whatever else keeps the program from being loaded.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/kernel.h"

struct dump_kernel {
	int map;     /* owned */
	int program; /* owned */
	uint8_t *area; /* what the program writes to; owned */
};

/* What the program is called with, as the arguments of a tracepoint. */
struct call {
	uint64_t address; /* 0: the calling thread's description */
	uint64_t size;
};

#define CODE(operation, to, from, distance, value) \
	((struct bpf_insn){ .code = (operation), .dst_reg = (to), .src_reg = (from), .off = (distance), .imm = (value) })

static int load(int map)
{
	const struct bpf_insn code[] = {
		/* R6 = size, R7 = address, R8 = the area */
		CODE(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_6, BPF_REG_1, offsetof(struct call, size), 0),
		CODE(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_7, BPF_REG_1, offsetof(struct call, address), 0),
		CODE(BPF_LD | BPF_IMM | BPF_DW, BPF_REG_8, BPF_PSEUDO_MAP_VALUE, 0, map),
		CODE(0, 0, 0, 0, 0),
		CODE(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_7, 0, 4, 0),
		CODE(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_task),
		CODE(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_8, BPF_REG_0, 0, 0),
		CODE(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
		CODE(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
		CODE(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, -E2BIG),
		CODE(BPF_JMP | BPF_JGT | BPF_K, BPF_REG_6, 0, 4, DUMP_KERNEL_READ_MAX),
		CODE(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_8, 0, 0),
		CODE(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_2, BPF_REG_6, 0, 0),
		CODE(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_7, 0, 0),
		CODE(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel),
		CODE(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT,
		.insn_cnt = sizeof(code) / sizeof(code[0]),
		.insns = (uintptr_t)code,
		.license = (uintptr_t)"GPL", /* which the LGPL allows to choose, and the kernel wants for reading its memory */
	};

	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
}

void dump_kernel_free(struct dump_kernel *kernel)
{
	if (!kernel)
		return;
	if (kernel->area != MAP_FAILED)
		munmap(kernel->area, DUMP_KERNEL_READ_MAX);
	if (kernel->program >= 0)
		close(kernel->program);
	if (kernel->map >= 0)
		close(kernel->map);
	free(kernel);
}

int dump_kernel_open(struct dump_kernel **ret, struct error *error)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = sizeof(uint32_t),
		.value_size = DUMP_KERNEL_READ_MAX,
		.max_entries = 1,
		.map_flags = BPF_F_MMAPABLE,
	};
	struct dump_kernel *kernel = malloc(sizeof(*kernel));
	int r;

	if (!kernel)
		return error_set(error, -ENOMEM, "no memory for a program of the kernel's");
	*kernel = (struct dump_kernel){ .program = -1, .area = MAP_FAILED };
	kernel->map = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
	if (kernel->map >= 0)
		kernel->area = mmap(NULL, DUMP_KERNEL_READ_MAX, PROT_READ, MAP_SHARED, kernel->map, 0);
	if (kernel->area != MAP_FAILED)
		kernel->program = load(kernel->map);
	if (kernel->program < 0) {
		r = -errno;
		dump_kernel_free(kernel);
		return error_set_errno(error, r, "a program that reads the kernel's memory (bpf)");
	}
	*ret = kernel;
	return 0;
}

static int run(const struct dump_kernel *kernel, const struct call *call)
{
	union bpf_attr attr = { 0 };

	attr.test.prog_fd = (uint32_t)kernel->program;
	attr.test.ctx_in = (uintptr_t)call;
	attr.test.ctx_size_in = sizeof(*call);
	if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)) < 0)
		return -errno;
	return (int32_t)attr.test.retval;
}

int dump_kernel_read(const struct dump_kernel *kernel, uint64_t address, void *to, size_t size)
{
	struct call call = { .address = address, .size = size };
	int r;

	if (address == 0 || size > DUMP_KERNEL_READ_MAX)
		return -EFAULT;
	r = run(kernel, &call);
	if (r == 0)
		memcpy(to, kernel->area, size);
	return r;
}

int dump_kernel_task(const struct dump_kernel *kernel, uint64_t *ret)
{
	struct call call = { 0 };
	int r = run(kernel, &call);

	if (r == 0)
		memcpy(ret, kernel->area, sizeof(*ret));
	return r;
}
