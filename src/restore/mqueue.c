/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues: the first descriptor of a queue makes it and fills it, the others open what that one has open. A queue
 * whose name was removed is made under a name that nobody has, which is removed at once.
 *
 * A queue with a name is noted with the System V objects (sysv.c), as it has to be removed if the tree never runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pagestream-ipc.pb-c.h"
#include "restore/file-kind.h"
#include "restore/sysv.h"
#include "util/cleanup.h"

static int find_queue(const struct image_set *images, uint64_t ino, PosixQueue **ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_MQUEUE, IMAGE_ANY, &cursor))) {
		PosixQueue *queue;
		int r = image_unpack(record, posix_queue, &queue, error);

		if (r < 0)
			return r;
		if (queue->ino == ino) {
			*ret = queue;
			return 0;
		}
		protobuf_c_message_free_unpacked(&queue->base, NULL);
	}
	return error_set(error, -EPROTO, "message queue %llu did not come along", (unsigned long long)ino);
}

static int make_queue(struct restore_tree *tree, const PosixQueue *queue, int *ret_fd, struct error *error)
{
	struct mq_attr attributes = { .mq_maxmsg = queue->maxmsg, .mq_msgsize = queue->msgsize };
	struct image_ipc object = { .kind = IMAGE_IPC_MQUEUE };
	char spare[64];
	const char *name = queue->name;
	int fd;

	snprintf(spare, sizeof(spare), "/pagestream-%d-%llu", getpid(), (unsigned long long)queue->ino);
	if (queue->deleted)
		name = spare;
	if ((size_t)snprintf(object.name, sizeof(object.name), "%s", name) >= sizeof(object.name))
		return error_set(error, -EPROTO, "the name of a message queue is too long");
	fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | O_CLOEXEC, queue->mode, &attributes);
	if (fd < 0)
		return error_set_errno(error, -errno, "making message queue %s", queue->name);
	if (queue->deleted ? mq_unlink(name) < 0 : restore_sysv_note(tree, &object) < 0) {
		int r = queue->deleted ? -errno : -ENOMEM;

		mq_unlink(name);
		close(fd);
		return error_set_errno(error, r, "making message queue %s", queue->name);
	}
	*ret_fd = fd;
	return 0;
}

static int fill_queue(int fd, const PosixQueue *queue, struct error *error)
{
	if (fchown(fd, queue->uid, queue->gid) < 0 || fchmod(fd, queue->mode) < 0)
		return error_set_errno(error, -errno, "giving message queue %s its owner", queue->name);
	for (size_t i = 0; i < queue->n_messages; i++) {
		const PosixMessage *message = queue->messages[i];

		if (mq_send(fd, (const char *)message->data.data, message->data.len, message->priority) < 0)
			return error_set_errno(error, -errno, "filling message queue %s", queue->name);
	}
	return 0;
}

/* A descriptor of the queue: that of a file that is open already, or of one made now, which is to be closed. */
static int get_queue(struct restore_tree *tree, uint64_t ino, int *ret_fd, int *ret_own, struct error *error)
{
	_cleanup_message_ PosixQueue *queue = NULL;
	int r;

	array_for_each(other, &tree->files->list)
		if (other->fd >= 0 && other->message->has_queue && other->message->queue == ino) {
			*ret_fd = other->fd;
			return 0;
		}
	r = find_queue(tree->images, ino, &queue, error);
	if (r == 0)
		r = make_queue(tree, queue, ret_own, error);
	if (r == 0)
		r = fill_queue(*ret_own, queue, error);
	*ret_fd = *ret_own;
	return r;
}

static int open_queue(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const RegularFile *message = file->message->reg;
	_cleanup_fd_ int own = -1;
	char path[64];
	int fd, r;

	r = get_queue(tree, file->message->queue, &fd, &own, error);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	file->fd = open(path, (int)(message->flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "opening message queue %s", message->name);
	return restore_file_set(file->fd, message->flags, message->fown, error);
}

const struct restore_file_kind restore_kind_mqueue = {
	.name = "message queue",
	.type = FILE_TYPE__FILE_REGULAR,
	.open = open_queue,
};
