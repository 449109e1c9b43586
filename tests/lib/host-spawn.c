/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * host-spawn CWD STDIN STDOUT STDERR PROGRAM [ARG]...: starts a program as a daemon and prints its
 * PID.
 *
 * The program is the leader of a session of its own, child of the PID namespace's init, with
 * nothing but the three named files open: stdin read-write if it is a FIFO and read-only otherwise,
 * the others appended to. Failures, that of exec included, give a line on stderr and exit status 1.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Tells the waiting parent which step failed and why, and ends. */
_Noreturn static void report(int channel, const char *what)
{
	dprintf(channel, "%s: %s", what, strerror(errno));
	_exit(1);
}

static void open_as(int channel, int number, const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0 || dup2(fd, number) < 0)
		report(channel, path);
	if (fd != number)
		close(fd);
}

_Noreturn static void program_run(int channel, char **argv)
{
	pid_t self = getpid();
	struct stat st;
	int high = 700;
	sigset_t none;

	/* Not before it is init's child, so that the program never sees another parent. */
	while (getppid() != 1)
		usleep(100);
	if (write(channel, &self, sizeof(self)) != (ssize_t)sizeof(self))
		_exit(1);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (setsid() < 0 || dup3(channel, high, O_CLOEXEC) < 0)
		report(channel, "setsid");
	if (chdir(argv[1]) < 0)
		report(high, argv[1]);
	close_range(0, (unsigned int)high - 1, 0);
	close_range((unsigned int)high + 1, ~0U, 0);
	if (stat(argv[2], &st) < 0)
		report(high, argv[2]);
	open_as(high, 0, argv[2], S_ISFIFO(st.st_mode) ? O_RDWR : O_RDONLY);
	open_as(high, 1, argv[3], O_WRONLY | O_CREAT | O_APPEND);
	open_as(high, 2, argv[4], O_WRONLY | O_CREAT | O_APPEND);
	execvp(argv[5], argv + 5);
	report(high, argv[5]);
}

int main(int argc, char **argv)
{
	char problem[256];
	int channel[2];
	pid_t between, pid;
	ssize_t got;

	if (argc < 6) {
		fprintf(stderr, "usage: host-spawn CWD STDIN STDOUT STDERR PROGRAM [ARG]...\n");
		return 2;
	}
	if (pipe2(channel, O_CLOEXEC) < 0 || (between = fork()) < 0) {
		perror("host-spawn");
		return 1;
	}
	if (between == 0) {
		pid = fork();

		if (pid == 0)
			program_run(channel[1], argv);
		if (pid < 0)
			report(channel[1], "fork");
		_exit(0);
	}
	close(channel[1]);
	waitpid(between, NULL, 0);
	/*
	 * The PID comes first; after it nothing but the end of file when exec closes the channel,
	 * or a problem.
	 */
	got = read(channel[0], &pid, sizeof(pid)) == (ssize_t)sizeof(pid)
		      ? read(channel[0], problem, sizeof(problem) - 1)
		      : -1;
	if (got != 0) {
		problem[got < 0 ? 0 : got] = '\0';
		fprintf(stderr, "host-spawn: %s\n", problem);
		return 1;
	}
	printf("%d\n", (int)pid);
	return 0;
}
