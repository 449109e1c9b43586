/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files in memory that have a name.
 *
 * Model. Such a file is in its place if that very inode is there (the hosts share the mount, or it is the same host), or, for
 * one that the tree only reads, an equal one; then nothing is made and its content is left alone. Otherwise it is made under
 * its name in a new directory ".pagestream-memory-XXXXXX" beside its place, so that nobody finds it before the commit, and
 * /proc shows the right name after it: rename(2) takes the name of what is open and mapped along.
 *
 * If this program is killed, such a directory is left. Its maker holds a lock on it; whoever makes the next one removes those
 * that nobody holds.
 *
 * Failure modes: the name is taken, or taken at the last moment; the directory is missing.
 */
#include "restore/memory-file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdinfo.pb-c.h"
#include "image/journal.h"
#include "image/kinds.h"
#include "image/mapping.h"
#include "mm.pb-c.h"
#include "regfile.pb-c.h"
#include "restore/file-kind.h"
#include "util/cleanup.h"

#define STAGE_NAME ".pagestream-memory-"

/* ---- what is there */

/* Whether the tree may write to it: `files` are those that the object is the content of. */
static int is_written(const struct image_set *images, uint32_t id, bool *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	*ret = false;
	while ((record = image_set_next(images, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		_cleanup_message_ RemapPath *remap = NULL;
		const struct image_record *other;
		size_t files = 0;
		int r = image_unpack(record, remap_path, &remap, error);

		if (r < 0)
			return r;
		while (remap->remap_id == id && (other = image_set_next(images, IMAGE_FILES, IMAGE_ANY, &files))) {
			_cleanup_message_ OpenFile *file = NULL;

			r = image_unpack(other, open_file, &file, error);
			if (r < 0)
				return r;
			*ret |= file->id == remap->orig_id && file->reg && (file->reg->flags & O_ACCMODE) != O_RDONLY;
		}
	}
	return 0;
}

static bool is_same(const GhostFile *message, const struct stat *there)
{
	char boot_id[JOURNAL_BOOT_ID_MAX];

	return journal_boot_id(boot_id, NULL) == 0 && message->boot_id && strcmp(boot_id, message->boot_id) == 0 &&
	       message->full_dev == there->st_dev && message->ino == there->st_ino;
}

static bool is_equal(const GhostFile *message, const struct stat *there)
{
	return S_ISREG(there->st_mode) && message->size == (uint64_t)there->st_size && message->mtim &&
	       message->mtim->tv_sec == (uint64_t)there->st_mtim.tv_sec &&
	       message->mtim->tv_usec == (uint64_t)there->st_mtim.tv_nsec / 1000;
}

int restore_memory_file_find(const struct image_set *images, uint32_t id, const GhostFile *message, bool checkpoint,
			     struct error *error)
{
	struct stat there;
	bool written;
	int r;

	if (lstat(message->path, &there) < 0)
		return errno == ENOENT ? RESTORE_MEMORY_MAKE : error_set_errno(error, -errno, "%s", message->path);
	r = is_written(images, id, &written, error);
	if (r < 0)
		return r;
	if (is_same(message, &there))
		return checkpoint && written ? RESTORE_MEMORY_WRITE : RESTORE_MEMORY_SAME;
	if (!written && is_equal(message, &there))
		return RESTORE_MEMORY_SAME;
	return error_set(error, -EEXIST, "%s: another file has that name on the restoring host", message->path);
}

/* ---- preflight */

static void check_place(const GhostFile *message, const char *user, struct image_blockers *blockers)
{
	_cleanup_free_ char *directory = strdup(message->path);
	char *slash = directory ? strrchr(directory, '/') : NULL;
	struct stat there;

	if (!slash)
		return;
	slash[slash == directory] = '\0';
	if (stat(directory, &there) < 0 || !S_ISDIR(there.st_mode))
		image_blockers_add(blockers, 0, "file", "its directory is missing on the restoring host",
				   "make the directory there", "%s", message->path);
	else if (user)
		image_blockers_add(blockers, 0, "file", image_kind_get(IMAGE_KIND_MEMORY_NAMED_OUTSIDE).cause,
				   image_kind_get(IMAGE_KIND_MEMORY_NAMED_OUTSIDE).remedy, "%s, in use by %s", message->path,
				   user);
}

static int find_user(const struct image_set *images, uint32_t id, MemoryFileUser **ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && !*ret && (record = image_set_next(images, IMAGE_MEMORY_FILE_USER, IMAGE_ANY, &cursor))) {
		MemoryFileUser *message = NULL;

		r = image_unpack(record, memory_file_user, &message, error);
		if (r == 0 && message->id == id)
			*ret = message;
		else if (r == 0)
			protobuf_c_message_free_unpacked(&message->base, NULL);
	}
	return r;
}

static int check_file(const struct image_set *images, uint32_t id, const GhostFile *message, struct image_blockers *blockers,
		      struct error *error)
{
	_cleanup_message_ MemoryFileUser *user = NULL;
	int r = restore_memory_file_find(images, id, message, false, error);

	if (r == -EEXIST) {
		error_clear(error);
		image_blockers_add(blockers, 0, "file", "another file has that name on the restoring host",
				   "remove the file there, or put the one that the tree has there", "%s", message->path);
		return 0;
	}
	if (r == -ENOTDIR) {
		error_clear(error);
		r = RESTORE_MEMORY_MAKE;
	}
	if (r != RESTORE_MEMORY_MAKE)
		return r < 0 ? r : 0;
	r = find_user(images, id, &user, error);
	if (r == 0)
		check_place(message, user ? user->who : NULL, blockers);
	return r;
}

int restore_memory_files_check(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(images, IMAGE_GHOST_FILE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ GhostFile *message = NULL;

		r = image_unpack(record, ghost_file, &message, error);
		if (r == 0 && message->path)
			r = check_file(images, record->id, message, blockers, error);
	}
	return r;
}

/* Is a file of that object mapped for writing? Its time then tells nothing. */
static int is_mapped(const struct image_set *images, uint32_t id, bool *ret, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	*ret = false;
	while (r == 0 && !*ret && (record = image_set_next(images, IMAGE_MM, IMAGE_ANY, &cursor))) {
		_cleanup_message_ AddressSpace *mm = NULL;

		r = image_unpack(record, address_space, &mm, error);
		for (size_t i = 0; r == 0 && i < mm->n_vmas && !*ret; i++) {
			const struct image_record *remap_record;
			size_t remaps = 0;

			if (!(mm->vmas[i]->status & MAPPING_FILE_SHARED) || (mm->vmas[i]->fdflags & O_ACCMODE) == O_RDONLY)
				continue;
			while (r == 0 && (remap_record = image_set_next(images, IMAGE_REMAP_PATH, IMAGE_ANY, &remaps))) {
				_cleanup_message_ RemapPath *remap = NULL;

				r = image_unpack(remap_record, remap_path, &remap, error);
				*ret |= r == 0 && remap->remap_id == id && remap->orig_id == mm->vmas[i]->shmid;
			}
		}
	}
	return r;
}

static bool has_file(const struct restore_files *files, uint32_t id)
{
	array_for_each(file, &files->memory)
		if (file->id == id)
			return true;
	return false;
}

int restore_memory_files_compare(const struct restore_files *files, const struct image_set *images, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_GHOST_FILE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ GhostFile *message = NULL;
		struct stat there;
		bool mapped;
		int r = image_unpack(record, ghost_file, &message, error);

		if (r == 0 && (!message->path || has_file(files, record->id) || lstat(message->path, &there) < 0 ||
			       !is_same(message, &there) || is_equal(message, &there)))
			continue;
		if (r == 0)
			r = is_mapped(images, record->id, &mapped, error);
		if (r == 0 && !mapped)
			r = error_set(error, -ESTALE, "%s has been modified since the tree was dumped", message->path);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- making */

static void file_deinit(struct restore_memory_file *file)
{
	free(file->final);
	free(file->directory);
	free(file->staged);
	cleanup_fd(&file->lock_fd);
}

static void discard(struct restore_memory_file *file)
{
	if (file->staged)
		unlink(file->staged);
	if (file->directory)
		rmdir(file->directory);
	file_deinit(file);
}

/* One that its maker holds no more: it was killed. */
static void remove_left(int parent_fd, const char *name)
{
	_cleanup_fd_ int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_dir_ DIR *dir = NULL;
	struct dirent *entry;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	dir = fdopendir(dup(fd));
	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' || entry->d_name[1])
			unlinkat(fd, entry->d_name, 0);
	unlinkat(parent_fd, name, AT_REMOVEDIR);
}

static void sweep(const char *parent)
{
	_cleanup_dir_ DIR *dir = opendir(parent);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (strncmp(entry->d_name, STAGE_NAME, strlen(STAGE_NAME)) == 0)
			remove_left(dirfd(dir), entry->d_name);
}

static int stage(struct restore_memory_file *file, const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *parent = strndup(path, slash ? (size_t)(slash - path) + 1 : 0);

	if (!slash || !parent)
		return slash ? -ENOMEM : -EINVAL;
	sweep(parent);
	file->final = strdup(path);
	if (!file->final || asprintf(&file->directory, "%s" STAGE_NAME "XXXXXX", parent) < 0)
		return -ENOMEM;
	if (!mkdtemp(file->directory))
		return -errno;
	file->lock_fd = open(file->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (file->lock_fd < 0 || flock(file->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	return asprintf(&file->staged, "%s%s", file->directory, slash) < 0 ? -ENOMEM : 0;
}

static int open_place(struct restore_memory_file *file, const char *path)
{
	int fd;

	file->final = strdup(path);
	fd = file->final ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
	return fd < 0 ? file->final ? -errno : -ENOMEM : fd;
}

int restore_memory_file_make(struct restore_tree *tree, uint32_t id, const GhostFile *message, bool make, int *ret_fd,
			     struct error *error)
{
	struct restore_memory_file file = { .id = id, .lock_fd = -1, .wanted = true };
	struct restore_files *files = restore_files_get(tree);
	int fd = -1, r;

	r = !files ? -ENOMEM : make ? stage(&file, message->path) : 0;
	if (r == 0) {
		fd = make ? open(file.staged, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)
			  : open_place(&file, message->path);
		r = fd < 0 ? make ? -errno : fd : array_append(&files->memory, file);
	}
	if (r < 0) {
		if (fd >= 0)
			close(fd);
		discard(&file);
		return error_set_errno(error, r, "making %s", message->path);
	}
	*ret_fd = fd;
	return 0;
}

/* ---- from round to round */

void restore_memory_files_begin(struct restore_files *files)
{
	array_for_each(file, &files->memory)
		file->wanted = false;
}

int restore_memory_file_keep(struct restore_files *files, uint32_t id, const GhostFile *message, struct error *error)
{
	array_for_each(file, &files->memory) {
		if (file->id != id)
			continue;
		file->wanted = true;
		/* To a directory elsewhere it could not be moved. */
		if (strcmp(file->final, message->path) != 0)
			return error_set(error, -EAGAIN, "%s was renamed while it moved", message->path);
		if (!message->atim || !message->mtim)
			return error_set(error, -EPROTO, "%s has no times", message->path);
		file->times[0] = (struct timespec){ (time_t)message->atim->tv_sec, (long)message->atim->tv_usec * 1000 };
		file->times[1] = (struct timespec){ (time_t)message->mtim->tv_sec, (long)message->mtim->tv_usec * 1000 };
		return 0;
	}
	return error_set(error, -EAGAIN, "%s got its name while it moved", message->path);
}

void restore_memory_files_prune(struct restore_files *files)
{
	size_t kept = 0;

	array_for_each(file, &files->memory) {
		if (file->wanted)
			files->memory.items[kept++] = *file;
		else
			discard(file); /* the name only; whoever has it open keeps it */
	}
	files->memory.count = kept;
}

int restore_memory_files_commit(struct restore_files *files, struct error *error)
{
	int r = 0;

	array_for_each(file, &files->memory) {
		if (file->staged && renameat2(AT_FDCWD, file->staged, AT_FDCWD, file->final, RENAME_NOREPLACE) < 0)
			r = error_set_errno(error, -errno, "putting %s into its place", file->final);
		if (r < 0)
			return r;
		if (file->directory)
			rmdir(file->directory);
		(void)utimensat(AT_FDCWD, file->final, file->times, AT_SYMLINK_NOFOLLOW);
	}
	array_for_each(file, &files->memory)
		file_deinit(file);
	array_clear(&files->memory);
	return 0;
}

void restore_memory_files_discard(struct restore_files *files)
{
	array_for_each(file, &files->memory)
		discard(file);
	array_deinit(&files->memory);
}
