/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Segments of System V shared memory. The content is written through a descriptor of the inode behind, which attaches nobody;
 * the shells attach by mm.c. What changes who may attach comes at the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/shm.h>

#include "pagestream-core.pb-c.h"
#include "restore/parts.h"
#include "restore/sysv.h"

#ifndef SHM_DEST
#define SHM_DEST 01000
#endif
#ifndef SHM_LOCKED
#define SHM_LOCKED 02000
#endif

#define SEGMENT_PAGE UINT64_C(4096)

int restore_sysv_segment(struct restore_tree *tree, const IpcSegment *message, int *ret_fd, struct error *error)
{
	unsigned long end = (message->size + SEGMENT_PAGE - 1) & ~(SEGMENT_PAGE - 1);
	IpcDescription desc = *message->desc;
	char path[96];
	void *map;
	int fd, r;

	r = restore_sysv_make(tree, IMAGE_IPC_SEGMENT, &desc, message->size, error);
	if (r < 0)
		return r;
	map = shmat((int)desc.id, NULL, 0);
	if (map == (void *)-1)
		return error_set_errno(error, -errno, "cannot attach System V segment %u", desc.id);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map, (unsigned long)map + end);
	fd = open(path, O_RDWR | O_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	shmdt(map);
	if (r < 0)
		return error_set_errno(error, r, "cannot open System V segment %u through /proc/self/map_files", desc.id);
	*ret_fd = fd;
	return 0;
}

static int finish_segment(const IpcSegment *message, struct error *error)
{
	const IpcDescription *desc = message->desc;

	if (desc->mode & SHM_LOCKED && shmctl((int)desc->id, SHM_LOCK, NULL) < 0)
		return error_set_errno(error, -errno, "cannot lock System V segment %u", desc->id);
	if (desc->mode & SHM_DEST && shmctl((int)desc->id, IPC_RMID, NULL) < 0)
		return error_set_errno(error, -errno, "cannot remove System V segment %u", desc->id);
	return 0;
}

int restore_sysv_segments_finish(struct restore_tree *tree, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(tree->images, IMAGE_SHARED_MEMORY, IMAGE_ANY, &cursor))) {
		_cleanup_message_ SharedMemory *message = NULL;

		r = image_unpack(record, shared_memory, &message, error);
		if (r == 0 && message->segment)
			r = finish_segment(message->segment, error);
	}
	return r;
}
