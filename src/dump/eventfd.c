/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * eventfd(2): all there is to know is in fdinfo. The line that tells EFD_SEMAPHORE is there since
 * Linux 6.5.
 */
#include <stdlib.h>
#include <string.h>

#include "dump/file-kind.h"

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[eventfd]") == 0;
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
	event.semaphore = semaphore && *semaphore == '1';
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
