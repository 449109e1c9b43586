/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * procattr DIR [chroot]: attributes of a process: limits, umask, working directory, exe link,
 * command line (part of which is overwritten in place, as servers do to show their state),
 * environment, auxiliary vector, personality, nice, I/O priority, name, and what prctl and
 * /proc/self set. With "chroot" its root is DIR, and what needs /proc is left out.
 */
#include "victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FILES 6
#define IOPRIO 0x4005 /* best effort class, level 5 */

/* Files of /proc/self that must read as they did. */
static const char *const files[FILES] = {"cmdline",	"environ",	 "auxv",
					 "personality", "oom_score_adj", "coredump_filter"};

struct state {
	char texts[FILES][16384];
	ssize_t sizes[FILES];
	char exe[512], cwd[512];
	struct rlimit limits[RLIM_NLIMITS];
	bool jailed;
};

static bool proc_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return good;
}

static void limits_setup(struct state *s)
{
	static const struct {
		int which;
		rlim_t soft, hard;
	} wanted[] = {{RLIMIT_NOFILE, 777, 1234},
		      {RLIMIT_CORE, 0, 4096},
		      {RLIMIT_STACK, 6 << 20, RLIM_INFINITY},
		      {RLIMIT_CPU, 500000, 600000},
		      {RLIMIT_MSGQUEUE, 10000, 20000},
		      {RLIMIT_SIGPENDING, 555, 666}};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		struct rlimit now, limit = {wanted[i].soft, wanted[i].hard};

		MUST(getrlimit(wanted[i].which, &now) == 0);
		if (limit.rlim_max > now.rlim_max)
			limit.rlim_max = now.rlim_max;
		if (limit.rlim_cur > limit.rlim_max)
			limit.rlim_cur = limit.rlim_max;
		MUST(setrlimit(wanted[i].which, &limit) == 0);
	}
	for (int i = 0; i < RLIM_NLIMITS; i++)
		MUST(getrlimit((__rlimit_resource_t)i, &s->limits[i]) == 0);
}

static void jail_setup(struct victim *v, struct state *s)
{
	/* The protocol's files must be within reach from inside, so the jail is DIR itself. */
	MUST(mkdir(victim_path(v, "sub"), 0755) == 0);
	MUST(chroot(v->dir) == 0 && chdir("/sub") == 0);
	strcpy(v->dir, "");
	s->jailed = true;
}

static void setup(struct victim *v, struct state *s, char **argv)
{
	limits_setup(s);
	umask(027);
	MUST(setpriority(PRIO_PROCESS, 0, 5) == 0);
	MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO) == 0);
	MUST(personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC) >= 0);
	MUST(prctl(PR_SET_NAME, "pro) c 7") == 0 && prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && prctl(PR_SET_TIMERSLACK, 123456) == 0);
	MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	MUST(proc_write("/proc/self/oom_score_adj", "123") &&
	     proc_write("/proc/self/coredump_filter", "0x17"));
	/* The program's own name on the command line, as setproctitle would change it. */
	argv[0][0] = 'X';
	for (int i = 0; i < FILES; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/%s", files[i]);
		s->sizes[i] = victim_slurp(path, s->texts[i], sizeof(s->texts[i]));
		MUST(s->sizes[i] >= 0);
	}
	MUST(s->texts[0][0] == 'X' && readlink("/proc/self/exe", s->exe, sizeof(s->exe) - 1) > 0);
	if (victim_arg_is(v, "chroot")) {
		jail_setup(v, s);
	} else {
		MUST(mkdir(victim_path(v, "sub dir"), 0755) == 0 &&
		     chdir(victim_path(v, "sub dir")) == 0);
	}
	MUST(getcwd(s->cwd, sizeof(s->cwd)) != NULL);
}

static bool proc_check(struct victim *v, const struct state *s)
{
	static char text[16384];
	char path[64], link[512] = "";

	for (int i = 0; i < FILES; i++) {
		ssize_t size;

		snprintf(path, sizeof(path), "/proc/self/%s", files[i]);
		size = victim_slurp(path, text, sizeof(text));
		CHECK(v, size == s->sizes[i] && memcmp(text, s->texts[i], (size_t)size) == 0,
		      "%s differs: %zd bytes '%.60s', was %zd bytes '%.60s'", path, size, text,
		      s->sizes[i], s->texts[i]);
	}
	CHECK(v,
	      readlink("/proc/self/exe", link, sizeof(link) - 1) > 0 && strcmp(link, s->exe) == 0,
	      "exe is %s, not %s", link, s->exe);
	return true;
}

