/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * migrate restore: a tree from a checkpoint directory. Not detached, this program is the parent of its root, waits for it
 * and ends as it does. Detached, it ends as soon as the tree runs; with --lazy-pages a process of its own stays until the
 * last page is in place.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint-options.h"
#include "checkpoint/checkpoint.h"
#include "image/journal.h"

struct restore_command {
	struct checkpoint_common common;
	struct checkpoint_restore_options options;
	struct restore_terminal terminal; /* a shell job's */
	bool detached, sibling;
	struct log *log;
};

static int parse(int argc, char **argv, struct restore_command *command, struct error *error)
{
	static const struct option table[] = {
		CHECKPOINT_LONG,
		{ "restore-detached", no_argument, NULL, 'd' },
		{ "restore-sibling", no_argument, NULL, 'S' },
		{ "shell-job", no_argument, NULL, 'j' },
		{ "lazy-pages", no_argument, NULL, CHECKPOINT_OWN },
		{ NULL, 0, NULL, 0 },
	};
	struct stat st;
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":dSj" CHECKPOINT_SHORT, table, NULL)) != -1)
		switch (option) {
		case 'd': command->detached = true; break;
		case 'S': command->sibling = true; break;
		case 'j': command->options.restore.shell_job = true; break;
		case CHECKPOINT_OWN: command->options.lazy_pages = true; break;
		default: r = checkpoint_common_take(option, argv, &command->common, command->log, error); break;
		}
	if (r == 0 && optind < argc)
		r = error_set(error, -EINVAL, "'%s': restore takes nothing but options", argv[optind]);
	if (r == 0 && !command->common.directory)
		r = error_set(error, -EINVAL, "restore needs -D DIR: the directory of the checkpoint");
	if (r == 0 && stat(command->common.directory, &st) < 0)
		r = error_set_errno(error, -errno, "-D %s", command->common.directory);
	if (r == 0 && !S_ISDIR(st.st_mode))
		r = error_set(error, -ENOTDIR, "-D %s: this is no directory", command->common.directory);
	if (r == 0 && command->sibling && !command->detached)
		r = error_set(error, -EINVAL, "-S needs -d: who is the parent of a sibling is who waits for it");
	return r;
}

static void print_summary(const struct restore_command *command, const struct checkpoint_summary *s)
{
	if (command->common.json)
		printf("{\"pid\": %d, \"ready_ms\": %.3f, \"processes\": %u, \"threads\": %u, \"pages\": %llu, "
		       "\"pages_shared\": %llu, \"pages_late\": %llu}\n",
		       s->pid, s->ready_ms, s->processes, s->threads, (unsigned long long)s->pages,
		       (unsigned long long)s->pages_shared, (unsigned long long)s->pages_late);
	else
		log_info(command->log, "PID %d runs after %.1f ms: %u process%s, %u thread%s, %llu pages, %llu to come", s->pid,
			 s->ready_ms, s->processes, s->processes == 1 ? "" : "es", s->threads, s->threads == 1 ? "" : "s",
			 (unsigned long long)s->pages, (unsigned long long)s->pages_late);
	fflush(stdout);
}

static int restore(struct restore_command *command, struct checkpoint_summary *summary, struct checkpoint_lazy **ret_lazy,
		   struct error *error)
{
	int r;

	command->options.path = command->common.directory;
	command->options.keeper_dir = command->common.state_dir;
	command->options.restore.tcp_close = command->common.tcp_close;
	command->options.restore.ext_unix = command->common.ext_unix;
	command->options.restore.tcp_established = command->common.tcp_established;
	command->options.cancel_fd = command_catch_stop();
	r = checkpoint_restore(&command->options, command->log, summary, ret_lazy, error);
	close(command->options.cancel_fd);
	if (r < 0)
		return r; /* what has interrupted it is still pending: the message comes before the end */
	command_release_stop();
	print_summary(command, summary);
	return checkpoint_common_pidfile(&command->common, summary->pid, error);
}

