/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stopping processes, their registers, and system calls run inside them.
 *
 * Model. A `struct tracee_process` is a process of which this thread is the ptrace tracer; its
 * `threads` are the ones that are stopped. System calls are run in it as batches: a batch is a list
 * of calls with its input and output bytes, it is written into a remote area (a mapping that the
 * engine made there), run by a few instructions of position-independent code, and its results are
 * read back: one stop for a whole list.
 *
 * Two kinds of process:
 *   - a source process, stopped with tracee_tree_stop() or tracee_process_stop(). It goes on as it
 * was on release, and also when the tracer is killed at any instant: whatever a thread is made to
 * execute ends by itself in the state that the thread was found in. What is left then is the remote
 * area; see tracee_traces.
 *   - a shell, adopted with tracee_process_adopt(): a process that the restore side builds, which
 * dies with its tracer (PTRACE_O_EXITKILL) until tracee_process_keep() is called.
 *
 * Threads. ptrace(2) ties a tracee to the thread that seized it: all calls for a process are made
 * by one thread. Several threads of a program may hold different trees. Only the tids that belong
 * to the tree are waited for.
 *
 * Blocking. Everything that makes a tracee run takes a deadline (clock.h) and gives up with
 * -ETIMEDOUT. Waiting polls: it spins for a moment, then sleeps in steps of up to 1 ms.
 *
 * Errors: negative errno and a sentence that names the PID. -ESRCH: the process or thread is gone.
 * -EPERM: not allowed. -EBUSY: someone else traces it. -ETIMEDOUT. -EOPNOTSUPP: a 32-bit process.
 *
 * Relies on: PTRACE_SEIZE (3.4), PTRACE_SETSIGMASK (3.11), PTRACE_GET_RSEQ_CONFIGURATION (5.13),
 * clone3 set_tid (5.5); ptrace(2), sigreturn(2), rseq(2).
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "util/array.h"
#include "util/clock.h"
#include "util/error.h"

/* Room for the whole xsave area of any processor of today (AMX included: 11,008 bytes). */
#define TRACEE_XSTATE_MAX 16384

struct tracee_process;
struct tracee_traces;
struct tracee_hints;
struct procfs_maps;
struct tracee_private_process;
struct tracee_private_thread;

/* How a thread registered restartable sequences (rseq(2)); all 0: not registered. */
struct tracee_rseq {
	uint64_t address;   /* of struct rseq in the process; 0: none */
	uint32_t size;      /* as registered, bytes */
	uint32_t signature; /* the word in front of each abort handler */
	uint32_t flags;     /* as the kernel reports them */
};

/*
 * A stopped thread. Owned by its process. Fields are for reading; setters are below. `regs` and
 * `sigmask` are what it goes on with: as found at the stop (an interrupted restartable sequence
 * already sent to its abort handler), or as set since.
 */
struct tracee_thread {
	pid_t tid;                         /* as this program sees it */
	struct tracee_process *process;    /* borrowed: the owner */
	struct user_regs_struct regs;      /* see above */
	uint64_t sigmask;                  /* blocked signals, bit 0 is signal 1 */
	struct tracee_rseq rseq;           /* as found at the stop */
	bool stopped;                      /* in a ptrace stop: requests to it work */
	bool group_stopped;                /* found stopped by SIGSTOP or the like; stays so */
	struct tracee_private_thread *own; /* owned: bookkeeping of the engine */
};

/*
 * A stopped process. Made by the calls below, ended by tracee_process_release(). The remote area
 * belongs to the engine: never dump, track or unmap it.
 */
struct tracee_process {
	pid_t pid;                             /* as this program sees it */
	int pidfd;                             /* owned */
	int mem_fd;                            /* owned: /proc/PID/mem, read and write */
	ARRAY(struct tracee_thread *) threads; /* stopped ones, a living leader first; owned */
	bool whole;                            /* every thread is stopped (else one of them) */
	bool leader_dead;                      /* the group leader has ended, others run on */
	bool exit_kill;                        /* a shell: dies with its tracer */
	uint64_t area_address;                 /* remote area, page aligned; 0: none yet */
	uint64_t area_size;                    /* bytes; 0: none */
	struct tracee_process *parent;         /* whose child it is in a tree, or NULL; borrowed */
	struct tracee_private_process *own;    /* owned: bookkeeping of the engine */
};

