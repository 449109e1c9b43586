/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues, by their descriptors: an IMAGE_MQUEUE record for each queue, which the descriptors name by its inode.
 *
 * Messages cannot be looked at, only received. So at the freeze they are all received and at once sent again, in the same
 * order: by priority, then by age, is how they come out and how they lie there. That is done by a process of its own, which
 * does not end with this program: a queue is never left empty because we were killed in that moment. It receives into memory
 * that it shares with us, so that we put the messages back if it is that process that is killed.
 *
 * Failure modes: a process outside of the tree that has the queue open is a blocker (outside.c); so is a registration by
 * mq_notify(3), whose value the kernel tells nobody, and a kernel that has too little memory to take messages back is not
 * expected: their room was counted when the queue was made.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "pagestream-ipc.pb-c.h"
#include "util/cleanup.h"

#define MQUEUE_MAGIC 0x19800202 /* the kernel's ipc/mqueue.c */

/* Memory shared with the process that receives; behind it `room` places for messages of `size` bytes each. */
struct drain {
	int result; /* 0, or a negative errno; 1: not done */
	long count;   /* received */
	long sent;    /* ... and put back */
	bool sending; /* all were received */
	long room, size;
	struct drain_message {
		unsigned priority;
		long length;
	} messages[];
};

static bool match(const struct dump_file *file)
{
	struct statfs fs;

	return S_ISREG(file->st.st_mode) && !(file->flags & O_PATH) && fstatfs(file->fd, &fs) == 0 && fs.f_type == MQUEUE_MAGIC;
}

static uint8_t *drain_text(struct drain *drain, long index)
{
	return (uint8_t *)&drain->messages[drain->room] + index * drain->size;
}

static size_t drain_bytes(long room, long size)
{
	return sizeof(struct drain) + (size_t)room * (sizeof(struct drain_message) + (size_t)size);
}

/* In a process of its own. System calls only. Goes on where another one has ended. */
static void drain_run(struct drain *drain, int fd)
{
	int result = 0;

	while (!drain->sending && drain->count < drain->room) {
		struct drain_message *message = &drain->messages[drain->count];

		message->length = syscall(SYS_mq_timedreceive, fd, drain_text(drain, drain->count), drain->size,
					  &message->priority, NULL);
		if (message->length < 0)
			break;
		drain->count++;
	}
	drain->sending = true;
	for (; drain->sent < drain->count; drain->sent++) {
		const struct drain_message *message = &drain->messages[drain->sent];

		if (syscall(SYS_mq_timedsend, fd, drain_text(drain, drain->sent), message->length, message->priority, NULL) < 0)
			result = -errno;
	}
	drain->result = result;
}

/* That process was killed: what it has received is put back by us. */
static int drain_recover(struct drain *drain, int fd, struct error *error)
{
	struct mq_attr now;

	/* The last one may be there already, and not be counted. */
	if (drain->sending && syscall(SYS_mq_getsetattr, fd, NULL, &now) == 0)
		drain->sent = now.mq_curmsgs;
	drain_run(drain, fd);
	return error_set(error, -EIO, "the process that reads a message queue was ended");
}

