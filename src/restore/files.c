/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors, target side: the mirror of dump/files.c.
 *
 * Happy path. restore_files_prepare() unpacks the file records of a round and makes deleted files
 * again. restore_files_apply() does so for the last time, compares the files that must be the same,
 * opens each open file that a descriptor stands for (by its kind), lets each kind finish (unread
 * data, watches), builds for each process the calls that install its descriptors (install.c), runs
 * them, and closes everything here.
 *
 * Failure modes. Any failure leaves the shells half furnished: the caller gives the tree up. What
 * this process has opened is closed in all cases.
 */
#include "restore/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/queue.h"
#include "restore/file-kind.h"
#include "restore/io-uring.h"
#include "restore/tcp.h"
#include "restore/unix.h"

#define SETTABLE (O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK)

/* ---- what files.c keeps */

struct restore_files *restore_files_get(struct restore_tree *tree)
{
	if (!tree->files) {
		tree->files = calloc(1, sizeof(*tree->files));
		if (tree->files)
			tree->files->loopback = -1;
	}
	return tree->files;
}

/* Closes what restore_files_apply() has opened. */
static void close_all(struct restore_files *files)
{
	array_for_each (file, &files->list)
		restore_file_close(file);
	restore_pipes_clear(files);
	restore_unix_pairs_clear(files);
	if (files->loopback >= 0)
		close(files->loopback);
	files->loopback = -1;
}

void restore_files_free(struct restore_files *files)
{
	if (!files)
		return;
	close_all(files);
	restore_tcp_clear(files);
	net_queue_free(files->queue);
	restore_files_clear(files);
	restore_unix_discard(files);
	restore_memory_files_discard(files);
	array_deinit(&files->list);
	array_deinit(&files->pipes);
	array_deinit(&files->pipe_data);
	array_deinit(&files->inodes);
	array_deinit(&files->listeners);
	array_deinit(&files->staged);
	array_deinit(&files->unix_pairs);
	array_deinit(&files->locks);
	free(files);
}

int restore_files_prepare(struct restore_tree *tree, const struct image_set *images,
			  struct error *error)
{
	int r = restore_files_load(tree, images, error);

	if (r == 0) {
		tree->files->loaded = images;
		tree->files->loaded_count = image_set_count(images);
	}
	return r;
}

/* The last round prepares and applies one and the same set. */
static bool is_loaded(const struct restore_tree *tree, const struct image_set *images)
{
	return tree->files && tree->files->loaded == images &&
	       tree->files->loaded_count == image_set_count(images);
}

/* ---- opening */

int restore_file_set(int fd, uint32_t flags, const FileOwner *owner, struct error *error)
{
	int now = fcntl(fd, F_GETFL);

	if (now & O_PATH)
		return 0;
	if (owner->signum && fcntl(fd, F_SETSIG, (int)owner->signum) < 0)
		return error_set_errno(error, -errno, "F_SETSIG");
	if (owner->pid) {
		struct f_owner_ex who = { .type = (int)owner->pid_type, .pid = (pid_t)owner->pid };

		if (fcntl(fd, F_SETOWN_EX, &who) < 0)
			return error_set_errno(error, -errno, "F_SETOWN_EX to %u", owner->pid);
	}
	if ((now & SETTABLE) != ((int)flags & SETTABLE) &&
	    fcntl(fd, F_SETFL, (int)flags & SETTABLE) < 0)
		return error_set_errno(error, -errno, "F_SETFL to %#x", flags);
	return 0;
}

int restore_file_open(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	int r;

	if (file->fd >= 0)
		return 0;
	r = file->kind->open(tree, file, error);
	return r < 0 ? error_wrap(error, r, "%s", file->kind->name) : 0;
}

/* ---- one process */

struct descriptors {
	ARRAY(Descriptor *) list; /* owned, by number */
};

static void descriptors_deinit(struct descriptors *descriptors)
{
	array_for_each (place, &descriptors->list)
		protobuf_c_message_free_unpacked(&(*place)->base, NULL);
	array_deinit(&descriptors->list);
}

static int compare_number(const void *left, const void *right)
{
	const Descriptor *a = *(Descriptor *const *)left, *b = *(Descriptor *const *)right;

	return (a->fd > b->fd) - (a->fd < b->fd);
}

