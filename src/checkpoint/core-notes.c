/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The notes of a core, in the order in which the kernel writes them: NT_PRSTATUS of the leader, what belongs to the process,
 * the other registers of the leader, then the other threads. A debugger takes what follows an NT_PRSTATUS as its thread's.
 */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include "core-private.h"

#define FXSAVE_SIZE   512
#define FXSAVE_XCR0   464 /* where the kernel and debuggers keep it, in bytes that are free for software */
#define XSAVE_HEADER  512
#define XSAVE_END     576 /* of the header */
#define XSAVE_LEGACY  UINT64_C(3) /* x87 and SSE */
#define TASK_STOPPED  3   /* CoreProcess.task_state */
#define ARGUMENTS_MAX sizeof(((prpsinfo_t *)NULL)->pr_psargs)

/* The place of a component in the xsave area of Intel's processors, which every debugger knows. */
static const struct {
	uint32_t number, offset, size;
} xsave_places[] = {
	{ 2, 576, 256 },  /* AVX */
	{ 3, 960, 64 },   /* MPX */
	{ 4, 1024, 64 },
	{ 5, 1088, 64 },  /* AVX-512 */
	{ 6, 1152, 512 },
	{ 7, 1664, 1024 },
	{ 9, 2688, 8 },   /* protection keys */
};
#define XSAVE_PLACES (sizeof(xsave_places) / sizeof(xsave_places[0]))
#define XSAVE_SIZE   2696

static int note_add(struct buffer *notes, const char *name, uint32_t type, const void *data, size_t size)
{
	static const uint8_t padding[4] = { 0 };
	Elf64_Nhdr head = { .n_namesz = (uint32_t)strlen(name) + 1, .n_descsz = (uint32_t)size, .n_type = type };
	int r = buffer_append(notes, &head, sizeof(head));

	if (r == 0)
		r = buffer_append(notes, name, head.n_namesz);
	if (r == 0)
		r = buffer_append(notes, padding, -head.n_namesz & 3);
	if (r == 0)
		r = buffer_append(notes, data, size);
	return r < 0 ? r : buffer_append(notes, padding, -size & 3);
}

/* ---- threads */

static void fill_registers(const X86Registers *from, struct user_regs_struct *ret)
{
	*ret = (struct user_regs_struct){
		.r15 = from->r15, .r14 = from->r14, .r13 = from->r13, .r12 = from->r12, .rbp = from->bp, .rbx = from->bx,
		.r11 = from->r11, .r10 = from->r10, .r9 = from->r9, .r8 = from->r8, .rax = from->ax, .rcx = from->cx,
		.rdx = from->dx, .rsi = from->si, .rdi = from->di, .orig_rax = from->orig_ax, .rip = from->ip,
		.cs = from->cs, .eflags = from->flags, .rsp = from->sp, .ss = from->ss, .fs_base = from->fs_base,
		.gs_base = from->gs_base, .ds = from->ds, .es = from->es, .fs = from->fs, .gs = from->gs,
	};
}

static uint64_t pending_mask(const PendingSignals *signals)
{
	uint64_t mask = 0;
	int32_t number;

	for (size_t i = 0; signals && i < signals->n_signals; i++) {
		if (signals->signals[i]->siginfo.len < sizeof(number))
			continue;
		memcpy(&number, signals->signals[i]->siginfo.data, sizeof(number));
		if (number >= 1 && number <= 64)
			mask |= UINT64_C(1) << (number - 1);
	}
	return mask;
}

static uint32_t stop_signal(const struct core_process *process)
{
	return process->extra ? process->extra->stop_signal : 0;
}

static int add_status(const struct core_process *process, const struct core_thread *thread, struct buffer *notes)
{
	const CoreThread *core = thread->core->thread_core;
	struct user_regs_struct registers;
	prstatus_t status = {
		.pr_cursig = (short)stop_signal(process),
		.pr_pid = (pid_t)thread->tid,
		.pr_ppid = (pid_t)process->tree->ppid,
		.pr_pgrp = (pid_t)process->tree->pgid,
		.pr_sid = (pid_t)process->tree->sid,
		.pr_fpvalid = 1,
	};

	status.pr_info.si_signo = status.pr_cursig;
	if (core) {
		status.pr_sighold = core->blk_sigset;
		status.pr_sigpend = pending_mask(core->signals_p);
	}
	fill_registers(thread->core->thread_info->gpregs, &registers);
	_Static_assert(sizeof(registers) == sizeof(status.pr_reg), "the same registers");
	memcpy(&status.pr_reg, &registers, sizeof(registers));
	return note_add(notes, "CORE", NT_PRSTATUS, &status, sizeof(status));
}

/* What this format has a place for, of what the source had or the thread uses. */
static uint64_t xsave_features(const struct core_process *process, const ThreadExtra *extra)
{
	uint64_t known = XSAVE_LEGACY, had = process->xcr0 ? process->xcr0 : extra->xstate_bv;

	for (size_t i = 0; i < XSAVE_PLACES; i++)
		known |= UINT64_C(1) << xsave_places[i].number;
	return (had | XSAVE_LEGACY) & known;
}

