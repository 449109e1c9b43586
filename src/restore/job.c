/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shell jobs: trees that share the terminal, and mostly the session, of the shell that started them.
 *
 * Model. The session that was the shell's on the source becomes the one that this program is in, and the terminal the one
 * that it was given (tty.c). A root that led the session itself, on a terminal whose master was not moved, becomes a member
 * of this program's session too: a terminal controls one session only, and ours must not lose it. The root leads a process
 * group of its own from the beginning, so what is typed here (an interrupt) does not reach shells.
 *
 * At the go. A job that is a child of this program takes its place: if we are in the foreground, its group becomes the
 * foreground, and the terminal gets the settings that the job had given its own, if it was in the foreground there too
 * (otherwise they were the shell's). A job that does not belong to us is left in the background: nobody would take the
 * terminal back from it. If the terminal has another size here, the job is told (SIGWINCH).
 *
 * While it runs. restore_job_wait() is what a shell does for a job: when the job stops (^Z), it takes the terminal back and
 * stops too, so that the shell that started this program sees a stopped job; continued, it continues the job.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "parts.h"
#include "restore/pty.h"
#include "tty.pb-c.h"

struct restore_job {
	pid_t session;        /* the number in the images that stands for our session; 0: none */
	pid_t group;          /* foreground group of the job here */
	bool was_foreground;  /* on the source */
	TerminalInfo *info;   /* owned; NULL: no terminal */
};

void restore_job_free(struct restore_job *job)
{
	if (!job)
		return;
	if (job->info)
		protobuf_c_message_free_unpacked(&job->info->base, NULL);
	free(job);
}

/* The record of the terminal that controls the root's session, or the first one, of those that did not move. */
static int read_info(const struct image_set *images, uint32_t session, TerminalInfo **ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_TTY_INFO, IMAGE_ANY, &cursor))) {
		TerminalInfo *info;
		int r = image_unpack(record, terminal_info, &info, error), moves;

		if (r < 0)
			return r;
		moves = restore_pty_has_master(images, info->id, error);
		if (moves || (*ret && info->sid != session)) {
			protobuf_c_message_free_unpacked(&info->base, NULL);
			if (moves < 0)
				return moves;
			continue;
		}
		if (*ret)
			protobuf_c_message_free_unpacked(&(*ret)->base, NULL);
		*ret = info;
		if (info->sid == session)
			break;
	}
	return 0;
}

