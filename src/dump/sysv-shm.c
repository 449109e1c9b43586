/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Segments of System V shared memory. The inode number of a mapping is the segment's id; its content is an object of
 * shared-memory.c, read through /proc/PID/map_files, which does not count as attached. That all users are in the tree is
 * seen by counting: the kernel counts the mappings of a segment.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/sysv.h"

int dump_sysv_segment(uint32_t id, IpcSegment *ret, IpcDescription *ret_desc, struct error *error)
{
	struct shmid_ds info;

	if (shmctl((int)id, IPC_STAT, &info) < 0)
		return error_set_errno(error, -errno, "System V segment %u", id);
	ipc_segment__init(ret);
	dump_sysv_describe(&info.shm_perm, id, ret_desc);
	ret->desc = ret_desc;
	ret->size = info.shm_segsz;
	return 0;
}

/* Has an earlier process the same address space? */
static bool is_copy(const struct dump_context *ctx, const struct dump_process *process)
{
	array_for_each(other, &ctx->processes) {
		if (*other == process)
			return false;
		if (((*other)->pid == process->stat.ppid || (*other)->stat.ppid == process->stat.ppid) &&
		    syscall(SYS_kcmp, (*other)->live, process->live, KCMP_VM, 0, 0) == 0)
			return true;
	}
	return false;
}

static uint64_t count_mappings(const struct dump_context *ctx, const struct dump_shared_object *object)
{
	uint64_t count = 0;

	array_for_each(process, &ctx->processes) {
		uint64_t own = 0;

		array_for_each(map, &(*process)->maps)
			own += map->inode == object->ino && dump_sysv_is(map->name);
		count += own && !is_copy(ctx, *process) ? own : 0;
	}
	return count;
}

int dump_sysv_attachments(struct dump_context *ctx, struct error *error)
{
	for (size_t i = 0; i < dump_shared_count(ctx); i++) {
		const struct dump_shared_object *object = dump_shared_get(ctx, i);
		struct shmid_ds info;

		if (!object->present || !object->sysv)
			continue;
		if (shmctl((int)object->ino, IPC_STAT, &info) < 0)
			return error_set_errno(error, errno == EINVAL || errno == EIDRM ? -ESRCH : -errno,
					       "System V segment %u", (uint32_t)object->ino);
		if (info.shm_nattch > count_mappings(ctx, object))
			dump_sysv_refuse(ctx, "segment", (uint32_t)object->ino, (uint32_t)info.shm_perm.__key, 0);
	}
	return 0;
}

/*
 * A segment that a process of the tree has made, or was the last to use, and that nobody has attached. To read it is to attach
 * it, which changes what the kernel knows of its users.
 */
int dump_sysv_segments(struct dump_context *ctx, struct error *error)
{
	struct shm_info usage;
	int last = shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&usage);

	for (int index = 0; index <= last; index++) {
		struct shmid_ds info;
		int id = shmctl(index, SHM_STAT_ANY, &info);

		if (id >= 0 && info.shm_nattch == 0 && (dump_sysv_user(ctx, info.shm_lpid, 0) == DUMP_SYSV_OURS ||
							dump_sysv_user(ctx, info.shm_cpid, 0) == DUMP_SYSV_OURS))
			dump_refuse(ctx, info.shm_cpid, "System V", IMAGE_KIND_SYSV_UNATTACHED, "segment %d (key 0x%08x)", id,
				    (unsigned)info.shm_perm.__key);
	}
	return 0;
}
