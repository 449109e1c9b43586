/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does a tracker work here? A child is forked whose only work is to write to pages when told; a track is opened on it,
 * and what it reports is compared with what the child did. Answers of system calls alone are no proof: a kernel without
 * CONFIG_MEM_SOFT_DIRTY accepts clear_refs and reports nothing.
 *
 * The child does only async-signal-safe calls, so the program may have threads. It sends no SIGCHLD (clone with exit
 * signal 0), and ends when its pipe does or when we kill it.
 *
 * Conversation over a socket pair: the child sends the number of its userfaultfd (or a negative errno), then for each
 * byte that it gets it writes to the page of that number and sends the byte back.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGES      16
#define ANSWER_MS  2000
#define FIRST_PAGE 3
#define OTHER_PAGE 7

struct child {
	pid_t pid;            /* 0: none */
	int socket;           /* owned: our end */
	uint8_t *pages;       /* owned: the child has them at the same address */
	int userfaultfd;      /* owned: copy of the child's; -1: none */
	struct track *track;  /* owned */
};

_Noreturn static void run_child(int socket, bool wants_userfaultfd, volatile uint8_t *pages)
{
	int fd = -1;
	uint8_t page;

	if (wants_userfaultfd) {
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
		if (fd < 0)
			fd = -errno;
	}
	/* The first write takes the pages out of the copy-on-write that fork has put them in. */
	for (page = 0; page < PAGES; page++)
		pages[page * TRACK_PAGE] = 1;
	if (write(socket, &fd, sizeof(fd)) != sizeof(fd))
		_exit(1);
	while (read(socket, &page, 1) == 1) {
		pages[(page % PAGES) * TRACK_PAGE]++;
		if (write(socket, &page, 1) != 1)
			break;
	}
	_exit(0);
}

static void end_child(struct child *child)
{
	track_stop(child->track);
	if (child->userfaultfd >= 0)
		close(child->userfaultfd);
	if (child->socket >= 0)
		close(child->socket);
	if (child->pid > 0) {
		kill(child->pid, SIGKILL);
		while (waitpid(child->pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	if (child->pages)
		munmap(child->pages, PAGES * TRACK_PAGE);
}

#define _cleanup_child_ _cleanup_(end_child)

static int receive(const struct child *child, void *data, size_t size, struct error *error)
{
	struct pollfd wait = { .fd = child->socket, .events = POLLIN };

	if (poll(&wait, 1, ANSWER_MS) != 1 || fdio_read(child->socket, data, size) != (ssize_t)size)
		return error_set(error, -EIO, "the process made for trying out tracking does not answer");
	return 0;
}

/* Copies the userfaultfd `inside` out of the child. */
static int copy_userfaultfd(struct child *child, int inside, struct error *error)
{
	_cleanup_fd_ int pidfd = -1;

	if (inside < 0)
		return error_set_errno(error, inside, "userfaultfd");
	pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	if (pidfd < 0)
		return error_set_errno(error, -errno, "pidfd_open");
	child->userfaultfd = (int)syscall(SYS_pidfd_getfd, pidfd, inside, 0);
	if (child->userfaultfd < 0)
		return error_set_errno(error, -errno, "pidfd_getfd");
	return 0;
}

static int start_child(struct child *child, bool wants_userfaultfd, struct error *error)
{
	struct clone_args args = { .exit_signal = 0 };
	int sockets[2], inside, r;
	long pid;

	child->pages = mmap(NULL, PAGES * TRACK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (child->pages == MAP_FAILED) {
		child->pages = NULL;
		return error_set_errno(error, -errno, "mmap");
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		return error_set_errno(error, -errno, "socketpair");
	child->socket = sockets[0];
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0) {
		close(sockets[0]);
		run_child(sockets[1], wants_userfaultfd, child->pages);
	}
	r = -errno;
	close(sockets[1]);
	if (pid < 0)
		return error_set_errno(error, r, "clone3");
	child->pid = (pid_t)pid;
	r = receive(child, &inside, sizeof(inside), error);
	if (r >= 0 && wants_userfaultfd)
		r = copy_userfaultfd(child, inside, error);
	return r;
}

/* One round; the child waits meanwhile. Leaves in `ret_written` a bit for each page reported. */
static int scan_child(struct child *child, uint32_t *ret_written, struct error *error)
{
	uint64_t base = (uintptr_t)child->pages, page;
	struct procfs_maps maps = { 0 };
	struct track_runs runs = { 0 };
	int r;

	r = procfs_read_maps(child->pid, &maps, error);
	if (r < 0)
		return r;
	r = track_update(child->track, &maps, TRACK_STOPPED, error);
	if (r >= 0)
		r = track_scan(child->track, base, base + PAGES * TRACK_PAGE, TRACK_PROTECT, &runs, error);
	*ret_written = 0;
	array_for_each(run, &runs)
		for (page = 0; page < run->pages; page++)
			*ret_written |= UINT32_C(1) << ((run->start - base) / TRACK_PAGE + page);
	track_runs_deinit(&runs);
	procfs_maps_deinit(&maps);
	return r;
}

static int write_page(struct child *child, uint8_t page, struct error *error)
{
	if (send(child->socket, &page, 1, MSG_NOSIGNAL) != 1)
		return error_set_errno(error, -errno, "the process made for trying out tracking");
	return receive(child, &page, 1, error);
}

static int expect(struct child *child, uint32_t expected, const char *what, struct error *error)
{
	uint32_t written;
	int r = scan_child(child, &written, error);

	if (r < 0)
		return r;
	if (written != expected)
		return error_set(error, -EOPNOTSUPP, "%s, expected pages 0x%04x, the kernel reports 0x%04x", what, expected,
				 written);
	return 0;
}

static int try_kind(struct child *child, enum track_kind kind, struct error *error)
{
	int r;

	r = start_child(child, kind == TRACK_PAGEMAP_SCAN, error);
	if (r >= 0)
		r = track_open(child->pid, kind, steal_fd(&child->userfaultfd), &child->track, error);
	if (r >= 0)
		r = expect(child, (UINT32_C(1) << PAGES) - 1, "at the start", error);
	if (r >= 0)
		r = expect(child, 0, "with nothing written", error);
	if (r >= 0)
		r = write_page(child, FIRST_PAGE, error);
	if (r >= 0)
		r = write_page(child, OTHER_PAGE, error);
	if (r >= 0)
		r = expect(child, 1 << FIRST_PAGE | 1 << OTHER_PAGE, "with two pages written", error);
	return r < 0 ? r : expect(child, 0, "after that", error);
}

int track_probe_kind(enum track_kind kind, struct error *error)
{
	_cleanup_child_ struct child child = { .socket = -1, .userfaultfd = -1 };
	int r = try_kind(&child, kind, error);

	return r < 0 ? error_wrap(error, r, "%s does not work on this kernel", track_kind_name(kind)) : 0;
}

int track_probe(enum track_kind *ret, struct error *error)
{
	struct error first = ERROR_INIT, second = ERROR_INIT;

	if (track_probe_kind(TRACK_PAGEMAP_SCAN, &first) >= 0) {
		*ret = TRACK_PAGEMAP_SCAN;
		return 0;
	}
	if (track_probe_kind(TRACK_SOFT_DIRTY, &second) >= 0) {
		*ret = TRACK_SOFT_DIRTY;
		return 0;
	}
	return error_set(error, -EOPNOTSUPP, "written pages cannot be tracked: %.400s; %.400s", first.message,
			 second.message);
}
