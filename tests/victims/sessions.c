/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sessions DIR: processes in sessions and groups that they have neither begun nor inherited from who is their parent now.
 *
 *	root			a subreaper, leader of its session
 *	+- daemon		its session's leader has ended (a double fork)
 *	+- helper		in that session, in a group whose leader has ended
 *	+- leader		session of its own
 *	|  +- member		in it
 *	+- given		in the leader's session: its parent in there has ended
 *	+- late			session of its own, begun after it had forked
 *	|  +- early		in the root's session
 *	+- nested		a subreaper
 *	   +- orphan		in a session whose leader has ended, below another that has ended
 *	+- cousin		in that session too
 *
 * Each tells what it is by a pipe when it is asked by another.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { DAEMON, HELPER, LEADER, MEMBER, GIVEN, LATE, EARLY, NESTED, ORPHAN, COUSIN, COUNT };

static const char *const names[COUNT] = {"daemon", "helper", "leader", "member", "given",
					 "late",   "early",  "nested", "orphan", "cousin"};

struct self {
	pid_t pid, parent, group, session;
};

struct state {
	int ask[COUNT][2], answer[COUNT][2]; /* pipes */
	int stage[2];                        /* a byte for each that has done its part */
	struct self root, is[COUNT];
};

static struct self look(void)
{
	return (struct self){.pid = getpid(), .parent = getppid(), .group = getpgid(0), .session = getsid(0)};
}

static void done(struct state *s)
{
	MUST(write(s->stage[1], "", 1) == 1);
}

static void await(struct state *s)
{
	char byte;

	MUST(read(s->stage[0], &byte, 1) == 1);
}

_Noreturn static void serve(struct state *s, int who)
{
	char byte;

	while (read(s->ask[who][0], &byte, 1) == 1) {
		struct self now = look();

		MUST(write(s->answer[who][1], &now, sizeof(now)) == sizeof(now));
	}
	_exit(0);
}

static struct self ask(struct state *s, int who)
{
	struct self now = {.pid = 0};
	struct pollfd answer = {.fd = s->answer[who][0], .events = POLLIN};

	if (write(s->ask[who][1], "", 1) == 1 && poll(&answer, 1, 5000) == 1)
		(void)!read(answer.fd, &now, sizeof(now));
	return now;
}

static pid_t child(void)
{
	pid_t pid = fork();

	MUST(pid >= 0);
	return pid;
}

/* Two forks, the one in between with a session of its own and gone. */
static void make_daemon(struct state *s)
{
	pid_t first = child();

	if (first) {
		MUST(waitpid(first, NULL, 0) == first);
		await(s);
		await(s);
		return;
	}
	MUST(setsid() == getpid());
	if (child())
		_exit(0);
	first = child();
	if (first == 0) {
		/* The leader of its group ends. */
		pid_t group;

		MUST(setpgid(0, 0) == 0);
		group = child();
		if (group == 0) {
			while (getppid() == getpgid(0))
				victim_sleep_us(100);
			done(s);
			serve(s, HELPER);
		}
		_exit(0);
	}
	MUST(waitpid(first, NULL, 0) == first);
	done(s);
	serve(s, DAEMON);
}

static void make_leader(struct state *s)
{
	pid_t between;

	if (child()) {
		for (int i = 0; i < 3; i++)
			await(s);
		return;
	}
	MUST(setsid() == getpid());
	if (child() == 0) {
		done(s);
		serve(s, MEMBER);
	}
	between = child();
	if (between == 0) {
		if (child())
			_exit(0);
		while (getppid() != s->root.pid)
			victim_sleep_us(100);
		done(s);
		serve(s, GIVEN);
	}
	MUST(waitpid(between, NULL, 0) == between);
	done(s);
	serve(s, LEADER);
}

static void make_late(struct state *s)
{
	if (child()) {
		await(s);
		await(s);
		return;
	}
	if (child() == 0) {
		done(s);
		serve(s, EARLY);
	}
	MUST(setsid() == getpid());
	done(s);
	serve(s, LATE);
}

/* The leader is a child of nested before that is a subreaper, and a cousin goes to the root; then an orphan goes to nested. */
static void make_nested(struct state *s)
{
	pid_t leader, between;

	if (child()) {
		for (int i = 0; i < 3; i++)
			await(s);
		return;
	}
	leader = child();
	if (leader == 0) {
		MUST(setsid() == getpid());
		between = child();
		if (between == 0) {
			if (child())
				_exit(0);
			while (getppid() != s->root.pid)
				victim_sleep_us(100);
			done(s);
			serve(s, COUSIN);
		}
		MUST(waitpid(between, NULL, 0) == between);
		kill(getpid(), SIGSTOP);
		if (child())
			_exit(0);
		while (getppid() == leader || getppid() == getsid(0))
			victim_sleep_us(100);
		done(s);
		serve(s, ORPHAN);
	}
	MUST(waitpid(leader, NULL, WUNTRACED) == leader);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	kill(leader, SIGCONT);
	MUST(waitpid(leader, NULL, 0) == leader);
	done(s);
	serve(s, NESTED);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct self now = look();

	CHECK(v, memcmp(&now, &s->root, sizeof(now)) == 0, "the root is another one");
	for (int i = 0; i < COUNT; i++) {
		now = ask(s, i);
		CHECK(v, memcmp(&now, &s->is[i], sizeof(now)) == 0,
		      "%s: pid %d parent %d group %d session %d, not %d %d %d %d", names[i], now.pid, now.parent, now.group,
		      now.session, s->is[i].pid, s->is[i].parent, s->is[i].group, s->is[i].session);
	}
	CHECK(v, waitpid(-1, NULL, WNOHANG) == 0, "a child has ended that was not there before");
	return true;
}

/* That the cases are what they are called. */
static bool are_right(const struct state *s)
{
	const struct self *is = s->is;
	pid_t root = s->root.pid;

	return is[DAEMON].parent == root && kill(is[DAEMON].session, 0) < 0 && is[HELPER].session == is[DAEMON].session &&
	       is[HELPER].parent == root && is[HELPER].group != is[HELPER].session && kill(is[HELPER].group, 0) < 0 &&
	       is[GIVEN].parent == root && is[GIVEN].session == is[LEADER].pid &&
	       is[EARLY].session == s->root.session && is[EARLY].parent == is[LATE].pid &&
	       is[LATE].session == is[LATE].pid && is[ORPHAN].parent == is[NESTED].pid && is[COUSIN].parent == root &&
	       is[COUSIN].session == is[ORPHAN].session && kill(is[ORPHAN].session, 0) < 0;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	s.root = look();
	MUST(pipe(s.stage) == 0);
	for (int i = 0; i < COUNT; i++)
		MUST(pipe(s.ask[i]) == 0 && pipe(s.answer[i]) == 0);
	make_daemon(&s);
	make_leader(&s);
	make_late(&s);
	make_nested(&s);
	for (int i = 0; i < COUNT; i++)
		s.is[i] = ask(&s, i);
	MUST(are_right(&s));
	victim_run(&v, verify, &s);
}
