/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* migrate dump, pre-dump, dedup: what writes checkpoint directories. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint-options.h"
#include "image/directory.h"
#include "image/journal.h"
#include "migrate/checkpoint.h"
#include "util/clock.h"
#include "util/parse.h"

#define DOWNTIME_LIMIT_MS 5
#define MIB (1024.0 * 1024.0)

enum { OPT_TCP = CHECKPOINT_OWN, OPT_GHOST, OPT_STATUS_FD, OPT_PREVIOUS };

struct dump_command {
	struct checkpoint_common common;
	struct migrate_checkpoint_options options;
	char parent[PATH_MAX];
	int status_fd; /* -1: none */
};

static int take_number(const char *name, uint64_t max, int *ret, struct error *error)
{
	uint64_t number = 0;
	int r = parse_uint(optarg, max, name, &number, error);

	if (r == 0)
		*ret = (int)number;
	return r;
}

/* A relative one starts at the images directory, as in CRIU. */
static int take_previous(struct dump_command *command, const char *previous, struct error *error)
{
	bool is_relative = *previous != '/';
	int n = snprintf(command->parent, sizeof(command->parent), "%s%s%s", is_relative ? command->common.directory : "",
			 is_relative ? "/" : "", previous);

	if (n < 0 || (size_t)n >= sizeof(command->parent))
		return error_set(error, -ENAMETOOLONG, "--prev-images-dir: '%s' is too long", previous);
	command->options.parent = command->parent;
	return 0;
}

static int take(int option, char **argv, struct dump_command *command, const char **previous, struct log *log,
		struct error *error)
{
	bool pre = command->options.pre_dump;
	int r = 0;

	if (pre && strchr("Rs", option)) {
		optopt = option;
		return command_bad_option('?', argv, error);
	}
	switch (option) {
	case 't': return parse_pid(optarg, &command->options.pid, error);
	case 'R':
	case 's':
		if (command->options.after != MIGRATE_AFTER_KILL)
			r = error_set(error, -EINVAL, "-R and -s: only one of them, and once");
		command->options.after = option == 'R' ? MIGRATE_AFTER_RUN : MIGRATE_AFTER_STOP;
		return r;
	case 'j': command->options.shell_job = true; return 0;
	case 'l': command->options.file_locks = true; return 0;
	case OPT_GHOST: return parse_size(optarg, "--ghost-limit", &command->options.ghost_limit, error);
	case OPT_STATUS_FD:
		r = take_number("--status-fd", INT_MAX, &command->status_fd, error);
		if (r == 0 && fcntl(command->status_fd, F_GETFD) < 0)
			r = error_set(error, -EINVAL, "--status-fd: %d is no open descriptor", command->status_fd);
		return r;
	case OPT_PREVIOUS: return command_take_text("--prev-images-dir", previous, error);
	default: return checkpoint_common_take(option, argv, &command->common, log, error);
	}
}

static int check_directory(const char *path, struct error *error)
{
	struct stat st;

	if (!path)
		return error_set(error, -EINVAL, "it needs -D DIR: the directory of the checkpoint");
	if (stat(path, &st) < 0)
		return error_set_errno(error, -errno, "-D %s", path);
	if (!S_ISDIR(st.st_mode))
		return error_set(error, -ENOTDIR, "-D %s: this is no directory", path);
	return 0;
}

static int parse(int argc, char **argv, struct dump_command *command, struct log *log, struct error *error)
{
	static const struct option table[] = {
		CHECKPOINT_LONG,
		{ "tree", required_argument, NULL, 't' },
		{ "leave-running", no_argument, NULL, 'R' },
		{ "leave-stopped", no_argument, NULL, 's' },
		{ "shell-job", no_argument, NULL, 'j' },
		{ "file-locks", no_argument, NULL, 'l' },
		{ "ghost-limit", required_argument, NULL, OPT_GHOST },
		{ "status-fd", required_argument, NULL, OPT_STATUS_FD },
		{ "prev-images-dir", required_argument, NULL, OPT_PREVIOUS },
		{ NULL, 0, NULL, 0 },
	};
	const char *previous = NULL;
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":t:Rsjl" CHECKPOINT_SHORT, table, NULL)) != -1)
		r = take(option, argv, command, &previous, log, error);
	if (r == 0 && optind < argc)
		r = error_set(error, -EINVAL, "'%s': %s takes nothing but options", argv[optind], argv[0]);
	if (r == 0 && !command->options.pid)
		r = error_set(error, -EINVAL, "%s needs -t PID: the process whose tree is meant", argv[0]);
	if (r == 0)
		r = check_directory(command->common.directory, error);
	return r < 0 || !previous ? r : take_previous(command, previous, error);
}

