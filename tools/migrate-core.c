/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* migrate core: processes of a checkpoint directory as files for a debugger. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "checkpoint/core.h"
#include "command.h"
#include "image/directory.h"
#include "pstree.pb-c.h"
#include "util/array.h"
#include "util/parse.h"

#define MIB (1024.0 * 1024.0)

struct core_command {
	const char *directory;
	const char *output; /* NULL: core.PID */
	pid_t pid;          /* 0: all */
};

struct process_list {
	uint32_t *items;
	size_t count;
	size_t capacity;
};

static int parse(int argc, char **argv, struct core_command *command, struct error *error)
{
	static const struct option table[] = {
		{ "images-dir", required_argument, NULL, 'D' },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":D:o:", table, NULL)) != -1) {
		if (option == 'D')
			r = command_take_text("-D", &command->directory, error);
		else if (option == 'o')
			r = command_take_text("-o", &command->output, error);
		else
			r = command_bad_option(option, argv, error);
	}
	if (r == 0 && !command->directory && optind < argc)
		command->directory = argv[optind++];
	if (r == 0 && (!command->directory || !*command->directory))
		r = error_set(error, -EINVAL, "core needs DIR, the directory of a checkpoint");
	if (r == 0 && optind < argc)
		r = parse_pid(argv[optind++], &command->pid, error);
	if (r == 0 && optind < argc)
		r = error_set(error, -EINVAL, "core takes one directory and one PID, and '%s' is another one", argv[optind]);
	return r;
}

/* The processes that have memory (one that has ended and was not waited for has none), parents first. */
static int list_processes(const struct image_directory *directory, const char *path, struct process_list *list,
			  struct error *error)
{
	const struct image_set *set = image_directory_set(directory);
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(set, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *process = NULL;

		r = image_unpack(record, tree_process, &process, error);
		if (r == 0 && image_set_find(set, IMAGE_MM, process->pid) && array_append(list, process->pid) < 0)
			r = error_set_errno(error, -ENOMEM, "%s", path);
	}
	if (r == 0 && list->count == 0)
		r = error_set(error, -ENODATA, "%s: there is no process in it, only pages of one: it is a round of pre-copy",
			      path);
	return r;
}

static int write_core(const struct core_command *command, struct image_directory *directory, uint32_t pid, bool alone,
		      struct error *error)
{
	struct checkpoint_core_summary summary;
	const char *name = command->output ? command->output : "core";
	char path[PATH_MAX];
	int n = command->output && alone ? snprintf(path, sizeof(path), "%s", name) :
					   snprintf(path, sizeof(path), "%s.%u", name, pid);
	int r;

	if (n < 0 || (size_t)n >= sizeof(path))
		return error_set(error, -ENAMETOOLONG, "-o: '%s' is too long", name);
	r = checkpoint_core_write(directory, pid, path, &summary, error);
	if (r < 0)
		return error_wrap(error, r, "%s", command->directory);
	printf("%s: PID %u, %u thread%s, %.1f MiB of pages\n", path, pid, summary.threads, summary.threads == 1 ? "" : "s",
	       (double)(summary.pages * IMAGE_PAGE_SIZE) / MIB);
	return 0;
}

static int run(const struct core_command *command, struct error *error)
{
	_cleanup_image_directory_ struct image_directory *directory = NULL;
	struct process_list list = { 0 };
	int r = image_directory_open(command->directory, &directory, error);

	if (r < 0)
		return r;
	if (command->pid)
		return write_core(command, directory, (uint32_t)command->pid, true, error);
	r = list_processes(directory, command->directory, &list, error);
	for (size_t i = 0; r == 0 && i < list.count; i++)
		r = write_core(command, directory, list.items[i], list.count == 1, error);
	array_deinit(&list);
	return r;
}

int command_core(int argc, char **argv, struct log *log)
{
	struct core_command command = { .directory = NULL };
	struct error error = ERROR_INIT;

	if (parse(argc, argv, &command, &error) < 0)
		return command_fail_usage(log, &error);
	return command_report(log, &error, run(&command, &error));
}
