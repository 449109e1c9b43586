/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * zombies DIR: children that have ended and were not waited for before the check, which wants the status and the user of each,
 * and then ends others in their places.
 *
 *	exits with 0 and 99; by SIGKILL, SIGTERM, SIGUSR1, the last real-time signal and SIGABRT, which would write a core
 *	one of another user
 *	leader of a session, with a child in it that lives on and was given to the root
 *	one that was given to the root when its parent ended
 *	one in a process group that it leads
 *	one that sent another signal than SIGCHLD (clone(2))
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define USER 1234

struct zombie {
	const char *what;
	int code;   /* of its exit, or */
	int signal; /* by which it ended; 0: by exit */
	uid_t uid;
	int notify; /* signal to the parent */
	bool leads_session, leads_group, is_orphan;
	pid_t pid;
};

static struct zombie zombies[] = {
	{.what = "exit 0", .notify = SIGCHLD},
	{.what = "exit 99", .code = 99, .notify = SIGCHLD},
	{.what = "SIGKILL", .signal = SIGKILL, .notify = SIGCHLD},
	{.what = "SIGTERM", .signal = SIGTERM, .notify = SIGCHLD},
	{.what = "SIGUSR1", .signal = SIGUSR1, .notify = SIGCHLD},
	{.what = "SIGRTMAX", .signal = 64, .notify = SIGCHLD},
	{.what = "SIGABRT", .signal = SIGABRT, .notify = SIGCHLD},
	{.what = "another user", .code = 7, .uid = USER, .notify = SIGCHLD},
	{.what = "leader", .code = 8, .notify = SIGCHLD, .leads_session = true},
	{.what = "group", .code = 9, .notify = SIGCHLD, .leads_group = true},
	{.what = "orphan", .code = 10, .notify = SIGCHLD, .is_orphan = true},
	{.what = "clone", .code = 11, .notify = SIGUSR2},
};
#define COUNT (sizeof(zombies) / sizeof(zombies[0]))

struct state {
	pid_t survivor; /* in the session of the leader */
};

static void end_as(const struct zombie *zombie)
{
	struct rlimit none = {0, 0};

	MUST(setrlimit(RLIMIT_CORE, &none) == 0 && prctl(PR_SET_DUMPABLE, 0) == 0);
	MUST(prctl(PR_SET_NAME, zombie->what) == 0);
	if (zombie->leads_group)
		MUST(setpgid(0, 0) == 0);
	if (zombie->uid)
		MUST(setresuid(zombie->uid, zombie->uid, zombie->uid) == 0);
	if (zombie->signal) {
		signal(zombie->signal, SIG_DFL);
		kill(getpid(), zombie->signal);
	}
	_exit(zombie->code);
}

static pid_t clone_with(int notify)
{
	struct clone_args arguments = {.exit_signal = (uint64_t)notify};
	pid_t pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));

	MUST(pid >= 0);
	return pid;
}

/* Its PID comes by a pipe, as it is no child of ours at first. */
static pid_t fork_by_another(const struct zombie *zombie)
{
	int fds[2], status;
	pid_t parent, pid = 0;

	MUST(pipe(fds) == 0);
	parent = clone_with(SIGCHLD);
	if (parent == 0) {
		pid = clone_with(SIGCHLD);
		if (pid == 0) {
			/* Not before it is the root's. */
			while (getppid() == parent || getppid() != (pid_t)zombie->pid)
				victim_sleep_us(100);
			end_as(zombie);
		}
		_exit(write(fds[1], &pid, sizeof(pid)) != sizeof(pid));
	}
	MUST(read(fds[0], &pid, sizeof(pid)) == sizeof(pid));
	MUST(waitpid(parent, &status, 0) == parent && status == 0);
	close(fds[0]);
	close(fds[1]);
	return pid;
}

