/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shells: processes with the right PID and nothing in them.
 *
 * The root of a tree is made by a helper process that clones it with the wanted PID and ends, so that it belongs to init; or
 * by a clone of this program itself, when it shall be a child of it, or of its parent. The new process waits on a pipe until
 * it is seized (if we die before, the pipe closes and it ends), then replaces itself by a tiny program of its own: from there
 * on nothing of this program's memory or descriptors is in it. It is held at the exec stop and never runs a line of that
 * program. All other processes of the tree are clones of clones of it.
 *
 * The program is an ELF file of one segment, written here byte by byte; its code loops in pause(2).
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"
#include "util/procfs.h"

#define SHELL_ADDRESS   UINT64_C(0x10000)
#define SHELL_SIGNALS   64
#define SHELL_WAIT      (10 * CLOCK_S)
#define SHELL_FLUSH_MAX 1024
#define SHELL_TRIES     20

/* mov $34, %eax (pause); syscall; jmp back */
static const uint8_t shell_code[] = { 0xb8, 0x22, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xf7 };

struct shell_image {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	uint8_t code[sizeof(shell_code)];
};

static int shell_program(int *ret_fd, struct error *error)
{
	struct shell_image image = {
		.header = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = SHELL_ADDRESS + offsetof(struct shell_image, code),
			.e_phoff = offsetof(struct shell_image, segment),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 1,
		},
		.segment = {
			.p_type = PT_LOAD,
			.p_flags = PF_R | PF_X,
			.p_vaddr = SHELL_ADDRESS,
			.p_filesz = sizeof(struct shell_image),
			.p_memsz = sizeof(struct shell_image),
			.p_align = 4096,
		},
	};
	_cleanup_fd_ int fd = -1;
	int r;

	memcpy(image.code, shell_code, sizeof(shell_code));
	fd = memfd_create("pagestream-shell", MFD_CLOEXEC);
	if (fd < 0)
		return error_set_errno(error, -errno, "cannot make the shell program");
	r = fdio_write(fd, &image, sizeof(image));
	if (r < 0)
		return error_set_errno(error, r, "cannot write the shell program");
	*ret_fd = steal_fd(&fd);
	return 0;
}

/* A shell to be made. */
struct shell_plan {
	pid_t pid;
	enum restore_parentage parentage;
	const struct timens_offsets *clocks; /* of a time namespace of its own; borrowed, NULL: ours */
	bool shares_session; /* becomes the leader of a group in our session, not of a session */
	pid_t session;       /* 0, or that of the helper that makes it, which leads it and ends */
	int program_fd;      /* borrowed, as those below */
	int go_fd;           /* it waits here for a byte */
	int go_write_fd;     /* our end of that pipe */
};

