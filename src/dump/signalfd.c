/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* signalfd(2): its mask is in fdinfo; the signals themselves belong to the process. */
#include <stdlib.h>
#include <string.h>

#include "dump/file-kind.h"

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[signalfd]") == 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const char *info = dump_file_text(file);
	const char *mask = dump_file_info(info, "sigmask");
	FileOwner owner = file->owner;
	OpenFile message = OPEN_FILE__INIT;
	SignalFd signals = SIGNAL_FD__INIT;

	if (!mask) {
		dump_file_block(ctx, file, "this kernel does not tell its signals",
				"use a newer kernel");
		return 0;
	}
	signals.id = file->id;
	signals.flags = file->flags;
	signals.fown = &owner;
	signals.sigmask = strtoull(mask, NULL, 16);
	message.type = FILE_TYPE__FILE_SIGNALFD;
	message.id = file->id;
	message.sgfd = &signals;
	return dump_file_add(ctx, &message, error);
}

const struct dump_file_kind dump_kind_signalfd = {
	.name = "signalfd",
	.type = FILE_TYPE__FILE_SIGNALFD,
	.match = match,
	.dump = dump,
};