/* A process and all its descendants, stopped. Parents come before their children. */
struct tracee_tree {
	ARRAY(struct tracee_process *) processes; /* owned; items[0] is the root */
	ARRAY(pid_t) zombies; /* descendants that have ended and were not waited for when their parent stood still; owned */
};

/* NULL for options means all zero. */
struct tracee_options {
	struct tracee_traces *traces; /* notes remote areas that exist; borrowed, may be NULL */
	struct tracee_hints *hints;   /* makes later stops quicker; borrowed, may be NULL */
	/*
	 * At the release, a remote area that was made stays where it is, for the next stop with the same hints. Needs hints and
	 * traces, which tracee_traces_clean() takes it away by in the end.
	 */
	bool keep_areas;
};

/*
 * What was learnt about processes and their program files: where useful instructions are in them.
 * Saves some 300 us at the first batch in a process. For one thread at a time.
 */
struct tracee_hints *tracee_hints_new(void);
void tracee_hints_free(struct tracee_hints *hints);
/* Strikes off the areas of processes that are gone. */
void tracee_hints_prune(struct tracee_hints *hints);

/*
 * procfs_read_maps() without a remote area, whichever process that shares the memory it was made by. `mem_fd` is
 * /proc/PID/mem; -1: opened here.
 */
int tracee_read_maps(pid_t pid, int mem_fd, struct procfs_maps *ret, struct error *error);

/* ---- stop and release */

/*
 * Stops every thread of `root` and of all its descendants; threads and children that appear
 * meanwhile too. On failure everything runs on. A signal that was just being delivered is delivered
 * first, so none is lost; what is pending stays pending and is seen by
 * tracee_thread_peek_signals(). A process that is stopped by SIGSTOP stays so after release. A
 * zombie among the descendants is only noted; a zombie as root is -ESRCH.
 */
int tracee_tree_stop(pid_t root, const struct tracee_options *options, int64_t deadline,
		     struct tracee_tree **ret, struct error *error);

/* Stops one thread of `pid` (the leader if it is alive) for a short batch; the others run on. */
int tracee_process_stop(pid_t pid, const struct tracee_options *options, int64_t deadline,
			struct tracee_process **ret, struct error *error);

/* As tracee_process_stop(), but all threads of this one process and none of its children. */
int tracee_process_stop_all(pid_t pid, const struct tracee_options *options, int64_t deadline,
			    struct tracee_process **ret, struct error *error);

/*
 * Undoes everything in reverse order (undo entries, registers, masks, remote area), lets the
 * process run on and frees the object. Takes NULL. A shell that was neither finished nor kept is
 * killed and its end awaited. Cannot fail: what is gone needs no undoing. Blocks some 10 us a
 * thread, at most 2 s a process. A thread that is in an uninterruptible call of the kernel for
 * longer than that cannot be let go: it runs on when this thread of the program ends.
 */
void tracee_process_release(struct tracee_process *process);
void tracee_tree_release(struct tracee_tree *tree);

/* Frees the object without touching the process: for one that has been killed, or in a forked child
 * of the tracer. */
void tracee_process_forget(struct tracee_process *process);

/* The process of `pid` in the tree, the thread of `tid` in the process; NULL if there is none. */
struct tracee_process *tracee_tree_find(const struct tracee_tree *tree, pid_t pid);
struct tracee_thread *tracee_process_find(const struct tracee_process *process, pid_t tid);

/*
 * Adds to what release undoes: `undo(process, data)` is called in reverse order of adding, while
 * the process is still stopped and batches can be run. `undo` also has to free `data`.
 * tracee_process_forget() calls it with a NULL process. 0 or -ENOMEM (then `undo` is not called).
 */
