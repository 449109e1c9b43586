/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a checkpoint directory.
 *
 *   seal       state file   what it is
 *   whole      whole        ours, and as it was written: the state file counts
 *   empty      whole        ours, and edited on purpose: each image counts that is not what we would write
 *   absent     any          ours, and not complete: refused
 *   absent     absent       CRIU's: the images count
 *
 * The directories that it builds upon are opened with it. Everything is checked but the content of pages files.
 *
 * Failure modes: a directory that is none, is incomplete, was changed, is of another architecture or version; a chain that
 * has a hole, is a circle, or has another directory in it than when it was written.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.pb-c.h"
#include "directory-private.h"
#include "inventory.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define INVENTORY_NAME    "inventory.img"
#define INVENTORY_VERSION 2 /* "1.1" */

static int open_at_depth(const char *path, unsigned depth, struct image_directory **ret, struct error *error);

/* Whether a file is there, and of what size. */
static bool find_file(const struct image_directory *dir, const char *name, uint64_t *ret_size)
{
	struct stat info;

	if (fstatat(dir->fd, name, &info, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	*ret_size = (uint64_t)info.st_size;
	return true;
}

/* The images of a directory without a seal, with their sizes. */
static int list_images(struct image_directory *dir, struct error *error)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *list = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!list) {
		int r = -errno;

		cleanup_fd(&fd);
		return error_set_errno(error, r, "%s: cannot list it", dir->path);
	}
	while ((entry = readdir(list))) {
		struct image_file file = { .pages = image_file_is_pages(entry->d_name) };

		if (!image_file_is_image(entry->d_name) || strlen(entry->d_name) >= sizeof(file.name) ||
		    !find_file(dir, entry->d_name, &file.size))
			continue;
		strcpy(file.name, entry->d_name);
		if (dir->files.count >= IMAGE_FILES_MAX || array_append(&dir->files, file) < 0)
			return error_set(error, -ENOMEM, "%s: there are too many images", dir->path);
	}
	image_files_sort(dir);
	return 0;
}

/* ---- records */

static int read_state(const struct image_directory *dir, struct image_set *set, struct error *error)
{
	_cleanup_buffer_ struct buffer data = BUFFER_INIT;
	int r = image_file_read(dir, IMAGE_STATE_NAME, &data, error);

	return r < 0 ? r : image_state_unpack(dir, &data, set, error);
}

static int check_inventory(const struct image_directory *dir, struct error *error)
{
	const struct image_record *record = image_set_find(dir->set, IMAGE_INVENTORY, IMAGE_ANY);
	_cleanup_message_ Inventory *message = NULL;
	int r;

	if (!record)
		return 0;
	r = image_unpack(record, inventory, &message, error);
	if (r < 0)
		return error_wrap(error, r, "%s/%s", dir->path, INVENTORY_NAME);
	if (message->img_version != INVENTORY_VERSION)
		return image_file_error(dir, INVENTORY_NAME, error, -EPROTO,
					"images of version %u are not known here, only %d (1.1) are", message->img_version,
					INVENTORY_VERSION);
	return 0;
}

static int check_machine(const struct image_directory *dir, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(dir->set, IMAGE_CORE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ Core *message = NULL;
		int r = image_unpack(record, core, &message, error);

		if (r < 0)
			return error_wrap(error, r, "%s/core-%u.img", dir->path, record->id);
		/* Who has ended has no registers. */
		if (message->mtype != CORE__MACHINE__X86_64 ||
		    (!message->thread_info && !(message->tc && image_task_has_ended(message->tc->task_state))))
			return error_set(error, -ENOEXEC, "%s/core-%u.img: it is of another architecture (%d) than this "
					 "machine's, x86-64", dir->path, record->id, (int)message->mtype);
	}
	return 0;
}

static int load_edited(struct image_directory *dir, struct error *error)
{
	struct image_set *native = NULL;
	int r = 0;

	if (dir->native) {
		r = image_set_new(&native);
		r = r < 0 ? error_set_errno(error, r, "%s: cannot read it", dir->path) : read_state(dir, native, error);
	}
	if (r == 0)
		r = list_images(dir, error);
	if (r == 0)
		r = image_import(dir, native, dir->set, error);
	image_set_free(native);
	return r;
}

