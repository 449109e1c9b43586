/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of this folder share. Nothing outside includes it. */
#pragma once

#include <linux/types.h>
#include <sys/ptrace.h>

#include "tracee.h"

#include "util/procfs.h"

#define PAGE_BYTES UINT64_C(4096)
#define EVENT_STOP 128 /* PTRACE_EVENT_STOP; not in every header */

/* Signals blocked while a thread runs for us; the kernel takes SIGKILL and SIGSTOP out. */
#define MASK_ALL     UINT64_MAX
#define MASK_OF(sig) (UINT64_C(1) << ((sig)-1))

/* User code of 64-bit programs runs with this selector; anything else is a 32-bit program. */
#define USER_CS 0x33

/* How long a thread that did not stop at the deadline is waited for after an interrupt. */
#define GRACE_NS (1 * CLOCK_S)

/*
 * A slot: room for a signal frame of usual size, so that it shares a page with a small batch;
 * header, calls and bytes of the batch; room for any signal frame at the end.
 */
#define SLOT_BATCH UINT64_C(3072)
#define FRAME_MAX  (TRACEE_XSTATE_MAX + 1024)
#define SLOT_MIN   UINT64_C(65536)

#define XSTATE_COMPONENTS 63
#define SIGRETURN_MAX	  9 /* bytes of "mov $15, %rax; syscall" */

/* stub.S: the code, its bytes, the offset of the place where a batch ends. */
extern const uint8_t tracee_stub[];
extern const uint64_t tracee_stub_size, tracee_stub_done;

struct undo_entry {
	tracee_undo_fn undo; /* called at release */
	void *data;	     /* passed to it; owned by it */
};

/* Places in a process that already hold the instructions which a protected call needs; see
 * inject.c. */
struct gadgets {
	bool known;	      /* the rest was looked up */
	uint64_t syscall;     /* "syscall", somewhere */
	uint64_t syscall_ret; /* "syscall; ret"; 0: none */
	uint64_t sigreturn;   /* "mov $15, %eax; syscall"; 0: none */
	uint64_t stack_start; /* the [stack] mapping; 0: none */
	uint64_t stack_end;
};

struct tracee_private_process {
	struct tracee_traces *traces;    /* borrowed; NULL: areas are not noted */
	int trace;                       /* slot in there; -1: none */
	ARRAY(struct undo_entry) undos;  /* oldest first */
	ARRAY(pid_t) newborn;            /* clones reported by ptrace events and not yet taken */
	struct tracee_hints *hints;      /* borrowed; NULL: none */
	struct gadgets gadgets;          /* where to inject */
	uint64_t free_end;               /* end of a gap seen meanwhile; 0: unknown. Used once */
	bool signals_known;              /* `caught` was read */
	uint64_t caught;                 /* signals with a handler */
	uint64_t wanted_address;         /* of the area of a shell; 0: the engine chooses */
	uint64_t slot_size;              /* bytes of a slot in the area */
	size_t slots;                    /* slots in the area */
	size_t slots_used;               /* given to threads */
	bool keep_area;                  /* it stays at the release */
	bool slots_open;                 /* the slots are writable for the process itself */
	bool finished;                   /* registers are final, no area any more */
	bool kept;                       /* outlives its tracer */
	bool is_guest;                   /* its memory is that of its maker, which goes on: its area must not stay there */
	size_t xstate_size;              /* of a thread's xsave area, which is the same for all; 0: not asked yet */
	uint32_t xstate_ends[XSTATE_COMPONENTS]; /* of each in the xsave area; 0: not asked yet */
};

struct tracee_private_thread {
	bool in_stub;		/* its registers in the kernel are the engine's, not thread->regs */
	bool masked;		/* its mask in the kernel is the engine's, not thread->sigmask */
	bool regs_changed;	/* thread->regs are not what was found at the stop */
	bool mask_changed;	/* likewise */
	bool xstate_known;	/* `xstate` was read or set */
	bool xstate_changed;	/* it was set */
	bool frame_stale;	/* the frame in its slot does not lead to regs, mask and xstate */
	uint64_t mask;		/* in the kernel while `masked` */
	uint64_t frame_address; /* of the signal frame that leads back from the stub */
	int slot;		/* in the remote area; -1: none */
	int end_signal;		/* of the running batch; 0: system calls are watched */
	size_t xstate_size;	/* bytes in use */
	uint8_t *xstate;	/* owned; NULL until needed */
};

/* ---- wait.c */

/*
 * Waits until the tid is in a ptrace stop (0, *ret_status is signal | event << 8) or has ended
 * (-ESRCH). The stop is left unconsumed: whatever signal it reports is still delivered if the
 * tracer dies.
 */
int wait_stop(pid_t tid, int64_t deadline, int *ret_status);

/* ptrace(2) with the errno as result, negative. */
int ptrace_do(int request, pid_t tid, uint64_t address, uint64_t data);
/* Fills the error for a failed request: "PID n: WHAT: errno". */
int ptrace_fail(struct error *error, int code, pid_t tid, const char *what);

/* ---- thread.c */

int thread_new(struct tracee_process *process, pid_t tid, struct tracee_thread **ret,
	       struct error *error);
void thread_free(struct tracee_thread *thread);
/* Reads registers, mask and rseq of a thread that has just stopped; leaves a restartable sequence.
 */