typedef void (*tracee_undo_fn)(struct tracee_process *process, void *data);
int tracee_process_add_undo(struct tracee_process *process, tracee_undo_fn undo, void *data);

/* Takes the entry out again (first match of both), without calling it. */
void tracee_process_drop_undo(struct tracee_process *process, tracee_undo_fn undo, void *data);

/*
 * A copy of the process's descriptor `fd`, or a negative errno; the caller closes it. Of a process whose main thread has ended
 * it takes Linux 6.9.
 */
int tracee_process_getfd(const struct tracee_process *process, int fd);

/* ---- memory */

/* Through /proc/PID/mem: reads and writes whatever the protection; all of it or an error. */
int tracee_process_read(const struct tracee_process *process, uint64_t address, void *data,
			size_t size, struct error *error);
int tracee_process_write(const struct tracee_process *process, uint64_t address, const void *data,
			 size_t size, struct error *error);

/* ---- registers and signals */

/*
 * What the thread will go on with. The setters take effect at release (or finish); they do not
 * disturb batches. xstate: the whole NT_X86_XSTATE area, not compacted. get: `ret_size` bytes are
 * written to `data` (`size` bytes of room, TRACEE_XSTATE_MAX always suffices). The area read at the
 * first call is kept: later calls cost nothing. set: a smaller area is fine as long as it has the
 * 64-byte header at 512.
 */
void tracee_thread_set_regs(struct tracee_thread *thread, const struct user_regs_struct *regs);
void tracee_thread_set_sigmask(struct tracee_thread *thread, uint64_t sigmask);
int tracee_thread_get_xstate(struct tracee_thread *thread, void *data, size_t size,
			     size_t *ret_size, struct error *error);
int tracee_thread_set_xstate(struct tracee_thread *thread, const void *data, size_t size,
			     struct error *error);

/*
 * Appends the pending signals in their order, those of the thread or (`shared`) those of its
 * process. Nothing is consumed.
 */
struct tracee_siginfos {
	siginfo_t *items; /* owned */
	size_t count;
	size_t capacity;
};
int tracee_thread_peek_signals(struct tracee_thread *thread, bool shared,
			       struct tracee_siginfos *infos, struct error *error);

/* get_robust_list(2) of the thread: address of the head (0: none) and its size. */
int tracee_thread_get_robust_list(struct tracee_thread *thread, uint64_t *ret_head,
				  uint64_t *ret_size, struct error *error);

/*
 * A filter of seccomp(2) of the thread, by its place in the order in which they were installed: instructions, into room for
 * BPF_MAXINSNS of them, and flags (SECCOMP_FILTER_FLAG_LOG). -ENOENT, without a sentence: there are no more. -EINVAL: the
 * thread is in no filter mode.
 */
struct sock_filter;
int tracee_thread_get_filter(struct tracee_thread *thread, uint32_t index, struct sock_filter *filter,
			     size_t *ret_count, uint32_t *ret_flags, struct error *error);

/*
 * While a thread is stopped by us, its seccomp filters judge no call. Without CAP_SYS_ADMIN, or for a program that has a
 * filter itself, that is not to be had: a stop of a thread with a filter then fails with -EPERM.
 */
bool tracee_seccomp_may_suspend(void);

/* Was the thread found inside a system call that it would restart (or whose result it has not
 * seen)? */
bool tracee_regs_in_syscall(const struct user_regs_struct *regs);

/*
 * Turns registers found at a stop into what must be set in another process, where the kernel knows
 * of no interrupted call. rax and orig_rax stay as the kernel left them, since a thread of a shell
 * starts from a stop where the kernel still decides by them: with a signal to deliver the call
 * fails with EINTR or is restarted, as the handler says; without one it is executed again. Only
 * ERESTART_RESTARTBLOCK (nanosleep, poll, futex with a relative timeout...) has to become
 * ERESTARTNOHAND: the original call with its original arguments, so its relative timeout starts
 * again unless the caller changes the arguments. Returns the number of the call that will be
 * executed again if there is no signal, or -1.
 */
