/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands for processes: files of /proc of this process, of a thread and of a child, some read in part; pidfds of them and
 * of children that have ended; descriptors of namespaces. A check reads each, and ends the child through its pidfd.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PIDFD_THREAD_FLAG O_EXCL

enum { EXITED, KILLED, ENDED };

struct state {
	int status, comm, memory, maps;	 /* /proc/self, and of the thread */
	int directory, tasks;		 /* /proc/self/fd, /proc/self/task */
	int child_stat, child_directory; /* /proc/CHILD */
	int version;			 /* /proc/version, read in part */
	int network, mounts;		 /* namespaces */
	int self, thread_fd, child_fd;	 /* pidfds */
	int ended[ENDED];
	int zombie;			 /* pidfd of a child that has ended, and was not waited for */
	pid_t thread, child;
	uint64_t word;		  /* found again through /proc/self/mem */
	char version_text[512];	  /* all of it */
	size_t version_position;
};

static void *sleeper(void *context)
{
	struct state *s = context;

	__atomic_store_n(&s->thread, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

static int process_open(pid_t pid, unsigned int flags)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, flags);

	MUST(fd >= 0);
	return fd;
}

static pid_t child_start(void)
{
	pid_t child = fork();

	MUST(child >= 0);
	if (child == 0) {
		close_range(0, UINT32_MAX, 0); /* files of the child before it, which is gone */
		for (;;)
			pause();
	}
	return child;
}

/* A pidfd of a child that is gone already. */
static int ended_child(int exit_status)
{
	pid_t child = fork();
	int fd, status;

	MUST(child >= 0);
	if (child == 0) {
		if (exit_status < 0)
			raise(SIGKILL);
		_exit(exit_status);
	}
	fd = process_open(child, exit_status < 0 ? O_NONBLOCK : 0);
	MUST(waitpid(child, &status, 0) == child);
	return fd;
}

static int zombie_child(void)
{
	siginfo_t info;
	pid_t child = fork();

	MUST(child >= 0);
	if (child == 0)
		_exit(17);
	MUST(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
	return process_open(child, 0);
}

static int proc_open(const char *format, pid_t pid, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), format, pid);
	fd = open(path, flags);
	MUST(fd >= 0);
	return fd;
}

/* The child's files and pidfd, at numbers that stay. */
static void child_open(struct state *s)
{
	int files[3];

	s->child = child_start();
	files[0] = proc_open("/proc/%d/stat", s->child, O_RDONLY | O_CLOEXEC);
	files[1] = proc_open("/proc/%d", s->child, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	files[2] = process_open(s->child, 0);
	if (s->child_fd == 0) {
		s->child_stat = files[0];
		s->child_directory = files[1];
		s->child_fd = files[2];
		return;
	}
	MUST(dup3(files[0], s->child_stat, O_CLOEXEC) >= 0 && close(files[0]) == 0);
	MUST(dup3(files[1], s->child_directory, O_CLOEXEC) >= 0 && close(files[1]) == 0);
	MUST(dup3(files[2], s->child_fd, O_CLOEXEC) >= 0 && close(files[2]) == 0);
}

static void setup(struct state *s)
{
	pthread_t thread;
	char path[64];
	int whole;

	s->word = 0x1122334455667788;
	MUST(pthread_create(&thread, NULL, sleeper, s) == 0);
	MUST(WAIT_FOR(__atomic_load_n(&s->thread, __ATOMIC_ACQUIRE) != 0, 5000));
	s->status = open("/proc/self/status", O_RDONLY);
	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", s->thread);
	s->comm = open(path, O_RDWR | O_CLOEXEC);
	s->memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	s->maps = open("/proc/self/maps", O_RDONLY);
	s->directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
	s->tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_PATH);
	MUST(s->status >= 0 && s->comm >= 0 && s->memory >= 0 && s->maps >= 0 && s->directory >= 0 && s->tasks >= 0);
	s->version = open("/proc/version", O_RDONLY);
	whole = open("/proc/version", O_RDONLY);
	MUST(read(whole, s->version_text, sizeof(s->version_text) - 1) > 20 && close(whole) == 0);
	s->version_position = 10;
	MUST(read(s->version, path, 10) == 10);
	s->network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	s->mounts = open("/proc/self/ns/mnt", O_RDONLY);
	MUST(s->network >= 0 && s->mounts >= 0);
	s->self = process_open(getpid(), O_NONBLOCK);
	s->thread_fd = (int)syscall(SYS_pidfd_open, s->thread, PIDFD_THREAD_FLAG); /* -1: older than Linux 6.9 */
	s->ended[EXITED] = ended_child(42);
	s->ended[KILLED] = ended_child(-1);
	s->zombie = zombie_child();
	child_open(s);
}

static bool begins(int fd, const char *text)
{
	char found[64] = {0};
	size_t length = strlen(text);

	return pread(fd, found, length, 0) == (ssize_t)length && memcmp(found, text, length) == 0;
}