int thread_read(struct tracee_thread *thread, struct error *error);
int thread_get_kernel_regs(struct tracee_thread *thread, struct user_regs_struct *ret,
			   struct error *error);
int thread_set_kernel_regs(struct tracee_thread *thread, const struct user_regs_struct *regs,
			   struct error *error);
int thread_set_kernel_mask(struct tracee_thread *thread, uint64_t mask, struct error *error);
/* Gives the thread its own mask, registers and xstate again, in an order that is harmless at every
 * point. */
int thread_unpark(struct tracee_thread *thread, struct error *error);
int thread_load_xstate(struct tracee_thread *thread, struct error *error);

/* ---- process.c */

int process_new(pid_t pid, const struct tracee_options *options, struct tracee_process **ret,
		struct error *error);
/* Opens pidfd and mem_fd once there is a stopped thread. */
int process_open(struct tracee_process *process, struct error *error);
void process_free(struct tracee_process *process);
void process_remove_thread(struct tracee_process *process, struct tracee_thread *thread);
/* Runs the undo entries, gives every thread its state back, unmaps the area; the threads stay
 * stopped. */
void process_restore(struct tracee_process *process);
void process_detach(struct tracee_process *process);

/* ---- frame.c */

/*
 * Builds the signal frame at `address` (64-byte aligned) that leads back to the state of the
 * thread, its interrupted system call to be executed again. `data` has FRAME_MAX bytes. `restorer`
 * is what a return instruction finds there.
 */
int frame_build(struct tracee_thread *thread, uint64_t address, uint64_t restorer, uint8_t *data,
		size_t *ret_size, struct error *error);

/* ---- inject.c */

/*
 * One system call outside the area: in a source process such that the thread goes on undisturbed if
 * the tracer dies. Afterwards the thread has its own registers again. The area's threads may all be
 * anywhere but inside it.
 */
int inject_call(struct tracee_thread *thread, int64_t deadline, int64_t *ret_result,
		struct error *error, long nr, const uint64_t args[6]);
/*
 * The same in threads of different shells, all at the same time. They keep the registers of the call: the caller gives them
 * their own again. A failure leaves some of them anywhere in it.
 */
struct inject_many {
	struct tracee_thread *thread; /* borrowed */
	long nr;
	uint64_t args[6];
	int64_t result; /* set by inject_call_many() */
};
int inject_call_many(struct inject_many *calls, size_t count, int64_t deadline, struct error *error);
/* Is the thread, found by another tracer, in the middle of such a call that a dead tracer has
 * begun? */
bool inject_is_under_way(struct tracee_thread *thread);

/* ---- gadgets.c */

/* Looks them up unless they are known; "syscall" is found or it fails, the other two may be 0. */
/* The call that a stopped thread of those registers is in; -1: not noted. Kept in the hints, which may be NULL. */
void hints_note_call(struct tracee_hints *hints, pid_t tid, const struct user_regs_struct *regs);
int64_t hints_find_call(const struct tracee_hints *hints, pid_t tid, const struct user_regs_struct *regs);
int gadgets_find(struct tracee_process *process, struct error *error);
bool gadgets_complete(const struct gadgets *gadgets);

/* ---- area.c */

/* The end of a wide gap in the address space, the n-th counted downwards; 0: none. */
uint64_t area_find_gap(const struct procfs_maps *maps, int n);

uint64_t area_slot_size(size_t batch_size);
/* Makes an area with room for `slots` threads and batches of `batch_size` bytes, unless the present
 * one has that. */
int area_ensure(struct tracee_thread *thread, size_t slots, size_t batch_size, int64_t deadline,
		struct error *error);
int area_unmap(struct tracee_process *process, int64_t deadline, struct error *error);
/* What is known of an area whose munmap(2) has had that result; an error if it is one. */
int area_unmapped(struct tracee_process *process, int64_t result, struct error *error);
uint64_t area_slot_address(const struct tracee_process *process, int slot);
/* Of the slot's header. */
uint64_t area_batch_address(const struct tracee_process *process, int slot);

/* ---- kept.c: areas that stay in running processes */

struct kept_areas;
struct kept_areas *kept_new(void);
void kept_free(struct kept_areas *kept);
struct kept_areas *hints_kept(struct tracee_hints *hints);
/* What is behind the stub in its page says where the area ends. */
int kept_mark(struct tracee_process *process, struct error *error);
/* Takes over the area that was left in a process that has just been stopped, if it is still there. */
void kept_take(struct tracee_process *process);
/* Leaves the area, which no thread is in. False: it has to be unmapped. */
bool kept_leave(struct tracee_process *process);

/* ---- traces.c */

int traces_note(struct tracee_traces *traces, pid_t pid, uint64_t address, uint64_t size,
		int *ret_slot);
void traces_clear(struct tracee_traces *traces, int slot);

/* ---- seccomp.c */

/*
 * Suspends the filter of a stopped thread; `options` are the PTRACE_O_* that it has. An error only if it has a filter and that
 * is not allowed: -EPERM.
 */
int seccomp_suspend(pid_t tid, uint64_t options, struct error *error);

/* ---- syscall-names.c */

/* "openat", or NULL for a number without name. */
const char *syscall_name(long nr);
