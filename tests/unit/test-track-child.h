/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A child process that runs functions on request, for the tests of src/track: since it is a fork, a function has the
 * same address on both sides. It creates its userfaultfd on request, which is taken out with pidfd_getfd().
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "track/track.h"
#include "util/buffer.h"
#include "util/clock.h"
#include "util/fdio.h"

#define PAGE 4096UL

typedef uint64_t (*child_fn)(uint64_t a, uint64_t b, uint64_t c);

struct child {
	pid_t pid;           /* the forked process */
	int socket;          /* requests and answers */
	struct track *track; /* NULL until child_track() */
};

struct child_request {
	child_fn fn;          /* what to run in the child */
	uint64_t arguments[3];
};

static inline struct child child_start(void)
{
	struct child child = { 0 };
	struct child_request request;
	uint64_t answer;
	int sockets[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	child.pid = fork();
	assert_true(child.pid >= 0);
	if (child.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(sockets[0]);
		while (fdio_read(sockets[1], &request, sizeof(request)) == sizeof(request)) {
			answer = request.fn(request.arguments[0], request.arguments[1], request.arguments[2]);
			if (fdio_write(sockets[1], &answer, sizeof(answer)) < 0)
				break;
		}
		_exit(0);
	}
	close(sockets[1]);
	child.socket = sockets[0];
	return child;
}

static inline void child_begin(struct child *child, child_fn fn, uint64_t a, uint64_t b, uint64_t c)
{
	struct child_request request = { .fn = fn, .arguments = { a, b, c } };

	assert_int_equal(fdio_write(child->socket, &request, sizeof(request)), 0);
}

static inline uint64_t child_answer(struct child *child)
{
	uint64_t answer;

	assert_int_equal(fdio_read(child->socket, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static inline uint64_t child_call(struct child *child, child_fn fn, uint64_t a, uint64_t b, uint64_t c)
{
	child_begin(child, fn, a, b, c);
	return child_answer(child);
}

static inline void child_end(struct child *child)
{
	track_stop(child->track);
	close(child->socket);
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
}

/* ---- functions to run in the child ---- */

static inline uint64_t do_userfaultfd(uint64_t a, uint64_t b, uint64_t c)
{
	(void)a, (void)b, (void)c;
	return (uint64_t)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
}

static inline uint64_t do_close(uint64_t fd, uint64_t b, uint64_t c)
{
	(void)b, (void)c;
	return (uint64_t)close((int)fd);
}

static inline uint64_t do_map(uint64_t at, uint64_t size, uint64_t flags)
{
	int how = MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0) | (int)flags;
	void *address = mmap((void *)at, size, PROT_READ | PROT_WRITE, how, -1, 0);

	if (address != MAP_FAILED)
		madvise(address, size, MADV_NOHUGEPAGE);
	return (uint64_t)(uintptr_t)address;
}

/* Writes the first byte of `count` pages, `step` pages apart. */
static inline uint64_t do_write(uint64_t at, uint64_t count, uint64_t step)
{
	for (uint64_t i = 0; i < count; i++)
		(*(volatile uint8_t *)(at + i * step * PAGE))++;
	return 0;
}

static inline uint64_t do_read(uint64_t at, uint64_t count, uint64_t step)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++)
		sum += *(volatile uint8_t *)(at + i * step * PAGE);
	return sum;
}

static inline uint64_t do_unmap(uint64_t at, uint64_t size, uint64_t c)
{
	(void)c;
	return (uint64_t)munmap((void *)at, size);
}

static inline uint64_t do_madvise(uint64_t at, uint64_t size, uint64_t advice)
{
	return (uint64_t)madvise((void *)at, size, (int)advice);
}

static inline uint64_t do_protect(uint64_t at, uint64_t size, uint64_t prot)
{
	return (uint64_t)mprotect((void *)at, size, (int)prot);
}

/* ---- rounds ---- */

static inline void child_track(struct child *child)
{
	struct error error = ERROR_INIT;
	uint64_t inside = child_call(child, do_userfaultfd, 0, 0, 0);
	int pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)inside, 0);

	assert_true(fd >= 0);
	close(pidfd);
	child_call(child, do_close, inside, 0, 0);
	if (track_open(child->pid, TRACK_PAGEMAP_SCAN, fd, &child->track, &error) < 0)
		fail_msg("%s", error.message);
}

static inline void child_update(struct child *child)
{
	struct error error = ERROR_INIT;
	struct procfs_maps maps = { 0 };

	assert_int_equal(procfs_read_maps(child->pid, &maps, &error), 0);
	if (track_update(child->track, &maps, 0, &error) < 0)
		fail_msg("%s", error.message);
	procfs_maps_deinit(&maps);
}

/* Scans without update; the runs are emptied first. */
static inline void child_scan(struct child *child, uint64_t at, uint64_t size, unsigned int flags,
			      struct track_runs *runs)
{
	struct error error = ERROR_INIT;

	array_clear(runs);
	if (track_scan(child->track, at, at + size, flags, runs, &error) < 0)
		fail_msg("%s", error.message);
}

static inline void child_round(struct child *child, uint64_t at, uint64_t size, struct track_runs *runs)
{
	child_update(child);
	child_scan(child, at, size, TRACK_PROTECT, runs);
}

static inline void child_present(struct child *child, uint64_t at, uint64_t size, struct track_runs *runs)
{
	struct error error = ERROR_INIT;

	array_clear(runs);
	if (track_present(child->track, at, at + size, runs, &error) < 0)
		fail_msg("%s", error.message);
}

/* Checks, too, that it is what track_present() leaves of the mapping. */
static inline void child_absent(struct child *child, uint64_t at, uint64_t size, struct track_runs *runs)
{
	struct error error = ERROR_INIT;
	struct track_runs there = { 0 };

	array_clear(runs);
	if (track_absent(child->track, at, at + size, runs, &error) < 0)
		fail_msg("%s", error.message);
	child_present(child, at, size, &there);
	assert_int_equal(track_runs_pages(&there, 0) + track_runs_pages(runs, 0), size / PAGE);
	track_runs_deinit(&there);
}

/* Flags of the page in the runs; 0: not in them. */
static inline uint32_t runs_flags(const struct track_runs *runs, uint64_t page)
{
	for (size_t i = 0; i < runs->count; i++)
		if (page >= runs->items[i].start && page < runs->items[i].start + runs->items[i].pages * PAGE)
			return runs->items[i].flags;
	return 0;
}

static inline void assert_page(const struct track_runs *runs, uint64_t page, uint32_t flags)
{
	uint32_t found = runs_flags(runs, page);

	if (found != flags)
		fail_msg("page 0x%lx has flags 0x%x, expected 0x%x", (unsigned long)page, found, flags);
}

static inline char *child_maps(const struct child *child)
{
	struct buffer buffer = BUFFER_INIT;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/maps", child->pid);
	assert_int_equal(fdio_read_file(AT_FDCWD, path, 1 << 20, &buffer), 0);
	return (char *)buffer.data;
}
