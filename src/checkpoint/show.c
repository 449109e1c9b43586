/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A directory that opens is shown from its records. One that does not is shown from what can be read of it, and why it does
 * not open is the first of the problems. A lack of memory shows as parts that are missing: jansson takes NULL for what could
 * not be made, and nothing here is written anywhere.
 */
#include "show.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image/decode.h"
#include "inventory.pb-c.h"
#include "show-private.h"
#include "util/cleanup.h"

void show_problem(struct show *show, const char *problem)
{
	json_array_append_new(show->problems, show_text(problem, strlen(problem)));
}

static void add_problem(void *context, const char *problem)
{
	show_problem(context, problem);
}

void *show_unpack(struct show *show, const struct image_record *record, const ProtobufCMessageDescriptor *descriptor)
{
	struct error error = ERROR_INIT;
	ProtobufCMessage *message = NULL;
	int r = record ? image_record_unpack(record, descriptor, &message, &error) : 0;

	if (r < 0)
		show_problem(show, error_text(&error, r));
	return message;
}

/* ---- open files */

static int compare_files(const void *left, const void *right)
{
	const OpenFile *const *one = left, *const *other = right;

	return (*one)->id < (*other)->id ? -1 : (*one)->id > (*other)->id;
}

static void load_files(struct show *show)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		OpenFile *file = show_unpack(show, record, &open_file__descriptor);

		if (file && array_append(&show->files, file) < 0)
			image_cleanup_message(&file);
	}
	if (show->files.count)
		qsort(show->files.items, show->files.count, sizeof(*show->files.items), compare_files);
}

const OpenFile *show_file(const struct show *show, uint64_t id)
{
	size_t low = 0, high = show->files.count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (show->files.items[middle]->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < show->files.count && show->files.items[low]->id == id ? show->files.items[low] : NULL;
}

/* ---- the directory */

static bool exists(const char *path, const char *name, struct stat *info)
{
	_cleanup_free_ char *file = NULL;

	if (asprintf(&file, "%s/%s", path, name) < 0) {
		file = NULL;
		return false;
	}
	return stat(file, info) == 0;
}

static void set_time(json_t *object, int64_t seconds)
{
	time_t when = (time_t)seconds;
	char text[40];
	struct tm utc;

	if (gmtime_r(&when, &utc) && strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc) > 0)
		json_object_set_new(object, "written", json_string(text));
}

/* When and where: as recorded; of CRIU's directories only the time is known, from a file. */
static void add_origin(struct show *show, json_t *object)
{
	_cleanup_message_ Inventory *inventory = show_unpack(show, image_set_find(show->set, IMAGE_INVENTORY, IMAGE_ANY),
							     &inventory__descriptor);
	const HostFacts *host = inventory ? inventory->host : NULL;
	struct stat info;

	if (inventory && inventory->has_written)
		set_time(object, (int64_t)inventory->written);
	else if (exists(show->path, "inventory.img", &info) || stat(show->path, &info) == 0)
		set_time(object, info.st_mtime);
	if (host && host->name)
		json_object_set_new(object, "host", show_text(host->name, strlen(host->name)));
	if (host)
		json_object_set_new(object, "kernel", show_text(host->kernel, strlen(host->kernel)));
}

static const char *writer_name(const struct image_directory_info *info)
{
	return info->native ? "pagestream" : "criu";
}

static json_t *show_sizes(const struct image_directory_info *info)
{
	return json_pack("{s:o, s:s, s:b, s:b, s:b, s:I, s:o, s:o}", "path", show_text(info->path, strlen(info->path)),
			 "writer", writer_name(info), "sealed", info->sealed, "edited", info->edited, "deduplicated",
			 info->deduplicated, "files", (json_int_t)info->files, "bytes", show_number(info->bytes), "page_bytes",
			 show_number(info->page_bytes));
}

/* It, and those that it builds upon. */
static json_t *show_chain(struct image_directory *dir)
{
	json_t *list = json_array();

	for (; dir; dir = image_directory_parent(dir)) {
		struct image_directory_info info;

		image_directory_describe(dir, &info);
		json_array_append_new(list, show_sizes(&info));
	}
	return list;
}

/* The same of a directory that does not open, and not further than it. */
static json_t *show_listing(const struct show *show)
{
	_cleanup_dir_ DIR *list = opendir(show->path);
	uint64_t bytes = 0, page_bytes = 0;
	struct dirent *file;
	size_t count = 0;
	struct stat info;
	bool native = exists(show->path, "pagestream.state", &info);

	while (list && (file = readdir(list))) {
		if (fstatat(dirfd(list), file->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(info.st_mode))
			continue;
		count++;
		bytes += (uint64_t)info.st_size;
		page_bytes += strncmp(file->d_name, "pages-", 6) == 0 ? (uint64_t)info.st_size : 0;
	}
	return json_pack("[{s:o, s:s?, s:b, s:I, s:o, s:o}]", "path", show_text(show->path, strlen(show->path)), "writer",
			 native ? "pagestream" : NULL, "sealed", false, "files", (json_int_t)count, "bytes", show_number(bytes),
			 "page_bytes", show_number(page_bytes));
}

static int load(struct show *show, bool verify, struct error *error)
{
	struct error damage = ERROR_INIT;
	int r = image_directory_open(show->path, &show->dir, &damage);

	if (r == 0) {
		show->set = image_directory_set(show->dir);
		r = verify ? image_directory_verify(show->dir, &damage) : 0;
		if (r < 0)
			show_problem(show, error_text(&damage, r));
		return 0;
	}
	show_problem(show, error_text(&damage, r));
	r = image_decode_directory(show->path, add_problem, show, &show->salvaged, error);
	show->set = show->salvaged;
	return r;
}

int checkpoint_show_directory(const char *path, bool verify, json_t **ret, struct error *error)
{
	struct show show = { .path = path, .problems = json_array() };
	json_t *object = json_pack("{s:o}", "directory", show_text(path, strlen(path)));
	int r = load(&show, verify, error);

	if (r == 0) {
		load_files(&show);
		json_object_set_new(object, "complete", json_boolean(show.dir != NULL));
		json_object_set(object, "problems", show.problems);
		add_origin(&show, object);
		json_object_set_new(object, "chain", show.dir ? show_chain(show.dir) : show_listing(&show));
		json_object_set_new(object, "processes", show_processes(&show));
		json_object_set_new(object, "objects", show_objects(&show));
		*ret = json_incref(object);
	}
	json_decref(object);
	json_decref(show.problems);
	array_for_each(file, &show.files)
		image_cleanup_message(file);
	array_deinit(&show.files);
	image_set_free(show.salvaged);
	image_directory_free(show.dir);
	return r;
}
