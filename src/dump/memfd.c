/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memfd_create(2): the open file. The object and its content are shared-memory.c's. */
#include <string.h>

#include "dump/file-kind.h"
#include "dump/shared-memory.h"

static bool match(const struct dump_file *file)
{
	return dump_shared_is(file->link);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	MemFd memfd = MEM_FD__INIT;
	int r;

	r = dump_shared_memfd(ctx, file->fd, file->link, &memfd.inode_id, error);
	if (r < 0 || memfd.inode_id == 0)
		return r;
	memfd.id = file->id;
	memfd.flags = file->flags;
	memfd.pos = file->pos;
	memfd.fown = &owner;
	message.type = FILE_TYPE__FILE_MEMFD;
	message.id = file->id;
	message.memfd = &memfd;
	return dump_file_add(ctx, &message, error);
}

const struct dump_file_kind dump_kind_memfd = {
	.name = "memfd",
	.type = FILE_TYPE__FILE_MEMFD,
	.match = match,
	.dump = dump,
};