static int read_descriptors(const struct image_set *images, uint32_t files_id,
			    struct descriptors *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FDINFO, files_id, &cursor))) {
		Descriptor *message;
		int r = image_unpack(record, descriptor, &message, error);

		if (r < 0)
			return r;
		if (message->fd > INT32_MAX || array_append(&ret->list, message) < 0) {
			protobuf_c_message_free_unpacked(&message->base, NULL);
			return error_set(error, -ENOMEM, "no memory for descriptors");
		}
	}
	if (ret->list.count > 1)
		qsort(ret->list.items, ret->list.count, sizeof(ret->list.items[0]), compare_number);
	for (size_t i = 1; i < ret->list.count; i++)
		if (ret->list.items[i]->fd == ret->list.items[i - 1]->fd)
			return error_set(error, -EPROTO, "descriptor %u is there twice",
					 ret->list.items[i]->fd);
	return 0;
}

static int open_descriptors(struct restore_tree *tree, const struct descriptors *descriptors,
			    struct error *error)
{
	array_for_each (place, &descriptors->list) {
		struct restore_file *file = restore_file_find(tree->files, (*place)->id);
		int r;

		if (!file)
			return error_set(error, -EPROTO,
					 "descriptor %u stands for the unknown open file %u",
					 (*place)->fd, (*place)->id);
		r = restore_file_open(tree, file, error);
		if (r < 0)
			return error_wrap(error, r, "descriptor %u", (*place)->fd);
	}
	return 0;
}

/* Locks go last; one that the source's process still holds is noted by install_all(). */
static int add_lock(struct restore_install *install, int number, const FileLock *message)
{
	struct tracee_batch *batch = restore_install_batch(install, 1);
	struct restore_lock_try try = {
		.batch = batch,
		.lock = { .pid = install->process->pid,
			  .number = number,
			  .kind = message->kind,
			  .write = message->write,
			  .start = message->start,
			  .end = message->end },
	};

	if (!batch)
		return -ENOMEM;
	try.index = restore_lock_call(batch, &try.lock);
	return array_append(&install->tries, try);
}

static int note_locks(struct restore_files *files, const struct restore_install *install,
		      struct error *error)
{
	array_for_each (try, &install->tries) {
		int r = restore_lock_result(tracee_batch_result(try->batch, try->index), error);

		if (r < 0)
			return error_wrap(error, r, "PID %d, descriptor %d", try->lock.pid,
					  try->lock.number);
		if (r == 0 && array_append(&files->locks, try->lock) < 0)
			return error_set(error, -ENOMEM, "no memory for locks");
	}
	return 0;
}

static int build_install(struct restore_tree *tree, struct restore_process *process,
			 const struct descriptors *descriptors, struct restore_install *install,
			 struct error *error)
{
	int *numbers = calloc(descriptors->list.count + 1, sizeof(*numbers));
	int r;

	if (!numbers)
		return error_set(error, -ENOMEM, "no memory for descriptors");
	for (size_t i = 0; i < descriptors->list.count; i++)
		numbers[i] = (int)descriptors->list.items[i]->fd;
	r = restore_install_begin(install, process, numbers, descriptors->list.count, error);
	free(numbers);
	for (size_t i = 0; r == 0 && i < descriptors->list.count; i++) {
		const Descriptor *message = descriptors->list.items[i];

		r = restore_install_add(install, (int)message->fd,
					restore_file_find(tree->files, message->id)->fd,
					message->flags & FD_CLOEXEC);
	}
	if (r == 0)
		r = restore_epoll_calls(tree, process->files_id, install, error);
	for (size_t i = 0; r == 0 && i < descriptors->list.count; i++) {
		const Descriptor *message = descriptors->list.items[i];

		for (size_t k = 0; r == 0 && k < message->n_locks; k++)
			r = add_lock(install, (int)message->fd, message->locks[k]);
	}
	if (r == 0)
		r = restore_install_end(install);
	return r < 0 ? error_set(error, r, "no memory for the calls of PID %d", process->pid) : 0;
}

/* ---- all of them */

