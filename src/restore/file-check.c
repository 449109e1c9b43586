/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target's preflight of files and addresses: each IMAGE_FILE_CHECK record is compared with what
 * is here, each address that the tree has is tried. A file of which the tree has a lease must have
 * none here: to open it would break that, which is the source's own if both hosts have the file.
 * All that is wrong is listed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fsnotify.pb-c.h"
#include "image/journal.h"
#include "regfile.pb-c.h"
#include "restore/file-kind.h"
#include "restore/files.h"
#include "util/cleanup.h"

struct checks {
	ARRAY(FileCheck *) list; /* owned */
};

static int read_checks(const struct image_set *images, struct checks *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FILE_CHECK, IMAGE_ANY, &cursor))) {
		FileCheck *check;
		int r = image_unpack(record, file_check, &check, error);

		if (r < 0)
			return r;
		if (array_append(&ret->list, check) < 0) {
			protobuf_c_message_free_unpacked(&check->base, NULL);
			return error_set(error, -ENOMEM, "no memory for file checks");
		}
	}
	return 0;
}

static void checks_deinit(struct checks *checks)
{
	array_for_each (place, &checks->list)
		protobuf_c_message_free_unpacked(&(*place)->base, NULL);
	array_deinit(&checks->list);
}

/* A file that one descriptor writes and another only reads may change for both. */
static bool may_change(const struct checks *checks, const FileCheck *check)
{
	if (check->may_change)
		return true;
	array_for_each (other, &checks->list)
		if ((*other)->may_change && strcmp((*other)->path, check->path) == 0)
			return true;
	return false;
}

static int check_files(const struct image_set *images, struct image_blockers *blockers,
		       struct error *error)
{
	struct checks checks = { 0 };
	char cause[256];
	int r;

	r = read_checks(images, &checks, error);
	array_for_each (place, &checks.list) {
		FileCheck *check = *place;

		if (r < 0)
			break;
		check->may_change = may_change(&checks, check);
		r = restore_regular_compare(check, false, cause, sizeof(cause));
		if (r < 0)
			error_set_errno(error, r, "%s", check->path);
		if (r == 0)
			image_blockers_add(
				blockers, (pid_t)check->pid, "file", cause,
				check->inode ? "let the program use a memfd or delete the file once it is "
					       "open: both are moved with it"
					     : "put the file that it had there, with its time (rsync -t, "
					       "cp -p), or use a file system that both hosts share",
				"%s", check->path);
	}
	checks_deinit(&checks);
	return r < 0 ? r : 0;
}

static int check_addresses(const struct image_set *images, struct image_blockers *blockers,
			   struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ OpenFile *file = NULL;
		char cause[256];
		int r = image_unpack(record, open_file, &file, error);

		if (r < 0)
			return r;
		if (file->type != FILE_TYPE__FILE_INET_SOCKET || !file->isk ||
		    (file->isk->src_port == 0 && file->isk->type == SOCK_STREAM))
			continue;
		r = restore_inet_try(file->isk, cause, sizeof(cause));
		if (r < 0)
			return error_set_errno(error, r, "trying an address");
		if (r == 0)
			image_blockers_add(
				blockers, 0, "address", "it cannot be had on the restoring host",
				"end what uses it there, or restore in another network namespace",
				"%s", cause);
	}
	return 0;
}

