/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies in pseudo-terminals, copied by taking it out and putting it back (image/pty-queue.h).
 *
 * A child process does it: what it has begun it also ends when this program is killed in the middle of it, so that a tree that
 * goes on has all that it had. It is forked once for all terminals, and calls nothing but the kernel. The copies are in
 * memory that it shares with us.
 *
 * Left open: if this program is killed in these few hundred microseconds, the tree runs on meanwhile, and what it writes may
 * come to lie before what was there. Whoever wants SIGIO for a terminal (O_ASYNC) gets one.
 *
 * Failure modes: more lies there than a copy takes, -EFBIG: it is put back, as far as it was taken out.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/pty.h"
#include "util/cleanup.h"

int dump_pty_copies_new(size_t count, struct dump_pty_copy **ret, struct error *error)
{
	void *memory = mmap(NULL, count * sizeof(**ret), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return error_set_errno(error, -errno, "no memory for the content of terminals");
	*ret = memory;
	return 0;
}

void dump_pty_copies_free(struct dump_pty_copy *copies, size_t count)
{
	if (copies)
		munmap(copies, count * sizeof(*copies));
}

/* In the child. */
static int copy(struct dump_pty_copy *one)
{
	static const int off = 0;
	int locked = 0, slave, taken, put;

	if (ioctl(one->master, TIOCGPTLCK, &locked) < 0 || (locked && ioctl(one->master, TIOCSPTLCK, &off) < 0))
		return -errno;
	slave = ioctl(one->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (slave < 0) {
		put = -errno;
		if (locked)
			ioctl(one->master, TIOCSPTLCK, &locked);
		return put;
	}
	taken = image_pty_take(one->master, slave, &one->queue);
	put = image_pty_put(one->master, slave, &one->queue);
	close(slave);
	if (locked && ioctl(one->master, TIOCSPTLCK, &locked) < 0 && put == 0)
		put = -errno;
	return taken < 0 ? taken : put;
}

int dump_pty_copies_run(struct dump_pty_copy *copies, size_t count, struct error *error)
{
	sigset_t all, old;
	int status;
	pid_t pid;

	for (size_t i = 0; i < count; i++)
		copies[i].result = -ECHILD;
	/* An interrupt that is typed is for us: the child comes to its end. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0) {
		for (size_t i = 0; i < count; i++)
			copies[i].result = copy(&copies[i]);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return error_set_errno(error, -errno, "cannot fork");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}
