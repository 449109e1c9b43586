/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stopped DIR: children that a signal has stopped.
 *
 *	by SIGSTOP, and the parent has not waited for it
 *	by SIGSTOP, and the parent has
 *	by SIGTSTP, and the parent has not
 *	by SIGSTOP, with threads, and in the middle of a sleep; the parent has
 *
 * A check wants what wait(2) tells of each, and no SIGCHLD that was not there before; then continues it, wants it to
 * answer, and stops it again.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

struct child {
	const char *what;
	int signal;
	bool seen, threads;
	pid_t pid;
	int ask[2], answer[2];
};

static struct child children[] = {
	{.what = "not seen", .signal = SIGSTOP},
	{.what = "seen", .signal = SIGSTOP, .seen = true},
	{.what = "SIGTSTP", .signal = SIGTSTP},
	{.what = "threads", .signal = SIGSTOP, .seen = true, .threads = true},
};
#define COUNT (sizeof(children) / sizeof(children[0]))

static volatile sig_atomic_t notified;

static void on_child(int signal)
{
	(void)signal;
	notified = notified + 1;
}

static void *sleep_on(void *data)
{
	(void)data;
	for (;;)
		victim_sleep_us(1000 * 1000);
	return NULL;
}

_Noreturn static void serve(struct child *child)
{
	pthread_t thread;
	char byte;

	for (int i = 0; child->threads && i < 3; i++)
		MUST(pthread_create(&thread, NULL, sleep_on, NULL) == 0);
	for (;;) {
		/* Asked without an end: a stop in a call with a timeout is another matter. */
		if (read(child->ask[0], &byte, 1) != 1)
			_exit(0);
		MUST(write(child->answer[1], &byte, 1) == 1);
	}
}

static bool stop(struct victim *v, struct child *child)
{
	siginfo_t info = {.si_pid = 0};
	int options = WSTOPPED | WNOHANG | (child->seen ? 0 : WNOWAIT);

	kill(child->pid, child->signal);
	CHECK(v, WAIT_FOR(waitid(P_PID, (id_t)child->pid, &info, options) == 0 && info.si_pid == child->pid, 5000),
	      "%s: does not stop", child->what);
	return true;
}

static bool answers(struct child *child, int ms)
{
	struct pollfd answer = {.fd = child->answer[0], .events = POLLIN};
	char byte;

	/* SIGCHLD interrupts poll(2). */
	return WAIT_FOR(poll(&answer, 1, 0) == 1, ms) && read(answer.fd, &byte, 1) == 1;
}

static bool check_one(struct victim *v, struct child *child)
{
	siginfo_t info = {.si_pid = 0};

	CHECK(v, waitid(P_PID, (id_t)child->pid, &info, WSTOPPED | WNOHANG) == 0, "%s: %m", child->what);
	if (child->seen)
		CHECK(v, info.si_pid == 0, "%s: its stop is told again (signal %d)", child->what, info.si_status);
	else
		CHECK(v, info.si_pid == child->pid && info.si_status == child->signal, "%s: PID %d, signal %d", child->what,
		      info.si_pid, info.si_status);
	CHECK(v, write(child->ask[1], "", 1) == 1 && !answers(child, 20), "%s: it runs", child->what);
	kill(child->pid, SIGCONT);
	CHECK(v, answers(child, 5000), "%s: it does not go on", child->what);
	info.si_pid = 0;
	CHECK(v, waitid(P_PID, (id_t)child->pid, &info, WCONTINUED | WNOHANG) == 0 && info.si_pid == child->pid,
	      "%s: that it goes on is not told", child->what);
	return stop(v, child);
}

static bool verify(struct victim *v, void *context)
{
	(void)context;
	/* Each stop and each SIGCONT of the last check has told, however many were merged; now none is due. */
	CHECK(v, notified == 0, "SIGCHLD has come %d times since the last check", (int)notified);
	for (size_t i = 0; i < COUNT; i++)
		if (!check_one(v, &children[i]))
			return false;
	notified = 0;
	return true;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
	struct victim v;

	victim_start(&v, argc, argv);
	MUST(sigaction(SIGCHLD, &action, NULL) == 0);
	for (size_t i = 0; i < COUNT; i++) {
		MUST(pipe(children[i].ask) == 0 && pipe(children[i].answer) == 0);
		children[i].pid = fork();
		MUST(children[i].pid >= 0);
		if (children[i].pid == 0) {
			/* A group whose parent is in another one of the session: SIGTSTP stops it. */
			MUST(setpgid(0, 0) == 0);
			serve(&children[i]);
		}
		MUST(write(children[i].ask[1], "", 1) == 1 && answers(&children[i], 5000));
		MUST(stop(&v, &children[i]));
	}
	notified = 0;
	victim_run(&v, verify, NULL);
}
