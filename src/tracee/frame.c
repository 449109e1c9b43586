/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signal frames: what the kernel puts on the stack before it calls a handler, and what rt_sigreturn
 * takes back from there (sigreturn(2); arch/x86/kernel/signal_64.c, fpu/signal.c). A frame of ours
 * sends a thread back to the state it was found in, by itself: registers, mask and vector registers
 * in one call.
 *
 * What a frame cannot carry: the kernel's memory of an interrupted call. So the call is executed
 * again from its instruction. And the alternate stack, which is in the frame but not known from
 * outside: an invalid one is ignored.
 */
#include "internal.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

/* What rt_sigreturn reads; struct rt_sigframe of the kernel without the siginfo at its end. */
struct signal_frame {
	uint64_t restorer; /* where a return instruction at the start of the frame goes */
	uint64_t flags;	   /* FRAME_FLAGS */
	uint64_t link;
	uint64_t stack_start; /* alternate stack: stack_t */
	uint32_t stack_flags;
	uint32_t stack_pad;
	uint64_t stack_size;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2;
	uint64_t xstate; /* address, 64-byte aligned; 0: initial state */
	uint64_t reserved[8];
	uint64_t mask;
};

#define FRAME_FLAGS	7   /* xsave area present, ss is valid, restore ss strictly */
#define STACK_FLAGS_BAD 0x7 /* no mode that sigaltstack(2) knows: rt_sigreturn ignores it */

#define XSTATE_SOFTWARE	   464 /* bytes of the xsave area left to software */
#define XSTATE_BV	   512 /* which components are not in their initial state */
#define XSTATE_LEGACY_SIZE 576 /* x87, SSE, header */
#define XSTATE_PKRU	   9   /* a component whose initial state is not the kernel's default */
#define XSTATE_MAGIC1	   0x46505853U
#define XSTATE_MAGIC2	   0x46505845U

/* The software bytes as rt_sigreturn reads them. */
struct xstate_software {
	uint32_t magic1;
	uint32_t extended_size; /* with magic2 behind the area */
	uint64_t features;
	uint32_t size;
	uint32_t pad[7];
};

/* Bytes up to the end of the highest of these components. Asking the processor is slow in virtual
 * machines. */
static uint32_t xstate_end(struct tracee_private_process *own, uint64_t features)
{
	uint32_t end = XSTATE_LEGACY_SIZE;

	for (unsigned i = 2; i < XSTATE_COMPONENTS; i++) {
		unsigned size, offset, ecx, edx;

		if (!(features >> i & 1))
			continue;
		if (!own->xstate_ends[i]) {
			__cpuid_count(0xd, i, size, offset, ecx, edx);
			own->xstate_ends[i] = offset + size;
		}
		if (own->xstate_ends[i] > end)
			end = own->xstate_ends[i];
	}
	return end;
}

/* Writes the components in use to `data` as a signal frame has them; returns the bytes. */
static size_t write_xstate(const struct tracee_thread *thread, uint8_t *data)
{
	const struct tracee_private_thread *own = thread->own;
	struct xstate_software software = { .magic1 = XSTATE_MAGIC1 };
	uint32_t magic2 = XSTATE_MAGIC2;
	uint64_t supported, used;

	memcpy(&supported, own->xstate + XSTATE_SOFTWARE, sizeof(supported));
	memcpy(&used, own->xstate + XSTATE_BV, sizeof(used));
	software.features = (used | UINT64_C(3) | (supported & UINT64_C(1) << XSTATE_PKRU));
	software.size = xstate_end(thread->process->own, software.features);
	if (software.size > own->xstate_size)
		software.size = (uint32_t)own->xstate_size;
	software.extended_size = software.size + (uint32_t)sizeof(magic2);
	memcpy(data, own->xstate, software.size);
	memcpy(data + XSTATE_SOFTWARE, &software, sizeof(software));
	memcpy(data + software.size, &magic2, sizeof(magic2));
	return software.extended_size;
}

int frame_build(struct tracee_thread *thread, uint64_t address, uint64_t restorer, uint8_t *data,
		size_t *ret_size, struct error *error)
{
	const size_t xstate_at = (sizeof(struct signal_frame) + 63) & ~(size_t)63;
	struct user_regs_struct regs = thread->regs;
	struct signal_frame *frame = (struct signal_frame *)data;
	int r;

	r = thread_load_xstate(thread, error);
	if (r < 0)
		return r;
	if (tracee_regs_prepare_restart(&regs) >= 0) {
		regs.rax = regs.orig_rax;
		regs.rip -= 2;
	}
	memset(data, 0, xstate_at);
	*frame = (struct signal_frame){
		.restorer = restorer, .flags = FRAME_FLAGS, .stack_flags = STACK_FLAGS_BAD,
		.r8 = regs.r8, .r9 = regs.r9, .r10 = regs.r10, .r11 = regs.r11, .r12 = regs.r12,
		.r13 = regs.r13, .r14 = regs.r14, .r15 = regs.r15, .rdi = regs.rdi, .rsi = regs.rsi,
		.rbp = regs.rbp, .rbx = regs.rbx, .rdx = regs.rdx, .rax = regs.rax, .rcx = regs.rcx,
		.rsp = regs.rsp, .rip = regs.rip, .rflags = regs.eflags,
		.cs = (uint16_t)regs.cs, .ss = (uint16_t)regs.ss,
		.xstate = address + xstate_at, .mask = thread->sigmask,
	};
	*ret_size = xstate_at + write_xstate(thread, data + xstate_at);
	return 0;
}
