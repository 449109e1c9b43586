/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * epoll(7).
 *
 * Model. The descriptor is made here, the set is filled inside the shell, where the numbers of the
 * watched files count. An item whose number stands for another file by now is added under that
 * number for a moment: the file is fetched, put under the number, added, and what was there before
 * is put back.
 *
 * An item that EPOLLONESHOT has disarmed cannot be added as such. It is added armed, for whatever
 * the file is ready for, and that event is taken, which disarms it. A file that is ready for
 * nothing stays armed for errors and hang-ups.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/file-kind.h"

#define PRIVATE_BITS (EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE)

static int open_epoll(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const EpollFd *message = file->message->epfd;

	file->fd = epoll_create1(EPOLL_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "epoll_create");
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

/* A table of descriptors as it will be. */
struct entry {
	int number;
	uint32_t file_id;
	bool cloexec;
};

struct table {
	ARRAY(struct entry) list;
};

static int compare_entry(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;

	return (a->number > b->number) - (a->number < b->number);
}

static int read_table(const struct image_set *images, uint32_t files_id, struct table *ret,
		      struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FDINFO, files_id, &cursor))) {
		_cleanup_message_ Descriptor *message = NULL;
		struct entry entry;
		int r = image_unpack(record, descriptor, &message, error);

		if (r < 0)
			return r;
		entry = (struct entry){ (int)message->fd, message->id,
					message->flags & FD_CLOEXEC };
		if (array_append(&ret->list, entry) < 0)
			return error_set(error, -ENOMEM, "no memory for descriptors");
	}
	if (ret->list.count > 1)
		qsort(ret->list.items, ret->list.count, sizeof(ret->list.items[0]), compare_entry);
	return 0;
}

static const struct entry *find_entry(const struct table *table, int number)
{
	struct entry key = { .number = number };

	if (table->list.count == 0)
		return NULL;
	return bsearch(&key, table->list.items, table->list.count, sizeof(key), compare_entry);
}

static bool is_disarmed(const EpollItem *item)
{
	return (item->events & EPOLLONESHOT) && (item->events & ~(uint32_t)PRIVATE_BITS) == 0;
}

/* What a file that is watched is ready for right now; `fd` is our own descriptor of it. */
static bool is_ready(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN | POLLOUT };

	return fd >= 0 && poll(&poll_fd, 1, 0) > 0;
}

static void add_control(struct tracee_batch *batch, int epoll, int number, uint32_t events,
			uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	tracee_batch_call(batch, SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, number,
			  tracee_batch_data(batch, &event, sizeof(event)));
}

/*
 * Adds the item under its number, which stands for the right file in the shell at this point of the
 * batch.
 */
static void add_item(struct tracee_batch *batch, int epoll, const EpollItem *item, int our_fd)
{
	if (is_disarmed(item) && is_ready(our_fd)) {
		add_control(batch, epoll, (int)item->tfd, item->events | EPOLLIN | EPOLLOUT,
			    item->data);
		tracee_batch_call(batch, SYS_epoll_wait, epoll,
				  tracee_batch_space(batch, sizeof(struct epoll_event)), 1, 0);
	} else {
		add_control(batch, epoll, (int)item->tfd, item->events, item->data);
	}
}

/* Adds an item whose number is free or another file's in the final table. */
static int add_misplaced(struct restore_tree *tree, struct restore_install *install,
			 const struct table *table, int epoll, const EpollItem *item,
			 struct error *error)
{
	struct restore_file *watched = restore_file_find(tree->files, item->file_id);
	struct tracee_batch *batch = restore_install_batch(install, 10);
	const struct entry *entry = find_entry(table, (int)item->tfd);
	bool taken = entry || (int)item->tfd == install->pidfd_number;
	int number = (int)item->tfd, fetched, moved, saved = 0, r;

	if (!watched)
		return error_set(error, -EPROTO, "epoll watches the unknown open file %u",
				 item->file_id);
	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	r = restore_file_open(tree, watched, error);
	if (r < 0)
		return r;
	fetched = tracee_batch_call(batch, SYS_pidfd_getfd, install->pidfd_number, watched->fd, 0);
	moved = tracee_batch_call(batch, SYS_fcntl, TRACEE_RESULT(fetched), F_DUPFD_CLOEXEC,
				  number + 1);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(fetched));
	if (taken)
		saved = tracee_batch_call(batch, SYS_fcntl, number, F_DUPFD_CLOEXEC, number + 1);
	tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(moved), number, O_CLOEXEC);
	add_item(batch, epoll, item, watched->fd);
	if (taken) {
		tracee_batch_call(batch, SYS_dup3, TRACEE_RESULT(saved), number,
				  !entry || entry->cloexec ? O_CLOEXEC : 0);
		tracee_batch_call(batch, SYS_close, TRACEE_RESULT(saved));
	} else {
		tracee_batch_call(batch, SYS_close, number);
	}
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(moved));
	return 0;
}

/* Fills one set; disarmed items come first, while nothing else in the set can have an event. */
static int fill_set(struct restore_tree *tree, struct restore_install *install,
		    const struct table *table, int epoll, const EpollFd *set, struct error *error)
{
	int r = 0;

	for (int disarmed = 1; disarmed >= 0; disarmed--) {
		for (size_t i = 0; r == 0 && i < set->n_tfd; i++) {
			const EpollItem *item = set->tfd[i];
			const struct entry *entry = find_entry(table, (int)item->tfd);
			const struct restore_file *watched;
			struct tracee_batch *batch;

			if (is_disarmed(item) != (disarmed == 1))
				continue;
			if (item->has_file_id) {
				r = add_misplaced(tree, install, table, epoll, item, error);
				continue;
			}
			batch = restore_install_batch(install, 2);
			watched = entry ? restore_file_find(tree->files, entry->file_id) : NULL;
			if (!batch)
				return error_set(error, -ENOMEM, "no memory for a batch");
			if (!watched)
				return error_set(error, -EPROTO,
						 "epoll watches the unknown descriptor %u",
						 item->tfd);
			add_item(batch, epoll, item, watched->fd);
		}
	}
	return r;
}

int restore_epoll_calls(struct restore_tree *tree, uint32_t files_id,
			struct restore_install *install, struct error *error)
{
	struct table table = { 0 };
	int r;

	r = read_table(tree->images, files_id, &table, error);
	for (size_t i = 0; r == 0 && i < table.list.count; i++) {
		const struct restore_file *file = restore_file_find(tree->files,
								    table.list.items[i].file_id);
		bool again = false;

		if (!file || file->message->type != FILE_TYPE__FILE_EPOLL ||
		    file->message->epfd->files_id != files_id)
			continue;
		for (size_t k = 0; k < i; k++)
			again |= table.list.items[k].file_id == file->id;
		if (!again)
			r = fill_set(tree, install, &table, table.list.items[i].number,
				     file->message->epfd, error);
	}
	array_deinit(&table.list);
	return r;
}

const struct restore_file_kind restore_kind_epoll = {
	.name = "epoll",
	.type = FILE_TYPE__FILE_EPOLL,
	.open = open_epoll,
};