/* Are the leaders of the session and of the foreground group in the tree? */
static int look_for_leaders(const struct image_set *images, uint32_t session, uint32_t foreground, bool *ret_session,
			    bool *ret_foreground, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	*ret_session = *ret_foreground = false;
	while ((record = image_set_next(images, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *process = NULL;
		int r = image_unpack(record, tree_process, &process, error);

		if (r < 0)
			return r;
		*ret_session = *ret_session || process->pid == session;
		*ret_foreground = *ret_foreground || process->pid == foreground;
	}
	return 0;
}

static int read_job(const struct image_set *images, const TreeProcess *root, struct restore_job *job, struct error *error)
{
	bool session_inside, foreground_inside;
	uint32_t foreground;
	int r;

	r = read_info(images, root->sid, &job->info, error);
	if (r < 0)
		return r;
	foreground = job->info ? job->info->pgrp : 0;
	r = look_for_leaders(images, root->sid, foreground, &session_inside, &foreground_inside, error);
	if (r < 0)
		return r;
	if ((!session_inside && !root->own_session) || (job->info && job->info->sid == root->sid))
		job->session = (pid_t)root->sid;
	/* The root's group may have a leader outside, the root leads it here. */
	job->was_foreground = foreground && (foreground_inside || foreground == root->pgid);
	job->group = (pid_t)(foreground_inside ? foreground : root->pid);
	return 0;
}

int restore_job_terminal(const struct restore_tree *tree, struct error *error)
{
	int fd = tree->options->terminal_fd;
	unsigned int number;

	if (!tree->options->shell_job)
		return error_set(error, -EINVAL,
				 "the processes share the terminal that they were started from: restore them with --shell-job");
	if (!isatty(fd))
		return error_set(error, -ENOTTY, "the processes share the terminal that they were started from, and there is "
				 "none here (descriptor %d): restore them from a terminal", fd);
	if (ioctl(fd, TIOCGPTN, &number) == 0)
		return error_set(error, -ENOTTY, "descriptor %d is the master of a terminal, not the terminal", fd);
	return 0;
}

int restore_job_read(struct restore_tree *tree, struct error *error)
{
	const struct image_record *record = image_set_find(tree->images, IMAGE_PSTREE, IMAGE_ANY);
	_cleanup_message_ TreeProcess *root = NULL;
	struct restore_job *job;
	int r;

	if (!record)
		return error_set(error, -EPROTO, "the list of processes is missing");
	r = image_unpack(record, tree_process, &root, error);
	if (r < 0)
		return r;
	job = calloc(1, sizeof(*job));
	if (!job)
		return error_set_errno(error, -ENOMEM, "cannot begin a restore");
	r = read_job(tree->images, root, job, error);
	if (r == 0 && job->info)
		r = restore_job_terminal(tree, error);
	if (r == 0 && job->session && !tree->options->shell_job)
		r = error_set(error, -EINVAL,
			      "the processes belong to the session of a shell outside of their tree: restore them with "
			      "--shell-job");
	if (r < 0) {
		restore_job_free(job);
		return r;
	}
	restore_job_free(tree->job);
	tree->job = job;
	return 0;
}

bool restore_job_shares(const struct restore_tree *tree, pid_t session)
{
	return tree->job && tree->job->session && tree->job->session == session;
}

/* ---- the go */

/* The settings of programs. The line itself (speed, bits, discipline) belongs to the device here. */
static void apply_settings(int fd, const TerminalSettings *settings)
{
	struct termios termios;

	if (tcgetattr(fd, &termios) < 0)
		return;
	termios.c_iflag = settings->c_iflag;
	termios.c_oflag = settings->c_oflag;
	termios.c_lflag = settings->c_lflag;
	for (size_t i = 0; i < settings->n_c_cc && i < NCCS; i++)
		termios.c_cc[i] = (cc_t)settings->c_cc[i];
	(void)tcsetattr(fd, TCSANOW, &termios);
}

void restore_job_foreground(const struct restore_tree *tree)
{
	const struct restore_job *job = tree->job;
	int fd = tree->options->terminal_fd;

	if (!job || !job->info || tree->options->parentage != RESTORE_CHILD || tcgetpgrp(fd) != getpgrp())
		return;
	if (job->was_foreground && job->info->termios)
		apply_settings(fd, job->info->termios);
	if (tcsetpgrp(fd, job->group) < 0)
		log_debug(tree->log, "process group %d does not become the foreground of the terminal", job->group);
}

void restore_job_resized(const struct restore_tree *tree)
{
	const struct restore_job *job = tree->job;
	struct winsize now;

	if (!job || !job->info || !job->info->winsize || ioctl(tree->options->terminal_fd, TIOCGWINSZ, &now) < 0)
		return;
	if (now.ws_row != job->info->winsize->ws_row || now.ws_col != job->info->winsize->ws_col)
		kill(-job->group, SIGWINCH);
}

/* ---- afterwards */

int restore_terminal_save(int fd, struct restore_terminal *ret, struct error *error)
{
	struct restore_terminal terminal = { .fd = fd, .foreground = tcgetpgrp(fd) == getpgrp() };

	if (tcgetattr(fd, &terminal.settings) < 0)
		return error_set_errno(error, -errno, "descriptor %d is no terminal", fd);
	*ret = terminal;
	return 0;
}

/* Whoever is in the background is stopped for this, unless it blocks the signal. */
static void set_foreground(int fd, pid_t group, const struct termios *settings)
{
	sigset_t mask, old;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &mask, &old);
	(void)tcsetpgrp(fd, group);
	if (settings)
		(void)tcsetattr(fd, TCSADRAIN, settings);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void restore_terminal_back(const struct restore_terminal *terminal)
{
	if (terminal->foreground)
		set_foreground(terminal->fd, getpgrp(), &terminal->settings);
}

/* The job has stopped: so do we, and go on together. */
static void stop_too(pid_t root, struct restore_terminal *terminal)
{
	bool had = terminal->foreground;
	pid_t group = getpgid(root);
	struct termios of_job;

	had = had && tcgetattr(terminal->fd, &of_job) == 0;
	restore_terminal_back(terminal);
	/* Without a shell that controls jobs this one is thrown away, and the job goes on at once. */
	kill(0, SIGTSTP);
	terminal->foreground = tcgetpgrp(terminal->fd) == getpgrp();
	if (terminal->foreground && group > 0)
		set_foreground(terminal->fd, group, had ? &of_job : NULL);
	if (group > 0)
		kill(-group, SIGCONT);
}

int restore_job_wait(pid_t root, struct restore_terminal *terminal, int *ret_status, struct error *error)
{
	int status;

	for (;;) {
		if (waitpid(root, &status, WUNTRACED) < 0) {
			if (errno == EINTR)
				continue;
			return error_set_errno(error, -errno, "cannot wait for PID %d", root);
		}
		if (!WIFSTOPPED(status))
			break;
		if (terminal)
			stop_too(root, terminal);
	}
	if (terminal)
		restore_terminal_back(terminal);
	*ret_status = status;
	return 0;
}