/* ---- detached */

/*
 * The pages go on being served by a process of its own, made after the restore: the parent of a sibling is the parent of
 * the process that restores.
 */
static int serve_apart(struct restore_command *command, struct checkpoint_lazy *lazy, pid_t root, struct error *error)
{
	struct error late = ERROR_INIT;
	pid_t pid = fork();

	if (pid < 0) {
		kill(root, SIGKILL); /* better than waiting for its pages for ever */
		return error_set_errno(error, -errno, "cannot start a process to serve the pages");
	}
	if (pid > 0)
		return 0;
	setsid();
	if (checkpoint_lazy_serve(lazy, &late) < 0)
		log_error(command->log, "%s", late.message);
	_exit(0);
}

static int run_detached(struct restore_command *command, struct error *error)
{
	struct checkpoint_lazy *lazy = NULL;
	struct checkpoint_summary summary;
	int r, served = 0;

	command->options.restore.parentage = command->sibling ? RESTORE_SIBLING : RESTORE_DETACHED;
	r = restore(command, &summary, &lazy, error);
	if (lazy) /* it runs, also when there is no pidfile */
		served = serve_apart(command, lazy, summary.pid, error);
	return r < 0 ? r : served;
}

/* ---- waiting */

static void *serve(void *argument)
{
	struct checkpoint_lazy *lazy = argument;
	struct error error = ERROR_INIT;

	/* It ends the processes when it fails, and so us. */
	checkpoint_lazy_serve(lazy, &error);
	return NULL;
}

/* Ends this program as the root of the tree has ended. */
static void end_as(int status)
{
	const struct rlimit no_core = { 0, 0 };

	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	setrlimit(RLIMIT_CORE, &no_core);
	signal(WTERMSIG(status), SIG_DFL);
	raise(WTERMSIG(status));
	_exit(128 + WTERMSIG(status));
}

static int run_waiting(struct restore_command *command, struct error *error)
{
	struct checkpoint_lazy *lazy = NULL;
	struct checkpoint_summary summary;
	pthread_t thread;
	int status = 0, r;

	command->options.restore.parentage = RESTORE_CHILD;
	signal(SIGCHLD, SIG_DFL);
	r = restore(command, &summary, &lazy, error);
	if (r == 0 && lazy && pthread_create(&thread, NULL, serve, lazy) != 0) {
		kill(summary.pid, SIGKILL); /* better than waiting for its pages for ever */
		r = error_set(error, -EAGAIN, "cannot start a thread to serve pages");
	}
	if (r == 0)
		r = restore_job_wait(summary.pid, command->options.restore.shell_job ? &command->terminal : NULL, &status,
				     error);
	if (r == 0)
		end_as(status);
	return r;
}

static int open_terminal(struct restore_command *command, struct error *error)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int r;

	command->options.restore.terminal_fd = fd;
	if (!command->options.restore.shell_job)
		return 0;
	r = fd < 0 ? -ENOTTY : restore_terminal_save(fd, &command->terminal, error);
	return r < 0 ? error_set(error, r, "--shell-job: there is no terminal here to share") : 0;
}

int command_restore(int argc, char **argv, struct log *log)
{
	struct restore_command command = {
		.common = { .state_dir = JOURNAL_STATE_DIR_DEFAULT },
		.options = { .cancel_fd = -1, .restore = { .terminal_fd = -1 } },
		.log = log,
	};
	struct error error = ERROR_INIT;
	int r;

	if (parse(argc, argv, &command, &error) < 0)
		return command_fail_usage(log, &error);
	r = command_check_root(argv[0], &error);
	if (r == 0)
		r = checkpoint_common_begin(&command.common, log, &error);
	if (r == 0)
		r = open_terminal(&command, &error);
	if (r == 0)
		r = command.detached ? run_detached(&command, &error) : run_waiting(&command, &error);
	return command_report(log, &error, r);
}
