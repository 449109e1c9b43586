/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tables DIR: processes that share a descriptor table, a place in the file system, or both.
 *
 *	root
 *	+- files	the root's descriptors (CLONE_FILES)
 *	|  +- below	the same ones
 *	+- place	the root's working directory and umask (CLONE_FS)
 *	+- both		its own of both,
 *	   +- other	which this one shares
 *
 * A check opens, closes and changes directory in one and looks for it in the others, and for a lock that one of them holds:
 * it is that of all that share the table.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

enum { FILES, BELOW, PLACE, BOTH, OTHER, COUNT };
enum { ASK_OPEN = 1, ASK_CLOSE, ASK_HAS, ASK_GO, ASK_BACK, ASK_IS_THERE, ASK_LOCKED };

#define NUMBER 200
#define LOCKED 201
#define MASK   037

struct state {
	int ask[COUNT][2], answer[COUNT][2]; /* pipes */
	pid_t pid[COUNT];
};

static char serve_one(char request)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	char path[64];
	mode_t mask;
	int fd;

	switch (request) {
	case ASK_OPEN:
		fd = open("/dev/null", O_RDONLY);
		return dup2(fd, NUMBER) == NUMBER && close(fd) == 0;
	case ASK_CLOSE: return close(NUMBER) == 0;
	case ASK_HAS: return fcntl(NUMBER, F_GETFD) >= 0;
	case ASK_GO: umask(MASK); return chdir("/proc") == 0;
	case ASK_BACK: umask(0); return chdir("/") == 0;
	case ASK_IS_THERE:
		mask = umask(0);
		umask(mask);
		return getcwd(path, sizeof(path)) && strcmp(path, "/proc") == 0 && mask == MASK;
	case ASK_LOCKED: return fcntl(LOCKED, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	default: return 0;
	}
}

_Noreturn static void serve(struct state *s, int who)
{
	char byte;

	while (read(s->ask[who][0], &byte, 1) == 1) {
		byte = serve_one(byte);
		MUST(write(s->answer[who][1], &byte, 1) == 1);
	}
	_exit(0);
}

static bool ask(struct state *s, int who, char request)
{
	struct pollfd answer = {.fd = s->answer[who][0], .events = POLLIN};
	char byte = 0;

	if (write(s->ask[who][1], &request, 1) != 1 || poll(&answer, 1, 5000) != 1 || read(answer.fd, &byte, 1) != 1)
		return false;
	return byte;
}

static pid_t make(struct state *s, int who, unsigned long flags, int below, unsigned long flags_below)
{
	pid_t pid = (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);

	MUST(pid >= 0);
	if (pid)
		return pid;
	if (below < COUNT)
		s->pid[below] = make(s, below, flags_below, COUNT, 0);
	serve(s, who);
}

static bool check_files(struct victim *v, struct state *s)
{
	CHECK(v, serve_one(ASK_OPEN), "open: %m");
	CHECK(v, ask(s, FILES, ASK_HAS) && ask(s, BELOW, ASK_HAS), "what the root opens is not in the shared table");
	CHECK(v, !ask(s, PLACE, ASK_HAS) && !ask(s, BOTH, ASK_HAS), "what the root opens is in another table");
	CHECK(v, ask(s, BELOW, ASK_CLOSE), "the grandchild cannot close");
	CHECK(v, !serve_one(ASK_HAS) && !ask(s, FILES, ASK_HAS), "what the grandchild closes stays open");
	CHECK(v, ask(s, OTHER, ASK_OPEN) && ask(s, BOTH, ASK_HAS) && !serve_one(ASK_HAS), "the other pair does not share");
	CHECK(v, ask(s, BOTH, ASK_CLOSE) && !ask(s, OTHER, ASK_HAS), "the other pair does not share a close");
	return true;
}

static bool check_places(struct victim *v, struct state *s)
{
	CHECK(v, ask(s, PLACE, ASK_GO), "chdir");
	CHECK(v, serve_one(ASK_IS_THERE), "the root is not where its child went");
	CHECK(v, !ask(s, FILES, ASK_IS_THERE) && !ask(s, BOTH, ASK_IS_THERE), "others went there, too");
	CHECK(v, serve_one(ASK_BACK) && !ask(s, PLACE, ASK_IS_THERE), "the child does not come back with the root");
	CHECK(v, ask(s, BOTH, ASK_GO) && ask(s, OTHER, ASK_IS_THERE) && !serve_one(ASK_IS_THERE),
	      "the other pair does not go together");
	CHECK(v, ask(s, OTHER, ASK_BACK) && !ask(s, BOTH, ASK_IS_THERE), "the other pair does not come back together");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	CHECK(v, !serve_one(ASK_LOCKED) && !ask(s, BELOW, ASK_LOCKED), "a lock of the shared table is in its own way");
	CHECK(v, ask(s, PLACE, ASK_LOCKED), "the lock is lost");
	return check_files(v, s) && check_places(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	struct victim v;
	int fd;

	victim_start(&v, argc, argv);
	MUST(chdir("/") == 0);
	umask(0);
	for (int i = 0; i < COUNT; i++)
		MUST(pipe(s.ask[i]) == 0 && pipe(s.answer[i]) == 0);
	fd = open(v.argc ? v.argv[0] : victim_path(&v, "locked"), O_RDWR | O_CREAT, 0600);
	MUST(fd >= 0 && dup2(fd, LOCKED) == LOCKED);
	s.pid[FILES] = make(&s, FILES, CLONE_FILES, BELOW, CLONE_FILES);
	s.pid[PLACE] = make(&s, PLACE, CLONE_FS, COUNT, 0);
	s.pid[BOTH] = make(&s, BOTH, 0, OTHER, CLONE_FILES | CLONE_FS);
	MUST(fcntl(LOCKED, F_SETLK, &lock) == 0);
	victim_run(&v, verify, &s);
}
