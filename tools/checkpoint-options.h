/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What dump, pre-dump, restore and the other commands on directories have in common on their command lines. */
#pragma once

#include "command.h"

#define CHECKPOINT_SHORT "D:o:W:v::"

enum {
	CHECKPOINT_STATE_DIR = COMMAND_LONG + 64, CHECKPOINT_PIDFILE, CHECKPOINT_JSON, CHECKPOINT_TCP_CLOSE,
	CHECKPOINT_EXT_UNIX, CHECKPOINT_TCP_ESTABLISHED,
	CHECKPOINT_OWN, /* first number of a command's own */
};

struct checkpoint_common {
	const char *directory; /* -D */
	const char *log_file;  /* -o, relative to work_dir */
	const char *work_dir;  /* -W; NULL: the directory */
	const char *state_dir;
	const char *pidfile;   /* relative to work_dir */
	int pidfile_fd;        /* once begun, if there is to be one */
	bool json;
	bool tcp_close;
	bool ext_unix;
	bool tcp_established;
};

#define CHECKPOINT_LONG                                                       \
	{ "images-dir", required_argument, NULL, 'D' },                       \
	{ "log-file", required_argument, NULL, 'o' },                         \
	{ "work-dir", required_argument, NULL, 'W' },                         \
	{ "verbosity", optional_argument, NULL, 'v' },                        \
	{ "state-dir", required_argument, NULL, CHECKPOINT_STATE_DIR },       \
	{ "pidfile", required_argument, NULL, CHECKPOINT_PIDFILE },           \
	{ "json", no_argument, NULL, CHECKPOINT_JSON },                       \
	{ "tcp-close", no_argument, NULL, CHECKPOINT_TCP_CLOSE },             \
	{ "ext-unix-sk", no_argument, NULL, CHECKPOINT_EXT_UNIX },               \
	{ "tcp-established", no_argument, NULL, CHECKPOINT_TCP_ESTABLISHED }

/* Takes one that getopt_long() gave. -EINVAL, too when it is no option of these. */
int checkpoint_common_take(int option, char **argv, struct checkpoint_common *common, struct log *log, struct error *error);
/* Opens the pidfile and the log file; `log` writes there from now on. Closed when the program ends. */
int checkpoint_common_begin(struct checkpoint_common *common, struct log *log, struct error *error);
/* Writes a PID to the pidfile, if there is to be one. */
int checkpoint_common_pidfile(const struct checkpoint_common *common, pid_t pid, struct error *error);
