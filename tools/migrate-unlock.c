/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* migrate unlock: the connections of a checkpoint are given up. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "command.h"
#include "image/directory.h"
#include "image/tree-name.h"
#include "net/lock.h"

static int unlock(const char *path, struct error *error)
{
	struct image_directory *directory = NULL;
	char name[IMAGE_TREE_NAME_SIZE];
	int r = image_directory_open(path, &directory, error);

	if (r == 0)
		r = image_tree_name(image_directory_set(directory), name, error);
	image_directory_free(directory);
	return r < 0 ? r : net_lock_remove(NET_LOCK_CHECKPOINT, name, error);
}

int command_unlock(int argc, char **argv, struct log *log)
{
	static const struct option table[] = { { NULL, 0, NULL, 0 } };
	struct error error = ERROR_INIT;
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":", table, NULL)) != -1)
		r = command_bad_option(option, argv, &error);
	if (r == 0 && optind + 1 != argc)
		r = error_set(&error, -EINVAL, "unlock takes one directory");
	if (r < 0)
		return command_fail_usage(log, &error);
	r = command_check_root("unlock", &error);
	if (r == 0)
		r = unlock(argv[optind], &error);
	return command_report(log, &error, r);
}