/* Is there a lease of any process of this host on the file? */
static bool is_leased(const char *path)
{
	_cleanup_file_ FILE *file = fopen("/proc/locks", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	struct stat st;

	if (!file || stat(path, &st) < 0)
		return false;
	while (getline(&line, &size, file) > 0) {
		unsigned int device_major, device_minor;
		unsigned long inode;

		if (sscanf(line, "%*d: LEASE %*s %*s %*d %x:%x:%lu", &device_major, &device_minor, &inode) == 3 &&
		    makedev(device_major, device_minor) == st.st_dev && inode == st.st_ino)
			return true;
	}
	return false;
}

/* The path of an open file that is not deleted; owned by the caller, NULL without. */
static int path_of(const struct image_set *images, uint32_t id, char **ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		_cleanup_message_ RemapPath *remap = NULL;
		int r = image_unpack(record, remap_path, &remap, error);

		if (r < 0 || remap->orig_id == id)
			return r;
	}
	cursor = 0;
	while ((record = image_set_next(images, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ OpenFile *file = NULL;
		int r = image_unpack(record, open_file, &file, error);

		if (r < 0)
			return r;
		if (file->id != id || !file->reg)
			continue;
		*ret = strdup(file->reg->name);
		return *ret ? 0 : error_set(error, -ENOMEM, "no memory for a path");
	}
	return 0;
}

static const FileLock *find_lease(const Descriptor *descriptor)
{
	for (size_t i = 0; i < descriptor->n_locks; i++)
		if (descriptor->locks[i]->kind == FILE_LOCK__KIND__LEASE)
			return descriptor->locks[i];
	return NULL;
}

/* Is the file the very one that the lease is on? /proc/locks leaves out processes of other PID namespaces. */
static bool is_same(const FileLock *lease, const char *path)
{
	char boot_id[JOURNAL_BOOT_ID_MAX];
	struct stat st;

	return lease->file && journal_boot_id(boot_id, NULL) == 0 && strcmp(boot_id, lease->file->boot_id) == 0 &&
	       stat(path, &st) == 0 && st.st_dev == lease->file->dev && st.st_ino == lease->file->ino;
}

/* `held`: the source's processes are there, and have their leases. */
static int check_leases(const struct image_set *images, bool held, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FDINFO, IMAGE_ANY, &cursor))) {
		_cleanup_message_ Descriptor *descriptor = NULL;
		_cleanup_free_ char *path = NULL;
		const FileLock *lease;
		int r = image_unpack(record, descriptor, &descriptor, error);

		lease = r == 0 ? find_lease(descriptor) : NULL;
		if (lease)
			r = path_of(images, descriptor->id, &path, error);
		if (r < 0)
			return r;
		if (path && (is_leased(path) || (held && is_same(lease, path))))
			image_blockers_add(blockers, 0, "file",
					   "a process here has a lease on it, which opening it would break",
					   "let the program give its lease up before the move", "%s", path);
	}
	return 0;
}

static bool is_mount(const char *path)
{
	struct statx st;

	return statx(AT_FDCWD, path, 0, 0, &st) == 0 && st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* What is marked must be there; mounts, as mounts. */
static void check_marks(const FanotifyFd *group, struct image_blockers *blockers)
{
	for (size_t i = 0; i < group->n_mark; i++) {
		const FanotifyMark *mark = group->mark[i];
		struct stat st;

		if (!mark->path || lstat(mark->path, &st) < 0)
			image_blockers_add(blockers, 0, "file", "it is watched, and is missing on the restoring host",
					   "create it there", "%s", mark->path ? mark->path : "?");
		else if (mark->type != FANOTIFY_MARK_TYPE__FANOTIFY_INODE && !is_mount(mark->path))
			image_blockers_add(blockers, 0, "file",
					   "all of the file system there is watched, and none is mounted here",
					   "mount it on the restoring host, too", "%s", mark->path);
	}
}

static int check_special(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ OpenFile *file = NULL;
		int r = image_unpack(record, open_file, &file, error);

		if (r < 0)
			return r;
		if (file->ffy)
			check_marks(file->ffy, blockers);
		if (!file->uring)
			continue;
		r = restore_io_uring_try(file->uring, error);
		if (r < 0)
			return r;
		if (r == 0)
			image_blockers_add(blockers, 0, "descriptor", "it cannot be made on the restoring host",
					   "allow it there: sysctl kernel.io_uring_disabled=0", "io_uring of %u entries",
					   file->uring->sq_entries);
	}
	return 0;
}

int restore_files_check(const struct image_set *images, bool live, struct image_blockers *blockers,
			struct error *error)
{
	int r = check_files(images, blockers, error);

	if (r == 0)
		r = check_leases(images, live, blockers, error);
	if (r == 0)
		r = check_special(images, blockers, error);
	if (r == 0)
		r = restore_memory_files_check(images, blockers, error);
	return r < 0 ? r : check_addresses(images, blockers, error);
}
