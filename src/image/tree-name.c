/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/tree-name.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "image/journal.h"
#include "inventory.pb-c.h"
#include "pstree.pb-c.h"

static void write_name(uint32_t pid, uint64_t start_time, const char *boot_id, char ret[IMAGE_TREE_NAME_SIZE])
{
	size_t used = (size_t)snprintf(ret, IMAGE_TREE_NAME_SIZE, "%" PRIu32 "x%" PRIu64 "x", pid, start_time);

	for (; *boot_id && used + 1 < IMAGE_TREE_NAME_SIZE; boot_id++)
		if (*boot_id != '-')
			ret[used++] = *boot_id;
	ret[used] = '\0';
}

/* A checkpoint that another program has made says no more of its root than the PID. */
static int name_by_pid(const struct image_set *images, char ret[IMAGE_TREE_NAME_SIZE], struct error *error)
{
	const struct image_record *record = image_set_find(images, IMAGE_PSTREE, 0);
	_cleanup_message_ TreeProcess *root = NULL;
	char boot[JOURNAL_BOOT_ID_MAX] = "";
	int r = record ? image_unpack(record, tree_process, &root, error) : -EPROTO;

	if (r == 0)
		r = journal_boot_id(boot, error);
	if (r < 0)
		return error_set(error, r, "nothing says which process the tree is of");
	write_name(root->pid, 0, boot, ret);
	return 0;
}

int image_tree_name(const struct image_set *images, char ret[IMAGE_TREE_NAME_SIZE], struct error *error)
{
	const struct image_record *record = image_set_find(images, IMAGE_INVENTORY, 0);
	_cleanup_message_ Inventory *inventory = NULL;
	int r = record ? image_unpack(record, inventory, &inventory, error) : -EPROTO;

	if (r == 0 && !inventory->root)
		return name_by_pid(images, ret, error);
	if (r < 0)
		return error_set(error, r, "nothing says which process the tree is of");
	write_name(inventory->root->pid, inventory->root->start_time, inventory->root->boot_id, ret);
	return 0;
}
