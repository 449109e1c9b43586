/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tree DIR [zombie]: a family of processes.
 *
 *	root			its session's leader
 *	+- leader		session of its own
 *	|  +- grandchild	in the leader's session, process group of its own
 *	+- group		process group of its own in the root's session
 *	+- mortal		ends at each check, is reaped, and is forked anew
 *	+- zombie		with the argument: ended, and not reaped before the check
 *
 * They talk by pipes: root with each child, the leader with the grandchild. A check asks each who
 *it is and who its relatives are, and wants SIGCHLD and the exit status of those that end.
 */
#include "victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

enum { ASK_WHO = 1, ASK_GRANDCHILD = 2, ASK_LEAVE = 3 };

struct self {
	pid_t pid, parent, group, session; /* what this process must see of itself */
};

struct state {
	struct self root, of_child; /* of_child is set in each child on its own */
	struct victim_peer leader, group, mortal, grandchild;
	pid_t zombie; /* 0: none wanted */
};

static volatile sig_atomic_t children_ended;

static void on_child(int number)
{
	(void)number;
	children_ended = children_ended + 1;
}

static struct self look(void)
{
	return (struct self){
		.pid = getpid(), .parent = getppid(), .group = getpgid(0), .session = getsid(0)};
}

static bool same(const struct self *was, char *text, size_t size)
{
	struct self now = look();

	if (memcmp(was, &now, sizeof(now)) == 0)
		return true;
	snprintf(text, size, "pid %d parent %d group %d session %d, not %d %d %d %d", now.pid,
		 now.parent, now.group, now.session, was->pid, was->parent, was->group,
		 was->session);
	return false;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	struct victim scratch = {0};

	if (s->of_child.pid != getpid())
		s->of_child = look();
	if (request == ASK_WHO)
		same(&s->of_child, text, size);
	if (request == ASK_GRANDCHILD && !victim_peer_ask(&scratch, &s->grandchild, ASK_WHO))
		snprintf(text, size, "%.300s", scratch.reason);
	if (request == ASK_LEAVE)
		_exit(17);
}

/* In the leader, before it serves: becomes one and has its own child. */
static void leader_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;

	if (s->grandchild.pid == 0) {
		MUST(setsid() == getpid());
		victim_peer_fork(&s->grandchild, child_serve, s);
		MUST(setpgid(s->grandchild.pid, s->grandchild.pid) == 0);
	}
	child_serve(context, request, text, size);
}

static void zombie_make(struct state *s)
{
	siginfo_t info;

	s->zombie = fork();
	MUST(s->zombie >= 0);
	if (s->zombie == 0)
		_exit(99);
	MUST(waitid(P_PID, (id_t)s->zombie, &info, WEXITED | WNOWAIT) == 0);
}

static bool reap(struct victim *v, pid_t pid, int wanted, const char *what)
{
	int status = 0;
	pid_t got = 0;

	CHECK(v, WAIT_FOR((got = waitpid(pid, &status, WNOHANG)) != 0, 5000), "%s %d does not end",
	      what, (int)pid);
	CHECK(v, got == pid, "%s %d cannot be reaped: %m", what, (int)pid);
	CHECK(v, WIFEXITED(status) && WEXITSTATUS(status) == wanted, "%s %d: status %x", what,
	      (int)pid, (unsigned int)status);
	return true;
}

static bool mortal_check(struct victim *v, struct state *s)
{
	unsigned char leave = ASK_LEAVE;
	int before = children_ended;

	if (!victim_peer_ask(v, &s->mortal, ASK_WHO))
		return false;
	CHECK(v, write(s->mortal.to, &leave, 1) == 1, "mortal: %m");
	CHECK(v, WAIT_FOR(children_ended > before, 5000), "no SIGCHLD when child %d ended",
	      (int)s->mortal.pid);
	if (!reap(v, s->mortal.pid, 17, "mortal"))
		return false;
	close(s->mortal.to);
	close(s->mortal.from);
	victim_peer_fork(&s->mortal, child_serve, s);
	return victim_peer_ask(v, &s->mortal, ASK_WHO);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char text[VICTIM_TEXT_MAX - 100] = "";

	CHECK(v, same(&s->root, text, sizeof(text)), "root: %s", text);
	CHECK(v, getsid(s->leader.pid) == s->leader.pid && getpgid(s->leader.pid) == s->leader.pid,
	      "the leader leads no session");
	CHECK(v, getsid(s->group.pid) == s->root.session && getpgid(s->group.pid) == s->group.pid,
	      "the child with a group of its own: session %d group %d", getsid(s->group.pid),
	      getpgid(s->group.pid));
	if (!victim_peer_ask(v, &s->leader, ASK_WHO) ||
	    !victim_peer_ask(v, &s->leader, ASK_GRANDCHILD) ||
	    !victim_peer_ask(v, &s->group, ASK_WHO) || !mortal_check(v, s))
		return false;
	if (s->zombie == 0)
		return true;
	if (!reap(v, s->zombie, 99, "zombie"))
		return false;
	zombie_make(s);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};
	struct victim v;

	victim_start(&v, argc, argv);
	MUST(sigaction(SIGCHLD, &action, NULL) == 0);
	s.root = look();
	victim_peer_fork(&s.leader, leader_serve, &s);
	victim_peer_fork(&s.group, child_serve, &s);
	MUST(setpgid(s.group.pid, s.group.pid) == 0);
	victim_peer_fork(&s.mortal, child_serve, &s);
	MUST(victim_peer_ask(&v, &s.leader, ASK_GRANDCHILD));
	MUST(victim_peer_ask(&v, &s.group, ASK_WHO) && victim_peer_ask(&v, &s.mortal, ASK_WHO));
	if (victim_arg_is(&v, "zombie"))
		zombie_make(&s);
	victim_run(&v, verify, &s);
}