/* `fd` is open for reading and writing, and does not block. */
static int drain(struct drain *drain, int fd, struct error *error)
{
	sigset_t all, old;
	int status;
	pid_t pid;

	drain->result = 1;
	/* Whoever ends this program, at the terminal or all that it has started: the child comes to its end. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0) {
		setsid();
		drain_run(drain, fd);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return error_set_errno(error, -errno, "cannot start the process that reads a message queue");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (drain->result > 0)
		return drain_recover(drain, fd, error);
	return drain->result < 0 ? error_set_errno(error, drain->result, "putting messages back") : 0;
}

static int read_messages(int fd, const struct mq_attr *attributes, PosixQueue *queue, struct dump_arena *arena,
			 struct error *error)
{
	size_t bytes = drain_bytes(attributes->mq_maxmsg, attributes->mq_msgsize);
	struct drain *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int r;

	if (shared == MAP_FAILED)
		return error_set_errno(error, -errno, "%zu bytes for messages", bytes);
	shared->room = attributes->mq_maxmsg;
	shared->size = attributes->mq_msgsize;
	r = drain(shared, fd, error);
	queue->messages = dump_arena_take(arena, ((size_t)shared->count + 1) * sizeof(*queue->messages));
	for (long i = 0; r == 0 && queue->messages && i < shared->count; i++) {
		PosixMessage *message = dump_arena_take(arena, sizeof(*message));
		size_t length = (size_t)shared->messages[i].length;

		if (!message)
			break;
		posix_message__init(message);
		message->priority = shared->messages[i].priority;
		message->data.len = length;
		message->data.data = dump_arena_take(arena, length + 1);
		if (!message->data.data)
			break;
		memcpy(message->data.data, drain_text(shared, i), length);
		queue->messages[queue->n_messages++] = message;
	}
	if (r == 0 && queue->n_messages < (size_t)shared->count)
		r = error_set(error, -ENOMEM, "out of memory");
	munmap(shared, bytes);
	return r;
}

/* Who is to be told when a message comes; 0: nobody. */
static pid_t notified(int fd)
{
	char text[256] = "", *place;
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

	place = got > 0 ? strstr(text, "NOTIFY_PID:") : NULL;
	return place ? (pid_t)atoi(place + strlen("NOTIFY_PID:")) : 0;
}

static int fill_queue(struct dump_context *ctx, const struct dump_file *file, int fd, PosixQueue *queue,
		      struct dump_arena *arena, struct error *error)
{
	struct mq_attr attributes;

	if (syscall(SYS_mq_getsetattr, fd, NULL, &attributes) < 0)
		return error_set_errno(error, -errno, "its attributes");
	if (notified(fd)) {
		dump_file_refuse(ctx, file, IMAGE_KIND_MQUEUE_NOTIFY);
		return 0;
	}
	queue->maxmsg = (uint32_t)attributes.mq_maxmsg;
	queue->msgsize = (uint32_t)attributes.mq_msgsize;
	queue->uid = file->st.st_uid;
	queue->gid = file->st.st_gid;
	queue->mode = file->st.st_mode & 07777;
	queue->deleted = file->st.st_nlink == 0;
	return file->frozen && attributes.mq_curmsgs ? read_messages(fd, &attributes, queue, arena, error) : 0;
}

/* Once an image set. */
static int add_queue(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	static const char deleted[] = " (deleted)";
	PosixQueue queue = POSIX_QUEUE__INIT;
	struct dump_arena arena = { 0 };
	char path[64], name[DUMP_LINK_MAX], *slash;
	_cleanup_fd_ int fd = -1;
	int r;

	array_for_each(known, &ctx->files->queues)
		if (known->st_ino == file->st.st_ino && known->st_dev == file->st.st_dev)
			return 0;
	if (array_append(&ctx->files->queues, file->st) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(error, -errno, "opening message queue %s", file->link);
	snprintf(name, sizeof(name), "%s", file->link);
	if (file->st.st_nlink == 0 && strlen(name) > strlen(deleted))
		name[strlen(name) - strlen(deleted)] = '\0';
	slash = strrchr(name, '/');
	queue.name = slash ? slash : name;
	queue.ino = file->st.st_ino;
	r = fill_queue(ctx, file, fd, &queue, &arena, error);
	if (r == 0 && queue.maxmsg)
		r = image_set_add(ctx->images, IMAGE_MQUEUE, 0, &queue.base, error);
	dump_arena_deinit(&arena);
	return r < 0 ? error_wrap(error, r, "message queue %s", file->link) : 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	RegularFile regular = REGULAR_FILE__INIT;
	OpenFile message = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	char name[DUMP_LINK_MAX];
	int r = add_queue(ctx, file, error);

	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%s", file->link);
	regular.id = message.id = file->id;
	regular.flags = file->flags;
	regular.fown = &owner;
	regular.name = name;
	message.type = FILE_TYPE__FILE_REGULAR;
	message.reg = &regular;
	message.has_queue = true;
	message.queue = file->st.st_ino;
	return dump_file_add(ctx, &message, error);
}

const struct dump_file_kind dump_kind_mqueue = {
	.name = "message queue",
	.type = FILE_TYPE__FILE_REGULAR,
	.match = match,
	.dump = dump,
};
