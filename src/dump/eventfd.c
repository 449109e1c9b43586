/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * eventfd(2): all there is to know is in fdinfo, on Linux 6.5 and later. Older kernels do not tell EFD_SEMAPHORE there: then
 * one read of the stopped process's counter shows it, and what was taken is put back. A poller that waits for the counter may
 * be woken by that, and finds it as it was. Nothing blocks: should somebody outside the tree read it at the same time, the
 * answer is that it is none.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dump/file-kind.h"

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[eventfd]") == 0;
}

static uint64_t take(int fd)
{
	uint64_t value = 0;
	struct iovec iov = { .iov_base = &value, .iov_len = sizeof(value) };

	return preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == (ssize_t)sizeof(value) ? value : 0;
}

static bool put(int fd, uint64_t value)
{
	return value == 0 || write(fd, &value, sizeof(value)) == (ssize_t)sizeof(value);
}

/* A read takes 1 from a semaphore and all from others, which is different from 2 on. */
static bool is_semaphore(int fd, uint64_t counter)
{
	uint64_t added = counter < 2 ? 2 - counter : 0, taken;

	if (!put(fd, added))
		return false;
	taken = take(fd);
	if (taken != 1)
		return put(fd, taken > added ? taken - added : 0) && false;
	if (added < 1)
		return put(fd, 1);
	if (added == 2)
		take(fd);
	return true;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const char *info = dump_file_text(file);
	const char *count = dump_file_info(info, "eventfd-count");
	const char *semaphore = dump_file_info(info, "eventfd-semaphore");
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	EventFd event = EVENT_FD__INIT;

	if (!count) {
		dump_file_block(ctx, file, "this kernel does not tell its counter",
				"use a newer kernel");
		return 0;
	}
	event.id = file->id;
	event.flags = file->flags;
	event.fown = &owner;
	event.counter = strtoull(count, NULL, 16);
	event.has_semaphore = 1;
	if (semaphore)
		event.semaphore = *semaphore == '1';
	else if (file->frozen)
		event.semaphore = is_semaphore(file->fd, event.counter);
	message.type = FILE_TYPE__FILE_EVENTFD;
	message.id = file->id;
	message.efd = &event;
	return dump_file_add(ctx, &message, error);
}

const struct dump_file_kind dump_kind_eventfd = {
	.name = "eventfd",
	.type = FILE_TYPE__FILE_EVENTFD,
	.match = match,
	.dump = dump,
};