long tracee_regs_prepare_restart(struct user_regs_struct *regs);

/* ---- batches */

/*
 * A batch is built without knowing where it will run, may be run several times and in several
 * threads one after the other; each run overwrites its results. Addresses and results that are
 * known only later are tokens: non-canonical numbers with a tag in the upper 16 bits, which are
 * replaced at the run. A token of bytes may be added to (token + 8).
 *
 * Failure to allocate while building is remembered and reported by the run: no need to check each
 * call.
 */
struct tracee_batch;

#define TRACEE_TOKEN_TAG_MASK UINT64_C(0xffff000000000000)
#define TRACEE_TOKEN_RESULT   UINT64_C(0x5ea1000000000000)
#define TRACEE_TOKEN_DATA     UINT64_C(0x5ea2000000000000)
#define TRACEE_TOKEN_SPACE    UINT64_C(0x5ea3000000000000)

/* As an argument of a later call: what the call of that index returned. */
#define TRACEE_RESULT(index) (TRACEE_TOKEN_RESULT | (uint64_t)(uint32_t)(index))

/* NULL without memory. */
struct tracee_batch *tracee_batch_new(void);
void tracee_batch_free(struct tracee_batch *batch);
/* Empties it for building anew; keeps its memory. */
void tracee_batch_clear(struct tracee_batch *batch);

/*
 * Adds a system call (numbers of <sys/syscall.h>) and returns its index, counted from 0. A result
 * in -4095..-1 ends the batch and fails the run, which names the call.
 */