/* In the new process. Only system calls from here on: other threads' locks may be held in this copy of memory. */
__attribute__((noreturn)) static void shell_main(const struct shell_plan *plan)
{
	static const char name[] = "pagestream-shell";
	char *const arguments[] = { (char *)name, NULL };
	char *const environment[] = { NULL };
	sigset_t none;
	char go;

	close(plan->go_write_fd);
	if (read(plan->go_fd, &go, 1) != 1)
		_exit(1);
	for (int signal = 1; signal <= SHELL_SIGNALS; signal++) {
		struct {
			uint64_t handler, flags, restorer, mask;
		} action = { 0 };

		syscall(SYS_rt_sigaction, signal, &action, NULL, sizeof(action.mask));
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if ((plan->session ? 0 : plan->shares_session ? setpgid(0, 0) : setsid()) < 0 || chdir("/") < 0 ||
	    syscall(SYS_close_range, 0u, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		_exit(1);
	syscall(SYS_execveat, plan->program_fd, "", arguments, environment, AT_EMPTY_PATH);
	_exit(1);
}

/* The call that makes the shell: 0 or a negative errno. A sibling ends with the signal that this program ends with. */
static int clone_here(const struct shell_plan *plan)
{
	bool beside = plan->parentage == RESTORE_SIBLING || (plan->parentage == RESTORE_CHILD && plan->session);
	pid_t pid = plan->pid;
	struct clone_args arguments = {
		.flags = beside ? CLONE_PARENT : 0,
		.exit_signal = beside ? 0 : SIGCHLD,
		.set_tid = (uintptr_t)&pid,
		.set_tid_size = 1,
	};
	sigset_t all, old;
	long made;
	int r;

	/* The shell must not run a handler of this program before it has taken them off. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	made = syscall(SYS_clone3, &arguments, sizeof(arguments));
	r = made < 0 ? -errno : 0;
	if (made == 0)
		shell_main(plan);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* What a thread makes after this is in the time namespace; so it is a thread, or a process, for nothing else. */
static int clone_with_clocks(const struct shell_plan *plan)
{
	int r = plan->clocks ? timens_unshare(plan->clocks) : 0;

	return r < 0 ? r : clone_here(plan);
}

static void *clone_thread(void *plan)
{
	return (void *)(intptr_t)clone_with_clocks(plan); /* NOLINT(performance-no-int-to-ptr) */
}

/* By this program itself; by a thread of it if clocks are to be set. */
static int clone_by_us(struct shell_plan *plan)
{
	pthread_t thread;
	void *result;
	int r;

	if (!plan->clocks)
		return clone_here(plan);
	r = pthread_create(&thread, NULL, clone_thread, plan);
	if (r != 0)
		return -r;
	pthread_join(thread, &result);
	return (int)(intptr_t)result;
}

/* In the helper: makes the shell, reports, ends. */
__attribute__((noreturn)) static void helper_main(const struct shell_plan *plan, int report_fd)
{
	int report = plan->session && setsid() < 0 ? -errno : clone_with_clocks(plan);

	(void)!write(report_fd, &report, sizeof(report));
	_exit(0);
}

static int clone_error(pid_t pid, int code, struct error *error)
{
	struct procfs_stat owner;

	if (code == -EEXIST && procfs_read_stat(pid, &owner, NULL) == 0)
		return error_set(error, code, "PID %d is in use on the restoring host (by %s)", pid, owner.comm);
	if (code == -EEXIST)
		return error_set(error, code, "PID %d is in use on the restoring host", pid);
	if (code == -EINVAL)
		return error_set(error, code, "PID %d cannot be given out: it is over kernel.pid_max", pid);
	return error_set_errno(error, code, "cannot make a process with PID %d", pid);
}

/* With the number of a session that has no leader, it is to begin that. */
static pid_t fork_helper(const struct shell_plan *plan)
{
	pid_t pid = plan->session;
	struct clone_args arguments = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1 };

	return plan->session ? (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments)) : fork();
}

/* Runs the helper; the shell exists and waits for a byte in the pipe when this returns 0. */
static int clone_by_helper(const struct shell_plan *plan, struct error *error)
{
	_cleanup_fd_ int report_read = -1, report_write = -1;
	int pipe_fds[2], report = -EPROTO, status;
	pid_t helper;
	ssize_t got;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_set_errno(error, -errno, "cannot make a pipe");
	report_read = pipe_fds[0];
	report_write = pipe_fds[1];
	helper = fork_helper(plan);
	if (helper < 0 && plan->session)
		return error_set_errno(error, -errno, "cannot make session %d, whose leader is gone", plan->session);
	if (helper < 0)
		return error_set_errno(error, -errno, "cannot fork");
	if (helper == 0)
		helper_main(plan, report_write);
	close(steal_fd(&report_write));
	got = fdio_read(report_read, &report, sizeof(report));
	while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
		;
	if (got != sizeof(report))
		return error_set(error, -EPROTO, "the helper that makes PID %d has failed", plan->pid);
	return report < 0 ? clone_error(plan->pid, report, error) : 0;
}

static int shell_clone(struct shell_plan *plan, struct error *error)
{
	int r;

	if (plan->parentage == RESTORE_SIBLING && plan->session)
		return error_set(error, -EOPNOTSUPP, "PID %d is in a session whose leader is gone, which a sibling of this "
				 "program cannot be: restore it without --restore-sibling", plan->pid);
	if (plan->parentage == RESTORE_DETACHED || plan->session)
		return clone_by_helper(plan, error);
	r = clone_by_us(plan);
	return r < 0 ? clone_error(plan->pid, r, error) : 0;
}

/*
 * A process that has just been reaped has left /proc some microseconds before its number is free (Linux 6.15 and later):
 * worth a few tries.
 */
static int shell_clone_patiently(struct shell_plan *plan, struct error *error)
{
	const struct timespec pause = { .tv_nsec = 2000000 };
	struct error attempt;
	int r;

	for (int tries = 0;; tries++) {
		struct procfs_stat owner;

		error_clear(&attempt);
		r = shell_clone(plan, &attempt);
		if (r != -EEXIST || tries == SHELL_TRIES || procfs_read_stat(plan->pid, &owner, NULL) == 0)
			break;
		nanosleep(&pause, NULL);
	}
	return r < 0 ? error_set(error, r, "%s", error_text(&attempt, r)) : 0;
}

/* Waits for the next stop of a process that is traced by this thread; polls, so that the deadline holds. */
static int wait_for_stop(pid_t pid, int64_t deadline, int *ret_status, struct error *error)
{
	const struct timespec pause = { .tv_nsec = 50000 };

	for (;;) {
		pid_t got = waitpid(pid, ret_status, __WALL | WNOHANG);

		if (got == pid)
			return WIFSTOPPED(*ret_status)
				       ? 0
				       : error_set(error, -ESRCH, "the shell for PID %d has ended at once", pid);
		if (got < 0 && errno != EINTR)
			return error_set_errno(error, -errno, "cannot wait for PID %d", pid);
		if (clock_now_ns() >= deadline)
			return error_set(error, -ETIMEDOUT, "the shell for PID %d does not start", pid);
		nanosleep(&pause, NULL);
	}
}

static int shell_seize(pid_t pid, int go_write_fd, int64_t deadline, struct error *error)
{
	int status, r;

	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC) < 0)
		return error_set_errno(error, -errno, "cannot trace PID %d", pid);
	r = fdio_write(go_write_fd, "g", 1);
	if (r < 0)
		return error_set_errno(error, r, "cannot start the shell for PID %d", pid);
	for (;;) {
		r = wait_for_stop(pid, deadline, &status, error);
		if (r < 0)
			return r;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8))
			return 0;
		if (ptrace(PTRACE_CONT, pid, 0, 0) < 0)
			return error_set_errno(error, -errno, "cannot start the shell for PID %d", pid);
	}
}

