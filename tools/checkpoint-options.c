/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "checkpoint-options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/parse.h"

#define VERBOSE_MAX 4

/* -v, -vN, -v N is not possible: as many as CRIU takes. */
static int take_verbosity(struct log *log, struct error *error)
{
	uint64_t level = VERBOSE_MAX;
	int r = 0;

	if (optarg && strspn(optarg, "v") == strlen(optarg)) /* -vvv */
		level = strlen(optarg) + 1;
	else if (optarg)
		r = parse_uint(optarg, VERBOSE_MAX, "-v", &level, error);
	if (r < 0)
		return r;
	log->level = level == 0 ? LOG_ERROR : level == 1 ? LOG_WARNING : level == 2 ? LOG_INFO : LOG_DEBUG;
	log->timestamps = log->level == LOG_DEBUG;
	return 0;
}

int checkpoint_common_take(int option, char **argv, struct checkpoint_common *common, struct log *log, struct error *error)
{
	switch (option) {
	case 'D': return command_take_text("-D", &common->directory, error);
	case 'o': return command_take_text("-o", &common->log_file, error);
	case 'W': return command_take_text("-W", &common->work_dir, error);
	case 'v': return take_verbosity(log, error);
	case CHECKPOINT_STATE_DIR: return command_take_text("--state-dir", &common->state_dir, error);
	case CHECKPOINT_PIDFILE: return command_take_text("--pidfile", &common->pidfile, error);
	case CHECKPOINT_JSON: common->json = true; return 0;
	case CHECKPOINT_TCP_CLOSE: common->tcp_close = true; return 0;
	case CHECKPOINT_EXT_UNIX: common->ext_unix = true; return 0;
	case CHECKPOINT_TCP_ESTABLISHED: common->tcp_established = true; return 0;
	default: return command_bad_option(option, argv, error);
	}
}

static int open_in_work_dir(const struct checkpoint_common *common, const char *name, int flags, int *ret_fd,
			    struct error *error)
{
	const char *path = common->work_dir ? common->work_dir : common->directory;
	_cleanup_fd_ int dir = AT_FDCWD;
	int fd;

	if (*name != '/') {
		dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			return error_set_errno(error, -errno, "%s", path);
	}
	fd = openat(dir, name, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set_errno(error, -errno, "%s%s%s", *name == '/' ? "" : path, *name == '/' ? "" : "/", name);
	*ret_fd = fd;
	return 0;
}

/* Nothing is to fail for the sake of a file when the tree has ended, or runs. */
static int open_pidfile(struct checkpoint_common *common, struct error *error)
{
	int r = open_in_work_dir(common, common->pidfile, O_WRONLY | O_CREAT, &common->pidfile_fd, error);

	return r < 0 ? error_wrap(error, r, "--pidfile") : 0;
}

int checkpoint_common_begin(struct checkpoint_common *common, struct log *log, struct error *error)
{
	int fd, r = common->pidfile ? open_pidfile(common, error) : 0;

	if (r < 0 || !common->log_file)
		return r;
	r = open_in_work_dir(common, common->log_file, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, &fd, error);
	if (r < 0)
		return error_wrap(error, r, "-o");
	log->fd = fd;
	log->status = NULL;
	return 0;
}

int checkpoint_common_pidfile(const struct checkpoint_common *common, pid_t pid, struct error *error)
{
	char text[24];
	int r;

	if (!common->pidfile)
		return 0;
	r = ftruncate(common->pidfile_fd, 0) < 0 ? -errno : 0;
	if (r == 0)
		r = fdio_write(common->pidfile_fd, text, (size_t)snprintf(text, sizeof(text), "%d\n", pid));
	return r < 0 ? error_set_errno(error, r, "--pidfile %s", common->pidfile) : 0;
}