static int add_vectors(const struct core_process *process, const struct core_thread *thread, struct buffer *notes)
{
	const ThreadExtra *extra = thread->extra;
	uint8_t area[XSAVE_SIZE] = { 0 };
	uint64_t features = xsave_features(process, extra), used = extra->xstate_bv & XSAVE_LEGACY;
	size_t size = XSAVE_END;
	int r;

	memcpy(area, extra->fxsave.data, FXSAVE_SIZE);
	memcpy(area + FXSAVE_XCR0, &features, sizeof(features));
	for (size_t i = 0; i < XSAVE_PLACES; i++) {
		if (!(features >> xsave_places[i].number & 1))
			continue;
		size = xsave_places[i].offset + xsave_places[i].size;
		for (size_t k = 0; k < extra->n_components; k++) {
			const XsaveComponent *component = extra->components[k];

			if (component->number != xsave_places[i].number || component->state.len != xsave_places[i].size)
				continue;
			memcpy(area + xsave_places[i].offset, component->state.data, component->state.len);
			used |= UINT64_C(1) << component->number;
		}
	}
	memcpy(area + XSAVE_HEADER, &used, sizeof(used));
	r = note_add(notes, "CORE", NT_FPREGSET, area, FXSAVE_SIZE);
	return r < 0 || features == XSAVE_LEGACY ? r : note_add(notes, "LINUX", NT_X86_XSTATE, area, size);
}

/* ---- the process */

/* The command line, as far as it fits: from where the process has it. */
static int read_arguments(struct core_process *process, char ret[ARGUMENTS_MAX], struct error *error)
{
	uint64_t at = process->mm->mm_arg_start, end = process->mm->mm_arg_end;
	size_t length = end > at ? end - at : 0, done = 0;
	uint8_t page[IMAGE_PAGE_SIZE];

	length = length < ARGUMENTS_MAX - 1 ? length : ARGUMENTS_MAX - 1;
	while (done < length) {
		uint64_t inside = (at + done) % IMAGE_PAGE_SIZE;
		const struct core_piece *piece = core_memory_find(process, at + done);
		size_t part = length - done < IMAGE_PAGE_SIZE - inside ? length - done : IMAGE_PAGE_SIZE - inside;
		int r;

		if (!piece)
			break;
		r = core_memory_read(process, piece, (at + done - piece->address) / IMAGE_PAGE_SIZE, 1, page, error);
		if (r < 0)
			return r;
		memcpy(ret + done, page + inside, part);
		done += part;
	}
	for (size_t i = 0; i + 1 < done; i++)
		if (ret[i] == '\0')
			ret[i] = ' ';
	return 0;
}

static int add_process(struct core_process *process, struct buffer *notes, struct error *error)
{
	const Core *core = process->threads.items[0].core;
	const CoreThread *leader = core->thread_core;
	bool stopped = core->tc && core->tc->task_state == TASK_STOPPED;
	prpsinfo_t info = {
		.pr_state = (char)(stopped ? 3 : 0), /* place in "RSDTZW" */
		.pr_sname = stopped ? 'T' : 'R',
		.pr_pid = (pid_t)process->tree->pid,
		.pr_ppid = (pid_t)process->tree->ppid,
		.pr_pgrp = (pid_t)process->tree->pgid,
		.pr_sid = (pid_t)process->tree->sid,
	};
	int r = read_arguments(process, info.pr_psargs, error);

	if (r < 0)
		return r;
	if (core->tc) {
		info.pr_flag = core->tc->flags;
		memcpy(info.pr_fname, core->tc->comm, strnlen(core->tc->comm, sizeof(info.pr_fname) - 1));
	}
	if (leader)
		info.pr_nice = (char)leader->sched_nice;
	if (leader && leader->creds) {
		info.pr_uid = leader->creds->uid;
		info.pr_gid = leader->creds->gid;
	}
	return note_add(notes, "CORE", NT_PRPSINFO, &info, sizeof(info));
}

static int add_signal(const struct core_process *process, struct buffer *notes)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = (int)stop_signal(process);
	return note_add(notes, "CORE", NT_SIGINFO, &info, sizeof(info));
}

/* NT_FILE: how many, the size of a page, start, end and page offset of each, then the names. */
static int add_files(const struct core_process *process, struct buffer *notes)
{
	_cleanup_buffer_ struct buffer body = BUFFER_INIT, names = BUFFER_INIT;
	uint64_t head[2] = { 0, IMAGE_PAGE_SIZE };
	int r = buffer_append(&body, head, sizeof(head));

	for (size_t i = 0; r == 0 && i < process->mm->n_vmas; i++) {
		const Mapping *mapping = process->mm->vmas[i];
		const struct core_file *file = core_memory_file(process, mapping);
		uint64_t entry[3] = { mapping->start, mapping->end, mapping->pgoff / IMAGE_PAGE_SIZE };

		if (!file)
			continue;
		head[0]++;
		r = buffer_append(&body, entry, sizeof(entry));
		if (r == 0)
			r = buffer_append(&names, file->name, strlen(file->name) + 1);
	}
	if (r == 0)
		r = buffer_append(&body, names.data, names.size);
	if (r < 0)
		return r;
	memcpy(body.data, head, sizeof(head));
	return note_add(notes, "CORE", NT_FILE, body.data, body.size);
}

int core_notes_make(struct core_process *process, struct buffer *ret, struct error *error)
{
	const AddressSpace *mm = process->mm;
	int r = 0;

	for (size_t i = 0; r == 0 && i < process->threads.count; i++) {
		const struct core_thread *thread = &process->threads.items[i];

		r = add_status(process, thread, ret);
		if (r == 0 && i == 0) {
			r = add_process(process, ret, error);
			if (r == 0)
				r = add_signal(process, ret);
			if (r == 0)
				r = note_add(ret, "CORE", NT_AUXV, mm->mm_saved_auxv, mm->n_mm_saved_auxv * sizeof(uint64_t));
			if (r == 0)
				r = add_files(process, ret);
		}
		if (r == 0)
			r = add_vectors(process, thread, ret);
	}
	return r < 0 ? error_set_errno(error, r, "cannot write down the registers of PID %u", process->tree->pid) : 0;
}