static bool prctl_check(struct victim *v)
{
	char name[17] = "";
	int value = 0;

	CHECK(v, prctl(PR_GET_NAME, name) == 0 && strcmp(name, "pro) c 7") == 0, "the name is '%s'",
	      name);
	CHECK(v, prctl(PR_GET_PDEATHSIG, &value) == 0 && value == SIGUSR2, "PDEATHSIG is %d",
	      value);
	CHECK(v, prctl(PR_GET_CHILD_SUBREAPER, &value) == 0 && value == 1,
	      "no child subreaper any more");
	CHECK(v, prctl(PR_GET_TIMERSLACK) == 123456, "timer slack is %d", prctl(PR_GET_TIMERSLACK));
	CHECK(v, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "THP_DISABLE is off");
	CHECK(v, personality(0xffffffff) == (ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC),
	      "personality is %x", (unsigned int)personality(0xffffffff));
	CHECK(v, getpriority(PRIO_PROCESS, 0) == 5, "nice is %d", getpriority(PRIO_PROCESS, 0));
	CHECK(v, syscall(SYS_ioprio_get, 1, 0) == IOPRIO, "I/O priority is %lx",
	      syscall(SYS_ioprio_get, 1, 0));
	return true;
}

static bool limits_check(struct victim *v, const struct state *s)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit now;

		CHECK(v, getrlimit((__rlimit_resource_t)i, &now) == 0, "getrlimit: %m");
		CHECK(v,
		      now.rlim_cur == s->limits[i].rlim_cur &&
			      now.rlim_max == s->limits[i].rlim_max,
		      "limit %d is %lld/%lld, not %lld/%lld", i, (long long)now.rlim_cur,
		      (long long)now.rlim_max, (long long)s->limits[i].rlim_cur,
		      (long long)s->limits[i].rlim_max);
	}
	for (int i = 0; i < 800; i++) {
		int fd = dup(0);

		CHECK(v, fd >= 0 || (errno == EMFILE && i > 700), "dup number %d: %m", i);
		if (fd < 0) {
			close_range(3, ~0u, 0);
			return true;
		}
	}
	close_range(3, ~0u, 0);
	return victim_fail(v, "the limit of 777 descriptors has no effect");
}

/* A grandchild whose parent has died must come to this process, being the subreaper. */
static bool subreaper_check(struct victim *v)
{
	pid_t self = getpid(), child, grandchild = 0;
	int ends[2], status;

	CHECK(v, pipe2(ends, O_CLOEXEC) == 0 && (child = fork()) >= 0, "fork: %m");
	if (child == 0) {
		grandchild = fork();
		if (grandchild == 0)
			_exit(WAIT_FOR(getppid() == self, 5000) ? 41 : 42);
		_exit(write(ends[1], &grandchild, sizeof(grandchild)) == sizeof(grandchild) ? 0
											    : 1);
	}
	CHECK(v, waitpid(child, &status, 0) == child && status == 0, "child: status %x",
	      (unsigned int)status);
	CHECK(v, read(ends[0], &grandchild, sizeof(grandchild)) == sizeof(grandchild),
	      "no grandchild");
	close(ends[0]);
	close(ends[1]);
	CHECK(v, waitpid(grandchild, &status, 0) == grandchild,
	      "the grandchild did not come to the subreaper: %m");
	CHECK(v, WIFEXITED(status) && WEXITSTATUS(status) == 41, "grandchild: status %x",
	      (unsigned int)status);
	return true;
}

static bool files_check(struct victim *v, const struct state *s)
{
	char cwd[512] = "";
	struct stat st;
	int fd;

	CHECK(v, getcwd(cwd, sizeof(cwd)) != NULL && strcmp(cwd, s->cwd) == 0,
	      "working directory is %s, not %s", cwd, s->cwd);
	fd = open("relative", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	CHECK(v, fd >= 0, "a file in the working directory: %m");
	CHECK(v, fstat(fd, &st) == 0 && (st.st_mode & 0777) == 0640, "umask has no effect: mode %o",
	      st.st_mode);
	close(fd);
	CHECK(v, stat(s->jailed ? "/sub/relative" : victim_path(v, "sub dir/relative"), &st) == 0,
	      "the working directory is another one");
	CHECK(v, unlink("relative") == 0, "unlink: %m");
	CHECK(v, !s->jailed || stat("/usr", &st) < 0, "the root is not the jail any more");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (!files_check(v, s) || !limits_check(v, s) || !prctl_check(v))
		return false;
	return subreaper_check(v) && (s->jailed || proc_check(v, s));
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s, argv);
	victim_run(&v, verify, &s);
}