static int load_sealed(struct image_directory *dir, const struct buffer *seal, struct error *error)
{
	int r;

	dir->sealed = true;
	r = image_seal_read(dir, seal, error);
	if (r == 0)
		r = image_seal_check(dir, error);
	return r < 0 ? r : read_state(dir, dir->set, error);
}

static int load(struct image_directory *dir, unsigned depth, struct error *error)
{
	_cleanup_buffer_ struct buffer seal = BUFFER_INIT;
	uint64_t size = 0;
	char round[32];
	bool has_seal = find_file(dir, IMAGE_SEAL_NAME, &size), has_inventory = find_file(dir, INVENTORY_NAME, &size);
	int r;

	snprintf(round, sizeof(round), IMAGE_ROUND_NAME, 1u);
	dir->native = has_seal || find_file(dir, IMAGE_STATE_NAME, &size);
	/* The last thing that is begun is the checkpoint itself: before that there are rounds of it. */
	if (!has_seal && (dir->native || (depth == 0 && !has_inventory && find_file(dir, round, &size))))
		return error_set(error, -ENODATA, "%s: the checkpoint is incomplete: it was not written to its end (there is "
				 "no " IMAGE_SEAL_NAME ")", dir->path);
	/* Of a directory that others build upon only the pages are used. */
	if (!dir->native && depth == 0 && !has_inventory)
		return error_set(error, -ENOENT, "%s: it holds no checkpoint: there is no " INVENTORY_NAME, dir->path);
	if (has_seal) {
		r = image_file_read(dir, IMAGE_SEAL_NAME, &seal, error);
		if (r < 0)
			return r;
	}
	dir->edited = has_seal && seal.size == 0;
	r = seal.size > 0 ? load_sealed(dir, &seal, error) : load_edited(dir, error);
	if (r == 0)
		r = check_inventory(dir, error);
	return r < 0 ? r : check_machine(dir, error);
}

/* ---- the chain */

static int open_parent(struct image_directory *dir, unsigned depth, struct error *error)
{
	char target[4096], joined[8192];
	_cleanup_free_ char *path = NULL;
	int r = fdio_readlink(dir->fd, IMAGE_PARENT_NAME, target, sizeof(target));

	if (r == -ENOENT && image_hash_is_zero(&dir->parent_id))
		return 0;
	if (r < 0)
		return image_file_errno(dir, IMAGE_PARENT_NAME, error, r, "the link to the directory below cannot be read");
	if (target[0] == '/')
		snprintf(joined, sizeof(joined), "%s", target);
	else
		snprintf(joined, sizeof(joined), "%s/%s", dir->path, target);
	path = realpath(joined, NULL);
	if (!path)
		return error_set_errno(error, -errno, "%s builds upon %s, which cannot be found", dir->path, joined);
	r = open_at_depth(path, depth + 1, &dir->parent, error);
	if (r < 0)
		return error_wrap(error, r, "%s builds upon another directory", dir->path);
	if (!image_hash_is_zero(&dir->parent_id) && !dir->parent->edited &&
	    !image_hash_equal(&dir->parent_id, &dir->parent->id))
		return image_file_error(dir, IMAGE_PARENT_NAME, error, -EPROTO,
					"it leads to %s, which is not the directory that this one was built upon", path);
	return 0;
}

static int open_at_depth(const char *path, unsigned depth, struct image_directory **ret, struct error *error)
{
	struct image_directory *dir = calloc(1, sizeof(*dir));
	int r;

	if (!dir || !(dir->path = strdup(path)) || image_set_new(&dir->set) < 0) {
		image_directory_free(dir);
		return error_set_errno(error, -ENOMEM, "cannot open %s", path);
	}
	dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0)
		r = error_set_errno(error, -errno, "%s: cannot open the directory", path);
	else if (depth > IMAGE_CHAIN_MAX)
		r = error_set(error, -ELOOP, "%s: the chain of directories is longer than %d, or a circle", path,
			      IMAGE_CHAIN_MAX);
	else
		r = load(dir, depth, error);
	if (r == 0)
		r = open_parent(dir, depth, error);
	if (r < 0) {
		image_directory_free(dir);
		return r;
	}
	*ret = dir;
	return 0;
}