/* Its parent's, which comes before. */
static bool table_seen(const struct restore_process *process)
{
	return process->shares & CLONE_FILES;
}

static int compare_files(const struct image_set *images, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FILE_CHECK, IMAGE_ANY, &cursor))) {
		_cleanup_message_ FileCheck *check = NULL;
		char cause[256];
		int r = image_unpack(record, file_check, &check, error);

		if (r < 0)
			return r;
		r = restore_regular_compare(check, true, cause, sizeof(cause));
		if (r == 0)
			return error_set(error, -ESTALE, "%s %s", check->path, cause);
		if (r < 0)
			return error_set_errno(error, r, "%s", check->path);
	}
	return 0;
}

static int open_all(struct restore_tree *tree, const struct image_set *images,
		    struct descriptors *descriptors, struct error *error)
{
	int r = 0;

	r = restore_pipes_load(tree->files, images, error);
	if (r == 0)
		r = restore_unix_load(tree->files, error);
	if (r == 0)
		r = restore_tcp_open(tree, error);
	for (size_t i = 0; i < tree->processes.count && r == 0; i++) {
		struct restore_process *process = tree->processes.items[i];

		if (table_seen(process))
			continue;
		r = read_descriptors(images, process->files_id, &descriptors[i], error);
		if (r == 0)
			r = open_descriptors(tree, &descriptors[i], error);
		if (r < 0)
			error_wrap(error, r, "PID %d", process->pid);
	}
	if (r == 0)
		r = restore_unix_queues(tree, images, error);
	array_for_each (file, &tree->files->list) {
		if (r == 0 && file->fd >= 0 && file->kind->finish)
			r = file->kind->finish(tree, file, error);
	}
	return r;
}

static int install_all(struct restore_tree *tree, struct descriptors *descriptors,
		       struct error *error)
{
	struct restore_install *installs = calloc(tree->processes.count + 1, sizeof(*installs));
	size_t count = 0;
	int r = 0;

	if (!installs)
		return error_set(error, -ENOMEM, "no memory for descriptors");
	for (size_t i = 0; i < tree->processes.count && r == 0; i++) {
		if (table_seen(tree->processes.items[i]))
			continue;
		r = build_install(tree, tree->processes.items[i], &descriptors[i], &installs[count],
				  error);
		count++;
	}
	if (r == 0)
		r = restore_install_run(tree, installs, count, error);
	for (size_t i = 0; i < count && r == 0; i++)
		r = note_locks(tree->files, &installs[i], error);
	for (size_t i = 0; i < count; i++)
		restore_install_deinit(&installs[i]);
	free(installs);
	return r;
}

int restore_files_apply(struct restore_tree *tree, const struct image_set *images,
			struct error *error)
{
	struct descriptors *descriptors = calloc(tree->processes.count + 1, sizeof(*descriptors));
	int r;

	if (!descriptors)
		return error_set(error, -ENOMEM, "no memory for descriptors");
	r = is_loaded(tree, images) ? 0 : restore_files_load(tree, images, error);
	if (r == 0)
		r = compare_files(images, error);
	if (r == 0)
		r = restore_memory_files_compare(tree->files, images, error);
	if (r == 0)
		r = restore_tcp_engage(tree, error);
	if (r == 0)
		r = open_all(tree, images, descriptors, error);
	if (r == 0)
		r = install_all(tree, descriptors, error);
	if (r == 0)
		r = restore_io_uring_map(tree, error);
	if (r == 0)
		r = restore_io_uring_buffers(tree, error);
	if (tree->files)
		close_all(tree->files);
	for (size_t i = 0; i < tree->processes.count; i++)
		descriptors_deinit(&descriptors[i]);
	free(descriptors);
	return r;
}

size_t restore_files_made(const struct restore_tree *tree, uint32_t *ids, size_t room)
{
	size_t count = tree->files ? tree->files->memory.count : 0;

	for (size_t i = 0; i < count && i < room; i++)
		ids[i] = tree->files->memory.items[i].id;
	return count;
}

int restore_files_commit(struct restore_tree *tree, struct error *error)
{
	int r = tree->files ? restore_memory_files_commit(tree->files, error) : 0;

	return r == 0 && tree->files ? restore_unix_commit(tree->files, error) : r;
}
