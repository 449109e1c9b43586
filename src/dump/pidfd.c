/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pidfd_open(2): fdinfo tells which process or thread of ours it stands for, or that this has ended. How it ended is asked by
 * PIDFD_GET_INFO, which Linux 6.15 answers also when the process is gone.
 *
 * Failure modes. A process outside of the tree is a blocker: on the target there is none.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "dump/file-kind.h"
#include "pidfd.pb-c.h"

#define INFO_EXIT (UINT64_C(1) << 3) /* PIDFD_INFO_EXIT */

/* struct pidfd_info of linux/pidfd.h in its first form. */
struct process_info {
	uint64_t mask;
	uint64_t cgroup;
	uint32_t ids[11]; /* PID, TGID, parent, and credentials */
	int32_t exit_code;
};

#define GET_INFO _IOWR(0xFF, 11, struct process_info) /* PIDFD_GET_INFO */

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[pidfd]") == 0 || strncmp(file->link, "pidfd:", 6) == 0;
}

static bool in_tree(const struct dump_context *ctx, pid_t pid, bool thread)
{
	if (dump_tree_has(ctx, pid)) /* a zombie, too */
		return true;
	array_for_each (process, &ctx->processes)
		array_for_each (tid, &(*process)->threads)
			if (thread && *tid == pid)
				return true;
	return false;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	const char *pid = dump_file_info(dump_file_text(file), "Pid");
	struct process_info info = { .mask = INFO_EXIT };
	OpenFile message = OPEN_FILE__INIT;
	FileOwner owner = file->owner;
	PidFd process = PID_FD__INIT;

	process.nspid = pid ? atoi(pid) : 0;
	if (process.nspid >= 0 && !in_tree(ctx, process.nspid, file->flags & O_EXCL)) {
		dump_file_refuse(ctx, file, IMAGE_KIND_PIDFD_OUTSIDE);
		return 0;
	}
	if (process.nspid < 0 && ioctl(file->fd, GET_INFO, &info) == 0 && info.mask & INFO_EXIT) {
		process.has_status = 1;
		process.status = info.exit_code;
	}
	process.id = file->id;
	process.ino = file->st.st_ino;
	process.flags = file->flags;
	process.fown = &owner;
	message.type = FILE_TYPE__FILE_PIDFD;
	message.id = file->id;
	message.pidfd = &process;
	return dump_file_add(ctx, &message, error);
}

const struct dump_file_kind dump_kind_pidfd = {
	.name = "pidfd",
	.type = FILE_TYPE__FILE_PIDFD,
	.match = match,
	.dump = dump,
};
