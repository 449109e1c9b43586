/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What images say of pseudo-terminals that come along, and whether they can be made here. Looks only: before anything is made,
 * no number is taken.
 */
#include <stdio.h>
#include <unistd.h>

#include "restore/parts.h"
#include "restore/pty.h"
#include "util/cleanup.h"

bool restore_pty_is_master(const TerminalInfo *info)
{
	return info->type == TERMINAL_TYPE__TERMINAL_PTY && info->id & 1 && info->pty;
}

int restore_pty_has_master(const struct image_set *images, uint32_t id, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_TTY_INFO, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TerminalInfo *info = NULL;
		int r = image_unpack(record, terminal_info, &info, error);

		if (r < 0)
			return r;
		if (restore_pty_is_master(info) && (info->id == id || info->id == (id | 1)))
			return 1;
	}
	return 0;
}

/* CRIU's images do not tell which processes of a session have given its terminal up. */
static int tells_who_is_controlled(const struct image_set *images, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int tells = 0;

	while (!tells && (record = image_set_next(images, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *process = NULL;
		int r = image_unpack(record, tree_process, &process, error);

		if (r < 0)
			return r;
		tells = process->has_terminal;
	}
	return tells;
}

int restore_ptys_check(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	int tells = tells_who_is_controlled(images, error);
	const char *maker;
	size_t cursor = 0;
	pid_t session;

	while (tells >= 0 && (record = image_set_next(images, IMAGE_TTY_INFO, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TerminalInfo *info = NULL;
		char path[32];
		int r = image_unpack(record, terminal_info, &info, error);

		if (r < 0)
			return r;
		if (!restore_pty_is_master(info))
			continue;
		session = (pid_t)info->sid;
		maker = info->path ? info->path : RESTORE_PTY_MASTER;
		snprintf(path, sizeof(path), "/dev/pts/%u", info->pty->index);
		if (session && !tells)
			image_blockers_add(blockers, session, "terminal", "the images do not tell which processes it controls",
					   "dump the tree with migrate", "%s", path);
		if (access(maker, R_OK | W_OK) < 0)
			image_blockers_add(blockers, session, "terminal",
					   "pseudo-terminals cannot be made on the restoring host",
					   "mount a devpts there", "%s", maker);
		else if (access(path, F_OK) == 0)
			image_blockers_add(blockers, session, "terminal", "its number is in use on the restoring host",
					   "end the program that uses it there, or restore in a mount namespace with a devpts "
					   "of its own", "%s", path);
	}
	return tells < 0 ? tells : 0;
}