/* Whether what a dedup took out of `below` is in a directory between it and `top`. One that was edited has lost its id. */
static bool can_read(const struct image_directory *top, const struct image_directory *below)
{
	if (image_hash_is_zero(&below->reader_id))
		return true;
	for (const struct image_directory *at = top; at != below; at = at->parent)
		if (at->edited || image_hash_equal(&at->id, &below->reader_id))
			return true;
	return false;
}

int image_directory_open(const char *path, struct image_directory **ret, struct error *error)
{
	struct image_directory *dir;
	int r = open_at_depth(path, 0, &dir, error);

	if (r < 0)
		return r;
	for (const struct image_directory *at = dir; at; at = at->parent)
		dir->hollow |= !can_read(dir, at);
	*ret = dir;
	return 0;
}

int image_directory_check_hollow(const struct image_directory *dir, struct error *error)
{
	if (!dir->hollow)
		return 0;
	return error_set(error, -EPROTO, "%s: a dedup took pages out of it, or out of what it builds upon: they are only in a "
			 "directory that builds upon it", dir->path);
}

const struct image_set *image_directory_set(const struct image_directory *dir)
{
	return dir->set;
}

struct image_directory *image_directory_parent(const struct image_directory *dir)
{
	return dir->parent;
}

void image_directory_describe(const struct image_directory *dir, struct image_directory_info *ret)
{
	struct image_directory_info info = {
		.path = dir->path,
		.sealed = dir->sealed,
		.native = dir->native,
		.edited = dir->edited,
		.deduplicated = dir->hollow || !image_hash_is_zero(&dir->reader_id),
	};

	for (const struct image_directory *at = dir->parent; at; at = at->parent)
		info.depth++;
	array_for_each(file, &dir->files) {
		info.files += image_file_is_image(file->name);
		info.bytes += file->size;
		info.page_bytes += file->pages ? file->size : 0;
	}
	*ret = info;
}

/* ---- all content */

static int verify_file(const struct image_directory *dir, const struct image_file *file, uint8_t *chunk,
		       struct error *error)
{
	_cleanup_fd_ int fd = -1;
	uint64_t size = 0;
	int r = image_file_open(dir, file->name, &fd, &size, error);

	for (size_t i = 0; r == 0 && i < file->chunk_count; i++) {
		uint64_t offset = i * IMAGE_CHUNK_SIZE;
		uint64_t bytes = file->size - offset < IMAGE_CHUNK_SIZE ? file->size - offset : IMAGE_CHUNK_SIZE;
		struct image_hash hash;

		if (fdio_pread(fd, chunk, bytes, offset) != (ssize_t)bytes)
			return image_file_error(dir, file->name, error, -EIO, "cannot read its bytes from %llu on",
						(unsigned long long)offset);
		image_hash_bytes(chunk, bytes, &hash);
		if (!image_hash_is_zero(&file->chunks[i]) && !image_hash_equal(&hash, &file->chunks[i]))
			return image_file_error(dir, file->name, error, -EBADMSG,
						"the bytes from %llu to %llu have changed since the directory was sealed",
						(unsigned long long)offset, (unsigned long long)offset + bytes);
	}
	return r;
}

int image_directory_verify(struct image_directory *dir, struct error *error)
{
	_cleanup_free_ uint8_t *chunk = malloc(IMAGE_CHUNK_SIZE);
	int r = 0;

	if (!chunk)
		return error_set_errno(error, -ENOMEM, "%s: cannot read its pages", dir->path);
	for (struct image_directory *at = dir; at; at = at->parent)
		array_for_each(file, &at->files)
			if (r == 0 && file->pages && at->sealed)
				r = verify_file(at, file, chunk, error);
	return r;
}
