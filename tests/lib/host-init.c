/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * host-init PID_BASE: makes a test host, and stays as long as it exists.
 *
 * Model: new network, mount, PID and IPC namespaces. The first process of the PID namespace is the
 * host's init: it reaps orphans, and its end is the end of everything in the host. The process that
 * made it waits for it outside.
 *
 * Happy path: unshare, fork; the child makes its mounts private, mounts /proc, an empty /mnt, and
 * /dev/pts, /dev/shm and /dev/mqueue of the host's own (but for the directory SHARED, which all hosts
 * see), brings the loopback device up and sets the last PID to PID_BASE - 1; the parent prints "ready
 * PID\n" with the init's PID as seen outside. Failure: a line on stderr and exit status 1. The init
 * dies with its parent, and the parent when its stdin, which the test holds, is closed: so nothing
 * is left when the test is killed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
	dprintf(2, "host-init: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void loopback_up(void)
{
	struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(request.ifr_name, "lo");
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		die("loopback");
	close(fd);
}

/* The directory in /dev/shm where tests keep what all hosts shall see. */
#define SHARED "/dev/shm/shared"

static void memory_mount(void)
{
	char outer[32];
	int fd;

	if (mkdir(SHARED, 0755) < 0 && errno != EEXIST)
		die(SHARED);
	fd = open(SHARED, O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(outer, sizeof(outer), "/proc/self/fd/%d", fd);
	if (fd < 0 || mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0 ||
	    mkdir(SHARED, 0755) < 0 || mount(outer, SHARED, NULL, MS_BIND, NULL) < 0)
		die("/dev/shm");
	close(fd);
	if (mkdir("/dev/mqueue", 0755) < 0 && errno != EEXIST)
		die("/dev/mqueue");
	if (mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		die("/dev/mqueue");
}

static void last_pid_set(const char *base)
{
	char text[32];
	int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);

	snprintf(text, sizeof(text), "%ld", strtol(base, NULL, 10) - 1);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die("ns_last_pid");
	close(fd);
}

_Noreturn static void init_run(const char *base, int told)
{
	sigset_t wanted;
	int number;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("prctl");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ||
	    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,mode=0620,ptmxmode=0666") < 0 ||
	    mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0777") < 0)
		die("mount");
	memory_mount();
	loopback_up();
	last_pid_set(base);
	if (setsid() < 0 || chdir("/") < 0)
		die("setsid");
	prctl(PR_SET_NAME, "host-init");
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGTERM);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	if (write(told, "", 1) != 1)
		die("write");
	/*
	 * No descriptor of the test stays open here, stderr included: a test may wait for its end
	 * of file.
	 */
	close_range(0, ~0U, 0);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (sigwait(&wanted, &number) == 0 && number == SIGTERM)
			_exit(0);
	}
}

int main(int argc, char **argv)
{
	struct pollfd input = {.fd = 0, .events = 0};
	int told[2];
	pid_t init;
	char byte;

	if (argc != 2) {
		fprintf(stderr, "usage: host-init PID_BASE\n");
		return 2;
	}
	if (pipe2(told, O_CLOEXEC) < 0 || unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC) < 0)
		die("unshare");
	init = fork();
	if (init < 0)
		die("fork");
	if (init == 0)
		init_run(argv[1], told[1]);
	close(told[1]);
	if (read(told[0], &byte, 1) != 1)
		return 1;
	printf("ready %d\n", (int)init);
	fflush(stdout);
	while (waitpid(init, NULL, WNOHANG) == 0)
		if (poll(&input, 1, 100) == 1 && (input.revents & (POLLHUP | POLLERR)) != 0)
			kill(init, SIGKILL);
	return 0;
}
