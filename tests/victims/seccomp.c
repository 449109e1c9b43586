/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * seccomp DIR [sync]: threads that are restricted by seccomp(2), by filters that let the thread's own work pass, answer some
 * calls with an error, and kill the process for others, such as a debugger would have it make.
 *
 * Without "sync": the first thread has two filters, a second one a third on top, of its own, and no_new_privs; another is in
 * strict mode and echoes bytes; the last has none. With "sync": all threads have got their filters at once; at each check
 * one more is put on all of them, which the kernel allows only if they still have the same ones.
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define REFUSED_ALL EPROTO /* what getpriority(2) answers, and in the second thread getsid(2) */
#define REFUSED_ONE ENOTUNIQ

#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ON_CALL(call, answer) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, answer)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

struct member {
	pid_t tid;
	atomic_int asked, answered; /* rounds */
	int error;                  /* of getsid(2) in the last round */
	int no_new_privs;
};

struct state {
	struct member filtered, plain;
	pid_t strict;             /* its TID, 0: none */
	int to_strict[2], from_strict[2];
	bool sync;
	int filters; /* that the first thread has */
};

static void filter_add(struct sock_filter *code, size_t count, unsigned long flags)
{
	struct sock_fprog program = {.len = (unsigned short)count, .filter = code};

	MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

static void filters_add(unsigned long flags)
{
	struct sock_filter refuse[] = {NUMBER, ON_CALL(SYS_getpriority, SECCOMP_RET_ERRNO | REFUSED_ALL), ALLOW};
	struct sock_filter kill[] = {NUMBER,
				     ON_CALL(SYS_prlimit64, SECCOMP_RET_KILL_PROCESS),
				     ON_CALL(SYS_capget, SECCOMP_RET_KILL_PROCESS),
				     ON_CALL(SYS_getresuid, SECCOMP_RET_KILL_PROCESS),
				     ON_CALL(SYS_userfaultfd, SECCOMP_RET_KILL_PROCESS),
				     ON_CALL(SYS_getitimer, SECCOMP_RET_KILL_PROCESS),
				     ON_CALL(SYS_membarrier, SECCOMP_RET_KILL_PROCESS),
				     ON_CALL(SYS_tgkill, SECCOMP_RET_KILL_PROCESS),
				     ALLOW};

	filter_add(refuse, sizeof(refuse) / sizeof(refuse[0]), flags);
	filter_add(kill, sizeof(kill) / sizeof(kill[0]), flags | SECCOMP_FILTER_FLAG_LOG);
}

static void member_serve(struct member *m)
{
	for (;;) {
		if (atomic_load(&m->asked) == atomic_load(&m->answered)) {
			victim_sleep_us(500);
			continue;
		}
		m->error = syscall(SYS_getsid, 0) < 0 ? errno : 0;
		m->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
		atomic_fetch_add(&m->answered, 1);
	}
}

static void *filtered_run(void *context)
{
	struct sock_filter refuse[] = {NUMBER, ON_CALL(SYS_getsid, SECCOMP_RET_ERRNO | REFUSED_ONE), ALLOW};
	struct state *s = context;

	if (!s->sync) {
		filters_add(0);
		MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
		filter_add(refuse, sizeof(refuse) / sizeof(refuse[0]), 0);
	}
	*(volatile pid_t *)&s->filtered.tid = (pid_t)syscall(SYS_gettid);
	member_serve(&s->filtered);
	return NULL;
}

static void *plain_run(void *context)
{
	struct state *s = context;

	*(volatile pid_t *)&s->plain.tid = (pid_t)syscall(SYS_gettid);
	member_serve(&s->plain);
	return NULL;
}

/* Nothing but read, write, exit and sigreturn from here on. */
static void *strict_run(void *context)
{
	struct state *s = context;
	char byte;

	s->strict = (pid_t)syscall(SYS_gettid);
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
	while (syscall(SYS_read, s->to_strict[0], &byte, 1) == 1) {
		byte++;
		syscall(SYS_write, s->from_strict[1], &byte, 1);
	}
	syscall(SYS_exit, 0);
	return NULL;
}

static bool number_is(struct victim *v, pid_t tid, const char *name, int wanted)
{
	char path[64], value[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	CHECK(v, victim_status_line(path, name, value, sizeof(value)), "no %s of thread %d", name, tid);
	CHECK(v, atoi(value) == wanted, "%s of thread %d is %s, not %d", name, tid, value, wanted);
	return true;
}

static bool member_ask(struct victim *v, struct member *m, int error, int no_new_privs)
{
	int round = atomic_fetch_add(&m->asked, 1) + 1;

	CHECK(v, WAIT_FOR(atomic_load(&m->answered) == round, 5000), "thread %d does not answer", m->tid);
	CHECK(v, m->error == error, "getsid in thread %d: error %d, not %d", m->tid, m->error, error);
	CHECK(v, m->no_new_privs == no_new_privs, "no_new_privs of thread %d is %d", m->tid, m->no_new_privs);
	return true;
}

static bool killed_check(struct victim *v)
{
	struct rlimit limit;
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
		_exit(0);
	}
	CHECK(v, child > 0 && waitpid(child, &status, 0) == child, "fork: %m");
	CHECK(v, WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "a call that kills: status %x", (unsigned int)status);
	return true;
}

static bool strict_check(struct victim *v, struct state *s)
{
	char sent = (char)v->number, got = 0;

	CHECK(v, write(s->to_strict[1], &sent, 1) == 1 && read(s->from_strict[0], &got, 1) == 1 && got == (char)(sent + 1),
	      "the strict thread answers %d to %d", got, sent);
	return number_is(v, s->strict, "Seccomp", SECCOMP_MODE_STRICT);
}

static bool verify(struct victim *v, void *context)
{
	struct sock_filter allow[] = {ALLOW};
	struct sock_fprog program = {.len = 1, .filter = allow};
	struct state *s = context;

	errno = 0;
	CHECK(v, getpriority(PRIO_PROCESS, 0) == -1 && errno == REFUSED_ALL, "getpriority: error %d", errno);
	CHECK(v, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0, "no_new_privs is set");
	if (!number_is(v, getpid(), "Seccomp_filters", s->filters) || !killed_check(v))
		return false;
	if (!s->sync)
		return number_is(v, s->filtered.tid, "Seccomp_filters", 3) && number_is(v, s->plain.tid, "Seccomp", 0) &&
		       member_ask(v, &s->filtered, REFUSED_ONE, 1) && member_ask(v, &s->plain, 0, 0) && strict_check(v, s);
	if (!number_is(v, s->plain.tid, "Seccomp_filters", s->filters) || !member_ask(v, &s->plain, 0, 0))
		return false;
	CHECK(v, syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0,
	      "another filter for all threads: %m");
	s->filters++;
	return number_is(v, s->filtered.tid, "Seccomp_filters", s->filters);
}

int main(int argc, char **argv)
{
	static struct state s;
	pthread_t thread;
	struct victim v;

	victim_start(&v, argc, argv);
	s.sync = victim_arg_is(&v, "sync");
	s.filters = 2;
	MUST(pipe2(s.to_strict, O_CLOEXEC) == 0 && pipe2(s.from_strict, O_CLOEXEC) == 0);
	MUST(pthread_create(&thread, NULL, filtered_run, &s) == 0 && pthread_create(&thread, NULL, plain_run, &s) == 0);
	MUST(WAIT_FOR(*(volatile pid_t *)&s.filtered.tid && *(volatile pid_t *)&s.plain.tid, 5000));
	if (!s.sync) {
		MUST(pthread_create(&thread, NULL, strict_run, &s) == 0);
		MUST(WAIT_FOR(*(volatile pid_t *)&s.strict != 0, 5000));
	}
	filters_add(s.sync ? SECCOMP_FILTER_FLAG_TSYNC : 0);
	victim_run(&v, verify, &s);
}