/* One that is no tracee_process yet: what is traced is a zombie until its tracer has seen its end. */
static void shell_kill(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	while (waitpid(pid, &status, __WALL) == pid || errno == EINTR)
		if (WIFSIGNALED(status) || WIFEXITED(status))
			return;
}

int restore_shell_create(struct restore_tree *tree, const TreeProcess *root, struct tracee_process **ret,
			 struct error *error)
{
	pid_t pid = (pid_t)root->pid;
	struct shell_plan plan = { .pid = pid, .parentage = tree->options->parentage,
				   .shares_session = restore_job_shares(tree, (pid_t)root->sid),
				   .session = root->own_session && root->sid != root->pid ? (pid_t)root->sid : 0 };
	struct timens_offsets own;
	_cleanup_fd_ int program_fd = -1, go_read = -1, go_write = -1;
	int64_t deadline = clock_deadline(SHELL_WAIT);
	int pipe_fds[2], r;

	if (tree->deadline < deadline)
		deadline = tree->deadline;
	r = timens_read(0, &own, error);
	if (r == 0)
		r = shell_program(&program_fd, error);
	if (r < 0)
		return r;
	if (memcmp(&own, &tree->clocks.offsets, sizeof(own)) != 0)
		plan.clocks = &tree->clocks.offsets;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_set_errno(error, -errno, "cannot make a pipe");
	go_read = pipe_fds[0];
	go_write = pipe_fds[1];
	plan.program_fd = program_fd;
	plan.go_fd = go_read;
	plan.go_write_fd = go_write;
	r = shell_clone_patiently(&plan, error);
	if (r < 0)
		return r;
	r = shell_seize(pid, go_write, deadline, error);
	if (r == 0)
		r = tracee_process_adopt(pid, 0, NULL, deadline, ret, error);
	if (r < 0)
		shell_kill(pid);
	return r;
}

/* A zombie of a shell is seen by its parent's shell only, which is stopped: it is made to take note. */
static void reap(struct tracee_process *parent, pid_t pid)
{
	int64_t result;

	if (parent && parent->threads.count)
		tracee_thread_call(parent->threads.items[0], clock_deadline(CLOCK_S), &result, NULL, SYS_wait4,
				   (uint64_t)pid, 0, __WALL | WNOHANG, 0, 0, 0);
}

/* The root may be a child of this program. What was killed ends at once. */
static void reap_root(pid_t pid)
{
	const struct timespec pause = { .tv_nsec = 100000 };
	int64_t deadline = clock_deadline(CLOCK_S);

	while (waitpid(pid, NULL, __WALL | WNOHANG) == 0 && clock_now_ns() < deadline)
		nanosleep(&pause, NULL);
}

void restore_shell_end(struct restore_process *process)
{
	/* Of one that is kept, the release alone would be a go. */
	if (process->kept)
		syscall(SYS_pidfd_send_signal, process->tracee->pidfd, SIGKILL, NULL, 0);
	tracee_process_release(process->tracee);
	process->tracee = NULL;
	if (process->parent)
		reap(process->parent->tracee, process->pid);
	else
		reap_root(process->pid);
}

void restore_shell_end_helper(struct tracee_process *maker, struct tracee_process *helper)
{
	pid_t pid = helper->pid;

	tracee_process_release(helper);
	reap(maker, pid);
}

int restore_shell_flush_signals(struct restore_tree *tree, struct restore_process *process, struct error *error)
{
	static const struct timespec at_once = { 0 };
	struct tracee_thread *leader = process->tracee->threads.items[0];
	struct tracee_siginfos pending = { 0 };
	struct tracee_batch *batch;
	uint64_t all = UINT64_MAX;
	int r;

	r = tracee_thread_peek_signals(leader, true, &pending, error);
	if (r == 0)
		r = tracee_thread_peek_signals(leader, false, &pending, error);
	if (r < 0 || pending.count == 0) {
		array_deinit(&pending);
		return r;
	}
	batch = tracee_batch_new();
	if (batch) {
		uint64_t set = tracee_batch_data(batch, &all, sizeof(all));
		uint64_t timeout = tracee_batch_data(batch, &at_once, sizeof(at_once));

		for (size_t i = 0; i < pending.count && i < SHELL_FLUSH_MAX; i++)
			tracee_batch_try(batch, SYS_rt_sigtimedwait, set, 0, timeout, sizeof(all));
		r = tracee_batch_run(leader, batch, tree->deadline, error);
	} else {
		r = error_set_errno(error, -ENOMEM, "cannot take signals out of PID %d", process->pid);
	}
	tracee_batch_free(batch);
	array_deinit(&pending);
	return r;
}