/* Begins a session, leaves a member behind, ends. */
static pid_t fork_leader(const struct zombie *zombie, pid_t *ret_survivor)
{
	int fds[2];
	pid_t pid, other;

	MUST(pipe(fds) == 0);
	pid = clone_with(SIGCHLD);
	if (pid == 0) {
		MUST(setsid() == getpid());
		other = clone_with(SIGCHLD);
		if (other == 0) {
			close(fds[0]);
			close(fds[1]);
			for (;;)
				pause();
		}
		MUST(write(fds[1], &other, sizeof(other)) == sizeof(other));
		end_as(zombie);
	}
	MUST(read(fds[0], ret_survivor, sizeof(*ret_survivor)) == sizeof(*ret_survivor));
	close(fds[0]);
	close(fds[1]);
	return pid;
}

static void make(struct state *s, struct zombie *zombie)
{
	siginfo_t info;

	if (zombie->is_orphan) {
		zombie->pid = getpid(); /* whose child it waits to be */
		zombie->pid = fork_by_another(zombie);
	} else if (zombie->leads_session) {
		zombie->pid = fork_leader(zombie, &s->survivor);
	} else {
		zombie->pid = clone_with(zombie->notify);
		if (zombie->pid == 0)
			end_as(zombie);
	}
	MUST(waitid(P_PID, (id_t)zombie->pid, &info, WEXITED | WNOWAIT | __WALL) == 0);
}

static bool check_one(struct victim *v, const struct zombie *zombie)
{
	char path[64], text[1024];
	siginfo_t info = {.si_pid = 0};
	pid_t group = zombie->leads_session || zombie->leads_group ? zombie->pid : getpgid(0);

	snprintf(path, sizeof(path), "/proc/%d/comm", zombie->pid);
	CHECK(v, victim_slurp(path, text, sizeof(text)) > 0, "%s: %s: %m", zombie->what, path);
	text[strcspn(text, "\n")] = '\0';
	CHECK(v, strcmp(text, zombie->what) == 0, "%s is called %s", zombie->what, text);
	CHECK(v, getpgid(zombie->pid) == group, "%s: group %d, not %d", zombie->what, getpgid(zombie->pid), group);
	CHECK(v, waitid(P_PID, (id_t)zombie->pid, &info, WEXITED | WNOHANG | __WALL) == 0 && info.si_pid == zombie->pid,
	      "%s: nothing to wait for: %m", zombie->what);
	CHECK(v, info.si_uid == zombie->uid, "%s: user %d", zombie->what, (int)info.si_uid);
	if (zombie->signal)
		CHECK(v, (info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED) && info.si_status == zombie->signal,
		      "%s: code %d status %d", zombie->what, info.si_code, info.si_status);
	else
		CHECK(v, info.si_code == CLD_EXITED && info.si_status == zombie->code, "%s: code %d status %d",
		      zombie->what, info.si_code, info.si_status);
	return true;
}

static bool check_survivor(struct victim *v, struct state *s, pid_t leader)
{
	int status;

	CHECK(v, getsid(s->survivor) == leader && getpgid(s->survivor) == leader,
	      "the member of the session %d is in session %d, group %d", leader, getsid(s->survivor),
	      getpgid(s->survivor));
	kill(s->survivor, SIGTERM);
	CHECK(v, WAIT_FOR(waitpid(s->survivor, &status, WNOHANG) == s->survivor, 5000),
	      "the member of the session is no child");
	CHECK(v, WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "the member of the session: status %x",
	      (unsigned)status);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	for (size_t i = 0; i < COUNT; i++) {
		if (!check_one(v, &zombies[i]))
			return false;
		if (zombies[i].leads_session && !check_survivor(v, s, zombies[i].pid))
			return false;
	}
	CHECK(v, waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD, "there are other children");
	for (size_t i = 0; i < COUNT; i++)
		make(s, &zombies[i]);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	signal(SIGUSR2, SIG_IGN);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	for (size_t i = 0; i < COUNT; i++)
		make(&s, &zombies[i]);
	victim_run(&v, verify, &s);
}
