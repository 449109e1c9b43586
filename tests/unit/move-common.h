/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A move of a process tree onto the spot where it is: dump, kill, restore under the same PIDs. No network, no tracking. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dump/dump.h"
#include "dump/shared-memory.h"
#include "image/mapping.h"
#include "mm.pb-c.h"
#include "restore/files.h"
#include "restore/restore.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"

#define PAGE         UINT64_C(4096)
#define RUN_MAX      UINT64_C(1 << 20)
#define PM_PRESENT   (UINT64_C(1) << 63)
#define PM_SWAPPED   (UINT64_C(1) << 62)
#define PM_FILE      (UINT64_C(1) << 61)
#define MOVE_TIMEOUT (20 * CLOCK_S)

/* Pages of a process (pid) or of a shared object (id). */
struct run {
	pid_t pid;
	uint32_t id;
	uint64_t address; /* or offset */
	uint64_t size;
	uint8_t *data; /* owned */
};

struct move {
	struct dump_context *dump;
	struct tracee_tree *stopped;
	struct image_set *images;
	struct restore_tree *tree;
	ARRAY(struct run) runs;
	int64_t began;
	bool verbose; /* print each phase's time */
};

static void move_phase(struct move *move, const char *name)
{
	int64_t now = clock_now_ns();

	if (move->verbose)
		printf("%-10s %8.3f ms\n", name, (double)(now - move->began) / 1e6);
	move->began = clock_now_ns();
}

static int move_add_run(struct move *move, pid_t pid, uint32_t id, uint64_t address, uint64_t size, int fd)
{
	struct run run = { .pid = pid, .id = id, .address = address, .size = size, .data = malloc(size) };
	ssize_t got;

	if (!run.data)
		return -ENOMEM;
	got = fdio_pread(fd, run.data, size, address);
	if (got != (ssize_t)size) {
		free(run.data);
		/* Guard pages have no content: read page by page around them. */
		if (size == PAGE)
			return 0;
		for (uint64_t at = 0; at < size; at += PAGE) {
			int r = move_add_run(move, pid, id, address + at, PAGE, fd);

			if (r < 0)
				return r;
		}
		return 0;
	}
	return array_append(&move->runs, run);
}

static bool move_page_travels(uint64_t entry, uint32_t status)
{
	return entry & (PM_PRESENT | PM_SWAPPED) && !(status & MAPPING_FILE_PRIVATE && entry & PM_FILE);
}

static int move_copy_mapping(struct move *move, const struct dump_process *process, int pagemap,
			const struct tracee_process *tracee, const Mapping *mapping)
{
	uint64_t start = 0, end = 0;

	for (uint64_t at = mapping->start; at < mapping->end;) {
		uint64_t entries[4096], count = (mapping->end - at) / PAGE;
		if (count > 4096)
			count = 4096;
		if (fdio_pread(pagemap, entries, count * 8, at / PAGE * 8) != (ssize_t)(count * 8))
			return -EIO;
		for (uint64_t i = 0; i < count; i++, at += PAGE) {
			if (move_page_travels(entries[i], mapping->status) && end == at && end - start < RUN_MAX) {
				end += PAGE;
				continue;
			}
			if (end > start && move_add_run(move, process->pid, 0, start, end - start, tracee->mem_fd) < 0)
				return -ENOMEM;
			start = end = at;
			if (move_page_travels(entries[i], mapping->status))
				end += PAGE;
		}
		if (end > start && (end - start >= RUN_MAX || at >= mapping->end)) {
			if (move_add_run(move, process->pid, 0, start, end - start, tracee->mem_fd) < 0)
				return -ENOMEM;
			start = end = at;
		}
	}
	return 0;
}

