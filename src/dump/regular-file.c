/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files known by their path: regular files, directories, a few devices, and anything opened with
 * O_PATH; and what is mapped or linked (exe, cwd, root).
 *
 * Model. /proc gives the path under which a file was opened. It is good when it still leads to the
 * same inode; then the target opens that path, and an IMAGE_FILE_CHECK record lets it compare. A
 * file without any name left (st_nlink 0) has its content moved: ghost.c. A file that lost this
 * name but has others is searched for: other-name.c. Whatever lies between, a name elsewhere
 * or a path that is hidden under a mount, is a blocker, since neither the path nor a copy would be
 * right.
 *
 * Failure modes: blockers; errors of stat(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"
#include "image/journal.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define MQUEUE_MAGIC 0x19800202 /* the kernel's ipc/mqueue.c */

static const char deleted_suffix[] = " (deleted)";

/* null, zero, full, random, urandom: the same on every host, without state. */
static bool device_is_stateless(dev_t device)
{
	return major(device) == 1 && (minor(device) == 3 || minor(device) == 5 ||
				      (minor(device) >= 7 && minor(device) <= 9));
}

static bool starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

static void block(struct dump_context *ctx, const struct dump_regular *file, const char *cause,
		  const char *remedy)
{
	dump_blocker_add(ctx, file->process->pid, file->kind, cause, remedy, "%s -> %s", file->what,
			 file->link);
}

static void refuse(struct dump_context *ctx, const struct dump_regular *file, enum image_kind kind)
{
	struct image_kind_facts facts = image_kind_get(kind);

	block(ctx, file, facts.cause, facts.remedy);
}

/* Files of file systems whose files are not what read(2) gives. */
static bool blocked_by_file_system(struct dump_context *ctx, const struct dump_regular *file)
{
	struct statfs fs;

	if (!S_ISREG(file->st->st_mode) || fstatfs(file->fd, &fs) < 0)
		return false;
	if (fs.f_type == MQUEUE_MAGIC)
		block(ctx, file, "POSIX message queues cannot be moved", "let the program close it first");
	else if (fs.f_type == SECRETMEM_MAGIC)
		refuse(ctx, file, IMAGE_KIND_MEMORY_SECRET);
	else if (fs.f_type == HUGETLBFS_MAGIC)
		refuse(ctx, file, IMAGE_KIND_MEMORY_HUGETLB);
	else
		return false;
	return true;
}

/* Of a mount that open_tree(2) or fsmount(2) has made, or that was taken away (umount -l). */
static bool is_of_lost_mount(const struct dump_regular *file)
{
	char path[DUMP_LINK_MAX];
	struct statx info;

	return S_ISDIR(file->st->st_mode) && statx(file->fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &info) == 0 &&
	       info.stx_mask & STATX_MNT_ID && dump_mount_path((unsigned int)info.stx_mnt_id, 0, path) == -ENOENT;
}

/* Is it a device or a file of /proc that means something else on the target? Adds the blocker. */
static bool blocked_by_type(struct dump_context *ctx, const struct dump_regular *file,
			    uint32_t flags)
{
	char *end;
	long pid;

	if (S_ISCHR(file->st->st_mode) && !(flags & O_PATH) &&
	    !device_is_stateless(file->st->st_rdev)) {
		refuse(ctx, file, IMAGE_KIND_DEVICE);
		return true;
	}
	if (S_ISBLK(file->st->st_mode) && !(flags & O_PATH)) {
		refuse(ctx, file, IMAGE_KIND_DEVICE);
		return true;
	}
	if (flags & O_PATH && is_of_lost_mount(file)) {
		refuse(ctx, file, IMAGE_KIND_MOUNT);
		return true;
	}
	if (starts_with(file->link, "/proc/")) {
		pid = strtol(file->link + 6, &end, 10);
		if (end != file->link + 6 && (*end == '/' || *end == '\0') &&
		    !dump_context_find(ctx, (pid_t)pid)) {
			refuse(ctx, file, IMAGE_KIND_PROC_OUTSIDE);
			return true;
		}
	}
	return false;
}

/* Finds the build-id, from the cache or from the file. */
static int find_build_id(struct dump_files *files, const struct dump_regular *file,
			 struct dump_inode *check, const struct dump_build_id **ret)
{
	struct dump_build_id id = { .size = (uint64_t)file->st->st_size,
				    .mtime = file->st->st_mtim };
	struct dump_build_id *known = check->id ? &files->build_ids.items[check->id - 1] : NULL;
	_cleanup_fd_ int fd = -1;
	char path[64];

	if (known && known->size == id.size && known->mtime.tv_sec == id.mtime.tv_sec &&
	    known->mtime.tv_nsec == id.mtime.tv_nsec) {
		*ret = known;
		return 0;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	id.length = fd >= 0 ? image_build_id_read(fd, id.bytes) : 0;
	if (id.length < 0)
		id.length = 0;
	if (!known) {
		if (array_append(&files->build_ids, id) < 0)
			return -ENOMEM;
		check->id = (uint32_t)files->build_ids.count;
		known = &files->build_ids.items[check->id - 1];
	}
	*known = id;
	*ret = known;
	return 0;
}

static bool size_is_volatile(const char *path)
{
	return starts_with(path, "/proc/") || starts_with(path, "/sys/");
}

/* A file system in memory does not note the time of a write through a mapping. */
static bool changes_without_trace(const struct dump_regular *file)
{
	struct statfs info;

	return file->mapped_writable && fstatfs(file->fd, &info) == 0 && info.f_type == TMPFS_MAGIC;
}

/* IMAGE_FILE_CHECK, once a file and image set. */
static int add_check(struct dump_context *ctx, const struct dump_regular *file,
		     RegularFile *message, uint32_t *words, struct error *error)
{
	FileCheck check = FILE_CHECK__INIT;
	FileIdentity identity = FILE_IDENTITY__INIT;
	char boot_id[JOURNAL_BOOT_ID_MAX];
	const struct dump_build_id *id = NULL;
	struct dump_inode *inode;

	inode = dump_inodes_find(&ctx->files->checked, file->st->st_dev, file->st->st_ino,
				 (uint32_t)file->may_change | (uint32_t)file->path_only << 1 |
					 (uint32_t)file->mapped_writable << 2);
	if (!inode)
		return error_set(error, -ENOMEM, "no memory for file checks");
	if (file->program && S_ISREG(file->st->st_mode) &&
	    find_build_id(ctx->files, file, inode, &id) < 0)
		return error_set(error, -ENOMEM, "no memory for file checks");
	if (id && id->length > 0) {
		memset(words, 0, IMAGE_BUILD_ID_MAX);
		memcpy(words, id->bytes, (size_t)id->length);
		message->build_id = words;
		message->n_build_id = ((size_t)id->length + 3) / 4;
	}
	if (inode->added)
		return 0;
	inode->added = true;
	check.path = message->name;
	check.mode = file->st->st_mode;
	check.size = (uint64_t)file->st->st_size;
	check.mtime = (uint64_t)file->st->st_mtim.tv_sec * 1000000000 +
		      (uint64_t)file->st->st_mtim.tv_nsec;
	check.may_change = file->may_change;
	check.volatile_size = file->path_only || size_is_volatile(file->link);
	check.pid = (uint32_t)file->process->pid;
	if (S_ISCHR(file->st->st_mode) || S_ISBLK(file->st->st_mode)) {
		check.has_rdev = 1;
		check.rdev = file->st->st_rdev;
	}
	if (changes_without_trace(file)) {
		int r = journal_boot_id(boot_id, error);

		if (r < 0)
			return r;
		identity.boot_id = boot_id;
		identity.dev = file->st->st_dev;
		identity.ino = file->st->st_ino;
		check.inode = &identity;
	}
	if (id && id->length > 0) {
		check.has_build_id = 1;
		check.build_id.data = (uint8_t *)id->bytes;
		check.build_id.len = (size_t)id->length;
	}
	return image_set_add(ctx->images, IMAGE_FILE_CHECK, 0, &check.base, error);
}

/* Puts the path without " (deleted)" into `name`. */
static void strip_deleted(const char *link, char name[DUMP_LINK_MAX])
{
	size_t length = strlen(link), suffix = sizeof(deleted_suffix) - 1;

	if (length > suffix && strcmp(link + length - suffix, deleted_suffix) == 0)
		length -= suffix;
	memcpy(name, link, length);
	name[length] = '\0';
}

/* The file is not found under its path: a ghost, or a blocker. */
static int add_unnamed(struct dump_context *ctx, const struct dump_regular *file,
		       const RegularFile *message, bool *ret_added, struct error *error)
{
	if (file->st->st_nlink > 0 && !S_ISDIR(file->st->st_mode)) {
		refuse(ctx, file, IMAGE_KIND_NAME_ELSEWHERE);
		return 0;
	}
	if (!S_ISREG(file->st->st_mode)) {
		refuse(ctx, file, IMAGE_KIND_NAME_LOST);
		return 0;
	}
	return dump_ghost_add(ctx, file, NULL, message->id, ret_added, error);
}

int dump_regular_add(struct dump_context *ctx, const struct dump_regular *file,
		     RegularFile *message, bool *ret_added, struct error *error)
{
	uint32_t words[IMAGE_BUILD_ID_MAX / 4];
	OpenFile open = OPEN_FILE__INIT;
	char name[DUMP_LINK_MAX];
	bool named, added = true;
	struct stat there;
	int r;

	*ret_added = false;
	if (file->link[0] != '/') {
		refuse(ctx, file, IMAGE_KIND_NAME_LOST);
		return 0;
	}
	if (blocked_by_type(ctx, file, message->flags) || blocked_by_file_system(ctx, file))
		return 0;
	named = lstat(file->link, &there) == 0 && there.st_dev == file->st->st_dev &&
		there.st_ino == file->st->st_ino;
	if (named)
		snprintf(name, sizeof(name), "%s", file->link);
	else
		strip_deleted(file->link, name);
	if (!named && file->st->st_nlink > 0 && !S_ISDIR(file->st->st_mode))
		named = dump_other_name(ctx->files, file->st, file->process->tracee, name);
	message->name = name;
	message->has_mode = 1;
	message->mode = file->st->st_mode;
	if (S_ISREG(file->st->st_mode) && named && !size_is_volatile(name)) {
		message->has_size = 1;
		message->size = (uint64_t)file->st->st_size;
	}
	if (named && dump_memory_file_is(file)) {
		added = false;
		r = dump_ghost_add(ctx, file, name, message->id, &added, error);
	} else if (named) {
		r = add_check(ctx, file, message, words, error);
	} else {
		added = false;
		r = add_unnamed(ctx, file, message, &added, error);
	}
	if (r < 0 || !added)
		return r;
	open.type = FILE_TYPE__FILE_REGULAR;
	open.id = message->id;
	open.reg = message;
	r = dump_file_add(ctx, &open, error);
	*ret_added = r == 0;
	return r;
}

/* ---- descriptors */

static bool match(const struct dump_file *file)
{
	if (file->link[0] != '/')
		return false;
	return (file->flags & O_PATH) || S_ISREG(file->st.st_mode) || S_ISDIR(file->st.st_mode) ||
	       S_ISCHR(file->st.st_mode) || S_ISBLK(file->st.st_mode);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	RegularFile message = REGULAR_FILE__INIT;
	FileOwner owner = file->owner;
	struct dump_regular regular = {
		.process = file->process,
		.fd = file->fd,
		.st = &file->st,
		.link = file->link,
		.kind = "descriptor",
		.may_change = S_ISREG(file->st.st_mode) && !(file->flags & O_PATH) &&
			      (file->flags & O_ACCMODE) != O_RDONLY,
		.path_only = file->flags & O_PATH,
	};
	char what[32];
	bool added;

	snprintf(what, sizeof(what), "fd %d", file->number);
	regular.what = what;
	message.id = file->id;
	message.flags = file->flags;
	message.pos = file->pos;
	message.fown = &owner;
	return dump_regular_add(ctx, &regular, &message, &added, error);
}

const struct dump_file_kind dump_kind_regular = {
	.name = "file",
	.type = FILE_TYPE__FILE_REGULAR,
	.match = match,
	.dump = dump,
};

/* ---- mappings and links */

enum {
	VARIANT_WRITABLE = 1 << 0, /* open for reading and writing */
	VARIANT_DELETED = 1 << 1,  /* /proc says so */
	VARIANT_LINK = 1 << 2,	   /* exe, cwd or root */
	VARIANT_AHEAD = 1 << 3,	   /* a deleted file, or one in memory, that is open, in the rounds */
	VARIANT_SHARED = 1 << 4,   /* mapped shared */
};

/* Adds the record of a file that is no descriptor, once an image set; the id stays. */
static int add_inode(struct dump_context *ctx, struct dump_regular *file, dev_t dev, ino_t ino,
		     uint32_t variant, uint32_t flags, uint32_t *ret_file_id, struct error *error)
{
	RegularFile message = REGULAR_FILE__INIT;
	FileOwner owner = FILE_OWNER__INIT;
	struct dump_inode *inode;
	bool added;
	int r;

	inode = dump_inodes_find(&ctx->files->mapped, dev, ino, variant);
	if (!inode)
		return error_set(error, -ENOMEM, "no memory for mapped files");
	if (inode->id == 0)
		inode->id = ctx->files->next_id++;
	message.id = inode->id;
	message.flags = flags;
	message.fown = &owner;
	r = dump_regular_add(ctx, file, &message, &added, error);
	if (r < 0)
		return r;
	inode = dump_inodes_find(&ctx->files->mapped, dev, ino, variant);
	inode->added = added;
	*ret_file_id = added ? inode->id : 0;
	return 0;
}

bool dump_link_is_deleted(const char *name)
{
	size_t length = strlen(name), suffix = sizeof(deleted_suffix) - 1;

	return name[0] == '/' && length > suffix && strcmp(name + length - suffix, deleted_suffix) == 0;
}

int dump_file_map(struct dump_context *ctx, struct dump_process *process,
		  const struct procfs_map *map, uint32_t *ret_file_id, struct error *error)
{
	struct dump_regular file = { .process = process, .kind = "mapping", .program = true };
	uint32_t variant = dump_link_is_deleted(map->name) ? VARIANT_DELETED : 0;
	dev_t dev = makedev(map->major, map->minor);
	char path[64], link[DUMP_LINK_MAX], what[64];
	const struct dump_inode *known;
	_cleanup_fd_ int fd = -1;
	struct stat st;
	int r;

	if (!dump_files_get(ctx))
		return error_set(error, -ENOMEM, "no memory for mapped files");
	snprintf(path, sizeof(path), "map_files/%lx-%lx", (unsigned long)map->start,
		 (unsigned long)map->end);
	if (map->shared) {
		/*
		 * The mode of the link is the one that the file was opened with, which limits a
		 * later mprotect(2).
		 */
		if (fstatat(process->proc_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return error_set_errno(error, -errno, "PID %d: %s", process->pid, path);
		variant |= st.st_mode & S_IWUSR ? VARIANT_WRITABLE : 0;
	}
	variant |= map->shared ? VARIANT_SHARED : 0;
	known = dump_inodes_find(&ctx->files->mapped, dev, map->inode, variant);
	if (known && known->added) {
		*ret_file_id = known->id;
		return 0;
	}
	fd = openat(process->proc_fd, path, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(error, -errno, "PID %d: %s (%s)", process->pid, path,
				       map->name);
	r = fdio_readlink(process->proc_fd, path, link, sizeof(link));
	if (r < 0)
		return error_set_errno(error, r, "PID %d: %s", process->pid, path);
	snprintf(what, sizeof(what), "%lx-%lx", (unsigned long)map->start, (unsigned long)map->end);
	file.fd = fd;
	file.st = &st;
	file.link = link;
	file.what = what;
	file.may_change = file.mapped_writable = variant & VARIANT_WRITABLE;
	file.private_map = !map->shared;
	return add_inode(ctx, &file, dev, map->inode, variant,
			 variant & VARIANT_WRITABLE ? O_RDWR : O_RDONLY, ret_file_id, error);
}

int dump_file_link(struct dump_context *ctx, struct dump_process *process, const char *name,
		   uint32_t *ret_file_id, struct error *error)
{
	struct dump_regular file = {
		.process = process, .kind = "link", .what = name, .program = true, .private_map = true
	};
	char link[DUMP_LINK_MAX];
	const struct dump_inode *known;
	_cleanup_fd_ int fd = -1;
	struct stat st;
	int r;

	if (!dump_files_get(ctx))
		return error_set(error, -ENOMEM, "no memory for files");
	fd = openat(process->proc_fd, name, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(error, -errno, "PID %d: %s", process->pid, name);
	known = dump_inodes_find(&ctx->files->mapped, st.st_dev, st.st_ino, VARIANT_LINK);
	if (known && known->added) {
		*ret_file_id = known->id;
		return 0;
	}
	r = fdio_readlink(process->proc_fd, name, link, sizeof(link));
	if (r < 0)
		return error_set_errno(error, r, "PID %d: %s", process->pid, name);
	file.fd = fd;
	file.st = &st;
	file.link = link;
	return add_inode(ctx, &file, st.st_dev, st.st_ino, VARIANT_LINK,
			 S_ISDIR(st.st_mode) ? O_DIRECTORY : O_RDONLY, ret_file_id, error);
}

int dump_deleted_ahead(struct dump_context *ctx, struct dump_process *process, int fd, const char *link,
		       const struct stat *st, struct error *error)
{
	struct dump_regular file = {
		.process = process, .kind = "descriptor", .what = "a file", .fd = fd, .st = st, .link = link
	};
	const struct dump_inode *known;
	uint32_t id;

	if (!dump_files_get(ctx))
		return error_set(error, -ENOMEM, "no memory for files");
	known = dump_inodes_find(&ctx->files->mapped, st->st_dev, st->st_ino, VARIANT_AHEAD);
	if (known && known->added)
		return 0;
	return add_inode(ctx, &file, st->st_dev, st->st_ino, VARIANT_AHEAD, O_RDONLY, &id, error);
}