static bool files_check(struct victim *v, struct state *s)
{
	char text[2048], wanted[64], *line;
	uint64_t word = 0;
	struct stat st;
	ssize_t got;

	CHECK(v, lseek(s->status, 0, SEEK_SET) == 0 && (got = read(s->status, text, sizeof(text) - 1)) > 0,
	      "/proc/self/status: %m");
	text[got] = '\0';
	line = strstr(text, "\nPid:");
	CHECK(v, line != NULL && atoi(line + 5) == getpid(), "/proc/self/status is of another process");
	CHECK(v, write(s->comm, "named", 5) == 5 && begins(s->comm, "named\n"), "comm of the thread: %m");
	CHECK(v, pread(s->memory, &word, sizeof(word), (off_t)(uintptr_t)&s->word) == sizeof(word) && word == s->word,
	      "/proc/self/mem shows %llx", (unsigned long long)word);
	snprintf(wanted, sizeof(wanted), "%d (", s->child);
	CHECK(v, begins(s->child_stat, wanted), "/proc/CHILD/stat is not the child's");
	CHECK(v, fstatat(s->child_directory, "status", &st, 0) == 0, "/proc/CHILD: %m");
	CHECK(v, lseek(s->maps, 0, SEEK_SET) == 0 && read(s->maps, text, 100) == 100, "/proc/self/maps: %m");
	snprintf(wanted, sizeof(wanted), "%d", s->status);
	CHECK(v, faccessat(s->directory, wanted, F_OK, AT_SYMLINK_NOFOLLOW) == 0, "/proc/self/fd: %m");
	snprintf(wanted, sizeof(wanted), "%d", s->thread);
	CHECK(v, fstatat(s->tasks, wanted, &st, 0) == 0, "/proc/self/task: %m");
	return true;
}

static bool version_check(struct victim *v, struct state *s)
{
	char text[5];

	CHECK(v, read(s->version, text, 5) == 5 && memcmp(text, s->version_text + s->version_position, 5) == 0,
	      "/proc/version does not go on where it was");
	s->version_position += 5;
	return true;
}

static bool namespaces_check(struct victim *v, struct state *s)
{
	struct stat own, found;

	CHECK(v, stat("/proc/self/ns/net", &own) == 0 && fstat(s->network, &found) == 0 && own.st_ino == found.st_ino,
	      "the network namespace is another one");
	CHECK(v, stat("/proc/self/ns/mnt", &own) == 0 && fstat(s->mounts, &found) == 0 && own.st_ino == found.st_ino,
	      "the mount namespace is another one");
	return true;
}

/* Readable: it has ended. */
static bool has_ended(int fd, int timeout)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, timeout) == 1 && (poll_fd.revents & POLLIN);
}

static bool pidfds_check(struct victim *v, struct state *s)
{
	siginfo_t info = {0};

	CHECK(v, fcntl(s->self, F_GETFL) & O_NONBLOCK && fcntl(s->ended[KILLED], F_GETFL) & O_NONBLOCK &&
		      !(fcntl(s->child_fd, F_GETFL) & O_NONBLOCK), "O_NONBLOCK is lost");
	CHECK(v, syscall(SYS_pidfd_send_signal, s->self, 0, NULL, 0) == 0, "own pidfd: %m");
	CHECK(v, !has_ended(s->self, 0) && !has_ended(s->child_fd, 0), "a pidfd says that a living process has ended");
	if (s->thread_fd >= 0)
		CHECK(v, syscall(SYS_pidfd_send_signal, s->thread_fd, 0, NULL, 0) == 0 && !has_ended(s->thread_fd, 0) &&
			      fcntl(s->thread_fd, F_GETFL) & PIDFD_THREAD_FLAG, "pidfd of the thread: %m");
	for (int i = 0; i < ENDED; i++)
		CHECK(v, has_ended(s->ended[i], 0) && syscall(SYS_pidfd_send_signal, s->ended[i], 0, NULL, 0) < 0 &&
			      errno == ESRCH, "pidfd %d of a process that has ended: %m", i);
	CHECK(v, has_ended(s->zombie, 0) && waitid(P_PIDFD, (id_t)s->zombie, &info, WEXITED | WNOWAIT) == 0 &&
		      info.si_status == 17,
	      "pidfd of a zombie: %m, status %d", info.si_status);
	CHECK(v, syscall(SYS_pidfd_send_signal, s->child_fd, SIGKILL, NULL, 0) == 0, "the child's pidfd: %m");
	CHECK(v, has_ended(s->child_fd, 5000), "the child's pidfd does not tell of its end");
	CHECK(v, waitid(P_PIDFD, (id_t)s->child_fd, &info, WEXITED) == 0 && info.si_pid == s->child &&
		      info.si_status == SIGKILL,
	      "waiting by pidfd: %m");
	child_open(s);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	return files_check(v, s) && version_check(v, s) && namespaces_check(v, s) && pidfds_check(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
