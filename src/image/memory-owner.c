/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory-owner.h"

#include "core.pb-c.h"
#include "pstree.pb-c.h"
#include "util/cleanup.h"

static bool read_memory_id(const struct image_set *set, uint32_t pid, uint32_t *ret)
{
	const struct image_record *record = image_set_find(set, IMAGE_IDS, pid);
	_cleanup_message_ ObjectIds *ids = NULL;

	if (!record || !image_set_find(set, IMAGE_MM, pid) || image_unpack(record, object_ids, &ids, NULL) < 0)
		return false;
	*ret = ids->vm_id;
	return true;
}

uint32_t image_memory_owner(const struct image_set *set, uint32_t pid)
{
	const struct image_record *record;
	uint32_t wanted, found;
	size_t cursor = 0;

	if (!read_memory_id(set, pid, &wanted) || wanted == pid)
		return pid;
	while ((record = image_set_next(set, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *process = NULL;

		if (image_unpack(record, tree_process, &process, NULL) == 0 && read_memory_id(set, process->pid, &found) &&
		    found == wanted)
			return process->pid;
	}
	return pid;
}