static void print_summary(const struct dump_command *command, const struct migrate_summary *s, const char *failure)
{
	json_t *object;

	if (!command->common.json && failure)
		return;
	if (!command->common.json) {
		printf("PID %d is in %s: %u process%s, %u thread%s, %.1f MiB of pages\n", command->options.pid,
		       command->common.directory, s->processes, s->processes == 1 ? "" : "es", s->threads,
		       s->threads == 1 ? "" : "s", (double)s->bytes_sent / MIB);
		if (command->options.after != MIGRATE_AFTER_KILL)
			printf("  it stood still for %.2f ms of %.0f ms in all, %u round%s before that\n", s->downtime_ms,
			       s->total_ms, s->rounds, s->rounds == 1 ? "" : "s");
		return;
	}
	object = json_pack("{s:s?, s:i, s:s, s:f, s:f, s:i, s:i, s:i, s:I, s:I, s:I}", "error", failure, "pid",
			   command->options.pid, "directory", command->common.directory, "downtime_ms", s->downtime_ms,
			   "total_ms", s->total_ms, "rounds", (int)s->rounds, "processes", (int)s->processes, "threads",
			   (int)s->threads, "bytes", (json_int_t)s->bytes_sent, "pages", (json_int_t)s->pages_sent,
			   "pages_zero", (json_int_t)s->pages_zero);
	json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	printf("\n");
	json_decref(object);
}

static int run_dump(struct dump_command *command, struct log *log, struct error *error)
{
	struct migrate_summary summary;
	int r = checkpoint_common_begin(&command->common, log, error);

	if (r < 0)
		return r;
	command->options.path = command->common.directory;
	command->options.state_dir = command->common.state_dir;
	command->options.tcp_close = command->common.tcp_close;
	command->options.ext_unix = command->common.ext_unix;
	command->options.tcp_established = command->common.tcp_established;
	command->options.json = true; /* lines of rounds are for the wire's users */
	command->options.cancel_fd = command_catch_stop();
	r = migrate_checkpoint(&command->options, log, &summary, error);
	close(command->options.cancel_fd);
	print_summary(command, &summary, r < 0 ? error_text(error, r) : NULL);
	if (r == 0)
		r = checkpoint_common_pidfile(&command->common, command->options.pid, error);
	if (r == 0 && command->status_fd >= 0) {
		if (write(command->status_fd, "", 1) != 1)
			r = error_set_errno(error, -errno, "--status-fd %d", command->status_fd);
		close(command->status_fd);
	}
	return r;
}

int command_dump(int argc, char **argv, struct log *log)
{
	struct dump_command command = {
		.common = { .state_dir = JOURNAL_STATE_DIR_DEFAULT },
		.options = { .pre_dump = strcmp(argv[0], "pre-dump") == 0,
			     .downtime_limit_ns = DOWNTIME_LIMIT_MS * (uint64_t)CLOCK_MS },
		.status_fd = -1,
	};
	struct error error = ERROR_INIT;
	int r;

	if (parse(argc, argv, &command, log, &error) < 0)
		return command_fail_usage(log, &error);
	r = command_check_root(argv[0], &error);
	if (r == 0)
		r = run_dump(&command, log, &error);
	return command_report(log, &error, r);
}

int command_dedup(int argc, char **argv, struct log *log)
{
	static const struct option table[] = {
		{ "images-dir", required_argument, NULL, 'D' },
		{ NULL, 0, NULL, 0 },
	};
	struct image_directory *directory = NULL;
	struct error error = ERROR_INIT;
	const char *path = NULL;
	uint64_t bytes = 0;
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":D:", table, NULL)) != -1)
		r = option == 'D' ? command_take_text("-D", &path, &error) : command_bad_option(option, argv, &error);
	if (r == 0 && !path && optind < argc)
		path = argv[optind++];
	if (r == 0 && optind < argc)
		r = error_set(&error, -EINVAL, "'%s': dedup takes one directory", argv[optind]);
	if (r == 0)
		r = check_directory(path, &error);
	if (r < 0)
		return command_fail_usage(log, &error);
	r = image_directory_open(path, &directory, &error);
	if (r == 0)
		r = image_directory_dedup(directory, &bytes, &error);
	if (r == 0)
		printf("%.1f MiB freed in the directories that %s builds upon\n", (double)bytes / MIB, path);
	image_directory_free(directory);
	return command_report(log, &error, r);
}
