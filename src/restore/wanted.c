/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads the list of processes and plans how they are made (image/tree.h). */
#include <errno.h>

#include "layout.h"

void restore_wanted_deinit(struct restore_wanted *wanted)
{
	array_for_each(process, &wanted->processes)
		protobuf_c_message_free_unpacked(&(*process)->base, NULL);
	array_deinit(&wanted->processes);
	image_tree_deinit(&wanted->tree);
}

/* That of its IMAGE_IDS. */
static int memory_of(const struct restore_tree *tree, const TreeProcess *message, uint32_t *ret, struct error *error)
{
	const struct image_record *record = image_set_find(tree->images, IMAGE_IDS, message->pid);
	_cleanup_message_ ObjectIds *ids = NULL;
	int r;

	if (!record || restore_wanted_is_zombie(tree, message))
		return 0;
	r = image_unpack(record, object_ids, &ids, error);
	if (r == 0)
		*ret = ids->vm_id;
	return r;
}

static int add(struct restore_wanted *wanted, const TreeProcess *message, uint32_t memory)
{
	const struct image_tree_process process = { .pid = (pid_t)message->pid, .ppid = (pid_t)message->ppid,
						    .sid = (pid_t)message->sid, .memory = memory };

	if (process.pid <= 0 || message->n_threads == 0 || message->threads[0] != message->pid)
		return -EPROTO;
	return array_append(&wanted->tree.processes, process);
}

/* The children of a process that has ended have been given to another one. */
static int check_zombies(const struct restore_tree *tree, const struct restore_wanted *wanted, struct error *error)
{
	if (restore_wanted_is_zombie(tree, wanted->processes.items[0]))
		return error_set(error, -EPROTO, "nothing is said of the memory of PID %u", wanted->processes.items[0]->pid);
	array_for_each(process, &wanted->tree.processes)
		if (process->parent != IMAGE_TREE_NONE &&
		    restore_wanted_is_zombie(tree, wanted->processes.items[process->parent]))
			return error_set(error, -EPROTO, "the parent %d of PID %d has ended", process->ppid, process->pid);
	return 0;
}

int restore_wanted_read(const struct restore_tree *tree, struct restore_wanted *wanted, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r;

	while ((record = image_set_next(tree->images, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		TreeProcess *message = NULL;
		uint32_t memory = 0;

		r = image_unpack(record, tree_process, &message, error);
		if (r == 0)
			r = memory_of(tree, message, &memory, error);
		if (r < 0) {
			if (message)
				protobuf_c_message_free_unpacked(&message->base, NULL);
			return r;
		}
		r = array_append(&wanted->processes, message);
		if (r < 0)
			protobuf_c_message_free_unpacked(&message->base, NULL);
		else
			r = add(wanted, message, memory);
		if (r < 0)
			return r == -ENOMEM ? error_set_errno(error, r, "cannot list the processes") :
					      error_set(error, r, "the list of processes is wrong");
	}
	if (wanted->processes.count == 0 || wanted->processes.items[0]->ppid != 0)
		return error_set(error, -EPROTO, "the list of processes does not begin with the root");
	r = image_tree_plan(&wanted->tree, error);
	return r < 0 ? r : check_zombies(tree, wanted, error);
}

const TreeProcess *restore_wanted_find(const struct restore_wanted *wanted, pid_t pid)
{
	size_t index = image_tree_find(&wanted->tree, pid);

	return index == IMAGE_TREE_NONE ? NULL : wanted->processes.items[index];
}

bool restore_wanted_is_zombie(const struct restore_tree *tree, const TreeProcess *process)
{
	return !image_set_find(tree->images, IMAGE_MM, process->pid);
}