int tracee_batch_call6(struct tracee_batch *batch, unsigned flags, long nr, uint64_t a0,
		       uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
enum {
	TRACEE_MAY_FAIL = 1 << 0, /* an error of this call is a result: go on */
};

/* tracee_batch_call(batch, nr, up to six arguments): each converted to uint64_t; pointers need a
 * cast. */
#define tracee_batch_call(batch, ...) TRACEE_BATCH_CALL((batch), 0, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define tracee_batch_try(batch, ...) \
	TRACEE_BATCH_CALL((batch), TRACEE_MAY_FAIL, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define TRACEE_BATCH_CALL(batch, flags, nr, a0, a1, a2, a3, a4, a5, ...)                 \
	tracee_batch_call6((batch), (flags), (long)(nr), (uint64_t)(a0), (uint64_t)(a1), \
			   (uint64_t)(a2), (uint64_t)(a3), (uint64_t)(a4), (uint64_t)(a5))

/*
 * Adds a call that is executed only if the tracer dies before the next batch in this thread or its
 * release: by the thread itself, on its way back to its own work. Errors are ignored. For taking
 * back what the batch did (close(TRACEE_RESULT(0))).
 */
void tracee_batch_undo6(struct tracee_batch *batch, long nr, uint64_t a0, uint64_t a1, uint64_t a2,
			uint64_t a3, uint64_t a4, uint64_t a5);
#define tracee_batch_undo(batch, ...) TRACEE_BATCH_UNDO((batch), __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define TRACEE_BATCH_UNDO(batch, nr, a0, a1, a2, a3, a4, a5, ...)                               \
	tracee_batch_undo6((batch), (long)(nr), (uint64_t)(a0), (uint64_t)(a1), (uint64_t)(a2), \
			   (uint64_t)(a3), (uint64_t)(a4), (uint64_t)(a5))

/* Input bytes, copied now, 16-byte aligned there. Returns the token of their address. */
uint64_t tracee_batch_data(struct tracee_batch *batch, const void *data, size_t size);
uint64_t tracee_batch_string(struct tracee_batch *batch, const char *string);

/* `token` names 8 bytes inside data added before: at the run they get the address that `target`
 * stands for. */
void tracee_batch_point(struct tracee_batch *batch, uint64_t token, uint64_t target);

/* Zeroed room for output, 16-byte aligned. Returns its token; read it after the run with
 * tracee_batch_output(). */
uint64_t tracee_batch_space(struct tracee_batch *batch, size_t size);

/* After a run: what is in the room now. Valid until the next change or run of the batch. */
const void *tracee_batch_output(const struct tracee_batch *batch, uint64_t token);

/* After a run: what the call returned (negative errno on failure), -ECANCELED if it was not
 * reached. */
int64_t tracee_batch_result(const struct tracee_batch *batch, int index);

/* Calls added so far (undo calls not counted). */
size_t tracee_batch_count(const struct tracee_batch *batch);

/*
 * Runs the batch in the stopped thread; its own registers and mask are not changed by that. All
 * signals but the one that ends the batch are blocked meanwhile. A call that blocks is interrupted
 * at the deadline (-ETIMEDOUT); the thread stays usable. A batch must not unmap the remote area,
 * end the thread or execute a program. When a call fails, the error says "PID n: openat: No such
 * file or directory" and has that errno.
 */
int tracee_batch_run(struct tracee_thread *thread, struct tracee_batch *batch, int64_t deadline,
		     struct error *error);

/*
 * Runs batches[i] in threads[i], all at the same time. The threads are different ones, of one or
 * more processes, those of one process in a row; the batches are different objects. The first error
 * met is reported; the others have run all the same.
 */
int tracee_batch_run_many(struct tracee_thread *const *threads, struct tracee_batch *const *batches,
			  size_t count, int64_t deadline, struct error *error);
/* Its first part: a remote area in each process with room for its threads that take part, and for the largest batch. */
int tracee_batch_make_room(struct tracee_thread *const *threads, struct tracee_batch *const *batches,
			   size_t count, int64_t deadline, struct error *error);

/* One call without bytes: its result, which may be a negative errno, in `ret_result`; an error only
 * if it did not run. */
int tracee_thread_call(struct tracee_thread *thread, int64_t deadline, int64_t *ret_result,
		       struct error *error, long nr, uint64_t a0, uint64_t a1, uint64_t a2,
		       uint64_t a3, uint64_t a4, uint64_t a5);

/* ---- shells */

/*
 * Takes over a process of one thread that the caller (this thread) has seized with PTRACE_SEIZE and
 * that is in a ptrace stop which has been waited for: a PTRACE_EVENT_STOP, PTRACE_EVENT_EXEC or
 * signal-delivery stop. Sets the options (EXITKILL, tracing of clones). The remote area is made at
 * `area_address`, which must be page aligned and free, when the first batch runs; 0 lets the kernel
 * choose.
 */
int tracee_process_adopt(pid_t pid, uint64_t area_address, const struct tracee_options *options,
			 int64_t deadline, struct tracee_process **ret, struct error *error);

/* Moves the remote area of a shell to a free range at `address`; there is room for it:
 * tracee_area_size(). */
int tracee_process_move_area(struct tracee_process *process, uint64_t address, int64_t deadline,
			     struct error *error);

/*
 * To be called when the vDSO of a shell has been moved or unmapped: what is executed there is
 * looked for anew. Copies made by tracee_process_clone() afterwards know of it.
 */
void tracee_process_code_moved(struct tracee_process *process);

/*
 * Makes room in the remote area for batches in `threads` threads, each of up to `batch_size` bytes
 * (calls are 72 bytes each), so that it need not be made larger later. An area that grows moves,
 * which needs a free range: for a shell with a given address, what lies behind it must be free. To
 * be called before the layout is planned; idempotent.
 */
int tracee_process_reserve_area(struct tracee_process *process, size_t threads, size_t batch_size,
				int64_t deadline, struct error *error);
/* Takes the area of a shell out, until the next batch. */
int tracee_process_unmap_area(struct tracee_process *process, int64_t deadline, struct error *error);
/* Bytes that an area for so many threads and bytes takes. */
uint64_t tracee_area_size(size_t threads, size_t batch_size);

/*
 * Children and threads of a shell, made by a clone3 run in `by`. They come up stopped, with the
 * registers, xstate and mask of `by` until others are set. `tid` is the wanted PID (0: any;
 * otherwise CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN; -EEXIST: taken). Flags are those of clone3
 * without exit signal. A child has a copy of the memory of `by` at that moment, remote area
 * included. With CLONE_VM it is a guest in that memory, with an area of its own from its first batch to its finish, at an
 * address of the engine's choice, or until tracee_process_unmap_area(). With CLONE_PARENT it is a sibling of `by`.
 */
int tracee_thread_clone(struct tracee_thread *by, pid_t tid, int64_t deadline,
			struct tracee_thread **ret, struct error *error);
int tracee_process_clone(struct tracee_thread *by, pid_t pid, uint64_t flags, int exit_signal,
			 int64_t deadline, struct tracee_process **ret, struct error *error);
/*
 * Ends a shell of one thread as `status` says (wait(2); its core bit is not taken over, nor is any core written) and frees the
 * object, unless it fails. If its parent is not this program, the zombie is the parent's.
 */
int tracee_process_die(struct tracee_process *process, int status, int64_t deadline, struct error *error);
/*
 * Stops a shell by a signal: SIGSTOP, or SIGTSTP, SIGTTIN, SIGTTOU, which an orphaned process group is not stopped by. -EAGAIN:
 * it is not. Its parent gets SIGCHLD and can wait for it. It stays stopped when it is let go; batches can be run until then.
 */
int tracee_process_stop_group(struct tracee_process *process, int signal, int64_t deadline, struct error *error);
/*
 * Ends the leader of a shell while its other threads go on: no child of it may have a death signal yet. It is a zombie then,
 * until the process ends, and the first of the others runs what is for the process.
 */
int tracee_process_end_leader(struct tracee_process *process, int64_t deadline, struct error *error);
/* Ends a thread of a shell that is not wanted any more (not the leader) and frees the object. */
int tracee_thread_end(struct tracee_thread *thread, int64_t deadline, struct error *error);

/*
 * The last step before the go: unmaps the remote area and sets registers, xstate and mask of all
 * threads for good. No batch can be run afterwards. The process still dies with its tracer.
 */
int tracee_process_finish(struct tracee_process *process, int64_t deadline, struct error *error);
/* That of many, at the same time. */
int tracee_process_finish_many(struct tracee_process *const *processes, size_t count, int64_t deadline, struct error *error);

/* From now on the process outlives its tracer: if the tracer dies, it runs on (so: only when the
 * commit is written). */
int tracee_process_keep(struct tracee_process *process, struct error *error);

/* The go: lets all threads of a finished and kept process run, and frees the object. */
void tracee_process_detach(struct tracee_process *process);

/* ---- what a killed tracer leaves */

/*
 * A table in shared memory of the remote areas that exist right now. A guardian process that was
 * forked after tracee_traces_new() and outlives the agent calls tracee_traces_clean(). At most
 * `count` areas are noted at a time; a stop that finds no slot fails with -ENOSPC when it makes its
 * area.
 */
int tracee_traces_new(size_t count, struct tracee_traces **ret, struct error *error);
void tracee_traces_free(struct tracee_traces *traces);
/* Areas noted right now. */
size_t tracee_traces_count(const struct tracee_traces *traces);
/* For keeping the table where a reboot of the agent does not lose it: the areas from slot *position on (0 at first), and
 * back. False: no more. */
bool tracee_traces_next(const struct tracee_traces *traces, size_t *position, pid_t *ret_pid,
			uint64_t *ret_address, uint64_t *ret_size);
int tracee_traces_add(struct tracee_traces *traces, pid_t pid, uint64_t address, uint64_t size);
/* Stops each such process for a moment, once no thread is inside the area any more, and unmaps it.
 * Ended ones are fine. */
int tracee_traces_clean(struct tracee_traces *traces, int64_t deadline, struct error *error);