static int move_copy_process(struct move *move, const struct dump_process *process, struct error *error)
{
	const struct tracee_process *tracee = tracee_tree_find(move->stopped, process->pid);
	_cleanup_message_ AddressSpace *mm = NULL;
	_cleanup_fd_ int pagemap = openat(process->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	int r;

	r = image_unpack(image_set_find(move->images, IMAGE_MM, (uint32_t)process->pid), address_space, &mm, error);
	for (size_t i = 0; r == 0 && i < mm->n_vmas; i++)
		if (mm->vmas[i]->status & MAPPING_HAS_PAGES)
			r = move_copy_mapping(move, process, pagemap, tracee, mm->vmas[i]);
	return r;
}

static int move_copy_shared(struct move *move)
{
	for (size_t i = 0; i < dump_shared_count(move->dump); i++) {
		const struct dump_shared_object *object = dump_shared_get(move->dump, i);
		off_t at = 0;

		while (object->present && (at = lseek(object->fd, at, SEEK_DATA)) >= 0) {
			off_t end = lseek(object->fd, at, SEEK_HOLE);

			if ((uint64_t)end > object->size)
				end = (off_t)object->size;
			if (end <= at)
				break;
			if (move_add_run(move, 0, object->id, (uint64_t)at, (uint64_t)(end - at), object->fd) < 0)
				return -ENOMEM;
			at = end;
		}
	}
	return 0;
}

static int move_put_pages(struct move *move, struct error *error)
{
	int r = 0;

	array_for_each(run, &move->runs) {
		if (r < 0)
			break;
		if (run->id)
			r = restore_shared_write(move->tree, run->id, run->address, run->data, run->size, error);
		else
			r = restore_pages_write(restore_tree_find(move->tree, run->pid), run->address, run->data,
						run->size, error);
	}
	return r;
}

/* A traced thread stays until its tracer has waited for it; the leader goes last. A zombie may have become our child. */
static int move_wait_gone(pid_t pid, const pid_t *tids, size_t count, int64_t deadline, struct error *error)
{
	const struct timespec pause = { .tv_nsec = 100000 };
	struct procfs_stat stat;

	while (procfs_read_stat(pid, &stat, NULL) == 0) {
		for (size_t i = 0; i < count; i++)
			waitpid(tids[i], NULL, __WALL | WNOHANG);
		nanosleep(&pause, NULL);
		if (clock_now_ns() > deadline)
			return error_set(error, -ETIMEDOUT, "PID %d does not go away", pid);
	}
	return 0;
}

/* Kills the source and waits until its numbers are free; those of groups, too, which its zombies may hold. */
static int move_end_source(struct move *move, struct error *error)
{
	int64_t deadline = clock_deadline(10 * CLOCK_S);
	int r = 0;

	for (size_t i = move->dump->processes.count; i-- > 0;)
		syscall(SYS_pidfd_send_signal, move->dump->processes.items[i]->pidfd, SIGKILL, NULL, 0);
	array_for_each(process, &move->stopped->processes)
		tracee_process_forget(*process);
	array_for_each(process, &move->dump->processes)
		if (r == 0)
			r = move_wait_gone((*process)->pid, (*process)->threads.items, (*process)->threads.count, deadline,
					   error);
	array_for_each(zombie, &move->stopped->zombies)
		if (r == 0)
			r = move_wait_gone(*zombie, zombie, 1, deadline, error);
	array_deinit(&move->stopped->processes);
	array_deinit(&move->stopped->zombies);
	free(move->stopped);
	move->stopped = NULL;
	return r;
}

static int move_check(const struct image_blockers *blockers, struct error *error)
{
	array_for_each(blocker, &blockers->list)
		printf("blocker: PID %d: %s %s: %s; %s\n", blocker->pid, blocker->kind, blocker->object, blocker->cause,
		       blocker->remedy);
	return image_blockers_empty(blockers) ? 0 : error_set(error, -EBUSY, "it cannot be moved");
}

static int move_take(struct move *move, pid_t pid, const struct dump_options *options, struct error *error)
{
	int r;

	r = dump_context_new(pid, options, NULL, &move->dump, error);
	if (r == 0)
		move->dump->lockless = true;
	if (r == 0)
		r = image_set_new(&move->images);
	if (r == 0)
		r = dump_preflight(move->dump, move->images, error);
	if (r == 0)
		r = move_check(&move->dump->blockers, error);
	move_phase(move, "preflight");
	image_set_free(move->images);
	move->images = NULL;
	if (r == 0)
		r = image_set_new(&move->images);
	if (r < 0)
		return r;
	r = tracee_tree_stop(pid, NULL, clock_deadline(MOVE_TIMEOUT), &move->stopped, error);
	move_phase(move, "stop");
	move->dump->deadline = clock_deadline(MOVE_TIMEOUT);
	if (r == 0)
		r = dump_frozen(move->dump, move->stopped, move->images, error);
	move_check(&move->dump->blockers, NULL);
	move_phase(move, "dump");
	for (size_t i = 0; r == 0 && i < move->dump->processes.count; i++)
		r = move_copy_process(move, move->dump->processes.items[i], error);
	if (r == 0)
		r = move_copy_shared(move);
	move_phase(move, "copy");
	return r;
}

static int move_give(struct move *move, const struct restore_options *options, struct error *error)
{
	int r;

	r = restore_tree_new(options, NULL, &move->tree, error);
	if (r < 0)
		return r;
	move->tree->deadline = clock_deadline(MOVE_TIMEOUT);
	r = restore_tree_layout(move->tree, move->images, error);
	move_phase(move, "layout");
	if (r == 0)
		r = move_put_pages(move, error);
	move_phase(move, "pages");
	if (r == 0)
		r = restore_tree_finish(move->tree, move->images, error);
	move_phase(move, "finish");
	if (r == 0)
		r = restore_tree_keep(move->tree, error);
	if (r == 0)
		restore_tree_go(move->tree);
	move_phase(move, "go");
	return r;
}

static void move_deinit(struct move *move)
{
	tracee_tree_release(move->stopped);
	restore_tree_free(move->tree);
	dump_context_free(move->dump);
	image_set_free(move->images);
	array_for_each(run, &move->runs)
		free(run->data);
	array_deinit(&move->runs);
}

static inline int move_all(struct move *move, pid_t pid, const struct dump_options *dump_options,
			   const struct restore_options *restore_options, struct error *error)
{
	int r = move_take(move, pid, dump_options, error);

	if (r == 0) {
		r = move_end_source(move, error);
		move_phase(move, "kill");
	}
	return r < 0 ? r : move_give(move, restore_options, error);
}
